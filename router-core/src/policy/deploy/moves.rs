//! The moves of a deploy: which state comes next, what comes with it, and who leaves for whom.

use std::time::Instant;

use super::member::{Event, Member};
use super::words::{Cause, CauseKind, DynoStage, Effect, Outcome, Side, State};
use super::{Deploy, judge};
use crate::change::DynoHealth;

impl Deploy {
    /// Goes as far as it goes without another input.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            self.expire(now);
            let Some(next) = self.next_state(now) else { break };
            self.enter(next, now);
        }
        if !self.state.is_end() {
            let due = self.members.iter_mut().filter_map(|member| member.ask(now));
            self.effects.extend(due);
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Dynos whose time is over: one that warms has failed, one that drains is given up.
    fn expire(&mut self, now: Instant) {
        if self.state.is_end() {
            return;
        }
        for member in &mut self.members {
            if member.deadline(&self.plan).is_none_or(|deadline| deadline > now) {
                continue;
            }
            if member.stage == DynoStage::Draining {
                member.given_up = true;
                self.effects.push_back(Effect::GivenUp(member.spec.clone()));
            } else {
                member.overdue(&self.plan);
                self.effects.extend(member.step(Event::Fail, now));
            }
        }
    }

    /// Does what its state does, and says which one comes next: the table at the head of this file.
    fn next_state(&mut self, now: Instant) -> Option<State> {
        let since = self.since;
        let is_over = |time| now >= since + time;
        match self.state {
            State::Staged | State::Done | State::Failed | State::RolledBack => None,
            State::Warming if self.size(Side::New) < self.need => {
                self.cause = Some(self.too_few());
                Some(State::Failed)
            }
            State::Warming => {
                (self.count(Side::New, &[DynoStage::Ready]) >= self.need).then_some(State::Ready)
            }
            // Without an old release nobody would serve the requests that are not the canary's.
            State::Ready if self.plan.canary.is_some() && !self.is_first() => Some(State::Canary),
            State::Ready => Some(State::CuttingOver),
            State::Canary if is_over(self.plan.canary_time) => {
                let text = format!("the canary was not promoted within {:?}", self.plan.canary_time);
                self.cause = Some(Cause { kind: CauseKind::NotPromoted, dyno: None, text });
                Some(State::RollingBack)
            }
            State::Canary => {
                self.step_all(Side::New, &[DynoStage::Ready], Event::Try, now, usize::MAX);
                self.broken()
            }
            State::CuttingOver => self.broken().or_else(|| self.cut_over(now)),
            State::Baking => {
                let passed = is_over(self.plan.bake_time).then_some(State::Draining);
                self.broken().or(passed)
            }
            State::Draining => (!self.waits_for_drain(Side::Old)).then_some(State::Done),
            State::RollingBack => self.go_back(now),
        }
    }

    /// What comes with a state once.
    pub(super) fn enter(&mut self, state: State, now: Instant) {
        use DynoStage::{Canary, Draining, Gone, Ready, Staged, Warming};
        let before = std::mem::replace(&mut self.state, state);
        self.since = now;
        self.effects.push_back(Effect::Enters(state));
        if before == State::Canary {
            self.effects.push_back(Effect::CanaryIs(None));
        }
        match state {
            State::Warming => {
                self.step_all(Side::New, &[Staged], Event::Warm(self.added()), now, usize::MAX);
            }
            State::RollingBack => {
                self.way_back.resumed = self.step_all(Side::Old, &[Draining], Event::Serve, now, usize::MAX);
                self.step_all(Side::Old, &[Gone], Event::Warm(self.added()), now, usize::MAX);
                self.step_all(Side::New, &[Staged, Warming, Ready, Canary], Event::Leave, now, usize::MAX);
            }
            State::Failed => {
                self.step_all(Side::New, &[Warming, Ready], Event::Leave, now, usize::MAX);
                self.end();
            }
            State::Done | State::RolledBack => self.end(),
            State::Canary => self.effects.push_back(Effect::CanaryIs(self.plan.canary.clone())),
            State::Staged | State::Ready => {}
            State::CuttingOver | State::Baking | State::Draining => {}
        }
    }

    /// How a dyno that warms is told to the router. While somebody serves, nobody is to wait for it; while nobody does,
    /// requests wait for it instead of being refused.
    fn added(&self) -> DynoHealth {
        if self.serving() > 0 { DynoHealth::Staged } else { DynoHealth::Booting }
    }

    /// The last dyno that served has crashed: requests wait for those that warm, which count for something now.
    pub(super) fn let_wait(&mut self) {
        if self.serving() > 0 {
            return;
        }
        let warming = self.members.iter().filter(|dyno| dyno.stage == DynoStage::Warming);
        let awaited: Vec<_> = warming.map(|dyno| Effect::Awaited(dyno.spec.clone())).collect();
        self.effects.extend(awaited);
    }

    /// Lets as many dynos of a side, of those in these stages, make the move, and says how many did.
    fn step_all(
        &mut self,
        side: Side,
        stages: &[DynoStage],
        event: Event,
        now: Instant,
        most: usize,
    ) -> usize {
        let named = |member: &&mut Member| member.side == side && stages.contains(&member.stage);
        let mut moved = 0;
        for member in self.members.iter_mut().filter(named).take(most) {
            self.effects.extend(member.step(event, now));
            moved += 1;
        }
        moved
    }

    /// New dynos begin to serve by the pace, and old ones leave for them.
    fn cut_over(&mut self, now: Instant) -> Option<State> {
        use DynoStage::{Canary, Crashed, Ready, Serving, Warming};
        let total = self.members.iter().filter(|member| member.side == Side::New).count();
        let (step, every) = (self.plan.pace.step(total), self.plan.pace.every());
        while self.next_step.is_none_or(|due| due <= now)
            && self.step_all(Side::New, &[Ready, Canary], Event::Serve, now, step) > 0
        {
            self.replace(Side::Old, Side::New, now);
            self.next_step = Some(now + every);
        }
        // A new dyno that fails leaves fewer to wait for.
        self.replace(Side::Old, Side::New, now);
        if self.count(Side::New, &[Warming, Ready, Canary]) > 0 {
            return None;
        }
        self.step_all(Side::Old, &[Serving, Crashed], Event::Leave, now, usize::MAX);
        Some(State::Baking)
    }

    /// Old dynos that have warmed serve again, and new ones leave for them.
    fn go_back(&mut self, now: Instant) -> Option<State> {
        use DynoStage::{Crashed, Draining, Failed, Ready, Serving, Warming};
        self.way_back.rewarmed += self.step_all(Side::Old, &[Ready], Event::Serve, now, usize::MAX);
        self.way_back.lost = self.count(Side::Old, &[Failed]);
        if self.size(Side::Old) > 0 {
            self.replace(Side::New, Side::Old, now);
        } else if self.is_first() {
            self.step_all(Side::New, &[Serving], Event::Leave, now, usize::MAX);
        } else if self.count(Side::New, &[Serving]) > 0 {
            // A bad release is better than none.
            self.step_all(Side::New, &[Draining], Event::Serve, now, usize::MAX);
            self.step_all(Side::Old, &[Crashed], Event::Leave, now, usize::MAX);
            self.short |= self.serving() < self.floor();
            let why = self.cause.take().map(|cause| cause.text).unwrap_or_default();
            let text = format!("no dyno of release {} is left to go back to; the deploy: {why}", self.old);
            self.cause = Some(Cause { kind: CauseKind::NoWayBack, dyno: None, text });
            return Some(State::Failed);
        }
        let waits = self.count(Side::Old, &[Warming]) > 0 || self.waits_for_drain(Side::New);
        (!waits).then_some(State::RolledBack)
    }

    /// As large a share of the one side leaves as serves of the other, rounded down.
    fn replace(&mut self, leaving: Side, coming: Side, now: Instant) {
        use DynoStage::{Draining, Gone, Serving};
        let may = self.size(leaving) * self.count(coming, &[Serving]) / self.size(coming).max(1);
        let left = self.count(leaving, &[Draining, Gone]);
        self.step_all(leaving, &[Serving], Event::Leave, now, may.saturating_sub(left));
    }

    /// Is the new release not as good as it has to be?
    fn broken(&mut self) -> Option<State> {
        let left = self.size(Side::New);
        if self.is_first() {
            return (left == 0).then(|| {
                self.cause = Some(self.too_few());
                State::Failed
            });
        }
        let cause = if left < self.need {
            self.too_few()
        } else {
            let (kind, text) = judge::verdict(&self.plan.bake_limits, &self.old_tally, &self.new_tally)?;
            Cause { kind, dyno: None, text }
        };
        self.cause = Some(cause);
        Some(State::RollingBack)
    }

    /// Says how it ended.
    pub(super) fn end(&mut self) {
        let cause = self.cause.clone().unwrap_or_else(|| self.too_few());
        let outcome = if self.state == State::Failed {
            Outcome::Failed(cause)
        } else if self.state == State::RolledBack {
            Outcome::RolledBack(cause, self.way_back)
        } else {
            Outcome::Done
        };
        self.effects.push_back(Effect::Ended(outcome));
    }

    pub(super) fn step_dyno(&mut self, at: usize, event: Event, now: Instant) {
        if !self.state.is_end() {
            self.effects.extend(self.members[at].step(event, now));
        }
    }
}
