//! The admin listener: metrics, health, readiness and the state of lines and dynos, on a TCP address or Unix socket.
//!
//! `GET /metrics` for Prometheus, `/healthz` (the process runs), `/readyz` (it should get traffic) and `/v1/status`
//! (JSON).
//! Everything is read only. Each connection carries one request and has [`CONNECTION_TIMEOUT`] for all of it, and
//! there are never more than [`MAX_CONNECTIONS`], so slow or many clients cost a bounded amount and end by themselves.
//! What is asked for comes from closures ([`Admin`]): this file knows neither the router nor the meters.
//!
//! Deliberately absent: TLS and passwords. The address belongs on loopback, or on a Unix socket whose mode (0660) and
//! folder say who may ask.

mod listen;
mod readiness;
mod reloads;
mod status;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use router_core::snapshot::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

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

/// What the admin listener can tell.
#[derive(Clone)]
pub struct Admin {
    /// The apps and their dynos, now. Runs where it may block.
    pub snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    /// All metrics as text for Prometheus, now. Runs where it may block.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether the daemon should get traffic.
    pub readiness: Readiness,
    /// How reloads have gone.
    pub reloads: Reloads,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

impl Admin {
    fn routes(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/v1/status", get(status))
            .fallback(not_found)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self)
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
        let routes = admin.routes();
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
                Ok(stream) => {
                    let (routes, stop) = (routes.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, bounds, routes, stop).await;
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
        let _ = tokio::time::timeout(bounds.stop, finish).await;
    }
}

/// Until the signal is given, or nobody is left to give it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One connection: one request, within its time.
async fn connection(stream: impl Stream, bounds: Bounds, routes: Router, mut stop: watch::Receiver<bool>) {
    let serve = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let serve = async {
        let mut serve = std::pin::pin!(serve);
        tokio::select! {
            done = &mut serve => done,
            () = stopped(&mut stop) => {
                // A connection that has sent nothing yet ends here, one that is being answered at its last byte.
                serve.as_mut().graceful_shutdown();
                serve.await
            }
        }
    };
    match tokio::time::timeout(bounds.connection, serve).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("admin: a connection ended early: {error}"),
        Err(_) => tracing::debug!("admin: a connection took longer than it may"),
    }
}

/// What an accepted connection can do.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn metrics(State(admin): State<Admin>) -> Response<Body> {
    match tokio::task::spawn_blocking(move || (admin.metrics)()).await {
        Ok(text) => answer(StatusCode::OK, PROMETHEUS, text),
        Err(_) => broken(),
    }
}

async fn status(State(admin): State<Admin>) -> Response<Body> {
    let page = tokio::task::spawn_blocking(move || {
        let reason = admin.readiness.reason();
        status::page(&(admin.snapshot)(), reason.as_deref(), &admin.reloads.account())
    });
    match page.await {
        Ok(Ok(text)) => answer(StatusCode::OK, JSON, text),
        Ok(Err(_)) | Err(_) => broken(),
    }
}

async fn healthz() -> Response<Body> {
    answer(StatusCode::OK, TEXT, "ok\n".to_owned())
}

async fn readyz(State(admin): State<Admin>) -> Response<Body> {
    match admin.readiness.reason() {
        None => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
        Some(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
    }
}

async fn not_found(uri: Uri) -> Response<Body> {
    error(StatusCode::NOT_FOUND, &format!("there is no {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Response<Body> {
    error(StatusCode::METHOD_NOT_ALLOWED, &format!("{} does not take {method}", uri.path()))
}

fn broken() -> Response<Body> {
    error(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, JSON, format!("{}\n", serde_json::json!({ "error": message })))
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests;
