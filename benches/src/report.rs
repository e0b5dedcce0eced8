//! From a run to figures.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::Memory;
use crate::curves::Curves;
use crate::dyno::Overlap;
use crate::engine::Run;
use crate::fairness::{self, Evenness, Order};
use crate::oracle::{self, Oracle, Turn};
use crate::records::{NEVER, Record};
use crate::trust::Trust;

/// Mean and percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
}

/// The figures of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which proxy.
    pub proxy: String,
    /// Which round of the comparison, from 1.
    pub round: u32,
    /// The seed of this run.
    pub seed: u64,
    /// How many dynos there were.
    pub dynos: u32,
    /// Requests sent a second, by plan; none in a closed loop.
    pub rate: Option<f64>,
    /// The same as a share of the dynos' capacity; none in a closed loop and in plain forwarding.
    pub load: Option<f64>,
    /// Length of the run proper, in seconds.
    pub seconds: f64,
    /// Requests sent in the run proper.
    pub requests: u64,
    /// Answers in the run proper, a second.
    pub answers_per_second: f64,
    /// Of these, the answers of dynos: what a proxy answered by itself is left out.
    pub served_per_second: f64,
    /// Requests of the whole run that were not served well, by status and `X-Router-Fault`, or by what broke.
    pub faults: BTreeMap<String, u64>,
    /// Requests of the whole run that came to a dyno which was serving another.
    pub overlaps: u64,
    /// The first few overlaps.
    pub overlaps_shown: Vec<Overlap>,
    /// Connections opened to a dyno that had one open already.
    pub second_connections: u64,
    /// Connections opened to dynos for each 1000 requests, over the whole run.
    pub connections_per_1000: f64,
    /// Requests that came to a dyno a second time.
    pub repeats: u64,
    /// Requests that the generator did not send, such as probes.
    pub strangers: u64,
    /// How often a dyno went down, as it was told to.
    pub dyno_crashes: u64,
    /// What else is to be said of the dynos, in words.
    pub dyno_notes: Vec<String>,
    /// The share of the run proper in which the dynos worked.
    pub dynos_busy: f64,
    /// From the intended send to the dyno beginning to work.
    pub wait: Spread,
    /// The same in the ideal line, on the same arrivals and service times; of a closed loop without faults, with the same
    /// clients and service times.
    pub ideal_wait: Spread,
    /// Wait since the actual send less the wait in the ideal line, request by request.
    pub excess: Spread,
    /// How long a dyno stood idle between two requests while the second was waiting already.
    pub turnaround: Spread,
    /// From the intended send to the last byte of the answer.
    pub latency: Spread,
    /// Latency less that without a proxy, in the same round: percentile by percentile, if there was such a run.
    pub added_latency: Option<Spread>,
    /// How evenly the dynos were used in the run proper.
    pub evenness: Evenness,
    /// How far from first come, first served requests were, in the run proper.
    pub order: Order,
    /// User and system time of the proxy's processes a request, in microseconds, if it was measured.
    pub cpu_us_per_request: Option<f64>,
    /// The memory of the proxy's processes at the end of the run proper, if it was measured.
    pub memory: Option<Memory>,
    /// How late the generator sent, by its own clock.
    pub send_late: Spread,
    /// How late the dynos' work ended, by the same clock.
    pub service_late: Spread,
    /// The share of the run proper in which the generator's thread used a processor; of several the busiest.
    pub generator_busy: f64,
    /// Whether the figures are the proxy's, or the generator was in the way.
    pub generator: Trust,
    /// Whether the run was ended early.
    pub interrupted: bool,
    /// What its plots are drawn from.
    pub curves: Curves,
}

impl Spread {
    /// This less another, figure by figure.
    pub fn less(&self, other: &Self) -> Self {
        Self {
            mean_ms: self.mean_ms - other.mean_ms,
            p50_ms: self.p50_ms - other.p50_ms,
            p90_ms: self.p90_ms - other.p90_ms,
            p99_ms: self.p99_ms - other.p99_ms,
            p999_ms: self.p999_ms - other.p999_ms,
        }
    }
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
        let (figures, worked) = (Figures::of(run, dynos), worked(run, dynos));
        let seconds = figures.length as f64 / 1e9;
        Self {
            proxy: proxy.to_owned(),
            round,
            seed,
            dynos: u32::try_from(dynos).unwrap_or(u32::MAX),
            rate: None,
            load: None,
            seconds,
            requests: figures.requests,
            answers_per_second: figures.answers as f64 / seconds,
            served_per_second: figures.served as f64 / seconds,
            faults: run.outcome.faults.clone(),
            overlaps: run.seen.overlaps,
            overlaps_shown: run.seen.shown.clone(),
            second_connections: run.seen.second_connections,
            connections_per_1000: run.seen.connections as f64 * 1e3 / run.records.len().max(1) as f64,
            repeats: run.repeats,
            strangers: run.seen.strangers,
            dyno_crashes: run.seen.crashes,
            dyno_notes: run.seen.notes.clone(),
            dynos_busy: busy(&worked, run.window) as f64 / figures.length as f64 / dynos as f64,
            wait: spread(&figures.wait),
            ideal_wait: spread(&figures.ideal),
            excess: differences(figures.excess),
            turnaround: spread(&figures.turnaround),
            latency: spread(&figures.latency),
            added_latency: None,
            evenness: fairness::evenness(served(worked.iter(), run.window), dynos),
            order: fairness::order(served(run.records.iter(), run.window)),
            cpu_us_per_request: cpu
                .filter(|(_, requests)| *requests > 0)
                .map(|(time, requests)| time.as_secs_f64() * 1e6 / requests as f64),
            memory: None,
            send_late: spread(&run.late),
            service_late: spread(&run.seen.late),
            generator_busy: run.threads.iter().map(|thread| thread.busy).fold(0.0, f64::max),
            generator: Trust::of(run),
            interrupted: run.interrupted,
            curves: Curves::of(
                worked.iter(),
                run.window,
                dynos,
                [&figures.latency, &figures.wait, &figures.ideal],
            ),
        }
    }

    /// What speaks against the figures, in words.
    pub fn warnings(&self) -> Vec<String> {
        let doubts = self.dyno_notes.iter().chain(&self.generator.doubts).chain(&self.generator.advice);
        let mut warnings: Vec<String> = doubts.map(|doubt| format!("{}: {doubt}", self.proxy)).collect();
        if self.interrupted {
            warnings.push(format!("{}: interrupted, the figures are of a part of the run", self.proxy));
        }
        warnings
    }

    /// Whether no request of the run proper got an answer, in it or after it: of few requests all answers may come when
    /// the last is sent and the run proper over.
    pub fn is_silent(&self) -> bool {
        self.answers_per_second == 0.0 && self.latency == Spread::default()
    }

    /// All requests that were not served well.
    pub fn faults(&self) -> u64 {
        // Those of a file may be any number.
        self.faults.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// What is counted in one pass over the records.
struct Figures {
    length: u64,
    requests: u64,
    answers: u64,
    served: u64,
    wait: Histogram<u64>,
    ideal: Histogram<u64>,
    turnaround: Histogram<u64>,
    latency: Histogram<u64>,
    excess: Vec<i64>,
}

impl Figures {
    fn of(run: &Run, dynos: usize) -> Self {
        let (from, to) = run.window;
        let mut all = Self {
            length: to.saturating_sub(from).max(1),
            requests: 0,
            answers: 0,
            served: 0,
            wait: histogram(),
            ideal: histogram(),
            turnaround: turnaround(run, dynos),
            latency: histogram(),
            excess: Vec::new(),
        };
        // Requests that waited for a connection were sent out of order; the line is by arrival.
        let mut records: Vec<_> = run.records.iter().copied().collect();
        records.sort_by_key(|record| record.arrived);
        let mut ideal = ideal(run, dynos, &records).into_iter();
        for record in records {
            let inside = record.due >= from && record.due < to;
            all.requests += u64::from(inside);
            let answered = record.done >= from && record.done < to;
            all.answers += u64::from(answered);
            all.served += u64::from(answered && record.served());
            if inside && record.done != NEVER {
                all.latency.saturating_record(record.done.saturating_sub(record.due));
            }
            if !record.served() {
                continue;
            }
            let ideal = ideal.next().flatten();
            if !inside {
                continue;
            }
            all.wait.saturating_record(record.started.saturating_sub(record.due));
            if let Some(ideal) = ideal {
                all.ideal.saturating_record(ideal);
                all.excess.push((record.started - record.arrived).cast_signed() - ideal.cast_signed());
            }
        }
        all
    }
}

/// The waits in the ideal line of all that were served, by order of arrival. Those of a closed loop whose answers nobody
/// waited for have none.
fn ideal(run: &Run, dynos: usize, records: &[Record]) -> Vec<Option<u64>> {
    let served = records.iter().filter(|record| record.served());
    let turn = |record: &Record| Turn {
        arrived: record.arrived,
        service: record.ended.saturating_sub(record.started),
        back: record.done.saturating_sub(record.ended),
        done: record.done,
    };
    match run.clients {
        // What a client does after a fault is no part of its turns.
        Some(clients) if run.outcome.faults.is_empty() => {
            let answered = |record: &&Record| record.done != NEVER;
            let turns: Vec<_> = served.clone().filter(answered).map(turn).collect();
            let mut waits = oracle::closed_loop(dynos, clients, &turns).into_iter();
            served.map(|record| if answered(&record) { waits.next() } else { None }).collect()
        }
        _ => {
            let mut line = Oracle::new(dynos);
            served.map(turn).map(|turn| Some(line.wait(turn.arrived, turn.service))).collect()
        }
    }
}

/// Those of the run proper that were served.
fn served<'a>(
    records: impl Iterator<Item = &'a Record>,
    (from, to): (u64, u64),
) -> impl Iterator<Item = &'a Record> {
    records.filter(move |record| record.served() && record.due >= from && record.due < to)
}

/// All requests by when they began, each from when its dyno had none before it: what a dyno did meanwhile that has
/// several at once is counted for one of them.
fn worked(run: &Run, dynos: usize) -> Vec<Record> {
    let mut all: Vec<Record> = run.records.iter().copied().collect();
    all.sort_by_key(|record| record.started);
    let mut until = vec![0; dynos];
    for record in all.iter_mut().filter(|record| record.served()) {
        let Some(until) = until.get_mut(record.dyno as usize) else { continue };
        record.started = record.started.max(*until).min(record.ended);
        *until = record.ended.max(*until);
    }
    all
}

/// How long dynos have worked in the run proper.
fn busy(worked: &[Record], (from, to): (u64, u64)) -> u64 {
    let served = worked.iter().filter(|record| record.served());
    served.map(|record| record.ended.min(to).saturating_sub(record.started.max(from))).sum()
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
    let mean_ms = histogram.mean() / 1e6;
    Spread { mean_ms, p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p999_ms: at(0.999) }
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
    Spread { mean_ms, p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), p999_ms: at(0.999) }
}

/// The middle value; of two, the mean.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
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

    /// A run with these requests, by when each was due, arrived, began, ended and was done, in milliseconds, and its
    /// dyno; the run proper is from 10 ms to 20 ms.
    fn run(requests: &[([u64; 5], u32)]) -> Run {
        let mut records = crate::records::Records::default();
        for ([due, arrived, started, ended, done], dyno) in requests {
            let at = |ms: u64| if ms == NEVER { NEVER } else { ms * 1_000_000 };
            let number = records.push(at(*due), 0);
            let record = records.get_mut(number).unwrap();
            (record.arrived, record.started, record.ended) = (at(*arrived), at(*started), at(*ended));
            (record.done, record.dyno) = (at(*done), *dyno);
        }
        Run {
            records,
            outcome: crate::load::Outcome::default(),
            seen: crate::dyno::Seen::default(),
            repeats: 0,
            window: (10_000_000, 20_000_000),
            late: histogram(),
            threads: Vec::new(),
            divisible: true,
            idle_cores: None,
            rate: None,
            clients: None,
            overrun: false,
            curtailed: false,
            interrupted: false,
        }
    }

    fn near(value: f64, wanted: f64) -> bool {
        // A histogram has three digits.
        (value - wanted).abs() <= wanted.abs() * 2e-3 + 1e-6
    }

    #[test]
    fn figures_are_those_of_the_run_proper() {
        let run = run(&[
            // Of the warm-up, answered within the run proper.
            ([5, 5, 5, 11, 11], 0),
            // Sent 1 ms late to a dyno that is free again just then.
            ([10, 11, 11, 14, 15], 0),
            // Waits 4 ms though another dyno is idle; its answer comes when the run proper is over.
            ([12, 12, 16, 19, 20], 0),
            // Answered by the proxy, and not at all.
            ([18, 18, NEVER, NEVER, 19], 0),
            ([19, 19, NEVER, NEVER, NEVER], 0),
            // After the run proper.
            ([20, 20, 20, 21, 21], 1),
        ]);
        let report = Report::new("it", (1, 1), 2, &run, Some((Duration::from_millis(1), 4)));
        assert_eq!((report.requests, report.seconds), (4, 0.01), "{report:?}");
        assert_eq!((report.answers_per_second, report.served_per_second), (300.0, 200.0), "{report:?}");
        assert!(near(report.dynos_busy, 7.0 / 20.0), "{report:?}");
        assert!(near(report.wait.mean_ms, 2.5) && near(report.wait.p99_ms, 4.0), "{report:?}");
        assert!(near(report.ideal_wait.mean_ms, 0.0) && near(report.excess.mean_ms, 2.0), "{report:?}");
        assert!(near(report.excess.p99_ms, 4.0) && near(report.excess.p50_ms, 0.0), "{report:?}");
        assert!(near(report.turnaround.mean_ms, 1.0) && near(report.turnaround.p99_ms, 2.0), "{report:?}");
        assert!(near(report.latency.mean_ms, 14.0 / 3.0) && near(report.latency.p99_ms, 8.0), "{report:?}");
        assert_eq!(report.cpu_us_per_request, Some(250.0));
        assert_eq!((report.evenness.requests, report.order.most), (0.5, 0), "{report:?}");
    }

    #[test]
    fn an_answer_after_the_run_proper_is_one_too() {
        let silent =
            |done| Report::new("it", (1, 1), 1, &run(&[([19, 19, 19, done, done], 0)]), None).is_silent();
        assert!(!silent(19) && !silent(30));
        let none = run(&[([19, 19, NEVER, NEVER, NEVER], 0)]);
        assert!(Report::new("it", (1, 1), 1, &none, None).is_silent());
        assert!(Report::new("it", (1, 1), 1, &run(&[]), None).is_silent());
    }

    #[test]
    fn clients_of_a_closed_loop_wait_for_each_other_in_the_ideal_line_too() {
        // Two clients and a dyno that stands for 1 ms after each request of 3 ms.
        let requests = [
            ([8, 8, 8, 11, 11], 0),
            ([8, 8, 12, 15, 15], 0),
            ([11, 11, 16, 19, 19], 0),
            ([15, 15, 20, 23, NEVER], 0),
        ];
        let mut run = run(&requests);
        run.clients = Some(2);
        let report = Report::new("it", (1, 1), 1, &run, None);
        // In the ideal line the third comes at 11 too, and the dyno is free at 14; on these arrivals alone as well. The
        // fourth was not answered before the end.
        assert!(near(report.ideal_wait.mean_ms, 3.0) && near(report.excess.mean_ms, 2.0), "{report:?}");
        assert!(near(report.wait.mean_ms, 5.0), "{report:?}");
        run.outcome.faults.insert("H12".to_owned(), 1);
        assert!(
            Report::new("it", (1, 1), 1, &run, None).ideal_wait.mean_ms < 3.0,
            "an open line after a fault"
        );
    }

    #[test]
    fn what_overlaps_on_a_dyno_is_its_time_once() {
        let run = run(&[([10, 10, 10, 15, 15], 0), ([11, 11, 11, 13, 13], 0), ([12, 12, 12, 18, 18], 0)]);
        let report = Report::new("it", (1, 1), 1, &run, None);
        assert!(near(report.dynos_busy, 0.8), "{}", report.dynos_busy);
        let timeline = &report.curves.timeline;
        assert!(timeline.iter().all(|interval| interval.busy_dynos <= 1.0), "{timeline:?}");
        // How long each waited and took is its own all the same.
        assert!(near(report.wait.p99_ms, 0.0) && near(report.latency.p99_ms, 6.0), "{report:?}");
    }

    #[test]
    fn differences_may_be_negative() {
        let spread = differences((-50..50).map(|ms| ms * 1_000_000).collect());
        let percentiles = (spread.p50_ms, spread.p90_ms, spread.p99_ms);
        assert_eq!((spread.mean_ms, percentiles), (-0.5, (-1.0, 39.0, 48.0)));
    }
}
