//! One thread of the generator: its clients or its part of the arrivals, its connections, its records.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Pacing, Phase, Shared, ThreadUsage};
use crate::arrivals::{Arrivals, Due};
use crate::dyno::{Crew, Dynos};
use crate::load::{Clients, Outcome, Route};
use crate::reactor::{Reactor, Source, Timer, nanos, thread_cpu};
use crate::records::Records;
use crate::report::histogram;
use crate::trust::run_queue_wait;

/// The longest sleep: so soon an interruption is noticed, and that another thread has ended the run.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// How long a client of a closed loop pauses after a request without an answer.
const PAUSE: u64 = 10_000_000;
/// An open loop that is so far behind its plan, in nanoseconds, is ended: what it would send is not what was asked for.
const BEHIND: u64 = 1_000_000_000;
/// So many timers are done at once before sockets have their turn.
const TIMERS: usize = 256;

/// What one thread has seen.
pub(super) struct Part {
    pub(super) records: Records,
    pub(super) outcome: Outcome,
    pub(super) late: Histogram<u64>,
    pub(super) usage: ThreadUsage,
    /// The dynos that lived in it. Not before all threads have ended may their connections close.
    pub(super) dynos: Option<Dynos>,
}

/// What the calling thread has used so far.
#[derive(Clone, Copy)]
struct Mark {
    at: u64,
    /// Its time on processors.
    cpu: u64,
    /// Its time waiting for one, if known.
    run_queue: Option<u64>,
}

pub(super) struct Generator<'a> {
    all: &'a Shared<'a>,
    part: u32,
    reactor: Reactor,
    /// The dynos that live in this thread.
    dynos: Option<Dynos>,
    clients: Clients<'a>,
    records: Records,
    arrivals: Arrivals,
    /// The arrival whose timer is set.
    next: Option<Due>,
    /// The instant that arrivals are counted from.
    start: u64,
    /// When the figures begin.
    measure: u64,
    services: fastrand::Rng,
    pauses: fastrand::Rng,
    late: Histogram<u64>,
    /// The beginning and the end of the run proper, once they are there.
    marks: [Option<Mark>; 2],
    /// Whether it waits for no more answers.
    drained: bool,
}

impl<'a> Generator<'a> {
    /// Opens connections for part `part`, from 0, with the dynos if they live in this thread.
    pub(super) fn new(
        all: &'a Shared<'a>,
        part: u32,
        reactor: Reactor,
        dynos: Option<Dynos>,
    ) -> io::Result<Self> {
        let (plan, parts) = (all.plan, all.plan.threads);
        let connections = share(plan.connections, part, parts);
        let early = match &plan.pacing {
            Pacing::Closed(clients) => *clients as usize,
            Pacing::Poisson(_)
            | Pacing::Constant(_)
            | Pacing::Burst(..)
            | Pacing::OnOff(..)
            | Pacing::Replay(_) => (plan.dynos.addresses().len() * 2 + 16).min(2_000),
        };
        let (names, timeout) = ((&*plan.host, &*plan.path), nanos(plan.timeout));
        let mut clients = Clients::new(plan.route.clone(), names, connections, timeout, &all.progress.done);
        if let Pacing::Replay(replay) = &plan.pacing {
            clients.replay(Arc::clone(replay));
        }
        let proxied = matches!(plan.route, Route::Proxy(_));
        if let Some(tls) = plan.tls.as_ref().filter(|_| proxied) {
            clients.tls(tls.clone());
        }
        if let Some(streams) = plan.http2.filter(|_| proxied) {
            clients.http2(streams);
        }
        // With HTTP/2 the connections are few, and each shall have its part from the start.
        let early = if plan.http2.is_some() { connections } else { share(early, part, parts) };
        clients.open(early, &reactor)?;
        let mut generator = Self {
            all,
            part,
            reactor,
            dynos,
            clients,
            records: Records::of_part(part, parts),
            arrivals: Arrivals::new(plan.pacing.clone(), plan.seed, part, parts),
            next: None,
            start: 0,
            measure: 0,
            services: fastrand::Rng::with_seed(plan.seed ^ 0x5eed_5eed_5eed_5eed),
            pauses: fastrand::Rng::with_seed(!plan.seed ^ u64::from(part) << 32),
            late: histogram(),
            marks: [None; 2],
            drained: false,
        };
        generator.skip_services(part);
        Ok(generator)
    }

    pub(super) fn now(&self) -> u64 {
        self.reactor.now()
    }

    /// Sends and receives until all threads have done their part.
    pub(super) fn run(mut self, start: u64) -> io::Result<Part> {
        let mut alarm = Alarm { failed: &self.all.failed, well: false };
        self.start = start;
        self.measure = self.all.measure.load(Ordering::Acquire);
        self.reactor.at(self.measure, Timer::Measure);
        self.work()?;
        alarm.well = true;
        Ok(self.finish())
    }

    fn work(&mut self) -> io::Result<()> {
        // Without a warm-up the first request counts.
        self.fire()?;
        self.begin()?;
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
                        if let Some(dynos) = &mut self.dynos {
                            dynos.on_ready(*event, &mut self.reactor)?;
                        }
                    }
                }
                self.fire()?;
            }
            let now = self.reactor.now();
            self.clients.expire(now, &self.reactor)?;
            self.dynos.iter_mut().for_each(Crew::bury);
            self.clients.bury();
            self.clients.advance(&self.reactor, &mut self.records)?;
            self.answer_clients()?;
            if self.is_over(now) {
                return Ok(());
            }
        }
    }

    /// Whether nobody needs this thread any more.
    fn is_over(&mut self, now: u64) -> bool {
        let interrupted = self.all.progress.interrupt.load(Ordering::Relaxed);
        if interrupted {
            self.all.stop(now);
        }
        if !self.is_sending() && self.marks[1].is_none() {
            self.marks[1] = Some(Mark::new(now));
        }
        if interrupted || self.all.failed.load(Ordering::Relaxed) {
            return true;
        }
        let end = self.all.end.load(Ordering::Acquire);
        let late = now > end.saturating_add(nanos(self.all.plan.timeout));
        if !self.drained && !self.is_sending() && (self.clients.in_flight == 0 || late) {
            self.drained = true;
            self.all.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        // The dynos have to answer the other threads too.
        self.drained && (self.dynos.is_none() || self.all.waiting.load(Ordering::Acquire) == 0)
    }

    fn begin(&mut self) -> io::Result<()> {
        let Pacing::Closed(clients) = self.all.plan.pacing else {
            self.next_arrival();
            return Ok(());
        };
        for _ in 0..share(clients as usize, self.part, self.all.plan.threads) {
            // Clients that think do not all begin at once.
            match self.pause() {
                0 => self.issue(self.start, None)?,
                pause => self.reactor.at(self.start.saturating_add(pause), Timer::Client),
            }
        }
        Ok(())
    }

    /// Does what is due, up to a number that leaves sockets their turn.
    fn fire(&mut self) -> io::Result<()> {
        for _ in 0..TIMERS {
            let Some((due, timer)) = self.reactor.due(self.reactor.now()) else { break };
            match timer {
                Timer::Service(_) | Timer::Boot(_) | Timer::Crash(_) => {
                    if let Some(dynos) = &mut self.dynos {
                        dynos.on_timer(timer, due, &mut self.reactor)?;
                    }
                }
                Timer::Arrival if self.is_sending() => self.arrived(due)?,
                Timer::Client => self.issue(self.reactor.now(), None)?,
                Timer::Measure if self.is_sending() => self.measure(),
                Timer::Stop => self.all.stop(self.reactor.now()),
                Timer::Arrival | Timer::Measure => {}
            }
        }
        Ok(())
    }

    fn is_sending(&self) -> bool {
        self.all.progress.phase() != Phase::Drain
    }

    /// A request of an open loop is due.
    fn arrived(&mut self, due: u64) -> io::Result<()> {
        let late = self.reactor.now().saturating_sub(due);
        self.late.saturating_record(late);
        if late > BEHIND {
            self.all.overrun.store(true, Ordering::Relaxed);
            self.all.stop(self.reactor.now());
            return Ok(());
        }
        let service = self.next.take().and_then(|next| next.service);
        self.issue(due, service)?;
        self.next_arrival();
        Ok(())
    }

    /// Sends one request that was due at `due`, if there are any left to send; for a service time of its own or one
    /// that is drawn.
    fn issue(&mut self, due: u64, service: Option<u64>) -> io::Result<()> {
        if !self.is_sending() {
            return Ok(());
        }
        let mut last = false;
        if due >= self.measure {
            // None are left when another thread has sent the last and is about to say so.
            let Some(left) = self.all.take() else { return Ok(()) };
            last = left == 1;
        }
        let drawn = self.service();
        let number = self.records.push(due, service.unwrap_or(drawn));
        self.clients.submit(number, &self.reactor, &mut self.records)?;
        if last {
            self.all.curtail(self.reactor.now());
        }
        Ok(())
    }

    /// The service time of this thread's next request. Each draws those of all, and so the same seed gives the same to
    /// the same arrivals, however many threads there are.
    fn service(&mut self) -> u64 {
        let drawn = self.all.plan.service.draw(&mut self.services);
        self.skip_services(self.all.plan.threads - 1);
        drawn
    }

    fn skip_services(&mut self, count: u32) {
        for _ in 0..count {
            self.all.plan.service.draw(&mut self.services);
        }
    }

    fn next_arrival(&mut self) {
        self.next = self.arrivals.next();
        match self.next {
            Some(next) => self.reactor.at(self.start.saturating_add(next.at), Timer::Arrival),
            // A log that is over for all: what was sent is the run.
            None if self.all.sending.fetch_sub(1, Ordering::AcqRel) == 1 => {
                self.all.curtail(self.reactor.now())
            }
            None => {}
        }
    }

    /// How long a client of a closed loop thinks this time, in nanoseconds.
    fn pause(&mut self) -> u64 {
        self.all.plan.think.as_ref().map_or(0, |think| think.draw(&mut self.pauses))
    }

    /// Lets the clients of a closed loop go on: at once after an answer, after a pause when there was none.
    fn answer_clients(&mut self) -> io::Result<()> {
        let (answered, failed) = (self.clients.answered, self.clients.failed);
        (self.clients.answered, self.clients.failed) = (0, 0);
        if !matches!(self.all.plan.pacing, Pacing::Closed(_)) {
            return Ok(());
        }
        let now = self.reactor.now();
        for _ in 0..failed {
            let pause = self.pause().max(PAUSE);
            self.reactor.at(now.saturating_add(pause), Timer::Client);
        }
        for _ in 0..answered {
            match self.pause() {
                0 => self.issue(now, None)?,
                pause => self.reactor.at(now.saturating_add(pause), Timer::Client),
            }
        }
        Ok(())
    }

    fn measure(&mut self) {
        self.marks[0] = Some(Mark::new(self.reactor.now()));
        self.late.reset();
        match &mut self.dynos {
            Some(dynos) => dynos.seen().late.reset(),
            None if self.part == 0 => self.all.plan.dynos.mark(),
            None => {}
        }
        self.reactor.at(self.measure.saturating_add(nanos(self.all.plan.duration)), Timer::Stop);
        self.all.enter(Phase::Measure);
    }

    fn finish(mut self) -> Part {
        if !self.all.progress.interrupt.load(Ordering::Relaxed) {
            self.clients.give_up();
        }
        let mut usage = ThreadUsage {
            late_p99_ms: self.late.value_at_quantile(0.99) as f64 / 1e6,
            dynos: self.dynos.is_some(),
            ..ThreadUsage::default()
        };
        if let [Some(from), Some(to)] = self.marks {
            let length = to.at.saturating_sub(from.at).max(1) as f64;
            usage.busy = to.cpu.saturating_sub(from.cpu) as f64 / length;
            let waited = from.run_queue.zip(to.run_queue);
            usage.run_queue = waited.map(|(from, to)| to.saturating_sub(from) as f64 / length);
        }
        Part {
            records: self.records,
            outcome: self.clients.outcome,
            late: self.late,
            usage,
            dynos: self.dynos,
        }
    }
}

impl Mark {
    fn new(at: u64) -> Self {
        Self { at, cpu: thread_cpu(), run_queue: run_queue_wait() }
    }
}

/// Tells the other threads when this one fails, or panics.
struct Alarm<'a> {
    failed: &'a AtomicBool,
    well: bool,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if !self.well {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// The share of part `part` of `parts` in a number of things.
fn share(whole: usize, part: u32, parts: u32) -> usize {
    let (part, parts) = (part as usize, parts.max(1) as usize);
    whole / parts + usize::from(part < whole % parts)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use router_core::clock::Clock;

    use super::*;
    use crate::dyno::{Behaviour, Fleet, Place};
    use crate::engine::{Plan, Progress};

    #[test]
    fn when_a_thread_fails_the_others_end() {
        // Nobody answers here.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = Plan {
            route: Route::Proxy(silent.local_addr().unwrap()),
            tls: None,
            http2: None,
            dynos: Fleet::at(&Place::Here, (1, 0), Behaviour::default()).unwrap(),
            pacing: Pacing::Closed(3),
            think: None,
            service: "fixed:1ms".parse().unwrap(),
            seed: 1,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(3600),
            requests: 100,
            timeout: Duration::from_secs(3600),
            host: "bench.test".to_owned(),
            path: "/".to_owned(),
            connections: 3,
            threads: 3,
        };
        let (progress, clock) = (Progress::default(), Clock::system());
        let all = Shared::new(&plan, &progress, &|| {});
        std::thread::scope(|scope| {
            let work = scope.spawn(|| all.work(Reactor::new()?, None).map(|parts| parts.len()));
            let deadline = clock.now() + Duration::from_secs(20);
            while progress.phase() < Phase::Measure && clock.now() < deadline {
                std::thread::yield_now();
            }
            assert!(!work.is_finished());
            drop(Alarm { failed: &all.failed, well: true });
            assert!(!all.failed.load(Ordering::Relaxed));
            drop(Alarm { failed: &all.failed, well: false });
            while !work.is_finished() && clock.now() < deadline {
                std::thread::yield_now();
            }
            // If they go on, they are ended before this test fails.
            let ended = work.is_finished();
            progress.interrupt.store(true, Ordering::Relaxed);
            assert!(ended && work.join().unwrap().unwrap() == 3, "the others go on");
        });
    }

    #[test]
    fn shares_are_even_and_make_the_whole() {
        for (whole, parts, shares) in [(7, 3, &[3, 2, 2][..]), (2, 2, &[1, 1]), (1, 2, &[1, 0]), (5, 1, &[5])]
        {
            let all: Vec<usize> = (0..parts).map(|part| share(whole, part, parts)).collect();
            assert_eq!(all, shares, "{whole} among {parts}");
        }
    }
}
