//! Ring 2: host to app, a place in line, changes, and a picture of it all. Locks and wakers only, no I/O.
//!
//! *Shared:* one [`Router`] in a process; clones are the same router.
//! *Lock:* a request takes none here: it reads the route table (an `ArcSwap`) and then its app's own lock. The
//! control plane takes the control lock for each list of changes.
//! *Wakes, Cancel, Never:* see `router/shared.rs`, where requests meet.

mod bell;
mod control;
mod hub;
mod lease;
mod parking;
#[cfg(all(test, router_loom))]
mod loom_tests;
pub(crate) mod shared;
#[cfg(all(test, not(router_loom)))]
mod tests;
mod ticket;

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc as StdArc;
use std::time::Instant;

use arc_swap::ArcSwap;
use dashmap::DashMap;

pub use lease::Lease;
pub use ticket::Ticket;

use crate::canary::{Canary, Lane};
use crate::change::{AppSpec, Change, ChangeError};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::ids::{Address, AppId};
use crate::limits::Limits;
use crate::policy::health::Probed;
use crate::policy::route::RouteTable;
use crate::snapshot::{AppSnapshot, Snapshot};
use crate::sync::{Arc, Mutex};
use crate::wish::Wish;
use control::Control;
use hub::Hub;
use shared::{Op, SharedApp};

/// The routes, lines and dynos of one process. Cheap to clone; clones are the same router.
///
/// ```
/// use router_core::change::{AppSpec, Change, DynoSpec};
/// use router_core::limits::Limits;
/// use router_core::{Outcome, Router};
/// # use std::future::Future;
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let mut future = std::pin::pin!(future);
/// #     let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
/// #     loop { if let std::task::Poll::Ready(out) = future.as_mut().poll(&mut cx) { return out } }
/// # }
///
/// let router = Router::new();
/// let shop = AppSpec {
///     id: "shop".into(),
///     hosts: vec!["shop.test".into()],
///     release: "v1".into(),
///     limits: Limits::default(),
/// };
/// let dyno = DynoSpec::new("127.0.0.1:3001".parse()?);
/// router.apply(&[Change::PutApp(shop.clone()), Change::AddDyno(shop.id, dyno)])?;
///
/// let app = router.route("shop.test", "/")?;
/// let lease = block_on(router.ticket(&app, 0)?)?;
/// assert_eq!(lease.dyno().address.port(), 3001);
/// lease.check_in(Outcome::Served);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Router(Arc<Inner>);

struct Inner {
    routes: ArcSwap<RouteTable<AppRef>>,
    apps: DashMap<AppId, AppRef>,
    control: Mutex<Control>,
    hub: Arc<Hub>,
    clock: Clock,
}

/// An app of a router. Cheap to clone; stays valid when the app is taken away, and then refuses.
#[derive(Clone)]
pub struct AppRef(Arc<SharedApp>);

impl Router {
    /// A router without apps that takes the time from the system.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// A router without apps that takes the time from `clock`.
    pub fn with_clock(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            routes: ArcSwap::default(),
            apps: DashMap::new(),
            control: Mutex::new(Control::default()),
            hub: Arc::new(Hub::new()),
            clock,
        }))
    }

    /// Step 2: the app that has this host and path.
    ///
    /// # Errors
    /// [`Fault::BadRequest`] when the text cannot be a host, [`Fault::NoSuchApp`] when no app has it.
    pub fn route(&self, host: &str, path: &str) -> Result<AppRef, Fault> {
        self.0.routes.load().find(host, path)?.cloned().ok_or(Fault::NoSuchApp)
    }

    /// The app of that name.
    pub fn app(&self, id: &AppId) -> Option<AppRef> {
        self.0.apps.get(id).map(|app| app.clone())
    }

    /// Step 3: a place in the app's line for a request that holds `bytes` of body while it waits.
    ///
    /// # Errors
    /// The fault with which the request is refused at the door, decided in O(1).
    pub fn ticket(&self, app: &AppRef, bytes: u64) -> Result<Ticket, Fault> {
        self.ticket_on(app, Lane::Main, bytes)
    }

    /// As [`ticket`](Self::ticket), in a lane of the app's line: that which [`AppRef::lane`] says of the request.
    /// While no dyno of the canary's lane serves, boots or is in quarantine, the main lane's dynos serve its
    /// requests.
    ///
    /// ```
    /// use router_core::Router;
    /// use router_core::canary::{Canary, Lane};
    /// use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec};
    /// use router_core::limits::Limits;
    ///
    /// let router = Router::new();
    /// let shop = AppSpec {
    ///     id: "shop".into(),
    ///     hosts: vec!["shop.test".into()],
    ///     release: "v1".into(),
    ///     limits: Limits::default(),
    /// };
    /// let tried = DynoSpec { state: DynoHealth::Canary, ..DynoSpec::new("127.0.0.1:3002".parse()?) };
    /// let beta = Canary::Header { name: "x-beta".into(), value: "1".into() };
    /// router.apply(&[
    ///     Change::PutApp(shop),
    ///     Change::AddDyno("shop".into(), DynoSpec::new("127.0.0.1:3001".parse()?)),
    ///     Change::AddDyno("shop".into(), tried),
    ///     Change::SetCanary("shop".into(), Some(beta)),
    /// ])?;
    ///
    /// let app = router.route("shop.test", "/")?;
    /// let request = [("x-beta", "1")];
    /// let lane = app.lane(|canary| match canary {
    ///     Canary::Header { name, value } => request.contains(&(name, value)),
    ///     Canary::Share(_) | Canary::Cookie { .. } => false,
    /// });
    /// assert_eq!(lane, Lane::Canary);
    /// let _ticket = router.ticket_on(&app, lane, 0)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`ticket`](Self::ticket), for the bounds of that lane.
    pub fn ticket_on(&self, app: &AppRef, lane: Lane, bytes: u64) -> Result<Ticket, Fault> {
        self.ticket_for(app, lane, bytes, None)
    }

    /// As [`ticket_on`](Self::ticket_on), for a request that would rather be served by one given dyno.
    ///
    /// # Errors
    /// As [`ticket`](Self::ticket), for the bounds of that lane. A request that may not wait for its dyno is served by
    /// another one that is idle, if nobody waits.
    pub fn ticket_for(
        &self,
        app: &AppRef,
        lane: Lane,
        bytes: u64,
        wish: Option<Wish>,
    ) -> Result<Ticket, Fault> {
        Ok(Ticket::new(app.clone(), app.shared().arrive(lane, bytes, wish)?))
    }

    /// The right to probe one given dyno, if it is idle at this moment, takes requests, and nobody waits, or if it
    /// gets none because its probes fail; never waits for it. A probe is one of the dyno's requests, so it never
    /// overlaps with one, and the lease has the dyno's parcel as any other. It counts for nothing: not as dispatched,
    /// not in the service time, and its outcome says nothing about the dyno: [`probed`](Self::probed) does. An app
    /// that is paused or resuming is not probed.
    pub fn try_lease_dyno(&self, app: &AppRef, address: Address) -> Option<Lease> {
        Some(Lease::new(app.clone(), app.shared().probe(address)?))
    }

    /// What a probe of a dyno says: after [`Limits::health_fall`] bad ones in a row the dyno gets no more requests,
    /// after [`Limits::health_rise`] good ones it gets them again. A good answer to a request ends a row of bad ones.
    pub fn probed(&self, app: &AppRef, address: Address, good: bool) -> Probed {
        app.shared().probed(address, good)
    }

    /// Applies the changes, all of them or none, in their order. Changes of one app that stand side by side are one
    /// step for it: nothing is dispatched or refused in between. Apps that no change names notice nothing.
    ///
    /// # Errors
    /// Says which change cannot be done. Then nothing has been applied.
    pub fn apply(&self, changes: &[Change]) -> Result<(), ChangeError> {
        let mut control = self.0.control.lock();
        control.admit(changes)?;
        let mut work = Work::default();
        for change in changes {
            self.plan(change, &mut work);
        }
        work.flush(&self.0.hub);
        if work.reroute {
            let mut table = RouteTable::default();
            for (pattern, id) in control.hosts() {
                if let Some(app) = self.app(id) {
                    let read = table.add(&pattern.to_string(), app);
                    debug_assert!(read.is_ok(), "a pattern that was read can be read again");
                }
            }
            self.0.routes.store(StdArc::new(table));
            self.0.apps.retain(|_, app| !app.shared().is_over());
        }
        Ok(())
    }

    /// Lends a dyno to another router: it is given no further request here, whatever apps it is in or comes to, until
    /// [`regain`](Self::regain). Requests wait for it as for a busy one. Says whether this router is done with it: it
    /// has no request in flight and no connection is kept. If not, it may be asked again.
    ///
    /// ```
    /// use router_core::Router;
    ///
    /// let router = Router::new();
    /// let dyno = "127.0.0.1:3001".parse()?;
    /// assert!(router.lend(dyno), "no app has it");
    /// router.regain(dyno);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    pub fn lend(&self, dyno: Address) -> bool {
        // With it no list of changes is half done.
        let _control = self.0.control.lock();
        let app = self.0.hub.lend(dyno, true).and_then(|app| self.app(&app));
        app.is_none_or(|app| app.shared().lend(dyno))
    }

    /// The other router gives a dyno back. One that was not lent takes no notice.
    pub fn regain(&self, dyno: Address) {
        let _control = self.0.control.lock();
        let Some(app) = self.0.hub.lend(dyno, false).and_then(|app| self.app(&app)) else { return };
        for gone in app.shared().change(&[Op::Lend(dyno, false)]).pay() {
            self.0.hub.left(app.id(), gone);
        }
    }

    /// A picture of every app, ordered by name. Takes each app's lock for a moment, one after the other.
    pub fn snapshot(&self) -> Snapshot {
        let refs: Vec<_> = self.0.apps.iter().map(|app| app.clone()).collect();
        let mut apps: Vec<_> = refs.iter().map(AppRef::snapshot).collect();
        apps.sort_by(|a, b| a.id.cmp(&b.id));
        Snapshot { apps }
    }

    /// Does what is due by the clock alone (a quarantine or a hold that is over), and says when to call it again;
    /// `None`: once [`alarm_moved`](Self::alarm_moved) is ready.
    pub fn tick(&self) -> Option<Instant> {
        let (due, _) = self.0.hub.alarm().due(self.0.clock.now());
        for app in due.iter().filter_map(|id| self.app(id)) {
            app.shared().tick();
        }
        self.0.hub.alarm().due(self.0.clock.now()).1
    }

    /// Ready when [`tick`](Self::tick) is to be called earlier than it said. For one task per router.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub fn alarm_moved(&self) -> impl Future<Output = ()> + Send + 'static {
        let hub = Arc::clone(&self.0.hub);
        poll_fn(move |cx| hub.alarm().poll_moved(cx.waker()))
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn plan(&self, change: &Change, work: &mut Work) {
        let hub = &self.0.hub;
        match change {
            Change::PutApp(spec) => {
                work.reroute = true;
                let app = self.app(&spec.id).unwrap_or_else(|| self.new_app(spec));
                work.add(&app, Some(Op::Put(Box::new(spec.limits.clone()), spec.release.clone())), hub);
            }
            Change::RemoveApp(id) => {
                work.reroute = true;
                if let Some(app) = self.app(id) {
                    hub.forget(id);
                    work.add(&app, Some(Op::Close), hub);
                }
            }
            Change::AddDyno(id, spec) => {
                if let Some(app) = self.app(id) {
                    // What was asked of other apps before this comes first: it may set the address free.
                    work.turn_to(&app, hub);
                    let op = hub.claim(&app.0, spec.clone());
                    let lent = op.as_ref().and_then(|_| hub.lent(spec.address));
                    work.add(&app, op, hub);
                    work.add(&app, lent, hub);
                }
            }
            Change::Hold(id, hold) => {
                if let Some(app) = self.app(id) {
                    work.add(&app, Some(Op::Hold(*hold)), hub);
                }
            }
            Change::RemoveDyno(id, address) => {
                if let Some(app) = self.app(id) {
                    let op = hub.disclaim(id, *address);
                    work.add(&app, op, hub);
                }
            }
            Change::SetDyno(id, address, health) => {
                if let Some(app) = self.app(id) {
                    let op = hub.set(id, *address, *health);
                    work.add(&app, op, hub);
                }
            }
            Change::SetCanary(id, canary) => {
                if let Some(app) = self.app(id) {
                    work.add(&app, Some(Op::Canary(canary.clone())), hub);
                }
            }
        }
    }

    fn new_app(&self, spec: &AppSpec) -> AppRef {
        let (id, limits, release) = (spec.id.clone(), spec.limits.clone(), spec.release.clone());
        let shared = SharedApp::new(id, limits, release, self.0.clock.clone(), Arc::clone(&self.0.hub));
        let app = AppRef(Arc::new(shared));
        self.0.apps.insert(spec.id.clone(), app.clone());
        app
    }
}

/// Operations for one app after the other, so that each app sees its own in one piece.
#[derive(Default)]
struct Work {
    app: Option<AppRef>,
    ops: Vec<Op>,
    reroute: bool,
}

impl Work {
    fn turn_to(&mut self, app: &AppRef, hub: &Hub) {
        if self.app.as_ref().is_some_and(|current| current.id() != app.id()) {
            self.flush(hub);
        }
        self.app = Some(app.clone());
    }

    fn add(&mut self, app: &AppRef, op: Option<Op>, hub: &Hub) {
        self.turn_to(app, hub);
        self.ops.extend(op);
    }

    fn flush(&mut self, hub: &Hub) {
        let Some(app) = self.app.take() else { return };
        for gone in app.shared().change(&std::mem::take(&mut self.ops)).pay() {
            hub.left(app.id(), gone);
        }
    }
}

impl AppRef {
    /// The app's name.
    pub fn id(&self) -> &AppId {
        self.0.id()
    }

    /// The limits as they are now.
    pub fn limits(&self) -> StdArc<Limits> {
        self.0.limits()
    }

    /// Which requests are the canary's; `None`: none is.
    pub fn canary(&self) -> Option<StdArc<Canary>> {
        self.0.canary()
    }

    /// The lane of a request that takes its ticket now. Takes no lock. Of a share the app keeps the count, so ask once
    /// a request; of a header or cookie `carries` says whether the request has it. It is asked about nothing else.
    pub fn lane(&self, carries: impl FnOnce(&Canary) -> bool) -> Lane {
        self.0.lane(carries)
    }

    /// Requests in line and dynos with room, in both lanes, without a lock and a moment old.
    pub fn gauges(&self) -> (u64, u64) {
        (self.0.waiting(), self.0.idle())
    }

    /// What a client that is refused now should be told to wait, in seconds: 1 to 60.
    pub fn retry_after(&self) -> u64 {
        self.0.retry_after()
    }

    /// A picture of the app.
    pub fn snapshot(&self) -> AppSnapshot {
        self.0.snapshot()
    }

    pub(crate) fn shared(&self) -> &SharedApp {
        &self.0
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("apps", &self.0.apps.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for AppRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AppRef").field(self.id()).finish()
    }
}
