//! A scenario: the same load through one proxy or several in turn, each round with fresh dynos and a fresh proxy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use router_core::clock::Clock;
use serde::{Deserialize, Serialize};

use crate::arrivals::Replay;
use crate::course::Course;
use crate::cpu;
use crate::dyno::{Behaviour, Commands, Fleet, Place};
use crate::engine::{self, Pacing, Phase, Plan, Progress, Run};
use crate::link::Tls;
use crate::load::Route;
use crate::number::count;
use crate::peers::{self, Load, Peer, Started};
use crate::report::Report;
use crate::service::Service;

/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// What stands between the generator and the dynos.
#[derive(Clone, Debug)]
pub enum Proxy {
    /// A proxy that runs already.
    Target(Target),
    /// A proxy that is started for the run, by this program.
    Peer(Peer, PathBuf),
    /// Nothing: the generator keeps the line itself. Shows how exact the tool is.
    Direct,
}

/// A proxy that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What its column is called.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its processes, if their time and memory shall be measured.
    pub pids: Vec<u32>,
}

impl Proxy {
    /// What its column is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Target(target) => &target.name,
            Self::Peer(peer, _) => peer.name(),
            Self::Direct => "self-test",
        }
    }
}

/// In which order proxies have their rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// All rounds of the first, then all of the second: A A B B C C.
    Turn,
    /// One round of each after the other, each time beginning with the next one: A B C B C A. What changes on the
    /// machine meanwhile hits all of them.
    #[default]
    Interleaved,
    /// One round of each after the other, in an order drawn for each round by the seed.
    Random,
}

impl Order {
    /// Who has which round (from 1): places of proxies.
    pub fn schedule(self, proxies: usize, rounds: u32, seed: u64) -> Vec<(usize, u32)> {
        let each = |round: u32| {
            let mut places: Vec<usize> = (0..proxies).collect();
            match self {
                Self::Turn => {}
                Self::Interleaved => places.rotate_left((round as usize - 1) % proxies.max(1)),
                Self::Random => {
                    fastrand::Rng::with_seed(seed.wrapping_add(u64::from(round))).shuffle(&mut places);
                }
            }
            places.into_iter().map(move |place| (place, round))
        };
        let mut all: Vec<_> = (1..=rounds).flat_map(each).collect();
        if self == Self::Turn {
            all.sort_by_key(|(place, _)| *place);
        }
        all
    }
}

/// A proxy that did not do its part of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which proxy.
    pub proxy: String,
    /// In which round, from 1.
    pub round: u32,
    /// What happened, in words.
    pub why: String,
}

/// What a comparison gave: all that was measured, whatever else went wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// The runs, by round, within a round in the order in which the proxies were named.
    pub runs: Vec<Report>,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// What is run through each proxy.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How many dynos.
    pub dynos: u16,
    /// The first of their ports, or 0 for free ones.
    pub first_port: u16,
    /// When requests are sent.
    pub pacing: Pacing,
    /// How long a client of a closed loop thinks between an answer and its next request.
    pub think: Option<Service>,
    /// How long a dyno works on one; real servers know that themselves.
    pub service: Service,
    /// Plain forwarding: dynos answer at once and take as many requests as come.
    pub plain: bool,
    /// The seed of the first round; each round adds one.
    pub seed: u64,
    /// Load without figures.
    pub warmup: Duration,
    /// How long each run sends.
    pub duration: Duration,
    /// How many requests each run sends at most.
    pub requests: u64,
    /// When a client gives up.
    pub timeout: Duration,
    /// How long to wait for a proxy that runs already to accept.
    pub patience: Duration,
    /// The `Host` of the requests.
    pub host: String,
    /// The path of the requests, unless a log has paths.
    pub path: String,
    /// How the dynos behave. Their seed is that of the round, and with `plain` they are not exclusive.
    pub behaviour: Behaviour,
    /// Where the dynos live.
    pub place: Place,
    /// How TLS is spoken to the proxy, if it is.
    pub tls: Option<Tls>,
    /// How many streams a connection may have, if HTTP/2 is spoken to the proxy.
    pub http2: Option<usize>,
    /// The most connections to the proxy.
    pub connections: usize,
    /// How many threads send; without a proxy it is 1.
    pub generator_threads: u32,
    /// How many threads or processes a proxy that is started shall use.
    pub threads: u32,
    /// How many rounds.
    pub rounds: u32,
    /// Set to end early.
    pub interrupt: Arc<AtomicBool>,
}

impl Scenario {
    /// What a proxy is started for.
    pub fn load(&self) -> Load<'_> {
        let (tls, http2) = (self.tls.as_ref(), self.http2.is_some());
        Load { plain: self.plain, host: &self.host, threads: self.threads, tls, http2 }
    }

    /// Requests a second of an open loop.
    pub fn rate(&self) -> Option<f64> {
        self.pacing.rate()
    }

    /// The same as a share of the dynos' capacity; none if they have no bound.
    pub fn offered(&self) -> Option<f64> {
        let mean =
            self.with_times().map_or_else(|| self.service.mean(), |replay| replay.times(&self.service).0);
        let bounded = !self.plain && mean > 0.0;
        self.rate().filter(|_| bounded).map(|rate| rate * mean / f64::from(self.dynos))
    }

    /// The log that says how long dynos work, if one does: what real servers take is not told by it.
    pub(crate) fn with_times(&self) -> Option<&Replay> {
        let Pacing::Replay(replay) = &self.pacing else { return None };
        (replay.has_times() && !self.has_real_dynos()).then_some(&**replay)
    }

    /// How long a run takes at most, but for the last answers.
    fn length(&self) -> Duration {
        let bound = self.warmup + self.duration;
        if let Pacing::Replay(replay) = &self.pacing { replay.length().min(bound) } else { bound }
    }

    /// How many runs it is through so many proxies.
    pub(crate) fn runs(&self, proxies: usize) -> u32 {
        u32::try_from(proxies).unwrap_or(u32::MAX).saturating_mul(self.rounds)
    }

    /// Whether the dynos are real servers, whose service times nobody knows before.
    pub fn has_real_dynos(&self) -> bool {
        matches!(self.place, Place::Commands(_))
    }

    /// The same, to be ended by another flag.
    #[must_use]
    pub fn ended_by(mut self, interrupt: &Arc<AtomicBool>) -> Self {
        self.interrupt = Arc::clone(interrupt);
        if let Place::Commands(Commands { interrupt: of_dynos, .. }) = &mut self.place {
            *of_dynos = Arc::clone(interrupt);
        }
        self
    }

    /// Fresh dynos for a round.
    fn fleet(&self, seed: u64) -> io::Result<Fleet> {
        let behaviour = Behaviour { seed, exclusive: !self.plain, ..self.behaviour.clone() };
        Fleet::at(&self.place, (self.dynos, self.first_port), behaviour)
    }
}

/// Runs all rounds through all proxies, one round of each after the other.
///
/// # Errors
/// When a proxy cannot be started or does not live to the end, or a socket cannot be made.
pub fn run(scenario: &Scenario, proxies: &[Proxy]) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    run_into(scenario, proxies, &mut reports)?;
    Ok(reports)
}

/// The same, and what was run before an error or an interruption is in `reports` all the same.
///
/// # Errors
/// When a proxy cannot be started or a socket cannot be made.
pub fn run_into(scenario: &Scenario, proxies: &[Proxy], reports: &mut Vec<Report>) -> io::Result<()> {
    run_on(&mut Course::new(scenario.runs(proxies.len())), scenario, proxies, reports)
}

/// The same as a part of a longer course.
pub(crate) fn run_on(
    course: &mut Course,
    scenario: &Scenario,
    proxies: &[Proxy],
    reports: &mut Vec<Report>,
) -> io::Result<()> {
    for round in 1..=scenario.rounds {
        for proxy in proxies {
            if scenario.interrupt.load(Ordering::Relaxed) {
                return Ok(());
            }
            let (report, ended) = run_one(course, scenario, proxy, round)?;
            if let Some(why) = ended {
                return Err(io::Error::other(format!("{}: {why}", proxy.name())));
            }
            reports.push(report);
        }
    }
    Ok(())
}

/// Runs all rounds through all proxies and keeps what it can: one that cannot be started has no further round, one that
/// ends in the middle has its figures and the failure. When it is interrupted, the rest is left out.
pub fn all(scenario: &Scenario, proxies: &[Proxy], order: Order) -> Outcome {
    let mut outcome = Outcome::default();
    let mut course = Course::new(scenario.runs(proxies.len()));
    let mut out_of_it = vec![false; proxies.len()];
    for (number, (place, round)) in (0..).zip(order.schedule(proxies.len(), scenario.rounds, scenario.seed)) {
        course.skip_to(number);
        let (Some(proxy), Some(out)) = (proxies.get(place), out_of_it.get_mut(place)) else { continue };
        if *out || scenario.interrupt.load(Ordering::Relaxed) {
            continue;
        }
        let name = proxy.name().to_owned();
        let mut failed = |why| outcome.failures.push(Failure { proxy: name.clone(), round, why });
        match run_one(&mut course, scenario, proxy, round) {
            Ok((report, ended)) => {
                ended.into_iter().for_each(&mut failed);
                outcome.runs.push(report);
            }
            Err(_) if scenario.interrupt.load(Ordering::Relaxed) => {}
            Err(why) => {
                failed(why.to_string());
                *out = true;
            }
        }
    }
    let place = |name: &str| proxies.iter().position(|proxy| proxy.name() == name);
    outcome.runs.sort_by_key(|run| (run.round, place(&run.proxy)));
    add_latency(&mut outcome.runs, Proxy::Direct.name());
    outcome
}

/// Holds the latency of each run against that of the `direct` one in the same round.
fn add_latency(runs: &mut [Report], direct: &str) {
    let base: Vec<_> = runs
        .iter()
        .filter(|run| run.proxy == direct && !run.interrupted)
        .map(|run| (run.round, run.latency))
        .collect();
    for run in runs.iter_mut().filter(|run| run.proxy != direct) {
        let same = base.iter().find(|(round, _)| *round == run.round);
        run.added_latency = same.map(|(_, latency)| run.latency.less(latency));
    }
}

/// One round of one proxy: its figures, and how it ended if it did before its time.
fn run_one(
    course: &mut Course,
    scenario: &Scenario,
    proxy: &Proxy,
    round: u32,
) -> io::Result<(Report, Option<String>)> {
    let seed = scenario.seed.wrapping_add(u64::from(round - 1));
    let dynos = scenario.fleet(seed)?;
    let addresses = dynos.addresses().to_vec();
    // Lives as long as the run; ended when this function returns.
    let mut started: Option<Started> = None;
    let (route, pids) = match proxy {
        Proxy::Target(target) => {
            // A process that is not there is told of before the load, not after it.
            cpu::used(&target.pids)?;
            await_target(course, target.address, &addresses, scenario)?;
            (Route::Proxy(target.address), target.pids.clone())
        }
        Proxy::Peer(peer, program) => {
            let peer = started.insert(peer.start(program, &addresses, &scenario.load())?);
            (Route::Proxy(peer.address), peer.pids())
        }
        Proxy::Direct => (Route::Direct(addresses.clone()), Vec::new()),
    };
    let plan = Plan {
        route,
        tls: scenario.tls.clone(),
        http2: scenario.http2,
        dynos,
        pacing: scenario.pacing.clone(),
        think: Option::clone(&scenario.think),
        service: if scenario.plain { Service::Instant } else { scenario.service.clone() },
        seed,
        warmup: scenario.warmup,
        duration: scenario.duration,
        requests: scenario.requests,
        timeout: scenario.timeout,
        host: scenario.host.clone(),
        path: scenario.path.clone(),
        connections: scenario.connections,
        threads: scenario.generator_threads,
    };
    let title = format!("{} {round}/{}", proxy.name(), scenario.rounds);
    let span = humantime::format_duration(scenario.length());
    course.begin(
        &title,
        scenario.length(),
        &format!("at most {} in {span}", count(scenario.requests, "request")),
    );
    let (run, usage) = watched(course, plan, scenario, &pids)?;
    let mut report = Report::new(proxy.name(), (round, seed), addresses.len(), &run, usage.cpu);
    (report.rate, report.load) = (scenario.rate(), scenario.offered());
    report.memory = usage.memory;
    Ok((report, started.as_mut().and_then(Started::ended)))
}

/// Waits until a proxy that somebody else runs accepts connections.
fn await_target(
    course: &Course,
    target: SocketAddr,
    dynos: &[SocketAddr],
    scenario: &Scenario,
) -> io::Result<()> {
    let clock = Clock::system();
    let deadline = clock.now() + scenario.patience;
    if scenario.first_port == 0 {
        let list: Vec<String> = dynos.iter().map(ToString::to_string).collect();
        course.say(&format!("dynos: {}", list.join(" ")));
    }
    while !peers::accepts(target) {
        if clock.now() > deadline {
            return Err(io::Error::other(format!("nobody accepts connections on {target}")));
        }
        if scenario.interrupt.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What a proxy used in the run proper, as far as it could be measured.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// Its processor time, and the requests it was for.
    cpu: Option<(Duration, u64)>,
    memory: Option<cpu::Memory>,
}

/// What was used until some instant.
struct Mark {
    /// By the proxy. One whose processes are gone has no figures, and its clients see why.
    proxy: Option<Duration>,
    /// By nobody.
    idle: Option<Duration>,
    /// Requests that had ended by then.
    requests: u64,
}

impl Mark {
    fn new(pids: &[u32], progress: &Progress) -> Self {
        Self {
            proxy: if pids.is_empty() { None } else { cpu::used(pids).ok() },
            idle: cpu::idle(),
            requests: progress.done.load(Ordering::Relaxed),
        }
    }

    /// The proxy's time since an earlier instant, and the requests it was for.
    fn cpu_since(&self, before: &Self) -> Option<(Duration, u64)> {
        Some((self.proxy?.saturating_sub(before.proxy?), self.requests - before.requests))
    }

    /// How many processors had nothing to do since an earlier instant, `length` nanoseconds ago.
    fn idle_since(&self, before: &Self, length: u64) -> Option<f64> {
        Some(self.idle?.saturating_sub(before.idle?).as_secs_f64() * 1e9 / length.max(1) as f64)
    }
}

/// Runs the plan on a thread of its own; meanwhile draws the progress and measures what the proxy uses.
fn watched(course: &Course, plan: Plan, scenario: &Scenario, pids: &[u32]) -> io::Result<(Run, Usage)> {
    let progress = Progress::new(Arc::clone(&scenario.interrupt));
    let me = thread::current();
    let mut usage = Usage::default();
    let run = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let run = engine::run(plan, &progress, || me.unpark());
            me.unpark();
            run
        });
        let (mut before, mut after) = (None, None);
        loop {
            let over = worker.is_finished();
            if before.is_none() && progress.phase() >= Phase::Measure {
                before = Some(Mark::new(pids, &progress));
            }
            if after.is_none() && progress.phase() >= Phase::Drain {
                after = Some(Mark::new(pids, &progress));
                usage.memory = if pids.is_empty() { None } else { cpu::memory(pids).ok() };
            }
            if over {
                let ended =
                    worker.join().map_err(|_| io::Error::other("the generator's thread ended early"))?;
                return ended.map(|mut run| {
                    if let (Some(before), Some(after)) = (before, after) {
                        usage.cpu = after.cpu_since(&before);
                        run.idle_cores = after.idle_since(&before, run.window.1 - run.window.0);
                    }
                    run
                });
            }
            draw(course, &progress, scenario.requests);
            thread::park_timeout(DRAW);
        }
    });
    Ok((run?, usage))
}

fn draw(course: &Course, progress: &Progress, requests: u64) {
    let done = progress.done.load(Ordering::Relaxed);
    let (share, step) = match progress.phase() {
        Phase::Warmup => (0.0, "warming up"),
        Phase::Measure => (done as f64 / requests as f64, "measuring"),
        Phase::Drain => (1.0, "waiting for the last answers"),
    };
    course.progress(share, &format!("{}, {step}", count(done, "answer")));
}

#[cfg(test)]
pub(crate) mod tests;
