//! How many dynos a log's traffic needs: its arrivals and service times replayed through the ideal line and at random.
//!
//! Nothing is fitted: the load is the one that was. More load is the same arrivals, closer together. The answer of the
//! ideal line is exact for that load, since no request waits longer for one dyno more; how far it holds for another
//! day is what the halves of the log show.
//!
//! ```
//! use router_bench::advise::{self, Question};
//! use router_bench::logs::{self, Wanted};
//!
//! let mut log = String::new();
//! for n in 0..100 {
//!     // Two requests at once, each 10 ms, ten times a second.
//!     let time = format!("2026-01-01T00:00:{:02}.{}00Z", n / 20, n / 2 % 10);
//!     log += &format!("{{\"time\":\"{time}\",\"method\":\"GET\",\"status\":200,\"service_ms\":10}}\n");
//! }
//! let log = logs::read(log.as_bytes(), &Wanted::default()).unwrap();
//! let question = Question { target: "p99 wait < 1ms".parse().unwrap(), dynos: Some(1), ..Question::default() };
//! let advice = advise::advise(&log, &question).unwrap();
//! assert_eq!(advice.growth[0].one_line.dynos, Some(2));
//! ```

use std::thread;

use serde::Serialize;

use crate::logs::{Fate, Format, Log};
use crate::number::count;
use crate::service::Service;

mod replay;
mod target;

pub use replay::{Figures, Job};
pub use target::{Figure, Price, Target, What};

/// What is asked beside the load of the log: so much more of it.
const GROWTH: [f64; 4] = [1.0, 1.2, 1.5, 2.0];
/// How often random routing is replayed.
const LOTS: u64 = 5;
/// More dynos are not tried with random routing.
const RANDOM_MOST: usize = 100_000;
/// So many requests beyond a percentile make it worth something.
const BEYOND: f64 = 30.0;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// What is good enough.
    pub target: Target,
    /// How many dynos there are today; by itself as many as the log names.
    pub dynos: Option<usize>,
    /// Service times for a log that has none.
    pub service: Option<Service>,
    /// What a dyno costs.
    pub price: Option<Price>,
    /// By which the lots of random routing and missing service times are drawn.
    pub seed: u64,
}

/// What the log's load needs.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// The target, in words.
    pub target: String,
    /// Requests that were replayed.
    pub requests: u64,
    /// From the first arrival to the last, in seconds.
    pub seconds: f64,
    /// The work in the log, in dynos that are never idle.
    pub load: f64,
    /// Mean service time, in milliseconds.
    pub service_mean_ms: f64,
    /// Squared coefficient of variation of the service times: 0 if all are the same, 1 if exponential.
    pub service_scv: f64,
    /// Requests without a service time of their own: refused, or their client had gone. One was drawn from the others.
    pub drawn: u64,
    /// Requests whose service was cut short in the log; what was there counts.
    pub cut: u64,
    /// How it is with today's number of dynos, if that is known.
    pub today: Option<Today>,
    /// What is needed at the log's load and at more.
    pub growth: Vec<Growth>,
    /// What the ideal line needs for each half of the log alone.
    pub halves: [Need; 2],
    /// What speaks against trusting the answer.
    pub warnings: Vec<String>,
}

/// Today's number of dynos.
#[derive(Clone, Debug, Serialize)]
pub struct Today {
    /// How many.
    pub dynos: usize,
    /// Whether that is the number of different dynos that the log names.
    pub counted: bool,
    /// With one line in front of them.
    pub one_line: Figures,
    /// With random routing; the replay whose mean wait is in the middle.
    pub random: Figures,
    /// The waits that the log itself gives, in milliseconds: mean and 99th percentile.
    pub logged_wait_ms: Option<[f64; 2]>,
    /// What they cost, if a price was given.
    pub cost: Option<String>,
}

/// What a load needs.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// The load, as a multiple of the log's.
    pub times: f64,
    /// With one line.
    pub one_line: Need,
    /// With random routing: the middle of the replays.
    pub random: Need,
    /// The fewest and the most of the replays of random routing, if all found an answer.
    pub random_range: Option<[usize; 2]>,
}

/// How many dynos meet a target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Need {
    /// The fewest; `None` if there is no such number.
    pub dynos: Option<usize>,
    /// Why there is none.
    pub why: Option<String>,
    /// How it is with this number.
    pub figures: Option<Figures>,
    /// What they cost, if a price was given.
    pub cost: Option<String>,
}

/// Answers a question from a log.
///
/// # Errors
/// When the log has no service times and the question neither, or both have.
pub fn advise(log: &Log, question: &Question) -> Result<Advice, String> {
    let jobs = replay::jobs(log, question.service.as_ref(), question.seed)?;
    let half = jobs.len() / 2;
    let first = Need::one_line(&jobs[..half.max(1)], 1.0, question);
    let second = Need::one_line(&jobs[half..], 1.0, question);
    let growth = thread::scope(|scope| {
        let jobs = &jobs;
        let runs = GROWTH.map(|times| scope.spawn(move || Growth::of(jobs, times, question)));
        runs.into_iter().filter_map(|run| run.join().ok()).collect::<Vec<_>>()
    });
    if growth.len() < GROWTH.len() {
        return Err("a replay ended early".to_owned());
    }
    let services: Vec<f64> = jobs.iter().map(|job| job.service as f64 / 1e6).collect();
    let mean = services.iter().sum::<f64>() / services.len() as f64;
    let variance = services.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / services.len() as f64;
    let of_fate = |fate| log.entries.iter().filter(|entry| entry.fate == fate).count() as u64;
    let without = log.entries.iter().filter(|entry| entry.service().is_none()).count() as u64;
    let mut advice = Advice {
        target: question.target.to_string(),
        requests: jobs.len() as u64,
        seconds: replay::span(&jobs) as f64 / 1e9,
        load: replay::load(&jobs),
        service_mean_ms: mean,
        service_scv: if mean > 0.0 { variance / mean / mean } else { 0.0 },
        drawn: if question.service.is_some() { 0 } else { without },
        cut: of_fate(Fate::Cut),
        today: Today::of(log, &jobs, question),
        growth,
        halves: [first, second],
        warnings: Vec::new(),
    };
    advice.warnings = warnings(log, question, &advice, of_fate(Fate::Unserved));
    Ok(advice)
}

impl Growth {
    fn of(jobs: &[Job], times: f64, question: &Question) -> Self {
        let one_line = Need::one_line(jobs, times, question);
        let mut all: Vec<(Option<usize>, u64)> = seeds(question)
            .map(|seed| {
                let enough = |dynos| question.target.met(replay::random(jobs, times, dynos, seed));
                (one_line.dynos.and_then(|from| search(from, RANDOM_MOST, enough)), seed)
            })
            .collect();
        // Without an answer means more than were tried.
        all.sort_by_key(|(dynos, _)| dynos.unwrap_or(usize::MAX));
        // Figures are those of the replay that is in the middle, or they may miss the target.
        let (middle, seed) = all[all.len() / 2];
        let [few, many] = [all.first(), all.last()].map(|one| one.and_then(|(dynos, _)| *dynos));
        let range = few.zip(many);
        let figures = |dynos| replay::random(jobs, times, dynos, seed).figures();
        let why = (middle.is_none()).then(|| match &one_line.why {
            Some(why) => why.clone(),
            None => format!("more than {RANDOM_MOST}"),
        });
        let cost = middle.zip(question.price.as_ref()).map(|(dynos, price)| price.of(dynos));
        let random = Need { dynos: middle, why, figures: middle.map(figures), cost };
        Self { times, one_line, random, random_range: range.map(|(few, many)| [few, many]) }
    }
}

impl Need {
    fn one_line(jobs: &[Job], times: f64, question: &Question) -> Self {
        // With as many dynos as there are requests at once nobody waits; more change nothing.
        let most = replay::peak(jobs, times);
        let enough = |dynos| question.target.met(replay::one_line(jobs, times, dynos));
        let Some(dynos) = search(1, most, enough) else {
            let best = question.target.value(replay::one_line(jobs, times, most));
            let why = format!(
                "not with any number of dynos: with {most} nobody waits, and {} is still {}",
                question.target.figure,
                question.target.show(best)
            );
            return Self { dynos: None, why: Some(why), figures: None, cost: None };
        };
        let figures = Some(replay::one_line(jobs, times, dynos).figures());
        let cost = question.price.as_ref().map(|price| price.of(dynos));
        Self { dynos: Some(dynos), why: None, figures, cost }
    }
}

impl Today {
    fn of(log: &Log, jobs: &[Job], question: &Question) -> Option<Self> {
        let named = Some(log.dynos.len()).filter(|count| *count > 0);
        let dynos = question.dynos.or(named)?;
        let lots = seeds(question).map(|seed| replay::random(jobs, 1.0, dynos, seed));
        let mut random: Vec<Figures> = lots.map(replay::Replayed::figures).collect();
        random.sort_by(|a, b| a.wait_mean_ms.total_cmp(&b.wait_mean_ms));
        let mut waits: Vec<u64> = log.entries.iter().filter_map(crate::logs::Entry::wait).collect();
        let logged = (!waits.is_empty())
            .then(|| [replay::mean(&waits) / 1e6, replay::quantile(&mut waits, 0.99) as f64 / 1e6]);
        Some(Self {
            dynos,
            counted: question.dynos.is_none(),
            one_line: replay::one_line(jobs, 1.0, dynos).figures(),
            random: random.swap_remove(random.len() / 2),
            logged_wait_ms: logged,
            cost: question.price.as_ref().map(|price| price.of(dynos)),
        })
    }
}

/// By which seeds random routing is replayed.
fn seeds(question: &Question) -> impl Iterator<Item = u64> {
    (0..LOTS).map(|lot| question.seed.wrapping_add(lot))
}

/// The fewest from `from` up that are enough, if `most` are: first by doubling, then by halving. Where `enough` is
/// not monotone (random routing), the number found is enough and one less is not, but fewer still may be.
fn search(from: usize, most: usize, mut enough: impl FnMut(usize) -> bool) -> Option<usize> {
    let (mut below, mut high) = (from.saturating_sub(1), from.clamp(1, most));
    while !enough(high) {
        if high == most {
            return None;
        }
        below = high;
        high = high.saturating_mul(2).min(most);
    }
    while below + 1 < high {
        let middle = below.midpoint(high);
        if enough(middle) { high = middle } else { below = middle }
    }
    Some(high)
}

/// What speaks against trusting the answer, in words.
fn warnings(log: &Log, question: &Question, advice: &Advice, unserved: u64) -> Vec<String> {
    let mut all = Vec::new();
    let few = |share: f64| (advice.requests as f64 * (1.0 - share)) < BEYOND;
    if let Some(share) = question.target.figure.share().filter(|share| few(*share)) {
        let beyond = advice.requests as f64 * (1.0 - share);
        let beyond = count(format!("{beyond:.0}"), "request");
        all.push(format!("only {beyond} beyond the percentile asked for: take a longer log"));
    }
    if let [Some(first), Some(second)] = [advice.halves[0].dynos, advice.halves[1].dynos]
        && first.abs_diff(second) * 10 > first.min(second).max(10)
    {
        all.push(format!(
            "the first half of the log needs {}, the second {second}: the load changes over the log",
            count(first, "dyno")
        ));
    }
    if log.hosts.len() > 1 && log.others == 0 {
        let hosts = log.hosts.len();
        all.push(format!("{hosts} hosts are counted as one app: each app has a line of its own, see --host"));
    }
    if unserved > 0 {
        all.push(format!(
            "{} refused or given up in line: their service times were drawn from the others, and some may be the same \
             client trying again",
            count(unserved, "request")
        ));
    }
    if advice.cut > 0 {
        let cut = count(advice.cut, "request");
        all.push(format!("{cut} cut short (H12, clients gone): their dynos worked longer than told"));
    }
    if log.garbage * 100 > advice.requests {
        all.push(format!("{} could not be read", count(log.garbage, "line")));
    }
    match log.format {
        Format::Clf => {
            all.push("the log has whole seconds: arrivals are spread within them at random".to_owned())
        }
        Format::Har => {
            all.push("service times are what one client saw: waits and the network are in them".to_owned());
        }
        Format::Logfmt => {
            all.push("arrivals are reckoned back from the stamp that the log's collector gave".to_owned());
        }
        Format::Json => {}
    }
    all
}

#[cfg(test)]
mod tests;
