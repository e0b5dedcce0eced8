//! What the reference thinks of a dyno when a request or a probe ends.

use std::time::Duration;

use router_core::canary::Lane;
use router_core::ids::Address;
use router_core::{Outcome, Probed};

use super::dyno::Standing;
use super::reference::App;

impl App {
    pub(crate) fn check_in(
        &mut self,
        address: Address,
        held: Duration,
        lingered: bool,
        outcome: Outcome,
        now: Duration,
    ) {
        let lane = self.dyno(address).lane;
        if outcome != Outcome::Unused {
            smooth(&mut self.service[lane as usize], held);
        }
        if outcome == Outcome::Served {
            smooth(&mut self.usual[lane as usize], held);
        }
        let (mean, samples) = self.usual[lane as usize];
        let usual = (samples > 0.0).then_some(mean);
        let (limits, may_lose_one) = (self.limits.clone(), self.may_lose_one(lane));
        let dyno = self.dyno(address);
        dyno.in_flight -= 1;
        dyno.lingering -= u32::from(lingered);
        if dyno.ended(outcome, held, usual, &limits) && may_lose_one && dyno.standing == Standing::Serving {
            dyno.quarantine(now, true, &limits);
            dyno.bad.clear();
            self.tally[3] += 1;
        }
        self.sweep();
    }

    /// The dyno has changed the protocol of a request.
    pub(crate) fn upgrade(&mut self, address: Address, held: Duration) {
        let lane = self.dyno(address).lane;
        smooth(&mut self.service[lane as usize], held);
        smooth(&mut self.usual[lane as usize], held);
        let limits = self.limits.clone();
        let dyno = self.dyno(address);
        dyno.upgraded += 1;
        dyno.ended(Outcome::Served, held, None, &limits);
    }

    pub(crate) fn end_upgraded(&mut self, address: Address, lingered: bool) {
        let dyno = self.dyno(address);
        (dyno.in_flight, dyno.upgraded) = (dyno.in_flight - 1, dyno.upgraded - 1);
        dyno.lingering -= u32::from(lingered);
        self.sweep();
    }

    /// Whether one more of a lane that serves may be taken out: no more than `eject_max` percent may be.
    fn may_lose_one(&self, lane: Lane) -> bool {
        let serving = self.crew(lane).filter(|dyno| dyno.standing == Standing::Serving).count();
        let out = self.crew(lane).filter(|dyno| dyno.is_out()).count();
        (out + 1) * 100 <= self.limits.eject_max as usize * (serving + out)
    }

    pub(crate) fn probed(&mut self, address: Address, good: bool, now: Duration) -> Probed {
        let Some(lane) = self.dynos.iter().find(|dyno| dyno.spec.address == address).map(|dyno| dyno.lane)
        else {
            return Probed::Same;
        };
        let (limits, may_lose_one) = (self.limits.clone(), self.may_lose_one(lane));
        let probed = self.dyno(address).probed(good, may_lose_one, now, &limits);
        self.sweep();
        probed
    }

    /// Takes the dyno's slot for a probe, if nobody is in the way.
    pub(crate) fn probe(&mut self, address: Address) -> bool {
        let Some(dyno) = self.dynos.iter().find(|dyno| dyno.spec.address == address) else { return false };
        let free = dyno.room() > 0 && self.first(dyno.lane).is_none();
        let may = dyno.load() == 0 && (dyno.is_ill() || free) && !self.gate.is_held();
        if may {
            let dyno = self.dyno(address);
            (dyno.in_flight, dyno.probing) = (dyno.in_flight + 1, true);
        }
        may
    }

    pub(crate) fn end_probe(&mut self, address: Address, lingered: bool) {
        let dyno = self.dyno(address);
        (dyno.in_flight, dyno.probing) = (dyno.in_flight - 1, false);
        dyno.lingering -= u32::from(lingered);
        self.sweep();
    }
}

fn smooth((mean, samples): &mut (f64, f64), held: Duration) {
    *samples = (*samples + 1.0).min(32.0);
    *mean += (held.as_secs_f64() - *mean) / *samples;
}
