//! Apps that are paused and resumed, seen from outside: nobody is dispatched in a pause, a resume keeps to its pace,
//! and the time of a hold counts against nobody's wait.

use std::time::Duration;

use router_core::change::{Change, Hold};
use router_core::fault::{Backlog, Fault};
use router_core::ids::AppId;
use router_core::snapshot::DynoState;

use super::dynos::Key;
use super::world::{Event, MS, Stage, World};

/// What has been done to one app, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    /// From the pause to the end of the resume.
    over: Vec<(u64, u64)>,
    /// The present or last one: since when, when the pause ends, when the resume ends.
    last: Option<(u64, u64, u64)>,
}

impl Holds {
    fn settle(&mut self, now: u64) {
        if let Some((since, _, end)) = self.last.take_if(|(_, _, end)| *end <= now) {
            self.over.push((since, end));
        }
    }

    fn pause(&mut self, now: u64, at_most: u64, over: u64) {
        self.settle(now);
        let since = self.last.map_or(now, |(since, _, _)| since);
        self.last = Some((since, now + at_most, now + at_most + over));
    }

    pub(crate) fn resume(&mut self, now: u64, over: u64) {
        self.settle(now);
        if let Some((_, until, end)) = &mut self.last {
            *until = now.min(*until);
            *end = now.max(*until + over);
        }
        self.settle(now);
    }

    pub(crate) fn is_held(&self, now: u64) -> bool {
        self.last.is_some_and(|(_, _, end)| now < end)
    }

    /// How much of that time did not count as waiting.
    fn overlap(&self, from: u64, to: u64) -> u64 {
        let last = self.last.map(|(since, _, end)| (since, end));
        let all = self.over.iter().copied().chain(last);
        all.map(|(since, end)| end.min(to).saturating_sub(since.max(from))).sum()
    }
}

impl World {
    /// Pauses or resumes an app, or puts it into maintenance for a while.
    pub(crate) fn hold(&mut self, app: usize) {
        let (long, over) = (self.rng.u64(1..300) * MS, self.rng.u64(..100) * MS);
        let time = Duration::from_nanos;
        let hold = match self.rng.u32(..4) {
            0..=1 => {
                self.holds[app].pause(self.now, long, over);
                Hold::Pause { at_most: time(long), over: time(over) }
            }
            2 => {
                self.holds[app].resume(self.now, over);
                Hold::Resume { over: time(over) }
            }
            _ => {
                self.at(long / 4, Event::Opens(app));
                Hold::Maintenance(true)
            }
        };
        self.totals.holds += 1;
        self.apply(&[Change::Hold(id(app), hold)]);
    }

    pub(crate) fn end_maintenance(&self, app: usize) {
        if self.apps[app] {
            self.apply(&[Change::Hold(id(app), Hold::Maintenance(false))]);
        }
    }

    /// A request begins to wait: how long it may.
    pub(crate) fn patience(&self, app: usize, deadline: u64) -> u64 {
        deadline - self.now - self.holds[app].overlap(self.now, u64::MAX)
    }

    /// A request of that app gets a dyno.
    pub(crate) fn check_pace(&self, app: usize) {
        let Some((_, until, end)) = self.holds[app].last.filter(|(_, _, end)| self.now < *end) else {
            return;
        };
        assert!(self.now >= until, "app {app} is paused, and a request gets a dyno");
        let Some(seen) = self.router.app(&id(app)).map(|app| app.snapshot()) else { return };
        let in_flight: u32 = seen.dynos.iter().map(|dyno| dyno.in_flight).sum();
        let takes =
            seen.dynos.iter().filter(|d| !matches!(d.state, DynoState::Draining | DynoState::Crashed));
        let slots: u64 = takes.map(|dyno| u64::from(dyno.concurrency)).sum();
        let most = 1 + (slots.max(1) - 1) * (self.now - until) / (end - until);
        assert!(u64::from(in_flight) <= most, "app {app} resumes: {in_flight} in flight, {most} may be");
    }

    /// A request was taken out of the line: was it its time?
    pub(crate) fn check_patience(&self, key: Key, fault: Fault) {
        let request = &self.requests[key.slot as usize];
        let app = request.app;
        let Some((entered, patience)) = request.waits else { return };
        let counted = |from: u64| self.now - from - self.holds[app].overlap(from, self.now);
        let waited = counted(entered);
        if fault == Fault::Backlog(Backlog::StandingLine) {
            assert!(waited > 2500 * MS, "who was held is refused for the age of the line");
        } else if !matches!(fault, Fault::NoDynos | Fault::NoSuchApp) {
            assert!(waited >= patience, "{fault} after {waited} ns of {patience}, the holds not counted");
        }
    }

    /// The request's time may be up, unless a hold has moved that.
    pub(crate) fn deadline(&mut self, key: Key) {
        let now = self.start + Duration::from_nanos(self.now);
        let ends = |stage: &Stage| if let Stage::InLine(ticket) = stage { ticket.deadline() } else { None };
        let Some(at) = self.request(key).and_then(|request| ends(&request.stage)) else { return };
        if at > now {
            let later = (at - now).as_nanos() as u64;
            return self.at(later, Event::Deadline(key.slot, key.turn));
        }
        let Some(Stage::InLine(ticket)) = self.take(key) else { return };
        match ticket.expire() {
            Ok(lease) => self.granted(key, lease),
            Err(fault) => self.refused(key, fault),
        }
    }
}

fn id(app: usize) -> AppId {
    app.to_string().as_str().into()
}
