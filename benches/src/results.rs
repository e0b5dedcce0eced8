//! The results file: one JSON document with what was run, on which machine, and all figures and curves of all runs.
//!
//! Reading is strict in the version and lenient in fields that it does not know.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::compare::{Failure, Scenario};
use crate::comparison::Party;
use crate::dyno::Place;
use crate::engine::Pacing;
use crate::figures::FIGURES;
use crate::number::count;
use crate::report::Report;
use crate::service::Service;

mod foreign;

/// What stands in `format`.
pub const FORMAT: &str = "dyno-bench results";
/// What stands in `version`; another one is not read.
pub const VERSION: u32 = 1;
/// More than this is no results file, in bytes.
const LARGEST: u64 = 1 << 30;
/// So many draws estimate the spread of the service times.
const DRAWS: u32 = 200_000;

/// All that one call of the tool has found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`VERSION`].
    pub version: u32,
    /// The version of the tool.
    pub tool: String,
    /// How it was called.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// What was run, as names and words: what two files must have in common to be compared.
    pub scenario: BTreeMap<String, String>,
    /// The service times in figures.
    pub service: Times,
    /// What a sweep went over: `dynos` or `load`.
    pub over: Option<String>,
    /// Every run, in the order in which they were made.
    pub runs: Vec<Report>,
    /// Where each proxy gave way, if that was asked for.
    pub knees: Vec<Knee>,
    /// Why there are fewer runs than were asked for.
    pub partial: Option<String>,
    /// Who took part in a comparison.
    #[serde(default)]
    pub parties: Vec<Party>,
    /// Who did not do their part of it.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// How many processors this program may use.
    pub cores: usize,
    /// Their model.
    pub cpu: String,
    /// The release of the kernel.
    pub kernel: String,
}

/// What is known of service times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Mean, in milliseconds; 0 if dynos answer at once.
    pub mean_ms: f64,
    /// Squared coefficient of variation: 0 for a fixed time, 1 for exponential ones.
    pub scv: f64,
}

/// The highest rate that a proxy stood, and what gave way above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// Which proxy.
    pub proxy: String,
    /// The highest rate at which all was well, in requests a second; 0 if none was.
    pub good: f64,
    /// The lowest rate at which something gave way; none if nothing did up to the most that was tried.
    pub bad: Option<f64>,
    /// What gave way there: `wait`, `faults` or `generator`.
    pub why: Option<String>,
    /// The same in words, with the figures.
    pub words: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let line =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let cpus = line("/proc/cpuinfo");
        let model = cpus.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim().to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: model.unwrap_or_else(|| "unknown".to_owned()),
            kernel: line("/proc/sys/kernel/osrelease"),
        }
    }
}

impl Times {
    fn of_scenario(scenario: &Scenario) -> Self {
        let service = if scenario.plain { &Service::Instant } else { &scenario.service };
        let Some(replay) = scenario.with_times() else { return Self::of(service) };
        let (mean, scv) = replay.times(service);
        Self { mean_ms: mean * 1e3, scv: (scv * 1e3).round() / 1e3 }
    }

    fn of(service: &Service) -> Self {
        let mean = service.mean();
        if mean == 0.0 {
            return Self::default();
        }
        let mut rng = fastrand::Rng::with_seed(1);
        let squares = (0..DRAWS).map(|_| (service.draw(&mut rng) as f64 / 1e9 - mean).powi(2));
        let scv = squares.sum::<f64>() / f64::from(DRAWS) / mean / mean;
        Self { mean_ms: mean * 1e3, scv: (scv * 1e3).round() / 1e3 }
    }
}

impl Results {
    /// No runs yet.
    pub fn new(command: String, scenario: &Scenario) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            command,
            machine: Machine::here(),
            scenario: words(scenario),
            service: Times::of_scenario(scenario),
            over: None,
            runs: Vec::new(),
            knees: Vec::new(),
            partial: None,
            parties: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The scenario in one line.
    pub fn title(&self) -> String {
        let word = |name: &str| self.scenario.get(name).map_or("unknown", String::as_str);
        let dynos = if self.over.as_deref() == Some("dynos") { "several" } else { word("dynos") };
        let (dynos, rounds) = (count(dynos, "dyno"), count(word("rounds"), "round"));
        let (service, load, seed) = (word("service"), word("load"), word("seed"));
        format!("{dynos}, service {service}, {load}, seed {seed}, {rounds}")
    }

    /// The machine in one line.
    pub fn place(&self) -> String {
        let Machine { cores, cpu, kernel } = &self.machine;
        format!("{} of {cpu}, Linux {kernel}", count(cores, "core"))
    }

    /// Whether a dyno may have one request only.
    pub fn exclusive(&self) -> bool {
        self.scenario.get("plain").is_none_or(|plain| plain == "false")
    }

    /// Writes the document.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When the file cannot be read, is none of ours, or is of another version: the error names the file.
    pub fn read(path: &Path) -> io::Result<Self> {
        let named = |why: String| io::Error::other(format!("{}: {why}", path.display()));
        let length = fs::metadata(path).map_err(|error| named(error.to_string()))?.len();
        if length > LARGEST {
            return Err(named(format!("{length} bytes are too many for a results file")));
        }
        let text = fs::read(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        /// What stands in every version.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        const WRITTEN: &str = "results are written by `dyno-bench --json FILE`";
        let head: Head = serde_json::from_slice(text)
            .map_err(|error| format!("not a results file ({error}); {WRITTEN}"))?;
        if head.format != FORMAT {
            return Err(format!("\"format\" is {:?}, expected {FORMAT:?}; {WRITTEN}", head.format));
        }
        if head.version != VERSION {
            return Err(format!("results of version {}; this program reads version {VERSION}", head.version));
        }
        let mut results: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        results.make_printable();
        Ok(results)
    }

    /// Writes a line a run, below a line of names.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write_csv(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(out);
        let names = ["proxy", "round", "seed", "dynos", "rate", "load", "seconds", "interrupted"];
        csv.write_record(names.into_iter().chain(FIGURES.iter().map(|figure| figure.key)))?;
        for run in &self.runs {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            let first = [
                run.proxy.clone(),
                run.round.to_string(),
                run.seed.to_string(),
                run.dynos.to_string(),
                number(run.rate),
                number(run.load),
                run.seconds.to_string(),
                run.interrupted.to_string(),
            ];
            csv.write_record(first.into_iter().chain(FIGURES.iter().map(|figure| number((figure.of)(run)))))?;
        }
        csv.flush()
    }
}

/// The scenario as names and words.
fn words(scenario: &Scenario) -> BTreeMap<String, String> {
    let service = match (&scenario.place, scenario.plain, scenario.with_times().is_some()) {
        (Place::Commands(commands), ..) => format!("of `{}`", commands.command),
        (_, true, _) => Service::Instant.to_string(),
        (_, false, true) => "as in the log".to_owned(),
        (_, false, false) => scenario.service.to_string(),
    };
    let behaviour =
        if scenario.has_real_dynos() { "their own".to_owned() } else { scenario.behaviour.to_string() };
    let time = |time| humantime::format_duration(time).to_string();
    [
        ("dynos", scenario.dynos.to_string()),
        ("service", service),
        ("load", load(scenario)),
        ("plain", scenario.plain.to_string()),
        ("seed", scenario.seed.to_string()),
        ("warmup", time(scenario.warmup)),
        ("duration", time(scenario.duration)),
        ("requests", scenario.requests.to_string()),
        ("timeout", time(scenario.timeout)),
        ("path", scenario.path.clone()),
        ("behaviour", behaviour),
        ("place", scenario.place.to_string()),
        ("connections", scenario.connections.to_string()),
        ("generator_threads", scenario.generator_threads.to_string()),
        ("proxy_threads", scenario.threads.to_string()),
        ("rounds", scenario.rounds.to_string()),
    ]
    .map(|(name, word)| (name.to_owned(), word))
    .into()
}

/// What is sent, in words.
fn load(scenario: &Scenario) -> String {
    let load = match &scenario.pacing {
        Pacing::Closed(clients) => match &scenario.think {
            Some(think) => format!("{} that think {think}", count(clients, "client")),
            None => count(clients, "client"),
        },
        Pacing::Poisson(rate) => format!("{rate:.1} requests a second at random"),
        Pacing::Constant(rate) => format!("{rate:.1} requests a second evenly"),
        Pacing::Burst(rate, size) => format!("{rate:.1} requests a second, {size} at once"),
        Pacing::OnOff(rate, on, off) => {
            let (on, off) = (humantime::format_duration(*on), humantime::format_duration(*off));
            format!("{rate:.1} requests a second, all within {on}, then {off} of nothing")
        }
        Pacing::Replay(replay) => {
            let rate = scenario.pacing.rate().unwrap_or(0.0);
            format!("{} of a log, {rate:.1} a second", count(replay.len(), "request"))
        }
    };
    let tls = if scenario.tls.is_some() { ", TLS" } else { "" };
    let http2 = if scenario.http2.is_some() { ", HTTP/2" } else { "" };
    format!("{load}{tls}{http2}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::Spread;

    fn curves(worse: f64) -> crate::curves::Curves {
        let one = |q: f64| (q, 10.0 * worse / (1.0 - q).max(1e-3).powf(0.2));
        crate::curves::Curves {
            latency: [0.0, 0.5, 0.9, 0.99, 0.999].map(one).to_vec(),
            wait: [0.0, 0.5, 0.9, 0.99, 0.999].map(one).to_vec(),
            ideal_wait: [0.0, 0.5, 0.9, 0.99, 0.999].map(one).to_vec(),
            timeline: (0..10)
                .map(|n| crate::curves::Interval {
                    at_seconds: f64::from(n),
                    seconds: 1.0,
                    sent: 900,
                    answered: 900,
                    faults: 0,
                    p50_ms: Some(10.0 * worse),
                    p99_ms: Some(30.0 * worse),
                    busy_dynos: 9.0 / worse,
                })
                .collect(),
            occupancy: Some(crate::curves::Occupancy {
                dynos: 10,
                column_seconds: 1.0,
                rows: vec!["0123456789".to_owned(); 10],
            }),
        }
    }

    /// Results of so many rounds through these proxies; the first is the better one.
    pub(crate) fn sample(proxies: &[&str], rounds: u32) -> Results {
        let run = |round: u32, (place, proxy): (usize, &&str)| {
            let worse = 1.0 + place as f64 * 0.3 + f64::from(round) * 0.001;
            let wait = Spread {
                mean_ms: worse,
                p50_ms: worse,
                p90_ms: 2.0 * worse,
                p99_ms: 3.0 * worse,
                p999_ms: 4.0 * worse,
            };
            Report {
                proxy: (*proxy).to_owned(),
                round,
                seed: u64::from(round),
                dynos: 10,
                rate: Some(900.0),
                load: Some(0.9),
                seconds: 10.0,
                requests: 9_000,
                answers_per_second: 900.0 / worse,
                dynos_busy: 0.9 / worse,
                wait,
                ideal_wait: Spread { mean_ms: 0.9, ..wait },
                excess: wait,
                turnaround: wait,
                latency: wait,
                cpu_us_per_request: Some(30.0 * worse),
                curves: curves(worse),
                ..Report::default()
            }
        };
        let runs = (1..=rounds).flat_map(|round| proxies.iter().enumerate().map(move |p| run(round, p)));
        Results {
            format: FORMAT.to_owned(),
            version: VERSION,
            tool: "0.1.0".to_owned(),
            command: "dyno-bench".to_owned(),
            machine: Machine::here(),
            scenario: [
                ("dynos", "10"),
                ("service", "exp:10ms"),
                ("load", "900.0 requests a second at random"),
            ]
            .map(|(name, word)| (name.to_owned(), word.to_owned()))
            .into(),
            service: Times { mean_ms: 10.0, scv: 1.0 },
            over: None,
            runs: runs.collect(),
            knees: Vec::new(),
            partial: None,
            parties: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn json(results: &Results) -> serde_json::Value {
        serde_json::to_value(results).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let results = sample(&["routerd", "haproxy"], 2);
        let mut text = Vec::new();
        results.write(&mut text).unwrap();
        // The last digit of a number may be lost on the way.
        let digits = |results: &Results| format!("{results:.9?}");
        assert!(digits(&Results::parse(&text).unwrap()) == digits(&results));
    }

    #[test]
    fn unknown_fields_pass_and_other_versions_do_not() {
        let mut newer = json(&sample(&["routerd"], 1));
        newer["colour"] = "green".into();
        newer["runs"][0]["colour"] = "green".into();
        assert!(Results::parse(newer.to_string().as_bytes()).is_ok());
        newer["version"] = 2.into();
        let why = Results::parse(newer.to_string().as_bytes()).unwrap_err();
        assert!(why.contains("version 2") && why.contains("reads version 1"), "{why}");
        newer["format"] = "something else".into();
        assert!(Results::parse(newer.to_string().as_bytes()).unwrap_err().contains("something else"));
        let mut missing = json(&sample(&["routerd"], 1));
        missing["runs"][0].as_object_mut().unwrap().remove("dynos_busy");
        assert!(Results::parse(missing.to_string().as_bytes()).unwrap_err().contains("dynos_busy"));
        assert!(Results::parse(b"[1, 2]").unwrap_err().contains("not a results file"));
        assert!(Results::parse(b"\xff\x00").is_err());
    }

    #[test]
    fn what_a_file_says_does_not_speak_to_a_terminal() {
        const EVIL: &str = "a\u{1b}[2J\u{9b}\n";
        let party = |skipped: Option<String>| Party {
            version: Some(EVIL.to_owned()),
            skipped,
            ..Party::new(EVIL, EVIL.to_owned())
        };
        let overlap = crate::dyno::Overlap {
            dyno: 0,
            served: None,
            served_id: Some(EVIL.into()),
            came: None,
            came_id: Some(EVIL.into()),
            served_for_ms: 1.0,
        };
        let mut results = sample(&[EVIL, "haproxy"], 1);
        (results.tool, results.command, results.partial) = (EVIL.into(), EVIL.into(), Some(EVIL.into()));
        results.machine = Machine { cores: 1, cpu: EVIL.into(), kernel: EVIL.into() };
        results.scenario.insert(EVIL.to_owned(), EVIL.to_owned());
        let run = &mut results.runs[0];
        run.faults = [(EVIL.to_owned(), 2)].into();
        (run.dyno_notes, run.overlaps, run.overlaps_shown) = (vec![EVIL.to_owned()], 1, vec![overlap]);
        (run.generator.doubts, run.generator.advice) = (vec![EVIL.to_owned()], Some(EVIL.to_owned()));
        results.parties = vec![party(None), party(Some(EVIL.to_owned()))];
        results.failures = vec![Failure { proxy: EVIL.into(), round: 1, why: EVIL.into() }];
        let knee =
            Knee { proxy: EVIL.into(), good: 1.0, bad: None, why: Some(EVIL.into()), words: EVIL.into() };
        results.knees = vec![knee];
        let results = Results::parse(json(&results).to_string().as_bytes()).unwrap();
        let (mut page, mut csv, mut html) = (Vec::new(), Vec::new(), Vec::new());
        crate::page::terminal::print(&mut page, &results, Default::default()).unwrap();
        results.write_csv(&mut csv).unwrap();
        crate::page::html::write(&mut html, &results, &[]).unwrap();
        for shown in [page, csv, html] {
            let text = String::from_utf8(shown).unwrap();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            assert!(text.contains(r"a\u{1b}[2J\u{9b}\n"), "{text}");
        }
        // Debug shows a control character with one backslash, and one that was escaped with two.
        let raw = format!("{results:?}").replace(r"\\u{", "");
        assert!(!raw.contains(r"\u{"), "some text is as it was: {raw}");
    }

    #[test]
    fn csv_has_a_line_a_run_and_quotes_names() {
        let mut results = sample(&["routerd", "haproxy"], 3);
        results.runs[0].proxy = "my, \"own\"".to_owned();
        let mut text = Vec::new();
        results.write_csv(&mut text).unwrap();
        let mut csv = csv::Reader::from_reader(text.as_slice());
        let names: Vec<_> = csv.headers().unwrap().iter().map(str::to_owned).collect();
        let rows: Vec<_> = csv.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(&rows[0][0], "my, \"own\"");
        let wait = names.iter().position(|name| name == "wait_mean_ms").unwrap();
        assert_eq!(rows[0][wait].parse::<f64>().unwrap(), results.runs[0].wait.mean_ms);
    }

    #[test]
    fn the_spread_of_service_times_is_known() {
        let of = |text: &str| Times::of(&text.parse().unwrap());
        assert_eq!(of("fixed:10ms"), Times { mean_ms: 10.0, scv: 0.0 });
        assert!((of("exp:10ms").scv - 1.0).abs() < 0.03);
        assert_eq!(Times::of(&Service::Instant), Times::default());
    }
}
