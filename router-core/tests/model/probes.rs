//! Probes in the model test: leases on one given dyno; and leases that linger.

use router_core::canary::Lane;
use router_core::ids::AppId;

use super::harness::{Harness, Held};
use super::ops;
use super::reference::{News, Waiting};

impl Harness {
    pub(crate) fn linger(&mut self, at: usize) {
        let held = &mut self.leases[at];
        held.lease.linger();
        if std::mem::replace(&mut held.lingers, true) {
            return;
        }
        let (app, address) = (held.app.clone(), held.address);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        self.world.app(&app).linger(address);
        self.world.finish(&app, &seen, &mut news);
        self.check(&seen, news);
    }

    /// Asks for a lease on one given dyno.
    pub(crate) fn probe(&mut self, app: &AppId, dyno: u8) {
        let address = ops::address(dyno);
        let Ok(app_ref) = self.router.route(&format!("{app}.test"), "/") else { return };
        let lease = self.router.try_lease_dyno(&app_ref, address);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let may = self.world.app(app).probe(address);
        self.world.finish(app, &seen, &mut news);
        assert_eq!(lease.is_some(), may, "a dyno that is idle while nobody waits can be probed");
        if let Some(lease) = lease {
            self.granted(address);
            assert_eq!(lease.dyno().address, address);
            let (app, now) = (app.clone(), self.world.now);
            let since = self.world.app(&app).gate.clock;
            #[rustfmt::skip]
            let waiting = Waiting {
                request: 0, lane: Lane::Main, arrived: now, since, deadline: now, bytes: 0, failed: None, tries: 1,
            };
            self.leases.push(Held {
                waiting,
                app,
                address,
                lease,
                lingers: false,
                upgraded: false,
                probe: true,
            });
        }
        self.check(&seen, news);
    }

    /// Says what a probe has found.
    pub(crate) fn probed(&mut self, app: &AppId, dyno: u8, good: bool) {
        let address = ops::address(dyno);
        let Ok(app_ref) = self.router.route(&format!("{app}.test"), "/") else { return };
        let probed = self.router.probed(&app_ref, address, good);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let now = self.world.now;
        assert_eq!(probed, self.world.app(app).probed(address, good, now), "what a probe changes");
        self.world.finish(app, &seen, &mut news);
        self.check(&seen, news);
    }
}
