//! Every bound and time-out of an app: unit, default, ceiling, and what happens there. Plain data, ring 0.

use std::sync::Arc;
use std::time::Duration;

use crate::encryption::{Encryption, Secured};

/// Bounds and time-outs of one app.
///
/// # Defaults
///
/// | field | default | ceiling | at the limit |
/// |---|---|---|---|
/// | [`queue_max_wait`](Self::queue_max_wait) | 5 s | 1 h | refused or taken out of the line: H11 |
/// | [`queue_max_requests_per_dyno`](Self::queue_max_requests_per_dyno) | 50 | 100,000 | refused: H11 |
/// | [`queue_max_bytes`](Self::queue_max_bytes) | 64 MiB | 64 GiB | refused: H11 |
/// | [`standing_after`](Self::standing_after) | 5 s | 1 h | the wait is bounded by `standing_wait` |
/// | [`standing_wait`](Self::standing_wait) | 2.5 s | 1 h | taken out of the line: H11 |
/// | [`boot`](Self::boot) | 75 s | 1 h | H20 |
/// | [`connect`](Self::connect) | 5 s | 5 min | quarantine, another dyno, at last H19 |
/// | [`first_byte`](Self::first_byte) | 30 s | 24 h | H12, the dyno lingers |
/// | [`idle`](Self::idle) | 55 s | 24 h | H15 (dyno) or H28 (client) |
/// | [`stream_idle`](Self::stream_idle) | 55 s | 24 h | an upgraded connection is closed: H15 (dyno) or H28 (client) |
/// | [`stream_drain`](Self::stream_drain) | 5 min | 24 h | the upgraded connections of a dyno that leaves are closed |
/// | [`streams`](Self::streams) | 0 | 10,000 | further upgraded connections take up the dyno's slots |
/// | [`body`](Self::body) | 5 min | 24 h | H28 |
/// | [`body_rate_min`](Self::body_rate_min) | 240 B/s | 1 GiB/s | H28 |
/// | [`linger`](Self::linger) | 5 min | 24 h | the connection is closed, the dyno is free |
/// | [`keepalive`](Self::keepalive) | 90 s | 24 h | a new connection for the next request; 0: always |
/// | [`max_tries`](Self::max_tries) | 10 | 100 | H21 or H19 |
/// | [`quarantine`](Self::quarantine) | 5 s | 1 h | doubles with each failure in a row |
/// | [`quarantine_max`](Self::quarantine_max) | 75 s | 24 h | no longer than this |
/// | [`eject_after`](Self::eject_after) | 5 | 1,000 | quarantine; 0: never |
/// | [`eject_max`](Self::eject_max) | 50 % | 100 % | the dyno stays, however ill it is |
/// | [`health_rise`](Self::health_rise) | 1 | 100 | the dyno gets requests again |
/// | [`health_fall`](Self::health_fall) | 3 | 100 | the dyno gets no more requests |
/// | [`body_max`](Self::body_max) | 0: any length | 64 GiB | refused: H26 with 413 |
/// | [`request_buffer`](Self::request_buffer) | 64 KiB | 1 GiB | to disk, else streamed while the dyno is held |
/// | [`response_spool`](Self::response_spool) | 1 MiB | 1 GiB | to disk, else the dyno is held until the client reads |
/// | [`request_disk`](Self::request_disk) | 0 | 1 TiB | the rest is streamed while the dyno is held |
/// | [`response_disk`](Self::response_disk) | 0 | 1 TiB | the dyno is held until the client reads |
/// | [`disk_max`](Self::disk_max) | 1 GiB | 64 TiB | as if there were no disk |
///
/// ```
/// use router_core::limits::Limits;
/// use std::time::Duration;
///
/// let limits = Limits::default().with_queue_max_wait(Duration::from_secs(2));
/// assert_eq!(limits.queue_max_requests_per_dyno, 50);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest a request waits in line: the sum of its waits, if it goes from dyno to dyno. The expected wait is
    /// held against it at the door.
    pub queue_max_wait: Duration,
    /// How many requests may wait for each dyno of the app. 0 is legal: refuse what cannot be served at once.
    pub queue_max_requests_per_dyno: u32,
    /// How many bytes of buffered request bodies may wait in line, over the whole app.
    pub queue_max_bytes: u64,
    /// Second guard (CoDel, in the form of Facebook's "Fail at scale"): once the line has not been empty for
    /// this long, a request is no longer let to wait longer than `standing_wait`.
    pub standing_after: Duration,
    /// The longest wait while the line stands (see `standing_after`).
    pub standing_wait: Duration,
    /// The longest a request waits while every dyno of its app is still booting.
    pub boot: Duration,
    /// The longest the connection to a dyno may take to open.
    pub connect: Duration,
    /// From the request's last byte sent to the first byte of the answer.
    pub first_byte: Duration,
    /// The longest silence once the answer has begun or while a body is sent; any byte in either direction
    /// begins it anew.
    pub idle: Duration,
    /// The longest silence on an upgraded connection (WebSocket); any byte in either direction begins it anew.
    pub stream_idle: Duration,
    /// Over how long the upgraded connections of a dyno that leaves are closed, each at a moment of its own.
    pub stream_drain: Duration,
    /// How many upgraded connections a dyno holds beside its requests; what is more takes up its slots. 0: all do.
    pub streams: u32,
    /// The longest the part of a body that is read before a dyno is taken (`request_buffer`, `request_disk`) may take
    /// to come, and what its bytes may take at `body_rate_min`.
    pub body: Duration,
    /// What a client must send of a body in a second, on average after 5 s, while it holds a dyno, in bytes. It also
    /// earns time beyond `body` with it. 0: any pace will do. Calls of gRPC are left alone.
    pub body_rate_min: u64,
    /// How long a dyno counts as busy for a request that nobody waits for any more.
    pub linger: Duration,
    /// How long an idle connection to a dyno may be used again; zero closes it after each request.
    pub keepalive: Duration,
    /// How many dynos one request is offered to at the most.
    pub max_tries: u32,
    /// How long a dyno that did not accept a connection, or failed fast, is left alone, the first time.
    pub quarantine: Duration,
    /// The longest quarantine, after doubling.
    pub quarantine_max: Duration,
    /// Bad answers in a row (5xx, or none) after which a dyno that gives them faster than its app answers well goes
    /// into quarantine. 0: never.
    pub eject_after: u32,
    /// How many of its dynos an app may lose to bad answers and bad probes at once, in percent of those that serve or
    /// would.
    pub eject_max: u32,
    /// Good probes in a row after which a dyno gets requests again; 0 counts as 1.
    pub health_rise: u32,
    /// Bad probes in a row after which a dyno gets no more requests; 0 counts as 1.
    pub health_fall: u32,
    /// The longest body of a request, in bytes. 0: any length.
    pub body_max: u64,
    /// How much of a request body is read before a dyno is taken, in bytes.
    pub request_buffer: usize,
    /// How much of an answer is kept for a slow client so that the dyno is free, in bytes.
    pub response_spool: usize,
    /// How much more of a request body is kept on disk before a dyno is taken, in bytes.
    pub request_disk: u64,
    /// How much more of an answer is kept on disk for a slow client, in bytes.
    pub response_disk: u64,
    /// How many bytes all bodies of the app together may have on disk.
    pub disk_max: u64,
    /// Which idle dyno serves next.
    pub order: Order,
    /// What the dynos speak.
    pub protocol: Protocol,
    /// `true`: a dyno frees itself when its connection is closed, so a request whose client is gone is cut
    /// instead of read to its end. `false` (default) is right for servers that work on after a close.
    pub close_frees_dyno: bool,
    /// What the app wants of encryption; `None`: nothing.
    pub encryption: Option<Arc<Encryption>>,
    /// Whether a connection to a dyno begins with a header of the PROXY protocol. With one it serves one request: the
    /// header says whose it is.
    pub proxy_protocol: ProxyHeader,
}

/// The header of the PROXY protocol with which a connection to a dyno begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// None.
    #[default]
    Off,
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}

/// Which idle dyno serves the next request. None of these binds a request to a dyno before the dyno is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// The one that was busy last: warm caches, warm sockets, and the autoscaler sees which dynos are needed.
    #[default]
    Lifo,
    /// The one that has been idle for the longest: all dynos get the same share.
    LeastRecentlyUsed,
    /// Any of them, drawn from the app's own seeded generator.
    Random,
}

impl Limits {
    /// How dynos are spoken to under encryption. `None`: in the clear.
    pub fn secured(&self) -> Option<&Secured> {
        self.encryption.as_ref().and_then(|encryption| encryption.dynos.as_ref())
    }
}

/// What the dynos of an app speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1, one request after the other on a connection; a dyno with more than one request at a time has as many
    /// connections.
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte: one connection a dyno, however many requests it serves at once.
    H2c,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_max_wait: Duration::from_secs(5),
            queue_max_requests_per_dyno: 50,
            queue_max_bytes: 64 << 20,
            standing_after: Duration::from_secs(5),
            standing_wait: Duration::from_millis(2500),
            boot: Duration::from_secs(75),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            stream_idle: Duration::from_secs(55),
            stream_drain: Duration::from_secs(300),
            streams: 0,
            body: Duration::from_secs(300),
            body_rate_min: 240,
            linger: Duration::from_secs(300),
            keepalive: Duration::from_secs(90),
            max_tries: 10,
            quarantine: Duration::from_secs(5),
            quarantine_max: Duration::from_secs(75),
            eject_after: 5,
            eject_max: 50,
            health_rise: 1,
            health_fall: 3,
            body_max: 0,
            request_buffer: 64 << 10,
            response_spool: 1 << 20,
            request_disk: 0,
            response_disk: 0,
            disk_max: 1 << 30,
            order: Order::Lifo,
            protocol: Protocol::Http1,
            close_frees_dyno: false,
            encryption: None,
            proxy_protocol: ProxyHeader::Off,
        }
    }
}

/// Defines by-value setters, one a field.
macro_rules! setters {
    ($of:ident: $($setter:ident sets $field:ident: $type:ty;)*) => {
        impl $of {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $setter(mut self, value: $type) -> Self {
                    self.$field = value;
                    self
                }
            )*
        }
    };
}

pub(crate) use setters;

setters! {
    Limits:
    with_queue_max_wait sets queue_max_wait: Duration;
    with_queue_max_requests_per_dyno sets queue_max_requests_per_dyno: u32;
    with_queue_max_bytes sets queue_max_bytes: u64;
    with_standing_after sets standing_after: Duration;
    with_standing_wait sets standing_wait: Duration;
    with_boot sets boot: Duration;
    with_connect sets connect: Duration;
    with_first_byte sets first_byte: Duration;
    with_idle sets idle: Duration;
    with_stream_idle sets stream_idle: Duration;
    with_stream_drain sets stream_drain: Duration;
    with_streams sets streams: u32;
    with_body sets body: Duration;
    with_body_rate_min sets body_rate_min: u64;
    with_linger sets linger: Duration;
    with_keepalive sets keepalive: Duration;
    with_max_tries sets max_tries: u32;
    with_quarantine sets quarantine: Duration;
    with_quarantine_max sets quarantine_max: Duration;
    with_eject_after sets eject_after: u32;
    with_eject_max sets eject_max: u32;
    with_health_rise sets health_rise: u32;
    with_health_fall sets health_fall: u32;
    with_body_max sets body_max: u64;
    with_request_buffer sets request_buffer: usize;
    with_response_spool sets response_spool: usize;
    with_request_disk sets request_disk: u64;
    with_response_disk sets response_disk: u64;
    with_disk_max sets disk_max: u64;
    with_order sets order: Order;
    with_protocol sets protocol: Protocol;
    with_close_frees_dyno sets close_frees_dyno: bool;
    with_encryption sets encryption: Option<Arc<Encryption>>;
    with_proxy_protocol sets proxy_protocol: ProxyHeader;
}
