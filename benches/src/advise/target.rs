//! What is good enough (`p99 wait < 100ms`), and what a dyno costs (`25/month`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::replay::{Replayed, mean, quantile, queued};

/// Which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The wait in line.
    Wait,
    /// Wait and service.
    Latency,
}

/// A figure that has to stay below a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// The mean.
    Mean(What),
    /// This share of all stays below it.
    Percentile(f64, What),
    /// The share of requests that wait at all.
    Queued,
}

/// What is good enough: a figure below a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The figure.
    pub figure: Figure,
    /// Nanoseconds; for [`Figure::Queued`] a share from 0 to 1.
    pub limit: f64,
}

impl Default for Target {
    /// `p99 wait < 100ms`
    fn default() -> Self {
        Self { figure: Figure::Percentile(0.99, What::Wait), limit: 1e8 }
    }
}

impl Figure {
    /// The share of requests below it, if it is a percentile.
    pub(super) fn share(self) -> Option<f64> {
        match self {
            Self::Percentile(share, _) => Some(share),
            Self::Mean(_) | Self::Queued => None,
        }
    }
}

impl Target {
    pub(super) fn met(&self, replayed: Replayed) -> bool {
        self.value(replayed) < self.limit
    }

    pub(super) fn value(&self, replayed: Replayed) -> f64 {
        match self.figure {
            Figure::Mean(what) => mean(&what.of(replayed)),
            Figure::Percentile(share, what) => quantile(&mut what.of(replayed), share) as f64,
            Figure::Queued => queued(&replayed.waits),
        }
    }

    /// A value of this target's figure, with its unit.
    pub(super) fn show(&self, value: f64) -> String {
        match self.figure {
            Figure::Queued => format!("{}%", (value * 1e6).round() / 1e4),
            Figure::Mean(_) | Figure::Percentile(..) => {
                humantime::format_duration(Duration::from_micros((value / 1e3) as u64)).to_string()
            }
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean(what) => write!(f, "mean {}", what.name()),
            // To six digits, so that 0.999 is 99.9 and not 99.90000000000001.
            Self::Percentile(share, what) => write!(f, "p{} {}", (share * 1e8).round() / 1e6, what.name()),
            Self::Queued => f.write_str("queued"),
        }
    }
}

impl What {
    fn of(self, replayed: Replayed) -> Vec<u64> {
        match self {
            Self::Wait => replayed.waits,
            Self::Latency => replayed.latencies,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Latency => "latency",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.figure {
            Figure::Queued => write!(f, "{} < {}", self.figure, self.show(self.limit)),
            // As it was given, however short.
            Figure::Mean(_) | Figure::Percentile(..) => {
                let limit = Duration::from_nanos(self.limit as u64);
                write!(f, "{} < {}", self.figure, humantime::format_duration(limit))
            }
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed are \"p99 wait < 100ms\", \"p99.9 latency < 2s\", \"mean wait < 5ms\" and \
                               \"queued < 20%\"";
        let wrong = |why: &str| format!("\"{text}\" is no target: {why}; {ALLOWED}");
        let (figure, limit) = text.split_once('<').ok_or_else(|| wrong("there is no <"))?;
        let words: Vec<&str> = figure.split_ascii_whitespace().collect();
        let what = match words.get(1) {
            Some(&"wait") => Some(What::Wait),
            Some(&"latency") => Some(What::Latency),
            Some(_) | None => None,
        };
        let figure = match (&words[..], what) {
            (["queued"], _) => Figure::Queued,
            (["mean", _], Some(what)) => Figure::Mean(what),
            ([percentile, _], Some(what)) if percentile.starts_with('p') => {
                let number: Option<f64> = percentile[1..].parse().ok();
                let inside = number.filter(|number| *number > 0.0 && *number < 100.0);
                let number = inside.ok_or_else(|| wrong("a percentile is more than 0 and less than 100"))?;
                Figure::Percentile(number / 100.0, what)
            }
            _ => return Err(wrong("it begins with neither mean, nor a percentile, nor queued")),
        };
        let limit = limit.trim();
        let limit = if figure == Figure::Queued {
            let percent: Option<f64> = limit.strip_suffix('%').and_then(|number| number.trim().parse().ok());
            let inside = percent.filter(|number| *number > 0.0 && *number <= 100.0);
            inside.ok_or_else(|| wrong("a share is more than 0% and at most 100%"))? / 100.0
        } else {
            let time = humantime::parse_duration(limit).map_err(|error| wrong(&error.to_string()))?;
            let inside = Some(time).filter(|time| !time.is_zero() && *time <= Duration::from_secs(3600));
            inside.ok_or_else(|| wrong("a time is more than 0 and at most 1h"))?.as_nanos() as f64
        };
        Ok(Self { figure, limit })
    }
}

/// What one dyno costs in a span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    amount: f64,
    per: String,
}

impl Price {
    /// What so many cost.
    pub fn of(&self, dynos: usize) -> String {
        let sum = (self.amount * dynos as f64 * 100.0).round() / 100.0;
        format!("{sum}/{}", self.per)
    }
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SPANS: [&str; 5] = ["hour", "day", "week", "month", "year"];
        let wrong =
            || format!("\"{text}\" is no price: allowed are a number and one of {SPANS:?}, such as 25/month");
        let (amount, per) = text.split_once('/').ok_or_else(wrong)?;
        let amount: f64 = amount.trim().parse().map_err(|_| wrong())?;
        let per = per.trim();
        if !(0.0..=1e9).contains(&amount) || !SPANS.contains(&per) {
            return Err(wrong());
        }
        Ok(Self { amount, per: per.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_written() {
        for text in
            ["p99 wait < 100ms", "p99.9 latency < 2s", "mean wait < 5ms", "queued < 20%", "p50 wait < 1ms"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for short in ["p99 wait < 500ns", "mean latency < 1us 500ns"] {
            assert_eq!(short.parse::<Target>().unwrap().to_string(), short);
        }
        assert_eq!("p99 wait < 100ms".parse::<Target>().unwrap(), Target::default());
        assert_eq!("queued<0.5%".parse::<Target>().unwrap().limit, 0.005);
    }

    #[test]
    fn a_wrong_target_says_what_is_allowed() {
        for wrong in [
            "",
            "p99",
            "p99 wait",
            "p99 wait <",
            "p100 wait < 1ms",
            "p0 wait < 1ms",
            "p99 wait < 0s",
            "pNaN wait < 1s",
            "mean < 1ms",
            "queued < 0%",
            "queued < 101%",
            "queued < NaN%",
            "queued < 5ms",
            "mean wait < 2h",
            "best wait < 1ms",
        ] {
            let error = wrong.parse::<Target>().unwrap_err();
            assert!(error.contains("allowed are"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_target_is_met_below_its_limit_and_not_at_it() {
        let replayed = |wait| Replayed::of_one(wait, 1_000_000);
        let target: Target = "p50 wait < 2ms".parse().unwrap();
        assert!(target.met(replayed(1_999_999)) && !target.met(replayed(2_000_000)));
        let target: Target = "mean latency < 2ms".parse().unwrap();
        assert!(target.met(replayed(999_999)) && !target.met(replayed(1_000_000)));
        let target: Target = "queued < 100%".parse().unwrap();
        assert!(target.met(replayed(0)) && !target.met(replayed(1)));
        assert_eq!(target.show(0.125), "12.5%");
        assert_eq!("p50 wait < 2ms".parse::<Target>().unwrap().show(1_250_000.0), "1ms 250us");
    }

    #[test]
    fn a_price_is_for_a_span_of_time() {
        assert_eq!("25/month".parse::<Price>().unwrap().of(52), "1300/month");
        assert_eq!("0.05/hour".parse::<Price>().unwrap().of(3), "0.15/hour");
        for wrong in ["25", "25/fortnight", "-1/day", "x/day", "inf/day"] {
            assert!(wrong.parse::<Price>().is_err(), "{wrong}");
        }
    }
}
