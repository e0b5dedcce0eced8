//! What a tired operator reads first: one sentence a proxy, and what speaks against the figures.

use crate::figures::{FIGURES, Figure, at, points, proxies};
use crate::number::{count, were};
use crate::report::{Report, median};
use crate::results::Results;
use crate::sweep::per_second;

/// A sentence and whether it is good news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the proxy kept its promises.
    pub good: bool,
    /// The proxy, and in a sweep the point.
    pub of: String,
    /// The sentence.
    pub text: String,
}

/// One for each proxy, about all its runs; knees behind them.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let names = proxies(&results.runs);
    let mut all: Vec<Verdict> = names.iter().map(|name| of_proxy(results, name, &names)).collect();
    all.extend(results.knees.iter().map(|knee| Verdict {
        good: true,
        of: knee.proxy.clone(),
        text: format!("stood {}; {}", per_second(knee.good), knee.words),
    }));
    all
}

fn of_proxy(results: &Results, name: &str, names: &[&str]) -> Verdict {
    let runs: Vec<&Report> = results.runs.iter().filter(|run| run.proxy == name).collect();
    let sum = |of: fn(&Report) -> u64| runs.iter().fold(0_u64, |sum, run| sum.saturating_add(of(run)));
    let (overlaps, faults) = (sum(|run| run.overlaps), sum(Report::faults));
    let mut parts = Vec::new();
    if results.exclusive() {
        let kept = if overlaps == 0 { "yes" } else { "NO" };
        parts.push(format!("kept one request per dyno: {kept}, {}", count(overlaps, "overlap")));
    }
    parts.push(if faults == 0 {
        format!("{}, no faults", count(sum(|run| run.requests), "request"))
    } else {
        format!("{} of {} not served well", faults, count(sum(|run| run.requests), "request"))
    });
    if results.exclusive() && points(&results.runs).len() == 1 {
        parts.push(busy(results, name, names));
        let middle = |of: fn(&Report) -> f64| median(runs.iter().map(|run| of(run)).collect()).unwrap_or(0.0);
        let (mean, p99) = (middle(|run| run.excess.mean_ms), middle(|run| run.excess.p99_ms));
        parts.push(format!("waits {mean:.3} ms longer than in the ideal line ({p99:.3} ms at p99)"));
    }
    Verdict { good: overlaps == 0 && faults == 0, of: name.to_owned(), text: parts.join("; ") }
}

/// How busy the dynos were, beside what the others made of them.
fn busy(results: &Results, name: &str, names: &[&str]) -> String {
    let middle = |name: &str| {
        let runs = results.runs.iter().filter(|run| run.proxy == name);
        median(runs.map(|run| run.dynos_busy * 100.0).collect()).unwrap_or(0.0)
    };
    let others: Vec<String> = names
        .iter()
        .filter(|other| **other != name)
        .map(|other| format!("{other} {:.1} %", middle(other)))
        .collect();
    let beside = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("dynos busy {:.1} %{beside}", middle(name))
}

/// What went wrong in single runs, in words: faults by kind, requests tried again, overlaps one by one.
pub fn troubles(report: &Report) -> Vec<String> {
    let who = format!("{} (round {})", report.proxy, report.round);
    let mut all = Vec::new();
    for (fault, count) in &report.faults {
        all.push(format!("{who}: fault: {fault}: {count}"));
    }
    if report.repeats > 0 {
        all.push(format!("{who}: {} came to a dyno a second time", count(report.repeats, "request")));
    }
    if report.strangers > 0 {
        let (strangers, were) = (count(report.strangers, "request"), were(report.strangers));
        all.push(format!("{who}: {strangers} {were} not the generator's (probes)"));
    }
    if report.dyno_crashes > 0 {
        let times = count(report.dyno_crashes, "time");
        all.push(format!("{who}: dynos went down {times}, as they were told"));
    }
    for overlap in &report.overlaps_shown {
        all.push(format!("{who}: OVERLAP: {overlap}"));
    }
    all
}

/// What speaks against the figures: of each proxy and kind the first, and in how many runs it was so.
pub fn warnings(results: &Results) -> Vec<String> {
    let mut all: Vec<String> =
        results.partial.iter().map(|why| format!("only a part was run: {why}")).collect();
    for name in proxies(&results.runs) {
        let runs: Vec<&Report> = results.runs.iter().filter(|run| run.proxy == name).collect();
        // Those of a kind differ in their figures only, and in the plurals that come with them.
        let kind = |text: &str| text.replace(|c: char| c.is_ascii_digit() || c == '.' || c == 's', "");
        let mut kinds: Vec<(String, String, usize)> = Vec::new();
        for warning in runs.iter().flat_map(|run| run.warnings()) {
            match kinds.iter_mut().find(|(known, ..)| *known == kind(&warning)) {
                Some((.., count)) => *count += 1,
                None => kinds.push((kind(&warning), warning, 1)),
            }
        }
        let of = |count| {
            if runs.len() == 1 { String::new() } else { format!(" (in {count} of {} runs)", runs.len()) }
        };
        all.extend(kinds.into_iter().map(|(_, warning, count)| format!("{warning}{}", of(count))));
    }
    all
}

/// One figure of all proxies at a point: the medians of their rounds.
pub(super) fn medians(results: &Results, figure: &Figure, point: crate::figures::Point) -> Vec<Option<f64>> {
    let names = proxies(&results.runs);
    names.iter().map(|name| figure.median(at(&results.runs, name, point))).collect()
}

/// The ideal throughput of so many dynos, in answers a second; none if they have no bound, or none that is known.
pub(super) fn ideal_throughput(results: &Results, dynos: u32) -> Option<f64> {
    let mean_ms = results.service.mean_ms;
    (mean_ms > 0.0).then(|| f64::from(dynos) * 1e3 / mean_ms)
}

/// The figure of this key.
pub(super) fn named(key: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn the_first_sentence_says_whether_the_promise_was_kept() {
        let mut results = sample(&["routerd", "haproxy"], 2);
        let all = verdicts(&results);
        assert!(all[0].good && all[0].text.contains("one request per dyno: yes, 0 overlaps"), "{all:?}");
        assert!(all[0].text.contains("dynos busy 89.9 % (haproxy 69.2 %)"), "{all:?}");
        assert!(all[0].text.contains("ms longer than in the ideal line"), "{all:?}");
        results.runs[0].overlaps = 1;
        let all = verdicts(&results);
        assert!(!all[0].good && all[0].text.contains("NO, 1 overlap;"), "{all:?}");
        assert!(all[1].good);
    }

    #[test]
    fn counts_of_a_file_may_be_any_number() {
        let mut results = sample(&["routerd"], 2);
        for run in &mut results.runs {
            (run.overlaps, run.requests) = (u64::MAX, u64::MAX);
            run.faults = [("a", u64::MAX), ("b", 5)].map(|(name, count)| (name.to_owned(), count)).into();
        }
        let all = verdicts(&results);
        assert!(all[0].text.contains("NO, 18446744073709551615 overlaps"), "{all:?}");
    }

    #[test]
    fn a_warning_is_there_once_and_troubles_of_dynos_are_told() {
        let mut results = sample(&["routerd"], 3);
        for (run, late) in results.runs.iter_mut().zip(["0.5", "0.72"]) {
            run.generator.doubts.push(format!("requests were sent {late} ms late"));
        }
        results.runs[2].dyno_notes.push("the dyno `x` ended".to_owned());
        let expected =
            ["requests were sent 0.5 ms late (in 2 of 3 runs)", "the dyno `x` ended (in 1 of 3 runs)"];
        assert_eq!(warnings(&results), expected.map(|text| format!("routerd: {text}")));
        let run = &mut results.runs[0];
        run.dyno_crashes = 2;
        run.overlaps_shown.push(crate::dyno::Overlap {
            dyno: 4,
            served: Some(7),
            served_id: Some("a-1".into()),
            came: None,
            came_id: Some("a-2".into()),
            served_for_ms: 1.5,
        });
        let told = troubles(run);
        assert!(told[0].ends_with("dynos went down 2 times, as they were told"), "{told:?}");
        let overlap = "dyno 4 was serving request 7 (id a-1) for 1.500 ms when request unknown (id a-2) came";
        assert!(told[1].ends_with(overlap), "{told:?}");
    }
}
