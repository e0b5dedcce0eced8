//! A scenario: the same load through one proxy or several in turn, each round with fresh dynos and a fresh proxy.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use router_core::clock::Clock;

use crate::cpu;
use crate::dyno;
use crate::engine::{self, Pacing, Phase, Plan, Progress, Run};
use crate::load::Route;
use crate::peers::{self, Load, Peer, Started};
use crate::report::Report;
use crate::service::Service;

/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// What stands between the generator and the dynos.
#[derive(Clone, Debug)]
pub enum Proxy {
    /// A proxy that runs already, and its processes if their time shall be measured.
    Target(SocketAddr, Vec<u32>),
    /// A proxy that is started for the run, by this program.
    Peer(Peer, PathBuf),
    /// Nothing: the generator keeps the line itself. Shows how exact the tool is.
    Direct,
}

impl Proxy {
    /// What its column is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Target(..) => "target",
            Self::Peer(peer, _) => peer.name(),
            Self::Direct => "self-test",
        }
    }
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
    /// How long a dyno works on one.
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
    /// The length of a dyno's answer.
    pub answer_bytes: usize,
    /// The most connections to the proxy.
    pub connections: usize,
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
        Load { plain: self.plain, host: &self.host, threads: self.threads }
    }
}

/// Runs all rounds through all proxies, in turn.
///
/// # Errors
/// When a proxy cannot be started or a socket cannot be made.
pub fn run(scenario: &Scenario, proxies: &[Proxy]) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for round in 1..=scenario.rounds {
        for proxy in proxies {
            if scenario.interrupt.load(Ordering::Relaxed) {
                return Ok(reports);
            }
            reports.push(run_one(scenario, proxy, round)?);
        }
    }
    Ok(reports)
}

fn run_one(scenario: &Scenario, proxy: &Proxy, round: u32) -> io::Result<Report> {
    let listeners = dyno::listen(scenario.dynos, scenario.first_port)?;
    let addresses =
        listeners.iter().map(std::net::TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    // Lives as long as the run; ended when this function returns.
    let mut started: Option<Started> = None;
    let (route, pids) = match proxy {
        Proxy::Target(address, pids) => {
            await_target(*address, &addresses, scenario)?;
            (Route::Proxy(*address), pids.clone())
        }
        Proxy::Peer(peer, program) => {
            let peer = started.insert(peer.start(program, &addresses, &scenario.load())?);
            (Route::Proxy(peer.address), vec![peer.pid()])
        }
        Proxy::Direct => (Route::Direct(addresses.clone()), Vec::new()),
    };
    let seed = scenario.seed.wrapping_add(u64::from(round - 1));
    let plan = Plan {
        route,
        listeners,
        pacing: scenario.pacing,
        service: if scenario.plain { Service::Instant } else { scenario.service },
        seed,
        warmup: scenario.warmup,
        duration: scenario.duration,
        requests: scenario.requests,
        timeout: scenario.timeout,
        host: scenario.host.clone(),
        answer_bytes: scenario.answer_bytes,
        connections: scenario.connections,
        exclusive: !scenario.plain,
    };
    let title = format!("{} {round}/{}", proxy.name(), scenario.rounds);
    let (run, cpu) = watched(plan, scenario, &pids, &title)?;
    Ok(Report::new(proxy.name(), (round, seed), addresses.len(), &run, cpu))
}

/// Waits until a proxy that somebody else runs accepts connections.
fn await_target(target: SocketAddr, dynos: &[SocketAddr], scenario: &Scenario) -> io::Result<()> {
    let clock = Clock::system();
    let deadline = clock.now() + scenario.patience;
    if scenario.first_port == 0 {
        let list: Vec<String> = dynos.iter().map(ToString::to_string).collect();
        eprintln!("dynos: {}", list.join(" "));
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

/// Runs the plan on a thread of its own; meanwhile draws the progress and takes the proxy's processor time.
fn watched(
    plan: Plan,
    scenario: &Scenario,
    pids: &[u32],
    title: &str,
) -> io::Result<(Run, Option<(Duration, u64)>)> {
    let progress = Progress::new(Arc::clone(&scenario.interrupt));
    let bar = bar(scenario, title);
    let me = thread::current();
    let (mut before, mut after) = (None, None);
    let run = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let run = engine::run(plan, &progress, || me.unpark());
            me.unpark();
            run
        });
        loop {
            let over = worker.is_finished();
            let take = || cpu::used(pids).map(|time| (time, progress.done.load(Ordering::Relaxed)));
            if !pids.is_empty() && before.is_none() && progress.phase() >= Phase::Measure {
                before = Some(take()?);
            }
            if !pids.is_empty() && after.is_none() && progress.phase() >= Phase::Drain {
                after = Some(take()?);
            }
            if over {
                return worker.join().map_err(|_| io::Error::other("the generator's thread ended early"))?;
            }
            draw(&bar, &progress);
            thread::park_timeout(DRAW);
        }
    });
    bar.finish_and_clear();
    let cpu = before.zip(after).map(|(before, after)| (after.0.saturating_sub(before.0), after.1 - before.1));
    Ok((run?, cpu))
}

/// A bar on a terminal; elsewhere one plain line.
fn bar(scenario: &Scenario, title: &str) -> ProgressBar {
    let total = scenario.warmup + scenario.duration;
    let bar = ProgressBar::with_draw_target(Some(total.as_millis() as u64), ProgressDrawTarget::stderr());
    if bar.is_hidden() {
        eprintln!("{title}: at most {} requests in {}", scenario.requests, humantime::format_duration(total));
        return bar;
    }
    // The template is a constant; without it the bar has the default look.
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3} % {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(title.to_owned());
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    bar.set_position(bar.elapsed().as_millis() as u64);
    let step = match progress.phase() {
        Phase::Warmup => "warming up",
        Phase::Measure => "measuring",
        Phase::Drain => "waiting for the last answers",
    };
    bar.set_message(format!("{} answers, {step}", progress.done.load(Ordering::Relaxed)));
}
