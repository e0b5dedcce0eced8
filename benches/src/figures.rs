//! The figures of a run by name: what pages, CSV and comparisons show, in one list.

use crate::report::{Report, median};

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// It says something about the run or the tool, not about the proxy.
    Neither,
}

/// One figure of a run.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name with its unit, as people read it.
    pub name: &'static str,
    /// Its name in CSV and JSON.
    pub key: &'static str,
    /// How it is read from a run, if the run has it.
    pub of: fn(&Report) -> Option<f64>,
    /// Decimals worth showing.
    pub decimals: usize,
    /// Which way it should go.
    pub better: Better,
}

impl Figure {
    /// The median of the rounds, if any has it.
    pub fn median<'a>(&self, runs: impl IntoIterator<Item = &'a Report>) -> Option<f64> {
        median(runs.into_iter().filter_map(self.of).collect())
    }

    /// A value of it as text.
    pub fn text(&self, value: Option<f64>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.*}", self.decimals))
    }
}

const fn figure(
    name: &'static str,
    key: &'static str,
    of: fn(&Report) -> Option<f64>,
    decimals: usize,
    better: Better,
) -> Figure {
    Figure { name, key, of, decimals, better }
}

use Better::{Higher, Lower, Neither};

/// All figures, in the order in which they are shown.
pub const FIGURES: &[Figure] = &[
    figure("requests", "requests", |r| Some(r.requests as f64), 0, Neither),
    figure("answers a second", "answers_per_second", |r| Some(r.answers_per_second), 1, Higher),
    figure("faults", "faults", |r| Some(r.faults() as f64), 0, Lower),
    figure("overlaps", "overlaps", |r| Some(r.overlaps as f64), 0, Lower),
    figure("second connections", "second_connections", |r| Some(r.second_connections as f64), 0, Neither),
    figure("dynos busy, %", "dynos_busy_percent", |r| Some(r.dynos_busy * 100.0), 2, Higher),
    figure("wait mean, ms", "wait_mean_ms", |r| Some(r.wait.mean_ms), 3, Lower),
    figure("wait p50, ms", "wait_p50_ms", |r| Some(r.wait.p50_ms), 3, Lower),
    figure("wait p99, ms", "wait_p99_ms", |r| Some(r.wait.p99_ms), 3, Lower),
    figure("wait p99.9, ms", "wait_p999_ms", |r| Some(r.wait.p999_ms), 3, Lower),
    figure("ideal wait mean, ms", "ideal_wait_mean_ms", |r| Some(r.ideal_wait.mean_ms), 3, Neither),
    figure("ideal wait p99, ms", "ideal_wait_p99_ms", |r| Some(r.ideal_wait.p99_ms), 3, Neither),
    figure("excess mean, ms", "excess_mean_ms", |r| Some(r.excess.mean_ms), 3, Lower),
    figure("excess p99, ms", "excess_p99_ms", |r| Some(r.excess.p99_ms), 3, Lower),
    figure("turnaround mean, ms", "turnaround_mean_ms", |r| Some(r.turnaround.mean_ms), 3, Lower),
    figure("turnaround p50, ms", "turnaround_p50_ms", |r| Some(r.turnaround.p50_ms), 3, Lower),
    figure("turnaround p99, ms", "turnaround_p99_ms", |r| Some(r.turnaround.p99_ms), 3, Lower),
    figure("latency p50, ms", "latency_p50_ms", |r| Some(r.latency.p50_ms), 3, Lower),
    figure("latency p99, ms", "latency_p99_ms", |r| Some(r.latency.p99_ms), 3, Lower),
    figure("latency p99.9, ms", "latency_p999_ms", |r| Some(r.latency.p999_ms), 3, Lower),
    figure("proxy CPU a request, us", "cpu_us_per_request", |r| r.cpu_us_per_request, 2, Lower),
    figure("generator: sends late p99, ms", "send_late_p99_ms", |r| Some(r.send_late.p99_ms), 3, Neither),
    figure(
        "generator: service late p50, ms",
        "service_late_p50_ms",
        |r| Some(r.service_late.p50_ms),
        3,
        Neither,
    ),
    figure(
        "generator: service late p99, ms",
        "service_late_p99_ms",
        |r| Some(r.service_late.p99_ms),
        3,
        Neither,
    ),
    figure(
        "generator: thread busy, %",
        "generator_busy_percent",
        |r| Some(r.generator_busy * 100.0),
        1,
        Neither,
    ),
];

/// The names of the proxies, in the order in which they ran.
pub fn proxies(runs: &[Report]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&run.proxy.as_str()) {
            names.push(&run.proxy);
        }
    }
    names
}

/// What one run of a sweep differs in from the others: how many dynos, and the rate of an open loop in thousandths.
pub type Point = (u32, Option<u64>);

/// The point at which a run was made.
pub fn point(run: &Report) -> Point {
    (run.dynos, run.rate.map(|rate| (rate * 1e3).round() as u64))
}

/// The points of a sweep, in the order in which they were run; without a sweep there is one.
pub fn points(runs: &[Report]) -> Vec<Point> {
    let mut points = Vec::new();
    for run in runs {
        let at = point(run);
        if !points.contains(&at) {
            points.push(at);
        }
    }
    points
}

/// The runs of a proxy at a point.
pub fn at<'a>(runs: &'a [Report], proxy: &str, at: Point) -> Vec<&'a Report> {
    runs.iter().filter(|run| run.proxy == proxy && point(run) == at).collect()
}
