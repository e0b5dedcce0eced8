//! Probes: one dyno is asked how it is, as one of its requests, so that a probe never overlaps with another.
//!
//! A probe takes the dyno's slot and gives it back as a request does. It counts for nothing else: not as dispatched,
//! not in the service time, not as a sign that the dyno is well or not; and the dyno is then the last choice among
//! its equals, so that probes of idle dynos do not mix up who was busy last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{App, Grant, Place};
use crate::ids::{Address, DynoId};

impl App {
    /// The dyno's slot, if the dyno is idle, takes requests, and nobody waits. Not while the line is held: what an app
    /// is paused for may well look like an illness of its dynos.
    pub(crate) fn probe(&mut self, now: Instant, address: Address) -> Option<Grant> {
        let slot = self.by_address.get(&address).copied()?;
        let seat = &self.dynos[slot as usize];
        let dyno = seat.dyno.as_ref().filter(|dyno| dyno.in_flight() == 0 && dyno.room() > 0)?;
        if !self.queue.is_empty() || self.gate.is_held(now) {
            return None;
        }
        let (id, info) = (DynoId { slot, turn: seat.turn }, Arc::clone(dyno.info()));
        self.with_dyno(slot, |dyno, _| dyno.begin_probe());
        let since = self.gate.line_time(now);
        let place = Place { number: 0, arrived: now, since, bytes: 0, tries: 1, patience: Duration::ZERO };
        Some(Grant { dyno: id, info, place, at: now, probe: true })
    }

    /// The probe is over.
    pub(crate) fn end_probe(&mut self, dyno: DynoId, lingered: bool) {
        if let Some(slot) = self.slot_of(dyno) {
            self.with_dyno(slot, |dyno, _| dyno.end_probe(lingered));
        }
    }
}
