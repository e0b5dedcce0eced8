//! When requests are due: by clients that wait for their answers, at random, evenly, in bursts, or as in a log.
//!
//! An open loop is due when it is due, whatever the answers do: waits count from there, so a generator or a proxy that
//! falls behind shows in the figures (no coordinated omission). Several generators share an open loop: each takes its
//! part of it, and the parts together are what one alone would send.

use std::iter::{Skip, StepBy};
use std::sync::Arc;
use std::time::Duration;

use crate::logs::Log;
use crate::reactor::nanos;
use crate::service::{Service, exponential};

/// When requests are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Pacing {
    /// So many clients, each sending its next request when it has the answer to the last.
    Closed(u32),
    /// At this rate a second, whatever the answers do; at random instants.
    Poisson(f64),
    /// At this rate a second, whatever the answers do; evenly.
    Constant(f64),
    /// At this rate a second on average, so many at once; the bursts at random instants.
    Burst(f64, u32),
    /// At this rate a second on average, at random instants, all of them within the first of two alternating spans.
    OnOff(f64, Duration, Duration),
    /// As in a log.
    Replay(Arc<Replay>),
}

impl Pacing {
    /// The rate a second, where there is one.
    pub fn rate(&self) -> Option<f64> {
        match self {
            Self::Closed(_) => None,
            Self::Poisson(rate) | Self::Constant(rate) | Self::Burst(rate, _) | Self::OnOff(rate, ..) => {
                Some(*rate)
            }
            Self::Replay(replay) => Some(replay.jobs.len() as f64 / replay.length().as_secs_f64().max(1e-9)),
        }
    }

    /// The clients of a closed loop.
    pub fn clients(&self) -> Option<usize> {
        if let Self::Closed(clients) = self { Some(*clients as usize) } else { None }
    }
}

/// No service time of a log is made longer than this, in nanoseconds: an hour.
const LONGEST_SERVICE: f64 = 3.6e12;

/// A log's requests, to be sent again.
#[derive(Debug, PartialEq)]
pub struct Replay {
    jobs: Vec<Planned>,
    paths: Vec<String>,
}

/// One request of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Planned {
    /// Nanoseconds since the beginning.
    due: u64,
    /// How long its dyno shall work, in nanoseconds, if the log says so.
    service: Option<u64>,
    /// Where its path stands.
    path: u32,
}

impl Replay {
    /// The requests of a log, `speed` times as fast as they came; dynos take as long as they did. They are sent as GET
    /// without a body, whatever they were.
    pub fn new(log: &Log, speed: f64) -> Self {
        let job = |entry: &crate::logs::Entry| Planned {
            due: (entry.start as f64 / speed) as u64,
            service: entry.service(),
            path: entry.target,
        };
        let jobs = log.entries.iter().map(job).collect();
        Self { jobs, paths: log.targets.iter().map(|(_, path)| path.clone()).collect() }
    }

    /// The same with all service times `factor` as long.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for job in &mut self.jobs {
            job.service = job.service.map(|service| (service as f64 * factor).min(LONGEST_SERVICE) as u64);
        }
        self
    }

    /// The same for dynos that answer at once.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.jobs.iter_mut().for_each(|job| job.service = None);
        self
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// From the first request to the last.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.jobs.last().map_or(0, |job| job.due))
    }

    /// Whether the log says of any request how long it took.
    pub fn has_times(&self) -> bool {
        self.jobs.iter().any(|job| job.service.is_some())
    }

    /// Whether it says so of each.
    pub fn has_all_times(&self) -> bool {
        self.jobs.iter().all(|job| job.service.is_some())
    }

    /// The mean service time in seconds and the squared coefficient of variation; times that the log does not have are
    /// of `others`.
    pub fn times(&self, others: &Service) -> (f64, f64) {
        let mean = others.mean();
        let other = (mean, mean * mean * (1.0 + others.scv()));
        let moments = self.jobs.iter().map(|job| {
            job.service.map_or(other, |service| (service as f64 / 1e9, (service as f64 / 1e9).powi(2)))
        });
        let (sum, squares) =
            moments.fold((0.0, 0.0), |(sum, squares), (time, square)| (sum + time, squares + square));
        let count = self.jobs.len().max(1) as f64;
        let (mean, square) = (sum / count, squares / count);
        (mean, if mean > 0.0 { (square / (mean * mean) - 1.0).max(0.0) } else { 0.0 })
    }

    /// The path of a request.
    pub fn path(&self, place: usize) -> &str {
        let path = self.jobs.get(place).and_then(|job| self.paths.get(job.path as usize));
        path.map_or("/", String::as_str)
    }
}

/// One request that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    /// When, in nanoseconds since the first could be.
    pub at: u64,
    /// How long its dyno shall work, if the log says so.
    pub service: Option<u64>,
}

/// The arrivals of an open loop, one after the other: those of one generator of several.
///
/// Each generator makes all of them and takes every so manieth: a draw costs some nanoseconds, and so the same seed
/// gives the same arrivals, however many share them.
#[derive(Debug)]
pub struct Arrivals {
    own: StepBy<Skip<Whole>>,
}

impl Arrivals {
    /// The arrivals of generator `part`, from 0, of `parts`: the n-th of it is arrival n x `parts` + `part` of all.
    pub fn new(pacing: Pacing, seed: u64, part: u32, parts: u32) -> Self {
        let whole = Whole { pacing, rng: fastrand::Rng::with_seed(seed), count: 0, clock: 0.0 };
        Self { own: whole.skip(part as usize).step_by(parts.max(1) as usize) }
    }
}

/// Ends when there are no more; a closed loop has none of its own.
impl Iterator for Arrivals {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        self.own.next()
    }
}

/// The arrivals of all generators.
#[derive(Debug)]
struct Whole {
    pacing: Pacing,
    rng: fastrand::Rng,
    /// How many were given.
    count: u64,
    /// Where the random instants have come to, in seconds.
    clock: f64,
}

impl Iterator for Whole {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let count = self.count;
        self.count += 1;
        let seconds = match &self.pacing {
            Pacing::Closed(_) => return None,
            Pacing::Poisson(rate) => {
                self.clock += exponential(&mut self.rng) / rate;
                self.clock
            }
            // Reckoned anew each time, so that no error adds up.
            Pacing::Constant(rate) => (count as f64 + 1.0) / rate,
            Pacing::Burst(rate, size) => {
                if count.is_multiple_of(u64::from((*size).max(1))) {
                    self.clock += exponential(&mut self.rng) * f64::from(*size) / rate;
                }
                self.clock
            }
            Pacing::OnOff(rate, on, off) => {
                let (on, off) = (on.as_secs_f64(), off.as_secs_f64());
                // The clock counts the time that is on.
                self.clock += exponential(&mut self.rng) / rate * on / (on + off);
                (self.clock / on).floor() * off + self.clock
            }
            Pacing::Replay(replay) => {
                let job = replay.jobs.get(usize::try_from(count).ok()?)?;
                return Some(Due { at: job.due, service: job.service });
            }
        };
        Some(Due { at: (seconds * 1e9) as u64, service: None })
    }
}

/// How an open loop spaces its requests, as on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// At random, as many independent people do.
    Poisson,
    /// Evenly.
    Constant,
    /// So many at once.
    Burst(u32),
    /// At random for a while, then nothing for a while.
    OnOff(Duration, Duration),
}

impl Spacing {
    /// With this rate a second on average.
    pub fn at(self, rate: f64) -> Pacing {
        match self {
            Self::Poisson => Pacing::Poisson(rate),
            Self::Constant => Pacing::Constant(rate),
            Self::Burst(size) => Pacing::Burst(rate, size),
            Self::OnOff(on, off) => Pacing::OnOff(rate, on, off),
        }
    }
}

impl std::str::FromStr for Spacing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed are \"poisson\", \"constant\", \"burst:20\" (so many at once, 1 to 10000) and \
                               \"on-off:1s/4s\" (all in the first second of each five; from 1ms to 1h each)";
        let wrong = || format!("\"{text}\" is no way to space requests; {ALLOWED}");
        let span = |text: &str| {
            let time = humantime::parse_duration(text.trim()).map_err(|_| wrong())?;
            let inside = nanos(time) >= 1_000_000 && time <= Duration::from_secs(3600);
            if inside { Ok(time) } else { Err(wrong()) }
        };
        match text.split_once(':') {
            None if text == "poisson" => Ok(Self::Poisson),
            None if text == "constant" => Ok(Self::Constant),
            Some(("burst", size)) => {
                let size = size.parse().ok().filter(|size| (1..=10_000).contains(size));
                size.map(Self::Burst).ok_or_else(wrong)
            }
            Some(("on-off", spans)) => {
                let (on, off) = spans.split_once('/').ok_or_else(wrong)?;
                Ok(Self::OnOff(span(on)?, span(off)?))
            }
            None | Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{self, Wanted};

    /// Their instants in seconds, of all generators together.
    fn instants(pacing: &Pacing, parts: u32, count: usize) -> Vec<f64> {
        let one = |part| Arrivals::new(pacing.clone(), 1, part, parts).take(count / parts as usize);
        let mut all: Vec<f64> = (0..parts).flat_map(one).map(|due| due.at as f64 / 1e9).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn the_rate_is_the_one_asked_for_however_many_share_it() {
        let second = Duration::from_secs(1);
        for parts in [1, 3] {
            for pacing in [
                Pacing::Poisson(500.0),
                Pacing::Constant(500.0),
                Pacing::Burst(500.0, 10),
                Pacing::OnOff(500.0, second, 3 * second),
            ] {
                let all = instants(&pacing, parts, 60_000);
                let rate = all.len() as f64 / all[all.len() - 1];
                assert!((rate / 500.0 - 1.0).abs() < 0.05, "{pacing:?} of {parts}: {rate}");
            }
        }
    }

    #[test]
    fn even_arrivals_are_even_and_random_ones_are_poisson() {
        let gaps = |pacing, parts| {
            let all = instants(&pacing, parts, 60_000);
            let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt() / mean
        };
        for parts in [1, 4] {
            assert!(gaps(Pacing::Constant(1000.0), parts) < 1e-3);
            let poisson = gaps(Pacing::Poisson(1000.0), parts);
            assert!((poisson - 1.0).abs() < 0.05, "{poisson}");
        }
    }

    #[test]
    fn several_generators_send_what_one_alone_would() {
        let jobs = (0..1_000).map(|n| Planned { due: n * n, service: Some(n), path: 0 }).collect();
        let replay = Replay { jobs, paths: vec!["/".to_owned()] };
        let second = Duration::from_secs(1);
        for pacing in [
            Pacing::Poisson(500.0),
            Pacing::Constant(500.0),
            Pacing::Burst(500.0, 10),
            Pacing::OnOff(500.0, second, 3 * second),
            Pacing::Replay(Arc::new(replay)),
        ] {
            let part = |part, parts| Arrivals::new(pacing.clone(), 7, part, parts);
            let alone: Vec<Due> = part(0, 1).take(1_000).collect();
            for parts in [2, 3, 64] {
                let mut own: Vec<Arrivals> = (0..parts).map(|n| part(n, parts)).collect();
                let shared: Vec<Due> = (0..1_000).map(|n| own[n % parts as usize].next().unwrap()).collect();
                assert_eq!(shared, alone, "{pacing:?} in {parts} parts");
            }
        }
    }

    #[test]
    fn the_gaps_of_random_arrivals_are_exponential_however_many_share_them() {
        for parts in [1, 2, 5] {
            let all = instants(&Pacing::Poisson(1_000.0), parts, 20_000);
            let mut gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
            gaps.sort_by(f64::total_cmp);
            let far = |(place, gap): (usize, &f64)| {
                let exponential = 1.0 - (-gap * 1_000.0).exp();
                (exponential - place as f64 / gaps.len() as f64).abs()
            };
            // Kolmogorov and Smirnov: more than this has one chance in a thousand.
            let most = gaps.iter().enumerate().map(far).fold(0.0, f64::max);
            assert!(most < 1.95 / (gaps.len() as f64).sqrt(), "{parts} parts: {most}");
        }
    }

    #[test]
    fn bursts_come_at_once_and_silence_is_silent() {
        for parts in [1, 2, 4] {
            let bursts = instants(&Pacing::Burst(1000.0, 20), parts, 2_000);
            assert!(bursts.chunks(20).all(|burst| burst[0] == burst[19]), "{parts} parts");
            assert!(bursts.windows(2).any(|pair| pair[1] - pair[0] > 0.01));
        }
        let pacing = Pacing::OnOff(1000.0, Duration::from_secs(1), Duration::from_secs(3));
        let on_off = instants(&pacing, 2, 20_000);
        assert!(
            on_off.iter().all(|at| at % 4.0 < 1.000_001),
            "{:?}",
            on_off.iter().find(|at| *at % 4.0 > 1.0)
        );
    }

    #[test]
    fn a_replay_is_the_log_faster_and_its_parts_are_the_whole() {
        let line = |at: u32, path: &str, service: &str| {
            format!(
                "{{\"time\":\"2026-01-01T00:00:0{at}Z\",\"method\":\"POST\",\"path\":\"{path}\",\
                 \"status\":200,\"service_ms\":{service}}}\n"
            )
        };
        let text = [line(1, "/a", "7"), line(3, "/b?c=1", "9"), line(7, "/a", "1.5")].concat();
        let log = logs::read(text.as_bytes(), &Wanted::default()).unwrap();
        let replay = Arc::new(Replay::new(&log, 2.0));
        assert_eq!((replay.len(), replay.length(), replay.path(1)), (3, Duration::from_secs(3), "/b?c=1"));
        let due = |at, service| Due { at, service: Some(service) };
        let all = |part, parts| {
            Arrivals::new(Pacing::Replay(Arc::clone(&replay)), 1, part, parts).collect::<Vec<_>>()
        };
        let whole = [due(0, 7_000_000), due(1_000_000_000, 9_000_000), due(3_000_000_000, 1_500_000)];
        assert_eq!(all(0, 1), whole);
        assert_eq!((all(0, 2), all(1, 2)), (vec![whole[0], whole[2]], vec![whole[1]]));
        let none = Service::Instant;
        assert!((replay.times(&none).0 - 0.005_833).abs() < 1e-5 && replay.has_all_times());
        // 14, 18 and 3 ms: their mean is 11.67 ms, and of their squares 176.3.
        let slow = Replay::new(&log, 2.0).scaled(2.0);
        let (mean, scv) = slow.times(&none);
        assert!((mean - 0.011_667).abs() < 1e-5 && (scv - 0.295_4).abs() < 1e-3, "{mean} {scv}");
        let slow = slow.at_once();
        assert!(!slow.has_times() && slow.times(&"fixed:1s".parse().unwrap()) == (1.0, 0.0));
    }

    #[test]
    fn a_wrong_spacing_says_what_is_allowed() {
        assert_eq!("burst:20".parse(), Ok(Spacing::Burst(20)));
        assert_eq!(
            "on-off:1s/4s".parse(),
            Ok(Spacing::OnOff(Duration::from_secs(1), Duration::from_secs(4)))
        );
        for wrong in [
            "",
            "even",
            "burst",
            "burst:0",
            "burst:x",
            "on-off:1s",
            "on-off:0s/1s",
            "on-off:1s/2h",
            "poisson:1",
        ] {
            assert!(wrong.parse::<Spacing>().unwrap_err().contains("allowed are"), "{wrong}");
        }
    }
}
