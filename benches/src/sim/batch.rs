//! All replications of all cases, over all cores; what comes of it does not depend on how many there are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::path::Path;
use super::tally::Tally;
use super::world::replicate;
use super::{Case, Outcome, Progress, Setup};
use crate::oracle::Oracle;

/// Simulates the cases, and gives what they came to in their order. A run that `progress` ends early keeps what there
/// is by then: cases that have no request yet have 0 of them.
///
/// # Errors
/// What [`Setup::check`] finds.
pub fn run(setup: &Setup, cases: &[Case], progress: &Progress) -> Result<Vec<Outcome>, String> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    run_on(cores, setup, cases, progress)
}

/// The same on so many threads.
pub(super) fn run_on(
    threads: usize,
    setup: &Setup,
    cases: &[Case],
    progress: &Progress,
) -> Result<Vec<Outcome>, String> {
    setup.check(cases)?;
    // The ideal line has no end in overload, and no meaning where clients give up.
    let ideal = setup.load() < 1.0 && setup.patience.is_none();
    let width = cases.len() + usize::from(ideal);
    let jobs = setup.replications as usize * width;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Sums::new(width);
        loop {
            // Replication by replication, so that a run that ends early has some of each case.
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs || progress.interrupt.load(Ordering::Relaxed) {
                return mine;
            }
            let replication = u32::try_from(job / width).unwrap_or(u32::MAX);
            let tally = match cases.get(job % width) {
                Some(case) => replicate(setup, case, replication, progress),
                None => ideal_line(setup, replication),
            };
            mine.tallies[job % width].add(&tally);
            mine.means.extend((tally.served > 0).then(|| (job, tally.mean_wait())));
        }
    };
    let all = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(jobs)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_fold(Sums::new(width), |all, worker| Some(all.with(worker.join().ok()?)))
    });
    let mut all = all.ok_or("a thread of the simulation ended early")?;
    all.means.sort_by_key(|(job, _)| *job);
    let ideal = all.tallies.get(cases.len());
    let outcome = |(place, (case, tally)): (usize, (&Case, &Tally))| {
        let means = all.means.iter().filter(|(job, _)| job % width == place).map(|(_, mean)| *mean);
        let mut outcome = Outcome::new(setup, case, tally, &means.collect::<Vec<_>>(), ideal);
        outcome.interrupted |= progress.interrupt.load(Ordering::Relaxed);
        outcome
    };
    Ok(cases.iter().zip(&all.tallies).enumerate().map(outcome).collect())
}

/// What a thread has simulated: a tally for each case, and the mean wait of each replication with its number.
struct Sums {
    tallies: Vec<Tally>,
    means: Vec<(usize, f64)>,
}

impl Sums {
    fn new(width: usize) -> Self {
        Self { tallies: (0..width).map(|_| Tally::new()).collect(), means: Vec::new() }
    }

    fn with(mut self, other: Self) -> Self {
        self.tallies.iter_mut().zip(&other.tallies).for_each(|(mine, other)| mine.add(other));
        self.means.extend(other.means);
        self
    }
}

/// The same arrivals and service times in the ideal line.
fn ideal_line(setup: &Setup, replication: u32) -> Tally {
    let mut tally = Tally::new();
    let mut oracle = Oracle::new(setup.dynos as usize);
    for arrival in Path::new(setup, replication) {
        let wait = oracle.wait(arrival.at, arrival.service);
        if arrival.counted {
            tally.requests += 1;
            tally.started(wait, 0);
        }
    }
    tally
}
