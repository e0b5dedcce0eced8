//! Is a dyno well: what its answers and its probes say, and how many dynos may be out for it at once.
//!
//! * A dyno that **fails fast** is ejected: `eject_after` answers in a row were bad, and they came faster on average
//!   than good answers of its app do. Where the dyno that is free gets the next request, one that fails in no time
//!   would draw all of them.
//! * A dyno whose **probes** fail `health_fall` times in a row is taken out, and back after `health_rise` good ones.
//!   An answer to a request is as good as a probe.
//! * **The floor:** no more than `eject_max` percent of the dynos that serve or would are out at once, whatever their
//!   answers and probes say: an app whose every dyno is ill goes on answering as well as it can.

use std::time::Duration;

use crate::limits::Limits;

/// How a request at a dyno ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The dyno answered. Ends any doubt about it.
    Served,
    /// The dyno answered that it failed (5xx).
    Errored,
    /// The dyno worked on the request and failed: it closed the connection, or what it sent is no answer.
    Failed,
    /// The request was cut by its client or for the time it took, with the dyno at work on it: says nothing about the
    /// dyno but how long it was held.
    Cut,
    /// The dyno has seen nothing of the request.
    Unused,
}

/// What a probe has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nothing.
    Same,
    /// The dyno gets no requests from now on.
    Out,
    /// It would get none, if not too many others were out already (`eject_max`).
    Kept,
    /// The dyno gets requests again.
    Back,
}

/// What is known of a dyno's health.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    bad_answers: u32,
    /// How long the bad answers took, together.
    bad_time: Duration,
    good_probes: u32,
    bad_probes: u32,
}

impl Health {
    /// The dyno answered well.
    pub(crate) fn answered_well(&mut self) {
        *self = Self { good_probes: self.good_probes, ..Self::default() };
    }

    /// A request ended badly after that time: does the dyno fail fast? `usual` is what good answers take; `None`: there
    /// was none yet. `again`: the dyno was ejected before and has not answered well since.
    pub(crate) fn answered_badly(
        &mut self,
        held: Duration,
        usual: Option<Duration>,
        again: bool,
        limits: &Limits,
    ) -> bool {
        self.bad_answers = self.bad_answers.saturating_add(1);
        self.bad_time = self.bad_time.saturating_add(held);
        let enough = if again { 1 } else { limits.eject_after };
        let fast = usual.is_none_or(|usual| self.bad_time < usual.saturating_mul(self.bad_answers));
        limits.eject_after > 0 && self.bad_answers >= enough && fast
    }

    /// It was ejected: the count begins anew.
    pub(crate) fn ejected(&mut self) {
        (self.bad_answers, self.bad_time) = (0, Duration::ZERO);
    }

    /// It was probed.
    pub(crate) fn probed(&mut self, good: bool) {
        if good {
            (self.good_probes, self.bad_probes) = (self.good_probes.saturating_add(1), 0);
        } else {
            (self.good_probes, self.bad_probes) = (0, self.bad_probes.saturating_add(1));
        }
    }

    /// Enough probes in a row were bad.
    pub(crate) fn is_ill(&self, limits: &Limits) -> bool {
        self.bad_probes >= limits.health_fall.max(1)
    }

    /// Enough probes in a row were good.
    pub(crate) fn is_well(&self, limits: &Limits) -> bool {
        self.good_probes >= limits.health_rise.max(1)
    }

    /// Bad answers in a row.
    pub(crate) fn bad_answers(&self) -> u32 {
        self.bad_answers
    }

    /// Bad probes in a row.
    pub(crate) fn bad_probes(&self) -> u32 {
        self.bad_probes
    }
}

/// The floor: may one more of the dynos that serve be taken out, with so many out already?
pub(crate) fn may_lose_one(serving: u32, out: u32, limits: &Limits) -> bool {
    let (serving, out) = (u64::from(serving), u64::from(out));
    (out + 1) * 100 <= u64::from(limits.eject_max) * (serving + out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn only_answers_that_are_bad_in_a_row_and_fast_eject() {
        let limits = Limits::default().with_eject_after(3);
        let bad = |health: &mut Health, held| health.answered_badly(ms(held), Some(ms(100)), false, &limits);
        let mut health = Health::default();
        assert!(!bad(&mut health, 1) && !bad(&mut health, 1));
        health.answered_well();
        assert!(!bad(&mut health, 1) && !bad(&mut health, 1) && bad(&mut health, 1));
        health.ejected();
        assert!(!bad(&mut health, 1));
        let mut slow = Health::default();
        assert!((0..10).all(|_| !bad(&mut slow, 100)), "it fails, but draws nobody");
        let mut first = Health::default();
        assert!(
            (0..3).any(|_| first.answered_badly(ms(1), None, false, &limits)),
            "nobody ever answered well"
        );
        assert!(
            Health::default().answered_badly(ms(1), Some(ms(2)), true, &limits),
            "once is enough in doubt"
        );
        let off = limits.with_eject_after(0);
        assert!((0..99).all(|_| !first.answered_badly(ms(1), None, true, &off)));
    }

    #[test]
    fn the_floor_holds_by_whole_dynos() {
        let may = |serving, out, most| may_lose_one(serving, out, &Limits::default().with_eject_max(most));
        assert!(!may(1, 0, 50), "never the only one");
        assert!(may(2, 0, 50) && !may(1, 1, 50));
        assert!(may(3, 0, 50) && !may(2, 1, 50));
        assert!(may(1, 0, 100) && !may(9, 0, 0));
        assert!(!may(9, 0, 10) && may(10, 0, 10) && !may(9, 1, 10));
    }
}
