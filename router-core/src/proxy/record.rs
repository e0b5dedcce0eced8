//! What is known of one request, as plain data: one [`Record`] a request, handed on once it is over.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Version};

use crate::fault::Fault;
use crate::ids::{AppId, DynoName, ReleaseId};

/// One request, from its arrival to its last byte.
///
/// Fields that come from the request share its buffer, so making a record copies no text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// When the request's head was there, since the Unix epoch.
    pub received: Duration,
    /// The method; `None` when the head could not be read.
    pub method: Option<Method>,
    /// Path and query; `None` when the head could not be read.
    pub path: Option<PathAndQuery>,
    /// The Host header as the client sent it.
    pub host: Option<HeaderValue>,
    /// The `X-Request-Id` that the dyno got.
    pub request_id: Option<HeaderValue>,
    /// The `X-Forwarded-For` that the dyno got.
    pub forwarded_for: Option<HeaderValue>,
    /// HTTP version of the client's side.
    pub protocol: Version,
    /// Whether the client's side was encrypted.
    pub tls: bool,
    /// The app; `None` when no app has the host.
    pub app: Option<AppId>,
    /// The release of the dyno that served.
    pub release: Option<ReleaseId>,
    /// The dyno that served, or was the last to be tried.
    pub dyno: Option<DynoName>,
    /// Time in line, summed over all tries.
    pub queue: Duration,
    /// Time to open the connection to the dyno; zero on a connection that was there.
    pub connect: Duration,
    /// From the lease to the answer's last byte from the dyno.
    pub service: Duration,
    /// From the request's head to its end.
    pub total: Duration,
    /// Dynos the request was offered to.
    pub tries: u32,
    /// The status the client got, or 499 if it was gone; 0 if there was none to give.
    pub status: u16,
    /// Body bytes that went to the client.
    pub bytes: u64,
    /// Why the request was not served well.
    pub fault: Option<Fault>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            received: Duration::ZERO,
            method: None,
            path: None,
            host: None,
            request_id: None,
            forwarded_for: None,
            protocol: Version::HTTP_11,
            tls: false,
            app: None,
            release: None,
            dyno: None,
            queue: Duration::ZERO,
            connect: Duration::ZERO,
            service: Duration::ZERO,
            total: Duration::ZERO,
            tries: 0,
            status: 0,
            bytes: 0,
            fault: None,
        }
    }
}
