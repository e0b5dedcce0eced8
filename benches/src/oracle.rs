//! The replay oracle: how long each request of a recorded run would have waited in one ideal line.
//!
//! It replays the same arrivals and service times through a first-come-first-served line in front of `c` dynos that
//! costs nothing (the Kiefer-Wolfowitz recursion). What a proxy adds to that is its own doing, or the machine's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One ideal line in front of `c` dynos, fed in order of arrival.
#[derive(Debug)]
pub struct Oracle {
    /// When each dyno is free again.
    free: BinaryHeap<Reverse<u64>>,
}

impl Oracle {
    /// `dynos` idle dynos; at least one.
    pub fn new(dynos: usize) -> Self {
        Self { free: (0..dynos.max(1)).map(|_| Reverse(0)).collect() }
    }

    /// The wait of the next request, in the unit of its two instants.
    pub fn wait(&mut self, arrival: u64, service: u64) -> u64 {
        let free = self.free.pop().map_or(0, |Reverse(free)| free);
        let start = free.max(arrival);
        self.free.push(Reverse(start.saturating_add(service)));
        start - arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::exponential;
    use std::collections::VecDeque;

    /// The same line, written naively: dynos, a line, and a loop over events in order of time.
    fn brute_force(dynos: usize, jobs: &[(u64, u64)]) -> Vec<u64> {
        let mut waits = vec![0; jobs.len()];
        let mut busy: Vec<Option<u64>> = vec![None; dynos];
        let mut line = VecDeque::new();
        let mut arrivals = jobs.iter().enumerate().peekable();
        loop {
            let next_end = busy.iter().flatten().min().copied();
            let next_arrival = arrivals.peek().map(|(_, job)| job.0);
            let now = match (next_end, next_arrival) {
                (Some(end), Some(arrival)) => end.min(arrival),
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => return waits,
            };
            for dyno in &mut busy {
                if *dyno == Some(now) {
                    *dyno = None;
                }
            }
            while arrivals.peek().is_some_and(|(_, job)| job.0 == now) {
                line.push_back(arrivals.next().unwrap());
            }
            for dyno in &mut busy {
                if dyno.is_none()
                    && let Some((number, job)) = line.pop_front()
                {
                    waits[number] = now - job.0;
                    *dyno = Some(now + job.1);
                }
            }
        }
    }

    fn path(seed: u64, count: usize, gap: f64, service: f64) -> Vec<(u64, u64)> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = 0.0;
        (0..count)
            .map(|_| {
                now += exponential(&mut rng) * gap;
                // At least 1, so that no event of the brute force ends at the instant it began.
                (now as u64, (exponential(&mut rng) * service) as u64 + 1)
            })
            .collect()
    }

    fn mean_wait(dynos: usize, load: f64, count: usize) -> f64 {
        let service = 10_000_000.0;
        let mut oracle = Oracle::new(dynos);
        let jobs = path(11, count, service / dynos as f64 / load, service);
        let total: u64 = jobs.iter().map(|(arrival, service)| oracle.wait(*arrival, *service)).sum();
        total as f64 / count as f64 / service
    }

    /// Mean wait of M/M/c in service times (Erlang C).
    fn erlang_c(dynos: usize, load: f64) -> f64 {
        let offered = dynos as f64 * load;
        let blocking = (1..=dynos).fold(1.0, |b, n| offered * b / (n as f64 + offered * b));
        let waits = blocking / (1.0 - load * (1.0 - blocking));
        waits / (dynos as f64 * (1.0 - load))
    }

    #[test]
    fn the_oracle_equals_a_brute_force_event_simulation() {
        for (seed, dynos) in [(1, 1), (2, 2), (3, 3), (4, 10), (5, 17)] {
            for load in [0.5, 0.9, 1.3] {
                let jobs = path(seed, 3_000, 1_000.0 / dynos as f64 / load, 1_000.0);
                let mut oracle = Oracle::new(dynos);
                let waits: Vec<u64> = jobs.iter().map(|job| oracle.wait(job.0, job.1)).collect();
                assert_eq!(waits, brute_force(dynos, &jobs), "{dynos} dynos, load {load}");
            }
        }
    }

    #[test]
    fn the_mean_wait_is_erlangs() {
        // Waits come in long bursts: with 100 dynos, two million requests still give the mean to some percent only.
        for (dynos, load, count) in [(1, 0.5, 400_000), (10, 0.8, 400_000), (100, 0.9, 2_000_000)] {
            let (measured, theory) = (mean_wait(dynos, load, count), erlang_c(dynos, load));
            assert!((measured / theory - 1.0).abs() < 0.1, "{dynos} at {load}: {measured} against {theory}");
        }
        // Known values: M/M/1 at 0.5 waits one service time, M/M/100 at 0.9 waits 0.022.
        assert!((erlang_c(1, 0.5) - 1.0).abs() < 1e-9);
        assert!((erlang_c(100, 0.9) - 0.022).abs() < 0.001);
    }
}
