//! What can be seen of a deploy: counts, clocks, progress for people, and whether all is well.

use std::cmp::Reverse;
use std::time::Instant;

use super::Deploy;
use super::words::{Cause, CauseKind, DynoStage, Progress, ReleaseStage, Side, State};
use crate::ids::Address;

impl Deploy {
    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// How it is to go.
    pub fn plan(&self) -> &super::Plan {
        &self.plan
    }

    /// Whose dyno that is: for the tally of its requests.
    pub fn side(&self, dyno: Address) -> Option<Side> {
        self.place(dyno).map(|at| self.members[at].side)
    }

    /// When [`tick`](Self::tick) has something to do by the clock alone. `None` before the start and after the end.
    pub fn alarm(&self) -> Option<Instant> {
        if self.state.is_end() {
            return None;
        }
        let members = self.members.iter();
        let clocks = members.flat_map(|dyno| [dyno.deadline(&self.plan), dyno.next_probe()]);
        let own = match self.state {
            State::Canary => Some(self.since + self.plan.canary_time),
            State::CuttingOver if self.count(Side::New, &[DynoStage::Ready, DynoStage::Canary]) > 0 => {
                self.next_step
            }
            State::Baking => Some(self.since + self.plan.bake_time),
            State::Staged | State::Warming | State::Ready | State::CuttingOver | State::Draining => None,
            State::RollingBack | State::Done | State::Failed | State::RolledBack => None,
        };
        clocks.flatten().chain(own).min()
    }

    /// The deploy as it stands, for people.
    pub fn progress(&self, now: Instant) -> Progress {
        use DynoStage::{Canary, Crashed, Draining, Failed, Ready, Serving, Warming};
        let given_up = |side| move |dyno: &&super::Member| dyno.side == side && dyno.given_up;
        Progress {
            state: self.state,
            old: (self.old.clone(), self.old_stage()),
            new: (self.new.clone(), self.new_stage()),
            new_total: self.members.iter().filter(|dyno| dyno.side == Side::New).count(),
            new_ready: self.count(Side::New, &[Ready, Canary, Serving]),
            new_serving: self.count(Side::New, &[Serving]),
            new_failed: self.count(Side::New, &[Failed]),
            old_serving: self.count(Side::Old, &[Serving]),
            old_left: self.count(Side::Old, &[Warming, Ready, Serving, Crashed, Draining]),
            old_given_up: self.members.iter().filter(given_up(Side::Old)).count(),
            since: now.duration_since(self.since),
            deadline: self.deadline().map(|at| at.saturating_duration_since(now)),
            cause: self.cause.clone(),
            dynos: self.members.iter().map(super::Member::progress).collect(),
        }
    }

    /// When the clock ends the state at the latest.
    fn deadline(&self) -> Option<Instant> {
        let slowest = self.members.iter().filter_map(|dyno| dyno.deadline(&self.plan)).max();
        match self.state {
            State::Warming | State::Draining | State::RollingBack => slowest,
            State::Canary => Some(self.since + self.plan.canary_time),
            State::CuttingOver => {
                let waiting = self.count(Side::New, &[DynoStage::Ready, DynoStage::Canary]);
                let total = self.members.iter().filter(|dyno| dyno.side == Side::New).count();
                let more = waiting.div_ceil(self.plan.pace.step(total)).saturating_sub(1);
                let every = self.plan.pace.every();
                let last = self.next_step.map(|next| next + every * u32::try_from(more).unwrap_or(u32::MAX));
                let boots = self.members.iter().filter(|dyno| dyno.stage == DynoStage::Warming);
                boots.filter_map(|dyno| dyno.deadline(&self.plan)).chain(last).max()
            }
            State::Baking => Some(self.since + self.plan.bake_time),
            State::Staged | State::Ready | State::Done | State::Failed | State::RolledBack => None,
        }
    }

    fn old_stage(&self) -> ReleaseStage {
        use DynoStage::{Crashed, Draining, Ready, Serving, Warming};
        if self.count(Side::Old, &[Serving, Crashed]) > 0 {
            ReleaseStage::Serving
        } else if self.count(Side::Old, &[Warming, Ready]) > 0 {
            ReleaseStage::Warming
        } else if self.count(Side::Old, &[Draining]) > 0 {
            ReleaseStage::Draining
        } else {
            ReleaseStage::Gone
        }
    }

    fn new_stage(&self) -> ReleaseStage {
        match self.state {
            State::Staged => ReleaseStage::Staged,
            State::Warming => ReleaseStage::Warming,
            State::Ready | State::Canary => ReleaseStage::Ready,
            State::CuttingOver if self.count(Side::New, &[DynoStage::Serving]) == 0 => ReleaseStage::Ready,
            State::CuttingOver | State::Baking | State::Draining | State::Done => ReleaseStage::Serving,
            State::RollingBack if self.count(Side::New, &[DynoStage::Serving]) > 0 => ReleaseStage::Serving,
            State::RollingBack => ReleaseStage::Draining,
            State::Failed if self.count(Side::New, &[DynoStage::Serving]) > 0 => ReleaseStage::Serving,
            State::Failed => ReleaseStage::Failed,
            State::RolledBack => ReleaseStage::RolledBack,
        }
    }

    /// Fewer new dynos are left than there have to be: which one decided it, and why.
    pub(super) fn too_few(&self) -> Cause {
        let failures =
            || self.members.iter().filter(|dyno| dyno.side == Side::New && dyno.stage == DynoStage::Failed);
        // The latest one tipped it; of several at once the first in order speaks for all.
        let last = failures().min_by_key(|dyno| Reverse(dyno.since)).and_then(|dyno| dyno.failure.clone());
        let mut cause = last.unwrap_or_else(|| Cause {
            kind: CauseKind::NotReady,
            dyno: None,
            text: "not enough dynos are left".to_owned(),
        });
        let (total, failed) = (self.size(Side::New) + failures().count(), failures().count());
        if total > 1 {
            cause.text =
                format!("{} ({failed} of {total} dynos failed, {} have to be there)", cause.text, self.need);
        }
        cause
    }

    /// How many dynos of a side stand in these stages.
    pub(super) fn count(&self, side: Side, stages: &[DynoStage]) -> usize {
        self.members.iter().filter(|dyno| dyno.side == side && stages.contains(&dyno.stage)).count()
    }

    /// How many dynos of a side have neither crashed nor failed.
    pub(super) fn size(&self, side: Side) -> usize {
        let sound = |stage| !matches!(stage, DynoStage::Crashed | DynoStage::Failed);
        self.members.iter().filter(|dyno| dyno.side == side && sound(dyno.stage)).count()
    }

    /// How many dynos serve from the app's line.
    pub(super) fn serving(&self) -> usize {
        self.count(Side::Old, &[DynoStage::Serving]) + self.count(Side::New, &[DynoStage::Serving])
    }

    /// How many have to serve at the least, as long as none of them crashes.
    pub(super) fn floor(&self) -> usize {
        self.size(Side::Old).min(self.size(Side::New))
    }

    /// Whether there is no old release to go back to.
    pub(super) fn is_first(&self) -> bool {
        self.members.iter().all(|dyno| dyno.side == Side::New)
    }

    /// Whether a dyno of a side drains that is not given up yet.
    pub(super) fn waits_for_drain(&self, side: Side) -> bool {
        let drains = |dyno: &super::Member| dyno.stage == DynoStage::Draining && !dyno.given_up;
        self.members.iter().any(|dyno| dyno.side == side && drains(dyno))
    }

    pub(super) fn place(&self, dyno: Address) -> Option<usize> {
        self.members.iter().position(|member| member.spec.address == dyno)
    }

    /// Walks the invariants at the head of `deploy.rs`.
    ///
    /// # Panics
    /// If one does not hold.
    pub(super) fn check_invariants(&self) {
        use DynoStage::{Canary, Crashed, Draining, Failed, Gone, Ready, Serving, Staged, Warming};
        let none = |side, stages: &[DynoStage], why: &str| {
            assert_eq!(self.count(side, stages), 0, "{}: {why}: {stages:?}", self.state);
        };
        let (serving, floor) = (self.serving(), self.floor());
        assert!(self.short || serving >= floor, "{}: {serving} serve, the floor is {floor}", self.state);
        none(Side::Old, &[Staged, Canary], "old dynos have served before");
        if self.state.is_before_cut_over() {
            none(Side::Old, &[Warming, Ready, Draining, Gone, Failed], "old dynos are untouched");
            none(Side::New, &[Serving, Draining, Gone], "new dynos do not serve");
        }
        let no_way_back = self.cause.as_ref().is_some_and(|cause| cause.kind == CauseKind::NoWayBack);
        match self.state {
            State::Baking | State::Draining | State::Done => {
                none(Side::New, &[Staged, Warming, Ready, Canary, Draining, Gone], "new dynos serve");
                none(Side::Old, &[Warming, Ready, Serving, Crashed, Failed], "old dynos leave");
            }
            State::Failed if no_way_back => {
                none(Side::Old, &[Serving, Warming, Ready], "there was a way back")
            }
            State::Failed => {
                none(Side::New, &[Staged, Warming, Ready, Canary, Serving], "new dynos leave");
                none(Side::Old, &[Warming, Ready, Draining, Gone, Failed], "old dynos are untouched");
            }
            State::RolledBack => {
                none(Side::New, &[Staged, Warming, Ready, Canary, Serving], "new dynos leave");
                none(Side::Old, &[Warming, Ready, Draining, Gone], "old dynos serve");
            }
            State::Staged | State::Warming | State::Ready | State::Canary => {}
            State::CuttingOver | State::RollingBack => {}
        }
        let waits = !self.state.is_end() && self.state != State::Staged;
        assert_eq!(self.alarm().is_some(), waits, "{}: whoever waits has an alarm", self.state);
    }
}
