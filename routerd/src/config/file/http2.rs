//! The table about HTTP/2 as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;
use crate::config::units::{Period, Size};

/// `[http2]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// Requests that one connection may have under way at once. More are refused with `REFUSED_STREAM`, which says
    /// that they may be sent again.
    #[schemars(extend("default" = 100, "minimum" = 1, "maximum" = 10_000))]
    pub max_streams: Key<u32>,
    /// Requests that a client may open and break off within 10 seconds on one connection. More end the connection with
    /// `ENHANCE_YOUR_CALM`.
    #[schemars(extend("default" = 200, "minimum" = 1, "maximum" = 1_000_000))]
    pub max_reset_streams: Key<u32>,
    /// How much of a request's body a client may send before the router has taken any of it.
    #[schemars(extend("default" = "256KiB", "x-floor" = "16KiB", "x-ceiling" = "16MiB"))]
    pub stream_window: Key<Size>,
    /// The same for all requests of a connection together, while they are few. With more at once than fit, each may
    /// send its `stream_window`, unless `memory_max` is reached: uploads that wait in line never hold up the one that
    /// has its dyno. So the most of bodies that a connection has in memory is `max_streams` times `stream_window`, and
    /// what `request_buffer` allows each of its requests.
    #[schemars(extend("default" = "1MiB", "x-floor" = "64KiB", "x-ceiling" = "256MiB"))]
    pub connection_window: Key<Size>,
    /// How often a client is asked whether it is still there, by a PING. `"0s"`: never.
    #[schemars(extend("default" = "30s", "x-floor" = "0s", "x-ceiling" = "1h"))]
    pub ping_interval: Key<Period>,
    /// The longest a client may take to answer a PING. Then its connection is closed.
    #[schemars(extend("default" = "20s", "x-floor" = "10ms", "x-ceiling" = "1h"))]
    pub ping_timeout: Key<Period>,
    /// The longest an answer waits for a client that takes nothing of it, because it gives no window or does not read.
    /// Then that one stream is reset.
    #[schemars(extend("default" = "60s", "x-floor" = "10ms", "x-ceiling" = "24h"))]
    pub send_timeout: Key<Period>,
}
