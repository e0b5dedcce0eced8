//! HTTP/2 in front: the checked table `[http2]`.

use std::time::Duration;

/// How clients are served that speak HTTP/2. The keys are described in [`file::Http2`](super::file::Http2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Http2 {
    pub max_streams: u32,
    pub max_reset_streams: u32,
    /// In bytes.
    pub stream_window: u32,
    /// In bytes.
    pub connection_window: u32,
    /// Zero: none is sent.
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub send_timeout: Duration,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_streams: 100,
            max_reset_streams: 200,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(60),
        }
    }
}
