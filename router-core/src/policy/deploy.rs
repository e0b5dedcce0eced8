//! One deploy of one app as a pure state machine: the dynos of a new release replace those of the present one.
//!
//! # How to drive it
//!
//! Methods that take something in ([`start`](Deploy::start), [`probed`](Deploy::probed), [`gone`](Deploy::gone),
//! [`crashed`](Deploy::crashed), [`tallied`](Deploy::tallied), [`tick`](Deploy::tick), [`promote`](Deploy::promote),
//! [`roll_back`](Deploy::roll_back)) move the state as far as it goes. After each of them take the effects from
//! [`next_effect`](Deploy::next_effect) until it returns `None`, and hand all of their [`changes`](Effect::changes) to
//! the router as one list. Call [`tick`](Deploy::tick) at [`alarm`](Deploy::alarm). `now` is an argument everywhere and
//! never runs backwards. What comes late (an answer for a dyno that left, anything after the end) has no effect.
//!
//! ```
//! use router_core::change::DynoSpec;
//! use router_core::clock::Clock;
//! use router_core::policy::deploy::{Deploy, Effect, Outcome, Plan, Release};
//!
//! let now = Clock::manual().now();
//! let old = Release { id: "v1".into(), dynos: vec![DynoSpec::new("127.0.0.1:3001".parse()?)] };
//! let new = Release { id: "v2".into(), dynos: vec![DynoSpec::new("127.0.0.1:3002".parse()?)] };
//! let (old_dyno, new_dyno) = (old.dynos[0].address, new.dynos[0].address);
//!
//! let mut deploy = Deploy::new(now, old, new, Plan::default())?;
//! deploy.start(now)?;
//! while let Some(effect) = deploy.next_effect() {
//!     match effect {
//!         Effect::Probe(dyno) => deploy.probed(now, dyno.address, Ok(())),
//!         Effect::Drain(dyno) => deploy.gone(now, dyno.address),
//!         Effect::Ended(outcome) => assert_eq!(outcome, Outcome::Done),
//!         other => {
//!             let _for_the_router = other.changes(&"shop".into());
//!         }
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # State
//!
//! | state | ends when | next |
//! |---|---|---|
//! | staged | `start` | warming |
//! | warming | `ready_when` is met | ready |
//! | | it can no longer be met | failed; the new dynos are removed, the old ones untouched |
//! | ready | at once | canary if the plan has one and there is an old release, cutting over |
//! | canary: the plan's requests have a lane of their own | `promote` | cutting over |
//! | | `canary_time` is over, or the new release is broken | rolling back |
//! | cutting over | every new dyno serves or has failed, and every old one leaves | baking |
//! | | the new release is broken | rolling back |
//! | baking | `bake_time` is over | draining |
//! | | the new release is broken | rolling back |
//! | draining | every old dyno is gone or given up | done |
//! | rolling back | the old dynos serve, every new one is gone or given up | rolled back |
//! | | no old dyno is left to go back to, and new ones serve | failed; those go on serving |
//! | any but these | `roll_back` | rolling back |
//! | done, failed, rolled back | never | |
//!
//! *Broken*: fewer new dynos are left than `ready_when` asks for, or their requests break `bake_limits`. Without old
//! dynos (a first deploy) there is nothing to go back to: it goes on with the new dynos that are left, and fails when
//! none is.
//!
//! *Cutting over* goes by steps (`pace`): new dynos that are ready serve first, then old ones leave, until as large a
//! share of the old ones has left as serves of the new ones, rounded down. *Rolling back* is the same the other way:
//! old dynos that still drain serve again at once, those that are gone are added and warmed, and for each share of
//! them that serves the same share of the new ones leaves. New dynos that did not serve leave at once. How it came
//! out stands in [`WayBack`].
//!
//! # Invariants (walked by `check_invariants`)
//!
//! * **The floor**: in every state at least min(old, new) dynos serve from the app's line, where old and new are the
//!   dynos of each release that have neither crashed nor failed. Only the crash of a dyno that serves can break it.
//! * Before the cut-over every old dyno is as it was; after a rollback every old dyno serves that can.
//! * At an end nothing is half: done has no old dyno that serves, failed and rolled back no new one.
//! * Between start and end there is an [`alarm`](Deploy::alarm): no deploy waits for ever.

#[cfg(test)]
mod bed;
mod judge;
mod member;
#[cfg(test)]
mod model;
mod moves;
mod plan;
mod saved;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::collections::VecDeque;
use std::time::Instant;

pub use crate::canary::Canary;
use crate::change::DynoSpec;
use crate::ids::{Address, ReleaseId};
pub use judge::Tally;
use member::{Event, Member};
pub use plan::{BakeLimits, Pace, Plan, PlanError, ReadyWhen};
pub use saved::{Saved, SavedDyno};
pub use words::{
    Cause, CauseKind, DynoProgress, DynoStage, Effect, Outcome, Progress, ReleaseStage, Side, State, WayBack,
    WrongState,
};

/// A release and its dynos, in the order in which they are to serve or leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name.
    pub id: ReleaseId,
    /// Its dynos. Their `state` and `release` say nothing: the old ones are taken to serve, the new ones not to, and
    /// they run this release.
    pub dynos: Vec<DynoSpec>,
}

/// One deploy of one app.
#[derive(Clone, Debug)]
pub struct Deploy {
    old: ReleaseId,
    new: ReleaseId,
    plan: Plan,
    state: State,
    /// When it got to its state.
    since: Instant,
    /// The old dynos, then the new ones.
    members: Vec<Member>,
    /// New dynos that have to be there.
    need: usize,
    /// The next step of the pace; `None`: now.
    next_step: Option<Instant>,
    cause: Option<Cause>,
    way_back: WayBack,
    old_tally: Tally,
    new_tally: Tally,
    /// Dynos that served have crashed: fewer serve than the floor.
    short: bool,
    effects: VecDeque<Effect>,
}

impl Deploy {
    /// A deploy that is staged: nothing happens before [`start`](Self::start).
    ///
    /// # Errors
    /// [`PlanError`]: the new release has no dynos, two dynos have one address, or the plan is out of its bounds.
    pub fn new(now: Instant, old: Release, new: Release, plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        if new.dynos.is_empty() {
            return Err(PlanError::NoDynos);
        }
        let mut addresses: Vec<_> = old.dynos.iter().chain(&new.dynos).map(|dyno| dyno.address).collect();
        addresses.sort_unstable();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlanError::Twice(pair[0]));
        }
        let need = plan.need(new.dynos.len());
        let old_dynos =
            old.dynos.into_iter().map(|dyno| Member::new(Side::Old, &old.id, dyno, DynoStage::Serving, now));
        let new_dynos =
            new.dynos.into_iter().map(|dyno| Member::new(Side::New, &new.id, dyno, DynoStage::Staged, now));
        let members = old_dynos.chain(new_dynos).collect();
        Ok(Self {
            old: old.id,
            new: new.id,
            plan,
            state: State::Staged,
            since: now,
            members,
            need,
            next_step: None,
            cause: None,
            way_back: WayBack::default(),
            old_tally: Tally::default(),
            new_tally: Tally::default(),
            short: false,
            effects: VecDeque::new(),
        })
    }

    /// Begins.
    ///
    /// # Errors
    /// It has begun before.
    pub fn start(&mut self, now: Instant) -> Result<(), WrongState> {
        if self.state != State::Staged {
            return Err(WrongState { state: self.state, wants: "it has been started before" });
        }
        self.enter(State::Warming, now);
        self.advance(now);
        Ok(())
    }

    /// The answer to an [`Effect::Probe`]; `Err` says in short what came instead of a good one, for example
    /// `status 503: migrating`.
    pub fn probed(&mut self, now: Instant, dyno: Address, answer: Result<(), &str>) {
        if let Some(at) = self.place(dyno)
            && self.members[at].probed(now, answer, &self.plan)
        {
            self.step_dyno(at, Event::Ready, now);
        }
        self.advance(now);
    }

    /// The last request of a dyno that drains has ended: it has left the router.
    pub fn gone(&mut self, now: Instant, dyno: Address) {
        if let Some(at) = self.place(dyno) {
            self.step_dyno(at, Event::Left, now);
        }
        self.advance(now);
    }

    /// A dyno's process died; `how` says so in short, for example `exit status 1`. A new dyno is out of the deploy,
    /// and enough of them have to be left. An old one is left to the router.
    pub fn crashed(&mut self, now: Instant, dyno: Address, how: &str) {
        if let Some(at) = self.place(dyno)
            && !self.state.is_end()
        {
            let before = self.members[at].stage;
            self.step_dyno(at, Event::Fail, now);
            if self.members[at].stage != before {
                self.members[at].crashed(how);
                self.let_wait();
            }
            self.short |= self.serving() < self.floor();
        }
        self.advance(now);
    }

    /// Requests of one release that have ended **since the last call** for it. Tell the old release's from before the
    /// deploy too: they are what the new one is held against.
    pub fn tallied(&mut self, now: Instant, side: Side, since_last: Tally) {
        match side {
            Side::Old => self.old_tally.add(since_last),
            Side::New => self.new_tally.add(since_last),
        }
        self.advance(now);
    }

    /// Does what is due by the clock alone.
    pub fn tick(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Ends the canary: the new release replaces the old one.
    ///
    /// # Errors
    /// There is no canary now.
    pub fn promote(&mut self, now: Instant) -> Result<(), WrongState> {
        if self.state != State::Canary {
            return Err(WrongState { state: self.state, wants: "only a canary can be promoted" });
        }
        self.enter(State::CuttingOver, now);
        self.advance(now);
        Ok(())
    }

    /// Changes which requests the canary serves, from now on or once it begins. The plan is checked as in
    /// [`new`](Self::new) by whoever asks: see [`Plan::check`].
    ///
    /// # Errors
    /// The plan has no canary, or it is over.
    pub fn set_canary(&mut self, canary: Canary) -> Result<(), WrongState> {
        if self.plan.canary.is_none() || !self.state.is_before_cut_over() {
            return Err(WrongState { state: self.state, wants: "it has no canary now" });
        }
        self.plan.canary = Some(canary.clone());
        if self.state == State::Canary {
            self.effects.push_back(Effect::CanaryIs(Some(canary)));
        }
        Ok(())
    }

    /// Takes the deploy back, or ends the canary unpromoted. `why` says who asks for it and why.
    ///
    /// # Errors
    /// It is over, or is being taken back already.
    pub fn roll_back(&mut self, now: Instant, why: &str) -> Result<(), WrongState> {
        if self.state.is_end() || self.state == State::RollingBack {
            return Err(WrongState { state: self.state, wants: "there is nothing to take back any more" });
        }
        self.cause = Some(Cause { kind: CauseKind::Asked, dyno: None, text: why.to_owned() });
        self.enter(State::RollingBack, now);
        self.advance(now);
        Ok(())
    }

    /// What is to be done now. Call it after each input until it returns `None`.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
