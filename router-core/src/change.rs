//! What the control plane may ask of a router: one [`Change`] at a time, or several applied as one. Plain data.

use std::fmt;
use std::time::Duration;

use crate::canary::Canary;
use crate::ids::{Address, AppId, DynoName, ReleaseId};
use crate::limits::Limits;

/// An app as the control plane names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSpec {
    /// The app's name, unique within the router.
    pub id: AppId,
    /// What names the app: `shop.test`, `*.shop.test`, `shop.test/api`, or `*` for whatever no other app takes.
    pub hosts: Vec<String>,
    /// The release its dynos run.
    pub release: ReleaseId,
    /// Bounds and time-outs.
    pub limits: Limits,
}

/// A dyno as the control plane names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DynoSpec {
    /// Where it listens: its identity within the app.
    pub address: Address,
    /// What people call it.
    pub name: DynoName,
    /// How many requests it serves at once; 0 counts as 1.
    pub concurrency: u32,
    /// Whether it takes requests at once.
    pub state: DynoHealth,
    /// The release it runs; `None`: the one that the app has when the dyno is added. What it runs stays with it
    /// when the app gets another release.
    pub release: Option<ReleaseId>,
}

impl DynoSpec {
    /// A dyno that is ready, serves one request at a time, and is called by its address.
    pub fn new(address: Address) -> Self {
        let name = DynoName::new(address.to_string());
        Self { address, name, concurrency: 1, state: DynoHealth::Ready, release: None }
    }
}

/// What the control plane knows of a dyno's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DynoHealth {
    /// Its process may not be up, and nobody counts on it: it holds its address and is seen, but no request waits for
    /// it. A release that is not to serve yet.
    Staged,
    /// Its process has been started and does not listen yet: requests wait for it.
    Booting,
    /// It takes requests of the main lane.
    Ready,
    /// It takes requests of the canary's lane, and no others.
    Canary,
    /// Its process died and will be started again: nothing is sent to it.
    Crashed,
}

/// What the control plane does to requests of an app that have no dyno yet. Those at dynos go on in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No request gets a dyno; new ones wait in line, within its bounds. The time does not count as waiting. An app
    /// that is paused already is paused for that long from now.
    Pause {
        /// After this long the app resumes by itself. Default 30 s, at most 1 h; more counts as that.
        at_most: Duration,
        /// How long it then takes: see `Resume`.
        over: Duration,
    },
    /// The pause ends. An app that is not paused takes no notice.
    Resume {
        /// Over this time the number of requests in flight may rise from 1 to all that the dynos take, so that a
        /// database behind them is not run over. Zero: at once. Default 1 s, at most 10 min; more counts as that.
        over: Duration,
    },
    /// `true`: each new request is refused at once with H80; who is in line is served. `false`: no longer.
    Maintenance(bool),
}

impl Hold {
    /// How long a pause lasts at the most if nobody says.
    pub const PAUSE_DEFAULT: Duration = Duration::from_secs(30);
    /// The longest pause.
    pub const PAUSE_MAX: Duration = Duration::from_secs(3600);
    /// How long a resume takes if nobody says.
    pub const RESUME_DEFAULT: Duration = Duration::from_secs(1);
    /// The longest resume.
    pub const RESUME_MAX: Duration = Duration::from_secs(600);
}

/// One instruction to a router.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "lists of changes are short, and gone in a moment")]
pub enum Change {
    /// Adds the app, or gives an app that exists new hosts, limits and release. Its line, dynos and requests
    /// stay as they are.
    PutApp(AppSpec),
    /// Takes the app away. Who waits in its line is refused; who is being served is served to the end.
    RemoveApp(AppId),
    /// Adds a dyno, or takes back one that was leaving; one that is there gets the new name, concurrency and release.
    AddDyno(AppId, DynoSpec),
    /// The dyno gets no further request. A busy one stays until its request has ended.
    RemoveDyno(AppId, Address),
    /// The dyno's process came up or went down, or its lane changes. A dyno that crashes or boots stays in its lane.
    SetDyno(AppId, Address, DynoHealth),
    /// The app's line is paused or resumed, or new requests are refused. An app that is taken away forgets it.
    Hold(AppId, Hold),
    /// Which requests are the canary's from now on; `None`: none is. It holds for requests that take their ticket
    /// afterwards; who waits stays in its lane.
    SetCanary(AppId, Option<Canary>),
}

/// Why a list of changes was refused. Nothing of the list has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    /// A change names an app that does not exist.
    NoSuchApp(AppId),
    /// A change names a dyno that the app does not have.
    NoSuchDyno(AppId, Address),
    /// A host pattern cannot be read; the second text says why.
    BadHost(AppId, String, &'static str),
    /// Two apps ask for the same host and path.
    HostTaken {
        /// The host (and path) that both ask for.
        host: String,
        /// Who has it.
        has: AppId,
        /// Who asked for it as well.
        wants: AppId,
    },
    /// Two apps ask for the same dyno. A dyno of two apps would have two lines, and two requests at once.
    DynoTaken {
        /// The dyno that both ask for.
        address: Address,
        /// Who has it.
        has: AppId,
        /// Who asked for it as well.
        wants: AppId,
    },
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchApp(app) => write!(f, "there is no app {app}"),
            Self::NoSuchDyno(app, address) => write!(f, "app {app} has no dyno at {address}"),
            Self::BadHost(app, host, why) => write!(f, "app {app}: host {host:?}: {why}"),
            Self::HostTaken { host, has, wants } => {
                write!(f, "app {wants} asks for host {host}, which app {has} has")
            }
            Self::DynoTaken { address, has, wants } => {
                write!(f, "app {wants} asks for the dyno at {address}, which app {has} has")
            }
        }
    }
}

impl std::error::Error for ChangeError {}
