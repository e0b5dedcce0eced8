//! Service times as they are written on a command line, both ways.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;

use super::{LONGEST, Points, Service};

const ALLOWED: &str = "allowed are fixed:TIME, exp:MEAN, lognormal:MEDIAN,P99, weibull:SHAPE,SCALE, \
    pareto:SHAPE,MIN, bimodal:90%5ms,10%100ms, file:PATH and rapgenius, each also with \" x FACTOR\" behind it";
/// The most parts of a bimodal service time.
const MOST_PARTS: usize = 16;

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = |f: &mut fmt::Formatter<'_>, factor: f64| {
            if factor == 1.0 { Ok(()) } else { write!(f, " x {factor}") }
        };
        match self {
            Self::Instant => f.write_str("instant"),
            Self::Fixed(time) => write!(f, "fixed:{}", format_duration(*time)),
            Self::Exponential(mean) => write!(f, "exp:{}", format_duration(*mean)),
            Self::LogNormal { median, p99 } => {
                write!(f, "lognormal:{},{}", format_duration(*median), format_duration(*p99))
            }
            Self::Weibull { shape, scale } => write!(f, "weibull:{shape},{}", format_duration(*scale)),
            Self::Pareto { shape, min } => write!(f, "pareto:{shape},{}", format_duration(*min)),
            Self::RapGenius(by) => f.write_str("rapgenius").and_then(|()| factor(f, *by)),
            Self::Points(points, by) => f.write_str(points.text()).and_then(|()| factor(f, *by)),
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((plain, factor)) = text.rsplit_once(" x ")
            && let Ok(factor) = factor.parse::<f64>()
        {
            if !(factor > 0.0 && factor <= 1e6) {
                return Err(format!("\"{text}\": the factor must be more than 0 and at most 1000000"));
            }
            let scaled = plain.parse::<Self>()?.scaled(factor);
            return match scaled.is_some_time() {
                true => Ok(scaled),
                false => Err(format!(
                    "\"{text}\": nothing is left of times that short: they are whole nanoseconds"
                )),
            };
        }
        let wrong = |why: String| format!("\"{text}\": {why}; {ALLOWED}");
        let Some((name, rest)) = text.split_once(':') else {
            return match text {
                "rapgenius" => Ok(Self::RapGenius(1.0)),
                _ => Err(format!("\"{text}\" is not a service time; {ALLOWED}")),
            };
        };
        match name {
            "fixed" => Ok(Self::Fixed(time(rest).map_err(wrong)?)),
            "exp" | "exponential" => Ok(Self::Exponential(time(rest).map_err(wrong)?)),
            "lognormal" => {
                let (median, p99) = pair(rest, "MEDIAN,P99").map_err(wrong)?;
                let (median, p99) = (time(median).map_err(wrong)?, time(p99).map_err(wrong)?);
                if p99 < median {
                    return Err(wrong("the 99th percentile is shorter than the median".to_owned()));
                }
                Ok(Self::LogNormal { median, p99 })
            }
            "weibull" => {
                let (shape, scale) = pair(rest, "SHAPE,SCALE").map_err(wrong)?;
                let shape = self::shape(shape, 0.1).map_err(wrong)?;
                Ok(Self::Weibull { shape, scale: time(scale).map_err(wrong)? })
            }
            "pareto" => {
                let (shape, min) = pair(rest, "SHAPE,MIN").map_err(wrong)?;
                let shape = self::shape(shape, 0.5).map_err(wrong)?;
                Ok(Self::Pareto { shape, min: time(min).map_err(wrong)? })
            }
            "bimodal" => Ok(Self::Points(Arc::new(bimodal(text, rest).map_err(wrong)?), 1.0)),
            "file" => Ok(Self::Points(Arc::new(Points::read(Path::new(rest))?), 1.0)),
            _ => Err(format!("\"{text}\" is not a service time; {ALLOWED}")),
        }
    }
}

fn pair<'a>(text: &'a str, what: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once(',').ok_or_else(|| format!("it takes two: {what}"))
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(time) if time.is_zero() || time > LONGEST => {
            Err(format!("the time {text} must be more than 0 and at most 300s"))
        }
        Ok(time) => Ok(time),
        Err(error) => Err(format!("the time {text:?}: {error}")),
    }
}

fn shape(text: &str, least: f64) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(shape) if shape >= least && shape <= 100.0 => Ok(shape),
        _ => Err(format!("the shape must be a number from {least} to 100")),
    }
}

/// Parts like `90%5ms`, which come to 100 % together.
fn bimodal(text: &str, parts: &str) -> Result<Points, String> {
    let mut counts = BTreeMap::new();
    let (mut parts_seen, mut sum) = (0, 0.0);
    for part in parts.split(',') {
        let (share, after) = part.split_once('%').ok_or_else(|| format!("{part:?} is not like 90%5ms"))?;
        let share = match share.trim().parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 100.0 => share,
            _ => return Err(format!("the share {share:?} must be a number of percent up to 100")),
        };
        // A millionth of a percent is the finest share.
        let nanos = u64::try_from(time(after)?.as_nanos()).unwrap_or(u64::MAX);
        *counts.entry(nanos).or_insert(0) += (share * 1e6).round() as u64;
        parts_seen += 1;
        sum += share;
    }
    if !(2..=MOST_PARTS).contains(&parts_seen) {
        return Err(format!("it takes 2 to {MOST_PARTS} parts, not {parts_seen}"));
    }
    if (sum - 100.0_f64).abs() > 0.01 {
        return Err(format!("the shares come to {sum} % and not to 100 %"));
    }
    Ok(Points::new(text.to_owned(), counts, Vec::new()))
}
