//! What would my fleet do: requests, routers and dynos in virtual time, millions of requests in seconds.
//!
//! The policy `one-line` is `router-core` itself: the same tickets, leases and bounds that a router of yours would
//! run, on a clock that the simulation moves. The other policies are what other proxies do, and are written here to be
//! held against it. All policies of a run get the same arrivals and the same service times, drawn from a seed: the same
//! seed gives the same figures, on any number of cores.
//!
//! ```
//! use router_bench::sim::{self, Case, Length, Policy, Progress, Setup};
//! use std::time::Duration;
//!
//! // Do 12 dynos do for 80 requests a second that take 100 ms, with spikes to a second?
//! let service = "lognormal:60ms,1s".parse()?;
//! let setup = Setup { length: Length::Requests(20_000), ..Setup::new(service, 12, 80.0) };
//! let cases = [Case::of(Policy::OneLine), Case::of(Policy::Random)];
//! let outcomes = sim::run(&setup, &cases, &Progress::default())?;
//!
//! let [line, random] = &outcomes[..] else { unreachable!() };
//! assert!(line.wait_ms.p95 < 500.0, "in one line, 95 % wait less than half a second");
//! assert!(random.wait_ms.mean > 3.0 * line.wait_ms.mean, "at random, three times as long");
//! assert_eq!(line.overlaps, 0, "no dyno ever had two requests");
//! # Ok::<(), String>(())
//! ```
//!
//! With [`Setup::patience`] clients give up, and an overload can be looked at: see [`Shed`].
//!
//! ```
//! use router_bench::sim::{self, Case, Length, Policy, Progress, Setup, Shed};
//! use std::time::Duration;
//!
//! // Ten dynos of a second each get twice what they can do; clients wait for 10 s.
//! let mut setup = Setup::new("exp:1s".parse()?, 10, 20.0);
//! setup.patience = Some(Duration::from_secs(10));
//! setup.length = Length::Requests(10_000);
//! let with = |shed| Case { policy: Policy::OneLine, shed };
//! let cases = [with(Shed::None), with(Shed::Routerd(None))];
//! let [unbounded, routerd] = &sim::run(&setup, &cases, &Progress::default())?[..] else { unreachable!() };
//! assert!(unbounded.goodput < 0.2, "nearly every answer comes too late");
//! assert!(routerd.goodput > 0.9, "the dynos work for clients that still wait");
//! # Ok::<(), String>(())
//! ```
//!
//! # What is modelled
//!
//! Requests arrive at random (Poisson) at one of [`Setup::routers`] routers. A dyno does one at a time. Half of
//! [`Setup::rtt`] lies between a router and a dyno, each way: with one line a dyno stands idle for a whole one between
//! two requests. [`Setup::hop`] is the way from one router to another. Routers take no time themselves.
//!
//! *Wait* is from the arrival to the dyno beginning to work, ways included; a request was *queued* if it waited longer
//! than its ways take.

mod batch;
mod bound;
mod line;
mod mesh;
mod outcome;
mod path;
mod shed;
mod tally;
#[cfg(test)]
mod tests;
mod words;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

pub use batch::run;
pub use outcome::{Outcome, Waits};
pub use words::{Case, Policy, Shed};

use crate::number::count;
use crate::service::Service;

/// The most requests of a run, warm-up included, for each policy.
pub const MOST_REQUESTS: f64 = 2e8;

/// The longest that a replication may last in its own time: a hundred years, a fifth of what fits into 64 bits of
/// nanoseconds.
const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

/// A fleet and its load.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How long a dyno works on a request.
    pub service: Service,
    /// How many dynos: 1 to 20,000.
    pub dynos: u32,
    /// Requests a second.
    pub rate: f64,
    /// How many routers: 1 to 64, default 1. Each knows only what it has done itself, unless the policy says otherwise.
    pub routers: u32,
    /// What part of the requests comes to each router: one number for each, in any unit. Empty (default): the same.
    pub shares: Vec<f64>,
    /// From one router to another, one way: default 0, at most 10 s.
    pub hop: Duration,
    /// From a router to a dyno and back: default 0, at most 10 s.
    pub rtt: Duration,
    /// When a client gives up; `None` (default): never.
    pub patience: Option<Duration>,
    /// How long to simulate: default 1,000,000 requests.
    pub length: Length,
    /// In how many independent parts: 1 to 100, default 5. What they differ by gives the half-width of the result.
    pub replications: u32,
    /// Of arrivals, service times and all lots: default 1.
    pub seed: u64,
}

/// How long to simulate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So many requests count, over all replications. A quarter more come before them, to fill the lines.
    Requests(u64),
    /// Each replication begins with an empty fleet and lasts so long.
    Time(Duration),
}

/// What threads beside a run may see and do.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that have arrived, of [`Setup::arrivals`] for each case.
    pub done: AtomicU64,
    /// Set to end the run early. What there is by then is kept.
    pub interrupt: Arc<AtomicBool>,
}

impl Setup {
    /// One router, no ways, nobody gives up.
    pub fn new(service: Service, dynos: u32, rate: f64) -> Self {
        Self {
            service,
            dynos,
            rate,
            routers: 1,
            shares: Vec::new(),
            hop: Duration::ZERO,
            rtt: Duration::ZERO,
            patience: None,
            length: Length::Requests(1_000_000),
            replications: 5,
            seed: 1,
        }
    }

    /// The load: the share of the dynos' time that the requests need.
    pub fn load(&self) -> f64 {
        self.rate * self.service.mean() / f64::from(self.dynos)
    }

    /// The load of one line: between two requests a dyno waits for the way there and back.
    pub fn load_of_line(&self) -> f64 {
        self.rate * (self.service.mean() + self.rtt.as_secs_f64()) / f64::from(self.dynos)
    }

    /// How long a fleet that begins empty takes to settle if each dyno has a line of its own: in this time all but a
    /// third of the difference is gone (a single exponential server's relaxation time, longer by the spread of the
    /// service times). With one line it is as many times shorter as there are dynos. `None`: it never does.
    pub fn settles_in(&self) -> Option<Duration> {
        let load = self.load();
        let time = self.service.mean() * f64::midpoint(1.0, self.service.scv()) / (1.0 - load.sqrt()).powi(2);
        Duration::try_from_secs_f64(time).ok().filter(|_| load < 1.0)
    }

    /// About how many requests arrive in a run of one case, warm-up included.
    pub fn arrivals(&self) -> u64 {
        match self.length {
            Length::Requests(requests) => requests + requests / 4,
            Length::Time(time) => {
                (self.rate * time.as_secs_f64() * f64::from(self.replications)).round() as u64
            }
        }
    }

    /// Whether this can be simulated with these cases.
    ///
    /// # Errors
    /// Says what is wrong, and what is allowed.
    pub fn check(&self, cases: &[Case]) -> Result<(), String> {
        let way = Duration::from_secs(10);
        let between = |what: &str, number: u32, most: u32| match number {
            number if (1..=most).contains(&number) => Ok(()),
            _ => Err(format!("{number} {what}: allowed are 1 to {most}")),
        };
        between("dynos", self.dynos, 20_000)?;
        between("routers", self.routers, 64)?;
        between("replications", self.replications, 100)?;
        if self.service.mean() <= 0.0 {
            return Err(format!("service {}: it must take time", self.service));
        }
        if !(self.rate > 0.0 && self.rate <= 1e7) {
            return Err(format!("{:?} requests a second: more than 0 and at most 10000000", self.rate));
        }
        if !self.shares.is_empty() {
            let shares = self.shares.len();
            if shares != self.routers as usize {
                let (shares, routers) = (count(shares, "share"), count(self.routers, "router"));
                return Err(format!("{shares} for {routers}: one for each"));
            }
            if self.shares.iter().any(|share| !(*share >= 0.0 && *share <= 1e6))
                || self.shares.iter().sum::<f64>() <= 0.0
            {
                return Err("shares are numbers from 0 to 1000000, and not all 0".to_owned());
            }
        }
        if self.hop > way || self.rtt > way {
            return Err("the way to another router, and that to a dyno, take at most 10s".to_owned());
        }
        if self.patience.is_some_and(|time| time.is_zero() || time > Duration::from_secs(86_400)) {
            return Err("clients have more than no patience, and at most a day's".to_owned());
        }
        let arrivals = match self.length {
            Length::Requests(requests) if requests < u64::from(self.replications) => {
                let requests = count(requests, "request");
                return Err(format!("{requests} in all: that is less than one for each replication"));
            }
            Length::Requests(requests) => requests as f64 * 1.25,
            Length::Time(time) => self.rate * time.as_secs_f64() * f64::from(self.replications),
        };
        if !(1.0..=MOST_REQUESTS).contains(&arrivals) {
            return Err(format!(
                "{arrivals:.0} requests in all: allowed are 1 to {MOST_REQUESTS:.0}, a quarter of them warm-up"
            ));
        }
        let seconds = match self.length {
            Length::Requests(_) => arrivals / f64::from(self.replications) / self.rate,
            Length::Time(time) => time.as_secs_f64(),
        };
        if seconds > LONGEST.as_secs_f64() {
            let days = count(format!("{:.0}", seconds / 86_400.0), "day");
            return Err(format!("a replication would last for {days}: allowed are 36525"));
        }
        cases.iter().try_for_each(|case| case.check(self))
    }
}
