//! Time for the ring without a runtime: waits for a ticket no longer than its deadline, and keeps the alarm.

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::fault::Fault;
use crate::router::{Lease, Router, Ticket};

/// Waits for the request's turn, until its deadline, which moves while its line is held, and no longer than its client
/// waits.
pub(crate) async fn wait(mut ticket: Ticket, overdue: Option<std::time::Instant>) -> Result<Lease, Fault> {
    loop {
        let deadline = ticket.deadline();
        let Some(until) = deadline.into_iter().chain(overdue).min() else { return ticket.await };
        tokio::select! {
            // A turn that has come counts, however late it is noticed.
            biased;
            lease = &mut ticket => return lease,
            () = sleep_until(Instant::from_std(until)) => {}
        }
        let is_overdue = overdue.is_some_and(|overdue| overdue <= until);
        if is_overdue || ticket.deadline().is_none_or(|now| now <= until) {
            return ticket.expire();
        }
    }
}

/// The task that lets dynos out of quarantine; it ends with this.
#[derive(Debug)]
pub(crate) struct Timekeeper(JoinHandle<()>);

impl Timekeeper {
    pub(crate) fn start(router: Router) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let Some(next) = router.tick() else {
                    router.alarm_moved().await;
                    continue;
                };
                tokio::select! {
                    () = sleep_until(Instant::from_std(next)) => {}
                    () = router.alarm_moved() => {}
                }
            }
        }))
    }
}

impl Drop for Timekeeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}
