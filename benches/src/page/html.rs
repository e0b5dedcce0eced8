//! Results as one HTML page: no script, nothing from elsewhere, readable in light and dark and on paper.

use std::io::{self, Write};

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::plots;
use super::plot::{Heat, Plot, style};
use super::verdict::{ideal_throughput, medians, named, troubles, verdicts, warnings};
use crate::comparison::{Logs, Party};
use crate::contrast::{Contrast, Differences, Finding};
use crate::figures::{FIGURES, at, points, proxies};
use crate::number::count;
use crate::results::Results;

/// The table below a heat map has at most so many cells.
const GROUPS: usize = 12;
/// So much of what went wrong in single runs is shown.
const TROUBLES: usize = 100;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;\
background:var(--paper);color:var(--ink)}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .3rem}p{margin:.3rem 0}\
.good::before{content:'\\2713\\20'}.bad::before{content:'\\2717\\20'}.bad{font-weight:bold}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;margin:.5rem 0}\
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid var(--grid);font-variant-numeric:tabular-nums}\
th:first-child,td:first-child{text-align:left}caption{text-align:left;font-weight:bold}\
svg{width:100%;height:auto;display:block}figure{margin:1.5rem 0;break-inside:avoid}code{overflow-wrap:anywhere}\
.worse{font-weight:bold;color:var(--c3)}.better{font-weight:bold;color:var(--c4)}.noise{opacity:.65}\
figure td{white-space:nowrap}thead{display:table-header-group}tr{break-inside:avoid}\
@media print{body{font-size:10pt;max-width:none;padding:0}h2,caption{break-after:avoid}h2{margin-top:1rem}\
svg{width:88%}figure{margin:.7rem 0}.scroll{overflow:visible}table{font-size:.72rem;max-width:100%}\
th,td{padding:.1rem .3rem}}";

/// A comparison with another results file: what differs in the scenarios, and figure by figure.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What is compared with what.
    pub title: String,
    /// How the scenarios differ.
    pub differences: Differences,
    /// The figures.
    pub contrasts: Vec<Contrast>,
}

/// Writes the page.
///
/// # Errors
/// When `out` cannot be written or a plot cannot be drawn.
pub fn write(
    out: &mut (impl Write + ?Sized),
    results: &Results,
    comparisons: &[Comparison],
) -> io::Result<()> {
    out.write_all(page(results, comparisons)?.into_string().as_bytes())
}

fn page(results: &Results, comparisons: &[Comparison]) -> io::Result<Markup> {
    let names = proxies(&results.runs).join(", ");
    let figures = plots(results)
        .iter()
        .map(|plot| Ok((plot.svg()?, plot.title.clone(), beside(plot))))
        .collect::<io::Result<Vec<_>>>()?;
    Ok(html! {
        (DOCTYPE)
        html xmlns="http://www.w3.org/1999/xhtml" lang="en" {
            head {
                // Closed as XML wants it, so that the page can be read as XML too.
                (PreEscaped("<meta charset=\"utf-8\"/>"))
                (PreEscaped("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/>"))
                (PreEscaped("<meta name=\"color-scheme\" content=\"light dark\"/>"))
                title { "dyno-bench: " (names) }
                style { (PreEscaped(style())) (PreEscaped(STYLE)) }
            }
            body {
                h1 { "dyno-bench: " (names) }
                p { (results.title()) }
                @for verdict in verdicts(results) {
                    p.good[verdict.good].bad[!verdict.good] { b { (verdict.of) } ": " (verdict.text) }
                }
                @for warning in warnings(results) { p.bad { "warning: " (warning) } }
                @for comparison in comparisons { (compared(comparison)) }
                @if points(&results.runs).len() > 1 { (sweep(results)) } @else { (figure_table(results)) }
                @for (svg, title, table) in &figures {
                    figure { h2 { (title) } (svg) (table) }
                }
                (trouble(results))
                (how(results))
            }
        }
    })
}

/// Any value as a short text.
fn number(value: f64) -> String {
    let decimals = if value.abs() >= 100.0 { 1 } else { 3 };
    format!("{value:.decimals$}")
}

/// The table below a plot, for those who do not see it: some of its points.
fn beside(plot: &Plot) -> Markup {
    html! {
        p { (plot.about) }
        @if let Some(heat) = &plot.heat { (busy(heat)) }
        @if !plot.lines.is_empty() {
            div.scroll { table {
                caption { (plot.title) ", in figures" }
                @for line in &plot.lines {
                    tr { th scope="row" { (line.name) }
                        @for (x, y) in plot.shown(line) {
                            td { (number(y)) " " span.noise { "at " (plot.x.text(x)) } }
                        }
                    }
                }
            } }
        }
    }
}

/// How busy each dyno was, or each of some groups of neighbours.
fn busy(heat: &Heat) -> Markup {
    let each = heat.rows.len().div_ceil(GROUPS).max(1);
    let share = |rows: &[String]| {
        let cells = rows.iter().flat_map(|row| row.bytes());
        let (sum, count) = cells.fold((0, 0), |(sum, count): (u32, u32), cell| {
            (sum + u32::from(cell.saturating_sub(b'0').min(9)), count + 1)
        });
        f64::from(sum) / f64::from(count.max(1)) / 9.0 * 100.0
    };
    html! {
        div.scroll { table {
            caption { "Busy, from the lowest row to the highest" }
            tr { @for rows in heat.rows.chunks(each) { td { (format!("{:.0} %", share(rows))) } } }
        } }
    }
}

fn figure_table(results: &Results) -> Markup {
    let names = proxies(&results.runs);
    let Some(point) = points(&results.runs).first().copied() else { return html! {} };
    html! {
        h2 { "Figures" }
        div.scroll { table {
            caption { "Medians of the rounds" }
            thead { tr {
                th scope="col" { "figure" }
                @for name in &names { th scope="col" { (name) } }
                @for name in names.iter().skip(1) { th scope="col" { (names[0]) "/" (name) } }
            } }
            @for figure in FIGURES {
                @let values = medians(results, figure, point);
                tr {
                    th scope="row" { (figure.name) }
                    @for value in &values { td { (figure.text(*value)) } }
                    @for value in values.iter().skip(1) {
                        @let pair = values[0].zip(*value).filter(|(_, other)| *other != 0.0);
                        td { (pair.map_or_else(|| "-".to_owned(), |(one, other)| format!("{:.3}", one / other))) }
                    }
                }
            }
        } }
    }
}

fn sweep(results: &Results) -> Markup {
    let keys =
        ["answers_per_second", "dynos_busy_percent", "wait_mean_ms", "wait_p99_ms", "ideal_wait_mean_ms"];
    let figures: Vec<_> =
        keys.into_iter().chain(["cpu_us_per_request", "faults", "overlaps"]).filter_map(named).collect();
    html! {
        h2 { "Figures" }
        div.scroll { table {
            caption { "Medians of the rounds" }
            thead { tr {
                th scope="col" { "dynos" } th scope="col" { "load" } th scope="col" { "proxy" }
                @for figure in &figures { th scope="col" { (figure.name) } }
                th scope="col" { "ideal throughput" }
            } }
            @for point in points(&results.runs) {
                @for (place, name) in proxies(&results.runs).into_iter().enumerate() {
                    @if let Some(run) = at(&results.runs, name, point).first() {
                        tr {
                            td { (point.0) }
                            td { (run.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.3}"))) }
                            th scope="row" { (name) }
                            @for figure in &figures { td { (figure.text(medians(results, figure, point)[place])) } }
                            td { (ideal_throughput(results, point.0).map_or_else(|| "-".to_owned(), number)) }
                        }
                    }
                }
            }
        } }
    }
}

fn compared(comparison: &Comparison) -> Markup {
    let differences = &comparison.differences;
    html! {
        h2 { (comparison.title) }
        @for line in differences.grave.iter().chain(&differences.light) { p { "Differs: " (line) } }
        @for contrast in &comparison.contrasts {
            div.scroll { table {
                caption {
                    (contrast.before) " before, " (contrast.after) " after: " (count(contrast.dynos, "dyno"))
                    @if let Some(load) = contrast.load { ", load " (format!("{load:.3}")) }
                    ", " (contrast.rounds.0) " and " (count(contrast.rounds.1, "round"))
                }
                thead { tr {
                    @for name in ["figure", "before", "after", "ratio", "chance", "finding"] {
                        th scope="col" { (name) }
                    }
                } }
                @for line in &contrast.lines {
                    @let figure = named(line.figure);
                    @let text = |value: f64| figure.map_or_else(String::new, |figure| figure.text(Some(value)));
                    tr {
                        th scope="row" { (figure.map_or(line.figure, |figure| figure.name)) }
                        td { (text(line.before)) }
                        td { (text(line.after)) }
                        td { (line.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"))) }
                        td { (format!("{:.3}", line.chance)) }
                        (finding(line.finding))
                    }
                }
            } }
        }
    }
}

fn finding(finding: Finding) -> Markup {
    match finding {
        Finding::Better => html! { td.better { "better" } },
        Finding::Worse => html! { td.worse { "WORSE" } },
        Finding::Different => html! { td { "different" } },
        Finding::Noise => html! { td.noise { "noise" } },
        Finding::TooFewRounds => html! { td.noise { "too few rounds to tell" } },
    }
}

fn trouble(results: &Results) -> Markup {
    let all: Vec<String> = results.runs.iter().flat_map(troubles).collect();
    html! {
        @if !all.is_empty() {
            h2 { "What went wrong" }
            @for line in all.iter().take(TROUBLES) { p { (line) } }
            @if all.len() > TROUBLES { p { "and " (all.len() - TROUBLES) " more" } }
        }
    }
}

/// One who took part in a comparison.
fn took_part(party: &Party) -> Markup {
    let how = party.skipped.as_ref().map_or_else(|| party.form.clone(), |why| format!("skipped: {why}"));
    let logs = party.logs.filter(|_| party.skipped.is_none()).map(Logs::words);
    html! {
        p {
            b { (party.name) } ": " (how)
            @for more in party.version.as_deref().into_iter().chain(logs) { "; " (more) }
        }
    }
}

/// How the results came about.
fn how(results: &Results) -> Markup {
    html! {
        h2 { "How this was measured" }
        p { (results.place()) "; dyno-bench " (results.tool) }
        p { code { (results.command) } }
        @for party in &results.parties { (took_part(party)) }
        div.scroll { table {
            caption { "Scenario" }
            @for (name, word) in &results.scenario { tr { th scope="row" { (name) } td { (word) } } }
        } }
        p {
            "Wait is from the client's intended send to the dyno beginning to work. Excess is the wait since the \
             actual send less the wait in the ideal line (first come first served, no cost) on the same arrivals and \
             service times, or with the same clients where each waits for its answer. Turnaround is how long a dyno stood idle between two requests while the second was \
             waiting already."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contrast::{contrast, differences};
    use crate::results::tests::sample;

    fn text(results: &Results, comparisons: &[Comparison]) -> String {
        let mut out = Vec::new();
        write(&mut out, results, comparisons).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn parse(text: &str) -> roxmltree::Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(text, options).unwrap()
    }

    #[test]
    fn whether_a_proxy_writes_a_log_is_told_of_each() {
        let mut results = sample(&["routerd", "pingora"], 1);
        let party = |name, logs| Party { logs, ..Party::new(name, "as it is".to_owned()) };
        results.parties = vec![
            party("self-test", None),
            party("routerd", Some(Logs::On)),
            party("pingora", Some(Logs::Off)),
            Party { skipped: Some("no plain form".to_owned()), ..party("caddy", Some(Logs::On)) },
        ];
        let page = text(&results, &[]);
        for part in [
            "routerd</b>: as it is; access log on",
            "pingora</b>: as it is; access log off",
            "self-test</b>: as it is</p>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(page.contains("caddy</b>: skipped: no plain form</p>"), "{page}");
    }

    #[test]
    fn the_page_is_well_formed_and_has_all_plots_with_names() {
        let mut results = sample(&["routerd", "<script>alert(1)</script>"], 2);
        results.command = "dyno-bench --host '<b>&'".to_owned();
        let text = text(&results, &[]);
        let page = parse(&text);
        let plots: Vec<_> = page.descendants().filter(|node| node.has_tag_name("svg")).collect();
        let ids: Vec<_> = plots.iter().filter_map(|plot| plot.attribute("aria-labelledby")).collect();
        let expected = ["latency", "wait", "rate", "tail", "dynos-0", "dynos-1", "load"];
        assert_eq!(ids, expected.map(|id| format!("{id}-title {id}-about")));
        let ids: Vec<_> = page.descendants().filter_map(|node| node.attribute("id")).collect();
        assert_eq!(
            ids.len(),
            ids.iter().collect::<std::collections::HashSet<_>>().len(),
            "an id twice: {ids:?}"
        );
        for plot in plots {
            let words =
                |name| plot.children().find(|node| node.has_tag_name(name)).and_then(|node| node.text());
            assert!(words("title").is_some_and(|text| !text.is_empty()), "a plot without a title");
            assert!(words("desc").is_some_and(|text| text.len() > 20), "a plot without a description");
        }
        assert!(!page.descendants().any(|node| node.has_tag_name("script")), "a name became an element");
        assert!(!text.contains("NaN") && !text.contains("inf\""), "a number that is none");
        assert!(
            !text.contains("src=") && !text.contains("@import") && !text.contains("url("),
            "loads something"
        );
        assert!(text.contains("kept one request per dyno: yes"));
        // On paper nothing can be scrolled, and a table that goes on over the page has its head again.
        assert!(text.contains(".scroll{overflow:visible}"));
        assert!(page.descendants().any(|node| node.has_tag_name("thead")));
        assert!(text.len() < 500_000, "{} bytes", text.len());
    }

    #[test]
    fn the_largest_page_stays_small() {
        // Of one the most cells that are drawn as they are, no two neighbours alike; of six far too many.
        for (proxies, rows) in [(&["a"][..], 30), (&["a", "b", "c", "d", "e", "f"], 200)] {
            let mut results = sample(proxies, 1);
            for run in &mut results.runs {
                let grid = run.curves.occupancy.as_mut().unwrap();
                grid.rows = vec!["19".repeat(200); rows];
                let step = run.curves.timeline[0];
                run.curves.timeline = vec![step; 120];
            }
            let text = text(&results, &[]);
            parse(&text);
            assert!(text.len() < 500_000, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_comparison_and_what_is_missing_are_on_the_page() {
        let (before, mut after) = (sample(&["a"], 5), sample(&["x", "a"], 5));
        after.partial = Some("interrupted".to_owned());
        let comparison = Comparison {
            title: "after.json against before.json".to_owned(),
            differences: differences(&before, &after),
            contrasts: contrast(&before, &after, 0.02).unwrap(),
        };
        let text = text(&after, &[comparison]);
        let page = parse(&text);
        assert!(page.descendants().any(|node| node.attribute("class") == Some("worse")));
        assert!(text.contains("only a part was run: interrupted"));
    }

    #[test]
    fn results_without_runs_are_a_page_too() {
        let mut results = sample(&["a"], 1);
        results.runs.clear();
        parse(&text(&results, &[]));
    }
}
