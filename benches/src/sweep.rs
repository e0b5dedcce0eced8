//! The same scenario at several points: more dynos, more load, or the rate at which something gives way.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::compare::{self, Proxy, Scenario};
use crate::course::Course;
use crate::engine::Pacing;
use crate::number::count;
use crate::report::Report;
use crate::results::{Knee, Results};
use crate::trust::{BUSY, LATE_MS};

/// The search ends when good and bad rate are this near, as a share.
const NEAR: f64 = 0.03;
/// And after so many runs a proxy.
const MOST_RUNS: u32 = 16;
/// The search goes no lower than this share of the rate that it begins at.
const LEAST: f64 = 0.01;
/// More than this share of the dynos' capacity no proxy can serve, so it is not tried.
const MOST_LOAD: f64 = 1.1;
/// So much the generator can send on any machine.
const SURE_RATE: f64 = 10_000.0;
/// A thread of the generator sends no more than this.
const MOST_RATE: f64 = 200_000.0;
/// A share of faults above this is one of the things that give way.
const FAULTS: f64 = 0.001;

/// Runs each point, in the order given; what was run before an error or an interruption is in `results` all the same.
///
/// # Errors
/// When a proxy cannot be started or a socket cannot be made.
pub fn run(points: &[(String, Scenario)], proxies: &[Proxy], results: &mut Results) -> io::Result<()> {
    let runs = points.iter().map(|(_, scenario)| scenario.runs(proxies.len())).sum();
    let mut course = Course::new(runs);
    for (name, scenario) in points {
        if scenario.interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        course.enter(name);
        let mut reports = Vec::new();
        let done = compare::run_on(&mut course, scenario, proxies, &mut reports);
        reports.iter_mut().for_each(|report| report.curves.slim());
        results.runs.append(&mut reports);
        done?;
    }
    Ok(())
}

/// A rate in words.
pub(crate) fn per_second(rate: f64) -> String {
    // Slow dynos do less than one a second.
    let decimals = if rate > 0.0 && rate < 10.0 { 3 } else { 0 };
    format!("{} a second", count(format!("{rate:.decimals$}"), "request"))
}

/// What may give way when the rate rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GaveWay {
    Wait,
    Faults,
    Generator,
}

impl GaveWay {
    fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Faults => "faults",
            Self::Generator => "generator",
        }
    }
}

/// What gave way in a run, in words; the tool itself first, because then nothing else can be said.
fn gave_way(run: &Report, bound: Duration) -> Option<(GaveWay, String)> {
    let bound_ms = bound.as_secs_f64() * 1e3;
    // A sender that is late by a tenth of the bound cannot judge it.
    let late_ms = LATE_MS.max(bound_ms / 10.0);
    if run.generator_busy > BUSY || run.send_late.p99_ms > late_ms {
        let (late, busy) = (run.send_late.p99_ms, run.generator_busy * 100.0);
        let advice = run.generator.advice.as_ref().map_or_else(String::new, |advice| format!("; {advice}"));
        return Some((
            GaveWay::Generator,
            format!("the generator itself: {late:.3} ms late at p99, {busy:.0} % busy{advice}"),
        ));
    }
    let faults = run.faults() as f64 / (run.requests as f64).max(1.0);
    if faults > FAULTS {
        return Some((
            GaveWay::Faults,
            format!("{:.2} % of the requests were not served well", faults * 100.0),
        ));
    }
    let wait = run.wait.p99_ms;
    (wait > bound_ms)
        .then(|| (GaveWay::Wait, format!("p99 of the wait was {wait:.3} ms, more than {bound_ms} ms")))
}

/// Finds for each proxy the rate at which p99 of the wait exceeds `bound`, or faults come, or the generator is at its
/// end: begins at what the dynos can do, and halves the gap between what is good and what is not. The runs and the
/// knees are added to `results`, with what was found before an error or an interruption.
///
/// # Errors
/// When a proxy cannot be started or a socket cannot be made.
pub fn find_knees(
    scenario: &Scenario,
    proxies: &[Proxy],
    bound: Duration,
    results: &mut Results,
) -> io::Result<()> {
    let searches = u32::try_from(proxies.len()).unwrap_or(u32::MAX);
    let mut course = Course::at_most(searches.saturating_mul(MOST_RUNS));
    for (number, proxy) in (0..).zip(proxies) {
        course.skip_to(number * MOST_RUNS);
        let mut run = |rate: f64| -> io::Result<Option<Report>> {
            let scenario = Scenario { pacing: Pacing::Poisson(rate), rounds: 1, ..scenario.clone() };
            let mut reports = Vec::new();
            course.enter(&per_second(rate));
            compare::run_on(&mut course, &scenario, std::slice::from_ref(proxy), &mut reports)?;
            Ok(reports.pop().map(|mut report| {
                report.curves.slim();
                results.runs.push(report.clone());
                report
            }))
        };
        let knee = find_knee(proxy.name(), Rates::of(scenario), bound, &mut run)?;
        results.knees.extend(knee);
        if scenario.interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Ok(())
}

/// The rates of a search, in requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    /// Where it begins.
    first: f64,
    /// The highest that is worth trying.
    most: f64,
}

impl Rates {
    /// Begins at what the dynos can do, if the generator surely can send that.
    fn of(scenario: &Scenario) -> Self {
        let mean = scenario.service.mean();
        let bounded = !scenario.plain && mean > 0.0;
        let ideal = if bounded { f64::from(scenario.dynos) / mean } else { f64::INFINITY };
        let most = MOST_RATE * f64::from(scenario.generator_threads);
        Self { first: ideal.min(SURE_RATE), most: (ideal * MOST_LOAD).min(most) }
    }
}

/// The search for one proxy; `run` gives no report when it was interrupted before it began. The knee is left out then.
fn find_knee(
    proxy: &str,
    rates: Rates,
    bound: Duration,
    run: &mut impl FnMut(f64) -> io::Result<Option<Report>>,
) -> io::Result<Option<Knee>> {
    let (mut good, mut bad) = (0.0, None::<(f64, GaveWay, String)>);
    let mut rate = rates.first;
    for _ in 0..MOST_RUNS {
        let Some(report) = run(rate)?.filter(|report| !report.interrupted) else { return Ok(None) };
        match gave_way(&report, bound) {
            Some((what, words)) => bad = Some((rate, what, words)),
            None => good = rate,
        }
        rate = match &bad {
            Some((bad, ..)) if bad - good <= NEAR * bad => break,
            // Not even this: halving on would take ever longer.
            Some((bad, ..)) if good == 0.0 && *bad < LEAST * rates.first => break,
            Some((bad, ..)) => f64::midpoint(good, *bad),
            None if good >= rates.most => break,
            None => (good * 2.0).min(rates.most),
        };
    }
    let words = match &bad {
        None => format!("nothing gave way up to {}, the most that is tried", per_second(rates.most)),
        Some((rate, _, words)) => format!("at {}: {words}", per_second(*rate)),
    };
    let why = bad.as_ref().map(|(_, what, _)| what.name().to_owned());
    Ok(Some(Knee { proxy: proxy.to_owned(), good, bad: bad.map(|(rate, ..)| rate), why, words }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Spread;
    use std::collections::BTreeMap;

    const BOUND: Duration = Duration::from_millis(50);
    const RATES: Rates = Rates { first: 1_000.0, most: 10_000.0 };

    fn search(of: impl Fn(f64) -> Report) -> (Knee, Vec<f64>) {
        let mut tried = Vec::new();
        let mut run = |rate| {
            tried.push(rate);
            Ok(Some(Report { requests: 1_000, ..of(rate) }))
        };
        (find_knee("it", RATES, BOUND, &mut run).unwrap().unwrap(), tried)
    }

    fn wait(p99_ms: f64) -> Report {
        Report { wait: Spread { p99_ms, ..Spread::default() }, ..Report::default() }
    }

    #[test]
    fn the_knee_is_found_between_two_near_rates() {
        let (knee, tried) = search(|rate| wait(if rate > 3_210.0 { 51.0 } else { 1.0 }));
        assert_eq!(knee.why.as_deref(), Some("wait"));
        let bad = knee.bad.unwrap();
        assert!(knee.good <= 3_210.0 && bad > 3_210.0 && bad - knee.good <= NEAR * bad, "{knee:?}");
        assert!(tried.len() <= MOST_RUNS as usize && tried.iter().all(|rate| *rate <= 10_000.0), "{tried:?}");
    }

    #[test]
    fn it_says_which_of_the_three_gave_way() {
        let faults = |rate| Report {
            faults: BTreeMap::from([("503".to_owned(), u64::from(rate > 1_000.0) * 2)]),
            ..wait(1.0)
        };
        assert_eq!(search(faults).0.why.as_deref(), Some("faults"));
        let busy = |rate| Report {
            generator_busy: if rate > 1_000.0 { 0.95 } else { 0.1 },
            ..wait(60.0 * rate / 2e3)
        };
        let knee = search(busy).0;
        assert_eq!(knee.why.as_deref(), Some("generator"), "{knee:?}");
        let (knee, tried) = search(|_| wait(1.0));
        assert_eq!((knee.good, knee.bad, knee.why), (10_000.0, None, None));
        assert_eq!(tried.len(), 5);
        let (knee, _) = search(|_| wait(99.0));
        assert!(knee.good == 0.0 && knee.bad.unwrap() > 0.0, "{knee:?}");
    }

    #[test]
    fn a_knee_far_below_the_first_rate_is_found() {
        let (knee, tried) = search(|rate| wait(if rate > 47.0 { 51.0 } else { 1.0 }));
        assert!(knee.good <= 47.0 && knee.good > 45.0, "{knee:?}");
        assert_eq!(tried[..3], [1_000.0, 500.0, 250.0]);
    }

    #[test]
    fn a_search_begins_at_what_the_dynos_can_do() {
        let scenario = |dynos, service: &str, plain| Scenario {
            dynos,
            service: service.parse().unwrap(),
            plain,
            ..compare::tests::scenario()
        };
        let rates = |dynos, service, plain| {
            let Rates { first, most } = Rates::of(&scenario(dynos, service, plain));
            (first.round(), most.round())
        };
        assert_eq!(rates(1, "fixed:10ms", false), (100.0, 110.0));
        assert_eq!(rates(20, "exp:100ms", false), (200.0, 220.0));
        assert_eq!(rates(1_000, "fixed:10ms", false), (SURE_RATE, 110_000.0));
        assert_eq!(rates(1, "fixed:10ms", true), (SURE_RATE, MOST_RATE));
    }

    #[test]
    fn an_interruption_leaves_the_knee_out() {
        let run = |rate: f64| Ok((rate < 1_000.0).then(|| wait(1.0)));
        assert_eq!(find_knee("it", RATES, BOUND, &mut { run }).unwrap(), None);
    }
}
