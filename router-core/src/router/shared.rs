//! One app under one lock: runs the pure state, collects who is to be woken, unlocks, and wakes.
//!
//! *Shared:* one [`SharedApp`] between all requests of an app and the control plane.
//! *Lock:* `state`, held for one step of the pure state and nothing else: no I/O, no await, no waker, no drop of a
//! connection under it. Two apps share no lock. Order of locks: control, claim, app, alarm.
//! *Wakes:* whoever checks a dyno in, expires, cancels or changes something wakes the requests that got a dyno or
//! were refused by that, after unlocking. A line that is held is let go by `tick` (loom:
//! `a_resume_by_the_clock_meets_arrival`).
//! *Cancel:* a dropped ticket leaves the line in O(1); one that had been granted a dyno and not taken it hands the
//! dyno to the next in line (loom: `a_granted_ticket_that_is_dropped_loses_no_dyno`).
//! *Never:* a lost wake-up (loom: `check_in_meets_arrival`), a dyno granted twice (loom: all models).

use std::sync::Arc as StdArc;
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::canary::{Canary, Lane, is_in_share};
use crate::change::{DynoHealth, DynoSpec, Hold};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::ids::{Address, AppId, DynoId, ReleaseId, TicketId};
use crate::limits::Limits;
use crate::policy::app::{App, Arrived, Effect, Ending, Gone, Grant};
use crate::policy::health::{Outcome, Probed};
use crate::router::bell::{Bell, Bells};
use crate::router::hub::Hub;
use crate::router::parking::{Common, Parcel, Parking};
use crate::snapshot::AppSnapshot;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::wish::Wish;

/// An app as all its requests share it.
pub(crate) struct SharedApp {
    id: AppId,
    clock: Clock,
    hub: Arc<Hub>,
    limits: ArcSwap<Limits>,
    canary: ArcSwapOption<Canary>,
    /// Requests that were asked whether they are in the canary's share.
    shares: AtomicU64,
    state: Mutex<State>,
    /// For those who look without the lock; a moment old.
    waiting: AtomicU64,
    idle: AtomicU64,
}

struct State {
    app: App,
    /// Requests in line, each with its waker; a slot of its own, because the queue uses a granted request's
    /// place again before the request has taken its dyno.
    waiters: Vec<Waiter>,
    free_waiters: Vec<u32>,
    /// Which waiter stands at a place in line.
    waiter_of: Vec<u32>,
    parking: Parking,
    /// Upgraded requests, to be told when their dyno leaves.
    bells: Bells,
    /// What the alarm was last told.
    alarm: Option<Instant>,
}

enum Waiter {
    Vacant,
    Waiting(Option<Waker>),
    Granted(Grant),
    Refused(Fault),
}

/// A place in line as its ticket knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InLine {
    pub(crate) ticket: TicketId,
    waiter: u32,
}

/// A dyno with what was left at it.
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) parcel: Option<Parcel>,
}

/// How a request enters.
pub(crate) enum Entered {
    Granted(Granted),
    InLine(InLine),
}

/// What an operation of the control plane does to one app.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Box<Limits>, ReleaseId),
    Add(DynoSpec, u64),
    Remove(Address),
    Set(Address, DynoHealth),
    Hold(Hold),
    Lend(Address, bool),
    Canary(Option<Canary>),
    Close,
}

/// What has to be done once the lock is open again.
#[derive(Default)]
#[must_use = "somebody waits for the wakers in it"]
pub(crate) struct Owed {
    /// Nearly always one or none.
    first: Option<Waker>,
    more: Vec<Waker>,
    alarm: Option<Waker>,
    bells: Vec<Arc<Bell>>,
    gone: Vec<Gone>,
    /// Connections of dynos that have left: closed when this is dropped.
    parcels: Vec<Parcel>,
}

impl SharedApp {
    pub(crate) fn new(id: AppId, limits: Limits, release: ReleaseId, clock: Clock, hub: Arc<Hub>) -> Self {
        let seed = id
            .as_str()
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        let state = State {
            app: App::new(limits.clone(), release, seed),
            waiters: Vec::new(),
            free_waiters: Vec::new(),
            waiter_of: Vec::new(),
            parking: Parking::default(),
            bells: Bells::default(),
            alarm: None,
        };
        Self {
            id,
            clock,
            hub,
            limits: ArcSwap::from_pointee(limits),
            canary: ArcSwapOption::empty(),
            shares: AtomicU64::new(0),
            state: Mutex::new(state),
            waiting: AtomicU64::new(0),
            idle: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> &AppId {
        &self.id
    }

    pub(crate) fn limits(&self) -> StdArc<Limits> {
        self.limits.load_full()
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    pub(crate) fn canary(&self) -> Option<StdArc<Canary>> {
        self.canary.load_full()
    }

    /// The lane of a request that takes its ticket now; `carries` says whether it has the canary's header or cookie.
    pub(crate) fn lane(&self, carries: impl FnOnce(&Canary) -> bool) -> Lane {
        let canary = self.canary.load();
        let Some(canary) = canary.as_deref() else { return Lane::Main };
        let is_canarys = match canary {
            Canary::Share(share) => is_in_share(*share, self.shares.fetch_add(1, Ordering::Relaxed)),
            Canary::Header { .. } | Canary::Cookie { .. } => carries(canary),
        };
        if is_canarys { Lane::Canary } else { Lane::Main }
    }

    /// A request of that lane arrives.
    pub(crate) fn arrive(&self, lane: Lane, bytes: u64, wish: Option<Wish>) -> Result<Entered, Fault> {
        self.step(|state, now| match state.app.arrive(now, lane, bytes, wish) {
            Arrived::Granted(grant) => Ok(Entered::Granted(state.hand_over(grant))),
            Arrived::InLine { ticket } => Ok(Entered::InLine(state.wait(ticket))),
            Arrived::Refused(fault) => Err(fault),
        })
    }

    /// A request whose dyno could not be reached goes back to the front of the line.
    pub(crate) fn again(&self, grant: &Grant, lingered: bool, failed: Fault) -> Result<InLine, Fault> {
        self.step(|state, now| {
            let ticket = state.app.again(now, grant.dyno, grant.place, lingered, failed)?;
            Ok(state.wait(ticket))
        })
    }

    /// When the request will have waited long enough, as far as is known now; `None`: it no longer waits.
    pub(crate) fn deadline(&self, place: InLine) -> Option<Instant> {
        self.state.lock().app.deadline(place.ticket)
    }

    /// One dyno for a probe, if it is idle and nobody waits.
    pub(crate) fn probe(&self, address: Address) -> Option<Granted> {
        self.step(|state, now| {
            let grant = state.app.probe(now, address)?;
            Some(state.hand_over(grant))
        })
    }

    /// What a probe says of a dyno.
    pub(crate) fn probed(&self, address: Address, good: bool) -> Probed {
        self.step(|state, now| state.app.probed(now, address, good))
    }

    /// The request's turn, if it has come; else the waker is kept for when it does.
    pub(crate) fn poll(&self, place: InLine, waker: &Waker) -> Option<Result<Granted, Fault>> {
        let mut state = self.state.lock();
        if let Waiter::Waiting(old) = &mut state.waiters[place.waiter as usize] {
            if !old.as_ref().is_some_and(|old| old.will_wake(waker)) {
                *old = Some(waker.clone());
            }
            return None;
        }
        Some(state.take(place))
    }

    /// The request's time is up: what became of it. A dyno granted in the meantime is as good as any.
    pub(crate) fn expire(&self, place: InLine) -> Result<Granted, Fault> {
        self.step(|state, now| {
            if let Some(fault) = state.app.expire(now, place.ticket) {
                state.vacate(place.waiter);
                return Err(fault);
            }
            state.take(place)
        })
    }

    /// The request is gone before its turn, or before it has taken its dyno.
    pub(crate) fn cancel(&self, place: InLine) {
        self.step(|state, now| {
            state.app.cancel(now, place.ticket);
            if let Waiter::Granted(grant) = state.vacate(place.waiter) {
                let unused = Ending { held: Duration::ZERO, lingered: false, outcome: Outcome::Unused };
                state.app.check_in(now, grant.dyno, unused);
            }
        });
    }

    /// A request in flight has ended.
    pub(crate) fn check_in(&self, grant: &Grant, lingered: bool, outcome: Outcome, parcel: Option<Parcel>) {
        self.step(|state, now| {
            if let Some(parcel) = parcel {
                state.parking.put(grant.dyno, parcel);
            }
            let held = now.duration_since(grant.at);
            match grant.probe {
                true => state.app.end_probe(grant.dyno, lingered),
                false => state.app.check_in(now, grant.dyno, Ending { held, lingered, outcome }),
            }
        });
    }

    /// The dyno has changed the protocol of a request in flight. The bell rings when the dyno leaves.
    pub(crate) fn upgrade(&self, grant: &Grant) -> Arc<Bell> {
        self.step(|state, now| {
            state.app.upgrade(grant.dyno, now.duration_since(grant.at));
            let leaves = state.app.leaves(grant.dyno);
            state.bells.hang(grant.dyno, leaves)
        })
    }

    /// An upgraded request has ended.
    pub(crate) fn end_upgraded(&self, grant: &Grant, lingered: bool, bell: &Arc<Bell>) {
        self.step(|state, _| {
            state.bells.take_down(bell);
            state.app.end_upgraded(grant.dyno, lingered);
        });
    }

    /// Whether the dyno leaves, or is gone.
    pub(crate) fn leaves(&self, dyno: DynoId) -> bool {
        self.state.lock().app.leaves(dyno)
    }

    /// What all leases of a dyno share, or else `fresh`, which it is from now on. The dyno is leased.
    pub(crate) fn common(&self, dyno: DynoId, fresh: impl FnOnce() -> Common) -> Common {
        self.state.lock().parking.common(dyno, fresh)
    }

    /// Nobody waits for a request in flight any more.
    pub(crate) fn linger(&self, dyno: DynoId) {
        self.step(|state, _| state.app.linger(dyno));
    }

    /// Does what is due by the clock alone.
    pub(crate) fn tick(&self) {
        self.step(|state, now| state.app.tick(now));
    }

    /// Applies changes as one: nothing is dispatched in between. The caller pays what is owed once it holds no lock,
    /// and tells the hub who is gone.
    pub(crate) fn change(&self, ops: &[Op]) -> Owed {
        let mut parcels = Vec::new();
        let (bells, mut owed) = self.locked(|state, now| {
            for op in ops {
                match op {
                    Op::Put(limits, release) => {
                        let before = self.limits.swap(StdArc::new((**limits).clone()));
                        if before.protocol != limits.protocol || before.secured() != limits.secured() {
                            // What is open speaks the other one, or not as securely.
                            let open = state.parking.clear_all();
                            parcels.extend(open);
                        }
                        state.app.put((**limits).clone(), release.clone(), 1);
                    }
                    Op::Add(spec, epoch) => state.app.add(spec, *epoch),
                    Op::Remove(address) => {
                        state.app.remove(*address);
                    }
                    Op::Set(address, health) => {
                        state.app.set(*address, *health);
                    }
                    Op::Hold(hold) => state.app.hold(*hold, now),
                    Op::Lend(address, lent) => {
                        state.app.lend(*address, *lent);
                    }
                    Op::Canary(canary) => self.canary.store(canary.clone().map(StdArc::new)),
                    Op::Close => {
                        self.canary.store(None);
                        state.app.close(now);
                    }
                }
            }
            let leave = ops.iter().any(|op| matches!(op, Op::Remove(_) | Op::Close));
            if leave { state.bells.of(|dyno| state.app.leaves(dyno)) } else { Vec::new() }
        });
        owed.bells = bells;
        owed.parcels.append(&mut parcels);
        owed
    }

    /// Another router has the dyno from now on. Says whether this one is done with it: no request is in flight on it,
    /// and what stayed with it, its connection, is gone.
    pub(crate) fn lend(&self, address: Address) -> bool {
        let lent = self.step(|state, _| {
            let Some((dyno, busy)) = state.app.lend(address, true) else { return Some(Vec::new()) };
            (!busy).then(|| state.parking.clear(dyno))
        });
        // Connections are closed here, where no lock is held.
        lent.map(drop).is_some()
    }

    /// Whether the app was taken away and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().app.is_over()
    }

    pub(crate) fn retry_after(&self) -> u64 {
        self.state.lock().app.retry_after()
    }

    pub(crate) fn snapshot(&self) -> AppSnapshot {
        let now = self.clock.now();
        self.state.lock().app.snapshot(&self.id, now)
    }

    /// One step of the data plane: under the lock, then what is owed.
    fn step<R>(&self, action: impl FnOnce(&mut State, Instant) -> R) -> R {
        let (result, owed) = self.locked(action);
        for gone in owed.pay() {
            self.hub.left(&self.id, gone);
        }
        result
    }

    fn locked<R>(&self, action: impl FnOnce(&mut State, Instant) -> R) -> (R, Owed) {
        let mut owed = Owed::default();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        // Under the lock, so that the pure state never sees the clock run backwards.
        let now = self.clock.now();
        let result = action(state, now);
        state.settle(now, &mut owed);
        let (waiting, idle) = state.app.gauges();
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        self.idle.store(idle as u64, Ordering::Relaxed);
        let next = state.app.next_tick();
        if next != state.alarm {
            state.alarm = next;
            owed.alarm = self.hub.alarm().set(&self.id, next);
        }
        (result, owed)
    }
}

impl State {
    /// Runs the pure state until it rests.
    fn settle(&mut self, now: Instant, owed: &mut Owed) {
        while let Some(effect) = self.app.next(now) {
            match effect {
                Effect::Grant(ticket, grant) => self.tell(ticket, Waiter::Granted(grant), owed),
                Effect::Refuse(ticket, fault) => self.tell(ticket, Waiter::Refused(fault), owed),
                Effect::Gone(gone) => {
                    owed.parcels.append(&mut self.parking.clear(gone.id));
                    owed.gone.push(gone);
                }
            }
        }
        // Short lines only: the walk is O(n), and tests with long lines are about their length.
        if cfg!(debug_assertions) && self.app.gauges().0 < 64 {
            self.app.check_invariants(now);
        }
    }

    fn tell(&mut self, ticket: TicketId, news: Waiter, owed: &mut Owed) {
        let waiter = self.waiter_of[ticket.slot()] as usize;
        if let Waiter::Waiting(Some(waker)) = std::mem::replace(&mut self.waiters[waiter], news) {
            match owed.first {
                None => owed.first = Some(waker),
                Some(_) => owed.more.push(waker),
            }
        }
    }

    /// A waiter for a request that has just joined the line.
    fn wait(&mut self, ticket: TicketId) -> InLine {
        let fresh = Waiter::Waiting(None);
        let waiter = match self.free_waiters.pop() {
            Some(waiter) => {
                self.waiters[waiter as usize] = fresh;
                waiter
            }
            None => {
                self.waiters.push(fresh);
                (self.waiters.len() - 1) as u32
            }
        };
        if self.waiter_of.len() <= ticket.slot() {
            self.waiter_of.resize(ticket.slot() + 1, 0);
        }
        self.waiter_of[ticket.slot()] = waiter;
        InLine { ticket, waiter }
    }

    fn vacate(&mut self, waiter: u32) -> Waiter {
        self.free_waiters.push(waiter);
        std::mem::replace(&mut self.waiters[waiter as usize], Waiter::Vacant)
    }

    /// What became of a request that no longer waits.
    fn take(&mut self, place: InLine) -> Result<Granted, Fault> {
        match self.vacate(place.waiter) {
            Waiter::Granted(grant) => Ok(self.hand_over(grant)),
            Waiter::Refused(fault) => Err(fault),
            Waiter::Waiting(_) | Waiter::Vacant => {
                debug_assert!(false, "only a request that was told leaves through here");
                Err(Fault::Platform)
            }
        }
    }

    fn hand_over(&mut self, grant: Grant) -> Granted {
        let parcel = self.parking.take(grant.dyno);
        Granted { grant, parcel }
    }
}

impl Owed {
    /// Wakes, and drops connections; both may run foreign code, so no lock is held here.
    pub(crate) fn pay(self) -> Vec<Gone> {
        self.bells.iter().for_each(|bell| bell.ring());
        for waker in self.first.into_iter().chain(self.alarm).chain(self.more) {
            waker.wake();
        }
        self.gone
    }
}
