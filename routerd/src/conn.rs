//! One client connection, step by step: what it is found to be decides who serves its requests.

mod enter;
mod http1;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use router_core::fault::Fault;
use router_core::proxy::{Client, Proxy, Rules, Trust};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::{Config, ProxyProtocol, Server};
use crate::descriptors;
use crate::door::Door;
use crate::drain::{Phase, reached};
use crate::stream::Stream;

/// hyper does not go below this for its buffer of one connection.
const BUFFER_MIN: usize = 8192;

/// The headers that hyper takes unless told otherwise.
const HYPER_HEADERS: usize = 100;

/// What all connections have in common.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) proxy: Proxy,
    /// HTTP/1.1 in front.
    http1: Builder,
    /// Requests a connection may carry; 0: any number.
    keepalive_requests: u32,
    /// Connections there may be.
    pub(crate) max_connections: usize,
    /// Connections of one address; 0: any number.
    per_ip: u32,
    proxy_protocol: ProxyProtocol,
    header_timeout: Duration,
    /// Which proxies are believed, if it is said.
    trust: Option<Trust>,
    pub(crate) door: Door,
}

impl Terms {
    pub(crate) fn new(proxy: Proxy, config: &Config, door: Door) -> Self {
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
        let Server { keepalive_requests, proxy_protocol, header_timeout, .. } = *server;
        let trust = server.trusted_proxies.clone();
        Self {
            proxy,
            http1: http,
            keepalive_requests,
            max_connections: descriptors::for_clients(config),
            per_ip: server.max_connections_per_ip,
            proxy_protocol,
            header_timeout,
            trust: trust.map(|networks| -> Trust { Arc::new(move |address| networks.has(address)) }),
            door,
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
}

impl Met {
    fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        let local = stream.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
        Self { stream: Stream::Tcp(stream), peer, local }
    }

    /// As the proxy wants to know it.
    fn client(&self, terms: &Terms) -> Client {
        let client = Client::new(self.peer, self.local.port()).with_local_ip(self.local.ip());
        let client = client.with_tls(self.stream.is_tls());
        match &terms.trust {
            Some(trust) => client.with_trust(Arc::clone(trust)),
            None => client,
        }
    }
}

/// Serves a connection until it ends; during the drain, until its present request has ended.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    terms: Arc<Terms>,
    drain: watch::Receiver<Phase>,
) {
    // Without it only latency suffers.
    let _ = stream.set_nodelay(true);
    let mut ends = drain.clone();
    let entered = tokio::select! {
        biased;
        entered = enter::enter(stream, peer, &terms) => entered,
        // It has asked for nothing yet.
        () = reached(&mut ends, Phase::Draining) => None,
    };
    if let Some((met, _seat)) = entered {
        http1::serve(met, &terms, drain).await;
    }
}

/// Says that there is no room, and why, to a client that will not be served.
pub(crate) fn turn_away_at_once(stream: TcpStream, peer: SocketAddr, terms: &Terms) {
    turn_away(&Met::new(stream, peer), terms, Fault::ConnectionLimit);
}

fn turn_away(met: &Met, terms: &Terms, fault: Fault) {
    terms.proxy.refuse_head(&met.client(terms), fault);
    let (status, code) = (fault.status(), fault.code());
    let words =
        StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {status} {words}\r\nx-router-fault: {code}\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    );
    let _ = met.stream.tcp().try_write(text.as_bytes());
}
