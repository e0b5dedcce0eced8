//! Pause, resume and maintenance in the most obvious way: a clock for the line that is moved by hand, and a count of
//! what may be in flight that is worked out anew each time.

use std::time::Duration;

use router_core::change::Hold;
use router_core::snapshot::Held;

#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    /// Since when, when the pause ends, when the resume ends.
    held: Option<(Duration, Duration, Duration)>,
    /// What the line's clock shows.
    pub(crate) clock: Duration,
    /// The youngest request when something was last done here.
    pub(crate) misled: u64,
    pub(crate) maintenance: bool,
}

impl Gate {
    pub(crate) fn set(&mut self, hold: Hold, now: Duration, last: u64) {
        self.misled = last;
        match (hold, self.held) {
            (Hold::Pause { at_most, over }, held) => {
                let until = now + at_most.min(Hold::PAUSE_MAX);
                let since = held.map_or(now, |(since, _, _)| since);
                self.held = Some((since, until, until + over.min(Hold::RESUME_MAX)));
            }
            (Hold::Resume { over }, Some((since, until, _))) => {
                let until = until.min(now);
                self.held = Some((since, until, until + over.min(Hold::RESUME_MAX)));
            }
            (Hold::Resume { .. }, None) => {}
            (Hold::Maintenance(on), _) => self.maintenance = on,
        }
        self.held = self.held.filter(|(_, _, end)| *end > now);
    }

    /// Time passes, up to `now`.
    pub(crate) fn advance(&mut self, by: Duration, now: Duration) {
        let held = self.held.map_or(Duration::ZERO, |(_, _, end)| (end + by).saturating_sub(now).min(by));
        self.clock += by - held;
        self.held = self.held.filter(|(_, _, end)| *end > now);
    }

    /// Whether one more may be in flight.
    pub(crate) fn lets(&self, now: Duration, in_flight: u32, slots: u32) -> bool {
        let Some((_, until, end)) = self.held else { return true };
        if now < until {
            return false;
        }
        let more = u128::from(slots.max(1) - 1) * (now - until).as_nanos() / (end - until).as_nanos();
        u128::from(in_flight) < 1 + more
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When the line's clock will show that.
    pub(crate) fn time_of(&self, clock: Duration, now: Duration) -> Duration {
        let goes_on = self.held.map_or(now, |(_, _, end)| end);
        goes_on + clock - self.clock
    }

    pub(crate) fn snapshot(&self, now: Duration) -> Option<Held> {
        let (since, until, end) = self.held?;
        Some(Held { since: now - since, paused: until.saturating_sub(now), left: end - now })
    }
}
