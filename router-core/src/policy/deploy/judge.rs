//! Is the new release as good as the old one: counts of both, held against the plan's limits. Integers only, so that
//! the verdict is exact.

use std::time::Duration;

use super::plan::BakeLimits;
use super::words::CauseKind;

/// Faults of the new release before its rate is compared with the old one's by a factor.
const FEW_FAULTS: u64 = 10;

/// What became of requests that one release was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tally {
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them that ended in a fault whose blame is the app's, or in an answer that counts as one.
    pub faults: u64,
    /// The time their dynos were held by them, in sum.
    pub service: Duration,
}

impl Tally {
    /// Adds what has happened since.
    pub(super) fn add(&mut self, more: Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.faults = self.faults.saturating_add(more.faults);
        self.service = self.service.saturating_add(more.service);
    }

    fn percent(&self) -> f64 {
        self.faults as f64 * 100.0 / self.requests.max(1) as f64
    }

    fn mean(&self) -> Duration {
        let nanos = self.service.as_nanos() / u128::from(self.requests.max(1));
        Duration::from_micros(u64::try_from(nanos / 1000).unwrap_or(u64::MAX))
    }
}

/// What the new release does too badly, if anything.
pub(super) fn verdict(limits: &BakeLimits, old: &Tally, new: &Tally) -> Option<(CauseKind, String)> {
    if new.requests < limits.min_requests {
        return None;
    }
    let comparable = old.requests >= limits.min_requests;
    let rates = || {
        let (new, old) =
            ((new.faults, new.requests, new.percent()), (old.faults, old.requests, old.percent()));
        format!(
            "{} of {} requests of the new release failed ({:.1}%), {} of {} of the old one ({:.1}%)",
            new.0, new.1, new.2, old.0, old.1, old.2
        )
    };
    if above_by_points(limits.fault_points, old, new) {
        let text = format!("{}; allowed are {} percentage points more", rates(), limits.fault_points);
        return Some((CauseKind::TooManyFaults, text));
    }
    if let Some(ratio) = limits.fault_ratio
        && comparable
        && old.faults > 0
        && new.faults >= FEW_FAULTS
        && exceeds(ratio, (u128::from(new.faults), new.requests), (u128::from(old.faults), old.requests))
    {
        let text = format!("{}; allowed are {ratio}% of the old rate", rates());
        return Some((CauseKind::TooManyFaults, text));
    }
    if let Some(ratio) = limits.service_ratio
        && comparable
        && !old.service.is_zero()
        && exceeds(ratio, (new.service.as_nanos(), new.requests), (old.service.as_nanos(), old.requests))
    {
        let (new, old) = (new.mean(), old.mean());
        let text = format!(
            "a request of the new release takes {new:?} on average, one of the old {old:?}; allowed are {ratio}% of it"
        );
        return Some((CauseKind::TooSlow, text));
    }
    None
}

/// `new.faults / new.requests > old.faults / old.requests + points / 100`, without division.
fn above_by_points(points: u32, old: &Tally, new: &Tally) -> bool {
    let (old_faults, old_requests) = if old.requests == 0 { (0, 1) } else { (old.faults, old.requests) };
    let wide = u128::from;
    let allowed =
        wide(old_faults).saturating_mul(100).saturating_add(wide(old_requests) * u128::from(points));
    let had = wide(new.faults).saturating_mul(100).saturating_mul(wide(old_requests));
    had > allowed.saturating_mul(wide(new.requests))
}

/// `new.0 / new.1 > old.0 / old.1 * percent / 100`, without division.
fn exceeds(percent: u32, new: (u128, u64), old: (u128, u64)) -> bool {
    let allowed = old.0.saturating_mul(u128::from(percent)).saturating_mul(u128::from(new.1));
    new.0.saturating_mul(100).saturating_mul(u128::from(old.1)) > allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, faults: u64, ms: u64) -> Tally {
        Tally { requests, faults, service: Duration::from_millis(ms * requests) }
    }

    fn kind(old: Tally, new: Tally) -> Option<CauseKind> {
        verdict(&BakeLimits::default(), &old, &new).map(|(kind, _)| kind)
    }

    #[test]
    fn nothing_is_judged_by_a_handful_of_requests() {
        assert_eq!(kind(tally(1000, 0, 10), tally(99, 99, 999)), None);
        assert_eq!(kind(tally(1000, 0, 10), tally(100, 100, 10)), Some(CauseKind::TooManyFaults));
    }

    #[test]
    fn the_fault_rate_may_be_so_many_points_above_and_not_a_fault_more() {
        assert_eq!(kind(tally(1000, 200, 10), tally(1000, 250, 10)), None);
        assert_eq!(kind(tally(1000, 200, 10), tally(1000, 251, 10)), Some(CauseKind::TooManyFaults));
        assert_eq!(kind(Tally::default(), tally(100, 5, 10)), None);
        assert_eq!(kind(Tally::default(), tally(100, 6, 10)), Some(CauseKind::TooManyFaults));
    }

    #[test]
    fn the_fault_rate_may_be_so_many_times_the_old_one_and_one_fault_is_no_verdict() {
        assert_eq!(kind(tally(1000, 4, 10), tally(1000, 12, 10)), None);
        assert_eq!(kind(tally(1000, 4, 10), tally(1000, 13, 10)), Some(CauseKind::TooManyFaults));
        assert_eq!(kind(tally(100_000, 1, 10), tally(1000, 9, 10)), None, "too few faults to tell");
        assert_eq!(kind(tally(99, 1, 10), tally(1000, 40, 10)), None, "too little is known of the old one");
        let limits = BakeLimits::default().with_fault_ratio(None);
        assert_eq!(verdict(&limits, &tally(1000, 4, 10), &tally(1000, 13, 10)), None);
    }

    #[test]
    fn the_mean_service_time_may_be_so_many_times_the_old_one() {
        assert_eq!(kind(tally(1000, 0, 10), tally(100, 0, 20)), None);
        assert_eq!(kind(tally(1000, 0, 10), tally(100, 0, 21)), Some(CauseKind::TooSlow));
        assert_eq!(kind(tally(99, 0, 10), tally(100, 0, 21)), None, "too little is known of the old one");
        let limits = BakeLimits::default().with_service_ratio(None);
        assert_eq!(verdict(&limits, &tally(1000, 0, 10), &tally(100, 0, 21)), None);
    }

    #[test]
    fn a_verdict_says_both_figures_and_the_limit() {
        let (_, text) = verdict(&BakeLimits::default(), &tally(200, 1, 10), &tally(100, 9, 10)).unwrap();
        let says = "9 of 100 requests of the new release failed (9.0%), 1 of 200 of the old one (0.5%); \
                    allowed are 5 percentage points more";
        assert_eq!(text, says);
        let (_, text) = verdict(&BakeLimits::default(), &tally(200, 0, 10), &tally(100, 0, 45)).unwrap();
        let says = "a request of the new release takes 45ms on average, one of the old 10ms; \
                    allowed are 200% of it";
        assert_eq!(text, says);
    }

    #[test]
    fn huge_counts_do_not_overflow() {
        let most = Tally { requests: u64::MAX, faults: u64::MAX, service: Duration::MAX };
        let mut sum = most;
        sum.add(most);
        assert_eq!(sum, most);
        assert_eq!(kind(most, most), None);
    }
}
