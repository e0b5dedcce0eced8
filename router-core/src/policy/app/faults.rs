//! Why a request is not served.

use std::time::Instant;

use super::{App, Effect, Waiting};
use crate::canary::Lane;
use crate::fault::{Backlog, Fault};
use crate::ids::TicketId;

impl App {
    pub(super) fn refuse(&mut self, now: Instant, ticket: TicketId, fault: Fault) -> Option<Effect> {
        self.leave(now, ticket)?;
        self.tally.refused += 1;
        Some(Effect::Refuse(ticket, fault))
    }

    /// Only dynos in quarantine or unhealthy ones are left to serve who waits for the dynos of a lane.
    pub(super) fn is_desperate(&self, server: Lane) -> bool {
        let counts = &self.crew(server).counts;
        counts.serving == 0 && counts.quarantined + counts.unhealthy > 0 && self.first(server).is_some()
    }

    /// Why it makes no sense at all to wait for the dynos of a lane.
    pub(super) fn nobody_can_serve(&self, server: Lane) -> Option<Fault> {
        let counts = &self.crew(server).counts;
        if self.closed {
            Some(Fault::NoSuchApp)
        } else if counts.all_present() == 0 {
            Some(Fault::NoDynos)
        } else if counts.crashed == counts.all_present() {
            Some(Fault::AppCrashed)
        } else {
            None
        }
    }

    /// Why a request whose time is up was not served.
    pub(super) fn fault_of_waiting(&self, waiting: &Waiting) -> Fault {
        let server = self.server(waiting.lane);
        let counts = &self.crew(server).counts;
        if let Some(fault) = waiting.failed.or_else(|| self.nobody_can_serve(server)) {
            fault
        } else if counts.serving > 0 {
            Fault::Backlog(Backlog::MaxWait)
        } else if counts.quarantined + counts.unhealthy > 0 {
            Fault::Quarantined
        } else {
            Fault::BootTimeout
        }
    }
}
