//! One run: dynos, generator and clock on one machine, so that every instant is on one clock.
//!
//! With one thread the generator and its dynos are in it, and nothing is handed over. Several threads share the clients
//! or the arrivals: each has its own sockets, timers and records, all begin at one instant, and what they have seen is
//! put together as if one had seen it. Dynos that live with the generator live in the first of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use crate::arrivals::Pacing;
use crate::dyno::{Dynos, Fleet, Seen};
use crate::link::Tls;
use crate::load::{Outcome, Route};
use crate::number::count;
use crate::reactor::{Reactor, nanos};
use crate::records::Records;
use crate::report::histogram;
use crate::service::Service;

mod part;

use part::{Generator, Part};

/// The most threads of a generator that a command line may ask for.
pub const MOST_THREADS: u32 = 64;

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// Where the requests go.
    pub route: Route,
    /// How TLS is spoken to the proxy, if it is; with no proxy it is not.
    pub tls: Option<Tls>,
    /// How many streams a connection may have, if HTTP/2 is spoken to the proxy.
    pub http2: Option<usize>,
    /// The dynos.
    pub dynos: Fleet,
    /// When requests are sent.
    pub pacing: Pacing,
    /// How long a client of a closed loop thinks between an answer and its next request.
    pub think: Option<Service>,
    /// How long a dyno works on one; a replay's own times come first.
    pub service: Service,
    /// The seed of arrivals and service times.
    pub seed: u64,
    /// Load without figures, before the run proper.
    pub warmup: Duration,
    /// How long the run proper sends.
    pub duration: Duration,
    /// How many requests the run proper sends at most.
    pub requests: u64,
    /// When a client gives a request up.
    pub timeout: Duration,
    /// The `Host` of the requests.
    pub host: String,
    /// The path of the requests, unless a log has paths.
    pub path: String,
    /// At most so many connections.
    pub connections: usize,
    /// How many threads send; at least 1. Without a proxy it is 1, because the line in front of the dynos is one, and
    /// each needs a connection and, in a closed loop, a client.
    pub threads: u32,
}

/// What threads beside the run may see and do.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that have ended.
    pub done: AtomicU64,
    phase: AtomicU8,
    interrupt: Arc<AtomicBool>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Load without figures.
    Warmup,
    /// The run proper.
    Measure,
    /// Nothing more is sent.
    Drain,
}

impl Progress {
    /// A run that ends early when `interrupt` is set.
    pub fn new(interrupt: Arc<AtomicBool>) -> Self {
        Self { interrupt, ..Self::default() }
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Warmup,
            1 => Phase::Measure,
            _ => Phase::Drain,
        }
    }

    /// The run is in this phase, or in a later one; gives whether that is new.
    fn enter(&self, phase: Phase) -> bool {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8
    }
}

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    /// All requests, those of the warm-up too.
    pub records: Records,
    /// What the clients saw.
    pub outcome: Outcome,
    /// What the dynos saw.
    pub seen: Seen,
    /// Requests that came to a dyno a second time: the proxy has tried again.
    pub repeats: u64,
    /// Beginning and end of the run proper, on the clock of the records.
    pub window: (u64, u64),
    /// How late the generator sent, in nanoseconds.
    pub late: Histogram<u64>,
    /// What each thread of the generator used of the machine, in their order.
    pub threads: Vec<ThreadUsage>,
    /// Whether more threads could have shared the work, which they cannot without a proxy.
    pub divisible: bool,
    /// How many processors had nothing to do in the run proper, on average; for whoever watches the run to fill in.
    pub idle_cores: Option<f64>,
    /// The rate of the plan, where it has one.
    pub rate: Option<f64>,
    /// How many clients of a closed loop there were, each of which waits for its answer.
    pub clients: Option<usize>,
    /// Whether the generator fell so far behind that the run was ended.
    pub overrun: bool,
    /// Whether the bound on requests or the end of a log ended it, and not the time.
    pub curtailed: bool,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// What a thread of the generator used of the machine in the run proper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadUsage {
    /// The share of the time in which it used a processor.
    pub busy: f64,
    /// The share of the time in which it waited for one, if the kernel tells.
    pub run_queue: Option<f64>,
    /// How late it sent, at p99, in milliseconds; 0 in a closed loop.
    pub late_p99_ms: f64,
    /// Whether the dynos were in it.
    pub dynos: bool,
}

/// Runs a plan to its end, on the calling thread and as many more as it wants. `phase` is called when the run enters
/// another phase, by any of them.
///
/// # Errors
/// When so many threads cannot share the plan, a socket or a thread cannot be made, or a thread or process of the dynos
/// has failed; what goes wrong with a request is part of the figures.
pub fn run(mut plan: Plan, progress: &Progress, phase: impl Fn() + Sync) -> io::Result<Run> {
    plan.divide().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    let mut reactor = Reactor::new()?;
    let dynos = plan.dynos.board(&mut reactor)?;
    let all = Shared::new(&plan, progress, &phase);
    let parts = all.work(reactor, dynos)?;
    let Shared { end, overrun, curtailed, measure, .. } = all;
    let (measure, end) = (measure.into_inner(), end.into_inner());
    let mut run = Run {
        records: Records::default(),
        outcome: Outcome::default(),
        seen: Seen::default(),
        repeats: 0,
        window: (measure.min(end), end),
        late: histogram(),
        threads: Vec::new(),
        divisible: matches!(plan.route, Route::Proxy(_)),
        idle_cores: None,
        rate: plan.pacing.rate(),
        clients: plan.pacing.clients(),
        overrun: overrun.into_inner(),
        curtailed: curtailed.into_inner(),
        interrupted: progress.interrupt.load(Ordering::Relaxed),
    };
    run.join(parts, plan.dynos)?;
    Ok(run)
}

impl Plan {
    /// Says what is wrong with the number of threads.
    fn divide(&self) -> Result<(), String> {
        let threads = self.threads;
        let clients = if let Pacing::Closed(clients) = self.pacing { clients } else { threads };
        match threads {
            0 => Err("no thread sends nothing".to_owned()),
            1 => Ok(()),
            _ if matches!(self.route, Route::Direct(_)) => Err(format!(
                "without a proxy the generator keeps one line: {threads} threads cannot share it"
            )),
            _ if clients < threads => {
                Err(format!("{} cannot be shared by {threads} threads", count(clients, "client")))
            }
            _ if self.connections < threads as usize => Err(format!(
                "{} cannot be shared by {threads} threads",
                count(self.connections, "connection")
            )),
            _ => Ok(()),
        }
    }
}

impl Run {
    /// Adds what the threads and the dynos have seen.
    fn join(&mut self, parts: Vec<Part>, fleet: Fleet) -> io::Result<()> {
        let (mut records, mut boarded) = (Vec::new(), None);
        for part in parts {
            self.outcome.add(part.outcome);
            // All have the same bounds, so nothing is lost.
            let _ = self.late.add(part.late);
            self.threads.push(part.usage);
            records.push(part.records);
            boarded = boarded.or(part.dynos);
        }
        self.seen = match boarded {
            Some(dynos) => dynos.into_seen(),
            None => fleet.stop()?,
        };
        self.repeats = records.iter_mut().map(|records| records.join(&self.seen.tape)).sum();
        self.records = Records::merge(records);
        // While one thread ended the run, another may have sent its last.
        let last = self.records.iter().last().map_or(0, |record| record.due + 1);
        self.window.1 = self.window.1.max(last);
        Ok(())
    }
}

/// What the threads of a generator share.
struct Shared<'a> {
    plan: &'a Plan,
    progress: &'a Progress,
    phase: &'a (dyn Fn() + Sync),
    /// When the run proper begins.
    measure: AtomicU64,
    /// When nothing more is sent; `u64::MAX` until then.
    end: AtomicU64,
    /// Requests that the run proper may still send.
    left: AtomicU64,
    /// Threads that have requests to send.
    sending: AtomicUsize,
    /// Threads that wait for answers, or will.
    waiting: AtomicUsize,
    /// Whether one of them has failed, so that the others need not go on.
    failed: AtomicBool,
    overrun: AtomicBool,
    curtailed: AtomicBool,
}

/// A thread beside the first: says when it is ready, and is told when to begin.
struct Helper<'scope> {
    ready: Receiver<()>,
    begin: SyncSender<u64>,
    thread: ScopedJoinHandle<'scope, io::Result<Option<Part>>>,
}

impl<'a> Shared<'a> {
    fn new(plan: &'a Plan, progress: &'a Progress, phase: &'a (dyn Fn() + Sync)) -> Self {
        let threads = plan.threads as usize;
        Self {
            plan,
            progress,
            phase,
            measure: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
            left: AtomicU64::new(plan.requests),
            sending: AtomicUsize::new(threads),
            waiting: AtomicUsize::new(threads),
            failed: AtomicBool::new(false),
            overrun: AtomicBool::new(false),
            curtailed: AtomicBool::new(false),
        }
    }

    /// Runs all threads to their end, the first of them here; gives what each has seen, or the first error.
    fn work(&self, reactor: Reactor, dynos: Option<Dynos>) -> io::Result<Vec<Part>> {
        thread::scope(|scope| {
            let helper = |part| {
                let ((tell, ready), (begin, told)) = (sync_channel(1), sync_channel(1));
                let builder = thread::Builder::new().name(format!("generator {}", part + 1));
                let thread = builder.spawn_scoped(scope, move || self.help(part, &tell, &told))?;
                Ok(Helper { ready, begin, thread })
            };
            let helpers = (1..self.plan.threads).map(helper).collect::<io::Result<Vec<_>>>()?;
            let first = Generator::new(self, 0, reactor, dynos).and_then(|generator| {
                // One that has failed hangs up.
                if helpers.iter().any(|helper| helper.ready.recv().is_err()) {
                    return Ok(None);
                }
                let start = generator.now();
                self.measure.store(start.saturating_add(nanos(self.plan.warmup)), Ordering::Release);
                for helper in &helpers {
                    // One that is gone by now says why at its end.
                    let _ = helper.begin.send(start);
                }
                generator.run(start).map(Some)
            });
            // Who was not told to begin is not any more.
            let threads: Vec<_> = helpers.into_iter().map(|helper| helper.thread).collect();
            let ended = |thread: ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread of the generator ended early")))
            };
            let others: Vec<_> = threads.into_iter().map(ended).collect();
            let all = std::iter::once(first).chain(others).collect::<io::Result<Vec<_>>>()?;
            Ok(all.into_iter().flatten().collect())
        })
    }

    /// A thread beside the first; gives nothing if it was not told to begin, because another failed.
    fn help(&self, part: u32, ready: &SyncSender<()>, begin: &Receiver<u64>) -> io::Result<Option<Part>> {
        let generator = Generator::new(self, part, Reactor::new()?, None)?;
        let start = ready.send(()).ok().and_then(|()| begin.recv().ok());
        start.map(|start| generator.run(start)).transpose()
    }

    /// Takes one of the requests that the run proper may still send: says how many there were.
    fn take(&self) -> Option<u64> {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()
    }

    fn enter(&self, phase: Phase) {
        if self.progress.enter(phase) {
            (self.phase)();
        }
    }

    /// Nothing more is sent by anybody.
    fn stop(&self, now: u64) {
        // The first to say so counts.
        let _ = self.end.compare_exchange(u64::MAX, now, Ordering::AcqRel, Ordering::Relaxed);
        self.enter(Phase::Drain);
    }

    /// The same, because there are no more requests to send.
    fn curtail(&self, now: u64) {
        self.curtailed.store(true, Ordering::Relaxed);
        self.stop(now);
    }
}
