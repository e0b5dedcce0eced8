//! Probes in the simulation: leases on given dynos between the requests, and what they say; and dynos that answer at
//! once that they cannot.

use router_core::Outcome;
use router_core::ids::{Address, AppId};

use super::dynos::Key;
use super::world::{Event, MS, World};

impl World {
    /// Some dyno is probed, if it can be, and the next one will be.
    pub(crate) fn probe(&mut self) {
        if self.left == 0 {
            return;
        }
        let next = self.draw(4 * MS);
        self.at(next, Event::Probe);
        let Some((port, app)) = self.any_port() else { return };
        let Some(app_ref) = self.router.app(&id(app)) else { return };
        let Some(lease) = self.router.try_lease_dyno(&app_ref, address(port)) else { return };
        assert!(!self.holds[app].is_held(self.now), "a held app is not probed");
        self.totals.probes += 1;
        let turn = u64::MAX - self.totals.probes;
        self.note("probes", turn, port);
        // Reached or not: what overlaps is counted there.
        self.dynos.send(port, Key { slot: u32::MAX, turn });
        self.probes.insert(turn, (lease, port, app));
        let answer = self.draw(MS);
        self.at(answer, Event::Probed(turn));
    }

    /// A probe has its answer.
    pub(crate) fn probed(&mut self, turn: u64) {
        let Some((lease, port, app)) = self.probes.remove(&turn) else { return };
        let dyno = self.dynos.get(port);
        let good = dyno.up && !dyno.refuses && !dyno.sick;
        self.dynos.done(port, Key { slot: u32::MAX, turn });
        lease.check_in(Outcome::Served);
        if let Some(app_ref) = self.router.app(&id(app)) {
            self.router.probed(&app_ref, address(port), good);
        }
    }

    /// The dyno answers at once that it cannot, for a while.
    pub(crate) fn sickness(&mut self, port: u16) {
        self.dynos.get(port).sick = true;
        let long = self.rng.u64(1..500) * MS;
        self.at(long, Event::Cured(port));
    }

    /// How long the dyno takes for a request, and how it ends.
    pub(crate) fn service(&mut self, port: u16, hangs: bool) -> (u64, Outcome) {
        match (self.dynos.get(port).sick, hangs) {
            (true, _) => (MS / 10, Outcome::Errored),
            (false, true) => (self.draw(4000 * MS), Outcome::Served),
            (false, false) => (self.draw(10 * MS), Outcome::Served),
        }
    }
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

fn id(app: usize) -> AppId {
    app.to_string().as_str().into()
}
