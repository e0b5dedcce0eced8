//! One dyno of the reference.

use std::time::Duration;

use router_core::canary::Lane;
use router_core::change::{DynoHealth, DynoSpec};
use router_core::ids::ReleaseId;
use router_core::limits::Limits;
use router_core::snapshot::{DynoSnapshot, DynoState};
use router_core::{Outcome, Probed};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    Staged,
    Booting,
    Crashed,
    Serving,
    Quarantined { until: Duration, soon: Duration },
    Unhealthy { soon: Duration },
    Draining,
}

#[derive(Clone, Debug)]
pub(crate) struct Dyno {
    pub(crate) spec: DynoSpec,
    pub(crate) release: ReleaseId,
    pub(crate) standing: Standing,
    pub(crate) lane: Lane,
    pub(crate) in_flight: u32,
    pub(crate) lingering: u32,
    /// Those of its requests that are upgraded, and how many of them it holds beside the others.
    pub(crate) upgraded: u32,
    pub(crate) streams: u32,
    pub(crate) failures: u32,
    pub(crate) dispatched: u64,
    pub(crate) answered: u64,
    pub(crate) ejected: bool,
    /// How long each of the last answers took that were bad in a row.
    pub(crate) bad: Vec<Duration>,
    /// What the last probes said; an answer is a good one.
    probes: Vec<bool>,
    pub(crate) probing: bool,
}

impl Dyno {
    pub(crate) fn new(spec: DynoSpec, release: ReleaseId) -> Self {
        let (standing, lane) = (standing(spec.state), Lane::Main);
        let (in_flight, lingering, failures, dispatched, answered) = (0, 0, 0, 0, 0);
        let (upgraded, streams) = (0, 0);
        let (ejected, bad, probes, probing) = (false, Vec::new(), Vec::new(), false);
        #[rustfmt::skip]
        let mut dyno = Self {
            spec, release, standing, lane, in_flight, lingering, upgraded, streams, failures, dispatched,
            answered, ejected, bad, probes, probing,
        };
        dyno.begin(dyno.spec.state);
        dyno
    }

    /// It is new, or back.
    pub(crate) fn begin(&mut self, health: DynoHealth) {
        self.standing = standing(health);
        self.lane = if health == DynoHealth::Canary { Lane::Canary } else { Lane::Main };
    }

    /// Its process is that far. Only what says where it serves moves it to another lane.
    pub(crate) fn set(&mut self, health: DynoHealth) {
        if self.standing == Standing::Draining {
            return;
        }
        let before = self.standing;
        let lane = self.lane;
        self.begin(health);
        if matches!(health, DynoHealth::Booting | DynoHealth::Crashed) {
            self.lane = lane;
        }
        if self.standing == Standing::Serving && before != Standing::Serving {
            self.forget();
        }
    }

    /// Its process is new: nothing is known of it.
    pub(crate) fn forget(&mut self) {
        (self.failures, self.ejected) = (0, false);
        self.bad.clear();
        self.probes.clear();
    }

    /// It would serve if it were well.
    pub(crate) fn is_out(&self) -> bool {
        match self.standing {
            Standing::Quarantined { .. } => self.ejected,
            Standing::Unhealthy { .. } => true,
            Standing::Staged | Standing::Booting | Standing::Crashed => false,
            Standing::Serving | Standing::Draining => false,
        }
    }

    fn bad_probes(&self) -> usize {
        self.probes.iter().rev().take_while(|good| !**good).count()
    }

    /// A request has ended. `true`: it fails fast.
    pub(crate) fn ended(
        &mut self,
        outcome: Outcome,
        held: Duration,
        usual: Option<f64>,
        limits: &Limits,
    ) -> bool {
        match outcome {
            Outcome::Served => {
                self.answered += 1;
                (self.failures, self.ejected) = (0, false);
                self.bad.clear();
                if self.bad_probes() > 0 {
                    self.probes.clear();
                }
                return false;
            }
            Outcome::Errored if !self.ejected => self.failures = 0,
            Outcome::Errored | Outcome::Failed => {}
            Outcome::Cut | Outcome::Unused => return false,
        }
        self.bad.push(held);
        let enough = if self.ejected && self.failures > 0 { 1 } else { limits.eject_after as usize };
        let sum: Duration = self.bad.iter().sum();
        let usual = usual.map(Duration::from_secs_f64);
        let fast = usual.is_none_or(|usual| sum < usual * self.bad.len() as u32);
        limits.eject_after > 0 && self.bad.len() >= enough && fast
    }

    pub(crate) fn quarantine(&mut self, now: Duration, ejected: bool, limits: &Limits) {
        self.failures += 1;
        self.ejected = ejected;
        let factor = 1_u32 << (self.failures - 1).min(16);
        let long = (limits.quarantine * factor).min(limits.quarantine_max);
        let short = (limits.quarantine / 50 * factor).min(limits.quarantine).min(long);
        self.standing = Standing::Quarantined { until: now + long, soon: now + short };
    }

    pub(crate) fn probed(&mut self, good: bool, may_go: bool, now: Duration, limits: &Limits) -> Probed {
        self.probes.push(good);
        let goods = self.probes.iter().rev().take_while(|good| **good).count();
        let ill = self.bad_probes() >= limits.health_fall as usize;
        match self.standing {
            Standing::Serving if ill && !may_go => Probed::Kept,
            Standing::Serving if ill => {
                self.standing = Standing::Unhealthy { soon: now };
                Probed::Out
            }
            Standing::Unhealthy { .. } if goods >= limits.health_rise as usize => {
                self.standing = Standing::Serving;
                Probed::Back
            }
            Standing::Staged | Standing::Booting | Standing::Crashed | Standing::Serving => Probed::Same,
            Standing::Quarantined { .. } | Standing::Unhealthy { .. } | Standing::Draining => Probed::Same,
        }
    }

    /// Requests in its slots.
    pub(crate) fn load(&self) -> u32 {
        self.in_flight - self.beside()
    }

    fn beside(&self) -> u32 {
        self.upgraded.min(self.streams)
    }

    /// Fewer requests come first; those beside count by their order of magnitude.
    pub(crate) fn level(&self) -> u32 {
        self.load() + self.beside().checked_ilog2().map_or(0, |log| log + 1)
    }

    pub(crate) fn room(&self) -> u32 {
        let most = if self.failures > 0 { 1 } else { self.spec.concurrency.max(1) };
        if self.standing == Standing::Serving { most.saturating_sub(self.load()) } else { 0 }
    }

    pub(crate) fn state(&self) -> DynoState {
        match self.standing {
            Standing::Staged => DynoState::Staged,
            Standing::Booting => DynoState::Booting,
            Standing::Crashed => DynoState::Crashed,
            Standing::Quarantined { .. } => DynoState::Quarantined,
            Standing::Unhealthy { .. } => DynoState::Unhealthy,
            Standing::Draining => DynoState::Draining,
            Standing::Serving if self.room() > 0 => DynoState::Idle,
            Standing::Serving if self.in_flight == self.lingering && self.lingering > 0 => {
                DynoState::Lingering
            }
            Standing::Serving => DynoState::Busy,
        }
    }

    pub(crate) fn snapshot(&self) -> DynoSnapshot {
        DynoSnapshot {
            address: self.spec.address,
            name: self.spec.name.clone(),
            release: self.release.clone(),
            lane: self.lane,
            state: self.state(),
            concurrency: self.spec.concurrency.max(1),
            in_flight: self.in_flight,
            lingering: self.lingering,
            upgraded: self.upgraded,
            dispatched: self.dispatched,
            failures: self.failures,
            answered: self.answered,
            ejected: self.ejected,
            bad_answers: self.bad.len() as u32,
            bad_probes: self.bad_probes() as u32,
            probing: self.probing,
        }
    }

    /// When it may be tried early; not while it has an older request, for then it would take none.
    pub(crate) fn soon(&self) -> Option<Duration> {
        match self.standing {
            Standing::Quarantined { soon, .. } | Standing::Unhealthy { soon } => {
                (self.load() == 0).then_some(soon)
            }
            Standing::Staged | Standing::Booting | Standing::Crashed => None,
            Standing::Serving | Standing::Draining => None,
        }
    }

    /// Whether anybody counts on it.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self.standing, Standing::Staged | Standing::Draining)
    }

    /// Whether it serves, or will.
    pub(crate) fn takes(&self) -> bool {
        self.is_present() && self.standing != Standing::Crashed && !self.is_ill()
    }

    pub(crate) fn is_ill(&self) -> bool {
        matches!(self.standing, Standing::Unhealthy { .. })
    }

    pub(crate) fn until(&self) -> Option<Duration> {
        if let Standing::Quarantined { until, .. } = self.standing { Some(until) } else { None }
    }
}

fn standing(health: DynoHealth) -> Standing {
    match health {
        DynoHealth::Staged => Standing::Staged,
        DynoHealth::Booting => Standing::Booting,
        DynoHealth::Ready | DynoHealth::Canary => Standing::Serving,
        DynoHealth::Crashed => Standing::Crashed,
    }
}
