//! Step 6 as a caller sees it: one dyno for one request. Ends with an outcome, or on drop; then the dyno is
//! checked in.
//!
//! *Shared:* nothing; a lease has one owner. *Lock:* the app's, for the check-in. *Wakes:* the next in line.
//! *Cancel:* dropping the lease checks the dyno in. *Never:* a second check-in: the grant is moved out on the first.

use std::any::Any;
use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::limits::Limits;
use crate::policy::app::Grant;
use crate::policy::dyno::DynoInfo;
use crate::policy::health::Outcome;
use crate::router::AppRef;
use crate::router::bell::Bell;
use crate::router::parking::{Common, Parcel};
use crate::router::shared::Granted;
use crate::router::ticket::Ticket;

/// The right to use one dyno for one request.
///
/// Ends exactly once: by [`check_in`](Self::check_in), by [`again`](Self::again), or on drop, which counts as
/// [`Outcome::Unused`]. A lease that is neither kept nor dropped (`mem::forget`) keeps its dyno busy for ever.
///
/// A lease can carry one value of the owner's choice, its *parcel*: typically the dyno's one connection. What is in
/// the parcel when the lease is checked in stays with the dyno and comes with its next lease. It is dropped when
/// the dyno leaves the app.
pub struct Lease {
    app: AppRef,
    /// `None` once it has ended.
    grant: Option<Grant>,
    parcel: Option<Parcel>,
    lingers: bool,
    /// Its connection has changed the protocol.
    upgraded: Option<crate::sync::Arc<Bell>>,
}

impl Lease {
    pub(crate) fn new(app: AppRef, granted: Granted) -> Self {
        Self { app, grant: Some(granted.grant), parcel: granted.parcel, lingers: false, upgraded: None }
    }

    /// The dyno.
    pub fn dyno(&self) -> &DynoInfo {
        &self.grant().info
    }

    /// The same, to keep beyond the lease.
    pub fn dyno_info(&self) -> std::sync::Arc<DynoInfo> {
        std::sync::Arc::clone(&self.grant().info)
    }

    /// The app.
    pub fn app(&self) -> &AppRef {
        &self.app
    }

    /// The limits of the app as they are now.
    pub fn limits(&self) -> std::sync::Arc<Limits> {
        self.app.limits()
    }

    /// From the request's first arrival to this lease.
    pub fn waited(&self) -> Duration {
        let grant = self.grant();
        grant.at.duration_since(grant.place.arrived)
    }

    /// When the lease was granted.
    pub fn granted_at(&self) -> Instant {
        self.grant().at
    }

    /// How many dynos the request has been offered to, this one included.
    pub fn tries(&self) -> u32 {
        self.grant().place.tries
    }

    /// Takes the parcel out if it is a `T`; a parcel of another type is dropped.
    pub fn take_parcel<T: Any + Send>(&mut self) -> Option<Box<T>> {
        self.parcel.take()?.downcast().ok()
    }

    /// Puts something into the parcel; what was in it is dropped.
    pub fn put_parcel<T: Any + Send>(&mut self, value: Box<T>) {
        self.parcel = Some(value);
    }

    /// What all leases of this dyno share, made when it is first asked for. It is dropped when the dyno leaves the app.
    pub fn common<T: Any + Send + Sync + Default>(&self) -> std::sync::Arc<T> {
        let fresh = || std::sync::Arc::<T>::default() as Common;
        let common = self.app.shared().common(self.grant().dyno, fresh);
        // Of another type only if two who lease from one router share different things: each has its own then.
        common.downcast().unwrap_or_default()
    }

    /// Says that nobody waits for the answer any more while the dyno still works on it. The dyno counts as busy
    /// until the lease ends.
    pub fn linger(&mut self) {
        if !self.lingers {
            self.lingers = true;
            self.app.shared().linger(self.grant().dyno);
        }
    }

    /// Says that the dyno has answered by changing the protocol of the request's connection (101), which counts as a
    /// good answer. If the dyno may hold such a connection beside its requests ([`Limits::streams`]), it is free for
    /// its next request, over another connection; if not, it stays busy. Either way the lease lasts as long as the
    /// connection, and how it ends says nothing about the dyno.
    pub fn upgrade(&mut self) {
        if self.upgraded.is_none() && !self.grant().probe {
            self.upgraded = Some(self.app.shared().upgrade(self.grant()));
        }
    }

    /// Ready when the dyno of an upgraded request is to leave. It may be brought back: see [`stays`](Self::stays).
    pub fn poll_leaves(&self, cx: &Context<'_>) -> Poll<()> {
        self.upgraded.as_ref().map_or(Poll::Pending, |bell| bell.poll(cx))
    }

    /// Whether the dyno of an upgraded request that was to leave is not to any more.
    /// [`poll_leaves`](Self::poll_leaves) is pending then, until it is to leave again.
    pub fn stays(&self) -> bool {
        // Quiet before the look: what comes after it rings.
        self.upgraded.iter().for_each(|bell| bell.quiet());
        let stays = !self.app.shared().leaves(self.grant().dyno);
        if !stays {
            self.upgraded.iter().for_each(|bell| bell.ring());
        }
        stays
    }

    /// Gives the dyno back. The next in line gets it.
    pub fn check_in(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    /// The dyno could not be reached and has seen nothing of the request. The dyno goes into quarantine, the
    /// request back to the front of the line, with its first time of arrival.
    ///
    /// # Errors
    /// `failed`, when the request has been offered to [`Limits::max_tries`] dynos;
    /// [`Fault::NoSuchApp`] when its app has been taken away. `failed`, when this is the lease of a probe or of an
    /// upgraded request, which have no place in line.
    pub fn again(mut self, failed: Fault) -> Result<Ticket, Fault> {
        let Some(grant) = self.grant.take() else { return Err(Fault::Platform) };
        // The connection that could not be used goes now, not when the ticket does.
        self.parcel = None;
        if grant.probe || self.upgraded.is_some() {
            self.grant = Some(grant);
            return Err(failed);
        }
        let place = self.app.shared().again(&grant, self.lingers, failed)?;
        Ok(Ticket::in_line(self.app.clone(), place))
    }

    fn grant(&self) -> &Grant {
        self.grant.as_ref().expect("only methods that consume the lease take the grant out")
    }

    fn end(&mut self, outcome: Outcome) {
        let Some(grant) = self.grant.take() else { return };
        let parcel = self.parcel.take();
        match self.upgraded.take() {
            Some(bell) => self.app.shared().end_upgraded(&grant, self.lingers, &bell),
            None => self.app.shared().check_in(&grant, self.lingers, outcome, parcel),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(Outcome::Unused);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("app", self.app.id())
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}
