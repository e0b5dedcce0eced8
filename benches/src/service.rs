//! How long a request keeps its dyno: the service time distributions, drawn from a seed.
//!
//! A distribution is read from the text that the command line takes, and written as it is read:
//!
//! | text | service times |
//! |---|---|
//! | `fixed:10ms` | always the same |
//! | `exp:10ms` | exponential with this mean: SCV 1, what the formulas of queueing theory are about |
//! | `lognormal:50ms,400ms` | log-normal with this median and this 99th percentile, as a monitoring page shows them |
//! | `weibull:0.46,110.9ms` | Weibull with this shape (below 1: a heavy tail) and this scale |
//! | `pareto:1.5,20ms` | Pareto with this shape (the smaller, the heavier its tail) and this least time |
//! | `bimodal:90%5ms,10%100ms` | 90 % of the requests take the one time and 10 % the other; two to sixteen of them |
//! | `file:times.txt` | those of a file: see [`Points::read`] |
//! | `rapgenius` | as published of RapGenius in 2013: Weibull of shape 0.46, median 50 ms, cut to 10 ms .. 30 s |
//!
//! ` x 0.1` behind any of them makes all times a tenth. No time is longer than 300 s, whatever is drawn.
//!
//! ```
//! use router_bench::service::Service;
//!
//! let service: Service = "lognormal:50ms,400ms".parse()?;
//! let (mean, scv) = (service.mean(), service.scv());
//! assert!(mean > 0.050 && scv > 1.0, "{mean} s, SCV {scv}");
//!
//! let mut rng = fastrand::Rng::with_seed(7);
//! let nanoseconds = service.draw(&mut rng);
//! assert!(nanoseconds > 0);
//! assert_eq!(service.to_string().parse::<Service>()?, service);
//! # Ok::<(), String>(())
//! ```

mod points;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;
use std::time::Duration;

pub use points::Points;

/// The Weibull shape of the published RapGenius service times.
const RAPGENIUS_SHAPE: f64 = 0.46;
/// The Weibull scale of the published RapGenius service times (median 50 ms).
const RAPGENIUS_SCALE: f64 = 0.1109;
/// The published times are cut here, in seconds.
const RAPGENIUS_CUT: (f64, f64) = (0.01, 30.0);
/// No service time is longer, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(300);
/// Where 99 % of the standard normal distribution are below.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

/// A distribution of service times. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    /// The dyno answers at once: for plain forwarding.
    Instant,
    /// Always the same time.
    Fixed(Duration),
    /// Exponential with this mean.
    Exponential(Duration),
    /// Log-normal.
    LogNormal {
        /// Half of the times are shorter.
        median: Duration,
        /// 99 % of the times are shorter.
        p99: Duration,
    },
    /// Weibull.
    Weibull {
        /// 1 is exponential, below 1 the tail is heavier.
        shape: f64,
        /// 63 % of the times are shorter.
        scale: Duration,
    },
    /// Pareto.
    Pareto {
        /// The smaller, the heavier the tail.
        shape: f64,
        /// The shortest time.
        min: Duration,
    },
    /// Weibull with shape 0.46 and scale 110.9 ms, cut to 10 ms .. 30 s, all times this factor.
    RapGenius(f64),
    /// Out of a list, all times this factor.
    Points(Arc<Points>, f64),
}

impl Service {
    /// Draws one service time, in nanoseconds.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Instant => 0,
            Self::Fixed(time) => nanos(time.as_secs_f64()),
            Self::LogNormal { .. } => nanos(self.of_normal(normal(rng))),
            Self::Points(points, factor) => nanos(points.draw(rng) as f64 / 1e9 * factor),
            Self::Exponential(_) | Self::Weibull { .. } | Self::Pareto { .. } | Self::RapGenius(_) => {
                nanos(self.of_exponential(exponential(rng)))
            }
        }
    }

    /// The mean, in seconds: what a dyno's capacity follows from.
    pub fn mean(&self) -> f64 {
        self.moments().0
    }

    /// The squared coefficient of variation: 0 for a fixed time, 1 for exponential ones. The mean wait in a line grows
    /// with it.
    pub fn scv(&self) -> f64 {
        let (mean, square) = self.moments();
        if mean > 0.0 { (square / (mean * mean) - 1.0).max(0.0) } else { 0.0 }
    }

    /// The same distribution with all times `factor` as long.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let by = |time: &Duration| {
            Duration::try_from_secs_f64(time.as_secs_f64() * factor).map_or(LONGEST, |time| time.min(LONGEST))
        };
        match self {
            Self::Instant => Self::Instant,
            Self::Fixed(time) => Self::Fixed(by(time)),
            Self::Exponential(mean) => Self::Exponential(by(mean)),
            Self::LogNormal { median, p99 } => Self::LogNormal { median: by(median), p99: by(p99) },
            Self::Weibull { shape, scale } => Self::Weibull { shape: *shape, scale: by(scale) },
            Self::Pareto { shape, min } => Self::Pareto { shape: *shape, min: by(min) },
            Self::RapGenius(before) => Self::RapGenius(before * factor),
            Self::Points(points, before) => Self::Points(Arc::clone(points), before * factor),
        }
    }

    /// Whether a nanosecond is left of each time that it is made of: a part of one is none.
    pub fn is_some_time(&self) -> bool {
        let parts: &[Duration] = match self {
            Self::Instant => return false,
            Self::Fixed(time) | Self::Exponential(time) => &[*time],
            Self::LogNormal { median, p99 } => &[*median, *p99],
            Self::Weibull { scale, .. } => &[*scale],
            Self::Pareto { min, .. } => &[*min],
            Self::RapGenius(_) | Self::Points(..) => &[],
        };
        parts.iter().all(|time| !time.is_zero()) && self.mean() >= 1e-9
    }

    /// What was wrong with the file that the times come from, a line each; nothing for the others.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Points(points, _) => points.warnings(),
            Self::Instant
            | Self::Fixed(_)
            | Self::Exponential(_)
            | Self::LogNormal { .. }
            | Self::Weibull { .. }
            | Self::Pareto { .. }
            | Self::RapGenius(_) => &[],
        }
    }

    /// The time in seconds that an exponential draw with mean 1 stands for.
    fn of_exponential(&self, draw: f64) -> f64 {
        match self {
            Self::Exponential(mean) => mean.as_secs_f64() * draw,
            Self::Weibull { shape, scale } => scale.as_secs_f64() * draw.powf(1.0 / shape),
            Self::Pareto { shape, min } => min.as_secs_f64() * (draw / shape).exp(),
            Self::RapGenius(factor) => {
                let raw = RAPGENIUS_SCALE * draw.powf(1.0 / RAPGENIUS_SHAPE);
                raw.clamp(RAPGENIUS_CUT.0, RAPGENIUS_CUT.1) * factor
            }
            Self::Instant | Self::Fixed(_) | Self::LogNormal { .. } | Self::Points(..) => 0.0,
        }
    }

    /// The time in seconds that a draw from the standard normal distribution stands for.
    fn of_normal(&self, draw: f64) -> f64 {
        let Self::LogNormal { median, p99 } = self else { return 0.0 };
        let (median, p99) = (median.as_secs_f64(), p99.as_secs_f64());
        median * (draw * (p99 / median).ln() / NORMAL_P99).exp()
    }

    /// Mean and mean square, in seconds, of the times as they are cut.
    fn moments(&self) -> (f64, f64) {
        match self {
            Self::Instant => (0.0, 0.0),
            Self::Fixed(time) => (time.as_secs_f64(), time.as_secs_f64().powi(2)),
            Self::Exponential(mean) => {
                let (mean, cut) = (mean.as_secs_f64(), LONGEST.as_secs_f64());
                let beyond = (-cut / mean).exp();
                (mean * (1.0 - beyond), 2.0 * mean * (mean - beyond * (mean + cut)))
            }
            Self::LogNormal { .. } => {
                let density = |z: f64| (-z * z / 2.0).exp();
                integrate((-12.0, 12.0), density, |z| self.of_normal(z))
            }
            // Beyond 60 there is nothing: the times are cut, and one draw in 10^26 is larger.
            Self::Weibull { .. } | Self::Pareto { .. } | Self::RapGenius(_) => {
                integrate((0.0, 60.0), |draw: f64| (-draw).exp(), |draw| self.of_exponential(draw))
            }
            Self::Points(points, factor) => points.moments(|time| cut(time * factor)),
        }
    }
}

/// Mean and mean square of the cut times over a density, by the midpoint rule.
fn integrate((from, to): (f64, f64), density: impl Fn(f64) -> f64, time: impl Fn(f64) -> f64) -> (f64, f64) {
    const SLICES: u32 = 50_000;
    let (mut all, mut mean, mut square) = (0.0, 0.0, 0.0);
    for slice in 0..SLICES {
        let at = from + (f64::from(slice) + 0.5) / f64::from(SLICES) * (to - from);
        let (weight, time) = (density(at), cut(time(at)));
        all += weight;
        mean += weight * time;
        square += weight * time * time;
    }
    (mean / all, square / all)
}

/// A draw from the exponential distribution with mean 1.
pub fn exponential(rng: &mut fastrand::Rng) -> f64 {
    // 1 - u is in (0, 1], so the logarithm is finite.
    -(1.0 - rng.f64()).ln()
}

/// A draw from the standard normal distribution (Box and Muller).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

fn cut(seconds: f64) -> f64 {
    seconds.min(LONGEST.as_secs_f64())
}

fn nanos(seconds: f64) -> u64 {
    (cut(seconds) * 1e9).round() as u64
}
