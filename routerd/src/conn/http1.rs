//! HTTP/1.1 in front: each request to `router_core::proxy`, time-outs against slow heads.
//!
//! A connection on which nothing happens gives hyper and its buffers back, most of its memory, and keeps the socket:
//! the client's next byte makes a new one.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1::{Connection, Parts};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use router_core::fault::{BadRequest, Fault};
use router_core::proxy::{Aborted, Body, Client, Upgrade};
use router_core::sync::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::rest::{Found, Watch, tick};
use super::{Met, Terms, leaving};
use crate::drain::{FIRST_REQUEST, Phase, reached};
use crate::guard::Guard;
use crate::socket::{Side, Socket};

/// Serves a connection until it ends; during the drain, until its present request has ended.
pub(super) async fn serve(met: Met, terms: &Terms, drain: watch::Receiver<Phase>) {
    let client = met.client(terms);
    let (socket, side) = Socket::new(met.stream, Guard::new(terms.head_max));
    let client = with_hands(client, &side);
    let count = Count::default();
    let service = service_fn(|request| one(terms, &client, &side, &count, request));
    let tick = pin!(tick());
    let watch = Watch::new(tick, terms.header_timeout);
    let mut course = Course { terms, side: &side, count: &count, drain: drain.clone(), watch };
    let (mut result, mut socket, mut rest) = course.awake(socket, service).await;
    while let Ok(End::Rest(until)) = result {
        debug_assert!(rest.is_empty(), "hyper has read what the guard has not seen");
        if !rest.is_empty() || !course.at_rest(until).await {
            break;
        }
        (result, socket, rest) = course.awake(socket, service).await;
    }
    let upgrade = count.upgrade.lock().take();
    if let Some(upgrade) = upgrade.filter(|_| result.is_ok()) {
        side.keep_all(false);
        // In a box, so that connections that stay what they are need no room for it.
        return Box::pin(upgraded(*upgrade, socket, rest, terms.shutdown_timeout, drain)).await;
    }
    if result.is_ok() {
        side.close();
    }
    if let Err(error) = result
        && let Some(fault) = head_fault(&error, &rest, &side)
    {
        terms.proxy.refuse_head(&client, fault);
        if let Fault::BadRequest(_) = fault {
            // hyper answers heads it cannot read itself; not those that do not come, and those the guard kept from it.
            if !error.is_parse() {
                side.send(refusal(fault).as_bytes());
            }
            side.refuse();
        }
    }
    side.close_gently().await;
}

/// The answer to a head that is none.
fn refusal(fault: Fault) -> String {
    let status = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or_default();
    let (status, code) = (status.as_str(), fault.code());
    format!(
        "HTTP/1.1 {status} {reason}\r\nx-router-fault: {code}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )
}

fn with_hands(client: Client, side: &Arc<Side>) -> Client {
    // Weak, because a request that lingers at its dyno has these long after the connection has ended: held by it, the
    // socket would stay open.
    let (gone, interim, stalled) = (Arc::downgrade(side), Arc::downgrade(side), Arc::downgrade(side));
    client
        .with_upgrades(true)
        .with_gone(Arc::new(move || gone.upgrade().is_none_or(|side| side.is_gone())))
        .with_stalled(Arc::new(move || stalled.upgrade().is_some_and(|side| side.has_stalled())))
        .with_interim(Arc::new(move |status, headers| {
            if let Some(side) = interim.upgrade() {
                side.interim(status, headers);
            }
        }))
}

/// The requests of one connection.
#[derive(Default)]
struct Count {
    served: AtomicU32,
    /// No further one is wanted: another process serves, or the drain has begun.
    last: AtomicBool,
    /// What to do with the connection once hyper is through with it: the answer was a 101.
    upgrade: Mutex<Option<Box<Upgrade>>>,
}

fn one(
    terms: &Terms,
    client: &Client,
    side: &Side,
    count: &Count,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Aborted>> {
    // Not in the future: hyper may drop it without a poll, and the request's record is opened here. In a box: a
    // connection keeps room for one of these futures for as long as it is open, and this one is large.
    let response = Box::pin(terms.proxy.serve(client, request));
    async move {
        let mut response = response.await?;
        let upgrade = response.body_mut().take_upgrade();
        let broken = side.answered(upgrade.is_some());
        if let Some(upgrade) = upgrade {
            side.keep_all(true);
            *count.upgrade.lock() = Some(upgrade);
            return Ok(response);
        }
        let refused = broken || response.status() == StatusCode::PAYLOAD_TOO_LARGE;
        if refused {
            side.refuse();
        }
        let number = count.served.fetch_add(1, Ordering::Relaxed) + 1;
        let enough = terms.keepalive_requests != 0 && number >= terms.keepalive_requests;
        if refused || enough || count.last.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// The connection goes on in another protocol. Once another process serves, or this one drains, it ends gently.
async fn upgraded(
    upgrade: Upgrade,
    socket: Socket,
    read: Bytes,
    shutdown_timeout: Duration,
    mut drain: watch::Receiver<Phase>,
) {
    let leaving = leaving(shutdown_timeout, drain.clone());
    tokio::select! {
        () = upgrade.run(socket, read, leaving) => {}
        () = reached(&mut drain, Phase::Cut) => {}
    }
}

/// How driving hyper has ended, if it did well.
enum End {
    Over,
    /// There is nothing to do before the client says more; it may be silent until then.
    Rest(Instant),
}

/// What drives a connection, awake and at rest.
struct Course<'a> {
    terms: &'a Terms,
    side: &'a Side,
    count: &'a Count,
    drain: watch::Receiver<Phase>,
    watch: Watch<'a>,
}

impl Course<'_> {
    /// Has hyper serve requests until the connection is over or at rest. Hands the socket back, and what was read of it
    /// and is part of no request.
    async fn awake<S>(&mut self, socket: Socket, service: S) -> (hyper::Result<End>, Socket, Bytes)
    where
        S: HttpService<Incoming, ResBody = Body, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let mut http1 = self.terms.http1.clone();
        http1.timer(self.watch.heads());
        let mut connection = http1.serve_connection(TokioIo::new(socket), service);
        let result = self.until_drained(&mut connection).await;
        // Ends what still runs, and its record with it.
        let Parts { io, read_buf, .. } = connection.into_parts();
        // Even what is empty would keep hyper's buffer.
        let rest = if read_buf.is_empty() { Bytes::new() } else { read_buf };
        (result, io.into_inner(), rest)
    }

    /// Waits for a client that has nothing to say. Says whether it has come back; else the connection is over.
    async fn at_rest(&mut self, until: Instant) -> bool {
        let _resting = self.terms.connections.rests();
        tokio::select! {
            biased;
            // Its client may have come back a moment ago.
            () = reached(&mut self.drain, Phase::Draining) => self.side.has_unread(),
            back = self.watch.rest(self.side, until) => back,
        }
    }

    /// Whether a request may still come although the drain has begun: told to end now, hyper would leave it unread.
    fn may_ask(&self, grace: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
        let is_fresh = self.count.served.load(Ordering::Relaxed) == 0;
        if !is_fresh && !self.side.has_unread() {
            return false;
        }
        grace.get_or_insert_with(|| Box::pin(sleep(FIRST_REQUEST))).as_mut().poll(cx).is_pending()
    }

    /// Drives the connection; asks it to end when the drain begins.
    async fn until_drained<S>(
        &mut self,
        connection: &mut Connection<TokioIo<Socket>, S>,
    ) -> hyper::Result<End>
    where
        S: HttpService<Incoming, ResBody = Body, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let mut connection = Pin::new(connection);
        let (mut zeroth, mut first, mut second) =
            (self.drain.clone(), self.drain.clone(), self.drain.clone());
        let mut leaving = pin!(reached(&mut zeroth, Phase::Leaving));
        let mut draining = pin!(reached(&mut first, Phase::Draining));
        let mut cut = pin!(reached(&mut second, Phase::Cut));
        let (mut listens, mut drains, mut told, mut grace) = (false, false, false, None);
        poll_fn(|cx| {
            // Once is enough, because a task's waker stays the same; each look takes a lock that all connections share.
            if !listens || *self.drain.borrow() > Phase::Running {
                listens = true;
                if cut.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(End::Over));
                }
                if !self.count.last.load(Ordering::Relaxed) && leaving.as_mut().poll(cx).is_ready() {
                    self.count.last.store(true, Ordering::Relaxed);
                }
                drains = drains || draining.as_mut().poll(cx).is_ready();
                if drains && !told && !self.may_ask(&mut grace, cx) {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map(|()| End::Over));
            }
            match ready!(self.watch.poll(cx, self.side)) {
                Found::Late => connection.as_mut().poll(cx).map_ok(|()| End::Over),
                Found::Rest(until) => Poll::Ready(Ok(End::Rest(until))),
            }
        })
        .await
    }
}

/// A request that ended before it was one: hyper refused its head, the head did not come in time, or the connection
/// ended within it. `rest` is what was read and is part of no request yet.
fn head_fault(error: &hyper::Error, rest: &[u8], side: &Side) -> Option<Fault> {
    // Empty lines in front of a request are no part of it (RFC 9112 section 2.2).
    let begun = rest.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
    if let Some(cause) = side.refusal() {
        Some(Fault::BadRequest(cause))
    } else if error.is_parse_too_large() {
        Some(Fault::BadRequest(BadRequest::HeaderTooLarge))
    } else if error.is_parse() {
        Some(Fault::BadRequest(BadRequest::Header))
    } else if error.is_timeout() && begun {
        Some(Fault::BadRequest(BadRequest::HeadTimeout))
    } else if !error.is_user() && !error.is_shutdown() && begun && side.has_ended() {
        // What a request ended with stands in its own record; and while one is under way, hyper looks for the end
        // only when it has nothing left to parse.
        Some(Fault::ClientInterrupted)
    } else {
        None
    }
}
