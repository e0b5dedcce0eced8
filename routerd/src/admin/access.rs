//! Who asks, and whether they are let in at all: the socket's mode, loopback, or a token.
//!
//! * On a Unix socket the mode of its file says who may ask; the kernel says who it is. All may everything.
//! * On a loopback address without tokens whoever is on the machine may everything, except pages in a browser: they
//!   show by an `Origin`, or by a `Host` that is not this machine (a name that was made to point here).
//! * As soon as there is a token, each request over TCP needs one.
//!
//! `/healthz` and `/readyz` are open to all: load balancers ask for them, and they tell nothing else. What a role may
//! is not decided here but in [`control`](crate::control).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Response, request};
use axum::middleware::Next;
use router_core::clock;
use rustls::ServerConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Admin, reply};
use crate::config;
use crate::config::token::{self, Token};
use crate::control::{Actor, Refusal, RefusalKind, Role, Scope};

/// Paths that everybody may ask for.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// How long an answer to somebody who is turned away takes.
const SLOW: Duration = Duration::from_millis(250);
/// How many of them are slowed at once; they take places from others. More are answered at once and not logged.
const SLOWED_MAX: usize = 16;
/// How many orders are carried out at once. They may outlive their connections, so they need a bound of their own.
const ORDERS_MAX: usize = 32;

/// The rules in place, and how often they turned somebody away. Clones are the same rules.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: ArcSwap<Rules>,
    denied: [AtomicU64; Denial::ALL.len()],
    slowed: Semaphore,
    orders: Arc<Semaphore>,
}

/// What the configuration says of it.
#[derive(Debug, Default)]
struct Rules {
    tokens: Vec<Token>,
    tls: Option<Arc<ServerConfig>>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// Over an address, which may be one of this machine alone.
    Tcp { from: SocketAddr, loopback: bool },
    /// Over a socket in the file system: who, if the kernel knows.
    Unix { uid: Option<u32> },
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denial {
    /// There is no token where one is needed.
    NoToken,
    /// The token is none of ours.
    WrongToken,
    /// The token was good.
    Expired,
    /// A page in a browser asks.
    Browser,
}

impl Denial {
    const ALL: [Self; 4] = [Self::NoToken, Self::WrongToken, Self::Expired, Self::Browser];

    fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::Expired => "expired",
            Self::Browser => "browser",
        }
    }

    fn refusal(self) -> Refusal {
        let (kind, text) = match self {
            Self::NoToken => (RefusalKind::Unauthorized, "a token is needed: Authorization: Bearer rtd_..."),
            Self::WrongToken => (RefusalKind::Unauthorized, "this token is not known here"),
            Self::Expired => (RefusalKind::Unauthorized, "this token has expired"),
            Self::Browser => (
                RefusalKind::Forbidden,
                "a request with an Origin, or with a Host that is not this machine, comes from a browser; \
                 without tokens only local programs may ask",
            ),
        };
        Refusal::new(kind, text)
    }
}

impl Access {
    /// No tokens, no TLS.
    pub fn new() -> Self {
        let denied = std::array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new(Inner {
            rules: ArcSwap::default(),
            denied,
            slowed: Semaphore::new(SLOWED_MAX),
            orders: Arc::new(Semaphore::new(ORDERS_MAX)),
        }))
    }

    /// Puts the rules of a configuration in place: for requests and connections that come from now on.
    pub fn set(&self, admin: Option<&config::Admin>) {
        let rules = admin.map_or_else(Rules::default, |admin| Rules {
            tokens: admin.tokens.clone(),
            tls: admin.tls.as_ref().map(config::Tls::server),
        });
        self.0.rules.store(Arc::new(rules));
    }

    /// How often somebody was turned away, by reason.
    pub fn denied(&self) -> [(&'static str, u64); 4] {
        let count = |why: Denial| (why.as_str(), self.0.denied[why as usize].load(Ordering::Relaxed));
        Denial::ALL.map(count)
    }

    /// A place for one order, until it is dropped; `None`: all are taken.
    pub(super) fn place_for_order(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.orders).try_acquire_owned().ok()
    }

    /// What a connection over TCP has to speak before HTTP.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.0.rules.load().tls.clone()
    }

    /// Who asks.
    fn who(&self, peer: Peer, head: &request::Parts) -> Result<Actor, Denial> {
        let (from, loopback) = match peer {
            Peer::Unix { uid } => {
                let name = uid.map_or_else(|| "unix".to_owned(), |uid| format!("unix uid {uid}"));
                return Ok(Actor { name, from: None, role: Role::Admin, apps: Scope::All });
            }
            Peer::Tcp { from, loopback } => (Some(from.to_string()), loopback),
        };
        let rules = self.0.rules.load();
        if rules.tokens.is_empty() && loopback {
            if is_browser(head) {
                return Err(Denial::Browser);
            }
            return Ok(Actor { name: "loopback".to_owned(), from, role: Role::Admin, apps: Scope::All });
        }
        let shown = bearer(head).ok_or(Denial::NoToken)?;
        let token = token::find(&rules.tokens, shown).ok_or(Denial::WrongToken)?;
        if token.expires.is_some_and(|at| at <= clock::wall()) {
            return Err(Denial::Expired);
        }
        Ok(Actor { name: token.name.clone(), from, role: token.role, apps: token.apps.clone() })
    }

    /// Counts, logs and slows down, the latter two within bounds: at most 64 lines a second.
    async fn deny(&self, why: Denial, peer: Peer) {
        self.0.denied[why as usize].fetch_add(1, Ordering::Relaxed);
        let Ok(_place) = self.0.slowed.try_acquire() else { return };
        if let Peer::Tcp { from, .. } = peer {
            tracing::warn!("admin: {from} was turned away: {}", why.refusal());
        }
        tokio::time::sleep(SLOW).await;
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::new()
    }
}

/// In front of every route: lets nobody in who is not known, and says to those behind who asks.
pub(super) async fn gate(State(admin): State<Admin>, request: Request, next: Next) -> Response<Body> {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    let Some(peer) = head.extensions.get::<Peer>().copied() else {
        return reply::refused(&Refusal::new(RefusalKind::Internal, "it is not known who asks"));
    };
    match admin.access.who(peer, &head) {
        Ok(actor) => {
            head.extensions.insert(actor);
            next.run(Request::from_parts(head, body)).await
        }
        Err(why) => {
            admin.access.deny(why, peer).await;
            let mut answer = reply::refused(&why.refusal());
            if why != Denial::Browser {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    }
}

/// The token that is shown.
fn bearer(head: &request::Parts) -> Option<&str> {
    let (scheme, token) = head.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a page in a browser may have sent this: it cannot keep its origin to itself, or change its Host.
fn is_browser(head: &request::Parts) -> bool {
    let named =
        head.headers.get_all(HOST).iter().map(|host| host.to_str().ok().and_then(|host| host.parse().ok()));
    let mut named = named.chain(head.uri.authority().cloned().map(Some));
    head.headers.contains_key(ORIGIN)
        || named.any(|name: Option<Authority>| !name.is_some_and(|name| is_local(&name)))
}

fn is_local(name: &Authority) -> bool {
    let host = name.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(headers: &[(&'static str, &str)]) -> request::Parts {
        let request =
            headers.iter().fold(Request::get("/v1/apps"), |it, (name, value)| it.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_browser_is_known_by_its_origin_or_its_host() {
        for host in ["127.0.0.1:9900", "127.0.0.1", "localhost:9900", "LOCALHOST", "[::1]:9900", "127.3.2.1"]
        {
            assert!(!is_browser(&head(&[("host", host)])), "{host}");
            assert!(is_browser(&head(&[("host", host), ("origin", "http://127.0.0.1:9900")])), "{host}");
            assert!(is_browser(&head(&[("host", host), ("host", "evil.test")])), "{host}");
        }
        for host in
            ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "10.0.0.1", "", "a b", "[::2]:1"]
        {
            assert!(is_browser(&head(&[("host", host)])), "{host}");
        }
        assert!(!is_browser(&head(&[])), "a program of HTTP/1.0 names no host; a browser always does");
        let mut absolute = head(&[("host", "localhost")]);
        absolute.uri = "http://evil.test/v1/apps".parse().unwrap();
        assert!(is_browser(&absolute));
    }

    #[test]
    fn a_token_is_shown_with_its_scheme() {
        let shown = |value| bearer(&head(&[("authorization", value)])).map(str::to_owned);
        assert_eq!(shown("Bearer rtd_1"), Some("rtd_1".to_owned()));
        assert_eq!(shown("bearer  rtd_1 "), Some("rtd_1".to_owned()));
        assert_eq!((shown("rtd_1"), shown("Basic rtd_1"), shown("")), (None, None, None));
    }
}
