//! What a case came to: from counts to figures.

use serde::Serialize;

use super::tally::Tally;
use super::{Case, Setup};

/// What a case came to. Times are milliseconds, shares are of the requests that count unless they say otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The policy.
    pub policy: String,
    /// What was shed; `None` for policies without a line.
    pub shed: Option<String>,
    /// Requests that count.
    pub requests: u64,
    /// Those that waited longer than their ways take; of those that got a dyno.
    pub queued_share: f64,
    /// From arrival to the dyno beginning to work, of those that got a dyno.
    pub wait_ms: Waits,
    /// Half the width of the 95 % confidence interval of the mean wait; `None` with one replication.
    pub half_width_ms: Option<f64>,
    /// The mean wait by the wait in the ideal line on the same arrivals and service times; `None` where nobody waits in
    /// that, or it has no end (overload), or clients give up.
    pub ratio: Option<f64>,
    /// That line: first come, first served, no ways, nobody gives up.
    pub ideal_wait_ms: Option<Waits>,
    /// What the dynos did for answers in time, as a share of all they could do.
    pub goodput: f64,
    /// The share of their time in which the dynos worked.
    pub dynos_busy: f64,
    /// Answers in time.
    pub good_share: f64,
    /// Answers after the client had given up.
    pub late_share: f64,
    /// Requests that were not let in, or taken out of the line.
    pub refused_share: f64,
    /// Requests that left the line because their client had given up.
    pub gone_share: f64,
    /// From arrival to the answer, 99th percentile of the answers in time.
    pub good_latency_p99_ms: Option<f64>,
    /// How long those waited that were refused, mean.
    pub refused_after_ms: Option<f64>,
    /// Requests that went from one router to another.
    pub forwarded_share: f64,
    /// Requests that came to a dyno which had one, under a policy that promises not to: always 0.
    pub overlaps: u64,
    /// The service times.
    pub service: String,
    /// Dynos.
    pub dynos: u32,
    /// Routers.
    pub routers: u32,
    /// Requests a second.
    pub rate: f64,
    /// Rate x mean service time / dynos.
    pub load: f64,
    /// The squared coefficient of variation of the service time.
    pub scv: f64,
    /// The seed.
    pub seed: u64,
    /// Independent parts that have counted requests.
    pub replications: u32,
    /// Whether lines grew so long that the simulation gave up: the load has no steady state.
    pub overrun: bool,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// Mean and percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Waits {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
}

impl Outcome {
    /// From the tally of a case, the mean waits of its replications in nanoseconds, and the tally of the ideal line.
    pub(super) fn new(setup: &Setup, case: &Case, all: &Tally, means: &[f64], ideal: Option<&Tally>) -> Self {
        let share = |count: u64, of: u64| if of == 0 { 0.0 } else { count as f64 / of as f64 };
        let capacity = all.time as f64 * f64::from(setup.dynos);
        let of_capacity = |work: u128| if capacity > 0.0 { work as f64 / capacity } else { 0.0 };
        let wait_ms = waits(all);
        let ideal_wait_ms = ideal.map(waits);
        let p99 = all.latency.value_at_quantile(0.99) as f64 / 1e6;
        Self {
            policy: case.policy.to_string(),
            shed: case.policy.has_line().then(|| case.shed.to_string()),
            requests: all.requests,
            queued_share: share(all.queued, all.served),
            wait_ms,
            half_width_ms: half_width(means).map(|nanos| nanos / 1e6),
            ratio: ideal_wait_ms.filter(|ideal| ideal.mean > 0.0).map(|ideal| wait_ms.mean / ideal.mean),
            ideal_wait_ms,
            goodput: of_capacity(all.useful),
            dynos_busy: of_capacity(all.busy),
            good_share: share(all.good, all.requests),
            late_share: share(all.late, all.requests),
            refused_share: share(all.refused, all.requests),
            gone_share: share(all.gone, all.requests),
            good_latency_p99_ms: (all.good > 0).then_some(p99),
            refused_after_ms: all.mean_refused_after().map(|nanos| nanos / 1e6),
            forwarded_share: share(all.forwarded, all.requests),
            overlaps: all.overlaps,
            service: setup.service.to_string(),
            dynos: setup.dynos,
            routers: setup.routers,
            rate: setup.rate,
            load: setup.load(),
            scv: setup.service.scv(),
            seed: setup.seed,
            replications: u32::try_from(means.len()).unwrap_or(u32::MAX),
            overrun: all.overrun > 0,
            interrupted: all.interrupted,
        }
    }
}

fn waits(tally: &Tally) -> Waits {
    let at = |quantile| match tally.served {
        0 => 0.0,
        _ => tally.wait.value_at_quantile(quantile) as f64 / 1e6,
    };
    Waits { mean: tally.mean_wait() / 1e6, p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999) }
}

/// Half the width of the 95 % confidence interval of the mean of independent values.
fn half_width(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    Some(student(freedom) * (variance / count).sqrt())
}

/// The two-sided 95 % point of Student's t with so many degrees of freedom.
fn student(freedom: usize) -> f64 {
    /// Where the expansion below is not exact to a hundredth.
    const FEW: [f64; 6] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447];
    const NORMAL: f64 = 1.959_964;
    if let Some(t) = FEW.get(freedom.wrapping_sub(1)) {
        return *t;
    }
    let (z, n) = (NORMAL, freedom as f64);
    z + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_that_they_are_called() {
        let mut tally = Tally::new();
        (1..=1_000).for_each(|ms| tally.started(ms * 1_000_000, 0));
        let Waits { mean, p50, p95, p99, p999 } = waits(&tally);
        let near = |[value, wanted]: [f64; 2]| (value / wanted - 1.0).abs() < 2e-3;
        let pairs = [[mean, 500.5], [p50, 500.0], [p95, 950.0], [p99, 990.0], [p999, 999.0]];
        assert!(pairs.into_iter().all(near), "{pairs:?}");
        assert_eq!(waits(&Tally::new()), Waits::default());
    }

    #[test]
    fn half_widths_are_students() {
        for (freedom, t) in [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (99, 1.984)] {
            assert!((student(freedom) - t).abs() < 0.003, "{freedom}: {}", student(freedom));
        }
        assert_eq!(half_width(&[1.0]), None);
        let width = half_width(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((width - 2.776 * (2.5_f64 / 5.0).sqrt()).abs() < 1e-9);
    }
}
