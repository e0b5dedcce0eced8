//! One run: dynos, generator and clock in one thread, so that every instant is on one clock and costs no hand-over.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::dyno::{Dynos, Seen};
use crate::load::{Clients, Outcome, Route};
use crate::reactor::{Reactor, Source, Timer, nanos, thread_cpu};
use crate::records::Records;
use crate::report::histogram;
use crate::service::{Service, exponential};

/// The longest sleep: so soon an interruption is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// How long a client of a closed loop pauses after a request without an answer.
const PAUSE: u64 = 10_000_000;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// So many clients, each sending its next request when it has the answer to the last.
    Closed(u32),
    /// At this rate a second, whatever the answers do; at random instants.
    Poisson(f64),
    /// At this rate a second, whatever the answers do; evenly.
    Constant(f64),
}

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// Where the requests go.
    pub route: Route,
    /// The dynos' listeners.
    pub listeners: Vec<TcpListener>,
    /// When requests are sent.
    pub pacing: Pacing,
    /// How long a dyno works on one.
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
    /// The length of a dyno's answer.
    pub answer_bytes: usize,
    /// At most so many connections.
    pub connections: usize,
    /// Whether a dyno may have one request only; if not, overlaps do not count.
    pub exclusive: bool,
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

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
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
    /// Beginning and end of the run proper, on the clock of the records.
    pub window: (u64, u64),
    /// How late the generator sent, in nanoseconds.
    pub late: Histogram<u64>,
    /// The share of the run proper in which this thread used a processor.
    pub thread_busy: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// Runs a plan to its end on the calling thread. `phase` is called when the run enters another phase.
///
/// # Errors
/// When a socket cannot be made; what goes wrong with a request is part of the figures.
pub fn run(plan: Plan, progress: &Progress, phase: impl FnMut()) -> io::Result<Run> {
    let mut reactor = Reactor::new()?;
    let dynos = Dynos::new(plan.listeners, plan.answer_bytes, plan.exclusive, &reactor)?;
    let early = match plan.pacing {
        Pacing::Closed(clients) => clients as usize,
        Pacing::Poisson(_) | Pacing::Constant(_) => (dynos.len() * 2 + 16).min(2_000),
    };
    let timeout = nanos(plan.timeout);
    let mut clients = Clients::new(plan.route, &plan.host, plan.connections, timeout, &progress.done);
    clients.open(early, &reactor)?;
    let measure = reactor.now() + nanos(plan.warmup);
    reactor.at(measure, Timer::Measure);
    let mut engine = Engine {
        dynos,
        clients,
        records: Records::default(),
        pacing: plan.pacing,
        service: plan.service,
        arrivals: fastrand::Rng::with_seed(plan.seed),
        services: fastrand::Rng::with_seed(plan.seed ^ 0x5eed_5eed_5eed_5eed),
        duration: nanos(plan.duration),
        left: plan.requests,
        timeout,
        window: (measure, u64::MAX),
        late: histogram(),
        cpu: (0, 0),
        reactor,
        progress,
        phase,
    };
    engine.work()?;
    Ok(engine.finish())
}

struct Engine<'a, F> {
    reactor: Reactor,
    dynos: Dynos,
    clients: Clients<'a>,
    records: Records,
    pacing: Pacing,
    service: Service,
    arrivals: fastrand::Rng,
    services: fastrand::Rng,
    duration: u64,
    /// Requests that the run proper may still send.
    left: u64,
    timeout: u64,
    window: (u64, u64),
    late: Histogram<u64>,
    cpu: (u64, u64),
    progress: &'a Progress,
    phase: F,
}

impl<F: FnMut()> Engine<'_, F> {
    fn work(&mut self) -> io::Result<()> {
        // Without a warm-up the first request counts.
        self.fire()?;
        let now = self.reactor.now();
        match self.pacing {
            Pacing::Closed(clients) => (0..clients).try_for_each(|_| self.issue(now))?,
            Pacing::Poisson(_) | Pacing::Constant(_) => self.next_arrival(now),
        }
        let mut ready = Vec::new();
        loop {
            self.reactor.wait(LONGEST_SLEEP, &mut ready)?;
            self.fire()?;
            for event in &ready {
                match event.source {
                    Source::Client(conn) => {
                        self.clients.on_ready(conn, *event, &self.reactor, &mut self.records)?;
                        self.answer_clients()?;
                    }
                    Source::Dyno(_) | Source::Listener(_) => {
                        self.dynos.on_ready(*event, &mut self.reactor, &mut self.records)?;
                    }
                }
                self.fire()?;
            }
            let now = self.reactor.now();
            self.clients.expire(now);
            self.dynos.bury();
            self.clients.bury();
            self.clients.advance(&self.reactor, &mut self.records)?;
            self.answer_clients()?;
            if self.progress.interrupt.load(Ordering::Relaxed) {
                self.stop(now);
                return Ok(());
            }
            let stopped = self.progress.phase() == Phase::Drain;
            if stopped && (self.clients.in_flight == 0 || now > self.window.1.saturating_add(self.timeout)) {
                return Ok(());
            }
        }
    }

    /// Does all that is due.
    fn fire(&mut self) -> io::Result<()> {
        while let Some((due, timer)) = self.reactor.due(self.reactor.now()) {
            match timer {
                Timer::Service(dyno) => {
                    self.dynos.on_done(dyno, due, &mut self.reactor, &mut self.records)?
                }
                Timer::Arrival if self.sending() => {
                    self.late.saturating_record(self.reactor.now().saturating_sub(due));
                    self.issue(due)?;
                    self.next_arrival(due);
                }
                Timer::Client => self.issue(self.reactor.now())?,
                Timer::Measure => self.measure(),
                Timer::Stop => self.stop(self.reactor.now()),
                Timer::Arrival => {}
            }
        }
        Ok(())
    }

    fn sending(&self) -> bool {
        self.progress.phase() != Phase::Drain
    }

    /// Sends one request that was due at `due`, if there are any left to send.
    fn issue(&mut self, due: u64) -> io::Result<()> {
        if !self.sending() {
            return Ok(());
        }
        let number = self.records.push(due, self.service.draw(&mut self.services));
        self.clients.submit(number, &self.reactor, &mut self.records)?;
        if self.progress.phase() == Phase::Measure {
            self.left -= 1;
            if self.left == 0 {
                self.stop(self.reactor.now());
            }
        }
        Ok(())
    }

    fn next_arrival(&mut self, due: u64) {
        let gap = match self.pacing {
            Pacing::Poisson(rate) => exponential(&mut self.arrivals) / rate,
            Pacing::Constant(rate) => 1.0 / rate,
            Pacing::Closed(_) => return,
        };
        self.reactor.at(due.saturating_add((gap * 1e9) as u64), Timer::Arrival);
    }

    /// Lets the clients of a closed loop go on: at once after an answer, after a pause when there was none.
    fn answer_clients(&mut self) -> io::Result<()> {
        let (answered, failed) = (self.clients.answered, self.clients.failed);
        (self.clients.answered, self.clients.failed) = (0, 0);
        if !matches!(self.pacing, Pacing::Closed(_)) {
            return Ok(());
        }
        let now = self.reactor.now();
        for _ in 0..failed {
            self.reactor.at(now + PAUSE, Timer::Client);
        }
        (0..answered).try_for_each(|_| self.issue(now))
    }

    fn measure(&mut self) {
        let now = self.reactor.now();
        self.window.0 = now;
        self.cpu.0 = thread_cpu();
        self.late.reset();
        self.dynos.seen.late.reset();
        self.reactor.at(now.saturating_add(self.duration), Timer::Stop);
        self.progress.enter(Phase::Measure);
        (self.phase)();
    }

    fn stop(&mut self, now: u64) {
        if self.progress.phase() == Phase::Drain {
            return;
        }
        self.window.1 = now;
        self.cpu.1 = thread_cpu();
        self.progress.enter(Phase::Drain);
        (self.phase)();
    }

    fn finish(mut self) -> Run {
        let interrupted = self.progress.interrupt.load(Ordering::Relaxed);
        if !interrupted {
            self.clients.give_up();
        }
        let length = self.window.1.saturating_sub(self.window.0).max(1);
        Run {
            records: self.records,
            outcome: self.clients.outcome,
            seen: self.dynos.seen,
            window: self.window,
            late: self.late,
            thread_busy: self.cpu.1.saturating_sub(self.cpu.0) as f64 / length as f64,
            interrupted,
        }
    }
}
