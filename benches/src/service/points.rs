//! Service times out of a list: a few that are given with their shares, or those of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::LONGEST;
use crate::number::count;

/// So many lines that cannot be read are shown.
const SHOWN: usize = 5;
/// So much of such a line is shown.
const SHOWN_OF_LINE: usize = 40;

/// Times and how often each comes.
#[derive(Debug, PartialEq)]
pub struct Points {
    /// As it was asked for.
    text: String,
    /// Nanoseconds, ascending, and how many draws are at most this long.
    times: Vec<(u64, u64)>,
    warnings: Vec<String>,
}

impl Points {
    /// The times of a file: on each line a time, or a time and how often it comes, parted by a space, a comma or a tab.
    /// A time is milliseconds (`12.5`) or has a unit (`12.5ms`, `2s`). Or what HdrHistogram prints, in milliseconds:
    /// from the line with `Value` and `Percentile` on, the value and the total count of each line. Empty lines and
    /// those that begin with `#` do not count. Lines that cannot be read are left out and [named](Self::warnings).
    ///
    /// # Errors
    /// When the file cannot be read or has no time above 0.
    pub fn read(path: &Path) -> Result<Self, String> {
        let show = path.display();
        let file = File::open(path).map_err(|error| format!("\"{show}\": {error}"))?;
        let (mut counts, mut bad, mut shown) = (BTreeMap::new(), 0_u64, Vec::new());
        let mut before = None;
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(|error| format!("\"{show}\": {error}"))?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.contains("Value") && line.contains("Percentile") {
                before = Some(0);
                continue;
            }
            match self::line(line, &mut before) {
                Some((time, count)) => {
                    let all = counts.entry(time).or_insert(0_u64);
                    *all = all.saturating_add(count);
                }
                None => {
                    bad += 1;
                    let some: String = line.chars().take(SHOWN_OF_LINE).collect();
                    shown.extend((shown.len() < SHOWN).then(|| format!("line {}: {some:?}", number + 1)));
                }
            }
        }
        let warnings = if bad == 0 {
            Vec::new()
        } else {
            let lines = count(bad, "line");
            vec![format!("\"{show}\": no service time in {lines}: {}", shown.join(", "))]
        };
        counts.retain(|_, count| *count > 0);
        if counts.keys().all(|time| *time == 0) {
            let why = warnings.first().map_or_else(String::new, |warning| format!(" ({warning})"));
            return Err(format!(
                "\"{show}\" has no service time: a line is a time, or a time and a count{why}"
            ));
        }
        Ok(Self::new(format!("file:{show}"), counts, warnings))
    }

    /// These times with how often each comes.
    pub(super) fn new(text: String, counts: BTreeMap<u64, u64>, warnings: Vec<String>) -> Self {
        let mut below = 0_u64;
        let times = counts.into_iter().map(|(time, count)| {
            below = below.saturating_add(count);
            (time, below)
        });
        Self { times: times.collect(), text, warnings }
    }

    /// What was wrong with the file.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// As it was asked for.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Draws a time, in nanoseconds.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> u64 {
        let pick = rng.u64(..self.total().max(1));
        let place = self.times.partition_point(|(_, below)| *below <= pick);
        self.times.get(place).map_or(0, |(time, _)| *time)
    }

    /// Mean and mean square of what `time` makes of each time in seconds.
    pub(super) fn moments(&self, time: impl Fn(f64) -> f64) -> (f64, f64) {
        let (mut before, mut mean, mut square) = (0, 0.0, 0.0);
        for (nanos, below) in &self.times {
            let (share, time) = ((below - before) as f64 / self.total() as f64, time(*nanos as f64 / 1e9));
            before = *below;
            mean += share * time;
            square += share * time * time;
        }
        (mean, square)
    }

    fn total(&self) -> u64 {
        self.times.last().map_or(0, |(_, below)| *below)
    }
}

/// Time and count of a line. `before` is the total count so far if the file is a histogram's print.
fn line(line: &str, before: &mut Option<u64>) -> Option<(u64, u64)> {
    let fields: Vec<&str> =
        line.split([' ', ',', '\t']).map(|field| field.trim_matches('"')).filter(|f| !f.is_empty()).collect();
    match (before, fields.as_slice()) {
        (Some(before), [value, _, total, ..]) => {
            let (time, total) = (time(value)?, total.parse::<u64>().ok()?);
            let count = total.checked_sub(*before)?;
            *before = total;
            Some((time, count))
        }
        (None, [only]) => Some((time(only)?, 1)),
        (None, [value, count]) => Some((time(value)?, count.parse().ok()?)),
        _ => None,
    }
}

/// Nanoseconds of a time with or without a unit, at most the longest there is.
fn time(text: &str) -> Option<u64> {
    let seconds = match text.parse::<f64>() {
        Ok(ms) => ms / 1e3,
        Err(_) => humantime::parse_duration(text).ok()?.as_secs_f64(),
    };
    (seconds >= 0.0 && seconds.is_finite()).then(|| (seconds.min(LONGEST.as_secs_f64()) * 1e9).round() as u64)
}
