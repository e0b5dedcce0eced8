//! One seed: a router, fake dynos, a virtual clock, clients, and misfortune. Events in order of time, one by one.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use router_core::canary::Lane;
use router_core::clock::Clock;
use router_core::fault::Fault;
use router_core::{Lease, Outcome, Router, Ticket};

use super::deploys::{Deploys, Step};
use super::dynos::{Dynos, Key};
use super::holds::Holds;
use super::lines::Lines;
use super::misfortune::Blow;
use super::totals::Totals;

pub(crate) const MS: u64 = 1_000_000;

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Arrive,
    /// The request has waited as long as it may.
    Deadline(u32, u64),
    /// The client goes away.
    GiveUp(u32, u64),
    /// The connection to the dyno opens, or is refused.
    Connect(u32, u64),
    /// The dyno's last byte.
    Done(u32, u64),
    /// No byte of an answer in time.
    NoAnswer(u32, u64),
    /// Nobody waits any more, and now the router does not either.
    LingerOver(u32, u64),
    /// The router asked to be called.
    Tick,
    Blow,
    /// A dyno is probed.
    Probe,
    Probed(u64),
    /// A dyno no longer fails.
    Cured(u16),
    /// The maintenance of an app ends.
    Opens(usize),
    /// The second half of a blow.
    After(Blow),
    Deploy(Step),
}

/// A request on its way.
pub(crate) struct Request {
    turn: u64,
    pub(crate) app: usize,
    /// Since when it waits, and how long it may.
    pub(crate) waits: Option<(u64, u64)>,
    lane: Lane,
    client_gone: bool,
    hangs: bool,
    outcome: Outcome,
    pub(crate) stage: Stage,
}

pub(crate) enum Stage {
    Over,
    InLine(Ticket),
    /// Has a dyno; nothing sent.
    Connecting(Lease, u16),
    Sent(Lease, u16),
    Lingering(Lease, u16),
}

pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) rng: fastrand::Rng,
    pub(crate) dynos: Dynos,
    pub(crate) now: u64,
    pub(crate) totals: Totals,
    /// Which app has which port, as the control plane wants it.
    pub(crate) owners: BTreeMap<u16, usize>,
    /// Apps that are there.
    pub(crate) apps: Vec<bool>,
    /// What was done to each app's line.
    pub(crate) holds: Vec<Holds>,
    /// Probes under way: lease, port, app.
    pub(crate) probes: BTreeMap<u64, (Lease, u16, usize)>,
    pub(crate) start: Instant,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    pub(crate) requests: Vec<Request>,
    free: Vec<u32>,
    pub(crate) lines: Lines,
    /// Deploys, in the seeds that are about them.
    pub(crate) deploys: Option<Deploys>,
    pub(crate) load: f64,
    pub(crate) left: u64,
    print: bool,
}

thread_local! {
    /// Whose waker was called, in order. A seed runs on one thread.
    static WOKEN: RefCell<Vec<Key>> = const { RefCell::new(Vec::new()) };
}

struct Ring(Key);

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        WOKEN.with_borrow_mut(|woken| woken.push(self.0));
    }
}

impl World {
    /// Three apps and misfortune.
    pub(crate) fn new(seed: u64, requests: u64, print: bool) -> Self {
        let mut world = Self::bare(seed, requests, print, 3);
        world.build();
        world.at(0, Event::Arrive);
        world.at(50 * MS, Event::Blow);
        world.at(0, Event::Probe);
        world
    }

    /// So many apps that are not there yet.
    pub(crate) fn bare(seed: u64, requests: u64, print: bool, apps: usize) -> Self {
        WOKEN.with_borrow_mut(Vec::clear);
        let router = Router::with_clock(Clock::manual());
        let start = router.clock().now();
        let mut rng = fastrand::Rng::with_seed(seed);
        let load = 0.3 + rng.f64();
        Self {
            router,
            rng,
            dynos: Dynos::default(),
            now: 0,
            totals: Totals { trace: 0xCBF2_9CE4_8422_2325, ..Totals::default() },
            owners: BTreeMap::new(),
            apps: vec![false; apps],
            holds: vec![Holds::default(); apps],
            probes: BTreeMap::new(),
            start,
            events: BinaryHeap::new(),
            sequence: 0,
            requests: Vec::new(),
            free: Vec::new(),
            lines: Lines::new(apps),
            deploys: None,
            load,
            left: requests,
            print,
        }
    }

    /// Runs until nothing is left to happen.
    pub(crate) fn run(mut self) -> Totals {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.router.clock().advance(Duration::from_nanos(at - self.now));
            self.now = at;
            self.happen(event);
            self.follow();
        }
        self.finish()
    }

    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + delay, self.sequence, event)));
    }

    /// Exponentially distributed nanoseconds.
    pub(crate) fn draw(&mut self, mean: u64) -> u64 {
        (-(1.0 - self.rng.f64()).ln() * mean as f64) as u64
    }

    pub(crate) fn note(&mut self, what: &str, who: u64, port: u16) {
        for word in [self.now, who, u64::from(port), what.len() as u64] {
            self.totals.trace = (self.totals.trace ^ word).wrapping_mul(0x0100_0000_01B3);
        }
        if self.print {
            eprintln!("{:>12.6} ms  {what:<12} {who:>6}  {port}", self.now as f64 / MS as f64);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrival(),
            Event::Tick => self.next_tick(),
            Event::Blow => self.blow(),
            Event::Probe => self.probe(),
            Event::Probed(turn) => self.probed(turn),
            Event::Cured(port) => self.dynos.get(port).sick = false,
            Event::Opens(app) => self.end_maintenance(app),
            Event::After(blow) => self.after(blow),
            Event::Deploy(step) => self.step(step),
            Event::Deadline(slot, turn) => self.deadline(Key { slot, turn }),
            Event::GiveUp(slot, turn) => self.give_up(Key { slot, turn }),
            Event::Connect(slot, turn) => self.connect(Key { slot, turn }),
            Event::Done(slot, turn) => self.done(Key { slot, turn }),
            Event::NoAnswer(slot, turn) => self.no_answer(Key { slot, turn }),
            Event::LingerOver(slot, turn) => self.linger_over(Key { slot, turn }),
        }
    }

    fn arrival(&mut self) {
        if self.left == 0 {
            return;
        }
        let app = self.rng.usize(..self.apps.len());
        self.arrive(app);
        let slots: u32 = self.owners.keys().map(|port| self.dynos.get(*port).concurrency).sum();
        let mean = 10.0 * MS as f64 / (f64::from(slots.max(1)) * self.load);
        let next = self.draw(mean as u64);
        self.at(next, Event::Arrive);
    }

    pub(crate) fn arrive(&mut self, app: usize) {
        self.left = self.left.saturating_sub(1);
        self.totals.requests += 1;
        let id = self.totals.requests;
        let bytes = self.rng.u64(..1000);
        let lane = self.lane_of_next();
        let entered = self
            .router
            .route(&format!("{app}.test"), "/")
            .and_then(|app| self.router.ticket_on(&app, lane, bytes));
        let ticket = match entered {
            Ok(ticket) => ticket,
            Err(fault) => {
                self.totals.refused += 1;
                self.check_refusal(fault);
                return self.note(fault.code(), id, 0);
            }
        };
        let request = Request {
            turn: id,
            app,
            lane,
            waits: None,
            client_gone: false,
            hangs: self.rng.u32(..500) == 0,
            outcome: Outcome::Served,
            stage: Stage::Over,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.requests[slot as usize] = request;
                slot
            }
            None => {
                self.requests.push(request);
                (self.requests.len() - 1) as u32
            }
        };
        let key = Key { slot, turn: id };
        if self.rng.u32(..20) == 0 {
            let patience = self.draw(30 * MS);
            self.at(patience, Event::GiveUp(slot, id));
        }
        self.note("arrives", id, 0);
        self.wait(key, ticket, false);
    }

    /// The request, if it is still this one.
    pub(crate) fn request(&mut self, key: Key) -> Option<&mut Request> {
        self.requests.get_mut(key.slot as usize).filter(|request| request.turn == key.turn)
    }

    pub(crate) fn take(&mut self, key: Key) -> Option<Stage> {
        self.request(key).map(|request| std::mem::replace(&mut request.stage, Stage::Over))
    }

    fn put(&mut self, key: Key, stage: Stage) {
        self.requests[key.slot as usize].stage = stage;
    }

    fn wait(&mut self, key: Key, ticket: Ticket, again: bool) {
        let Request { app, lane, .. } = self.requests[key.slot as usize];
        let deadline = ticket.deadline();
        // Who goes back may have the next dyno already, before all who wait.
        if again || deadline.is_some() {
            self.lines.enter(app, lane, key.turn, again);
        }
        if let Some(deadline) = deadline {
            let deadline = (deadline - self.start).as_nanos() as u64;
            self.requests[key.slot as usize].waits = Some((self.now, self.patience(app, deadline)));
            self.at(deadline.saturating_sub(self.now), Event::Deadline(key.slot, key.turn));
        }
        self.put(key, Stage::InLine(ticket));
        self.look(key);
    }

    /// Polls a request that waits.
    fn look(&mut self, key: Key) {
        let Some(Stage::InLine(mut ticket)) = self.take(key) else { return };
        let waker = Waker::from(Arc::new(Ring(key)));
        match Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => self.put(key, Stage::InLine(ticket)),
            Poll::Ready(Ok(lease)) => self.granted(key, lease),
            Poll::Ready(Err(fault)) => self.refused(key, fault),
        }
    }

    pub(crate) fn granted(&mut self, key: Key, lease: Lease) {
        let Request { app, lane, .. } = self.requests[key.slot as usize];
        self.check_pace(app);
        let port = lease.dyno().address.port();
        let first = self.lines.first(app, self.lanes_beside(lane, Some(port)));
        let waited = self.leave_line(key);
        assert_eq!(first, waited.then_some(key.turn), "first come, first served");
        self.note("granted", key.turn, port);
        self.put(key, Stage::Connecting(lease, port));
        let delay = self.rng.u64(..MS / 2);
        self.at(delay, Event::Connect(key.slot, key.turn));
    }

    fn leave_line(&mut self, key: Key) -> bool {
        let Request { app, lane, .. } = self.requests[key.slot as usize];
        self.lines.leave(app, lane, key.turn)
    }

    pub(crate) fn refused(&mut self, key: Key, fault: Fault) {
        if self.leave_line(key) {
            self.check_patience(key, fault);
        }
        self.totals.refused += 1;
        self.check_refusal(fault);
        self.note(fault.code(), key.turn, 0);
        self.end(key);
    }

    fn end(&mut self, key: Key) {
        self.requests[key.slot as usize].turn = 0;
        self.free.push(key.slot);
    }

    fn give_up(&mut self, key: Key) {
        let Some(stage) = self.take(key) else { return };
        self.note("gives up", key.turn, 0);
        match stage {
            Stage::InLine(ticket) => {
                self.leave_line(key);
                drop(ticket);
                self.totals.gone += 1;
                self.end(key);
            }
            Stage::Connecting(lease, _) => {
                drop(lease);
                self.totals.gone += 1;
                self.end(key);
            }
            Stage::Sent(lease, port) => {
                self.totals.gone += 1;
                self.linger(key, lease, port);
            }
            other @ (Stage::Over | Stage::Lingering(..)) => self.put(key, other),
        }
    }

    fn connect(&mut self, key: Key) {
        let Some(stage) = self.take(key) else { return };
        let Stage::Connecting(lease, port) = stage else { return self.put(key, stage) };
        if !self.dynos.send(port, key) {
            self.totals.again += 1;
            let calm = self.deploys.as_ref().is_some_and(|deploys| deploys.calm);
            assert!(!calm, "a request was sent to a process that is not up");
            self.note("unreachable", key.turn, port);
            match lease.again(Fault::ConnectRefused) {
                Ok(ticket) => self.wait(key, ticket, true),
                Err(fault) => self.refused(key, fault),
            }
            return;
        }
        self.put(key, Stage::Sent(lease, port));
        let hangs = self.requests[key.slot as usize].hangs;
        let (service, outcome) = self.service(port, hangs);
        self.requests[key.slot as usize].outcome = outcome;
        self.at(service, Event::Done(key.slot, key.turn));
        self.at(1000 * MS, Event::NoAnswer(key.slot, key.turn));
    }

    fn linger(&mut self, key: Key, mut lease: Lease, port: u16) {
        lease.linger();
        self.requests[key.slot as usize].client_gone = true;
        self.put(key, Stage::Lingering(lease, port));
        self.at(3000 * MS, Event::LingerOver(key.slot, key.turn));
    }

    fn no_answer(&mut self, key: Key) {
        let Some(stage) = self.take(key) else { return };
        let Stage::Sent(lease, port) = stage else { return self.put(key, stage) };
        self.totals.timed_out += 1;
        self.note("H12", key.turn, port);
        self.linger(key, lease, port);
    }

    fn done(&mut self, key: Key) {
        let Some(stage) = self.take(key) else { return };
        let (Stage::Sent(lease, port) | Stage::Lingering(lease, port)) = stage else {
            return self.put(key, stage);
        };
        self.dynos.done(port, key);
        let Request { client_gone, outcome, .. } = self.requests[key.slot as usize];
        self.totals.served += u64::from(!client_gone);
        self.note("done", key.turn, port);
        lease.check_in(outcome);
        self.end(key);
    }

    fn linger_over(&mut self, key: Key) {
        let Some(stage) = self.take(key) else { return };
        let Stage::Lingering(lease, port) = stage else { return self.put(key, stage) };
        self.dynos.done(port, key);
        self.note("cut", key.turn, port);
        lease.check_in(Outcome::Failed);
        self.end(key);
    }

    /// A dyno's process dies, and its connections with it.
    pub(crate) fn crash(&mut self, port: u16) {
        for key in self.dynos.crash(port) {
            let Some(Stage::Sent(lease, _) | Stage::Lingering(lease, _)) = self.take(key) else { continue };
            let client_gone = self.requests[key.slot as usize].client_gone;
            self.totals.failed += u64::from(!client_gone);
            self.note("H13", key.turn, port);
            lease.check_in(Outcome::Failed);
            self.end(key);
        }
    }

    fn next_tick(&mut self) {
        if let Some(next) = self.router.tick() {
            let next = (next - self.start).as_nanos() as u64;
            self.at(next.saturating_sub(self.now), Event::Tick);
        }
    }

    /// After each event: who was woken is polled, or goes away at that very moment; the alarm is heeded.
    fn follow(&mut self) {
        loop {
            let woken = WOKEN.with_borrow_mut(std::mem::take);
            if woken.is_empty() {
                break;
            }
            for key in woken {
                if self.rng.u32(..30) == 0 {
                    self.give_up(key);
                } else {
                    self.look(key);
                }
            }
        }
        let moved = pin!(self.router.alarm_moved()).poll(&mut Context::from_waker(Waker::noop()));
        if moved.is_ready() {
            self.next_tick();
            return self.follow();
        }
        if self.tell_of_gone() {
            return self.follow();
        }
        self.check_lanes();
        for app in 0..self.apps.len() {
            if let Some(app_ref) = self.router.app(&app.to_string().as_str().into()) {
                let (waiting, idle) = app_ref.gauges();
                assert!(
                    waiting == 0 || idle == 0 || self.deploys.is_some() || self.holds[app].is_held(self.now),
                    "{waiting} wait for app {app} while {idle} dynos have room"
                );
                let ours = self.lines.len(app, &Lane::ALL);
                assert_eq!(waiting as usize, ours, "the line of app {app} is as long as it is");
            }
        }
    }
}

impl Drop for World {
    /// A router whose state is broken panics again when tickets and leases are dropped: the first panic is the one
    /// that tells.
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget((std::mem::take(&mut self.requests), std::mem::take(&mut self.probes)));
        }
    }
}
