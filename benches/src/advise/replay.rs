//! A log's load as jobs, and what it is like with so many dynos: behind one line, or thrown at dynos at random.

use serde::Serialize;

use crate::logs::{Fate, Log};
use crate::oracle::Oracle;
use crate::service::Service;

/// One request of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it comes, in nanoseconds since the first.
    pub arrival: u64,
    /// How long it keeps its dyno, in nanoseconds.
    pub service: u64,
}

/// What a replay gave.
pub(super) struct Replayed {
    /// In order of arrival.
    pub(super) waits: Vec<u64>,
    /// Wait and service together.
    pub(super) latencies: Vec<u64>,
    busy: f64,
}

/// The figures of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The share of requests that waited at all.
    pub queued_share: f64,
    /// Mean wait, in milliseconds.
    pub wait_mean_ms: f64,
    /// 95th percentile of the wait, in milliseconds.
    pub wait_p95_ms: f64,
    /// 99th percentile of the wait, in milliseconds.
    pub wait_p99_ms: f64,
    /// 99th percentile of wait and service, in milliseconds.
    pub latency_p99_ms: f64,
    /// The share of time in which the dynos worked.
    pub busy_share: f64,
}

/// The load of a log. Requests without a service time get one: from `service` if no request of the log has one, else
/// that of another request.
pub(super) fn jobs(log: &Log, service: Option<&Service>, seed: u64) -> Result<Vec<Job>, String> {
    let served = log.entries.iter().filter(|entry| entry.fate == Fate::Served);
    let known: Vec<u64> = served.filter_map(crate::logs::Entry::service).collect();
    if known.is_empty() && service.is_none() {
        return Err(format!(
            "the log ({}) does not say how long requests kept their dynos: give --service, such as exp:50ms",
            log.format.name()
        ));
    }
    if !known.is_empty() && service.is_some() {
        return Err("the log has service times of its own: leave --service out".to_owned());
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut draw = || match service {
        Some(service) => service.draw(&mut rng),
        None => known[rng.usize(..known.len())],
    };
    let job = |entry: &crate::logs::Entry| Job {
        arrival: entry.start,
        service: entry.service().unwrap_or_else(&mut draw),
    };
    Ok(log.entries.iter().map(job).collect())
}

/// From the first arrival to the last, in nanoseconds.
pub(super) fn span(jobs: &[Job]) -> u64 {
    jobs.first().zip(jobs.last()).map_or(0, |(first, last)| last.arrival - first.arrival)
}

/// The work of a load, in dynos that are never idle.
pub(super) fn load(jobs: &[Job]) -> f64 {
    let work: f64 = jobs.iter().map(|job| job.service as f64).sum();
    work / (span(jobs) as f64 + work / jobs.len().max(1) as f64).max(1.0)
}

/// The most requests at once if nobody has to wait.
pub(super) fn peak(jobs: &[Job], times: f64) -> usize {
    let mut ends: Vec<u64> = jobs.iter().map(|job| at(job, times) + job.service).collect();
    ends.sort_unstable();
    let (mut over, mut most) = (0, 1);
    for (count, job) in (1..).zip(jobs) {
        while ends.get(over).is_some_and(|end| *end <= at(job, times)) {
            over += 1;
        }
        most = most.max(count - over.min(count));
    }
    most
}

/// All requests in one line, first come first served.
pub(super) fn one_line(jobs: &[Job], times: f64, dynos: usize) -> Replayed {
    let mut oracle = Oracle::new(dynos);
    replayed(jobs, times, dynos, |arrival, service| oracle.wait(arrival, service))
}

/// Each request to a dyno by lot, whatever that dyno has to do.
pub(super) fn random(jobs: &[Job], times: f64, dynos: usize, seed: u64) -> Replayed {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut free = vec![0_u64; dynos];
    replayed(jobs, times, dynos, |arrival, service| {
        let dyno = &mut free[rng.usize(..dynos)];
        let start = arrival.max(*dyno);
        *dyno = start.saturating_add(service);
        start - arrival
    })
}

fn replayed(jobs: &[Job], times: f64, dynos: usize, mut wait: impl FnMut(u64, u64) -> u64) -> Replayed {
    let (mut waits, mut latencies) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
    for job in jobs {
        let wait = wait(at(job, times), job.service);
        waits.push(wait);
        latencies.push(wait.saturating_add(job.service));
    }
    Replayed { waits, latencies, busy: load(jobs) * times / dynos as f64 }
}

impl Replayed {
    /// Of one request.
    #[cfg(test)]
    pub(super) fn of_one(wait: u64, service: u64) -> Self {
        Self { waits: vec![wait], latencies: vec![wait + service], busy: 0.0 }
    }

    pub(super) fn figures(mut self) -> Figures {
        let ms = |values: &mut [u64], share| quantile(values, share) as f64 / 1e6;
        Figures {
            queued_share: queued(&self.waits),
            wait_mean_ms: mean(&self.waits) / 1e6,
            wait_p95_ms: ms(&mut self.waits, 0.95),
            wait_p99_ms: ms(&mut self.waits, 0.99),
            latency_p99_ms: ms(&mut self.latencies, 0.99),
            busy_share: self.busy.min(1.0),
        }
    }
}

/// The share of waits that are not 0.
pub(super) fn queued(waits: &[u64]) -> f64 {
    waits.iter().filter(|wait| **wait > 0).count() as f64 / waits.len().max(1) as f64
}

pub(super) fn mean(values: &[u64]) -> f64 {
    values.iter().map(|value| *value as f64).sum::<f64>() / values.len().max(1) as f64
}

/// The smallest value that this share of all does not exceed. Changes their order.
pub(super) fn quantile(values: &mut [u64], share: f64) -> u64 {
    // Less what the product may be too large by, as 0.999 of 1000 values is: that is the 999th, and not the last.
    let place = (share * values.len() as f64 * (1.0 - 1e-12)).ceil() as usize;
    let place = place.clamp(1, values.len().max(1)) - 1;
    if values.is_empty() { 0 } else { *values.select_nth_unstable(place).1 }
}

/// When a job comes if the load is `times` the log's.
fn at(job: &Job, times: f64) -> u64 {
    (job.arrival as f64 / times) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs_of(all: &[(u64, u64)]) -> Vec<Job> {
        all.iter().map(|(arrival, service)| Job { arrival: *arrival, service: *service }).collect()
    }

    #[test]
    fn a_quantile_is_the_smallest_value_that_so_many_do_not_exceed() {
        let at = |count: u64, share| quantile(&mut (1..=count).rev().collect::<Vec<_>>(), share);
        // As a target has it: 99.9 / 100 is more than 0.999.
        assert_eq!([at(100, 0.95), at(100, 0.99), at(1_000, 99.9 / 100.0)], [95, 99, 999]);
        assert_eq!([at(1_001, 99.9 / 100.0), at(10_000, 99.99 / 100.0)], [1_000, 9_999]);
        assert_eq!([at(3, 0.5), at(2, 0.5), at(1, 0.99), at(1, 0.01)], [2, 1, 1, 1]);
        assert_eq!((quantile(&mut [], 0.5), mean(&[]), queued(&[])), (0, 0.0, 0.0));
    }

    #[test]
    fn the_figures_of_a_replay_are_those_of_its_requests() {
        // One dyno, a request each 10 ms that takes 20 ms: the n-th waits for n x 10 ms.
        let ms = 1_000_000;
        let jobs = jobs_of(&(0..100).map(|n| (n * 10 * ms, 20 * ms)).collect::<Vec<_>>());
        let figures = one_line(&jobs, 1.0, 1).figures();
        assert_eq!((figures.queued_share, figures.wait_mean_ms), (0.99, 495.0), "{figures:?}");
        assert_eq!(
            (figures.wait_p95_ms, figures.wait_p99_ms, figures.latency_p99_ms),
            (940.0, 980.0, 1_000.0)
        );
        assert_eq!(figures.busy_share, 1.0, "no dyno is more than always busy");
        // 2 s of work, and 0.99 s and one service time to do it in.
        let few = one_line(&jobs, 1.0, 4).figures();
        assert!((few.busy_share - 2.0 / 1.01 / 4.0).abs() < 1e-9 && few.queued_share == 0.0, "{few:?}");
        // Half as fast there is no wait; and half as much to do.
        let slow = one_line(&jobs, 0.5, 1).figures();
        assert_eq!((slow.queued_share, slow.wait_p99_ms), (0.0, 0.0), "{slow:?}");
        assert!((one_line(&jobs, 2.0, 8).figures().busy_share - few.busy_share).abs() < 1e-9);
    }

    #[test]
    fn one_nanosecond_of_waiting_is_waiting() {
        assert_eq!(one_line(&jobs_of(&[(0, 11), (10, 5)]), 1.0, 1).waits, [0, 1]);
        assert_eq!(queued(&[0, 1]), 0.5);
    }

    #[test]
    fn the_peak_of_more_load_is_that_of_arrivals_closer_together() {
        let jobs = jobs_of(&[(0, 10), (10, 10), (20, 10)]);
        assert_eq!([1.0, 2.0, 3.0].map(|times| peak(&jobs, times)), [1, 2, 3]);
        let apart = jobs_of(&[(0, 10), (20, 10), (40, 10), (60, 10)]);
        assert_eq!(peak(&apart, 2.0), 1, "each is done when the next one comes");
    }
}
