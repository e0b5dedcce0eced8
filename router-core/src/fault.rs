//! Every way a request can fail: code, status, blame, and whether it may be tried again. Plain data, ring 0.
//!
//! The codes are those of the Heroku router where it has one for the case; `M` codes are ours. The table stands
//! in `routerd/docs/faults.md`, which a test holds against this file.

use std::fmt;

/// Why a request was not served well.
///
/// ```
/// use router_core::fault::{Backlog, Blame, Fault};
///
/// let fault = Fault::Backlog(Backlog::ExpectedWait);
/// assert_eq!((fault.code(), fault.status(), fault.blame()), ("H11", 503, Blame::App));
/// assert_eq!(fault.to_string(), "Backlog too deep (expected wait)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// Every dyno of the app is down because its process died.
    AppCrashed,
    /// The line is too long, now or by what is expected.
    Backlog(Backlog),
    /// The dyno did not begin to answer in time. It counts as busy until it does.
    RequestTimeout,
    /// The dyno closed the connection without a byte of an answer.
    ClosedWithoutResponse,
    /// The app has no dynos.
    NoDynos,
    /// The dyno fell silent in the middle of its answer.
    IdleConnection,
    /// What the dyno answered is not HTTP.
    PoorlyFormatted,
    /// The dyno closed the connection in the middle of its answer.
    ServerInterrupted,
    /// No dyno accepted the connection in time.
    ConnectTimeout,
    /// Every dyno of the app was still booting when the wait ran out.
    BootTimeout,
    /// No dyno accepted the connection.
    ConnectRefused,
    /// The router has as many client connections as it may have.
    ConnectionLimit,
    /// The router was shut down before the request had ended.
    ForcedClose,
    /// The answer breaks a limit of the router.
    Restriction(Restriction),
    /// The request breaks HTTP or a limit of the router.
    BadRequest(BadRequest),
    /// The client went away before its answer was there, or before the head of its request was.
    ClientInterrupted,
    /// The client fell silent in the middle of its request or its answer.
    ClientIdle,
    /// Every dyno of the app is in quarantine because it did not accept connections, or out because it is not well.
    Quarantined,
    /// The app is in maintenance.
    Maintenance,
    /// The router's own fault.
    Platform,
    /// No app has this host and path.
    NoSuchApp,
    /// The connection is not for this host: its certificate is another host's.
    Misdirected,
    /// More requests than the app's rate limit allows.
    RateLimit,
    /// The app does not serve the client's address.
    Forbidden,
    /// The client has not shown who it is, or somebody whom the app does not know.
    Unauthorized,
    /// The client's address has as many connections as it may have.
    AddressLimit,
    /// The router holds as many bytes of requests and answers as it may.
    Memory,
}

/// Which bound of the line was hit (H11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backlog {
    /// As many requests wait as may wait.
    Requests,
    /// As many bytes of request bodies wait as may wait.
    Bytes,
    /// At the present pace the request would wait longer than it may; decided on arrival.
    ExpectedWait,
    /// The request has waited as long as it may.
    MaxWait,
    /// The line has been standing and the request has waited as long as it may in such a line.
    StandingLine,
}

/// Which limit an answer breaks (H25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Restriction {
    /// Content-Length is no number, or there are two that differ.
    ContentLength,
    /// A Set-Cookie line is longer than 8192 bytes.
    Cookie,
    /// The head of the answer is longer than 512 KiB, or has more than 100 headers.
    Header,
}

/// What is wrong with a request (H26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BadRequest {
    /// The head is not HTTP, or Host is missing, double or malformed.
    Header,
    /// The body is not well-formed chunks.
    Chunk,
    /// `Expect` asks for something other than `100-continue`.
    Expect,
    /// The request line is too long.
    RequestLine,
    /// A header is too long, or there are too many.
    HeaderTooLarge,
    /// The head did not come in time.
    HeadTimeout,
    /// The method or protocol is not served here, for example CONNECT.
    Method,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    Version,
    /// Where the body ends can be read in two ways: Content-Length is malformed, double or beside Transfer-Encoding,
    /// or the coding is none that ends by itself.
    Framing,
    /// The body is longer than the app takes.
    BodyTooLarge,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Blame {
    /// Who sent the request.
    Client,
    /// The app or its dynos.
    App,
    /// The router.
    Router,
}

/// Whether the same request may be sent again by whoever got this fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Retry {
    /// The same request would fail again.
    No,
    /// No dyno has seen the request: it may be sent again after the time in `Retry-After`.
    Later,
    /// A dyno may have acted on it: only a request that is safe to repeat may be sent again.
    IfIdempotent,
}

/// The `at=` of the log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    Info,
    /// The client's doing.
    Warning,
    /// Somebody should look.
    Error,
}

impl Level {
    /// The level as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Fault {
    /// Every fault, causes included, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::AppCrashed,
        Self::Backlog(Backlog::Requests),
        Self::Backlog(Backlog::Bytes),
        Self::Backlog(Backlog::ExpectedWait),
        Self::Backlog(Backlog::MaxWait),
        Self::Backlog(Backlog::StandingLine),
        Self::RequestTimeout,
        Self::ClosedWithoutResponse,
        Self::NoDynos,
        Self::IdleConnection,
        Self::PoorlyFormatted,
        Self::ServerInterrupted,
        Self::ConnectTimeout,
        Self::BootTimeout,
        Self::ConnectRefused,
        Self::ConnectionLimit,
        Self::ForcedClose,
        Self::Restriction(Restriction::ContentLength),
        Self::Restriction(Restriction::Cookie),
        Self::Restriction(Restriction::Header),
        Self::BadRequest(BadRequest::Header),
        Self::BadRequest(BadRequest::Chunk),
        Self::BadRequest(BadRequest::Expect),
        Self::BadRequest(BadRequest::RequestLine),
        Self::BadRequest(BadRequest::HeaderTooLarge),
        Self::BadRequest(BadRequest::HeadTimeout),
        Self::BadRequest(BadRequest::Method),
        Self::BadRequest(BadRequest::Version),
        Self::BadRequest(BadRequest::Framing),
        Self::BadRequest(BadRequest::BodyTooLarge),
        Self::ClientInterrupted,
        Self::ClientIdle,
        Self::Quarantined,
        Self::Maintenance,
        Self::Platform,
        Self::NoSuchApp,
        Self::Misdirected,
        Self::RateLimit,
        Self::Forbidden,
        Self::AddressLimit,
        Self::Memory,
        Self::Unauthorized,
    ];

    /// Why a connection to a dyno could not be opened.
    #[cfg(feature = "proxy")]
    pub(crate) fn of_connect(error: &std::io::Error) -> Self {
        match error.kind() == std::io::ErrorKind::TimedOut {
            true => Self::ConnectTimeout,
            false => Self::ConnectRefused,
        }
    }

    /// The code: stable, short, searchable. Stands in the log, in `X-Router-Fault`, and in metrics.
    pub fn code(self) -> &'static str {
        self.row().0
    }

    /// The code in words, as in the log's `desc=`.
    pub fn desc(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status of the answer. 499 is only ever logged: its client is gone.
    pub fn status(self) -> u16 {
        self.row().2
    }

    /// Whose fault it is.
    pub fn blame(self) -> Blame {
        self.row().3
    }

    /// Whether the client may send the same request again.
    pub fn retry(self) -> Retry {
        self.row().4
    }

    /// The `at=` of the log line: what clients do to themselves is a warning, what an operator wants is no more than
    /// information.
    pub fn level(self) -> Level {
        match self.blame() {
            Blame::Client => Level::Warning,
            Blame::App if self == Self::Maintenance => Level::Info,
            Blame::App | Blame::Router => Level::Error,
        }
    }

    /// What exactly was wrong, where one code covers several cases.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Self::Backlog(cause) => Some(cause.as_str()),
            Self::Restriction(cause) => Some(cause.as_str()),
            Self::BadRequest(cause) => Some(cause.as_str()),
            Self::AppCrashed
            | Self::RequestTimeout
            | Self::ClosedWithoutResponse
            | Self::NoDynos
            | Self::IdleConnection
            | Self::PoorlyFormatted
            | Self::ServerInterrupted
            | Self::ConnectTimeout
            | Self::BootTimeout
            | Self::ConnectRefused
            | Self::ConnectionLimit
            | Self::ForcedClose
            | Self::ClientInterrupted
            | Self::ClientIdle
            | Self::Quarantined
            | Self::Maintenance
            | Self::Platform
            | Self::NoSuchApp
            | Self::Misdirected
            | Self::RateLimit
            | Self::Forbidden
            | Self::AddressLimit
            | Self::Memory
            | Self::Unauthorized => None,
        }
    }

    /// The table: code, words, status, blame, retry.
    fn row(self) -> (&'static str, &'static str, u16, Blame, Retry) {
        use Blame::{App, Client, Router};
        use Retry::{IfIdempotent, Later, No};
        match self {
            Self::AppCrashed => ("H10", "App crashed", 503, App, Later),
            Self::Backlog(_) => ("H11", "Backlog too deep", 503, App, Later),
            Self::RequestTimeout => ("H12", "Request timeout", 503, App, IfIdempotent),
            Self::ClosedWithoutResponse => {
                ("H13", "Connection closed without response", 503, App, IfIdempotent)
            }
            Self::NoDynos => ("H14", "No web processes running", 503, App, Later),
            Self::IdleConnection => ("H15", "Idle connection", 503, App, IfIdempotent),
            Self::PoorlyFormatted => ("H17", "Poorly formatted HTTP response", 503, App, IfIdempotent),
            Self::ServerInterrupted => ("H18", "Server Request Interrupted", 503, App, IfIdempotent),
            Self::ConnectTimeout => ("H19", "Backend connection timeout", 503, App, Later),
            Self::BootTimeout => ("H20", "App boot timeout", 503, App, Later),
            Self::ConnectRefused => ("H21", "Backend connection refused", 503, App, Later),
            Self::ConnectionLimit => ("H22", "Connection limit reached", 503, Router, Later),
            Self::ForcedClose => ("H24", "Forced close", 503, Router, IfIdempotent),
            Self::Restriction(_) => ("H25", "HTTP restriction", 502, App, IfIdempotent),
            Self::BadRequest(cause) => ("H26", "Request Error", cause.status(), Client, No),
            Self::ClientInterrupted => ("H27", "Client Request Interrupted", 499, Client, IfIdempotent),
            Self::ClientIdle => ("H28", "Client Connection Idle", 499, Client, IfIdempotent),
            Self::Quarantined => ("H34", "All up dynos are quarantined", 503, App, Later),
            Self::Maintenance => ("H80", "Maintenance mode", 503, App, Later),
            Self::Platform => ("H99", "Platform error", 503, Router, IfIdempotent),
            Self::NoSuchApp => ("M01", "No such app", 404, Client, No),
            Self::Misdirected => ("M02", "Misdirected request", 421, Client, No),
            Self::RateLimit => ("M10", "Too many requests", 429, Client, Later),
            Self::Forbidden => ("M11", "Address not allowed", 403, Client, No),
            Self::AddressLimit => ("M12", "Too many connections from one address", 429, Client, Later),
            Self::Memory => ("M13", "Out of buffer memory", 503, Router, Later),
            Self::Unauthorized => ("M14", "Unauthorized", 401, Client, No),
        }
    }
}

impl Backlog {
    /// The cause in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::ExpectedWait => "expected wait",
            Self::MaxWait => "max wait",
            Self::StandingLine => "standing line",
        }
    }
}

impl Restriction {
    /// The cause in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ContentLength => "invalid content length",
            Self::Cookie => "oversized cookie",
            Self::Header => "oversized header",
        }
    }
}

impl BadRequest {
    /// The cause in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "bad header",
            Self::Chunk => "bad chunk",
            Self::Expect => "unsupported expect header value",
            Self::RequestLine => "oversized request line",
            Self::HeaderTooLarge => "oversized header",
            Self::HeadTimeout => "header timeout",
            Self::Method => "unsupported method",
            Self::Version => "unsupported version",
            Self::Framing => "ambiguous body length",
            Self::BodyTooLarge => "oversized body",
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::Header | Self::Chunk | Self::Framing => 400,
            Self::HeadTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::RequestLine => 414,
            Self::Expect => 417,
            Self::HeaderTooLarge => 431,
            Self::Method => 501,
            Self::Version => 505,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.desc())?;
        match self.cause() {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_fault_has_its_own_code_and_cause() {
        let seen: BTreeSet<_> = Fault::ALL.iter().map(|fault| (fault.code(), fault.cause())).collect();
        assert_eq!(seen.len(), Fault::ALL.len());
    }

    #[test]
    fn what_no_dyno_has_seen_may_come_again_later() {
        for fault in Fault::ALL {
            if fault.retry() == Retry::Later {
                assert!(
                    matches!(fault.status(), 429 | 503),
                    "{fault} gets Retry-After, which goes with 429 and 503"
                );
            }
        }
    }
}
