//! Who sent a request, and what its connection can do.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::HeaderMap;
use http::{HeaderValue, StatusCode};

use crate::proxy::origin::{Trust, as_value};
use crate::proxy::record::Stalled;

/// Gets interim answers (1xx) of a dyno, to be passed to the client at once.
pub type Interim = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

/// Whether a connection may be used for a host.
pub type Serves = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Who sent a request: one per connection.
#[derive(Clone)]
pub struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) local_ip: IpAddr,
    pub(crate) forwarded_for: HeaderValue,
    pub(crate) local_port: u16,
    /// The same, as the value of a header.
    pub(crate) port_shown: HeaderValue,
    pub(crate) tls: bool,
    pub(crate) serves: Option<Serves>,
    pub(crate) certificate: Option<Option<HeaderValue>>,
    pub(crate) trust: Option<Trust>,
    pub(crate) interim: Option<Interim>,
    pub(crate) upgrades: bool,
    pub(crate) gone: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    pub(crate) stalled: Option<Stalled>,
}

impl Client {
    /// A client at that address, connected to that port of ours, without encryption.
    pub fn new(peer: SocketAddr, local_port: u16) -> Self {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let (forwarded_for, local_ip) = (as_value(peer.ip()), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self {
            peer,
            local_ip,
            forwarded_for,
            local_port,
            port_shown: HeaderValue::from(local_port),
            tls: false,
            trust: None,
            serves: None,
            certificate: None,
            interim: None,
            upgrades: false,
            gone: None,
            stalled: None,
        }
    }

    /// The address of ours that it is connected to: dynos hear of it by the PROXY protocol alone.
    #[must_use]
    pub fn with_local_ip(mut self, address: IpAddr) -> Self {
        self.local_ip = address;
        self
    }

    /// Which proxies are believed in what they say of their clients. Without it none is, and X-Forwarded-For is
    /// passed on with the peer's address appended, as Heroku does.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Whether its connection is encrypted.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// For which hosts its connection may be used, without a port and in lower case; others are misdirected (M02).
    /// Without it, for any.
    #[must_use]
    pub fn with_hosts(mut self, serves: Serves) -> Self {
        self.serves = Some(serves);
        self
    }

    /// It was asked for a certificate: the one it has shown, as the value of `Client-Cert` (RFC 9440), or none.
    #[must_use]
    pub fn with_certificate(mut self, shown: Option<HeaderValue>) -> Self {
        self.certificate = Some(shown);
        self
    }

    /// Where interim answers go. Without it they are dropped.
    #[must_use]
    pub fn with_interim(mut self, interim: Interim) -> Self {
        self.interim = Some(interim);
        self
    }

    /// Whether its connection can change the protocol: then whoever serves it asks each answer for its
    /// [`Upgrade`](crate::proxy::Upgrade). Without it no dyno hears that the client would.
    ///
    /// Over HTTP/2 that is extended CONNECT (RFC 8441): a request with [`hyper::ext::Protocol`] `websocket` reaches the
    /// dyno as the handshake of HTTP/1.1. Whoever serves it has put `Sec-WebSocket-Key` to it, and checks the answer's
    /// `Sec-WebSocket-Accept`, because neither exists in HTTP/2.
    #[must_use]
    pub fn with_upgrades(mut self, upgrades: bool) -> Self {
        self.upgrades = upgrades;
        self
    }

    /// How to ask, without waiting, whether it is gone: asked once before a request is sent to a dyno.
    #[must_use]
    pub fn with_gone(mut self, gone: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        self.gone = Some(gone);
        self
    }

    /// How to ask why its connection has ended: because it took nothing for too long (H28), or for another reason.
    #[must_use]
    pub fn with_stalled(mut self, stalled: Stalled) -> Self {
        self.stalled = Some(stalled);
        self
    }

    /// Who has connected.
    pub(crate) fn address(&self) -> IpAddr {
        self.peer.ip()
    }

    /// The ends of the connection of a client at that address; a port that nobody has told is 0.
    pub(crate) fn ends(&self, address: IpAddr) -> (SocketAddr, SocketAddr) {
        let port = if address == self.peer.ip() { self.peer.port() } else { 0 };
        (SocketAddr::new(address, port), SocketAddr::new(self.local_ip, self.local_port))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("forwarded_for", &self.forwarded_for).finish_non_exhaustive()
    }
}
