//! The least pace of a client that sends while it holds a dyno: how much longer it may be waited for.

use std::time::{Duration, Instant};

/// So long a client is waited for whatever its pace.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What a client has sent, and how long it was waited for. The time in which nobody waits for it is not its fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// In bytes a second; 0: it may take as long as it likes.
    least: u64,
    bytes: u64,
    waited: Duration,
    waits_since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(least: u64) -> Self {
        Self { least, bytes: 0, waited: Duration::ZERO, waits_since: None }
    }

    /// The client is waited for.
    pub(crate) fn waits(&mut self, now: impl FnOnce() -> Instant) {
        if self.waits_since.is_none() {
            self.waits_since = Some(now());
        }
    }

    /// It has sent something.
    pub(crate) fn moved(&mut self, now: Instant, bytes: usize) {
        self.bytes += bytes as u64;
        self.waited += self.waits_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
    }

    /// How much longer it may be waited for; zero: no longer. `None`: as long as it likes.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let earned = GRACE + time_for(self.bytes, self.least)?;
        let waiting = self.waits_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        Some(earned.saturating_sub(self.waited + waiting))
    }
}

/// How long so many bytes may take; `None`: as long as they like.
pub(crate) fn time_for(bytes: u64, least: u64) -> Option<Duration> {
    let millis = bytes.saturating_mul(1000).checked_div(least)?;
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn only_the_time_in_which_the_client_is_waited_for_counts() {
        let (clock, second) = (Clock::manual(), Duration::from_secs(1));
        let mut pace = Pace::new(100);
        assert_eq!(pace.left(clock.now()), Some(GRACE));
        clock.advance(60 * second);
        pace.waits(|| clock.now());
        clock.advance(4 * second);
        pace.waits(|| clock.now());
        assert_eq!(pace.left(clock.now()), Some(second));
        pace.moved(clock.now(), 250);
        clock.advance(60 * second);
        assert_eq!(pace.left(clock.now()), Some(Duration::from_millis(3500)));
        pace.waits(|| clock.now());
        clock.advance(Duration::from_millis(3500));
        assert_eq!(pace.left(clock.now()), Some(Duration::ZERO));
        assert_eq!(Pace::new(0).left(clock.now()), None);
    }
}
