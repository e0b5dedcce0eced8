//! How many requests there were, how many failed, and how long they held their dynos: one release against another.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use router_core::fault::Blame;
use router_core::policy::deploy::Tally;
use router_core::proxy::{End, Record};

/// Counts that many threads add to.
#[derive(Default)]
pub struct Total {
    requests: AtomicU64,
    faults: AtomicU64,
    /// Microseconds.
    service: AtomicU64,
}

impl Total {
    /// Adds a request that is over and was given to a dyno.
    pub fn add(&self, record: &Record) {
        let micros = u64::try_from(record.service.as_micros()).unwrap_or(u64::MAX);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.service.fetch_add(micros, Ordering::Relaxed);
        // Of a WebSocket on which nobody says anything, nothing can be said.
        let silent = record.upgraded.is_some_and(|upgraded| upgraded.end == End::Idle);
        // An answer of 500 is served well as far as the router goes; for a release it is a failure.
        let failed = match record.fault {
            Some(fault) => fault.blame() == Blame::App && !silent,
            None => (500..600).contains(&record.status),
        };
        if failed {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that was added.
    pub fn read(&self) -> Tally {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let service = Duration::from_micros(of(&self.service));
        Tally { requests: of(&self.requests), faults: of(&self.faults), service }
    }

    /// What was added since the last time it was taken.
    pub fn take(&self) -> Tally {
        let take = |number: &AtomicU64| number.swap(0, Ordering::Relaxed);
        let service = Duration::from_micros(take(&self.service));
        Tally { requests: take(&self.requests), faults: take(&self.faults), service }
    }
}

impl fmt::Debug for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}
