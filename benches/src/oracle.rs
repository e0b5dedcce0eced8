//! The replay oracle: how long each request of a recorded run would have waited in one ideal line.
//!
//! It replays the same arrivals and service times through a first-come-first-served line in front of `c` dynos that
//! costs nothing (the Kiefer-Wolfowitz recursion). What a proxy adds to that is its own doing, or the machine's. Clients
//! that wait for their answers are replayed too, because when they send is the proxy's doing.

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

/// A request of a client that waited for its answer before it sent the next. Instants on one clock.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// When it was sent.
    pub arrived: u64,
    /// How long its dyno worked.
    pub service: u64,
    /// From the end of that work to the client's last byte.
    pub back: u64,
    /// When that was.
    pub done: u64,
}

/// How long each request would have waited in an ideal line for the same clients, by order of arrival: who is answered
/// sooner sends sooner, so the arrivals of a slower run would not do. All clients being alike, what lies between an
/// answer and the next request is taken from the run in its order: before the k-th request there were k less `clients`
/// answers, and the last of them is taken for what it waited for.
pub fn closed_loop(dynos: usize, clients: usize, turns: &[Turn]) -> Vec<u64> {
    let mut done: Vec<u64> = turns.iter().map(|turn| turn.done).collect();
    done.sort_unstable();
    // Behind the last of them nothing is known, and only who is next matters.
    let pause = |answer: usize| {
        turns.get(answer + clients).map_or(0, |turn| turn.arrived.saturating_sub(done[answer]))
    };
    let mut line = Oracle::new(dynos);
    let first = turns.iter().take(clients).map(|turn| Reverse(turn.arrived));
    let mut sends: BinaryHeap<_> = first.collect();
    let mut waits = Vec::with_capacity(turns.len());
    for (number, turn) in turns.iter().enumerate() {
        // Nobody sends before what was sent when it got its answer: they come in order.
        let Some(Reverse(sent)) = sends.pop() else { break };
        let wait = line.wait(sent, turn.service);
        waits.push(wait);
        sends.push(Reverse(sent + wait + turn.service + turn.back + pause(number)));
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erlang;
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

    /// What clients saw who paused that long, of dynos that stand for a while before each request.
    fn closed_run(
        dynos: usize,
        clients: usize,
        [service, pause, stands]: [u64; 3],
        seed: u64,
    ) -> (Vec<Turn>, Vec<u64>) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = |mean: u64| (exponential(&mut rng) * mean as f64) as u64;
        let mut sends: BinaryHeap<_> = (0..clients as u64).map(Reverse).collect();
        let (mut line, mut turns, mut waits) = (Oracle::new(dynos), Vec::new(), Vec::new());
        for _ in 0..3_000 {
            let Reverse(arrived) = sends.pop().unwrap();
            let (service, back) = (random(service) + 1, 10);
            let waited = line.wait(arrived, stands + service) + stands;
            let done = arrived + waited + service + back;
            turns.push(Turn { arrived, service, back, done });
            waits.push(waited);
            sends.push(Reverse(done + random(pause)));
        }
        (turns, waits)
    }

    fn mean(waits: &[u64]) -> f64 {
        waits.iter().sum::<u64>() as f64 / waits.len() as f64
    }

    #[test]
    fn a_closed_loop_in_the_ideal_line_waits_no_longer_than_itself() {
        for (dynos, clients) in [(1, 1), (1, 5), (3, 3), (3, 6), (10, 4), (10, 40)] {
            let (turns, waits) = closed_run(dynos, clients, [1_000, 0, 0], 7);
            assert_eq!(closed_loop(dynos, clients, &turns), waits, "{dynos} dynos, {clients} clients");
            // With pauses it is not known whose they were, and the mean is the same.
            let (turns, waits) = closed_run(dynos, clients, [1_000, 500, 0], 7);
            let ideal = mean(&closed_loop(dynos, clients, &turns));
            assert!((ideal - mean(&waits)).abs() < 40.0, "{dynos}, {clients}: {ideal} {}", mean(&waits));
        }
        assert!(closed_loop(2, 2, &[]).is_empty());
    }

    #[test]
    fn a_closed_loop_is_slower_by_what_dynos_stand_and_by_no_more() {
        // Two clients a dyno: each waits for one request of another, and for both times that the dyno stands.
        let (turns, waits) = closed_run(3, 6, [1_000, 0, 100], 7);
        let ideal = closed_loop(3, 6, &turns);
        let excess = mean(&waits) - mean(&ideal);
        assert!((195.0..=205.0).contains(&excess), "{excess}");
        let mut open = Oracle::new(3);
        let open: Vec<u64> = turns.iter().map(|turn| open.wait(turn.arrived, turn.service)).collect();
        assert!(
            mean(&waits) - mean(&open) > 500.0,
            "on the slower run's arrivals nobody would wait: {}",
            mean(&open)
        );
    }

    #[test]
    fn the_mean_wait_is_erlangs() {
        // Waits come in long bursts: with 100 dynos, two million requests still give the mean to some percent only.
        for (dynos, load, count) in [(1, 0.5, 400_000), (10, 0.8, 400_000), (100, 0.9, 2_000_000)] {
            let (measured, theory) =
                (mean_wait(dynos, load, count), erlang::mean_wait(dynos as u32, load, 1.0));
            assert!((measured / theory - 1.0).abs() < 0.1, "{dynos} at {load}: {measured} against {theory}");
        }
    }
}
