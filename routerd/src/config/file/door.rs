//! The words of the door as written: the PROXY protocol and rates.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// None does; such a header is a bad request.
    #[default]
    Off,
    /// One from a trusted proxy may. From anybody else, one with such a header is closed.
    Optional,
    /// Each one must, and comes from a trusted proxy. Every other is closed.
    Required,
}

/// The header of the PROXY protocol that a dyno gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyWord {
    /// None.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

/// `rate_limit = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// What requests are counted by: `"ip"` (of IPv6 the network of 64 bits), `"header:NAME"` (a request without that
    /// header counts by its address) or `"app"` (all together).
    #[schemars(extend("default" = "ip"))]
    pub per: Key<String>,
    /// How many requests in a second, minute or hour: `"100/s"`, `"6000/m"`, `"1000/h"`, at most 1,000,000; `"none"` is
    /// no limit. Above it a request is answered with 429 (M10) before its body is read. Of one app 65,536 addresses or
    /// headers are told apart at once; while there are more, those that come anew share one count. A reload that
    /// leaves the limit as it is keeps what has been counted.
    #[schemars(extend("default" = "none", "x-unit" = "rate"))]
    pub rate: Key<String>,
    /// How many requests may come at once after a silence; 0: the number in `rate`.
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 1_000_000))]
    pub burst: Key<u32>,
}
