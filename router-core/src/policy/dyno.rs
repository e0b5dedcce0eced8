//! What one dyno does. All moves are made by [`Dyno::step`]; what is not in this table does not happen.
//!
//! # State
//!
//! | standing \ event | `Staged` | `Boots` | `Ready` | `Crashed` | `Unreachable` | `Again` (time is up) |
//! |---|---|---|---|---|---|---|
//! | staged | – | booting | serving | crashed | – | – |
//! | booting | staged | – | serving | crashed | – | – |
//! | serving | staged | booting | – | crashed | quarantined | – |
//! | quarantined | staged | booting | serving | crashed | quarantined, longer | serving, on probation |
//! | crashed | staged | booting | serving | – | – | – |
//! | draining | – | – | – | – | – | – |
//!
//! `Leaves` makes every dyno draining, or gone. `Returns` makes of a draining dyno what the control plane says, and
//! leaves every other as it is. `–` leaves the standing as it is. A staged dyno counts for nothing: no request waits
//! for it.
//!
//! `Canary` is `Ready` for the canary's lane. `Ready` and `Staged` bring a dyno to the main lane, and who returns
//! begins there; everything else leaves it where it is: a dyno crashes, boots and is in quarantine in its lane.
//!
//! A dyno that is *lent* is another router's for now. It stands as before, so that requests wait for it as for a busy
//! one, and has no room.
//!
//! Requests in flight are counted apart from the standing: a dyno that crashes, leaves and comes back while it is busy
//! is busy all the way, and *idle, busy, lingering* are what people call a serving dyno with room, without room, and
//! without room because of requests that nobody waits for. A draining dyno with no request in flight is gone.
//!
//! # Invariants
//!
//! * Never more than `concurrency` requests in flight by our doing; on probation (a failure since the last
//!   success) never more than one. (A lower `concurrency` from the control plane holds for new requests.)
//! * `lingering <= in_flight`.

use std::sync::Arc;
use std::time::Instant;

use crate::canary::Lane;
use crate::change::{DynoHealth, DynoSpec};
use crate::ids::{Address, DynoName, ReleaseId};
use crate::limits::Limits;
use crate::snapshot::{DynoSnapshot, DynoState};

/// What a lease needs to know of its dyno: fixed while the dyno is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynoInfo {
    /// Where it listens.
    pub address: Address,
    /// What people call it.
    pub name: DynoName,
    /// The release it runs.
    pub release: ReleaseId,
    /// How many requests it serves at once.
    pub concurrency: u32,
}

/// One dyno of an app.
#[derive(Debug)]
pub(crate) struct Dyno {
    info: Arc<DynoInfo>,
    /// Which claim on the address this is; says on leaving that it is this one that has ended.
    epoch: u64,
    standing: Standing,
    lane: Lane,
    lent: bool,
    in_flight: u32,
    lingering: u32,
    /// Failures to connect in a row; above zero a serving dyno is on probation.
    failures: u32,
    dispatched: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody counts on it. → booting, serving, crashed, draining.
    Staged,
    /// Its process starts. → staged, serving, crashed, draining.
    Booting,
    /// Its process died. → staged, booting, serving, draining.
    Crashed,
    /// It takes requests. → staged, quarantined, booting, crashed, draining.
    Serving,
    /// It did not accept a connection. → serving once `until` has come, or `soon` if nobody else can serve.
    Quarantined { until: Instant, soon: Instant },
    /// It leaves. → gone when its last request has ended, or back.
    Draining,
}

/// What happens to a dyno, requests aside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The control plane: its process is that far.
    Is(DynoHealth),
    /// A connection could not be opened.
    Unreachable(Instant),
    /// Its quarantine is over.
    Again,
    /// The control plane takes it away.
    Leaves,
    /// The control plane brings it back.
    Returns(DynoHealth),
}

impl Dyno {
    pub(crate) fn new(spec: &DynoSpec, release: &ReleaseId, epoch: u64) -> Self {
        let mut dyno = Self {
            info: Arc::new(info(spec, release)),
            epoch,
            standing: Standing::Staged,
            lane: Lane::Main,
            lent: false,
            in_flight: 0,
            lingering: 0,
            failures: 0,
            dispatched: 0,
        };
        dyno.standing = dyno.told(spec.state);
        dyno
    }

    pub(crate) fn info(&self) -> &Arc<DynoInfo> {
        &self.info
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Is it on probation: one request at a time until one succeeds?
    pub(crate) fn on_probation(&self) -> bool {
        self.failures > 0
    }

    /// How many more requests it may be given.
    pub(crate) fn room(&self) -> u32 {
        let most = if self.on_probation() { 1 } else { self.info.concurrency };
        match self.standing {
            Standing::Serving if self.lent => 0,
            Standing::Serving => most.saturating_sub(self.in_flight),
            Standing::Staged | Standing::Booting | Standing::Crashed => 0,
            Standing::Quarantined { .. } | Standing::Draining => 0,
        }
    }

    /// Another router has it from now on, or no longer.
    pub(crate) fn lend(&mut self, lent: bool) {
        self.lent = lent;
    }

    /// Whether nothing keeps it here any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.standing == Standing::Draining && self.in_flight == 0
    }

    /// It gets a request.
    pub(crate) fn grant(&mut self) {
        debug_assert!(self.room() > 0, "a dyno without room gets no request");
        self.in_flight += 1;
        self.dispatched += 1;
    }

    /// Nobody waits any more for one of its requests.
    pub(crate) fn linger(&mut self) {
        debug_assert!(self.lingering < self.in_flight, "only a request in flight lingers");
        self.lingering += 1;
    }

    /// One of its requests has ended. `proven`: it answered, so it is alive and well.
    pub(crate) fn check_in(&mut self, lingered: bool, proven: bool) {
        debug_assert!(self.in_flight > 0, "only a request in flight is checked in");
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lingering = self.lingering.saturating_sub(u32::from(lingered));
        if proven {
            self.failures = 0;
        }
    }

    /// New words, concurrency and release for the same dyno.
    pub(crate) fn rename(&mut self, spec: &DynoSpec, release: &ReleaseId, epoch: u64) {
        self.epoch = epoch;
        let new = info(spec, release);
        if *self.info != new {
            self.info = Arc::new(new);
        }
    }

    /// Makes the move of the table at the head of this file.
    pub(crate) fn step(&mut self, event: Event, limits: &Limits) {
        use Standing::{Booting, Crashed, Draining, Quarantined, Serving, Staged};
        self.standing = match (self.standing, event) {
            (_, Event::Leaves) => Draining,
            (Draining, Event::Returns(health)) => {
                self.lane = Lane::Main;
                self.told(health)
            }
            // It leaves: how its process is makes no difference any more.
            (Draining, Event::Is(_) | Event::Unreachable(_) | Event::Again) => Draining,
            (before, Event::Is(health)) => {
                let after = self.told(health);
                if after == Serving && before != Serving {
                    // Its process is new: what the old one did is no reason for doubt.
                    self.failures = 0;
                }
                after
            }
            (Serving | Quarantined { .. }, Event::Unreachable(now)) => {
                self.failures = self.failures.saturating_add(1);
                quarantine(self.failures, now, limits)
            }
            (stays @ (Staged | Booting | Crashed), Event::Unreachable(_)) => stays,
            (Quarantined { .. }, Event::Again) => Serving,
            (stays @ (Staged | Booting | Crashed | Serving), Event::Again) => stays,
            (stays, Event::Returns(_)) => stays,
        };
    }

    /// What the control plane says of its process, and with it of its lane.
    fn told(&mut self, health: DynoHealth) -> Standing {
        let (standing, lane) = match health {
            DynoHealth::Staged => (Standing::Staged, Lane::Main),
            DynoHealth::Booting => (Standing::Booting, self.lane),
            DynoHealth::Ready => (Standing::Serving, Lane::Main),
            DynoHealth::Canary => (Standing::Serving, Lane::Canary),
            DynoHealth::Crashed => (Standing::Crashed, self.lane),
        };
        self.lane = lane;
        standing
    }

    pub(crate) fn snapshot(&self) -> DynoSnapshot {
        DynoSnapshot {
            address: self.info.address,
            name: self.info.name.clone(),
            release: self.info.release.clone(),
            lane: self.lane,
            state: self.state(),
            concurrency: self.info.concurrency,
            in_flight: self.in_flight,
            lingering: self.lingering,
            dispatched: self.dispatched,
            failures: self.failures,
        }
    }

    fn state(&self) -> DynoState {
        match self.standing {
            Standing::Staged => DynoState::Staged,
            Standing::Booting => DynoState::Booting,
            Standing::Crashed => DynoState::Crashed,
            Standing::Quarantined { .. } => DynoState::Quarantined,
            Standing::Draining => DynoState::Draining,
            Standing::Serving if self.room() > 0 => DynoState::Idle,
            Standing::Serving if self.lent && self.in_flight == 0 => DynoState::Lent,
            Standing::Serving if self.lingering == self.in_flight && self.lingering > 0 => {
                DynoState::Lingering
            }
            Standing::Serving => DynoState::Busy,
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.lingering <= self.in_flight, "who lingers is in flight");
        assert!(!self.is_gone(), "a dyno that is gone is not kept");
    }
}

fn info(spec: &DynoSpec, release: &ReleaseId) -> DynoInfo {
    DynoInfo {
        address: spec.address,
        name: spec.name.clone(),
        release: spec.release.as_ref().unwrap_or(release).clone(),
        concurrency: spec.concurrency.max(1),
    }
}

/// `quarantine`, doubled with each failure in a row up to `quarantine_max`. While nobody else can serve, a fiftieth
/// of it is enough (100 ms by default): a lone dyno that restarts is back at once instead of after 5 s.
fn quarantine(failures: u32, now: Instant, limits: &Limits) -> Standing {
    let doublings = (failures - 1).min(16);
    let long = limits.quarantine.saturating_mul(1 << doublings).min(limits.quarantine_max);
    let short = (limits.quarantine / 50).saturating_mul(1 << doublings).min(limits.quarantine).min(long);
    Standing::Quarantined { until: now + long, soon: now + short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::time::Duration;

    fn dyno(concurrency: u32) -> Dyno {
        let spec = DynoSpec { concurrency, ..DynoSpec::new(([127, 0, 0, 1], 3000).into()) };
        Dyno::new(&spec, &"v1".into(), 1)
    }

    #[test]
    fn quarantine_doubles_up_to_its_bound_and_the_way_back_is_one_request_at_a_time() {
        let now = Clock::manual().now();
        let limits = Limits::default();
        let mut dyno = dyno(3);
        let mut waits = Vec::new();
        for _ in 0..6 {
            dyno.step(Event::Unreachable(now), &limits);
            let Standing::Quarantined { until, .. } = dyno.standing() else { panic!("not in quarantine") };
            waits.push((until - now).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 75, 75]);
        dyno.step(Event::Again, &limits);
        assert_eq!(dyno.room(), 1, "one probe at a time");
        dyno.grant();
        assert_eq!(dyno.room(), 0);
        dyno.check_in(false, true);
        assert_eq!(dyno.room(), 3);
    }

    #[test]
    fn a_busy_dyno_that_leaves_and_returns_is_still_busy() {
        let limits = Limits::default();
        let mut dyno = dyno(1);
        dyno.grant();
        dyno.step(Event::Leaves, &limits);
        assert!(!dyno.is_gone());
        dyno.step(Event::Returns(DynoHealth::Ready), &limits);
        assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy));
        dyno.check_in(false, true);
        assert_eq!(dyno.room(), 1);
    }

    #[test]
    fn a_staged_dyno_takes_nothing_until_it_is_ready_and_a_serving_one_can_be_staged() {
        let (now, limits) = (Clock::manual().now(), Limits::default());
        let mut dyno = dyno(1);
        dyno.grant();
        dyno.step(Event::Is(DynoHealth::Staged), &limits);
        for nothing in [Event::Unreachable(now), Event::Again, Event::Returns(DynoHealth::Ready)] {
            dyno.step(nothing, &limits);
            assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Staged));
        }
        dyno.step(Event::Is(DynoHealth::Ready), &limits);
        assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy), "its request is still there");
    }

    #[test]
    fn a_lent_dyno_finishes_what_it_has_and_takes_nothing() {
        let limits = Limits::default();
        let mut dyno = dyno(2);
        dyno.grant();
        dyno.lend(true);
        assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy));
        dyno.check_in(false, true);
        assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Lent));
        for event in [Event::Again, Event::Is(DynoHealth::Crashed), Event::Is(DynoHealth::Ready)] {
            dyno.step(event, &limits);
            assert_eq!(dyno.room(), 0);
        }
        dyno.lend(false);
        assert_eq!((dyno.room(), dyno.snapshot().state), (2, DynoState::Idle));
    }

    #[test]
    fn a_lone_dyno_is_tried_again_sooner() {
        let now = Clock::manual().now();
        let mut dyno = dyno(1);
        dyno.step(Event::Unreachable(now), &Limits::default());
        let Standing::Quarantined { soon, .. } = dyno.standing() else { panic!("not in quarantine") };
        assert_eq!(soon - now, Duration::from_millis(100));
    }
}
