//! A deploy as plain data, and how it goes on after a restart: the table of [`Deploy::resume`].

use std::time::Instant;

use super::judge::Tally;
use super::member::{Event, Member};
use super::plan::{Plan, PlanError};
use super::words::{Cause, DynoStage, Effect, Side, State, WayBack};
use super::{Deploy, Release};
use crate::change::{DynoHealth, DynoSpec};
use crate::ids::ReleaseId;

/// A deploy as plain data: write it down whenever an [`Effect::Enters`], `Serve`, `Drain` or `Resume` came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The release that is replaced.
    pub old: ReleaseId,
    /// The release that replaces it.
    pub new: ReleaseId,
    /// How the deploy is to go.
    pub plan: Plan,
    /// Where it stands.
    pub state: State,
    /// Every dyno.
    pub dynos: Vec<SavedDyno>,
    /// Why it fails or is taken back, once it does.
    pub cause: Option<Cause>,
    /// How the old dynos came back so far.
    pub way_back: WayBack,
    /// What became of the old release's requests.
    pub old_tally: Tally,
    /// What became of the new release's requests.
    pub new_tally: Tally,
}

/// One dyno of a [`Saved`] deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDyno {
    /// Whose it is.
    pub side: Side,
    /// The dyno; its `state` says nothing.
    pub dyno: DynoSpec,
    /// Where it stands.
    pub stage: DynoStage,
    /// Why it failed.
    pub failure: Option<Cause>,
}

impl Deploy {
    /// The deploy as plain data.
    pub fn saved(&self) -> Saved {
        let dyno = |member: &Member| SavedDyno {
            side: member.side,
            dyno: member.spec.clone(),
            stage: member.stage,
            failure: member.failure.clone(),
        };
        Saved {
            old: self.old.clone(),
            new: self.new.clone(),
            plan: self.plan.clone(),
            state: self.state,
            dynos: self.members.iter().map(dyno).collect(),
            cause: self.cause.clone(),
            way_back: self.way_back,
            old_tally: self.old_tally,
            new_tally: self.new_tally,
        }
    }

    /// Goes on with a deploy after a restart, never half.
    ///
    /// The router that comes up is empty, and the processes of the dynos may or may not have lived on. So the effects
    /// that come from this build the app's dynos from nothing: every dyno that serves is named, in one piece.
    ///
    /// | the deploy was | it goes on as | its new dynos | its old dynos |
    /// |---|---|---|---|
    /// | staged | staged | are staged | serve |
    /// | warming, ready, canary | warming | warm again | serve |
    /// | cutting over, baking | cutting over | that served serve, the others warm again | that served serve |
    /// | draining | draining, so done | that served serve | are gone |
    /// | rolling back | rolling back | that served serve | that served serve, the others warm again |
    /// | done, failed, rolled back | the same, ended once more | that served serve | that served serve |
    ///
    /// A dyno that had failed stays failed. An old dyno that had crashed is left to the router where the old release
    /// serves alone, and else does not count as one that serves. One that was draining is gone: its requests went with
    /// the router. Every clock (boot, canary, pace, bake) starts anew; what was tallied is kept.
    ///
    /// # Errors
    /// As [`Deploy::new`]: what is saved was changed by somebody else.
    pub fn resume(saved: Saved, now: Instant) -> Result<Self, PlanError> {
        let of = |side| {
            let dynos = saved.dynos.iter().filter(move |dyno| dyno.side == side);
            dynos.map(|dyno| dyno.dyno.clone()).collect()
        };
        let (old, new) = (of(Side::Old), of(Side::New));
        let old = Release { id: saved.old, dynos: old };
        let mut deploy = Self::new(now, old, Release { id: saved.new, dynos: new }, saved.plan)?;
        deploy.cause = saved.cause;
        deploy.way_back = saved.way_back;
        deploy.old_tally = saved.old_tally;
        deploy.new_tally = saved.new_tally;
        let serves = |was: &SavedDyno| matches!(fate(saved.state, was.side, was.stage), Fate::Serves);
        let added = if saved.dynos.iter().any(serves) { DynoHealth::Staged } else { DynoHealth::Booting };
        for was in saved.dynos {
            let place = deploy.members.iter_mut().find(|member| member.spec.address == was.dyno.address);
            let Some(member) = place else { continue };
            member.failure = was.failure;
            deploy.effects.extend(revive(member, saved.state, was.stage, added, now));
        }
        deploy.state = match saved.state {
            State::Warming | State::Ready | State::Canary => State::Warming,
            State::CuttingOver | State::Baking => State::CuttingOver,
            same @ (State::Staged | State::Draining | State::RollingBack) => same,
            end @ (State::Done | State::Failed | State::RolledBack) => end,
        };
        deploy.short = deploy.serving() < deploy.floor();
        // A router that restarts again and again takes no step of the pace each time.
        let begun = deploy.count(Side::New, &[DynoStage::Serving]) > 0;
        deploy.next_step = begun.then(|| now + deploy.plan.pace.every());
        if deploy.state.is_end() {
            deploy.end();
        }
        deploy.advance(now);
        Ok(deploy)
    }
}

/// What a dyno is after a restart.
enum Fate {
    Staged,
    Warms,
    Serves,
    IsGone,
    HasFailed,
}

/// Gives a dyno of a deploy that is made anew the place it had, and says what makes the router see it so.
fn revive(member: &mut Member, state: State, was: DynoStage, added: DynoHealth, now: Instant) -> Vec<Effect> {
    match (member.side, fate(state, member.side, was)) {
        (Side::New, Fate::Staged) => Vec::new(),
        (Side::Old, Fate::Staged | Fate::Serves) => {
            member.stage = DynoStage::Draining;
            member.step(Event::Serve, now).into_iter().collect()
        }
        (Side::New, Fate::Serves) => {
            let add = member.step(Event::Warm(added), now);
            member.step(Event::Ready, now);
            add.into_iter().chain(member.step(Event::Serve, now)).collect()
        }
        (_, Fate::Warms) => {
            member.stage = DynoStage::Gone;
            member.step(Event::Warm(added), now).into_iter().collect()
        }
        (_, Fate::IsGone) => {
            member.stage = DynoStage::Gone;
            Vec::new()
        }
        (_, Fate::HasFailed) => {
            member.stage = DynoStage::Failed;
            Vec::new()
        }
    }
}

fn fate(state: State, side: Side, was: DynoStage) -> Fate {
    match (state, side) {
        _ if was == DynoStage::Failed => Fate::HasFailed,
        (State::Staged, _) => Fate::Staged,
        (State::Warming | State::Ready | State::Canary, Side::New) => Fate::Warms,
        (State::Warming | State::Ready | State::Canary, Side::Old) => Fate::Serves,
        (State::Draining, Side::Old) => Fate::IsGone,
        _ if was == DynoStage::Serving => Fate::Serves,
        (State::Failed | State::RolledBack, Side::Old) if was == DynoStage::Crashed => Fate::Serves,
        (State::CuttingOver | State::Baking, Side::New) | (State::RollingBack, Side::Old) => Fate::Warms,
        _ => Fate::IsGone,
    }
}
