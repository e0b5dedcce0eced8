//! What happened in a simulation, counted.

/// What happened, over one seed or many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) served: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) timed_out: u64,
    pub(crate) gone: u64,
    pub(crate) again: u64,
    pub(crate) blows: u64,
    /// Times an app was paused, resumed, or put into maintenance.
    pub(crate) holds: u64,
    pub(crate) probes: u64,
    /// Dynos that were put into quarantine because they failed fast.
    pub(crate) ejected: u64,
    pub(crate) overlaps: u64,
    /// Deploys that were done, failed, or were rolled back; and dynos that were given up in them.
    pub(crate) deploys: [u64; 3],
    pub(crate) given_up: u64,
    /// Hash over everything that happened: the same for the same seed.
    pub(crate) trace: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.served += other.served;
        self.failed += other.failed;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.gone += other.gone;
        self.again += other.again;
        self.blows += other.blows;
        self.holds += other.holds;
        self.probes += other.probes;
        self.ejected += other.ejected;
        self.overlaps += other.overlaps;
        self.deploys.iter_mut().zip(other.deploys).for_each(|(sum, one)| *sum += one);
        self.given_up += other.given_up;
        self.trace ^= other.trace;
    }
}
