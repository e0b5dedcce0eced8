//! One dyno of the reference.

use std::time::Duration;

use router_core::canary::Lane;
use router_core::change::{DynoHealth, DynoSpec};
use router_core::ids::ReleaseId;
use router_core::snapshot::{DynoSnapshot, DynoState};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    Staged,
    Booting,
    Crashed,
    Serving,
    Quarantined { until: Duration, soon: Duration },
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
    pub(crate) failures: u32,
    pub(crate) dispatched: u64,
}

impl Dyno {
    pub(crate) fn new(spec: DynoSpec, release: ReleaseId) -> Self {
        let (standing, lane) = (standing(spec.state), Lane::Main);
        let mut dyno =
            Self { spec, release, standing, lane, in_flight: 0, lingering: 0, failures: 0, dispatched: 0 };
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
            self.failures = 0;
        }
    }

    pub(crate) fn room(&self) -> u32 {
        let most = if self.failures > 0 { 1 } else { self.spec.concurrency.max(1) };
        if self.standing == Standing::Serving { most.saturating_sub(self.in_flight) } else { 0 }
    }

    pub(crate) fn state(&self) -> DynoState {
        match self.standing {
            Standing::Staged => DynoState::Staged,
            Standing::Booting => DynoState::Booting,
            Standing::Crashed => DynoState::Crashed,
            Standing::Quarantined { .. } => DynoState::Quarantined,
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
            dispatched: self.dispatched,
            failures: self.failures,
        }
    }

    /// When it may be tried early; not while it has an older request, for then it would take none.
    pub(crate) fn soon(&self) -> Option<Duration> {
        match self.standing {
            Standing::Quarantined { soon, .. } if self.in_flight == 0 => Some(soon),
            Standing::Quarantined { .. } | Standing::Booting | Standing::Crashed => None,
            Standing::Staged | Standing::Serving | Standing::Draining => None,
        }
    }

    /// Whether anybody counts on it.
    pub(crate) fn is_present(&self) -> bool {
        !matches!(self.standing, Standing::Staged | Standing::Draining)
    }

    /// Whether it serves, or will.
    pub(crate) fn takes(&self) -> bool {
        self.is_present() && self.standing != Standing::Crashed
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
