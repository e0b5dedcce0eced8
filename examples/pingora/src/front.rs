//! The adapter: Pingora's hooks on one side, a ticket and a lease on the other.
//!
//! # Never two connections to one dyno
//!
//! Pingora keeps idle connections in a pool by peer. That fits a dyno only because of an order of events:
//!
//! 1. Who connects holds the dyno's lease (`upstream_peer` returns only with one), so nobody else connects to it.
//! 2. After the answer Pingora puts the connection into its pool, or closes it, and only *then* calls `logging`.
//! 3. `logging` checks the dyno in. So the next holder finds the connection in the pool, and uses it.
//!
//! What has to be set for this: HTTP/1 to the dyno (the default), `upstream_keepalive_pool_size` no smaller than the
//! number of dynos (or connections are closed and opened for nothing), nothing in the peer that differs from request
//! to request (the pool's key is made from it: a second key is a second connection), and no health checks of
//! Pingora's load balancer. A dyno with `concurrency` above 1 has as many connections as that.
//!
//! # What this adapter leaves out, and `router_core::proxy` does
//!
//! * The dyno is held until the client has read the answer: Pingora tells of the end of both at once.
//! * A client that goes away in the middle of an answer: Pingora closes the dyno's connection. Some servers work on
//!   all the same; those then get their next request while they are busy, and it waits in their backlog.
//! * A request with a body stays in line when its client goes away, because only reading would tell.

use async_trait::async_trait;
use pingora_core::prelude::HttpPeer;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use pingora_core::{BError, Error, ErrorSource, ErrorType};
use pingora_proxy::{ProxyHttp, Session};
use router_core::fault::Fault;
use router_core::{Lease, Outcome, Router, Ticket};
use sync_wrapper::SyncWrapper;
use tokio::time::{sleep_until, timeout_at};

/// A status of the log, not of an answer: nobody is there to read it.
const CLIENT_GONE: u16 = 499;

/// The proxy: every request waits in its app's line.
pub(crate) struct Front {
    router: Router,
}

/// Keeps the router's time: dynos come out of their quarantine.
pub(crate) struct Timekeeper {
    router: Router,
}

/// One request. When Pingora drops it half-way, the ticket leaves the line and the lease checks its dyno in.
#[derive(Default)]
pub(crate) struct Trip {
    /// A place in line: only after a dyno could not be reached.
    ticket: Option<Ticket>,
    lease: Option<Lease>,
}

impl Front {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }

    /// Takes a place in line: the app is found by Host and path.
    fn join(&self, session: &Session) -> Result<Ticket, Fault> {
        let request = session.req_header();
        let host = request.headers.get("host").and_then(|host| host.to_str().ok());
        // Over HTTP/2 it stands in the URI.
        let host = host.or_else(|| request.uri.authority().map(|host| host.as_str())).unwrap_or_default();
        let app = self.router.route(host, request.uri.path())?;
        self.router.ticket(&app, 0)
    }
}

#[async_trait]
impl ProxyHttp for Front {
    /// A lease is not `Sync` (its parcel need not be), and Pingora wants that: only `get_mut` leads inside.
    type CTX = SyncWrapper<Trip>;

    fn new_ctx(&self) -> Self::CTX {
        SyncWrapper::new(Trip::default())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        trip: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>, BError> {
        let trip = trip.get_mut();
        if trip.lease.is_none() {
            let ticket = match trip.ticket.take() {
                Some(ticket) => ticket,
                None => self.join(session).map_err(refusal)?,
            };
            let lease = tokio::select! {
                lease = wait(ticket) => lease.map_err(refusal)?,
                error = client_gone(session) => return Err(error),
            };
            trip.lease = Some(lease);
        }
        // Else a pooled connection had died, Pingora tries again, and the dyno is still ours.
        let Some(lease) = &trip.lease else { return Err(refusal(Fault::Platform)) };
        let limits = lease.limits();
        let mut peer = HttpPeer::new(lease.dyno().address, false, String::new());
        peer.options.connection_timeout = Some(limits.connect);
        peer.options.read_timeout = Some(limits.first_byte);
        peer.options.idle_timeout = Some(limits.keepalive);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        trip: &mut Self::CTX,
        mut error: BError,
    ) -> BError {
        let trip = trip.get_mut();
        let timed_out = error.etype == ErrorType::ConnectTimedout;
        let fault = if timed_out { Fault::ConnectTimeout } else { Fault::ConnectRefused };
        let Some(lease) = trip.lease.take() else { return error };
        // The dyno goes into quarantine, the request to the front of the line; `upstream_peer` waits there.
        match lease.again(fault) {
            Ok(ticket) => {
                trip.ticket = Some(ticket);
                error.set_retry(true);
                error
            }
            Err(fault) => refusal(fault),
        }
    }

    async fn logging(&self, _: &mut Session, error: Option<&Error>, trip: &mut Self::CTX) {
        let Some(lease) = trip.get_mut().lease.take() else { return };
        let outcome = match error.map(Error::esource) {
            None => Outcome::Served,
            Some(ErrorSource::Downstream) => Outcome::Cut,
            Some(_) => Outcome::Failed,
        };
        lease.check_in(outcome);
    }
}

#[async_trait]
impl BackgroundService for Timekeeper {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            let moved = self.router.alarm_moved();
            let next = self.router.tick();
            let alarm = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => {}
                () = moved => {}
                _ = shutdown.changed() => return,
            }
        }
    }
}

impl Timekeeper {
    pub(crate) fn new(router: Router) -> Self {
        Self { router }
    }
}

/// Waits for a dyno, but no longer than the ticket's deadline: a ticket has no timer of its own.
async fn wait(mut ticket: Ticket) -> Result<Lease, Fault> {
    loop {
        let Some(deadline) = ticket.deadline() else { return ticket.await };
        if let Ok(granted) = timeout_at(deadline.into(), &mut ticket).await {
            return granted;
        }
        // It moves while the line is paused.
        if ticket.deadline().is_none_or(|now| now <= deadline) {
            return ticket.expire();
        }
    }
}

/// Ready when the client of a request without a body hangs up: then the request leaves the line.
async fn client_gone(session: &mut Session) -> BError {
    if session.is_body_empty()
        && let Err(error) = session.as_mut().read_body_or_idle(true).await
    {
        return Error::because(ErrorType::HTTPStatus(CLIENT_GONE), "the client went away in line", error);
    }
    std::future::pending().await
}

fn refusal(fault: Fault) -> BError {
    Error::explain(ErrorType::HTTPStatus(fault.status()), format!("{} {fault}", fault.code()))
}
