//! How long a request keeps its dyno: the service time distributions, drawn by the generator from a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The Weibull shape of the published RapGenius service times.
const RAPGENIUS_SHAPE: f64 = 0.46;
/// The Weibull scale of the published RapGenius service times (median 50 ms).
const RAPGENIUS_SCALE: Duration = Duration::from_micros(110_900);
/// The published times are cut here.
const RAPGENIUS_MIN: Duration = Duration::from_millis(10);
/// The published times are cut here.
const RAPGENIUS_MAX: Duration = Duration::from_secs(30);
/// No service time is longer, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(300);

/// A distribution of service times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// The dyno answers at once: for plain forwarding.
    Instant,
    /// Always the same time.
    Fixed(Duration),
    /// Exponential with this mean.
    Exponential(Duration),
    /// Weibull with shape 0.46 and scale 110.9 ms, cut to 10 ms .. 30 s, all times this factor.
    RapGenius(f64),
}

impl Service {
    /// Draws one service time, in nanoseconds.
    pub fn draw(self, rng: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Instant => 0,
            Self::Fixed(time) => nanos(time.as_secs_f64()),
            Self::Exponential(mean) => nanos(mean.as_secs_f64() * exponential(rng)),
            Self::RapGenius(factor) => nanos(rapgenius(exponential(rng)) * factor),
        }
    }

    /// The mean, in seconds: what a dyno's capacity follows from.
    pub fn mean(self) -> f64 {
        match self {
            Self::Instant => 0.0,
            Self::Fixed(time) | Self::Exponential(time) => time.as_secs_f64(),
            Self::RapGenius(factor) => rapgenius_mean() * factor,
        }
    }

    /// The same distribution with all times `factor` as long.
    pub fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Instant => self,
            Self::Fixed(time) => Self::Fixed(time.mul_f64(factor)),
            Self::Exponential(mean) => Self::Exponential(mean.mul_f64(factor)),
            Self::RapGenius(before) => Self::RapGenius(before * factor),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant => f.write_str("instant"),
            Self::Fixed(time) => write!(f, "fixed:{}", humantime::format_duration(*time)),
            Self::Exponential(mean) => write!(f, "exp:{}", humantime::format_duration(*mean)),
            Self::RapGenius(1.0) => f.write_str("rapgenius"),
            Self::RapGenius(factor) => write!(f, "rapgenius x {factor}"),
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed are \"fixed:10ms\", \"exp:10ms\" and \"rapgenius\"";
        let (name, time) = match text.split_once(':') {
            Some((name, time)) => (name, Some(time)),
            None => (text, None),
        };
        let time = match time.map(humantime::parse_duration) {
            Some(Err(error)) => return Err(format!("\"{text}\": {error}; {ALLOWED}")),
            Some(Ok(time)) if time > LONGEST || time.is_zero() => {
                return Err(format!("\"{text}\": the time must be more than 0 and at most 300s"));
            }
            Some(Ok(time)) => Some(time),
            None => None,
        };
        match (name, time) {
            ("fixed", Some(time)) => Ok(Self::Fixed(time)),
            ("exp" | "exponential", Some(mean)) => Ok(Self::Exponential(mean)),
            ("rapgenius", None) => Ok(Self::RapGenius(1.0)),
            _ => Err(format!("\"{text}\" is not a service time; {ALLOWED}")),
        }
    }
}

/// A draw from the exponential distribution with mean 1.
pub fn exponential(rng: &mut fastrand::Rng) -> f64 {
    // 1 - u is in (0, 1], so the logarithm is finite.
    -(1.0 - rng.f64()).ln()
}

/// Turns an exponential draw with mean 1 into a RapGenius service time in seconds.
fn rapgenius(draw: f64) -> f64 {
    let raw = RAPGENIUS_SCALE.as_secs_f64() * draw.powf(1.0 / RAPGENIUS_SHAPE);
    raw.clamp(RAPGENIUS_MIN.as_secs_f64(), RAPGENIUS_MAX.as_secs_f64())
}

/// The mean of the cut distribution, by the midpoint rule over equally likely slices.
fn rapgenius_mean() -> f64 {
    const SLICES: u32 = 200_000;
    let slice = |i: u32| rapgenius(-(1.0 - (f64::from(i) + 0.5) / f64::from(SLICES)).ln());
    (0..SLICES).map(slice).sum::<f64>() / f64::from(SLICES)
}

fn nanos(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds)
        .map_or(LONGEST, |time| time.min(LONGEST))
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(service: Service, count: u32) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(7);
        (0..count).map(|_| service.draw(&mut rng) as f64 / 1e9).collect()
    }

    fn mean(sample: &[f64]) -> f64 {
        sample.iter().sum::<f64>() / sample.len() as f64
    }

    #[test]
    fn a_fixed_service_time_is_always_the_same() {
        assert!(sample(Service::Fixed(Duration::from_millis(10)), 100).iter().all(|s| *s == 0.01));
    }

    #[test]
    fn the_exponential_mean_is_the_one_asked_for() {
        let service = Service::Exponential(Duration::from_millis(10));
        let drawn = sample(service, 400_000);
        assert!((mean(&drawn) / service.mean() - 1.0).abs() < 0.01, "mean {}", mean(&drawn));
        let variance = drawn.iter().map(|s| (s - 0.01).powi(2)).sum::<f64>() / drawn.len() as f64;
        assert!((variance / 1e-4 - 1.0).abs() < 0.03, "variance {variance}");
    }

    #[test]
    fn rapgenius_times_match_the_published_figures() {
        let mut drawn = sample(Service::RapGenius(1.0), 400_000);
        // The re-run of the published simulation: mean 265 ms, median 51, p99 3.1 s.
        assert!((mean(&drawn) / 0.265 - 1.0).abs() < 0.04, "mean {}", mean(&drawn));
        assert!((Service::RapGenius(1.0).mean() / mean(&drawn) - 1.0).abs() < 0.02);
        drawn.sort_by(f64::total_cmp);
        assert!((drawn[drawn.len() / 2] / 0.050 - 1.0).abs() < 0.03);
        assert!((drawn[drawn.len() * 99 / 100] / 3.1 - 1.0).abs() < 0.05);
        assert_eq!(drawn[0], 0.01);
        assert!(*drawn.last().unwrap() <= 30.0);
    }

    #[test]
    fn a_scale_factor_scales_the_mean() {
        let service: Service = "rapgenius".parse().unwrap();
        assert!((service.scaled(0.1).mean() / service.mean() - 0.1).abs() < 1e-9);
        assert_eq!("exp:10ms".parse::<Service>().unwrap().scaled(2.0).mean(), 0.02);
    }

    #[test]
    fn a_wrong_service_time_says_what_is_allowed() {
        for wrong in ["exp", "fixed:0s", "fixed:10", "uniform:1s", "rapgenius:1s", "exp:301s"] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong}");
        }
        assert!("gamma".parse::<Service>().unwrap_err().contains("rapgenius"));
    }
}
