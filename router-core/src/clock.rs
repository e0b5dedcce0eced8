//! The one place in this crate that reads the time. Tests and simulations bring their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where a [`Router`](crate::Router) takes the time from: the system, or a hand that a test moves.
///
/// ```
/// use router_core::clock::Clock;
/// use std::time::Duration;
///
/// let clock = Clock::manual();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3));
/// assert_eq!(clock.now() - before, Duration::from_secs(3));
/// ```
#[derive(Clone, Default)]
pub struct Clock(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    System,
    Manual(Arc<Manual>),
}

struct Manual {
    start: Instant,
    nanos: AtomicU64,
}

impl Clock {
    /// The monotonic clock of the system.
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// A clock that stands still until [`advance`](Self::advance) moves it. Clones share the hand.
    pub fn manual() -> Self {
        Self(Kind::Manual(Arc::new(Manual { start: monotonic(), nanos: AtomicU64::new(0) })))
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Kind::System => monotonic(),
            Kind::Manual(hand) => hand.start + Duration::from_nanos(hand.nanos.load(Ordering::Acquire)),
        }
    }

    /// Moves a manual clock forward; a system clock takes no notice.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(hand) = &self.0 {
            let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            hand.nanos.fetch_add(nanos, Ordering::AcqRel);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::System => "Clock(system)",
            Kind::Manual(_) => "Clock(manual)",
        })
    }
}

/// The wall clock as time since the Unix epoch: for headers and logs, never for a decision.
#[expect(clippy::disallowed_methods, reason = "this file is where the time is read")]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this file is where the time is read")]
fn monotonic() -> Instant {
    Instant::now()
}
