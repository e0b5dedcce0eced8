//! The dynos of one lane of an app: who has room, how many there are of each standing, and what its door knows.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::limits::{Limits, Order};
use crate::policy::dispatch::Idle;
use crate::policy::dyno::{Dyno, Standing};
use crate::policy::health::may_lose_one;
use crate::policy::shed::Shed;

/// What one lane has of its own.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) idle: Idle,
    pub(super) counts: Counts,
    /// Quarantined and unhealthy dynos by when they may be tried if nobody else can serve (those that have no request
    /// in flight).
    pub(super) soon: BTreeSet<(Instant, u32)>,
    pub(super) shed: Shed,
}

/// Dynos by standing, the requests they can work on at once, and those they work on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) booting: u32,
    pub(super) crashed: u32,
    pub(super) serving: u32,
    pub(super) quarantined: u32,
    pub(super) unhealthy: u32,
    /// Those that would serve if they were not ejected or unhealthy.
    pub(super) out: u32,
    pub(super) draining: u32,
    pub(super) slots: u64,
    pub(super) in_flight: u64,
}

impl Crew {
    pub(super) fn new(order: Order, seed: u64) -> Self {
        let (counts, soon, shed) = (Counts::default(), BTreeSet::new(), Shed::default());
        Self { idle: Idle::new(order, seed), counts, soon, shed }
    }

    /// Whether a dyno is there that serves, or will.
    pub(super) fn is_open(&self) -> bool {
        self.counts.serving + self.counts.booting + self.counts.quarantined > 0
    }

    /// Whether there is a dyno for the next request.
    pub(super) fn can_pick(&self, now: Instant) -> bool {
        !self.idle.is_empty() || self.early(now).is_some()
    }

    /// Whether one more of those that serve may be taken out.
    pub(super) fn may_lose_one(&self, limits: &Limits) -> bool {
        may_lose_one(self.counts.serving, self.counts.out, limits)
    }

    /// The dyno that leaves its quarantine early, because nobody else can serve.
    pub(super) fn early(&self, now: Instant) -> Option<u32> {
        let (soon, slot) = self.soon.first().copied()?;
        (self.counts.serving == 0 && soon <= now).then_some(slot)
    }
}

impl Counts {
    pub(super) fn all_present(&self) -> u32 {
        self.booting + self.crashed + self.serving + self.quarantined + self.unhealthy
    }

    pub(super) fn change(&mut self, dyno: &Dyno, by: i8) {
        let add = |count: &mut u32| *count = count.wrapping_add_signed(i32::from(by));
        match dyno.standing() {
            Standing::Staged => {}
            Standing::Booting => add(&mut self.booting),
            Standing::Crashed => add(&mut self.crashed),
            Standing::Serving => add(&mut self.serving),
            Standing::Quarantined { .. } => add(&mut self.quarantined),
            Standing::Unhealthy { .. } => add(&mut self.unhealthy),
            Standing::Draining => add(&mut self.draining),
        }
        if dyno.is_out() {
            add(&mut self.out);
        }
        self.in_flight = self.in_flight.wrapping_add_signed(i64::from(by) * i64::from(dyno.load()));
        if matches!(dyno.standing(), Standing::Booting | Standing::Serving | Standing::Quarantined { .. }) {
            let slots = i64::from(by) * i64::from(dyno.info().concurrency);
            self.slots = self.slots.wrapping_add_signed(slots);
        }
    }
}
