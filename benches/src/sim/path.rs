//! What comes: the arrivals of a replication with their service times and routers, the same for every policy.

use super::{Length, Setup};
use crate::service::{Service, exponential};

/// A request as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// When, in nanoseconds.
    pub(super) at: u64,
    /// How long a dyno will work on it, in nanoseconds.
    pub(super) service: u64,
    /// Which router it comes to.
    pub(super) router: u32,
    /// Whether it counts.
    pub(super) counted: bool,
}

/// The arrivals of a replication, in order.
pub(super) struct Path<'a> {
    service: &'a Service,
    gap: f64,
    /// The sum of the shares of the routers up to each.
    shares: Vec<f64>,
    now: f64,
    /// Requests that do not count, and come first.
    warmup: u64,
    left: u64,
    end: f64,
    arrivals: fastrand::Rng,
    services: fastrand::Rng,
    routers: fastrand::Rng,
}

/// What lots of a replication are drawn for, so that none depends on another.
#[derive(Clone, Copy)]
pub(super) enum Lots {
    Arrivals,
    Services,
    Routers,
    Policy,
}

/// The generator of these lots in this replication.
pub(super) fn lots(seed: u64, replication: u32, of: Lots) -> fastrand::Rng {
    let mut rng = fastrand::Rng::with_seed(seed);
    for turn in [u64::from(replication), of as u64] {
        // Drawn from in between, so that neighbours have nothing in common.
        rng = fastrand::Rng::with_seed(rng.u64(..).wrapping_add(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    }
    fastrand::Rng::with_seed(rng.u64(..))
}

impl<'a> Path<'a> {
    pub(super) fn new(setup: &'a Setup, replication: u32) -> Self {
        let lots = |of| lots(setup.seed, replication, of);
        let (warmup, left, end) = match setup.length {
            Length::Requests(all) => {
                let parts = u64::from(setup.replications);
                let mine = all / parts + u64::from(u64::from(replication) < all % parts);
                (mine / 4, mine, f64::INFINITY)
            }
            Length::Time(time) => (0, u64::MAX, time.as_secs_f64() * 1e9),
        };
        let even = vec![1.0; setup.routers as usize];
        let shares = if setup.shares.is_empty() { &even } else { &setup.shares };
        let mut sum = 0.0;
        let shares = shares.iter().map(|share| {
            sum += share;
            sum
        });
        Self {
            service: &setup.service,
            gap: 1e9 / setup.rate,
            shares: shares.collect(),
            now: 0.0,
            warmup,
            left,
            end,
            arrivals: lots(Lots::Arrivals),
            services: lots(Lots::Services),
            routers: lots(Lots::Routers),
        }
    }
}

impl Iterator for Path<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let counted = self.warmup == 0;
        let left = if counted { &mut self.left } else { &mut self.warmup };
        *left = left.checked_sub(1)?;
        self.now += exponential(&mut self.arrivals) * self.gap;
        if self.now >= self.end {
            return None;
        }
        let service = self.service.draw(&mut self.services);
        let router = match self.shares.as_slice() {
            [_] => 0,
            shares => {
                let pick = self.routers.f64() * shares.last().unwrap_or(&0.0);
                shares.partition_point(|below| *below <= pick).min(shares.len() - 1)
            }
        };
        Some(Arrival { at: self.now.round() as u64, service, router: router as u32, counted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn setup(length: Length) -> Setup {
        let service = "fixed:10ms".parse().unwrap();
        Setup { length, replications: 3, routers: 3, ..Setup::new(service, 10, 1_000.0) }
    }

    #[test]
    fn all_requests_that_were_asked_for_count_after_a_quarter_more() {
        let setup = setup(Length::Requests(100_001));
        let all = [0, 1, 2].map(|replication| Path::new(&setup, replication).collect::<Vec<_>>());
        let counted = all.iter().map(|path| path.iter().filter(|arrival| arrival.counted).count());
        assert_eq!(counted.collect::<Vec<_>>(), [33_334, 33_334, 33_333]);
        for path in &all {
            let warmup = path.iter().take_while(|arrival| !arrival.counted).count();
            assert_eq!(warmup, 33_333 / 4);
            assert!(path[warmup..].iter().all(|arrival| arrival.counted));
            assert!(path.windows(2).all(|pair| pair[0].at <= pair[1].at));
            let mean = path.last().unwrap().at as f64 / path.len() as f64;
            assert!((mean / 1e6 - 1.0).abs() < 0.03, "{mean} ns between two of 1000 a second");
        }
        assert_ne!(all[0][0].at, all[1][0].at, "replications are independent");
    }

    #[test]
    fn a_time_has_an_end_and_no_warm_up() {
        let setup = setup(Length::Time(Duration::from_secs(20)));
        let path: Vec<_> = Path::new(&setup, 0).collect();
        assert!((19_000..21_000).contains(&path.len()), "{}", path.len());
        assert!(path.iter().all(|arrival| arrival.counted && arrival.at < 20_000_000_000));
    }

    #[test]
    fn routers_get_their_shares() {
        let setup = Setup { shares: vec![5.0, 0.0, 15.0], ..setup(Length::Requests(60_000)) };
        let mut counts = [0.0; 3];
        Path::new(&setup, 0).for_each(|arrival| counts[arrival.router as usize] += 1.0);
        let all: f64 = counts.iter().sum();
        assert!((counts[0] / all - 0.25).abs() < 0.01 && counts[1] == 0.0, "{counts:?}");
    }
}
