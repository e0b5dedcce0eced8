//! The end of a seed: nothing is left, nothing is lost, and all capacity is there.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use router_core::Outcome;

use super::totals::Totals;
use super::world::World;

impl World {
    /// Nothing is left: all capacity is there, and each request ended once.
    pub(crate) fn finish(&mut self) -> Totals {
        self.totals.overlaps = self.dynos.overlaps;
        let Totals { requests, served, failed, refused, timed_out, gone, .. } = self.totals;
        assert_eq!(requests, served + failed + refused + timed_out + gone, "each request ends once");
        for app in &self.router.snapshot().apps {
            self.totals.ejected += app.ejected;
            assert_eq!((app.waiting, app.waiting_bytes), (0, 0), "nobody is left in the line of {}", app.id);
            assert!(app.dynos.iter().all(|dyno| dyno.in_flight == 0), "no dyno is busy: {app:?}");
        }
        let owners = self.owners.clone();
        for app in 0..self.apps.len() {
            let mine: Vec<_> = owners.iter().filter(|(_, owner)| **owner == app).map(|(p, _)| *p).collect();
            let capacity: u32 = mine.iter().map(|port| self.dynos.get(*port).concurrency).sum();
            // The first round ends all doubt about dynos that have failed.
            self.fill(app);
            assert_eq!(self.fill(app), capacity as usize, "the capacity of app {app} is whole");
        }
        assert_eq!(self.totals.overlaps, 0, "a dyno got a request while it had as many as it takes");
        self.totals
    }

    fn fill(&self, app: usize) -> usize {
        let Ok(app) = self.router.route(&format!("{app}.test"), "/") else { return 0 };
        let mut leases = Vec::new();
        while let Ok(mut ticket) = self.router.ticket(&app, 0) {
            let Poll::Ready(Ok(lease)) = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()))
            else {
                break;
            };
            leases.push(lease);
        }
        let most = leases.len();
        leases.into_iter().for_each(|lease| lease.check_in(Outcome::Served));
        most
    }
}
