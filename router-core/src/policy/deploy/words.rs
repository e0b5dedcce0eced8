//! The words of a deploy: its states, those of its dynos and releases, what the caller does, and how it ends.

use std::fmt;
use std::time::Duration;

use crate::canary::Canary;
use crate::change::{Change, DynoHealth, DynoSpec};
use crate::ids::{AppId, DynoName, ReleaseId};

/// Defines an enum of plain words: `as_str` and `parse` for machines, `Display` for people.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$of])* $word,)*
        }

        impl $name {
            /// Every one of them, in the order above.
            pub const ALL: &'static [Self] = &[$(Self::$word,)*];

            /// The word for machines, for example in JSON: lower case, with `_` between its parts.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)*
                }
            }

            /// The one that [`as_str`](Self::as_str) calls so.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }

        /// The word for people: as `as_str`, with spaces.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.as_str().replace('_', " "))
            }
        }
    };
}

words! {
    /// Where a deploy stands. The table of moves is at the head of [`deploy`](super).
    State {
        /// Asked for, and nothing done yet. → warming on `start`, rolling back.
        Staged = "staged",
        /// The new dynos start and are probed. → ready, failed, rolling back.
        Warming = "warming",
        /// Enough of them are ready; passed through in one step. → canary, cutting over.
        Ready = "ready",
        /// The new release serves its canary's requests alone. → cutting over on `promote`, rolling back.
        Canary = "canary",
        /// New dynos begin to serve, and for them old ones leave. → baking, failed, rolling back.
        CuttingOver = "cutting_over",
        /// The new release serves alone and is watched. → draining, failed, rolling back.
        Baking = "baking",
        /// It has passed; the last old dynos finish their requests. → done, rolling back.
        Draining = "draining",
        /// The old dynos come back, and for them the new ones leave. → rolled back, failed.
        RollingBack = "rolling_back",
        /// The new release has replaced the old one. The end.
        Done = "done",
        /// The new release never served, or there is no way back from it: the cause says which. The end.
        Failed = "failed",
        /// The old release serves again. The end.
        RolledBack = "rolled_back",
    }
}

impl State {
    /// Whether nothing more comes.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::RolledBack)
    }

    /// Whether no new dyno has a place in the app's line yet, so that the old release is as it was.
    pub fn is_before_cut_over(self) -> bool {
        matches!(self, Self::Staged | Self::Warming | Self::Ready | Self::Canary)
    }
}

words! {
    /// Where one dyno stands in a deploy.
    DynoStage {
        /// Named, and nothing done yet. → warming, gone.
        Staged = "staged",
        /// Started and probed, gets no request. → ready, failed, gone.
        Warming = "warming",
        /// Its probes were good; gets no request yet. → canary, serving, failed, gone.
        Ready = "ready",
        /// Gets the canary's requests alone. → serving, draining, failed.
        Canary = "canary",
        /// Takes requests from the app's line. → draining, crashed (an old one), failed (a new one).
        Serving = "serving",
        /// An old dyno whose process died. The deploy leaves it to the router until its turn. → gone.
        Crashed = "crashed",
        /// Gets no further request and finishes those it has. → gone, serving on a rollback.
        Draining = "draining",
        /// Not in the router. → warming on a rollback (an old one).
        Gone = "gone",
        /// Did not become ready, or died: taken out of the router for good.
        Failed = "failed",
    }
}

words! {
    /// Where one of the two releases stands, as people speak of it.
    ReleaseStage {
        /// None of its dynos is started.
        Staged = "staged",
        /// Its dynos start.
        Warming = "warming",
        /// Enough of its dynos are ready; none serves from the app's line.
        Ready = "ready",
        /// It serves.
        Serving = "serving",
        /// It gets no further request; its dynos finish those they have.
        Draining = "draining",
        /// It has left.
        Gone = "gone",
        /// Its deploy failed before it served.
        Failed = "failed",
        /// Its deploy was taken back.
        RolledBack = "rolled_back",
    }
}

words! {
    /// One of the two releases of a deploy.
    Side {
        /// The release that is replaced.
        Old = "old",
        /// The release that replaces it.
        New = "new",
    }
}

words! {
    /// Why a deploy did not end well.
    CauseKind {
        /// A dyno was not ready within `boot_timeout`.
        NotReady = "not_ready",
        /// A new dyno died.
        Crashed = "crashed",
        /// The new release had more faults than the limits allow.
        TooManyFaults = "too_many_faults",
        /// The new release took longer for a request than the limits allow.
        TooSlow = "too_slow",
        /// The canary was not promoted within `canary_time`.
        NotPromoted = "not_promoted",
        /// Somebody asked for it.
        Asked = "asked",
        /// A rollback found no old dyno that comes back; the new ones go on serving.
        NoWayBack = "no_way_back",
    }
}

/// Why a deploy, or one dyno of it, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cause {
    /// What kind of failure it was.
    pub kind: CauseKind,
    /// The dyno that decided it, if one did.
    pub dyno: Option<DynoName>,
    /// What happened, in one sentence for people: which dyno, what was asked of it, what it answered.
    pub text: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How the old release came back in a rollback. All zero: it had never left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WayBack {
    /// Old dynos that were still draining and serve again, at once.
    pub resumed: usize,
    /// Old dynos that had gone, were added again, warmed, and serve.
    pub rewarmed: usize,
    /// Old dynos that had gone and did not become ready again.
    pub lost: usize,
}

/// How a deploy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new release has replaced the old one.
    Done,
    /// The new release did not get to serve and the old one is as it was; with
    /// [`CauseKind::NoWayBack`] the old one is lost and the new one goes on serving.
    Failed(Cause),
    /// The old release serves again: why, and how its dynos came back.
    RolledBack(Cause, WayBack),
}

impl Outcome {
    /// The word for machines: that of the state.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => State::Done.as_str(),
            Self::Failed(_) => State::Failed.as_str(),
            Self::RolledBack(..) => State::RolledBack.as_str(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(cause) => write!(f, "failed: {cause}"),
            Self::RolledBack(cause, WayBack { resumed, rewarmed, lost }) => write!(
                f,
                "rolled back: {cause} (old dynos resumed {resumed}, warmed again {rewarmed}, lost {lost})"
            ),
        }
    }
}

/// What the caller has to do, in this order. Effects for one dyno come in the order of its stages: `Add`, `Probe`,
/// perhaps `Canary`, `Serve`, `Drain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The deploy has entered this state. For the audit log, and a good moment to write down
    /// [`saved`](super::Deploy::saved).
    Enters(State),
    /// Make the dyno known to the router in the `state` that the spec says: staged, so that no request waits for it, or
    /// booting while nobody else serves. It gets no request yet.
    Add(DynoSpec),
    /// Nobody serves any more: requests wait for this dyno, which is being warmed.
    Awaited(DynoSpec),
    /// Ask the dyno once whether it is ready, and tell the answer to [`probed`](super::Deploy::probed). Only dynos
    /// that get no requests are probed, so a probe never meets a request.
    Probe(DynoSpec),
    /// These requests are the canary's from now on; `None`: there is no canary any more.
    CanaryIs(Option<Canary>),
    /// The dyno serves the canary's requests, and nothing else.
    Canary(DynoSpec),
    /// The dyno takes requests from the app's line.
    Serve(DynoSpec),
    /// The dyno gets no further request. Tell [`gone`](super::Deploy::gone) when its last one has ended. Its process
    /// has to live until [`Ended`](Self::Ended): a rollback may want it back.
    Drain(DynoSpec),
    /// The dyno takes requests again. It may have left the router in the meantime, which makes no difference.
    Resume(DynoSpec),
    /// The dyno serves no request (it has not begun to, or its process died) and is not wanted: take it away.
    Remove(DynoSpec),
    /// The dyno has drained for `drain_timeout` and is still busy. Nobody waits for it any more; it keeps its request.
    GivenUp(DynoSpec),
    /// It is over. Nothing comes after this.
    Ended(Outcome),
}

impl Effect {
    /// What the effect asks of the router. Apply the changes of all effects that came together as **one** list, so
    /// that nothing is dispatched in between. They are all that a router has to be told of a deploy.
    pub fn changes(&self, app: &AppId) -> Vec<Change> {
        let add = |spec: &DynoSpec, state| Change::AddDyno(app.clone(), DynoSpec { state, ..spec.clone() });
        // Added again in case somebody has taken it away since; set for one that is there.
        let put = |spec: &DynoSpec, state| {
            vec![add(spec, state), Change::SetDyno(app.clone(), spec.address, state)]
        };
        match self {
            Self::Add(dyno) => vec![add(dyno, dyno.state)],
            Self::Awaited(dyno) => {
                vec![Change::SetDyno(app.clone(), dyno.address, DynoHealth::Booting)]
            }
            Self::CanaryIs(canary) => vec![Change::SetCanary(app.clone(), canary.clone())],
            Self::Canary(dyno) => put(dyno, DynoHealth::Canary),
            Self::Serve(dyno) => put(dyno, DynoHealth::Ready),
            Self::Resume(dyno) => vec![add(dyno, DynoHealth::Ready)],
            Self::Drain(dyno) | Self::Remove(dyno) => vec![Change::RemoveDyno(app.clone(), dyno.address)],
            Self::Enters(_) | Self::Probe(_) | Self::GivenUp(_) | Self::Ended(_) => Vec::new(),
        }
    }
}

/// A deploy as it stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub state: State,
    /// The release that is replaced, and where it stands.
    pub old: (ReleaseId, ReleaseStage),
    /// The release that replaces it, and where it stands.
    pub new: (ReleaseId, ReleaseStage),
    /// New dynos.
    pub new_total: usize,
    /// New dynos that are ready or beyond: waiting for their turn, canary or serving.
    pub new_ready: usize,
    /// New dynos that serve from the app's line.
    pub new_serving: usize,
    /// New dynos that failed.
    pub new_failed: usize,
    /// Old dynos that serve.
    pub old_serving: usize,
    /// Old dynos that are not gone: serving, crashed, draining or coming back.
    pub old_left: usize,
    /// Old dynos that still had requests after `drain_timeout`.
    pub old_given_up: usize,
    /// How long it has been in this state.
    pub since: Duration,
    /// The time after which the clock ends this state at the latest; `None`: it does not wait for the clock.
    pub deadline: Option<Duration>,
    /// Why it fails or is taken back, once it does.
    pub cause: Option<Cause>,
    /// Every dyno: the old ones, then the new ones, each in the order they were given.
    pub dynos: Vec<DynoProgress>,
}

/// One dyno of a deploy as it stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynoProgress {
    /// Whose it is.
    pub side: Side,
    /// The dyno.
    pub dyno: DynoSpec,
    /// Where it stands.
    pub stage: DynoStage,
    /// What it answered to its last probe that was not good, or why it failed.
    pub trouble: Option<String>,
}

/// The deploy is not in a state in which this can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState {
    /// The state it is in.
    pub state: State,
    /// What would have been possible.
    pub(super) wants: &'static str,
}

impl fmt::Display for WrongState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the deploy is {}: {}", self.state, self.wants)
    }
}

impl std::error::Error for WrongState {}
