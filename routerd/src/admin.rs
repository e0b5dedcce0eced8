//! The admin listener: metrics, health, what the daemon is and does, and orders to it, over TCP, TLS or a Unix socket.
//!
//! `GET /metrics` for Prometheus, `/healthz` (the process runs), `/readyz` (it should get traffic), and JSON below
//! `/v1`: `api.rs` has the table of it all. Who may ask is decided by `access.rs` before anything else is looked at.
//! Each connection carries one request and has [`CONNECTION_TIMEOUT`] for all of it (an order to upgrade that somebody
//! may give: two minutes more), and there are never more than [`MAX_CONNECTIONS`], so slow or many clients cost a
//! bounded amount and end by themselves. What is asked for comes from closures and from [`Control`]: this file knows
//! neither the router nor the meters.

mod access;
mod api;
mod apps;
mod listen;
mod openapi;
mod orders;
mod readiness;
mod reloads;
mod reply;
mod status;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use router_core::snapshot::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::control::Control;
use crate::{acme, tls};
pub use access::Access;
use access::Peer;
pub(crate) use listen::{Accepted, LeaveFile};
pub use listen::{AdminAddress, AdminError, AdminListener};
pub use readiness::Readiness;
pub use reloads::{Account, Reloads};

/// How many connections are served at once; more wait in the kernel.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a connection may last, from its first byte to its last.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// The most bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// How long to wait after the system refused us a connection, for example because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The bounds of a listener; tests have shorter ones.
#[derive(Clone, Copy)]
struct Bounds {
    connections: usize,
    /// How long a request's head may take.
    head: Duration,
    /// How long a connection may take.
    connection: Duration,
    /// How long requests that are being answered may go on once the listener is told to stop.
    stop: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: MAX_CONNECTIONS,
    head: Duration::from_secs(5),
    connection: CONNECTION_TIMEOUT,
    stop: Duration::from_secs(2),
};

/// How much longer a connection may take, because of what was asked.
#[derive(Clone, Default)]
struct Patience(Arc<OnceLock<Duration>>);

impl Patience {
    fn longer(&self, by: Duration) {
        // A connection carries one request.
        let _ = self.0.set(by);
    }
}

/// What the admin listener can tell.
#[derive(Clone)]
pub struct Admin {
    /// The apps and their dynos, now. Runs where it may block.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    /// All metrics as text for Prometheus, now. Runs where it may block.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// TLS in front, now.
    pub tls: Arc<dyn Fn() -> tls::Account + Send + Sync>,
    /// How orders of certificates are doing.
    pub acme: Arc<dyn Fn() -> acme::Account + Send + Sync>,
    /// Whether the daemon should get traffic.
    pub readiness: Readiness,
    /// How reloads have gone.
    pub reloads: Reloads,
    /// Carries orders out, and knows of deploys, releases and the audit trail.
    pub control: Arc<dyn Control>,
    /// Who may ask.
    pub access: Access,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl AdminListener {
    /// Answers until `stop` is true or its sender is gone; then finishes what is being answered, for two seconds at
    /// most, and takes a Unix socket's file away.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and every connection at once.
    pub async fn serve(self, admin: Admin, stop: watch::Receiver<bool>) {
        self.serve_within(BOUNDS, admin, stop).await;
    }

    async fn serve_within(self, bounds: Bounds, admin: Admin, mut stop: watch::Receiver<bool>) {
        let access = admin.access.clone();
        let routes = api::routes(admin);
        let places = Arc::new(Semaphore::new(bounds.connections));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let next = async {
                // The semaphore is never closed; were it, there would be no place, and no connection either.
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((place, self.accept().await))
            };
            let (place, accepted) = tokio::select! {
                () = stopped(&mut stop) => break,
                Some(next) = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (routes, stop, access) = (routes.clone(), stop.clone(), access.clone());
                    connections.spawn(async move {
                        connection(stream, peer, bounds, &access, routes, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("admin: cannot accept a connection: {error}");
                    tokio::select! {
                        () = stopped(&mut stop) => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            }
        }
        drop(self);
        let finish = async { while connections.join_next().await.is_some() {} };
        // Whoever is not done by then is cut off with the set.
        let _ = timeout(bounds.stop, finish).await;
    }
}

/// Until the signal is given, or nobody is left to give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One connection, within its time.
async fn connection(
    stream: Accepted,
    peer: Peer,
    bounds: Bounds,
    access: &Access,
    routes: Router,
    stop: watch::Receiver<bool>,
) {
    let patience = Patience::default();
    let serve = async {
        let tls = matches!(peer, Peer::Tcp { .. }).then(|| access.tls()).flatten();
        let about = (peer, patience.clone());
        let Some(tls) = tls else { return request(stream, about, bounds, routes, stop).await };
        match timeout(bounds.head, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => request(stream, about, bounds, routes, stop).await,
            Ok(Err(error)) => tracing::debug!("admin: no TLS connection: {error}"),
            Err(_) => tracing::debug!("admin: a TLS handshake took longer than it may"),
        }
    };
    let mut serve = Box::pin(serve);
    if timeout(bounds.connection, &mut serve).await.is_ok() {
        return;
    }
    let longer = patience.0.get().copied().unwrap_or_default();
    if timeout(longer, serve).await.is_err() {
        tracing::debug!("admin: a connection took longer than it may");
    }
}

/// The one request of a connection.
async fn request(
    stream: impl Stream,
    (peer, patience): (Peer, Patience),
    bounds: Bounds,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) {
    let routes = TowerToHyperService::new(routes);
    let routes = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(patience.clone());
        routes.call(request)
    });
    let serve = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), routes);
    let mut serve = std::pin::pin!(serve);
    let done = tokio::select! {
        done = &mut serve => done,
        () = stopped(&mut stop) => {
            // A connection that has sent nothing yet ends here, one that is being answered at its last byte.
            serve.as_mut().graceful_shutdown();
            serve.await
        }
    };
    if let Err(error) = done {
        tracing::debug!("admin: a connection ended early: {error}");
    }
}

/// What an accepted connection can do.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

#[cfg(test)]
mod tests;
