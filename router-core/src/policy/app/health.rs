//! How the end of a request changes what is thought of its dyno; and probes: one dyno is asked how it is, as one of its
//! requests, so that a probe never overlaps with another.
//!
//! A probe takes the dyno's slot and gives it back as a request does. It counts for nothing else: not as dispatched,
//! not in the service time, and the dyno is then the last choice among its equals, so that probes of idle dynos do not
//! mix up who was busy last. What it says of the dyno is told apart, by [`App::probed`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{App, Ending, Grant, Place};
use crate::canary::Lane;
use crate::ids::{Address, DynoId};
use crate::policy::dyno::{Dyno, Event, Standing};
use crate::policy::health::{Outcome, Probed};

impl App {
    /// A request in flight has ended and the dyno is free of it.
    pub(crate) fn check_in(&mut self, now: Instant, dyno: DynoId, ending: Ending) {
        let Ending { held, lingered, outcome } = ending;
        let Some(slot) = self.slot_of(dyno) else { return };
        let Some(lane) = self.lane_of(slot) else { return };
        let crew = &mut self.crews[lane as usize];
        if outcome != Outcome::Unused {
            crew.shed.served(held, outcome == Outcome::Served);
        }
        let (usual, may_lose_one) = (crew.shed.usual_time(), crew.may_lose_one(&self.limits));
        let mut ejected = false;
        self.with_dyno(slot, |dyno, limits| {
            dyno.check_in(lingered);
            if dyno.ended(outcome, held, usual, limits) && may_lose_one {
                ejected = dyno.is_serving();
                dyno.step(Event::FailsFast(now), limits);
            }
        });
        self.tally.ejected += u64::from(ejected);
    }

    /// The dyno of a request in flight has changed the protocol. That is a good answer, and the dyno has room for the
    /// next request if it may hold this one beside.
    pub(crate) fn upgrade(&mut self, dyno: DynoId, held: Duration) {
        let Some(slot) = self.slot_of(dyno) else { return };
        let Some(lane) = self.lane_of(slot) else { return };
        self.crews[lane as usize].shed.served(held, true);
        self.with_dyno(slot, |dyno, limits| {
            dyno.upgrade();
            dyno.ended(Outcome::Served, held, None, limits);
        });
    }

    /// An upgraded request has ended. How long it lasted is no service time.
    pub(crate) fn end_upgraded(&mut self, dyno: DynoId, lingered: bool) {
        if let Some(slot) = self.slot_of(dyno) {
            self.with_dyno(slot, |dyno, _| dyno.end_upgraded(lingered));
        }
    }

    /// Whether the dyno leaves, or is gone.
    pub(crate) fn leaves(&self, dyno: DynoId) -> bool {
        let seat = self.slot_of(dyno).and_then(|slot| self.dynos[slot as usize].dyno.as_ref());
        seat.is_none_or(|dyno| dyno.standing() == Standing::Draining)
    }

    fn lane_of(&self, slot: u32) -> Option<Lane> {
        self.dynos[slot as usize].dyno.as_ref().map(Dyno::lane)
    }

    /// The dyno's slot, if the dyno is idle, takes requests, and nobody waits; or if it gets none because it is ill.
    /// Not while another router has it, nor while the line is held: what an app is paused for may well look like an
    /// illness of its dynos.
    pub(crate) fn probe(&mut self, now: Instant, address: Address) -> Option<Grant> {
        let slot = self.by_address.get(&address).copied()?;
        let seat = &self.dynos[slot as usize];
        let free = seat.dyno.as_ref().filter(|dyno| {
            let nobody_waits = || self.first(dyno.lane()).is_none();
            dyno.is_here() && dyno.load() == 0 && (dyno.is_unhealthy() || (dyno.room() > 0 && nobody_waits()))
        });
        let dyno = free.filter(|_| !self.gate.is_held(now))?;
        let (id, info) = (DynoId { slot, turn: seat.turn }, Arc::clone(dyno.info()));
        self.with_dyno(slot, |dyno, _| dyno.begin_probe());
        let since = self.gate.line_time(now);
        let (lane, patience) = (Lane::Main, Duration::ZERO);
        let place = Place { number: 0, lane, arrived: now, since, bytes: 0, tries: 1, patience };
        Some(Grant { dyno: id, info, place, at: now, probe: true })
    }

    /// The probe no longer holds the dyno.
    pub(crate) fn end_probe(&mut self, dyno: DynoId, lingered: bool) {
        if let Some(slot) = self.slot_of(dyno) {
            self.with_dyno(slot, |dyno, _| dyno.end_probe(lingered));
        }
    }

    /// What a probe says of the dyno.
    pub(crate) fn probed(&mut self, now: Instant, address: Address, good: bool) -> Probed {
        let Some(slot) = self.by_address.get(&address).copied() else { return Probed::Same };
        let Some(lane) = self.lane_of(slot) else { return Probed::Same };
        let may_lose_one = self.crew(lane).may_lose_one(&self.limits);
        let mut probed = Probed::Same;
        self.with_dyno(slot, |dyno, limits| probed = dyno.probed(good, may_lose_one, now, limits));
        probed
    }
}
