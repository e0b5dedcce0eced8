//! The app written in the most obvious way: vectors, linear scans, everything worked out anew each time. What the
//! router does must equal what this does.
//!
//! One thing the rules leave open is which of several equal dynos serves next. There the reference follows what the
//! router reports ([`Snapshot`]), after it has worked out for itself which dynos are equal.

use std::collections::BTreeMap;
use std::time::Duration;

use router_core::canary::Lane;
use router_core::change::{DynoHealth, DynoSpec, Hold};
use router_core::fault::{Backlog, Fault};
use router_core::ids::{Address, AppId, ReleaseId};
use router_core::limits::{Limits, Order};
use router_core::snapshot::{AppSnapshot, Snapshot};
use router_core::wish::Wish;

use super::dyno::{Dyno, Standing};
use super::gate::Gate;

/// A request is told what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Granted(Address),
    Refused(Fault),
}

/// Who is told what.
pub(crate) type News = Vec<(u64, Told)>;

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    Granted(Address),
    InLine,
    Refused(Fault),
}

#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) request: u64,
    pub(crate) lane: Lane,
    pub(crate) arrived: Duration,
    /// The same by the line's clock, as is the deadline.
    pub(crate) since: Duration,
    pub(crate) deadline: Duration,
    pub(crate) bytes: u64,
    pub(crate) failed: Option<Fault>,
    pub(crate) tries: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) birth: u64,
    pub(crate) limits: Limits,
    release: ReleaseId,
    closed: bool,
    pub(crate) line: Vec<Waiting>,
    pub(crate) dynos: Vec<Dyno>,
    /// By lane, as are the service time and that of good answers.
    pub(crate) standing_since: [Option<Duration>; 2],
    pub(crate) service: [(f64, f64); 2],
    pub(crate) usual: [(f64, f64); 2],
    pub(crate) tally: [u64; 4],
    pub(crate) gate: Gate,
    /// The youngest request.
    last: u64,
    /// How much longer each request that has a dyno may wait, should it have to go back.
    pub(crate) patience: BTreeMap<u64, Duration>,
    /// Who waits for one dyno alone, and until when by the line's clock.
    pub(crate) wishes: BTreeMap<u64, (Address, Duration)>,
    /// Which of equal dynos serves: one of three, for each of the next picks.
    pub(crate) way: usize,
    /// Dynos that have left since somebody last asked.
    pub(crate) gone: Vec<Address>,
}

impl App {
    pub(crate) fn new(id: AppId, limits: Limits, release: ReleaseId, birth: u64) -> Self {
        let (line, dynos, gone) = (Vec::new(), Vec::new(), Vec::new());
        let (standing_since, service, usual, tally) = ([None; 2], [(0.0, 0.0); 2], [(0.0, 0.0); 2], [0; 4]);
        let (closed, patience, gate, last) = (false, BTreeMap::new(), Gate::default(), 0);
        #[rustfmt::skip]
        let app = Self {
            id, birth, limits, release, closed, line, dynos, standing_since, service, usual, tally, gate, last,
            patience, wishes: BTreeMap::new(), way: 0, gone,
        };
        app
    }

    pub(crate) fn has(&self, address: Address) -> bool {
        self.dynos.iter().any(|dyno| dyno.spec.address == address)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.closed && self.dynos.is_empty() && self.line.is_empty()
    }

    pub(crate) fn put(&mut self, limits: Limits, release: ReleaseId) {
        (self.closed, self.limits, self.release) = (false, limits, release);
        for dyno in &mut self.dynos {
            dyno.streams = self.limits.streams;
        }
    }

    pub(crate) fn hold(&mut self, hold: Hold, now: Duration) {
        self.gate.set(hold, now, self.last);
    }

    pub(crate) fn close(&mut self, now: Duration) {
        self.closed = true;
        self.hold(Hold::Resume { over: Duration::ZERO }, now);
        self.hold(Hold::Maintenance(false), now);
        for dyno in &mut self.dynos {
            dyno.standing = Standing::Draining;
        }
        self.sweep();
    }

    pub(crate) fn add(&mut self, spec: &DynoSpec) {
        let release = spec.release.clone().unwrap_or_else(|| self.release.clone());
        if let Some(dyno) = self.dynos.iter_mut().find(|dyno| dyno.spec.address == spec.address) {
            (dyno.spec, dyno.release) = (spec.clone(), release);
            if dyno.standing == Standing::Draining {
                dyno.begin(spec.state);
            }
            self.sweep();
            return;
        }
        let mut dyno = Dyno::new(spec.clone(), release);
        dyno.streams = self.limits.streams;
        self.dynos.push(dyno);
    }

    pub(crate) fn remove(&mut self, address: Address) {
        self.dyno(address).standing = Standing::Draining;
        self.sweep();
    }

    pub(crate) fn set(&mut self, address: Address, health: DynoHealth) {
        self.dyno(address).set(health);
        self.sweep();
    }

    pub(crate) fn arrive(
        &mut self,
        request: u64,
        (lane, wish): (Lane, Option<Wish>),
        bytes: u64,
        now: Duration,
        seen: &Snapshot,
    ) -> Entered {
        self.last = request;
        let server = self.server(lane);
        self.end_wishes();
        self.patience.insert(request, self.limits.queue_max_wait);
        let wish = wish.filter(|wish| server == lane && self.may_serve(wish.dyno, lane));
        let before = self.wishes.values().any(|(dyno, _)| self.has_room(*dyno));
        let nobody_waits = self.first(server).is_none() && !before && !self.gate.maintenance;
        let own = |app: &Self, dyno| (app.is_open(now) && app.has_room(dyno)).then_some(dyno);
        let at_once = match wish {
            _ if !nobody_waits => None,
            Some(wish) => own(self, wish.dyno),
            None => self.pick(server, now, seen),
        };
        if let Some(address) = at_once {
            return Entered::Granted(self.grant(address));
        }
        let maintenance = || self.gate.maintenance.then_some(Fault::Maintenance);
        let refusal = self.nobody_can_serve(server).or_else(maintenance);
        if let Some(fault) = refusal.or_else(|| self.shed(server, bytes)) {
            if wish.is_some()
                && nobody_waits
                && let Some(address) = self.pick(server, now, seen)
            {
                return Entered::Granted(self.grant(address));
            }
            self.tally[1] += 1;
            return Entered::Refused(fault);
        }
        let boots = self.crew(server).any(|dyno| dyno.standing == Standing::Booting);
        let serves =
            |dyno: &Dyno| dyno.standing == Standing::Serving || dyno.until().is_some() || dyno.is_ill();
        let tries = self.crew(server).any(serves);
        let patience = if boots && !tries { self.limits.boot } else { self.limits.queue_max_wait };
        let since = self.gate.clock;
        let deadline = since + patience;
        self.wishes.extend(wish.map(|wish| (request, (wish.dyno, since + wish.wait.min(patience)))));
        self.enter(Waiting { request, lane, arrived: now, since, deadline, bytes, failed: None, tries: 0 });
        Entered::InLine
    }

    /// `lingered`: the request was lingering. `waiting`: the request, as it was when it came first.
    pub(crate) fn again(
        &mut self,
        address: Address,
        lingered: bool,
        mut waiting: Waiting,
        failed: Fault,
        now: Duration,
    ) -> Result<(), Fault> {
        let limits = self.limits.clone();
        let dyno = self.dyno(address);
        dyno.in_flight -= 1;
        dyno.lingering -= u32::from(lingered);
        if dyno.standing == Standing::Serving || dyno.until().is_some() {
            dyno.quarantine(now, false, &limits);
        }
        self.sweep();
        if self.closed {
            return Err(Fault::NoSuchApp);
        }
        if waiting.tries >= limits.max_tries {
            self.tally[1] += 1;
            return Err(failed);
        }
        waiting.failed = Some(failed);
        let left = self.patience[&waiting.request].min(limits.queue_max_wait);
        let clock = self.gate.clock;
        waiting.deadline = (clock + left).min(waiting.since + limits.boot).max(clock);
        self.enter(waiting);
        Ok(())
    }

    pub(crate) fn linger(&mut self, address: Address) {
        self.dyno(address).lingering += 1;
    }

    /// The request's client is gone. `false`: it was not in line.
    pub(crate) fn cancel(&mut self, request: u64) -> bool {
        let left = self.leave(request).is_some();
        self.tally[2] += u64::from(left);
        left
    }

    pub(crate) fn expire(&mut self, request: u64) -> Option<Fault> {
        let waiting = self.leave(request)?;
        self.tally[1] += 1;
        Some(self.fault_of(&waiting))
    }

    pub(crate) fn tick(&mut self, now: Duration) {
        for dyno in &mut self.dynos {
            if dyno.until().is_some_and(|until| until <= now) {
                dyno.standing = Standing::Serving;
            }
        }
    }

    /// Serves and refuses whoever's turn it is.
    pub(crate) fn settle(&mut self, now: Duration, seen: &Snapshot, news: &mut News) {
        self.end_wishes();
        self.try_ways(now, seen, news);
    }

    pub(crate) fn serve_all(&mut self, now: Duration, seen: &Snapshot, news: &mut News) {
        while self.serve_wish(now, news)
            || self.order().into_iter().any(|server| self.serve_or_refuse(server, now, seen, news))
        {}
        if self.line.is_empty() {
            self.gate.misled = 0;
        }
    }

    /// While the line is held there may be room for one alone: for who came first.
    fn order(&self) -> [Lane; 2] {
        let first = |lane| self.first(lane).map_or(u64::MAX, |first| first.request);
        let canary = self.gate.is_held() && first(Lane::Canary) < first(Lane::Main);
        if canary { [Lane::Canary, Lane::Main] } else { Lane::ALL }
    }

    /// `false`: there is nothing to be done for who waits for the dynos of that lane.
    fn serve_or_refuse(&mut self, server: Lane, now: Duration, seen: &Snapshot, news: &mut News) -> bool {
        let Some(first) = self.first(server).cloned() else { return false };
        let present = self.crew(server).any(Dyno::is_present);
        let refusal = if self.closed {
            Some(Fault::NoSuchApp)
        } else if !present {
            Some(Fault::NoDynos)
        } else if first.deadline <= self.gate.clock {
            Some(self.fault_of(&first))
        } else if self.candidates(server, now).is_empty() || !self.is_open(now) {
            return false;
        } else if first.failed.is_none() && self.stands_too_long(&first) {
            Some(Fault::Backlog(Backlog::StandingLine))
        } else {
            None
        };
        let told = match refusal {
            Some(fault) => {
                self.tally[1] += 1;
                Told::Refused(fault)
            }
            None => {
                let Some(address) = self.pick(server, now, seen) else { return false };
                self.patience.insert(first.request, first.deadline - self.gate.clock);
                Told::Granted(self.grant(address))
            }
        };
        self.leave(first.request);
        news.push((first.request, told));
        true
    }

    /// Whether there is something to do by the clock alone. A request whose time is up has its own clock, unless it
    /// was told of a hold that was cut short.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        let late = |first: &Waiting| first.request <= self.gate.misled && first.deadline <= self.gate.clock;
        let turn = |lane| self.is_open(now) && !self.candidates(lane, now).is_empty();
        let over = self.wishes.values().any(|(_, end)| self.gate.time_of(*end, now) <= now);
        let wished = self.is_open(now) && self.wished(now).is_some();
        self.dynos.iter().filter_map(Dyno::until).any(|until| until <= now)
            || over
            || wished
            || Lane::ALL
                .into_iter()
                .any(|lane| self.first(lane).is_some_and(|first| late(first) || turn(lane)))
    }

    /// Whether one more request may be in flight.
    pub(crate) fn is_open(&self, now: Duration) -> bool {
        let in_flight = self.dynos.iter().map(Dyno::load).sum();
        self.gate.lets(now, in_flight, self.slots(Lane::Main) + self.slots(Lane::Canary))
    }

    fn slots(&self, lane: Lane) -> u32 {
        self.crew(lane).filter(|dyno| dyno.takes()).map(|dyno| dyno.spec.concurrency.max(1)).sum()
    }

    pub(crate) fn snapshot(&self, now: Duration) -> AppSnapshot {
        let mut dynos: Vec<_> = self.dynos.iter().map(Dyno::snapshot).collect();
        dynos.sort_by_key(|dyno| dyno.address);
        AppSnapshot {
            id: self.id.clone(),
            release: self.release.clone(),
            waiting: self.line.len(),
            waiting_canary: self.line.iter().filter(|waiting| waiting.lane == Lane::Canary).count(),
            waiting_bytes: self.line.iter().map(|waiting| waiting.bytes).sum(),
            oldest_wait: self.line.iter().map(|waiting| now - waiting.arrived).max().unwrap_or_default(),
            service_time: Duration::from_secs_f64(self.service[0].0),
            dispatched: self.tally[0],
            refused: self.tally[1],
            left: self.tally[2],
            ejected: self.tally[3],
            held: self.gate.snapshot(now),
            maintenance: self.gate.maintenance,
            dynos,
        }
    }

    pub(crate) fn dyno(&mut self, address: Address) -> &mut Dyno {
        let found = self.dynos.iter_mut().find(|dyno| dyno.spec.address == address);
        found.unwrap_or_else(|| panic!("the reference has no dyno at {address}"))
    }

    pub(crate) fn sweep(&mut self) {
        let gone = |dyno: &Dyno| dyno.standing == Standing::Draining && dyno.in_flight == 0;
        self.gone.extend(self.dynos.iter().filter(|dyno| gone(dyno)).map(|dyno| dyno.spec.address));
        self.dynos.retain(|dyno| !gone(dyno));
        if !self.crew(Lane::Canary).any(Dyno::takes) {
            let lane = Lane::Canary as usize;
            (self.service[lane], self.usual[lane]) = ((0.0, 0.0), (0.0, 0.0));
        }
        self.forget_wishes();
    }

    pub(crate) fn crew(&self, lane: Lane) -> impl Iterator<Item = &Dyno> {
        self.dynos.iter().filter(move |dyno| dyno.lane == lane)
    }

    /// Whose dynos serve the requests of a lane.
    pub(crate) fn server(&self, lane: Lane) -> Lane {
        if self.crew(Lane::Canary).any(Dyno::takes) { lane } else { Lane::Main }
    }

    /// Who waits for the dynos of a lane.
    fn line_of(&self, server: Lane) -> impl Iterator<Item = &Waiting> {
        self.line.iter().filter(move |waiting| self.server(waiting.lane) == server)
    }

    /// Who came first.
    pub(crate) fn first(&self, server: Lane) -> Option<&Waiting> {
        self.line_of(server).filter(|waiting| self.takes_any(waiting)).min_by_key(|waiting| waiting.request)
    }

    fn enter(&mut self, waiting: Waiting) {
        if self.takes_any(&waiting) {
            self.standing_since[waiting.lane as usize].get_or_insert(self.gate.clock);
        }
        self.line.push(waiting);
    }

    pub(crate) fn leave(&mut self, request: u64) -> Option<Waiting> {
        let at = self.line.iter().position(|waiting| waiting.request == request)?;
        let waiting = self.line.remove(at);
        self.wishes.remove(&request);
        if !self.line.iter().any(|other| other.lane == waiting.lane && self.takes_any(other)) {
            self.standing_since[waiting.lane as usize] = None;
        }
        Some(waiting)
    }

    fn is_desperate(&self, server: Lane) -> bool {
        !self.crew(server).any(|dyno| dyno.standing == Standing::Serving)
    }

    /// The dynos of which the next request may get any.
    pub(crate) fn candidates(&self, server: Lane, now: Duration) -> Vec<Address> {
        let idle = || self.crew(server).filter(|dyno| dyno.room() > 0);
        if let Some(fewest) = idle().map(Dyno::level).min() {
            let any = self.limits.order == Order::Random;
            let equal = idle().filter(|dyno| any || dyno.level() == fewest);
            return equal.map(|dyno| dyno.spec.address).collect();
        }
        let first = self.crew(server).filter_map(Dyno::soon).min().filter(|soon| *soon <= now);
        let Some(first) = first.filter(|_| self.is_desperate(server)) else { return Vec::new() };
        let soon = self.crew(server).filter(|dyno| dyno.soon() == Some(first));
        soon.map(|dyno| dyno.spec.address).collect()
    }

    fn pick(&mut self, server: Lane, now: Duration, seen: &Snapshot) -> Option<Address> {
        if !self.is_open(now) {
            return None;
        }
        let candidates = self.candidates(server, now);
        let more = |address: &&Address| self.got_more(**address, seen);
        let likely: Vec<_> = candidates.iter().filter(more).collect();
        let (way, choice) = (self.way / 3, self.way % 3);
        let chosen =
            likely.get(choice).or_else(|| likely.first()).copied().or_else(|| candidates.first()).copied()?;
        self.way = way;
        let dyno = self.dyno(chosen);
        dyno.standing = Standing::Serving;
        (dyno.room() > 0).then_some(chosen)
    }

    /// Whether the router has given that dyno more requests than this.
    pub(crate) fn got_more(&self, address: Address, seen: &Snapshot) -> bool {
        let app = seen.apps.iter().find(|app| app.id == self.id);
        let dyno = app.and_then(|app| app.dynos.iter().find(|dyno| dyno.address == address));
        let in_flight = dyno.map_or(0, |dyno| dyno.in_flight);
        self.dynos.iter().any(|d| d.spec.address == address && in_flight > d.in_flight)
    }

    pub(crate) fn grant(&mut self, address: Address) -> Address {
        self.tally[0] += 1;
        let dyno = self.dyno(address);
        dyno.in_flight += 1;
        dyno.dispatched += 1;
        address
    }

    fn nobody_can_serve(&self, server: Lane) -> Option<Fault> {
        let mut present = self.crew(server).filter(|dyno| dyno.is_present()).peekable();
        if self.closed {
            Some(Fault::NoSuchApp)
        } else if present.peek().is_none() {
            Some(Fault::NoDynos)
        } else {
            present.all(|dyno| dyno.standing == Standing::Crashed).then_some(Fault::AppCrashed)
        }
    }

    fn shed(&self, server: Lane, bytes: u64) -> Option<Fault> {
        let slots = self.slots(server).max(1);
        let waiting = self.line_of(server).count();
        let held: u64 = self.line_of(server).map(|waiting| waiting.bytes).sum();
        let expected = waiting as f64 * self.service[server as usize].0 / f64::from(slots);
        if waiting >= (self.limits.queue_max_requests_per_dyno * slots) as usize {
            Some(Fault::Backlog(Backlog::Requests))
        } else if held + bytes > self.limits.queue_max_bytes {
            Some(Fault::Backlog(Backlog::Bytes))
        } else if Duration::from_secs_f64(expected) > self.limits.queue_max_wait {
            Some(Fault::Backlog(Backlog::ExpectedWait))
        } else {
            None
        }
    }

    fn stands_too_long(&self, first: &Waiting) -> bool {
        let clock = self.gate.clock;
        let since = self.standing_since[first.lane as usize];
        let stands = since.map_or(Duration::ZERO, |since| clock - since);
        stands >= self.limits.standing_after && clock - first.since > self.limits.standing_wait
    }

    fn fault_of(&self, waiting: &Waiting) -> Fault {
        let server = self.server(waiting.lane);
        if let Some(fault) = waiting.failed.or_else(|| self.nobody_can_serve(server)) {
            fault
        } else if self.crew(server).any(|dyno| dyno.standing == Standing::Serving) {
            Fault::Backlog(Backlog::MaxWait)
        } else if self.crew(server).any(|dyno| dyno.until().is_some() || dyno.is_ill()) {
            Fault::Quarantined
        } else {
            Fault::BootTimeout
        }
    }
}
