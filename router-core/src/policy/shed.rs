//! May a request wait at all: decided at the door in O(1), from counts and the clock alone.
//!
//! Three guards, each with its cause in H11: the bounds on requests and bytes; the expected wait (requests ahead x
//! smoothed service time / slots) against the longest wait; and, for when the smoothed service time lies (a
//! deploy, a cold cache), a shorter wait while the line has been standing for long: CoDel in the form that
//! Facebook describes in "Fail at scale" (ACM Queue 13(8), 2015).

use std::time::{Duration, Instant};

use crate::fault::Backlog;
use crate::limits::Limits;

/// Samples over which the service time is smoothed once there are that many; before, it is their mean.
const SMOOTHING: f64 = 32.0;

/// What the door knows.
#[derive(Debug, Default)]
pub(crate) struct Shed {
    service: Smoothed,
    /// The same of good answers alone.
    usual: Smoothed,
    standing_since: Option<Instant>,
}

/// A time, smoothed.
#[derive(Debug, Default)]
struct Smoothed {
    secs: f64,
    samples: f64,
}

impl Smoothed {
    fn add(&mut self, time: Duration) {
        self.samples = (self.samples + 1.0).min(SMOOTHING);
        self.secs += (time.as_secs_f64() - self.secs) / self.samples;
    }

    fn time(&self) -> Duration {
        Duration::try_from_secs_f64(self.secs).unwrap_or_default()
    }
}

/// How long the line is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
    /// Requests that the dynos they wait for can work on at once.
    pub(crate) slots: u64,
}

impl Shed {
    /// A dyno was held for this long by one request. `well`: it answered well.
    pub(crate) fn served(&mut self, held: Duration, well: bool) {
        self.service.add(held);
        if well {
            self.usual.add(held);
        }
    }

    /// Forgets how long dynos are held: others come.
    pub(crate) fn forget(&mut self) {
        (self.service, self.usual) = (Smoothed::default(), Smoothed::default());
    }

    /// The smoothed service time.
    pub(crate) fn service_time(&self) -> Duration {
        self.service.time()
    }

    /// The smoothed service time of requests that were answered well; `None`: there was none.
    pub(crate) fn usual_time(&self) -> Option<Duration> {
        (self.usual.samples > 0.0).then(|| self.usual.time())
    }

    /// What a request would wait if it joined the line now.
    pub(crate) fn expected_wait(&self, line: Line) -> Duration {
        let secs = line.requests as f64 * self.service.secs / line.slots.max(1) as f64;
        Duration::try_from_secs_f64(secs).unwrap_or(Duration::MAX)
    }

    /// May a request with that many bytes join the line?
    pub(crate) fn admit(&self, limits: &Limits, line: Line, bytes: u64) -> Result<(), Backlog> {
        let most = u64::from(limits.queue_max_requests_per_dyno).saturating_mul(line.slots.max(1));
        if line.requests as u64 >= most {
            return Err(Backlog::Requests);
        }
        if line.bytes.saturating_add(bytes) > limits.queue_max_bytes {
            return Err(Backlog::Bytes);
        }
        if self.expected_wait(line) > limits.queue_max_wait {
            return Err(Backlog::ExpectedWait);
        }
        Ok(())
    }

    /// The line got or lost somebody.
    pub(crate) fn line_is(&mut self, empty: bool, now: Instant) {
        match (empty, self.standing_since) {
            (true, _) => self.standing_since = None,
            (false, None) => self.standing_since = Some(now),
            (false, Some(_)) => {}
        }
    }

    /// Has somebody who arrived then waited too long for a line that has been standing?
    pub(crate) fn too_long_in_standing_line(&self, limits: &Limits, arrived: Instant, now: Instant) -> bool {
        let standing = self.standing_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        standing >= limits.standing_after && now.duration_since(arrived) > limits.standing_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn the_expected_wait_is_held_against_the_longest_wait() {
        let mut shed = Shed::default();
        let limits = Limits::default().with_queue_max_requests_per_dyno(1000);
        let line = Line { requests: 101, bytes: 0, slots: 2 };
        assert_eq!(shed.admit(&limits, line, 0), Ok(()), "nothing is known yet");
        for _ in 0..100 {
            shed.served(Duration::from_millis(100), true);
        }
        assert_eq!(shed.admit(&limits, line, 0), Err(Backlog::ExpectedWait));
        assert_eq!(shed.admit(&limits, Line { requests: 99, ..line }, 0), Ok(()));
    }

    #[test]
    fn requests_and_bytes_have_bounds_of_their_own() {
        let shed = Shed::default();
        let limits = Limits::default().with_queue_max_requests_per_dyno(2).with_queue_max_bytes(10);
        let line = Line { requests: 3, bytes: 8, slots: 2 };
        assert_eq!(shed.admit(&limits, line, 2), Ok(()));
        assert_eq!(shed.admit(&limits, line, 3), Err(Backlog::Bytes));
        assert_eq!(shed.admit(&limits, Line { requests: 4, ..line }, 0), Err(Backlog::Requests));
        let none = limits.with_queue_max_requests_per_dyno(0);
        assert_eq!(shed.admit(&none, Line { requests: 0, ..line }, 0), Err(Backlog::Requests));
    }

    #[test]
    fn a_line_that_has_stood_for_long_keeps_nobody_for_long() {
        let start = Clock::manual().now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let limits = Limits::default();
        let mut shed = Shed::default();
        shed.line_is(false, at(0));
        assert!(!shed.too_long_in_standing_line(&limits, at(0), at(4900)));
        assert!(shed.too_long_in_standing_line(&limits, at(0), at(5000)));
        assert!(!shed.too_long_in_standing_line(&limits, at(2600), at(5000)));
        shed.line_is(true, at(5001));
        shed.line_is(false, at(5002));
        assert!(!shed.too_long_in_standing_line(&limits, at(0), at(6000)));
    }
}
