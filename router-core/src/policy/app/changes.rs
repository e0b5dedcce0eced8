//! What the control plane does to an app, and the one function through which every dyno changes.

use std::time::Instant;

use super::{App, Counts, Gone, Seat, Tally};
use crate::canary::Lane;
use crate::change::{DynoHealth, DynoSpec, Hold};
use crate::ids::{Address, AppId, DynoId, ReleaseId};
use crate::limits::Limits;
use crate::policy::dispatch::Idle;
use crate::policy::dyno::{Dyno, Event, Standing};
use crate::snapshot::AppSnapshot;

impl App {
    /// New limits and release; line, dynos and requests stay as they are. An app that was going is back.
    pub(crate) fn put(&mut self, limits: Limits, release: ReleaseId, seed: u64) {
        self.closed = false;
        self.release = release;
        let (reorder, streams) = (limits.order != self.limits.order, limits.streams != self.limits.streams);
        self.limits = limits;
        if reorder {
            for crew in &mut self.crews {
                crew.idle = Idle::new(self.limits.order, seed);
            }
            for slot in 0..self.dynos.len() as u32 {
                self.settle(slot);
            }
        }
        for slot in (0..self.dynos.len() as u32).filter(|_| streams) {
            self.with_dyno(slot, |dyno, limits| dyno.allow_streams(limits.streams));
        }
    }

    /// Adds a dyno, or takes one back that was leaving. `epoch` is handed out again when this dyno is gone.
    pub(crate) fn add(&mut self, spec: &DynoSpec, epoch: u64) {
        if let Some(slot) = self.by_address.get(&spec.address).copied() {
            let release = self.release.clone();
            self.with_dyno(slot, |dyno, limits| {
                dyno.rename(spec, &release, epoch);
                dyno.step(Event::Returns(spec.state), limits);
            });
            return;
        }
        let mut dyno = Dyno::new(spec, &self.release, epoch);
        dyno.allow_streams(self.limits.streams);
        self.crews[dyno.lane() as usize].counts.change(&dyno, 1);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.dynos[slot as usize].dyno = Some(dyno);
                slot
            }
            None => {
                self.dynos.push(Seat { turn: 0, dyno: Some(dyno) });
                (self.dynos.len() - 1) as u32
            }
        };
        self.by_address.insert(spec.address, slot);
        self.settle(slot);
    }

    /// The dyno gets no further request and goes once it has none. `false`: there is no such dyno.
    pub(crate) fn remove(&mut self, address: Address) -> bool {
        let Some(slot) = self.by_address.get(&address).copied() else { return false };
        self.step_dyno(slot, Event::Leaves);
        true
    }

    /// The dyno's process is that far. `false`: there is no such dyno.
    pub(crate) fn set(&mut self, address: Address, health: DynoHealth) -> bool {
        let Some(slot) = self.by_address.get(&address).copied() else { return false };
        self.step_dyno(slot, Event::Is(health));
        true
    }

    /// The line is paused or resumed, or new requests are refused.
    pub(crate) fn hold(&mut self, hold: Hold, now: Instant) {
        self.gate.set(hold, now, self.queue.last_number());
    }

    /// Another router has the dyno from now on, or no longer. Says whether a request is in flight on it; `None`: there
    /// is no such dyno.
    pub(crate) fn lend(&mut self, address: Address, lent: bool) -> Option<(DynoId, bool)> {
        let slot = self.by_address.get(&address).copied()?;
        self.with_dyno(slot, |dyno, _| dyno.lend(lent));
        let seat = &self.dynos[slot as usize];
        let busy = seat.dyno.as_ref().is_some_and(|dyno| dyno.in_flight() > 0);
        Some((DynoId { slot, turn: seat.turn }, busy))
    }

    /// The app goes: its line is refused, its dynos leave.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closed = true;
        self.gate.open(now, self.queue.last_number());
        for slot in 0..self.dynos.len() as u32 {
            self.step_dyno(slot, Event::Leaves);
        }
    }

    /// Whether the app was closed and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        self.closed && self.by_address.is_empty() && self.gauges().0 == 0
    }

    /// Makes a dyno's move.
    pub(super) fn step_dyno(&mut self, slot: u32, event: Event) {
        self.with_dyno(slot, |dyno, limits| dyno.step(event, limits));
    }

    /// The one way a dyno changes, grants aside: counts, quarantine times and the idle list follow it, and a dyno
    /// that nothing keeps any more goes.
    pub(super) fn with_dyno(&mut self, slot: u32, change: impl FnOnce(&mut Dyno, &Limits)) {
        let Some(dyno) = self.dynos[slot as usize].dyno.as_mut() else { return };
        let crew = &mut self.crews[dyno.lane() as usize];
        crew.counts.change(dyno, -1);
        crew.idle.remove(slot);
        if let Standing::Quarantined { until, .. } = dyno.standing() {
            self.until.remove(&(until, slot));
        }
        if let Some(soon) = dyno.soon() {
            crew.soon.remove(&(soon, slot));
        }
        change(dyno, &self.limits);
        let crew = &mut self.crews[dyno.lane() as usize];
        crew.counts.change(dyno, 1);
        if let Standing::Quarantined { until, .. } = dyno.standing() {
            self.until.insert((until, slot));
        }
        if let Some(soon) = dyno.soon() {
            crew.soon.insert((soon, slot));
        }
        self.settle(slot);
        let canary = &mut self.crews[Lane::Canary as usize];
        if !canary.is_open() {
            // The next canary is another release.
            canary.shed.forget();
        }
        self.heed(slot);
    }

    /// Puts a dyno that has room into the idle list of its lane, and lets the dyno go if nothing keeps it.
    fn settle(&mut self, slot: u32) {
        let seat = &mut self.dynos[slot as usize];
        let Some(dyno) = seat.dyno.as_ref() else { return };
        let crew = &mut self.crews[dyno.lane() as usize];
        if dyno.room() > 0 {
            crew.idle.add(slot, dyno.level(), dyno.is_last_choice());
        }
        if dyno.is_gone() {
            let id = DynoId { slot, turn: seat.turn };
            let address = dyno.info().address;
            self.gone.push_back(Gone { id, address, epoch: dyno.epoch() });
            crew.counts.change(dyno, -1);
            self.by_address.remove(&address);
            seat.dyno = None;
            seat.turn = seat.turn.wrapping_add(1);
            self.free.push(slot);
        }
    }

    /// The app as it is now.
    pub(crate) fn snapshot(&self, id: &AppId, now: Instant) -> AppSnapshot {
        let Tally { dispatched, refused, left, ejected } = self.tally;
        let first = |lane| {
            let first = self.queue.first(lane).into_iter().chain(self.queue.first_aside(lane));
            first.map(|(_, waiting)| now.duration_since(waiting.arrived)).max()
        };
        AppSnapshot {
            id: id.clone(),
            release: self.release.clone(),
            waiting: self.gauges().0,
            waiting_canary: self.queue.len(Lane::Canary),
            waiting_bytes: self.queue.bytes(Lane::Main) + self.queue.bytes(Lane::Canary),
            oldest_wait: Lane::ALL.into_iter().filter_map(first).max().unwrap_or_default(),
            service_time: self.crew(Lane::Main).shed.service_time(),
            dispatched,
            refused,
            left,
            ejected,
            held: self.gate.snapshot(now),
            maintenance: self.gate.maintenance,
            dynos: self
                .by_address
                .values()
                .filter_map(|slot| Some(self.dynos[*slot as usize].dyno.as_ref()?.snapshot()))
                .collect(),
        }
    }

    /// What a client that is refused now should be told to wait: the line's expected wait, 1 to 60 s.
    pub(crate) fn retry_after(&self) -> u64 {
        let secs = self.crew(Lane::Main).shed.expected_wait(self.line(Lane::Main)).as_secs_f64().ceil();
        secs.clamp(1.0, 60.0) as u64
    }

    /// Panics if the app is not as the head of `app.rs` says. O(n): for tests and debug builds, after
    /// [`next`](App::next) has returned `None`.
    pub(crate) fn check_invariants(&self, now: Instant) {
        self.queue.check_invariants();
        let (mut counts, mut early) = ([Counts::default(); 2], [0; 2]);
        for (slot, seat) in self.dynos.iter().enumerate() {
            let slot = slot as u32;
            let Some(dyno) = &seat.dyno else {
                assert!(!self.crews.iter().any(|crew| crew.idle.contains(slot)), "an empty seat is not idle");
                continue;
            };
            dyno.check_invariants();
            counts[dyno.lane() as usize].change(dyno, 1);
            for lane in Lane::ALL {
                let room = dyno.room() > 0 && dyno.lane() == lane;
                assert_eq!(self.crew(lane).idle.contains(slot), room, "idle exactly while there is room");
            }
            assert_eq!(
                self.by_address.get(&dyno.info().address),
                Some(&slot),
                "a dyno is found by its address"
            );
            if let Standing::Quarantined { until, .. } = dyno.standing() {
                assert!(self.until.contains(&(until, slot)), "quarantine has its end");
            }
            if let Some(soon) = dyno.soon() {
                assert!(
                    self.crew(dyno.lane()).soon.contains(&(soon, slot)),
                    "who may be tried early is known"
                );
                early[dyno.lane() as usize] += 1;
            }
        }
        let line_now = self.gate.line_time(now);
        let quarantined = counts.iter().map(|counts| counts.quarantined as usize).sum::<usize>();
        assert_eq!(self.until.len(), quarantined, "no times without quarantine");
        for (lane, counts) in Lane::ALL.into_iter().zip(counts) {
            let crew = self.crew(lane);
            assert_eq!(counts, crew.counts, "the counts are those of the dynos");
            assert_eq!(crew.soon.len(), early[lane as usize], "nobody else may be tried early");
            let first_can_go = self.first(lane).is_some_and(|(_, first)| first.deadline > line_now);
            let rests = crew.idle.is_empty() || !self.is_open(now);
            assert!(!first_can_go || rests, "nobody waits while a dyno has room");
        }
        self.check_wishes(now);
        let waits = |lane| self.first(lane).is_some() || self.queue.first_aside(lane).is_some();
        let served = Lane::ALL.into_iter().any(waits);
        assert_eq!(served, self.gauges().0 > 0, "whoever waits, waits for somebody");
    }
}
