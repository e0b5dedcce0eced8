//! Holds an app's line for a while and lets it go again at a pace: pause, resume; and maintenance, which refuses.
//!
//! # State
//!
//! | state | `pause` | `resume` | by the clock |
//! |---|---|---|---|
//! | open | paused | – | – |
//! | paused | paused, for that long from now | resuming, or open at once | resuming, when its time is up |
//! | resuming | paused | resuming at that pace, or open | open, when its time is up |
//!
//! While paused, nobody in line gets a dyno. While resuming, as many requests may be in flight as a straight line from
//! 1 to all slots says, so that nothing behind the dynos is run over. `–` leaves the state as it is.
//!
//! # The line's clock
//!
//! It stands still from the pause until the app is open again. Whatever is held against a wait (deadlines, the age of
//! the line) is in its time: so a hold costs nobody patience, in O(1), however many wait.

use std::time::{Duration, Instant};

use crate::change::Hold;
use crate::snapshot::Held as Shown;

/// Whether an app's line is held.
#[derive(Debug, Default)]
pub(super) struct Gate {
    held: Option<Held>,
    /// How long the line's clock has stood still in holds that are over.
    stood: Duration,
    /// Requests up to this number may believe that they have longer than they have: a hold that they were told of
    /// was cut short.
    misled: u64,
    /// New requests are refused.
    pub(super) maintenance: bool,
}

/// A hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    /// When the pause ends and the resume begins.
    until: Instant,
    /// When the resume ends.
    end: Instant,
}

impl Gate {
    /// `last`: the number of the youngest request.
    pub(super) fn set(&mut self, hold: Hold, now: Instant, last: u64) {
        self.settle(now);
        match hold {
            Hold::Pause { at_most, over } => {
                let until = now + at_most.min(Hold::PAUSE_MAX);
                let since = self.held.map_or(now, |held| held.since);
                self.held = Some(Held { since, until, end: until + over.min(Hold::RESUME_MAX) });
            }
            Hold::Resume { over } => {
                if let Some(held) = &mut self.held {
                    held.until = held.until.min(now);
                    held.end = (held.until + over.min(Hold::RESUME_MAX)).max(now);
                }
            }
            Hold::Maintenance(on) => self.maintenance = on,
        }
        self.misled = last;
        self.settle(now);
    }

    /// Nothing is held any more.
    pub(super) fn open(&mut self, now: Instant, last: u64) {
        self.set(Hold::Resume { over: Duration::ZERO }, now, last);
        self.maintenance = false;
    }

    /// A hold whose time is up is over.
    pub(super) fn settle(&mut self, now: Instant) {
        if let Some(over) = self.held.take_if(|held| held.end <= now) {
            self.stood += over.end - over.since;
        }
    }

    /// What the line's clock shows.
    pub(super) fn line_time(&self, now: Instant) -> Instant {
        let stands = |held: Held| now.min(held.end).saturating_duration_since(held.since);
        now - (self.stood + self.held.map_or(Duration::ZERO, stands))
    }

    /// When the line's clock will show that time, if nothing more is done to the line.
    pub(super) fn time_of(&self, line_time: Instant) -> Instant {
        line_time + self.stood + self.held.map_or(Duration::ZERO, |held| held.end - held.since)
    }

    /// From when on another request may be dispatched; `None`: whenever a dyno has room.
    pub(super) fn opens(&self, in_flight: u64, slots: u64) -> Option<Instant> {
        let held = self.held?;
        if in_flight == 0 {
            return Some(held.until);
        }
        if in_flight >= slots {
            return Some(held.end);
        }
        let ramp = (held.end - held.until).as_nanos();
        let nanos = (ramp * u128::from(in_flight)).div_ceil(u128::from(slots - 1));
        Some(held.until + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Nobody is left who may believe anything.
    pub(super) fn nobody_waits(&mut self) {
        self.misled = 0;
    }

    /// Whether no hold makes anything different.
    pub(super) fn is_quiet(&self) -> bool {
        self.held.is_none() && self.misled == 0
    }

    /// Whether the line is held.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held.is_some_and(|held| now < held.end)
    }

    /// Whether the request may believe that it has longer than it has.
    pub(super) fn has_misled(&self, number: u64) -> bool {
        number <= self.misled
    }

    pub(super) fn snapshot(&self, now: Instant) -> Option<Shown> {
        let held = self.held.filter(|held| now < held.end)?;
        Some(Shown {
            since: now.saturating_duration_since(held.since),
            paused: held.until.saturating_duration_since(now),
            left: held.end.saturating_duration_since(now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn paused(now: Instant, at_most: u64, over: u64) -> Gate {
        let mut gate = Gate::default();
        gate.set(Hold::Pause { at_most: ms(at_most), over: ms(over) }, now, 0);
        gate
    }

    #[test]
    fn the_number_in_flight_rises_in_a_straight_line() {
        let now = Clock::manual().now();
        let gate = paused(now, 1000, 300);
        let opens: Vec<_> = (0..6).map(|n| gate.opens(n, 4).map(|at| (at - now).as_millis())).collect();
        assert_eq!(opens, [1000, 1100, 1200, 1300, 1300, 1300].map(Some));
        assert_eq!(gate.opens(1, 1), Some(now + ms(1300)), "what was running counts");
        assert_eq!(Gate::default().opens(9, 1), None);
    }

    #[test]
    fn the_clock_of_the_line_stands_still_until_the_app_is_open_again() {
        let now = Clock::manual().now();
        let mut gate = paused(now, 1000, 300);
        assert_eq!(gate.line_time(now + ms(1200)), now);
        assert_eq!(gate.line_time(now + ms(1500)), now + ms(200));
        assert_eq!(gate.time_of(now + ms(200)), now + ms(1500));
        gate.settle(now + ms(1500));
        assert!(!gate.is_held(now + ms(1500)));
        assert_eq!(gate.line_time(now + ms(1500)), now + ms(200), "however late that is noticed");
    }

    #[test]
    fn a_resume_ends_the_pause_and_never_the_past() {
        let now = Clock::manual().now();
        let mut gate = paused(now, 1000, 300);
        gate.set(Hold::Resume { over: ms(100) }, now + ms(500), 7);
        assert_eq!(gate.opens(0, 9), Some(now + ms(500)));
        assert_eq!(gate.opens(9, 9), Some(now + ms(600)));
        assert!(gate.has_misled(7) && !gate.has_misled(8));
        // Half-way through, at a pace at which it would be over.
        gate.set(Hold::Resume { over: ms(10) }, now + ms(550), 7);
        assert_eq!(gate.opens(0, 9), None);
        assert_eq!(gate.line_time(now + ms(550)), now, "the clock goes on from where it stood");
        gate.set(Hold::Resume { over: ms(10) }, now + ms(560), 7);
        assert_eq!(gate.opens(0, 9), None, "there is nothing to resume");
    }

    #[test]
    fn a_second_pause_is_the_same_hold_and_bounds_hold() {
        let now = Clock::manual().now();
        let mut gate = paused(now, 1000, 300);
        let day = Duration::from_secs(86_400);
        gate.set(Hold::Pause { at_most: day, over: day }, now + ms(1100), 0);
        let shown = gate.snapshot(now + ms(1100)).unwrap();
        assert_eq!((shown.since, shown.paused), (ms(1100), Hold::PAUSE_MAX));
        assert_eq!(shown.left, Hold::PAUSE_MAX + Hold::RESUME_MAX);
        assert_eq!(gate.line_time(now + ms(1100)), now);
    }
}
