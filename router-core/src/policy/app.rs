//! One app: its line and its dynos as a pure state machine, from arrival to check-in.
//!
//! # How to drive it
//!
//! Methods that take something in ([`arrive`](App::arrive), [`check_in`](App::check_in), [`again`](App::again),
//! [`cancel`](App::cancel), [`expire`](App::expire), [`tick`](App::tick) and the changes) only move the state.
//! After each of them call [`next`](App::next) until it returns `None`: it says whose turn it is, who is refused,
//! and which dynos are gone. `now` is an argument everywhere and never runs backwards.
//!
//! # State
//!
//! | a request is | on | and then is |
//! |---|---|---|
//! | – | `arrive`, nobody waits, a dyno has room | in flight |
//! | – | `arrive`, it may wait | in line |
//! | – | `arrive`, it may not | refused |
//! | in line | `next`, it is first, a dyno has room | in flight |
//! | in line | `next`, its time is up, or there is no dyno left | refused |
//! | in line | `expire`, `cancel` | refused, gone |
//! | in flight | `again` (its dyno could not be reached) | in line, at the front |
//! | in flight | `upgrade` (its dyno has changed the protocol) | upgraded |
//! | in flight | `check_in` | gone |
//! | upgraded | `end_upgraded` | gone |
//!
//! # Lanes
//!
//! A request is in the main lane or in the canary's, and so is a dyno ([`Lane`]). Each lane is a line of its own: its
//! requests are served by its dynos, first come, first served, and its bounds are counted in its own slots. While the
//! canary's lane is *shut* (none of its dynos serves, boots or is in quarantine), both lanes are one line for the main
//! lane's dynos, in order of first arrival.
//!
//! | a request of | the canary's lane is open | it is shut |
//! |---|---|---|
//! | the main lane | main dynos, main bounds | main dynos, bounds over both lanes |
//! | the canary's lane | canary dynos, canary bounds | main dynos, bounds over both lanes |
//!
//! # Invariants (walked by `check_invariants`)
//!
//! * After `next` has returned `None`, nobody waits while a dyno that may serve it has room (invariant 2 of the
//!   design), unless the line is held (`hold.rs`).
//! * A dyno is in the idle list of its lane, and in no other, exactly while it has room; never more than `concurrency`
//!   requests are in flight on it, whatever is done to it (invariant 1).
//! * The counts by standing are those of each lane's dynos; a staged dyno stands in none of them.

mod changes;
mod crew;
mod faults;
mod health;
mod hold;
mod wishes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::canary::Lane;
use crate::fault::{Backlog, Fault};
use crate::ids::{Address, DynoId, ReleaseId, TicketId};
use crate::limits::Limits;
use crate::policy::dyno::{Dyno, DynoInfo, Event};
use crate::policy::health::Outcome;
use crate::policy::queue::{Queue, Waiting};
use crate::policy::shed::Line;
use crate::wish::Wish;
use crew::{Counts, Crew};
use hold::Gate;

/// The line and the dynos of one app.
#[derive(Debug)]
pub(crate) struct App {
    limits: Limits,
    release: ReleaseId,
    queue: Queue,
    /// What each lane has of its own.
    crews: [Crew; 2],
    dynos: Vec<Seat>,
    free: Vec<u32>,
    by_address: BTreeMap<Address, u32>,
    /// Quarantined dynos by the end of their quarantine.
    until: BTreeSet<(Instant, u32)>,
    gone: VecDeque<Gone>,
    /// Dynos that somebody waits for alone, and that have changed.
    heeded: BTreeSet<u32>,
    /// A wish has ended since somebody last asked.
    joined: bool,
    gate: Gate,
    closed: bool,
    tally: Tally,
}

/// A slot for a dyno; the turn tells a dyno from the one that had the slot before.
#[derive(Debug)]
struct Seat {
    turn: u32,
    dyno: Option<Dyno>,
}

/// What has happened to requests since the app was added.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) dispatched: u64,
    pub(crate) refused: u64,
    pub(crate) left: u64,
    pub(crate) ejected: u64,
}

/// A request's right to a dyno.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) dyno: DynoId,
    pub(crate) info: Arc<DynoInfo>,
    pub(crate) place: Place,
    /// When it was granted.
    pub(crate) at: Instant,
    /// It is no request but a probe: see `health.rs`.
    pub(crate) probe: bool,
}

/// What a request takes along when it has to go back into the line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) number: u64,
    pub(crate) lane: Lane,
    pub(crate) arrived: Instant,
    /// The same by the line's clock.
    pub(crate) since: Instant,
    pub(crate) bytes: u64,
    pub(crate) tries: u32,
    /// How much longer it may wait in line, over all its waits; the time at dynos does not count.
    pub(crate) patience: Duration,
}

/// What became of an arrival.
#[derive(Debug)]
pub(crate) enum Arrived {
    Granted(Grant),
    InLine { ticket: TicketId },
    Refused(Fault),
}

/// What the caller has to do after an input.
#[derive(Debug)]
pub(crate) enum Effect {
    /// It is this request's turn.
    Grant(TicketId, Grant),
    /// This request will not be served.
    Refuse(TicketId, Fault),
    /// This dyno is no longer part of the app.
    Gone(Gone),
}

/// A dyno that has left the app for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    pub(crate) id: DynoId,
    pub(crate) address: Address,
    pub(crate) epoch: u64,
}

/// How a request on a dyno ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// How long the dyno was held.
    pub(crate) held: Duration,
    /// The request lingered: [`App::linger`] was called for it.
    pub(crate) lingered: bool,
    pub(crate) outcome: Outcome,
}

impl App {
    /// An app without dynos. The seed is that of [`Order::Random`](crate::limits::Order::Random).
    pub(crate) fn new(limits: Limits, release: ReleaseId, seed: u64) -> Self {
        Self {
            crews: Lane::ALL.map(|_| Crew::new(limits.order, seed)),
            limits,
            release,
            queue: Queue::default(),
            dynos: Vec::new(),
            free: Vec::new(),
            by_address: BTreeMap::new(),
            until: BTreeSet::new(),
            gone: VecDeque::new(),
            heeded: BTreeSet::new(),
            joined: false,
            gate: Gate::default(),
            closed: false,
            tally: Tally::default(),
        }
    }

    /// A request of that lane arrives with that many bytes of body to hold while it waits.
    pub(crate) fn arrive(&mut self, now: Instant, lane: Lane, bytes: u64, wish: Option<Wish>) -> Arrived {
        let patience = self.limits.queue_max_wait;
        let (number, since) = (self.queue.number(), self.gate.line_time(now));
        let place = Place { number, lane, arrived: now, since, bytes, tries: 0, patience };
        let server = self.server(lane);
        self.end_wishes(now);
        let wished = self.wished(lane, wish);
        // Whoever waits for a dyno that has room, as when a line was held, was here before.
        let nobody_waits = self.first(server).is_none() && !self.is_wish_open() && !self.gate.maintenance;
        let at_once = |app: &mut Self| match wished {
            Some((own, _)) => app.take(own, now),
            None => app.pick(server, now),
        };
        if nobody_waits && let Some(slot) = at_once(self) {
            return Arrived::Granted(self.grant(slot, place, now));
        }
        let line = self.line(server);
        let refusal = match self.nobody_can_serve(server) {
            Some(fault) => Some(fault),
            None if self.gate.maintenance => Some(Fault::Maintenance),
            None => self.crew(server).shed.admit(&self.limits, line, bytes).err().map(Fault::Backlog),
        };
        if let Some(fault) = refusal {
            // Who may not wait for its own dyno is served by any.
            if nobody_waits
                && wished.is_some()
                && let Some(slot) = self.pick(server, now)
            {
                return Arrived::Granted(self.grant(slot, place, now));
            }
            self.tally.refused += 1;
            return Arrived::Refused(fault);
        }
        // With nothing but booting dynos the wait is for a boot, which takes its own time.
        let counts = &self.crew(server).counts;
        let all_boot = counts.serving + counts.quarantined + counts.unhealthy == 0;
        let patience = if all_boot { self.limits.boot } else { patience };
        let aside = wished.map(|(own, wish)| (own, since + wish.wait.min(patience)));
        self.heeded.extend(aside.map(|(own, _)| own));
        let ticket = self.enter(place, since + patience, None, aside, now);
        Arrived::InLine { ticket }
    }

    /// The dyno could not be reached and has seen nothing of the request: the dyno goes into quarantine, the
    /// request back to the front of the line. `lingered`: [`linger`](Self::linger) was called for it. `Err`: it has
    /// been offered to as many dynos as it may.
    pub(crate) fn again(
        &mut self,
        now: Instant,
        dyno: DynoId,
        place: Place,
        lingered: bool,
        failed: Fault,
    ) -> Result<TicketId, Fault> {
        if let Some(slot) = self.slot_of(dyno) {
            self.with_dyno(slot, |dyno, limits| {
                dyno.check_in(lingered);
                dyno.step(Event::Unreachable(now), limits);
            });
        }
        if self.closed {
            return Err(Fault::NoSuchApp);
        }
        if place.tries >= self.limits.max_tries {
            self.tally.refused += 1;
            return Err(failed);
        }
        // What is left of its wait. With the time that dynos took not to answer it ends at last after that of a boot.
        let patience = place.patience.min(self.limits.queue_max_wait);
        let line_now = self.gate.line_time(now);
        let deadline = (line_now + patience).min(place.since + self.limits.boot).max(line_now);
        Ok(self.enter(place, deadline, Some(failed), None, now))
    }

    /// Nobody waits any more for a request in flight; the dyno stays busy until the check-in.
    pub(crate) fn linger(&mut self, dyno: DynoId) {
        if let Some(slot) = self.slot_of(dyno)
            && let Some(dyno) = self.dynos[slot as usize].dyno.as_mut()
        {
            dyno.linger();
        }
    }

    /// When a request in line has waited long enough, if its line is not held (further). `None`: it is not in line.
    pub(crate) fn deadline(&self, ticket: TicketId) -> Option<Instant> {
        self.queue.get(ticket).map(|waiting| self.gate.time_of(waiting.deadline))
    }

    /// The client is gone: the request leaves the line. `false`: it was not in line.
    pub(crate) fn cancel(&mut self, now: Instant, ticket: TicketId) -> bool {
        let left = self.leave(now, ticket).is_some();
        self.tally.left += u64::from(left);
        left
    }

    /// The request's time is up: it leaves the line with this fault. `None`: it was not in line.
    pub(crate) fn expire(&mut self, now: Instant, ticket: TicketId) -> Option<Fault> {
        let waiting = self.leave(now, ticket)?;
        self.tally.refused += 1;
        Some(self.fault_of_waiting(&waiting))
    }

    /// Lets dynos out of quarantine whose time has come.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some((until, slot)) = self.until.first().copied()
            && until <= now
        {
            self.step_dyno(slot, Event::Again);
        }
    }

    /// When [`tick`](Self::tick) and [`next`](Self::next) have something to do by the clock alone.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let until = self.until.first().map(|(until, _)| *until);
        let until = until.into_iter().chain(self.wish_tick()).min();
        if self.gate.is_quiet() && self.crews.iter().all(|crew| crew.soon.is_empty()) {
            return until;
        }
        let opens = self.opens();
        let lanes = Lane::ALL.into_iter().flat_map(|lane| {
            let first = self.first(lane).map(|(_, first)| first);
            let late = first.filter(|first| self.gate.has_misled(first.number));
            let idle = opens.filter(|_| first.is_some() && !self.crew(lane).idle.is_empty());
            let soon = self.crew(lane).soon.first().filter(|_| self.is_desperate(lane));
            let soon = soon.map(|(soon, _)| opens.map_or(*soon, |opens| opens.max(*soon)));
            [late.map(|first| self.gate.time_of(first.deadline)), idle, soon]
        });
        lanes.flatten().chain(until).min()
    }

    /// What is to be done now. Call it after each input until it returns `None`.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Effect> {
        self.gate.settle(now);
        if let Some(gone) = self.gone.pop_front() {
            return Some(Effect::Gone(gone));
        }
        if self.queue.is_empty(Lane::Main) && self.queue.is_empty(Lane::Canary) {
            self.gate.nobody_waits();
            self.heeded.clear();
            return None;
        }
        self.end_wishes(now);
        if let Some(effect) = self.next_wish(now) {
            return Some(effect);
        }
        let [one, other] = if self.canary_is_first() { [Lane::Canary, Lane::Main] } else { Lane::ALL };
        self.next_for(one, now).or_else(|| self.next_for(other, now))
    }

    /// What is to be done now about who waits for the dynos of a lane.
    fn next_for(&mut self, server: Lane, now: Instant) -> Option<Effect> {
        let (ticket, first) = self.first(server)?;
        let first = *first;
        if self.closed {
            return self.refuse(now, ticket, Fault::NoSuchApp);
        }
        if self.crew(server).counts.all_present() == 0 {
            return self.refuse(now, ticket, Fault::NoDynos);
        }
        let line_now = self.gate.line_time(now);
        if first.deadline <= line_now {
            let fault = self.fault_of_waiting(&first);
            return self.refuse(now, ticket, fault);
        }
        if !self.crew(server).can_pick(now) || !self.is_open(now) {
            return None;
        }
        let shed = &self.crew(first.lane).shed;
        if first.failed.is_none() && shed.too_long_in_standing_line(&self.limits, first.since, line_now) {
            return self.refuse(now, ticket, Fault::Backlog(Backlog::StandingLine));
        }
        let slot = self.pick(server, now)?;
        self.leave(now, ticket);
        let Waiting { number, lane, arrived, since, bytes, tries, deadline, .. } = first;
        let patience = deadline.duration_since(line_now);
        let grant = self.grant(slot, Place { number, lane, arrived, since, bytes, tries, patience }, now);
        Some(Effect::Grant(ticket, grant))
    }

    /// How many wait, how many dynos have room: for those who look without the lock.
    pub(crate) fn gauges(&self) -> (usize, usize) {
        let [main, canary] = &self.crews;
        (self.queue.len(Lane::Main) + self.queue.len(Lane::Canary), main.idle.len() + canary.idle.len())
    }

    /// While a line is held there may be room for one request alone: then it is for the one who came first.
    fn canary_is_first(&self) -> bool {
        let number = |lane| self.first(lane).map(|(_, first)| first.number);
        !self.gate.is_quiet()
            && number(Lane::Canary).is_some_and(|canary| number(Lane::Main).is_none_or(|main| canary < main))
    }

    /// From when on a request may be dispatched, if the line is held.
    fn opens(&self) -> Option<Instant> {
        let [main, canary] = &self.crews;
        let in_flight = main.counts.in_flight + canary.counts.in_flight;
        self.gate.opens(in_flight, main.counts.slots + canary.counts.slots)
    }

    /// Whether a request may be dispatched.
    fn is_open(&self, now: Instant) -> bool {
        self.opens().is_none_or(|opens| opens <= now)
    }

    fn crew(&self, lane: Lane) -> &Crew {
        &self.crews[lane as usize]
    }

    /// Whose dynos serve the requests of a lane.
    fn server(&self, lane: Lane) -> Lane {
        match lane {
            Lane::Canary if self.crew(Lane::Canary).is_open() => Lane::Canary,
            Lane::Main | Lane::Canary => Lane::Main,
        }
    }

    /// Who is next for the dynos of a lane.
    fn first(&self, server: Lane) -> Option<(TicketId, &Waiting)> {
        let own = self.queue.first(server);
        if self.queue.is_empty(Lane::Canary) || self.server(Lane::Canary) == Lane::Canary {
            return own;
        }
        match server {
            Lane::Main => own.into_iter().chain(self.queue.first(Lane::Canary)).min_by_key(|(_, w)| w.number),
            Lane::Canary => None,
        }
    }

    /// The slot that serves next, out of the idle list. With nobody serving, a dyno leaves its quarantine early.
    fn pick(&mut self, server: Lane, now: Instant) -> Option<u32> {
        if !self.is_open(now) {
            return None;
        }
        let crew = &mut self.crews[server as usize];
        if let Some(slot) = crew.idle.pick() {
            return Some(slot);
        }
        let slot = crew.early(now)?;
        self.step_dyno(slot, Event::Again);
        self.crews[server as usize].idle.pick()
    }

    fn grant(&mut self, slot: u32, mut place: Place, now: Instant) -> Grant {
        place.tries += 1;
        self.tally.dispatched += 1;
        let seat = &mut self.dynos[slot as usize];
        let id = DynoId { slot, turn: seat.turn };
        let dyno = seat.dyno.as_mut().expect("the idle list names dynos that are there");
        dyno.grant();
        let info = Arc::clone(dyno.info());
        if dyno.room() > 0 {
            let (level, last) = (dyno.level(), dyno.is_last_choice());
            self.crews[dyno.lane() as usize].idle.add(slot, level, last);
        }
        self.crews[dyno.lane() as usize].counts.in_flight += 1;
        Grant { dyno: id, info, place, at: now, probe: false }
    }

    fn enter(
        &mut self,
        place: Place,
        deadline: Instant,
        failed: Option<Fault>,
        aside: Option<(u32, Instant)>,
        now: Instant,
    ) -> TicketId {
        let Place { number, lane, arrived, since, bytes, tries, .. } = place;
        // Who waits for one dyno alone does not make the line a standing one.
        if aside.is_none() {
            self.crews[lane as usize].shed.line_is(false, self.gate.line_time(now));
        }
        self.queue.enter(Waiting { arrived, since, deadline, bytes, number, lane, failed, tries, aside })
    }

    fn leave(&mut self, now: Instant, ticket: TicketId) -> Option<Waiting> {
        let waiting = self.queue.leave(ticket)?;
        let (empty, line_now) = (self.queue.first(waiting.lane).is_none(), self.gate.line_time(now));
        self.crews[waiting.lane as usize].shed.line_is(empty, line_now);
        Some(waiting)
    }

    /// All who wait for the dynos of a lane.
    fn line(&self, server: Lane) -> Line {
        let (mut requests, mut bytes) = (self.queue.len(server), self.queue.bytes(server));
        if self.server(Lane::Canary) == Lane::Main {
            requests += self.queue.len(Lane::Canary);
            bytes += self.queue.bytes(Lane::Canary);
        }
        Line { requests, bytes, slots: self.crew(server).counts.slots }
    }

    fn slot_of(&self, id: DynoId) -> Option<u32> {
        let seat = self.dynos.get(id.slot())?;
        (seat.turn == id.turn && seat.dyno.is_some()).then_some(id.slot)
    }
}
