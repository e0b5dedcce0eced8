//! From a run to figures, and from figures to a page: one column a proxy, medians over the rounds.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::dyno::Overlap;
use crate::engine::Run;
use crate::oracle::Oracle;

/// The generator's own lateness above which its figures are not to be trusted, in milliseconds.
pub const LATE_MS: f64 = 0.2;
/// The share of time above which the generator's thread is too busy to be trusted.
pub const BUSY: f64 = 0.9;

/// Mean and percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which proxy.
    pub proxy: String,
    /// Which round of the comparison, from 1.
    pub round: u32,
    /// The seed of this run.
    pub seed: u64,
    /// Length of the run proper, in seconds.
    pub seconds: f64,
    /// Requests sent in the run proper.
    pub requests: u64,
    /// Answers in the run proper, a second.
    pub answers_per_second: f64,
    /// Requests of the whole run that were not served well, by status and `X-Router-Fault`, or by what broke.
    pub faults: BTreeMap<String, u64>,
    /// Requests of the whole run that came to a dyno which was serving another.
    pub overlaps: u64,
    /// The first few overlaps.
    pub overlaps_shown: Vec<Overlap>,
    /// Connections opened to a dyno that had one open already.
    pub second_connections: u64,
    /// Requests that came to a dyno a second time.
    pub repeats: u64,
    /// Requests that the generator did not send, such as probes.
    pub strangers: u64,
    /// The share of the run proper in which the dynos worked.
    pub dynos_busy: f64,
    /// From the intended send to the dyno beginning to work.
    pub wait: Spread,
    /// The same in the ideal line, on the same arrivals and service times.
    pub ideal_wait: Spread,
    /// Wait since the actual send less the wait in the ideal line, request by request.
    pub excess: Spread,
    /// How long a dyno stood idle between two requests while the second was waiting already.
    pub turnaround: Spread,
    /// From the intended send to the last byte of the answer.
    pub latency: Spread,
    /// User and system time of the proxy's processes a request, in microseconds, if it was measured.
    pub cpu_us_per_request: Option<f64>,
    /// How late the generator sent, by its own clock.
    pub send_late: Spread,
    /// How late the dynos' work ended, by the same clock.
    pub service_late: Spread,
    /// The share of the run proper in which the generator's thread used a processor.
    pub generator_busy: f64,
    /// Whether the run was ended early.
    pub interrupted: bool,
}

/// A histogram for nanoseconds, up to an hour, to three digits.
pub fn histogram() -> Histogram<u64> {
    #[expect(clippy::unwrap_used, reason = "the three arguments are constants that the crate allows")]
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap()
}

impl Report {
    /// The figures of a run in front of `dynos` dynos; `cpu` is the proxy's time and the requests it was for.
    pub fn new(
        proxy: &str,
        (round, seed): (u32, u64),
        dynos: usize,
        run: &Run,
        cpu: Option<(Duration, u64)>,
    ) -> Self {
        let figures = Figures::of(run, dynos);
        let seconds = figures.length as f64 / 1e9;
        Self {
            proxy: proxy.to_owned(),
            round,
            seed,
            seconds,
            requests: figures.requests,
            answers_per_second: figures.answers as f64 / seconds,
            faults: run.outcome.faults.clone(),
            overlaps: run.seen.overlaps,
            overlaps_shown: run.seen.shown.clone(),
            second_connections: run.seen.second_connections,
            repeats: run.seen.repeats,
            strangers: run.seen.strangers,
            dynos_busy: figures.busy as f64 / figures.length as f64 / dynos as f64,
            wait: spread(&figures.wait),
            ideal_wait: spread(&figures.ideal),
            excess: differences(figures.excess),
            turnaround: spread(&figures.turnaround),
            latency: spread(&figures.latency),
            cpu_us_per_request: cpu
                .filter(|(_, requests)| *requests > 0)
                .map(|(time, requests)| time.as_secs_f64() * 1e6 / requests as f64),
            send_late: spread(&run.late),
            service_late: spread(&run.seen.late),
            generator_busy: run.thread_busy,
            interrupted: run.interrupted,
        }
    }

    /// What speaks against the figures, in words.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut late = |what: &str, late: &Spread| {
            if late.p99_ms > LATE_MS {
                warnings.push(format!(
                    "{}: {what} {:.3} ms late at p99 (more than {LATE_MS} ms)",
                    self.proxy, late.p99_ms
                ));
            }
        };
        late("requests were sent", &self.send_late);
        late("service times ended", &self.service_late);
        if self.generator_busy > BUSY {
            let share = self.generator_busy * 100.0;
            warnings.push(format!("{}: the generator's thread was {share:.0} % busy", self.proxy));
        }
        if self.interrupted {
            warnings.push(format!("{}: interrupted, the figures are of a part of the run", self.proxy));
        }
        warnings
    }

    /// All requests that were not served well.
    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// What is counted in one pass over the records.
struct Figures {
    length: u64,
    requests: u64,
    answers: u64,
    busy: u64,
    wait: Histogram<u64>,
    ideal: Histogram<u64>,
    turnaround: Histogram<u64>,
    latency: Histogram<u64>,
    excess: Vec<i64>,
}

impl Figures {
    fn of(run: &Run, dynos: usize) -> Self {
        let (from, to) = run.window;
        let mut oracle = Oracle::new(dynos);
        let mut all = Self {
            length: to.saturating_sub(from).max(1),
            requests: 0,
            answers: 0,
            busy: 0,
            wait: histogram(),
            ideal: histogram(),
            turnaround: turnaround(run, dynos),
            latency: histogram(),
            excess: Vec::new(),
        };
        // Requests that waited for a connection were sent out of order; the line is by arrival.
        let mut records: Vec<_> = run.records.iter().copied().collect();
        records.sort_by_key(|record| record.arrived);
        for record in records {
            let inside = record.due >= from && record.due < to;
            all.requests += u64::from(inside);
            all.answers += u64::from(record.done >= from && record.done < to);
            if inside && record.done != crate::records::NEVER {
                all.latency.saturating_record(record.done.saturating_sub(record.due));
            }
            if !record.served() {
                continue;
            }
            all.busy += record.ended.min(to).saturating_sub(record.started.max(from));
            let ideal = oracle.wait(record.arrived, record.ended - record.started);
            if inside {
                all.wait.saturating_record(record.started.saturating_sub(record.due));
                all.ideal.saturating_record(ideal);
                all.excess.push((record.started - record.arrived).cast_signed() - ideal.cast_signed());
            }
        }
        all
    }
}

/// The time between two requests of a dyno, whenever the second was there before the first was done.
fn turnaround(run: &Run, dynos: usize) -> Histogram<u64> {
    let (from, to) = run.window;
    let mut records: Vec<_> = run.records.iter().filter(|record| record.served()).collect();
    records.sort_by_key(|record| record.started);
    let (mut all, mut ended) = (histogram(), vec![u64::MAX; dynos]);
    for record in records {
        let Some(before) = ended.get_mut(record.dyno as usize) else { continue };
        if record.arrived <= *before && (from..to).contains(before) {
            all.saturating_record(record.started.saturating_sub(*before));
        }
        *before = record.ended;
    }
    all
}

fn spread(histogram: &Histogram<u64>) -> Spread {
    let at = |quantile| {
        if histogram.is_empty() { 0.0 } else { histogram.value_at_quantile(quantile) as f64 / 1e6 }
    };
    Spread { mean_ms: histogram.mean() / 1e6, p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
}

/// The spread of differences, which may be negative and so fit no histogram.
fn differences(mut all: Vec<i64>) -> Spread {
    if all.is_empty() {
        return Spread::default();
    }
    all.sort_unstable();
    let at = |quantile: f64| {
        let place = (quantile * all.len() as f64).ceil() as usize;
        all[place.clamp(1, all.len()) - 1] as f64 / 1e6
    };
    let mean_ms = all.iter().map(|ns| *ns as f64).sum::<f64>() / all.len() as f64 / 1e6;
    Spread { mean_ms, p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999) }
}

/// The middle value; of two, the mean.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

/// One line of the page: what it is called, how it is read from a report, and its decimals.
struct Row(&'static str, fn(&Report) -> Option<f64>, usize);

const ROWS: &[Row] = &[
    Row("requests", |r| Some(r.requests as f64), 0),
    Row("answers a second", |r| Some(r.answers_per_second), 1),
    Row("faults", |r| Some(r.faults() as f64), 0),
    Row("overlaps", |r| Some(r.overlaps as f64), 0),
    Row("second connections", |r| Some(r.second_connections as f64), 0),
    Row("dynos busy, %", |r| Some(r.dynos_busy * 100.0), 2),
    Row("wait mean, ms", |r| Some(r.wait.mean_ms), 3),
    Row("wait p50, ms", |r| Some(r.wait.p50_ms), 3),
    Row("wait p99, ms", |r| Some(r.wait.p99_ms), 3),
    Row("wait p99.9, ms", |r| Some(r.wait.p999_ms), 3),
    Row("ideal wait mean, ms", |r| Some(r.ideal_wait.mean_ms), 3),
    Row("ideal wait p99, ms", |r| Some(r.ideal_wait.p99_ms), 3),
    Row("excess mean, ms", |r| Some(r.excess.mean_ms), 3),
    Row("excess p99, ms", |r| Some(r.excess.p99_ms), 3),
    Row("turnaround mean, ms", |r| Some(r.turnaround.mean_ms), 3),
    Row("turnaround p50, ms", |r| Some(r.turnaround.p50_ms), 3),
    Row("turnaround p99, ms", |r| Some(r.turnaround.p99_ms), 3),
    Row("latency p50, ms", |r| Some(r.latency.p50_ms), 3),
    Row("latency p99, ms", |r| Some(r.latency.p99_ms), 3),
    Row("latency p99.9, ms", |r| Some(r.latency.p999_ms), 3),
    Row("proxy CPU a request, us", |r| r.cpu_us_per_request, 2),
    Row("generator: sends late p99, ms", |r| Some(r.send_late.p99_ms), 3),
    Row("generator: service late p50, ms", |r| Some(r.service_late.p50_ms), 3),
    Row("generator: service late p99, ms", |r| Some(r.service_late.p99_ms), 3),
    Row("generator: thread busy, %", |r| Some(r.generator_busy * 100.0), 1),
];

/// Writes the page: a column for each proxy with the median of its rounds, and with two or more the ratio of the first
/// to each other.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(out: &mut impl Write, reports: &[Report]) -> io::Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for report in reports {
        if !names.contains(&report.proxy.as_str()) {
            names.push(&report.proxy);
        }
    }
    write!(out, "{:32}", "")?;
    names.iter().try_for_each(|name| write!(out, "{name:>14}"))?;
    names.iter().skip(1).try_for_each(|name| write!(out, "{:>18}", format!("{}/{name}", names[0])))?;
    writeln!(out)?;
    for Row(name, value, decimals) in ROWS {
        let middle =
            |proxy: &str| median(reports.iter().filter(|r| r.proxy == proxy).filter_map(value).collect());
        let values: Vec<Option<f64>> = names.iter().map(|name| middle(name)).collect();
        write!(out, "{name:32}")?;
        for value in &values {
            let text = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"));
            write!(out, "{text:>14}")?;
        }
        for value in values.iter().skip(1) {
            let ratio =
                values[0].zip(*value).filter(|(_, other)| *other != 0.0).map(|(first, other)| first / other);
            write!(out, "{:>18}", ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")))?;
        }
        writeln!(out)?;
    }
    for report in reports {
        print_troubles(out, report)?;
    }
    Ok(())
}

fn print_troubles(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let who = format!("{} (round {})", report.proxy, report.round);
    for (fault, count) in &report.faults {
        writeln!(out, "{who}: fault: {fault}: {count}")?;
    }
    if report.repeats > 0 {
        writeln!(out, "{who}: {} requests came to a dyno a second time", report.repeats)?;
    }
    if report.strangers > 0 {
        writeln!(out, "{who}: {} requests were not the generator's (probes)", report.strangers)?;
    }
    let name = |number: Option<u32>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
    for Overlap { dyno, served, came } in &report.overlaps_shown {
        let (served, came) = (name(*served), name(*came));
        writeln!(out, "{who}: OVERLAP: dyno {dyno} was serving request {served} when request {came} came")?;
    }
    report.warnings().iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn differences_may_be_negative() {
        let spread = differences((-50..50).map(|ms| ms * 1_000_000).collect());
        assert_eq!((spread.mean_ms, spread.p50_ms, spread.p99_ms), (-0.5, -1.0, 48.0));
    }
}
