//! A comparison as a page: a line for each proxy, the median of its rounds, and below it the lowest and the highest.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::compare::{Failure, Outcome};
use crate::number::count;
use crate::report::{Report, median};

/// So many overlaps are shown of each proxy.
const OVERLAPS: usize = 3;
/// How wide the names are, and each figure with the space before it.
const NAME: usize = 16;
const CELL: usize = 18;

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// What it is called.
    pub name: String,
    /// What its program says of its version.
    pub version: Option<String>,
    /// Its program, if this tool starts it.
    pub program: Option<PathBuf>,
    /// How it is set up, in a line.
    pub form: String,
    /// Whether it writes an access log; none where there is no proxy.
    #[serde(default)]
    pub logs: Option<Logs>,
    /// Why it has no runs, if it cannot do what was asked for.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// Whether a proxy writes a line for each request, which costs it time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logs {
    /// To a file.
    On,
    /// It has none, and so less to do than those that have.
    Off,
    /// Somebody else has set it up.
    Unknown,
}

impl Logs {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::On => "access log on: a line for each request, to a file",
            Self::Off => "access log off: it has less to do than those that write one",
            Self::Unknown => "access log unknown: as somebody has set it up",
        }
    }
}

impl Party {
    /// Of this name and form, with nothing else known.
    pub fn new(name: &str, form: String) -> Self {
        Self { name: name.to_owned(), version: None, program: None, form, logs: None, skipped: None }
    }
}

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Figure {
    /// Of these values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(values.to_vec())?, min, max })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.round == 0 {
            write!(f, "{} took no part: {}", self.proxy, self.why)
        } else {
            write!(f, "{} (round {}): {}", self.proxy, self.round, self.why)
        }
    }
}

/// A column: what it is called, how it is read from a report, and its decimals.
struct Column(&'static str, fn(&Report) -> Option<f64>, usize);

/// A table of the page: its title, and a column for each figure.
struct Table(&'static str, &'static [Column]);

const MIB: f64 = 1_048_576.0;

const TABLES: &[Table] = &[
    Table(
        "One request a dyno",
        &[
            Column("overlaps", |r| Some(r.overlaps as f64), 0),
            Column("faults", |r| Some(r.faults() as f64), 0),
            Column("served a s", |r| Some(r.served_per_second), 1),
            Column("dynos busy, %", |r| Some(r.dynos_busy * 100.0), 2),
            Column("2nd connections", |r| Some(r.second_connections as f64), 0),
            Column("opened per 1000", |r| Some(r.connections_per_1000), 2),
        ],
    ),
    Table(
        "Wait until a dyno begins, ms",
        &[
            Column("p50", |r| Some(r.wait.p50_ms), 3),
            Column("p90", |r| Some(r.wait.p90_ms), 3),
            Column("p99", |r| Some(r.wait.p99_ms), 3),
            Column("p99.9", |r| Some(r.wait.p999_ms), 3),
            Column("excess mean", |r| Some(r.excess.mean_ms), 3),
            Column("excess p99", |r| Some(r.excess.p99_ms), 3),
        ],
    ),
    Table(
        "Latency of all answers (refusals too), ms, and what it is over no proxy at all",
        &[
            Column("p50", |r| Some(r.latency.p50_ms), 3),
            Column("p90", |r| Some(r.latency.p90_ms), 3),
            Column("p99", |r| Some(r.latency.p99_ms), 3),
            Column("p99.9", |r| Some(r.latency.p999_ms), 3),
            Column("added p50", |r| r.added_latency.map(|added| added.p50_ms), 3),
            Column("added p99", |r| r.added_latency.map(|added| added.p99_ms), 3),
        ],
    ),
    Table(
        "Fairness: Jain's index over dynos, and requests overtaken by later ones",
        &[
            Column("even: requests", |r| Some(r.evenness.requests), 3),
            Column("even: busy time", |r| Some(r.evenness.busy), 3),
            Column("overtaken, %", |r| Some(r.order.overtaken * 100.0), 2),
            Column("most overtook", |r| Some(r.order.most as f64), 0),
            Column("by up to, ms", |r| Some(r.order.worst_ms), 1),
        ],
    ),
    Table(
        "Cost of the proxy's processes, and how exact the generator was",
        &[
            Column("CPU us a request", |r| r.cpu_us_per_request, 2),
            Column("RSS peak, MiB", |r| r.memory.map(|memory| memory.rss_peak as f64 / MIB), 1),
            Column("PSS, MiB", |r| r.memory.and_then(|memory| memory.pss).map(|pss| pss as f64 / MIB), 1),
            Column("sent late p99", |r| Some(r.send_late.p99_ms), 3),
            Column("gen. busy, %", |r| Some(r.generator_busy * 100.0), 1),
        ],
    ),
];

/// Writes who takes part, with versions, and whether they write access logs.
///
/// # Errors
/// When `out` cannot be written.
pub fn print_parties(out: &mut impl Write, parties: &[Party]) -> io::Result<()> {
    for Party { name, version, form, logs, skipped, .. } in parties {
        match skipped {
            Some(why) => writeln!(out, "{name:NAME$}skipped: {why}")?,
            None => writeln!(out, "{name:NAME$}{form}")?,
        }
        if let Some(version) = version {
            writeln!(out, "{:NAME$}{version}", "")?;
        }
        if let Some(logs) = logs.filter(|_| skipped.is_none()) {
            writeln!(out, "{:NAME$}{}", "", logs.words())?;
        }
    }
    Ok(())
}

/// Writes the page of these proxies: tables, faults by kind, overlaps with both requests, and what went wrong.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(out: &mut impl Write, names: &[&str], outcome: &Outcome) -> io::Result<()> {
    for Table(title, columns) in TABLES {
        writeln!(out, "\n{title}")?;
        write!(out, "{:NAME$}", "")?;
        columns.iter().try_for_each(|Column(name, ..)| write!(out, "{name:>CELL$}"))?;
        writeln!(out)?;
        names.iter().try_for_each(|name| print_line(out, name, columns, outcome))?;
    }
    writeln!(out)?;
    for name in names {
        let runs = || outcome.runs.iter().filter(|run| run.proxy == *name);
        let mut faults = BTreeMap::<&str, u64>::new();
        for (fault, count) in runs().flat_map(|run| &run.faults) {
            *faults.entry(fault).or_default() += count;
        }
        for (fault, count) in faults {
            writeln!(out, "{name}: fault: {fault}: {count}")?;
        }
        for overlap in runs().flat_map(|run| &run.overlaps_shown).take(OVERLAPS) {
            writeln!(out, "{name}: OVERLAP: {overlap}")?;
        }
        for (things, what, number) in [
            ("request", "came to a dyno a second time", runs().map(|run| run.repeats).sum::<u64>()),
            ("request", "not of the generator (probes)", runs().map(|run| run.strangers).sum()),
            ("time", "that a dyno went down, as it was told", runs().map(|run| run.dyno_crashes).sum()),
        ] {
            if number > 0 {
                writeln!(out, "{name}: {} {what}", count(number, things))?;
            }
        }
    }
    let warnings = outcome.runs.iter().flat_map(|run| {
        let round = run.round;
        run.warnings().into_iter().map(move |warning| (round, warning))
    });
    warnings
        .into_iter()
        .try_for_each(|(round, warning)| writeln!(out, "warning: round {round}: {warning}"))?;
    outcome.failures.iter().try_for_each(|failure| writeln!(out, "FAILED: {failure}"))
}

/// The line of one proxy in one table; without a run the cause stands in it.
fn print_line(out: &mut impl Write, name: &str, columns: &[Column], outcome: &Outcome) -> io::Result<()> {
    let runs: Vec<&Report> = outcome.runs.iter().filter(|run| run.proxy == name).collect();
    write!(out, "{name:NAME$}")?;
    if runs.is_empty() {
        let failed = outcome.failures.iter().any(|failure| failure.proxy == name);
        return writeln!(out, "{}", if failed { "FAILED, see below" } else { "did not run" });
    }
    let figures: Vec<Option<Figure>> = columns
        .iter()
        .map(|Column(_, value, _)| Figure::of(&runs.iter().filter_map(|run| value(run)).collect::<Vec<_>>()))
        .collect();
    for (figure, Column(.., decimals)) in figures.iter().zip(columns) {
        let text = figure.map_or_else(|| "-".to_owned(), |figure| format!("{:.decimals$}", figure.median));
        write!(out, "{text:>CELL$}")?;
    }
    writeln!(out)?;
    if runs.len() < 2 {
        return Ok(());
    }
    write!(out, "{:NAME$}", "")?;
    for (figure, Column(.., decimals)) in figures.iter().zip(columns) {
        let range = |figure: Figure| format!("{:.decimals$}..{:.decimals$}", figure.min, figure.max);
        // Never without a space between two.
        write!(out, " {:>1$}", figure.map_or_else(String::new, range), CELL - 1)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_its_middle_and_its_ends() {
        assert_eq!(Figure::of(&[]), None);
        assert_eq!(Figure::of(&[3.0, 1.0, 8.0]), Some(Figure { median: 3.0, min: 1.0, max: 8.0 }));
    }

    #[test]
    fn who_failed_stands_in_each_table_and_the_cause_below() {
        let failure = Failure { proxy: "envoy".to_owned(), round: 2, why: "ended at once".to_owned() };
        let outcome = Outcome { failures: vec![failure], ..Outcome::default() };
        let mut page = Vec::new();
        print(&mut page, &["envoy", "caddy"], &outcome).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("envoy           FAILED, see below").count(), TABLES.len(), "{page}");
        assert_eq!(page.matches("caddy           did not run").count(), TABLES.len(), "{page}");
        assert!(page.ends_with("FAILED: envoy (round 2): ended at once\n"), "{page}");
    }
}
