//! What is counted in a replication, in whole numbers, so that sums do not depend on the order of adding.

use hdrhistogram::Histogram;

use super::world::Request;

/// The counts of a replication, or of several.
#[derive(Debug)]
pub(super) struct Tally {
    /// Requests that count.
    pub(super) requests: u64,
    /// Those that got a dyno.
    pub(super) served: u64,
    /// Those of them that waited longer than their ways take.
    pub(super) queued: u64,
    /// Answers in time.
    pub(super) good: u64,
    /// Answers after the client had given up.
    pub(super) late: u64,
    /// Requests that were not let in, or taken out of the line.
    pub(super) refused: u64,
    /// Requests that left the line by themselves.
    pub(super) gone: u64,
    /// Requests that went from one router to another.
    pub(super) forwarded: u64,
    /// The sum of all waits.
    waits: u128,
    /// The wait of those that got a dyno.
    pub(super) wait: Histogram<u64>,
    /// From arrival to the answer, of the good ones.
    pub(super) latency: Histogram<u64>,
    /// How long those waited that were refused.
    refused_after: u128,
    /// Time that dynos have worked in the time that counts.
    pub(super) busy: u128,
    /// The part of it that was for good answers.
    pub(super) useful: u128,
    /// The time that counts.
    pub(super) time: u128,
    /// Requests that came to a dyno that was not free.
    pub(super) overlaps: u64,
    /// Replications in which more waited than there is room for.
    pub(super) overrun: u64,
    /// Whether it was ended early.
    pub(super) interrupted: bool,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            requests: 0,
            served: 0,
            queued: 0,
            good: 0,
            late: 0,
            refused: 0,
            gone: 0,
            forwarded: 0,
            waits: 0,
            wait: histogram(),
            latency: histogram(),
            refused_after: 0,
            busy: 0,
            useful: 0,
            time: 0,
            overlaps: 0,
            overrun: 0,
            interrupted: false,
        }
    }

    /// A dyno begins to work on a request that has waited this long, its ways included.
    pub(super) fn started(&mut self, wait: u64, ways: u64) {
        self.served += 1;
        self.queued += u64::from(wait > ways);
        self.waits += u128::from(wait);
        self.wait.saturating_record(wait);
    }

    /// An answer has come to its client.
    pub(super) fn answered(&mut self, latency: u64, good: bool) {
        if good {
            self.good += 1;
            self.latency.saturating_record(latency);
        } else {
            self.late += 1;
        }
    }

    /// A request was refused.
    pub(super) fn refused(&mut self, request: &Request, now: u64) {
        self.refused += 1;
        self.refused_after += u128::from(now - request.arrived);
    }

    /// The mean wait of those that got a dyno, in nanoseconds.
    pub(super) fn mean_wait(&self) -> f64 {
        if self.served == 0 { 0.0 } else { self.waits as f64 / self.served as f64 }
    }

    /// How long those waited on average that were refused, in nanoseconds.
    pub(super) fn mean_refused_after(&self) -> Option<f64> {
        (self.refused > 0).then(|| self.refused_after as f64 / self.refused as f64)
    }

    /// Adds another one.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.served += other.served;
        self.queued += other.queued;
        self.good += other.good;
        self.late += other.late;
        self.refused += other.refused;
        self.gone += other.gone;
        self.forwarded += other.forwarded;
        self.waits += other.waits;
        // Both have the same bounds, so nothing can be too large.
        let fits = self.wait.add(&other.wait).is_ok() && self.latency.add(&other.latency).is_ok();
        debug_assert!(fits, "histograms of one kind can be added");
        self.refused_after += other.refused_after;
        self.busy += other.busy;
        self.useful += other.useful;
        self.time += other.time;
        self.overlaps += other.overlaps;
        self.overrun += other.overrun;
        self.interrupted |= other.interrupted;
    }
}

/// Nanoseconds up to ten days, to three digits.
fn histogram() -> Histogram<u64> {
    #[expect(clippy::unwrap_used, reason = "the three arguments are constants that the crate allows")]
    Histogram::new_with_bounds(1, 1_000_000_000_000_000, 3).unwrap()
}
