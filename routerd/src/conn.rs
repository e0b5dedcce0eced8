//! One client connection, step by step: what it is found to be decides who serves its requests.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use router_core::fault::Fault;
use router_core::proxy::{Client, Proxy, Rules};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::Config;
use crate::config::cert::Certificate;
use crate::drain::{Phase, reached};
use crate::metrics::Meters;
use crate::stream::Stream;
use crate::tls;

/// hyper does not go below this for its buffer of one connection.
const BUFFER_MIN: usize = 8192;

/// The headers that hyper takes unless told otherwise.
const HYPER_HEADERS: usize = 100;

/// What clients begin with on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// With HTTP.
    Plain,
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
}

impl Terms {
    pub(crate) fn new(proxy: Proxy, meters: &Meters, config: &Config, tls: Option<tls::Terms>) -> Self {
        let server = &config.server;
        let rules = Rules {
            request_line_max: server.request_line_max,
            header_line_max: server.header_line_max,
            headers_max: server.headers_max,
            trusted_request_id: server.trusted_request_id,
        };
        let proxy = proxy.with_rules(rules);
        let mut http = Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(server.header_timeout)
            .max_header_size(server.head_max)
            .max_buf_size(server.head_max.max(BUFFER_MIN));
        // hyper's own number lives on the stack; any other is allocated for with each request.
        if server.headers_max != HYPER_HEADERS {
            http.max_headers(server.headers_max);
        }
        Self {
            proxy,
            tls,
            http1: http,
            head_max: server.head_max,
            http2: http2::Front::new(config, meters.clone()),
            plain_http2: server.http2,
            keepalive_requests: server.keepalive_requests,
            shutdown_timeout: server.shutdown_timeout,
            max_connections: server.max_connections,
        }
    }
}

/// A connection that was accepted, and what is known of it.
pub(crate) struct Met {
    pub(crate) stream: Stream,
    /// Who has connected.
    pub(crate) peer: SocketAddr,
    /// To which port of ours.
    pub(crate) local_port: u16,
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
        let local_port = stream.local_addr().map_or(0, |address| address.port());
        Self { stream: Stream::Tcp(stream), peer, local_port, secured: None }
    }

    /// As the proxy wants to know it.
    fn client(&self) -> Client {
        let client = Client::new(self.peer, self.local_port).with_tls(self.stream.is_tls());
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
    door: Door,
    terms: Arc<Terms>,
    drain: watch::Receiver<Phase>,
) {
    // Without it only latency suffers.
    let _ = stream.set_nodelay(true);
    let met = match door {
        Door::Plain => Met::new(stream, peer),
        Door::Tls => match secure(stream, peer, &terms, drain.clone()).await {
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
        http2::serve(met, terms, drain).await;
    } else {
        http1::serve(met, &terms, drain).await;
    }
}

/// The TLS handshake. A drain that has to end cuts it.
async fn secure(
    stream: TcpStream,
    peer: SocketAddr,
    terms: &Terms,
    mut drain: watch::Receiver<Phase>,
) -> Option<Met> {
    // The listener is closed before its terms go.
    let tls = terms.tls.as_ref()?;
    let local_port = stream.local_addr().map_or(0, |address| address.port());
    let shaken = tokio::select! {
        biased;
        () = reached(&mut drain, Phase::Cut) => None,
        // In a box: few connections are in their handshake, and all would have room for one.
        shaken = Box::pin(tls.shake(stream)) => shaken,
    };
    let tls::Secured { stream, name, certificate, shown } = shaken?;
    let secured = Some(Secured { name, certificate, shown });
    Some(Met { stream: Stream::Tls(Box::new(stream)), peer, local_port, secured })
}

/// Says that there is no room, and why, to a client that will not be served.
pub(crate) fn turn_away(stream: TcpStream, peer: SocketAddr, door: Door, terms: &Terms) {
    let met = Met::new(stream, peer);
    terms.proxy.refuse_head(&met.client(), Fault::ConnectionLimit);
    if door == Door::Tls {
        // There is no way to say it without a handshake.
        return;
    }
    let _ = met.stream.tcp().try_write(
        b"HTTP/1.1 503 Service Unavailable\r\nx-router-fault: H22\r\nretry-after: 1\r\nconnection: close\r\n\
          content-length: 0\r\n\r\n",
    );
}
