//! The one connection of a dyno that speaks HTTP/2 without TLS (h2c): its leases share it, each request is a stream.
//!
//! *Shared:* a [`Common`] a dyno, kept with it until it leaves, and in it the [`Link`]; who has a request on the link
//! holds it too. *Lock:* the link's place, over the opening of a new one: who comes meanwhile waits for that one
//! instead of opening a second. *Cancel:* an opening that is given up leaves the place empty. *Never:* a second
//! connection before the task of the first has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header;
use http::uri::{Authority, Scheme};
use http::{Request, Uri};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::fault::Fault;
use crate::ids::Address;
use crate::limits::Limits;
use crate::proxy::dial::ANSWER_HEAD_MAX;
use crate::proxy::upload::ToDyno;
use crate::proxy::wire::{Wire, connect};
use crate::sync::Mutex;

/// How much of an answer may be under way beyond the spool, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all answers of a connection: never what binds, or a slow client would hold up the others.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// What all leases of a dyno have in common.
#[derive(Default)]
pub(crate) struct Common(tokio::sync::Mutex<Option<Arc<Link>>>);

/// An open connection. It is closed when the last who holds it lets go.
pub(crate) struct Link {
    sender: SendRequest<ToDyno>,
    driver: JoinHandle<()>,
    /// When the last request on it ended.
    rested: Mutex<Option<Instant>>,
}

impl Common {
    /// The connection, if there is one that can be used.
    pub(crate) fn warm(&self, limits: &Limits, now: Instant) -> Option<Arc<Link>> {
        // Who opens one has not finished: `open` waits for it.
        let place = self.0.try_lock().ok()?;
        place.as_ref().filter(|link| link.is_good(limits.keepalive, now)).cloned()
    }

    /// The connection, or a new one.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`] or [`Fault::ConnectTimeout`].
    pub(crate) async fn open(
        &self,
        address: Address,
        limits: &Limits,
        now: Instant,
    ) -> Result<Arc<Link>, Fault> {
        let Ok(mut place) = timeout(limits.connect, self.0.lock()).await else {
            return Err(Fault::ConnectTimeout);
        };
        if let Some(link) = place.take() {
            if link.is_good(limits.keepalive, now) {
                *place = Some(Arc::clone(&link));
                return Ok(link);
            }
            link.close().await;
        }
        let stream = connect(address, limits.connect, &[], limits.secured())
            .await
            .map_err(|error| Fault::of_connect(&error))?;
        let link = Arc::new(Link::over(stream).await?);
        *place = Some(Arc::clone(&link));
        Ok(link)
    }

    /// A request on the link has ended well.
    pub(crate) fn rest(&self, link: Arc<Link>, keepalive: Duration, now: Instant) {
        *link.rested.lock() = Some(now);
        drop(link);
        if keepalive.is_zero()
            && let Ok(mut place) = self.0.try_lock()
            && place.as_ref().is_some_and(|link| Arc::strong_count(link) == 1)
        {
            *place = None;
        }
    }
}

impl Link {
    /// Makes a connection of a socket.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`]: the dyno has seen nothing of the request.
    pub(crate) async fn over(stream: Wire) -> Result<Self, Fault> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(ANSWER_HEAD_MAX as u32);
        let shake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shake.map_err(|_| Fault::ConnectRefused)?;
        let driver = tokio::spawn(async move {
            // What broke it shows in the requests on it.
            let _ = connection.await;
        });
        Ok(Self { sender, driver, rested: Mutex::new(None) })
    }

    /// What requests are sent with.
    pub(crate) fn sender(&self) -> SendRequest<ToDyno> {
        self.sender.clone()
    }

    /// Whether the dyno has not closed it.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.driver.is_finished()
    }

    /// Whether a request may be sent over it. `self` is held by its place alone, unless there are requests on it.
    fn is_good(self: &Arc<Self>, keepalive: Duration, now: Instant) -> bool {
        let rested = *self.rested.lock();
        let busy = Arc::strong_count(self) > 1;
        self.is_open() && (busy || rested.is_none_or(|at| now.saturating_duration_since(at) <= keepalive))
    }

    /// Ends what is under way on it, and waits until it is closed.
    async fn close(&self) {
        self.driver.abort();
        while !self.driver.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Puts a request into the words of HTTP/2: Host is part of the target (RFC 9113 section 8.3.1).
pub(crate) fn target(request: &mut Request<ToDyno>) {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    // A name that no authority can have goes as it is.
    parts.authority = Some(authority.clone().unwrap_or_else(|| Authority::from_static("-")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    if let (Some(host), None) = (host, authority) {
        request.headers_mut().insert(header::HOST, host);
    }
}
