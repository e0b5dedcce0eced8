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
//! | unhealthy | staged | booting | serving | crashed | – | serving |
//! | draining | – | – | – | – | – | – |
//!
//! `FailsFast` makes of a serving dyno a quarantined one, `Ill` an unhealthy one, `Well` of an unhealthy dyno a serving
//! one; all three leave every other as it is.
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
//! A request in flight may be *upgraded*: its connection speaks another protocol from then on (WebSocket). A dyno holds
//! as many of those beside its requests as its app allows (`streams`, 0 by default); the others stand in its slots as
//! any request does, until one that is beside ends.
//!
//! Requests in flight are counted apart from the standing: a dyno that crashes, leaves and comes back while it is busy
//! is busy all the way, and *idle, busy, lingering* are what people call a serving dyno with room, without room, and
//! without room because of requests that nobody waits for. A draining dyno with no request in flight is gone.
//!
//! # Invariants
//!
//! * Never more than `concurrency` requests in flight by our doing; on probation (a failure since the last
//!   success) never more than one. (A lower `concurrency` from the control plane holds for new requests.)
//! * `lingering <= in_flight` and `upgraded <= in_flight`; never more than `streams` of them count for nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::canary::Lane;
use crate::change::{DynoHealth, DynoSpec};
use crate::ids::{Address, DynoName, ReleaseId};
use crate::limits::Limits;
use crate::policy::health::{Health, Outcome, Probed};
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
    /// Those of its requests in flight that are upgraded.
    upgraded: u32,
    /// How many of them it holds beside its requests.
    streams: u32,
    /// Failures to connect and ejections in a row; above zero a serving dyno is on probation.
    failures: u32,
    /// The last of them was an ejection.
    ejected: bool,
    health: Health,
    dispatched: u64,
    answered: u64,
    /// One of its requests is a probe.
    probing: bool,
    /// It was probed and has had no request since.
    probed: bool,
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
    /// It did not accept a connection, or failed fast. → serving once `until` has come, or `soon` if nobody else can
    /// serve.
    Quarantined { until: Instant, soon: Instant },
    /// Its probes fail. → serving once they do not, or now if nobody else can serve (it fell ill at `soon`).
    Unhealthy { soon: Instant },
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
    /// It failed fast.
    FailsFast(Instant),
    /// Its probes fail.
    Ill(Instant),
    /// Its probes succeed.
    Well,
    /// Its quarantine is over, or nobody else can serve.
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
            upgraded: 0,
            streams: 0,
            failures: 0,
            ejected: false,
            health: Health::default(),
            dispatched: 0,
            answered: 0,
            probing: false,
            probed: false,
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

    /// Requests that stand in its slots: all but the upgraded ones that it may hold beside them.
    pub(crate) fn load(&self) -> u32 {
        self.in_flight - self.beside()
    }

    fn beside(&self) -> u32 {
        self.upgraded.min(self.streams)
    }

    /// Its place among dynos with room: fewer requests come first. Those beside count by their order of magnitude, so
    /// that there are few places.
    pub(crate) fn level(&self) -> u32 {
        self.load() + (u32::BITS - self.beside().leading_zeros())
    }

    /// Is it on probation: one request at a time until one succeeds?
    pub(crate) fn on_probation(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.standing == Standing::Serving
    }

    pub(crate) fn is_unhealthy(&self) -> bool {
        matches!(self.standing, Standing::Unhealthy { .. })
    }

    /// Would it serve if it were not ejected or unhealthy?
    pub(crate) fn is_out(&self) -> bool {
        match self.standing {
            Standing::Quarantined { .. } => self.ejected,
            Standing::Unhealthy { .. } => true,
            Standing::Staged | Standing::Booting | Standing::Crashed => false,
            Standing::Serving | Standing::Draining => false,
        }
    }

    /// When it may be tried early. With an older request in flight it could not take the one for whose sake it is
    /// tried.
    pub(crate) fn soon(&self) -> Option<Instant> {
        match self.standing {
            Standing::Quarantined { soon, .. } | Standing::Unhealthy { soon } if self.load() == 0 => {
                Some(soon)
            }
            Standing::Quarantined { .. } | Standing::Unhealthy { .. } => None,
            Standing::Staged | Standing::Booting | Standing::Crashed => None,
            Standing::Serving | Standing::Draining => None,
        }
    }

    /// Is it the last choice among its equals: in doubt, or busy with nothing but a probe when it was busy last?
    pub(crate) fn is_last_choice(&self) -> bool {
        self.on_probation() || self.probed
    }

    /// How many more requests it may be given.
    pub(crate) fn room(&self) -> u32 {
        let most = if self.on_probation() { 1 } else { self.info.concurrency };
        match self.standing {
            Standing::Serving if self.lent => 0,
            Standing::Serving => most.saturating_sub(self.load()),
            Standing::Staged | Standing::Booting | Standing::Crashed => 0,
            Standing::Quarantined { .. } | Standing::Unhealthy { .. } | Standing::Draining => 0,
        }
    }

    /// Another router has it from now on, or no longer.
    pub(crate) fn lend(&mut self, lent: bool) {
        self.lent = lent;
    }

    /// No other router has it.
    pub(crate) fn is_here(&self) -> bool {
        !self.lent
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
        self.probed = false;
    }

    /// It is probed.
    pub(crate) fn begin_probe(&mut self) {
        debug_assert!(self.load() == 0, "only an idle dyno is probed");
        self.in_flight += 1;
        (self.probing, self.probed) = (true, true);
    }

    /// The probe is over.
    pub(crate) fn end_probe(&mut self, lingered: bool) {
        self.probing = false;
        self.check_in(lingered);
    }

    /// Nobody waits any more for one of its requests.
    pub(crate) fn linger(&mut self) {
        debug_assert!(self.lingering < self.in_flight, "only a request in flight lingers");
        self.lingering += 1;
    }

    /// One of its requests has ended.
    pub(crate) fn check_in(&mut self, lingered: bool) {
        debug_assert!(self.in_flight > 0, "only a request in flight is checked in");
        self.in_flight = self.in_flight.saturating_sub(1);
        self.lingering = self.lingering.saturating_sub(u32::from(lingered));
    }

    /// So many upgraded requests it holds beside the others.
    pub(crate) fn allow_streams(&mut self, streams: u32) {
        self.streams = streams;
    }

    /// One of its requests is upgraded.
    pub(crate) fn upgrade(&mut self) {
        debug_assert!(self.upgraded < self.in_flight, "only a request in flight is upgraded");
        self.upgraded += 1;
    }

    /// An upgraded request has ended.
    pub(crate) fn end_upgraded(&mut self, lingered: bool) {
        debug_assert!(self.upgraded > 0, "only an upgraded request ends as one");
        self.upgraded = self.upgraded.saturating_sub(1);
        self.check_in(lingered);
    }

    /// What the end of a request says of it. `true`: it fails fast. `usual`: what a good answer takes.
    pub(crate) fn ended(
        &mut self,
        outcome: Outcome,
        held: Duration,
        usual: Option<Duration>,
        limits: &Limits,
    ) -> bool {
        match outcome {
            Outcome::Served => {
                self.answered += 1;
                (self.failures, self.ejected) = (0, false);
                self.health.answered_well();
                false
            }
            Outcome::Errored | Outcome::Failed => {
                // That it can be reached is no answer to the doubt whether it fails fast.
                if outcome == Outcome::Errored && !self.ejected {
                    self.failures = 0;
                }
                let again = self.ejected && self.on_probation();
                self.health.answered_badly(held, usual, again, limits)
            }
            Outcome::Cut | Outcome::Unused => false,
        }
    }

    /// What a probe says of it.
    pub(crate) fn probed(&mut self, good: bool, may_go: bool, now: Instant, limits: &Limits) -> Probed {
        self.health.probed(good);
        match self.standing {
            Standing::Serving if !good && self.health.is_ill(limits) && may_go => {
                self.step(Event::Ill(now), limits);
                Probed::Out
            }
            Standing::Serving if !good && self.health.is_ill(limits) => Probed::Kept,
            Standing::Unhealthy { .. } if good && self.health.is_well(limits) => {
                self.step(Event::Well, limits);
                Probed::Back
            }
            Standing::Staged | Standing::Booting | Standing::Crashed | Standing::Serving => Probed::Same,
            Standing::Quarantined { .. } | Standing::Unhealthy { .. } | Standing::Draining => Probed::Same,
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
        use Standing::{Booting, Crashed, Draining, Quarantined, Serving, Staged, Unhealthy};
        self.standing = match (self.standing, event) {
            (_, Event::Leaves) => Draining,
            (Draining, Event::Returns(health)) => {
                self.lane = Lane::Main;
                self.told(health)
            }
            // It leaves: how its process is makes no difference any more.
            (Draining, Event::Is(_) | Event::Unreachable(_) | Event::Again) => Draining,
            (Draining, Event::FailsFast(_) | Event::Ill(_) | Event::Well) => Draining,
            (before, Event::Is(health)) => {
                let after = self.told(health);
                if after == Serving && before != Serving {
                    // Its process is new: what the old one did is no reason for doubt.
                    (self.failures, self.ejected, self.health) = (0, false, Health::default());
                }
                after
            }
            (Serving | Quarantined { .. }, Event::Unreachable(now)) => {
                (self.failures, self.ejected) = (self.failures.saturating_add(1), false);
                quarantine(self.failures, now, limits)
            }
            (stays @ (Staged | Booting | Crashed | Unhealthy { .. }), Event::Unreachable(_)) => stays,
            (Serving, Event::FailsFast(now)) => {
                (self.failures, self.ejected) = (self.failures.saturating_add(1), true);
                self.health.ejected();
                quarantine(self.failures, now, limits)
            }
            (Serving, Event::Ill(now)) => Unhealthy { soon: now },
            (Unhealthy { .. }, Event::Well) => Serving,
            (stays, Event::FailsFast(_) | Event::Ill(_) | Event::Well) => stays,
            (Quarantined { .. } | Unhealthy { .. }, Event::Again) => Serving,
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
            upgraded: self.upgraded,
            dispatched: self.dispatched,
            failures: self.failures,
            answered: self.answered,
            ejected: self.ejected,
            bad_answers: self.health.bad_answers(),
            bad_probes: self.health.bad_probes(),
            probing: self.probing,
        }
    }

    fn state(&self) -> DynoState {
        match self.standing {
            Standing::Staged => DynoState::Staged,
            Standing::Booting => DynoState::Booting,
            Standing::Crashed => DynoState::Crashed,
            Standing::Quarantined { .. } => DynoState::Quarantined,
            Standing::Unhealthy { .. } => DynoState::Unhealthy,
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
        assert!(self.upgraded <= self.in_flight, "what is upgraded is in flight");
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
mod tests;
