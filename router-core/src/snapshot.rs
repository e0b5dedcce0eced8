//! A consistent picture of an app: for metrics, the admin interface and tests. Plain data.

use std::time::Duration;

use crate::canary::Lane;
use crate::ids::{Address, AppId, DynoName, ReleaseId};

/// A router as it was at one moment for each app; apps are read one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The apps, ordered by name.
    pub apps: Vec<AppSnapshot>,
}

/// One app, read under its lock.
#[derive(Clone, Debug, PartialEq)]
pub struct AppSnapshot {
    /// The app.
    pub id: AppId,
    /// The release that its dynos run unless they have one of their own.
    pub release: ReleaseId,
    /// Requests in line, in both lanes.
    pub waiting: usize,
    /// Those of them that are in the canary's lane.
    pub waiting_canary: usize,
    /// Bytes of request bodies in line.
    pub waiting_bytes: u64,
    /// How long the first in line has waited.
    pub oldest_wait: Duration,
    /// Smoothed time a dyno of the main lane needs for a request; zero until the first has ended.
    pub service_time: Duration,
    /// Requests that got a dyno, since the app was added.
    pub dispatched: u64,
    /// Requests that were refused at the door or taken out of the line.
    pub refused: u64,
    /// Requests that left the line by themselves: their client was gone.
    pub left: u64,
    /// Times a dyno was put into quarantine because it failed fast.
    pub ejected: u64,
    /// The line is held: paused or resuming.
    pub held: Option<Held>,
    /// New requests are refused: maintenance.
    pub maintenance: bool,
    /// The dynos, ordered by address.
    pub dynos: Vec<DynoSnapshot>,
}

impl AppSnapshot {
    /// How many dynos are in that state.
    pub fn count(&self, state: DynoState) -> usize {
        self.dynos.iter().filter(|dyno| dyno.state == state).count()
    }
}

/// A line that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How long it has been held.
    pub since: Duration,
    /// How long it stays paused; zero: it is resuming.
    pub paused: Duration,
    /// How long until the hold is over, the resume included.
    pub left: Duration,
}

/// One dyno.
#[derive(Clone, Debug, PartialEq)]
pub struct DynoSnapshot {
    /// Where it listens.
    pub address: Address,
    /// What people call it.
    pub name: DynoName,
    /// The release it runs.
    pub release: ReleaseId,
    /// Whose requests it takes.
    pub lane: Lane,
    /// What it does.
    pub state: DynoState,
    /// How many requests it serves at once.
    pub concurrency: u32,
    /// Requests it is working on, lingering ones included.
    pub in_flight: u32,
    /// Requests it is working on that nobody waits for any more.
    pub lingering: u32,
    /// Requests it is working on whose connection has changed the protocol (WebSocket), those beside its slots
    /// included.
    pub upgraded: u32,
    /// Requests it was given, since it was added.
    pub dispatched: u64,
    /// Connections it did not accept and times it was ejected, in a row.
    pub failures: u32,
    /// Requests it answered well, since it was added.
    pub answered: u64,
    /// It was put into quarantine because it failed fast, and has not answered well since.
    pub ejected: bool,
    /// Answers in a row that were bad: 5xx, or none.
    pub bad_answers: u32,
    /// Probes in a row that were bad.
    pub bad_probes: u32,
    /// One of its requests is a probe.
    pub probing: bool,
}

/// What a dyno does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DynoState {
    /// Known, and nobody counts on it yet: a release that is to serve later.
    Staged,
    /// Started, does not listen yet.
    Booting,
    /// Its process died and will be started again.
    Crashed,
    /// May take a request.
    Idle,
    /// Has as many requests as it takes at once.
    Busy,
    /// Works on a request that nobody waits for any more, and can take no other.
    Lingering,
    /// Did not accept a connection, or failed fast; is left alone for a while.
    Quarantined,
    /// Its probes fail; gets no requests until they do not.
    Unhealthy,
    /// Another router has it; requests wait for it as for a busy one.
    Lent,
    /// Leaves once its requests have ended.
    Draining,
}

impl DynoState {
    /// Every state, in the order above.
    pub const ALL: [Self; 10] = [
        Self::Staged,
        Self::Booting,
        Self::Crashed,
        Self::Idle,
        Self::Busy,
        Self::Lingering,
        Self::Quarantined,
        Self::Unhealthy,
        Self::Lent,
        Self::Draining,
    ];

    /// The state as a word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Booting => "booting",
            Self::Crashed => "crashed",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Lingering => "lingering",
            Self::Quarantined => "quarantined",
            Self::Unhealthy => "unhealthy",
            Self::Lent => "lent",
            Self::Draining => "draining",
        }
    }
}
