//! Access logs: arrivals and service times out of what a proxy has written, line by line, whatever its size.
//!
//! | format | what it is | time of a line | service time |
//! |---|---|---|---|
//! | `json` | routerd's `log.format = "json"` | arrival | `service_ms`: from the lease to the last byte |
//! | `logfmt` | routerd's default, Heroku's router | end, as a collector stamped it before `at=` | `service` |
//! | `clf` | Common and Combined Log Format | to the second: spread within it at random, by seed | none |
//! | `har` | a browser's archive | arrival | `timings.wait` and `receive`: what the client saw |
//!
//! A logfmt line without a stamp says nothing of when its request came: such a log is of no use here, and the error
//! says how to get one that is. What cannot be read is counted, and the first few are kept to be shown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead};

use crate::number;

mod clf;
mod har;
mod lines;
mod stamp;

/// So many lines that could not be read are kept to be shown.
const SHOWN: usize = 5;
/// So much of each.
const EXCERPT: usize = 80;
/// A longer line is not read.
const LINE_MOST: usize = 64 * 1024;
/// So many different hosts, dynos, faults and paths are told apart; what is more is one.
const NAMES_MOST: usize = 65_536;
/// So many bytes of paths are kept.
const PATHS_MOST: usize = 16 << 20;
/// A time that the log does not give.
const NONE: u32 = u32::MAX;

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// routerd's JSON, one object a line.
    Json,
    /// routerd's and Heroku's `at=info method=GET ...`, with a time stamp before it.
    Logfmt,
    /// Common or Combined Log Format, as nginx and Apache write it.
    Clf,
    /// An HTTP archive.
    Har,
}

impl Format {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Logfmt => "logfmt",
            Self::Clf => "clf",
            Self::Har => "har",
        }
    }
}

/// What to take from a log.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only this format; by itself it takes the one that the first readable line has.
    pub format: Option<Format>,
    /// Only requests to this host, upper or lower case, whatever the port.
    pub host: Option<String>,
    /// By which requests are spread within a second where the log has seconds only.
    pub seed: u64,
}

/// What became of a request, as far as the line is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A dyno served it to the end; or the log does not say more than that it came.
    Served,
    /// A dyno worked on it, and was not done when the log's time ended: H12, or the client was gone.
    Cut,
    /// It wanted a dyno and got none: refused, timed out or given up in line.
    Unserved,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it came, in nanoseconds since the first one of the log.
    pub start: u64,
    /// Microseconds, or `NONE`.
    service: u32,
    /// Microseconds, or `NONE`.
    wait: u32,
    /// Where it stands in [`Log::targets`].
    pub target: u32,
    /// What became of it.
    pub fate: Fate,
}

impl Entry {
    /// How long it kept a dyno, in nanoseconds, if the log says so.
    pub fn service(&self) -> Option<u64> {
        (self.service != NONE).then(|| u64::from(self.service) * 1_000)
    }

    /// How long it waited in line, in nanoseconds, if the log says so.
    pub fn wait(&self) -> Option<u64> {
        (self.wait != NONE).then(|| u64::from(self.wait) * 1_000)
    }
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Garbage {
    /// Its number in the file, from 1; of a HAR, the number of the entry.
    pub line: u64,
    /// Why.
    pub why: String,
    /// How it begins.
    pub excerpt: String,
}

/// What a log gave.
#[derive(Debug)]
pub struct Log {
    /// How it is written.
    pub format: Format,
    /// The requests that wanted a dyno, in the order in which they came.
    pub entries: Vec<Entry>,
    /// Method and path of the requests; [`Entry::target`] points here.
    pub targets: Vec<(String, String)>,
    /// How many requests each host had, in lower case.
    pub hosts: BTreeMap<String, u64>,
    /// Names of dynos.
    pub dynos: HashSet<String>,
    /// Faults by code.
    pub faults: BTreeMap<String, u64>,
    /// Requests that the proxy answered itself (redirects, bad requests, unknown hosts): they need no dyno.
    pub aside: u64,
    /// Requests to other hosts than the one asked for.
    pub others: u64,
    /// Lines that could not be read.
    pub garbage: u64,
    /// The first few of them.
    pub shown: Vec<Garbage>,
}

/// What one line says.
#[derive(Debug, Default)]
struct Line {
    /// Nanoseconds since the Unix epoch.
    start: u64,
    service: Option<f64>,
    wait: Option<f64>,
    status: Option<u16>,
    code: Option<String>,
    host: Option<String>,
    method: Option<String>,
    path: Option<String>,
    dyno: Option<String>,
}

/// Why a log is of no use.
#[derive(Debug)]
pub enum Useless {
    /// It could not be read.
    Io(io::Error),
    /// Nothing in it could be used; says what was looked for, and what was found.
    Nothing(String),
}

impl From<io::Error> for Useless {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads a log to its end.
///
/// # Errors
/// When it cannot be read, or when there is no request in it that could be used.
pub fn read(mut from: impl BufRead, wanted: &Wanted) -> Result<Log, Useless> {
    let head = from.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let why = "it is compressed: unpack it first (`zcat FILE | dyno-bench advise --log - ...`)";
        return Err(Useless::Nothing(why.to_owned()));
    }
    let har = wanted.format == Some(Format::Har) || (wanted.format.is_none() && har::looks_like(head));
    let mut reader = Reader::new(wanted);
    if har {
        reader.format = Some(Format::Har);
        har::read(from, &mut reader)?;
    } else {
        lines::read(from, &mut reader)?;
    }
    reader.finish()
}

/// Puts lines together.
struct Reader<'a> {
    wanted: &'a Wanted,
    format: Option<Format>,
    log: Log,
    seen: HashMap<(String, String), u32>,
    room: usize,
    spread: fastrand::Rng,
}

impl<'a> Reader<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let log = Log {
            format: wanted.format.unwrap_or(Format::Json),
            entries: Vec::new(),
            targets: vec![("GET".to_owned(), "/".to_owned())],
            hosts: BTreeMap::new(),
            dynos: HashSet::new(),
            faults: BTreeMap::new(),
            aside: 0,
            others: 0,
            garbage: 0,
            shown: Vec::new(),
        };
        let seen = HashMap::from([(log.targets[0].clone(), 0)]);
        let spread = fastrand::Rng::with_seed(wanted.seed);
        Self { wanted, format: wanted.format, log, seen, room: PATHS_MOST, spread }
    }

    fn garbage(&mut self, line: u64, why: &str, text: &[u8]) {
        self.log.garbage += 1;
        if self.log.shown.len() < SHOWN {
            let start = &text[..text.len().min(EXCERPT)];
            let excerpt = String::from_utf8_lossy(start).escape_debug().collect::<String>();
            let excerpt = excerpt.replace("\\\"", "\"");
            self.log.shown.push(Garbage { line, why: why.to_owned(), excerpt });
        }
    }

    fn add(&mut self, line: Line) {
        let host = line.host.as_deref().map(bare_host).unwrap_or_default();
        if self.wanted.host.as_deref().is_some_and(|wanted| bare_host(wanted) != host) {
            self.log.others += 1;
            return;
        }
        if let Some(code) = &line.code {
            count(&mut self.log.faults, code);
        }
        let Some(fate) = self.fate(&line) else {
            self.log.aside += 1;
            return;
        };
        count(&mut self.log.hosts, &host);
        if let Some(dyno) = line.dyno.filter(|dyno| !dyno.is_empty())
            && self.log.dynos.len() < NAMES_MOST
        {
            self.log.dynos.insert(dyno);
        }
        let target = self.target(line.method.as_deref(), line.path.as_deref());
        let (service, wait) = (micros(line.service), micros(line.wait));
        self.log.entries.push(Entry { start: line.start, service, wait, target, fate });
    }

    /// What became of it; `None` if it needed no dyno.
    fn fate(&self, line: &Line) -> Option<Fate> {
        match self.format {
            Some(Format::Clf | Format::Har) => return Some(Fate::Served),
            Some(Format::Json | Format::Logfmt) | None => {}
        }
        let code = line.code.as_deref().unwrap_or_default();
        match (line.service, line.status) {
            (Some(_), _) if ["H12", "H15", "H18", "H24", "H27", "H28"].contains(&code) => Some(Fate::Cut),
            (Some(_), _) => Some(Fate::Served),
            // Those of our own codes are refused before there is a line; without a method there was no request.
            (None, Some(503 | 499)) if !code.starts_with('M') && line.method.is_some() => {
                Some(Fate::Unserved)
            }
            (None, _) => None,
        }
    }

    fn target(&mut self, method: Option<&str>, path: Option<&str>) -> u32 {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let Some(path) = path.filter(|path| path.starts_with('/') && plain(path)) else { return 0 };
        let method = method.filter(|method| plain(method)).unwrap_or("GET");
        let key = (method.to_owned(), path.to_owned());
        if let Some(known) = self.seen.get(&key) {
            return *known;
        }
        let len = method.len() + path.len();
        if self.seen.len() >= NAMES_MOST || len > self.room {
            return 0;
        }
        self.room -= len;
        let place = u32::try_from(self.log.targets.len()).unwrap_or(0);
        self.log.targets.push(key.clone());
        self.seen.insert(key, place);
        place
    }

    fn finish(mut self) -> Result<Log, Useless> {
        let Some(format) = self.format.filter(|_| !self.log.entries.is_empty()) else {
            return Err(Useless::Nothing(self.nothing()));
        };
        self.log.format = format;
        // By time; those of one instant stay in the order of the file.
        self.log.entries.sort_by_key(|entry| entry.start);
        let first = self.log.entries[0].start;
        for entry in &mut self.log.entries {
            entry.start -= first;
        }
        Ok(self.log)
    }

    /// What was looked for, and what was there instead.
    fn nothing(&self) -> String {
        let log = &self.log;
        let mut text = match (self.format, &self.wanted.host) {
            (Some(Format::Clf), Some(_)) => {
                "a log in Common Log Format does not name hosts: leave --host out".to_owned()
            }
            (Some(_), Some(host)) if log.others > 0 => {
                format!("it has {}, and none for host {host}", number::count(log.others, "request"))
            }
            (Some(format), _) if log.aside > 0 => {
                let requests = number::count(log.aside, "request");
                format!("it has {requests} ({}), and none that wanted a dyno", format.name())
            }
            _ => "no line of it could be used. Looked for: routerd's access log as JSON (log.format = \"json\"), or as \
                  logfmt with a time stamp before `at=` (as `docker logs -t`, `journalctl -o short-iso-precise` and \
                  Heroku's log give it), Common or Combined Log Format, HAR"
                .to_owned(),
        };
        for Garbage { line, why, excerpt } in &log.shown {
            text.push_str(&format!("\n  line {line}: {why}: {excerpt}"));
        }
        text
    }
}

/// A host without its port, in lower case.
fn bare_host(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.to_ascii_lowercase()
}

fn count(names: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = names.get_mut(name) {
        *count += 1;
    } else if names.len() < NAMES_MOST {
        names.insert(name.to_owned(), 1);
    }
}

/// Milliseconds as whole microseconds, for as long as an hour.
fn micros(ms: Option<f64>) -> u32 {
    match ms {
        Some(ms) if ms.is_finite() && ms >= 0.0 => (ms * 1e3).round().min(3.6e9) as u32,
        Some(_) | None => NONE,
    }
}

#[cfg(test)]
mod tests;
