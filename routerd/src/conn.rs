//! One client connection, step by step: what it is found to be decides who serves its requests.

mod enter;
mod http1;
mod http2;
mod rest;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use hyper::server::conn::http1::Builder;
use router_core::fault::Fault;
use router_core::proxy::{Client, Proxy, Rules, Trust};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::cert::Certificate;
use crate::config::{Config, ProxyProtocol};
use crate::connections::Connections;
use crate::descriptors;
use crate::door::Door;
use crate::drain::{Phase, reached, too_late};
use crate::metrics::Meters;
use crate::stream::Stream;
use crate::tls;

/// hyper does not go below this for its buffer of one connection.
const BUFFER_MIN: usize = 8192;

/// How much the kernel takes of what it cannot send yet, in bytes.
const UNSENT: u32 = 128 << 10;

/// The headers that hyper takes unless told otherwise.
const HYPER_HEADERS: usize = 100;

/// In what time connections that have changed their protocol end when another process has taken over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What clients begin with on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// With HTTP.
    Http,
    /// With a TLS handshake.
    Tls,
}

/// What all connections have in common.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) proxy: Proxy,
    /// TLS in front, if there is any.
    tls: Option<tls::Terms>,
    /// HTTP/1.1 in front.
    http1: Builder,
    /// The longest head of a request, in bytes.
    head_max: usize,
    http2: http2::Front,
    /// HTTP/2 without TLS, too.
    plain_http2: bool,
    /// Requests a connection may carry; 0: any number.
    keepalive_requests: u32,
    /// How long what runs may take when the daemon stops.
    shutdown_timeout: Duration,
    /// Connections there may be.
    pub(crate) max_connections: usize,
    /// Connections of one address; 0: any number.
    per_ip: u32,
    proxy_protocol: ProxyProtocol,
    header_timeout: Duration,
    send_timeout: Duration,
    /// Which proxies are believed, if it is said.
    trust: Option<Trust>,
    pub(crate) door: Door,
    /// Those that are open.
    connections: Connections,
}

impl Terms {
    pub(crate) fn new(
        proxy: Proxy,
        meters: &Meters,
        config: &Config,
        door: Door,
        connections: Connections,
        tls: Option<tls::Terms>,
    ) -> Self {
        let server = &config.server;
        let rules = Rules {
            request_line_max: server.request_line_max,
            header_line_max: server.header_line_max,
            headers_max: server.headers_max,
            trusted_request_id: server.trusted_request_id,
        };
        let proxy = proxy.with_rules(rules);
        let mut http = Builder::new();
        http.header_read_timeout(server.header_timeout)
            .max_header_size(server.head_max)
            .max_buf_size(server.head_max.max(BUFFER_MIN));
        // hyper's own number lives on the stack; any other is allocated for with each request.
        if server.headers_max != HYPER_HEADERS {
            http.max_headers(server.headers_max);
        }
        let trust = server.trusted_proxies.clone();
        Self {
            proxy,
            tls,
            http1: http,
            head_max: server.head_max,
            http2: http2::Front::new(config, meters.clone()),
            plain_http2: server.http2,
            keepalive_requests: server.keepalive_requests,
            shutdown_timeout: server.shutdown_timeout,
            max_connections: descriptors::for_clients(config),
            per_ip: server.max_connections_per_ip,
            proxy_protocol: server.proxy_protocol,
            header_timeout: server.header_timeout,
            send_timeout: server.send_timeout,
            trust: trust.map(|networks| -> Trust { Arc::new(move |address| networks.has(address)) }),
            door,
            connections,
        }
    }

    /// Whether a proxy at that address is believed.
    fn trusts(&self, address: IpAddr) -> bool {
        self.trust.as_ref().is_some_and(|trust| trust(address))
    }
}

/// A connection that was accepted, and what is known of it.
pub(crate) struct Met {
    pub(crate) stream: Stream,
    /// Who has connected, as far as a trusted proxy has not said otherwise.
    pub(crate) peer: SocketAddr,
    /// To which address.
    pub(crate) local: SocketAddr,
    /// What its handshake has told, if it had one.
    pub(crate) secured: Option<Secured>,
}

/// What a TLS handshake has told.
pub(crate) struct Secured {
    /// The host that the client named, in lower case.
    pub(crate) name: Option<Box<str>>,
    /// What it was shown.
    pub(crate) certificate: Arc<Certificate>,
    /// The certificate of the client, if it was asked for one, as the value of `Client-Cert`.
    pub(crate) shown: Option<Option<HeaderValue>>,
}

impl Met {
    fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        let local = stream.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
        Self { stream: Stream::Tcp(stream), peer, local, secured: None }
    }

    /// As the proxy wants to know it.
    fn client(&self, terms: &Terms) -> Client {
        let client = Client::new(self.peer, self.local.port()).with_local_ip(self.local.ip());
        let client = client.with_tls(self.stream.is_tls());
        let client = match &terms.trust {
            Some(trust) => client.with_trust(Arc::clone(trust)),
            None => client,
        };
        let Some(Secured { name, certificate, shown }) = &self.secured else { return client };
        let client = match shown {
            Some(shown) => client.with_certificate(shown.clone()),
            None => client,
        };
        // Who has named no host has made no claim about one.
        let Some(name) = name.clone() else { return client };
        let certificate = Arc::clone(certificate);
        client.with_hosts(Arc::new(move |host| host == &*name || certificate.covers(host)))
    }
}

/// Serves a connection until it ends; during the drain, until its present request has ended.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    begins: Begins,
    terms: Arc<Terms>,
    drain: watch::Receiver<Phase>,
) {
    // Without it only latency suffers.
    let _ = stream.set_nodelay(true);
    // The kernel alone knows what the client has taken: what we have written may be in its buffers, megabytes of it.
    // Without it the other bounds remain.
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(terms.send_timeout));
    // Else it says that there is room only once a large part of them is free: of a slow client nothing is heard for
    // minutes, and what is there for it is charged to nobody.
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    let entered = tokio::select! {
        biased;
        entered = enter::enter(stream, peer, begins, &terms) => entered,
        () = too_late(drain.clone()) => None,
    };
    let Some((met, _seat)) = entered else { return };
    let met = match begins {
        Begins::Http => met,
        Begins::Tls => match secure(met, &terms, drain.clone()).await {
            Some(met) => met,
            None => return,
        },
    };
    let http2 = match &met.stream {
        Stream::Tcp(stream) if terms.plain_http2 => {
            let Some(asked) = terms.http2.is_asked_for(stream, drain.clone()).await else { return };
            asked
        }
        stream @ (Stream::Tcp(_) | Stream::Tls(_)) => stream.is_http2(),
    };
    if http2 {
        // In a box: it is three times as large, and connections of HTTP/1.1 would have room for it too.
        Box::pin(http2::serve(met, terms, drain)).await;
    } else {
        http1::serve(met, &terms, drain).await;
    }
}

/// In what time a connection that has changed its protocol is to end, once it is to.
async fn leaving(shutdown_timeout: Duration, mut drain: watch::Receiver<Phase>) -> Duration {
    reached(&mut drain, Phase::Leaving).await;
    let another_serves = *drain.borrow() == Phase::Leaving;
    // The other process waits for the dynos, and clients find it at the same address.
    if another_serves { HAND_OVER.min(shutdown_timeout) } else { shutdown_timeout }
}

/// The TLS handshake. A drain does not wait for it for long.
async fn secure(met: Met, terms: &Terms, drain: watch::Receiver<Phase>) -> Option<Met> {
    // The listener is closed before its terms go.
    let tls = terms.tls.as_ref()?;
    let Met { stream: Stream::Tcp(stream), peer, local, .. } = met else { return Some(met) };
    let shaken = tokio::select! {
        biased;
        // In boxes: few connections are in their handshake, and all would have room for one.
        shaken = Box::pin(tls.shake(stream)) => shaken,
        () = Box::pin(too_late(drain)) => None,
    };
    let tls::Secured { stream, name, certificate, shown } = shaken?;
    let secured = Some(Secured { name, certificate, shown });
    Some(Met { stream: Stream::Tls(Box::new(stream)), peer, local, secured })
}

/// Says that there is no room, and why, to a client that will not be served.
pub(crate) fn turn_away_at_once(stream: TcpStream, peer: SocketAddr, begins: Begins, terms: &Terms) {
    turn_away(&Met::new(stream, peer), begins, terms, Fault::ConnectionLimit);
}

fn turn_away(met: &Met, begins: Begins, terms: &Terms, fault: Fault) {
    terms.proxy.refuse_head(&met.client(terms), fault);
    if begins == Begins::Tls {
        // There is no way to say it without a handshake.
        return;
    }
    let (status, code) = (fault.status(), fault.code());
    let words =
        StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {status} {words}\r\nx-router-fault: {code}\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    );
    let _ = met.stream.tcp().try_write(text.as_bytes());
}
