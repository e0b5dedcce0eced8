//! The page of figures on a terminal: verdicts first, then a column a proxy with the medians of its rounds.

use std::io::{self, Write};

use console::Style;

use super::verdict::{ideal_throughput, medians, named, troubles, verdicts, warnings};
use crate::comparison::print_parties;
use crate::contrast::{Contrast, Finding};
use crate::figures::{FIGURES, Point, at, points, proxies};
use crate::number::count;
use crate::report::Report;
use crate::results::Results;

/// The column of names.
const NAMES: usize = 32;
/// The column of a proxy.
const VALUE: usize = 14;
/// The column of a ratio.
const RATIO: usize = 18;
/// The letters of a small plot.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A small plot is at most so wide.
const SPARKS: usize = 60;

/// How the page may look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Columns of the terminal; none if it is a file or a pipe.
    pub width: Option<usize>,
    /// Whether colours are wanted.
    pub colour: bool,
}

impl Look {
    /// That of standard output: plain unless it is a terminal, and without colours if `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let terminal = console::Term::stdout();
        let width = if terminal.is_term() { terminal.size_checked() } else { None };
        let width = width.map(|(_, columns)| usize::from(columns));
        Self { width, colour: terminal.is_term() && console::colors_enabled() }
    }

    fn good(self, good: bool, text: &str) -> String {
        let style = Style::new().force_styling(self.colour).bold();
        let style = if good { style.green() } else { style.red() };
        style.apply_to(text).to_string()
    }

    fn dim(self, text: &str) -> String {
        Style::new().force_styling(self.colour).dim().apply_to(text).to_string()
    }

    /// How many letters a small plot may have, behind `taken` others.
    fn sparks(self, taken: usize) -> usize {
        self.width.map_or(SPARKS, |width| width.saturating_sub(taken).clamp(10, SPARKS))
    }
}

/// Writes the page: verdicts, a table, small plots, and what went wrong.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(out: &mut impl Write, results: &Results, look: Look) -> io::Result<()> {
    writeln!(out, "{}", results.title())?;
    writeln!(out, "{}\n", look.dim(&results.place()))?;
    for verdict in verdicts(results) {
        writeln!(out, "{}: {}", look.good(verdict.good, &verdict.of), verdict.text)?;
    }
    writeln!(out)?;
    match points(&results.runs).as_slice() {
        [] => {}
        [point] => {
            table(out, results, *point, look)?;
            small_plots(out, results, look)?;
        }
        points => sweep(out, results, points, look)?,
    }
    print_parties(out, &results.parties)?;
    for line in results.runs.iter().flat_map(troubles) {
        writeln!(out, "{line}")?;
    }
    warnings(results)
        .iter()
        .try_for_each(|line| writeln!(out, "{}", look.good(false, &format!("warning: {line}"))))
}

/// A line a figure. Where the terminal is too narrow the other proxies come in several tables, each beside the first.
fn table(out: &mut impl Write, results: &Results, point: Point, look: Look) -> io::Result<()> {
    let names = proxies(&results.runs);
    let room = look.width.map_or(usize::MAX, |width| width.saturating_sub(NAMES + VALUE) / (VALUE + RATIO));
    let others: Vec<usize> = (1..names.len()).collect();
    let none: &[usize] = &[];
    let tables = if others.is_empty() { vec![none] } else { others.chunks(room.max(1)).collect() };
    for (number, others) in tables.into_iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        write!(out, "{:NAMES$}{:>VALUE$}", "", names[0])?;
        others.iter().try_for_each(|other| write!(out, "{:>VALUE$}", names[*other]))?;
        others
            .iter()
            .try_for_each(|other| write!(out, "{:>RATIO$}", format!("{}/{}", names[0], names[*other])))?;
        writeln!(out)?;
        for figure in FIGURES {
            let values = medians(results, figure, point);
            write!(out, "{:NAMES$}{:>VALUE$}", figure.name, figure.text(values[0]))?;
            others.iter().try_for_each(|other| write!(out, "{:>VALUE$}", figure.text(values[*other])))?;
            for other in others {
                let pair = values[0].zip(values[*other]).filter(|(_, other)| *other != 0.0);
                let ratio = pair.map_or_else(|| "-".to_owned(), |(one, other)| format!("{:.3}", one / other));
                write!(out, "{ratio:>RATIO$}")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Latency and timeline of each proxy's first round, one line each.
fn small_plots(out: &mut impl Write, results: &Results, look: Look) -> io::Result<()> {
    writeln!(out)?;
    for name in proxies(&results.runs) {
        let Some(run) = results.runs.iter().find(|run| run.proxy == name) else { continue };
        let room = look.sparks(NAMES);
        let (low, high, shape) = density(run, room);
        if !shape.is_empty() {
            writeln!(
                out,
                "{:NAMES$}{}",
                format!("{name}: latency {low:.3} to {high:.3} ms"),
                sparks(&shape, room)
            )?;
        }
        let rates: Vec<f64> = run.curves.timeline.iter().map(|i| i.answered as f64 / i.seconds).collect();
        if !rates.is_empty() {
            let most = rates.iter().copied().fold(0.0, f64::max);
            writeln!(out, "{:NAMES$}{}", format!("{name}: answers, most {most:.0}/s"), sparks(&rates, room))?;
        }
    }
    Ok(())
}

/// How many requests had which latency, from the least up to p99, in `places` equal steps.
fn density(run: &Report, places: usize) -> (f64, f64, Vec<f64>) {
    let curve: Vec<_> = run.curves.latency.iter().take_while(|(quantile, _)| *quantile <= 0.99).collect();
    let [first, .., last] = curve.as_slice() else { return (0.0, 0.0, Vec::new()) };
    let (low, high) = (first.1, last.1);
    let step = (high - low) / places as f64;
    let below = |ms: f64| {
        let after = curve.partition_point(|(_, at)| *at <= ms);
        match (after.checked_sub(1).map(|before| curve[before]), curve.get(after)) {
            (Some(before), Some(next)) => {
                before.0 + (ms - before.1) / (next.1 - before.1) * (next.0 - before.0)
            }
            (Some(before), None) => before.0,
            (None, _) => 0.0,
        }
    };
    if step <= 0.0 {
        return (low, high, vec![1.0]);
    }
    let shares = (0..places).map(|n| below(low + step * (n + 1) as f64) - below(low + step * n as f64));
    (low, high, shares.collect())
}

/// Values as a line of bars, from 0 to the highest; neighbours are averaged if there are more than there is room for.
fn sparks(values: &[f64], room: usize) -> String {
    let each = values.len().div_ceil(room.max(1)).max(1);
    let means: Vec<f64> =
        values.chunks(each).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    let most = means.iter().copied().fold(0.0, f64::max);
    let bar = |value: f64| if most > 0.0 { (value / most * 7.0).round().clamp(0.0, 7.0) as usize } else { 0 };
    means.iter().map(|value| BARS[bar(*value)]).collect()
}

/// A line a point and proxy, with as many columns as there is room for; what it is about comes first.
fn sweep(out: &mut impl Write, results: &Results, points: &[Point], look: Look) -> io::Result<()> {
    const SHOWN: [(&str, &str); 6] = [
        ("answers/s", "answers_per_second"),
        ("busy, %", "dynos_busy_percent"),
        ("wait, ms", "wait_mean_ms"),
        ("p99, ms", "wait_p99_ms"),
        ("ideal, ms", "ideal_wait_mean_ms"),
        ("CPU, us", "cpu_us_per_request"),
    ];
    const FIRST: usize = 38;
    const WIDE: usize = 11;
    let room = look.width.map_or(SHOWN.len(), |width| width.saturating_sub(FIRST) / WIDE).max(1);
    let shown = &SHOWN[..room.min(SHOWN.len())];
    write!(out, "{:>6}{:>8}  {:12}{:>10}", "dynos", "load", "proxy", "of ideal")?;
    shown.iter().try_for_each(|(name, _)| write!(out, "{name:>WIDE$}"))?;
    writeln!(out)?;
    for point in points {
        for (place, name) in proxies(&results.runs).into_iter().enumerate() {
            let Some(run) = at(&results.runs, name, *point).first().copied() else { continue };
            let load = run.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.3}"));
            let value = |key| named(key).map(|figure| (figure, medians(results, figure, *point)[place]));
            let rate = value(SHOWN[0].1).and_then(|(_, rate)| rate);
            let share =
                rate.zip(ideal_throughput(results, point.0)).map(|(rate, ideal)| rate / ideal * 100.0);
            let share = share.map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %"));
            write!(out, "{:>6}{load:>8}  {name:12}{share:>10}", point.0)?;
            for (figure, value) in shown.iter().filter_map(|(_, key)| value(key)) {
                write!(out, "{:>WIDE$}", figure.text(value))?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

/// Writes a comparison of two results: a table for each proxy and point.
///
/// # Errors
/// When `out` cannot be written.
pub fn print_contrasts(out: &mut impl Write, contrasts: &[Contrast], look: Look) -> io::Result<()> {
    for contrast in contrasts {
        let Contrast { before, after, dynos, rounds, .. } = contrast;
        let load = contrast.load.map_or_else(String::new, |load| format!(", load {load:.3}"));
        let (old, new) = rounds;
        let (dynos, new) = (count(dynos, "dyno"), count(new, "round"));
        writeln!(out, "\n{before} before, {after} after: {dynos}{load}, {old} and {new}")?;
        writeln!(
            out,
            "{:NAMES$}{:>VALUE$}{:>VALUE$}{:>VALUE$}{:>10}  finding",
            "", "before", "after", "ratio", "chance"
        )?;
        for line in &contrast.lines {
            let Some(figure) = named(line.figure) else { continue };
            let (before, after) = (figure.text(Some(line.before)), figure.text(Some(line.after)));
            let ratio = line.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            write!(
                out,
                "{:NAMES$}{before:>VALUE$}{after:>VALUE$}{ratio:>VALUE$}{:>10.3}  ",
                figure.name, line.chance
            )?;
            writeln!(out, "{}", finding(line.finding, look))?;
        }
    }
    Ok(())
}

fn finding(finding: Finding, look: Look) -> String {
    match finding {
        Finding::Better => look.good(true, "better"),
        Finding::Worse => look.good(false, "WORSE"),
        Finding::Different => "different".to_owned(),
        Finding::Noise => look.dim("noise"),
        Finding::TooFewRounds => "too few rounds to tell".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrast::contrast;
    use crate::results::tests::sample;

    fn page(results: &Results, look: Look) -> String {
        let mut out = Vec::new();
        print(&mut out, results, look).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_page_begins_with_the_verdict_and_has_a_column_a_proxy() {
        let text = page(&sample(&["routerd", "haproxy"], 3), Look::default());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("10 dynos, service exp:10ms"), "{text}");
        assert!(lines[3].starts_with("routerd: kept one request per dyno: yes"), "{text}");
        let ratio = lines.iter().find(|line| line.starts_with("wait mean, ms")).unwrap();
        assert_eq!(ratio.split_whitespace().skip(3).collect::<Vec<_>>(), ["1.002", "1.302", "0.770"]);
        assert!(text.contains("routerd: latency") && text.contains('█'), "{text}");
        assert!(!text.contains('\u{1b}'), "no colours in a file");
        assert!(page(&sample(&["routerd"], 1), Look { width: Some(80), colour: true }).contains('\u{1b}'));
    }

    #[test]
    fn a_narrow_terminal_gets_several_tables() {
        let many = sample(&["routerd", "haproxy", "nginx", "envoy"], 1);
        let narrow = page(&many, Look { width: Some(80), colour: false });
        let table = narrow.lines().filter(|line| FIGURES.iter().any(|figure| line.starts_with(figure.name)));
        assert!(table.clone().all(|line| line.chars().count() <= 80), "{narrow}");
        assert_eq!(table.filter(|line| line.starts_with("overlaps")).count(), 3);
        assert_eq!(
            page(&many, Look::default()).lines().filter(|line| line.starts_with("overlaps")).count(),
            1
        );
    }

    #[test]
    fn a_sweep_has_a_line_a_point_and_proxy() {
        let mut results = sample(&["routerd", "haproxy"], 2);
        results.runs.extend(sample(&["routerd", "haproxy"], 2).runs.into_iter().map(|mut run| {
            run.dynos = 20;
            run
        }));
        let text = page(&results, Look::default());
        assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("20")).count(), 2, "{text}");
        assert!(text.contains("of ideal") && text.contains("89.9 %"), "{text}");
        let narrow = page(&results, Look { width: Some(80), colour: false });
        let table = narrow.lines().filter(|line| line.trim_start().starts_with("20"));
        assert!(table.clone().all(|line| line.chars().count() <= 80), "{narrow}");
    }

    #[test]
    fn a_comparison_names_what_is_worse() {
        let found = contrast(&sample(&["a"], 5), &sample(&["x", "a"], 5), 0.02).unwrap();
        let mut out = Vec::new();
        print_contrasts(&mut out, &found, Look::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().find(|line| line.starts_with("wait mean")).unwrap();
        assert!(line.ends_with("WORSE") && line.contains("1.29"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("overlaps") && line.ends_with("noise")), "{text}");
    }

    #[test]
    fn sparks_fill_the_room_and_no_more() {
        assert_eq!(sparks(&[0.0, 1.0, 2.0], 10), "▁▅█");
        assert!(sparks(&vec![1.0; 1000], 60).chars().count() <= 60);
        assert_eq!(sparks(&[0.0, 0.0], 10), "▁▁");
        assert_eq!(sparks(&[], 10), "");
    }
}
