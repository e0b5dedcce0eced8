//! How a deploy is to go: every setting with its default and its bounds.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::canary::Canary;
use crate::ids::Address;
use crate::limits::setters;

/// How a deploy is to go.
///
/// # Defaults
///
/// | field | default | bounds | at the limit |
/// |---|---|---|---|
/// | [`ready_when`](Self::ready_when) | all | 1 and more; 1 to 100 % | fewer are left: failed, or rolled back |
/// | [`rise`](Self::rise) | 1 | 1 to 10 | the dyno is ready |
/// | [`probe_every`](Self::probe_every) | 1 s | 1 ms to 1 min | the next probe |
/// | [`boot_timeout`](Self::boot_timeout) | 60 s | 1 ms to 1 h | the dyno has failed and is removed |
/// | [`canary`](Self::canary) | none | 1 to 99 % | – |
/// | [`canary_time`](Self::canary_time) | 1 h | 1 ms to 7 d | rolled back |
/// | [`pace`](Self::pace) | at once | 1 and more; 1 to 100 %; every 0 to 24 h | the next step |
/// | [`drain_timeout`](Self::drain_timeout) | 5 min | 1 ms to 24 h | reported; the deploy ends without it |
/// | [`bake_time`](Self::bake_time) | 0: none | 0 to 24 h | the new release has passed |
/// | [`bake_limits`](Self::bake_limits) | see [`BakeLimits`] | | rolled back |
///
/// ```
/// use router_core::policy::deploy::{Pace, Plan, ReadyWhen};
/// use std::time::Duration;
///
/// let plan = Plan::default()
///     .with_ready_when(ReadyWhen::Share(80))
///     .with_pace(Pace::Dynos { count: 2, every: Duration::from_secs(10) });
/// assert_eq!(plan.boot_timeout, Duration::from_secs(60));
/// assert!(plan.check().is_ok());
/// assert_eq!(
///     plan.with_rise(0).check().unwrap_err().to_string(),
///     "rise is out of bounds: allowed are 1 to 10",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// How many new dynos have to be ready before the first of them serves. From then on until the end of the bake as
    /// many have to stay: with one less the deploy is rolled back. Dynos beyond that number join as they get ready.
    pub ready_when: ReadyWhen,
    /// Good probes in a row that make a dyno ready.
    pub rise: u32,
    /// From a probe's answer to the next probe of the same dyno.
    pub probe_every: Duration,
    /// The longest a dyno may take from being added to being ready.
    pub boot_timeout: Duration,
    /// Which requests the new release serves before it is promoted; `None`: it is not asked to wait. Without an old
    /// release it is not either.
    pub canary: Option<Canary>,
    /// The longest a canary waits to be promoted.
    pub canary_time: Duration,
    /// How fast new dynos replace old ones.
    pub pace: Pace,
    /// How long a busy dyno that leaves may take for its last requests. It never holds the new release up, and the
    /// requests are not cut.
    pub drain_timeout: Duration,
    /// How long the new release is watched once it serves alone.
    pub bake_time: Duration,
    /// What the new release is held against while it is canary, cut over, and bakes.
    pub bake_limits: BakeLimits,
}

/// How many of the new dynos have to be ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyWhen {
    /// All of them.
    #[default]
    All,
    /// That many, or all if there are fewer.
    Count(usize),
    /// That many in a hundred, rounded up.
    Share(u32),
}

/// How fast new dynos replace old ones. Each step lets new dynos serve first; then the same share of the old dynos
/// leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// All in one step.
    #[default]
    AtOnce,
    /// So many new dynos a step.
    Dynos {
        /// How many.
        count: usize,
        /// From one step to the next.
        every: Duration,
    },
    /// So many in a hundred of the new dynos a step, rounded up.
    Share {
        /// How many in a hundred.
        percent: u32,
        /// From one step to the next.
        every: Duration,
    },
}

/// What a new release may do worse than the old one before it is rolled back without anybody being asked.
///
/// The old release's rate is 0 while it has no requests. Without old dynos nothing is judged: there is nothing to go
/// back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BakeLimits {
    /// Requests of the new release before it is judged at all. With fewer it passes. Comparisons by a factor want
    /// as many of the old one. Default 100, at least 1.
    pub min_requests: u64,
    /// How many percentage points the fault rate may be above the old one. Default 5; 100 never judges.
    pub fault_points: u32,
    /// How many times the old fault rate the new one may be, in percent of the old one. Asked from 10 faults on,
    /// and only if the old one had faults, so that one fault after a perfect day is no verdict. Default 300,
    /// at least 100; `None` never judges.
    pub fault_ratio: Option<u32>,
    /// How long the mean service time may be, in percent of the old one. Default 200, at least 100; `None` never
    /// judges.
    pub service_ratio: Option<u32>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ready_when: ReadyWhen::All,
            rise: 1,
            probe_every: Duration::from_secs(1),
            boot_timeout: Duration::from_secs(60),
            canary: None,
            canary_time: HOUR,
            pace: Pace::AtOnce,
            drain_timeout: Duration::from_secs(300),
            bake_time: Duration::ZERO,
            bake_limits: BakeLimits::default(),
        }
    }
}

impl Default for BakeLimits {
    fn default() -> Self {
        Self { min_requests: 100, fault_points: 5, fault_ratio: Some(300), service_ratio: Some(200) }
    }
}

setters! {
    Plan:
    with_ready_when sets ready_when: ReadyWhen;
    with_rise sets rise: u32;
    with_probe_every sets probe_every: Duration;
    with_boot_timeout sets boot_timeout: Duration;
    with_canary sets canary: Option<Canary>;
    with_canary_time sets canary_time: Duration;
    with_pace sets pace: Pace;
    with_drain_timeout sets drain_timeout: Duration;
    with_bake_time sets bake_time: Duration;
    with_bake_limits sets bake_limits: BakeLimits;
}

setters! {
    BakeLimits:
    with_min_requests sets min_requests: u64;
    with_fault_points sets fault_points: u32;
    with_fault_ratio sets fault_ratio: Option<u32>;
    with_service_ratio sets service_ratio: Option<u32>;
}

const MOMENT: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Plan {
    /// Holds every setting against its bounds.
    ///
    /// # Errors
    /// [`PlanError::OutOfBounds`] names the first setting that is out of them.
    pub fn check(&self) -> Result<(), PlanError> {
        let Self { ready_when, pace, bake_limits: bake, .. } = self;
        match *ready_when {
            ReadyWhen::All => {}
            ReadyWhen::Count(count) => within("ready_when", count, 1..=usize::MAX, "1 and more")?,
            ReadyWhen::Share(share) => within("ready_when", share, 1..=100, "1 to 100 percent")?,
        }
        within("rise", self.rise, 1..=10, "1 to 10")?;
        within("probe_every", self.probe_every, MOMENT..=Duration::from_secs(60), "1ms to 1min")?;
        within("boot_timeout", self.boot_timeout, MOMENT..=HOUR, "1ms to 1h")?;
        if let Some(Canary::Share(share)) = self.canary {
            within("canary", share, 1..=99, "1 to 99 percent")?;
        }
        within("canary_time", self.canary_time, MOMENT..=7 * DAY, "1ms to 7d")?;
        match *pace {
            Pace::AtOnce => {}
            Pace::Dynos { count, .. } => within("pace", count, 1..=usize::MAX, "1 dyno and more")?,
            Pace::Share { percent, .. } => within("pace", percent, 1..=100, "1 to 100 percent")?,
        }
        within("pace", pace.every(), Duration::ZERO..=DAY, "0s to 24h between two steps")?;
        within("drain_timeout", self.drain_timeout, MOMENT..=DAY, "1ms to 24h")?;
        within("bake_time", self.bake_time, Duration::ZERO..=DAY, "0s to 24h")?;
        within("bake_limits.min_requests", bake.min_requests, 1..=u64::MAX, "1 and more")?;
        within("bake_limits.fault_points", bake.fault_points, 0..=100, "0 to 100 percentage points")?;
        let at_least = 100..=u32::MAX;
        let what = "100 percent and more";
        within("bake_limits.fault_ratio", bake.fault_ratio.unwrap_or(100), at_least.clone(), what)?;
        within("bake_limits.service_ratio", bake.service_ratio.unwrap_or(100), at_least, what)
    }

    /// How many of `total` new dynos have to be ready.
    pub(super) fn need(&self, total: usize) -> usize {
        match self.ready_when {
            ReadyWhen::All => total,
            ReadyWhen::Count(count) => count.min(total),
            ReadyWhen::Share(share) => part(total, share),
        }
    }
}

impl Pace {
    /// How many of `total` new dynos begin to serve in one step.
    pub(super) fn step(self, total: usize) -> usize {
        match self {
            Self::AtOnce => total,
            Self::Dynos { count, .. } => count,
            Self::Share { percent, .. } => part(total, percent),
        }
    }

    /// From one step to the next.
    pub(super) fn every(self) -> Duration {
        match self {
            Self::AtOnce => Duration::ZERO,
            Self::Dynos { every, .. } | Self::Share { every, .. } => every,
        }
    }
}

/// So many in a hundred, rounded up.
fn part(total: usize, percent: u32) -> usize {
    (total as u64 * u64::from(percent)).div_ceil(100) as usize
}

fn within<T: PartialOrd>(
    setting: &'static str,
    value: T,
    bounds: RangeInclusive<T>,
    allowed: &'static str,
) -> Result<(), PlanError> {
    if bounds.contains(&value) { Ok(()) } else { Err(PlanError::OutOfBounds { setting, allowed }) }
}

/// Why a deploy cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// The new release has no dynos.
    NoDynos,
    /// Two dynos have the same address. The address is what a dyno is, so a new dyno cannot replace one in place.
    Twice(Address),
    /// A setting is out of its bounds.
    OutOfBounds {
        /// Which.
        setting: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDynos => f.write_str("the new release has no dynos"),
            Self::Twice(address) => write!(f, "two dynos of the deploy have the address {address}"),
            Self::OutOfBounds { setting, allowed } => {
                write!(f, "{setting} is out of bounds: allowed are {allowed}")
            }
        }
    }
}

impl std::error::Error for PlanError {}
