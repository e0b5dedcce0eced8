//! One replication: dynos, requests on their way, and events in order of time, one by one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use router_core::clock::Clock;
use slab::Slab;

use super::path::{Arrival, Lots, Path, lots};
use super::tally::Tally;
use super::{Case, Length, Progress, Setup, Shed};

/// More requests than this at once are not kept: the line grows for ever.
const MOST_AT_ONCE: usize = 4_000_000;
/// After so many arrivals a replication tells how far it is, and looks whether it shall end.
const LOOK: u64 = 4096;

/// Who is served by whom, when.
pub(super) trait Dispatch {
    /// A request has come to its router.
    fn arrive(&mut self, world: &mut World, request: usize);
    /// A forwarded request has come to the router that it was sent to.
    fn hopped(&mut self, _: &mut World, _: usize) {}
    /// The router has the answer of a dyno to a request, so the dyno is free.
    fn answered(&mut self, world: &mut World, request: usize, dyno: u32);
    /// The client of a request in line has given up.
    fn gave_up(&mut self, _: &mut World, _: usize) {}
    /// A request in line has waited as long as the line allows.
    fn deadline(&mut self, _: &mut World, _: usize) {}
    /// What was asked for by [`World::note`] has come.
    fn noted(&mut self, _: &mut World, _: Note) {}
}

/// What routers tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// A pool's requests in line less its idle dynos.
    Hint { router: u32, pool: u32, load: i64 },
    /// All hints are made new.
    Beat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request comes to its dyno.
    Reach {
        request: usize,
        dyno: u32,
    },
    /// A dyno has done its work.
    Done {
        dyno: u32,
    },
    /// The answer is at the router.
    Heard {
        request: usize,
        dyno: u32,
    },
    /// A forwarded request is at the other router.
    Hop {
        request: usize,
    },
    /// A client gives up.
    GiveUp {
        request: usize,
        turn: u64,
    },
    /// A line's own bound on a wait.
    Deadline {
        request: usize,
        turn: u64,
    },
    Note(Note),
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Request {
    /// Tells it from the one that had its place before.
    turn: u64,
    pub(super) arrived: u64,
    service: u64,
    /// Where it came in.
    pub(super) router: u32,
    /// What its ways have taken so far.
    ways: u64,
    /// What the way back of the answer takes, beyond that from the dyno.
    way_back: u64,
    counted: bool,
    stage: Stage,
    /// Work for it in the time that counts.
    work: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// → `Leaving` when its client gives up, → `Line` at the other router.
    Hopping,
    /// Hopping with no client: gone when it arrives.
    Leaving,
    /// In line or at its first router. → `Sent`, or gone.
    Line,
    /// On its way to a dyno, at it, or back.
    Sent,
}

#[derive(Debug, Default)]
struct Dyno {
    serving: Option<(usize, u64)>,
    /// Requests that came while it worked.
    line: VecDeque<usize>,
    /// Requests that were sent and whose work is not done.
    bound: u32,
}

/// All that there is in a replication but the policy.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) clock: Clock,
    /// For lots of the policy.
    pub(super) rng: fastrand::Rng,
    /// The way to another router.
    pub(super) hop: u64,
    /// Whether no more requests come.
    pub(super) over: bool,
    pub(super) requests: Slab<Request>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    dynos: Vec<Dyno>,
    /// The way to a dyno.
    one_way: u64,
    patience: Option<u64>,
    /// Whether routers notice that a client has given up.
    notices: bool,
    /// Whether a dyno may have one request only.
    exclusive: bool,
    /// The time that counts.
    window: (u64, u64),
    tally: Tally,
}

/// Runs one replication of a case.
pub(super) fn replicate(setup: &Setup, case: &Case, replication: u32, progress: &Progress) -> Tally {
    let mut world = World::new(setup, case, replication);
    let mut policy = super::mesh::policy(setup, case, &mut world);
    let mut path = Path::new(setup, replication).peekable();
    let mut arrivals = 0;
    loop {
        let due = world.events.peek().map(|Reverse((at, _, _))| *at);
        // Who is done at the instant of an arrival is done before it.
        if let Some(arrival) = path.next_if(|arrival| due.is_none_or(|due| arrival.at < due)) {
            world.arrival(arrival, policy.as_mut());
            arrivals += 1;
            if arrivals % LOOK == 0 {
                progress.done.fetch_add(LOOK, Ordering::Relaxed);
                world.tally.interrupted = progress.interrupt.load(Ordering::Relaxed);
                world.tally.overrun = u64::from(world.requests.len() > MOST_AT_ONCE);
            }
        } else if let Some(Reverse((at, _, event))) = world.events.pop() {
            if !world.over && path.peek().is_none() {
                world.close(setup);
            }
            world.turn_to(at);
            world.happen(event, policy.as_mut());
        } else {
            break;
        }
        if world.tally.interrupted || world.tally.overrun > 0 {
            world.close(setup);
            break;
        }
    }
    progress.done.fetch_add(arrivals % LOOK, Ordering::Relaxed);
    world.close(setup);
    world.tally
}

impl World {
    fn new(setup: &Setup, case: &Case, replication: u32) -> Self {
        let counts_from = match setup.length {
            Length::Requests(_) => u64::MAX,
            Length::Time(_) => 0,
        };
        Self {
            now: 0,
            clock: Clock::manual(),
            rng: lots(setup.seed, replication, Lots::Policy),
            hop: nanos(setup.hop),
            over: false,
            requests: Slab::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            dynos: (0..setup.dynos).map(|_| Dyno::default()).collect(),
            one_way: nanos(setup.rtt) / 2,
            patience: setup.patience.map(nanos),
            notices: case.policy.has_line() && case.shed != Shed::None,
            exclusive: case.policy.has_line(),
            window: (counts_from, u64::MAX),
            tally: Tally::new(),
        }
    }

    /// Requests that were sent to a dyno and whose work is not done.
    pub(super) fn bound_to(&self, dyno: u32) -> u32 {
        self.dynos[dyno as usize].bound
    }

    /// The request goes to a dyno.
    pub(super) fn send(&mut self, request: usize, dyno: u32) {
        self.requests[request].stage = Stage::Sent;
        self.dynos[dyno as usize].bound += 1;
        self.tally.overlaps += u64::from(self.exclusive && self.dynos[dyno as usize].bound > 1);
        if self.one_way == 0 {
            return self.reach(request, dyno);
        }
        self.requests[request].ways += self.one_way;
        self.after(self.one_way, Event::Reach { request, dyno });
    }

    /// The request goes to another router, and comes to [`Dispatch::hopped`] there.
    pub(super) fn forward(&mut self, request: usize) {
        let entry = &mut self.requests[request];
        self.tally.forwarded += u64::from(entry.counted);
        entry.stage = Stage::Hopping;
        entry.ways += self.hop;
        entry.way_back += self.hop;
        self.after(self.hop, Event::Hop { request });
    }

    /// The request is refused.
    pub(super) fn refuse(&mut self, request: usize) {
        let request = self.requests.remove(request);
        if request.counted {
            self.tally.refused(&request, self.now);
        }
    }

    /// The request has to leave its line at this instant, if it still waits.
    pub(super) fn at_deadline(&mut self, request: usize, at: u64) {
        let turn = self.requests[request].turn;
        self.after(at.saturating_sub(self.now), Event::Deadline { request, turn });
    }

    /// Something comes to the policy after this time.
    pub(super) fn note(&mut self, delay: u64, note: Note) {
        self.after(delay, Event::Note(note));
    }

    /// Whether nothing happens before the next request comes.
    pub(super) fn rests(&self) -> bool {
        self.requests.is_empty() && self.events.is_empty()
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now.saturating_add(delay), self.sequence, event)));
    }

    fn turn_to(&mut self, at: u64) {
        self.clock.advance(Duration::from_nanos(at - self.now));
        self.now = at;
    }

    /// No more requests come; the time that counts is over.
    fn close(&mut self, setup: &Setup) {
        if self.over {
            return;
        }
        self.over = true;
        let end = match setup.length {
            Length::Time(time) if !self.tally.interrupted => nanos(time),
            Length::Time(_) | Length::Requests(_) => self.now,
        };
        self.window.1 = end;
        self.tally.time = u128::from(end.saturating_sub(self.window.0));
    }

    fn arrival(&mut self, arrival: Arrival, policy: &mut dyn Dispatch) {
        self.turn_to(arrival.at);
        self.sequence += 1;
        let Arrival { at, service, router, counted } = arrival;
        if counted {
            self.tally.requests += 1;
            self.window.0 = self.window.0.min(at);
        }
        let turn = self.sequence;
        let request = self.requests.insert(Request {
            turn,
            arrived: at,
            service,
            router,
            ways: 0,
            way_back: 0,
            counted,
            stage: Stage::Line,
            work: 0,
        });
        if let Some(patience) = self.patience.filter(|_| self.notices) {
            self.after(patience, Event::GiveUp { request, turn });
        }
        policy.arrive(self, request);
    }

    fn happen(&mut self, event: Event, policy: &mut dyn Dispatch) {
        match event {
            Event::Reach { request, dyno } => self.reach(request, dyno),
            Event::Done { dyno } => self.done(dyno, policy),
            Event::Heard { request, dyno } => self.heard(request, dyno, policy),
            Event::Hop { request } => match self.requests[request].stage {
                Stage::Leaving => self.leave(request),
                Stage::Hopping | Stage::Line | Stage::Sent => {
                    self.requests[request].stage = Stage::Line;
                    policy.hopped(self, request);
                }
            },
            Event::GiveUp { request, turn } => self.give_up(request, turn, policy),
            Event::Deadline { request, turn } => {
                let waits = |entry: &Request| entry.turn == turn && entry.stage == Stage::Line;
                if self.requests.get(request).is_some_and(waits) {
                    policy.deadline(self, request);
                }
            }
            Event::Note(note) => policy.noted(self, note),
        }
    }

    fn give_up(&mut self, request: usize, turn: u64, policy: &mut dyn Dispatch) {
        let Some(entry) = self.requests.get_mut(request).filter(|entry| entry.turn == turn) else { return };
        match entry.stage {
            Stage::Hopping => entry.stage = Stage::Leaving,
            Stage::Line => {
                policy.gave_up(self, request);
                self.leave(request);
            }
            // A dyno cannot be told to stop.
            Stage::Leaving | Stage::Sent => {}
        }
    }

    fn leave(&mut self, request: usize) {
        let request = self.requests.remove(request);
        self.tally.gone += u64::from(request.counted);
    }

    fn reach(&mut self, request: usize, dyno: u32) {
        match self.dynos[dyno as usize].serving {
            Some(_) => self.dynos[dyno as usize].line.push_back(request),
            None => self.start(request, dyno),
        }
    }

    fn start(&mut self, request: usize, dyno: u32) {
        let entry = &self.requests[request];
        if entry.counted {
            self.tally.started(self.now - entry.arrived, entry.ways);
        }
        let service = entry.service;
        self.dynos[dyno as usize].serving = Some((request, self.now));
        self.after(service, Event::Done { dyno });
    }

    fn done(&mut self, dyno: u32, policy: &mut dyn Dispatch) {
        let entry = &mut self.dynos[dyno as usize];
        let Some((request, started)) = entry.serving.take() else { return };
        entry.bound -= 1;
        let next = entry.line.pop_front();
        let work = self.now.min(self.window.1).saturating_sub(started.max(self.window.0));
        self.tally.busy += u128::from(work);
        self.requests[request].work = work;
        if let Some(next) = next {
            self.start(next, dyno);
        }
        if self.one_way == 0 {
            return self.heard(request, dyno, policy);
        }
        self.after(self.one_way, Event::Heard { request, dyno });
    }

    /// The answer is at the router. That its client gets it is counted at once, with the way that is left.
    fn heard(&mut self, request: usize, dyno: u32, policy: &mut dyn Dispatch) {
        let entry = &self.requests[request];
        let latency = self.now - entry.arrived + entry.way_back;
        let good = self.patience.is_none_or(|patience| latency <= patience);
        if entry.counted {
            self.tally.answered(latency, good);
        }
        self.tally.useful += if good { u128::from(entry.work) } else { 0 };
        policy.answered(self, request, dyno);
        self.requests.remove(request);
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
