//! When which host gets its certificate: first issue, renewal with jitter, and back-off. Pure: time and chance come in.
//!
//! | what happened | the next order |
//! |---|---|
//! | a host without a certificate is wanted, or is asked for on demand | at once |
//! | a certificate came | `renew_before` its end; else at two thirds of its life, at half under ten days |
//! | the CA suggests a window (ARI, RFC 9773) | at a random moment of it; it is asked again as often as it says |
//! | an order failed | after a minute, twice as long after each further one, a day at most; not before the CA says |
//!
//! All but the first have jitter: hosts whose certificates came together do not all come back together. Times are those
//! of the wall clock, as durations since 1970: certificates end by it.

use std::collections::BTreeMap;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The first wait after an order that failed.
const RETRY: Duration = MINUTE;
/// The longest.
const RETRY_MAX: Duration = DAY;
/// The longest that a CA may ask for.
const ASKED_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A CA may ask to be asked again this soon, and this late.
const LOOK: (Duration, Duration) = (MINUTE, DAY);
/// A certificate that lives for less is renewed at half its life.
const SHORT: Duration = Duration::from_secs(10 * 24 * 60 * 60);

/// What is to be done for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Order a certificate.
    Order,
    /// Ask the CA when it wants the certificate to be renewed.
    Look,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Life {
    /// In seconds since 1970.
    pub(crate) fn of(from: i64, until: i64) -> Self {
        let since = |time: i64| Duration::from_secs(time.try_into().unwrap_or_default());
        Self { from: since(from), until: since(until) }
    }
}

/// A host and its next steps.
#[derive(Clone, Debug, Default)]
struct Host {
    /// When it is ordered; `None`: once somebody asks for it.
    order: Option<Duration>,
    /// When the CA is asked for its window.
    look: Option<Duration>,
    failures: u32,
    /// The CA wants no order before.
    not_before: Option<Duration>,
    /// Something is being done for it.
    under_way: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Plan(BTreeMap<String, Host>);

impl Plan {
    /// These hosts are wanted from now on, and no others. What is known of the others is forgotten.
    pub(crate) fn want(&mut self, hosts: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        let mut new = Vec::new();
        for host in hosts {
            let known = before.remove(&host);
            if known.is_none() {
                new.push(host.clone());
            }
            self.0.insert(host, known.unwrap_or_default());
        }
        new
    }

    /// When the next order for the host is due; `None`: once somebody asks for it. And how many have failed in a row.
    pub(crate) fn order(&self, host: &str) -> (Option<Duration>, u32) {
        self.0.get(host).map_or((None, 0), |host| (host.order, host.failures))
    }

    /// The host needs a certificate and has none.
    pub(crate) fn lacks(&mut self, host: &str, now: Duration) {
        if let Some(host) = self.0.get_mut(host) {
            host.order.get_or_insert(now);
        }
    }

    /// Nothing is under way any more.
    pub(crate) fn stopped(&mut self) {
        self.0.values_mut().for_each(|host| host.under_way = false);
    }

    /// What waits for another try is tried now: what it failed for may have been put right.
    pub(crate) fn hurry(&mut self, now: Duration) {
        for host in self.0.values_mut().filter(|host| host.failures > 0 && !host.under_way) {
            (host.failures, host.order) = (0, Some(host.not_before.unwrap_or(now).max(now)));
        }
    }

    /// The host has a certificate. `chance` is between 0 and 1.
    pub(crate) fn has(
        &mut self,
        host: &str,
        life: Life,
        before: Option<Duration>,
        now: Duration,
        chance: f64,
    ) {
        let Some(host) = self.0.get_mut(host) else { return };
        let whole = life.until.saturating_sub(life.from);
        let share = if whole < SHORT { 0.5 } else { 2.0 / 3.0 };
        let wait = match before {
            Some(before) if before < whole => (whole - before).mul_f64(1.0 - 0.05 * chance),
            Some(_) | None => whole.mul_f64(share + 0.05 * chance),
        };
        *host = Host { order: Some(life.from + wait), look: Some(now), ..Host::default() };
    }

    /// The CA wants the certificate to be renewed within that window, and to be asked again after that time.
    pub(crate) fn window(&mut self, host: &str, window: Life, again: Duration, now: Duration, chance: f64) {
        let Some(host) = self.0.get_mut(host) else { return };
        let moment = window.from + window.until.saturating_sub(window.from).mul_f64(chance);
        // One moment for each window: another try of chance at each look would draw the earliest of many.
        let other = host.order.is_none_or(|at| at < window.from || at > window.until) || moment <= now;
        // Whoever has failed waits its time.
        if other && host.failures == 0 {
            host.order = Some(moment);
        }
        (host.look, host.under_way) = (Some(now + again.clamp(LOOK.0, LOOK.1)), false);
    }

    /// The CA gives no windows, or could not be asked.
    pub(crate) fn no_window(&mut self, host: &str, now: Duration, ever: bool) {
        if let Some(host) = self.0.get_mut(host) {
            (host.look, host.under_way) = (ever.then(|| now + DAY), false);
        }
    }

    /// An order failed; the CA may have said in what time it wants to be asked again. Gives when it is tried again.
    pub(crate) fn failed(
        &mut self,
        host: &str,
        again: Option<Duration>,
        now: Duration,
        chance: f64,
    ) -> Option<Duration> {
        let host = self.0.get_mut(host)?;
        let wait = RETRY.saturating_mul(1_u32.checked_shl(host.failures).unwrap_or(u32::MAX)).min(RETRY_MAX);
        let wait = wait.mul_f64(0.75 + 0.5 * chance);
        host.not_before = again.map(|again| now + again.min(ASKED_MAX));
        (host.failures, host.under_way) = (host.failures.saturating_add(1), false);
        host.order = Some((now + wait).max(host.not_before.unwrap_or_default()));
        host.order
    }

    /// What is to be done now, and is taken for begun; `most` at once.
    pub(crate) fn due(&mut self, now: Duration, most: usize) -> Vec<(String, Due)> {
        let mut due = Vec::new();
        for (name, host) in self.0.iter_mut().filter(|(_, host)| !host.under_way) {
            let passed = |at: Option<Duration>| at.is_some_and(|at| at <= now);
            let what = if passed(host.order) {
                Due::Order
            } else if passed(host.look) {
                Due::Look
            } else {
                continue;
            };
            if due.len() == most {
                break;
            }
            host.under_way = true;
            due.push((name.clone(), what));
        }
        due
    }

    /// When something is to be done next.
    pub(crate) fn next(&self) -> Option<Duration> {
        let waiting = self.0.values().filter(|host| !host.under_way);
        waiting.flat_map(|host| host.order.into_iter().chain(host.look)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000_000);

    fn plan(hosts: &[&str]) -> Plan {
        let mut plan = Plan::default();
        plan.want(hosts.iter().map(|host| (*host).to_owned()));
        plan
    }

    fn due(plan: &mut Plan, now: Duration) -> Vec<(String, Due)> {
        plan.due(now, 9)
    }

    #[test]
    fn what_lacks_a_certificate_is_ordered_once_and_no_more_at_once_than_may_be() {
        let mut plan = plan(&["a", "b", "c"]);
        assert_eq!((plan.next(), due(&mut plan, NOW)), (None, vec![]), "nobody has asked");
        for host in ["a", "b", "c", "x"] {
            plan.lacks(host, NOW);
        }
        assert_eq!(plan.next(), Some(NOW));
        assert_eq!(plan.due(NOW, 2), [("a".to_owned(), Due::Order), ("b".to_owned(), Due::Order)]);
        assert_eq!(plan.due(NOW, 2), [("c".to_owned(), Due::Order)]);
        assert_eq!((plan.due(NOW, 2), plan.next()), (vec![], None));
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_a_short_one_at_half() {
        for (days, chance, at) in [(90, 0.0, 60.0), (90, 1.0, 64.5), (6, 0.0, 3.0)] {
            let mut plan = plan(&["a"]);
            plan.has("a", Life { from: NOW, until: NOW + days * DAY }, None, NOW, chance);
            assert_eq!(due(&mut plan, NOW), [("a".to_owned(), Due::Look)]);
            plan.no_window("a", NOW, false);
            let next = plan.next().unwrap() - NOW;
            assert!((next.as_secs_f64() - at * DAY.as_secs_f64()).abs() < 2.0, "{next:?}");
            assert_eq!(due(&mut plan, NOW + next), [("a".to_owned(), Due::Order)]);
        }
    }

    #[test]
    fn the_window_of_the_ca_counts_and_a_moment_in_it_is_chosen_once() {
        let mut plan = plan(&["a"]);
        plan.has("a", Life { from: NOW, until: NOW + 90 * DAY }, None, NOW, 0.5);
        let window = Life { from: NOW + 10 * DAY, until: NOW + 12 * DAY };
        let six = Duration::from_secs(6 * 60 * 60);
        due(&mut plan, NOW);
        plan.window("a", window, six, NOW, 0.5);
        assert_eq!(plan.next(), Some(NOW + six));
        assert_eq!(due(&mut plan, NOW + six), [("a".to_owned(), Due::Look)]);
        plan.window("a", window, Duration::ZERO, NOW + six, 0.0);
        assert_eq!(plan.next(), Some(NOW + six + MINUTE), "as soon as it may say");
        plan.no_window("a", NOW + six, false);
        assert_eq!(plan.next(), Some(NOW + 11 * DAY), "the moment stays");
        // It was revoked: the window is over.
        plan.window("a", Life { from: NOW - DAY, until: NOW }, six, NOW + DAY, 0.3);
        assert_eq!(due(&mut plan, NOW + DAY), [("a".to_owned(), Due::Order)]);
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_day() {
        let mut plan = plan(&["a"]);
        plan.lacks("a", NOW);
        let mut waits = Vec::new();
        for _ in 0..40 {
            let next = plan.next().unwrap();
            due(&mut plan, next);
            waits.push((plan.failed("a", None, NOW, 0.5).unwrap() - NOW).as_secs());
        }
        assert_eq!(waits[..4], [60, 120, 240, 480]);
        assert_eq!(waits[39], 86_400);
        plan.has("a", Life { from: NOW, until: NOW + 90 * DAY }, None, NOW, 0.5);
        assert_eq!((plan.failed("a", None, NOW, 0.5).unwrap() - NOW).as_secs(), 60, "it begins anew");
        assert_eq!(plan.failed("x", None, NOW, 0.5), None);
        plan.hurry(NOW);
        assert_eq!(plan.next(), Some(NOW), "somebody has changed something");
    }

    #[test]
    fn what_the_ca_asks_for_is_waited_for_within_reason() {
        let mut plan = plan(&["a"]);
        plan.lacks("a", NOW);
        due(&mut plan, NOW);
        assert_eq!(plan.failed("a", Some(DAY), NOW, 0.5), Some(NOW + DAY));
        plan.hurry(NOW + MINUTE);
        assert_eq!(plan.order("a"), (Some(NOW + DAY), 0), "whoever is in a hurry waits too");
        due(&mut plan, NOW + DAY);
        assert_eq!(plan.failed("a", Some(900 * DAY), NOW, 0.5), Some(NOW + 7 * DAY));
        due(&mut plan, NOW + 7 * DAY);
        assert_eq!(plan.failed("a", Some(Duration::ZERO), NOW, 0.5), Some(NOW + 2 * MINUTE));
    }

    #[test]
    fn a_time_before_the_end_counts_where_a_certificate_lives_that_long() {
        for (before, at) in [(30, 60 * DAY), (100, 60 * DAY), (90, 60 * DAY), (1, 89 * DAY)] {
            let mut plan = plan(&["a"]);
            plan.has("a", Life { from: NOW, until: NOW + 90 * DAY }, Some(before * DAY), NOW, 0.0);
            assert_eq!(plan.order("a").0, Some(NOW + at), "{before} days before");
        }
    }

    #[test]
    fn hosts_that_stay_wanted_keep_what_is_known_of_them() {
        let mut plan = plan(&["a", "b"]);
        plan.lacks("a", NOW);
        let new = plan.want(["a".to_owned(), "c".to_owned()]);
        assert_eq!(new, ["c"]);
        assert_eq!(due(&mut plan, NOW), [("a".to_owned(), Due::Order)]);
        plan.lacks("b", NOW);
        assert_eq!(plan.order("b"), (None, 0), "nobody wants it any more");
    }
}
