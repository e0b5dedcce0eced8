//! Whether dynos are used evenly and requests are served in order: figures from the records of a run.

use serde::{Deserialize, Serialize};

use crate::records::Record;

/// A request counts as overtaken when one that came so much later began before it. Less is a matter of who is woken
/// first, not of the line.
const HEAD_START: u64 = 1_000_000;

/// How evenly the dynos were used. Jain's index: 1 when all are used alike, 1/n when one of n is used alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evenness {
    /// Of the number of requests.
    pub requests: f64,
    /// Of the time in which they worked.
    pub busy: f64,
}

/// How far from first come, first served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The share of requests that one overtook which came at least 1 ms later.
    pub overtaken: f64,
    /// The most requests, whenever they came, that overtook one.
    pub most: u64,
    /// The longest head start of one over another that overtook it, in milliseconds.
    pub worst_ms: f64,
}

/// How evenly `dynos` dynos were used by these requests.
pub fn evenness<'a>(served: impl Iterator<Item = &'a Record>, dynos: usize) -> Evenness {
    let (mut counts, mut busy) = (vec![0.0; dynos], vec![0.0; dynos]);
    for record in served {
        if let (Some(count), Some(time)) =
            (counts.get_mut(record.dyno as usize), busy.get_mut(record.dyno as usize))
        {
            *count += 1.0;
            *time += record.ended.saturating_sub(record.started) as f64;
        }
    }
    Evenness { requests: jain(&counts), busy: jain(&busy) }
}

/// Jain's index of these; 1 when there is nothing to share.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

/// How far from first come, first served these requests began, by when they were sent.
pub fn order<'a>(served: impl Iterator<Item = &'a Record>) -> Order {
    // By when they began: whoever stands before another and came later has overtaken it.
    let mut all: Vec<(u64, u64)> = served.map(|record| (record.started, record.arrived)).collect();
    all.sort_unstable();
    let mut arrivals: Vec<u64> = all.iter().map(|(_, arrived)| *arrived).collect();
    arrivals.sort_unstable();
    let (mut before, mut latest) = (Counts::new(arrivals.len()), 0);
    let (mut overtaken, mut most, mut worst) = (0_u64, 0, 0);
    for (begun, (_, arrived)) in all.iter().enumerate() {
        let head_start = u64::saturating_sub(latest, *arrived);
        overtaken += u64::from(head_start >= HEAD_START);
        worst = worst.max(head_start);
        latest = latest.max(*arrived);
        // Those that came no later than this one.
        let place = arrivals.partition_point(|other| other <= arrived);
        most = most.max(begun as u64 - before.up_to(place));
        before.add(place);
    }
    let share = if all.is_empty() { 0.0 } else { overtaken as f64 / all.len() as f64 };
    Order { overtaken: share, most, worst_ms: worst as f64 / 1e6 }
}

/// How many were counted at each place from 1 to n; a Fenwick tree, so that each step takes log n.
struct Counts {
    tree: Vec<u32>,
}

impl Counts {
    fn new(places: usize) -> Self {
        Self { tree: vec![0; places + 1] }
    }

    /// Counts one at this place, which is at least 1.
    fn add(&mut self, mut place: usize) {
        while let Some(sum) = self.tree.get_mut(place) {
            *sum += 1;
            place += place & place.wrapping_neg();
        }
    }

    fn up_to(&self, mut place: usize) -> u64 {
        let mut sum = 0;
        while place > 0 {
            sum += u64::from(self.tree[place]);
            place &= place - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests by when they came and began, in milliseconds; each works for 1 ms.
    fn records(times: &[(u64, u64, u32)]) -> Vec<Record> {
        let record = |(arrived, started, dyno): &(u64, u64, u32)| Record {
            due: *arrived,
            arrived: arrived * 1_000_000,
            started: started * 1_000_000,
            ended: (started + 1) * 1_000_000,
            done: (started + 1) * 1_000_000,
            service: 1_000_000,
            dyno: *dyno,
        };
        times.iter().map(record).collect()
    }

    #[test]
    fn the_index_of_jain_is_one_for_even_shares_and_one_nth_for_a_single_user() {
        assert_eq!(jain(&[5.0, 5.0, 5.0, 5.0]), 1.0);
        assert_eq!(jain(&[7.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain(&[0.0, 0.0]), 1.0);
        let used = evenness(records(&[(0, 0, 0), (1, 1, 0), (2, 2, 1)]).iter(), 2);
        assert!((used.requests - 0.9).abs() < 1e-9 && (used.busy - 0.9).abs() < 1e-9, "{used:?}");
    }

    #[test]
    fn even_numbers_of_requests_may_be_uneven_work() {
        let mut all = records(&[(0, 0, 0), (1, 1, 1)]);
        all[1].ended += 6_000_000;
        let used = evenness(all.iter(), 2);
        // 1 ms and 7 ms: 64 / (2 x 50).
        assert!(used.requests == 1.0 && (used.busy - 0.64).abs() < 1e-9, "{used:?}");
    }

    #[test]
    fn who_begins_in_order_of_arrival_is_not_overtaken() {
        let first_come = records(&[(0, 5, 0), (1, 6, 0), (2, 6, 1), (3, 9, 0)]);
        assert_eq!(order(first_come.iter()), Order::default());
        assert_eq!(order([].iter()), Order::default());
    }

    #[test]
    fn last_come_first_served_lets_all_but_the_last_be_overtaken() {
        let stack = records(&[(0, 13, 0), (1, 12, 0), (2, 11, 0), (3, 10, 0)]);
        assert_eq!(order(stack.iter()), Order { overtaken: 0.75, most: 3, worst_ms: 3.0 });
    }

    #[test]
    fn counting_those_who_overtook_agrees_with_counting_pairs() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let times: Vec<_> = (0..60).map(|_| (rng.u64(0..40), rng.u64(40..90), 0)).collect();
            let all = records(&times);
            let pairs = |one: &Record| {
                // Of two that began in the same instant, nobody overtook the other: the one that came first is first.
                all.iter().filter(|other| other.arrived > one.arrived && other.started < one.started).count()
            };
            let most = all.iter().map(pairs).max().unwrap() as u64;
            assert_eq!(order(all.iter()).most, most);
        }
    }
}
