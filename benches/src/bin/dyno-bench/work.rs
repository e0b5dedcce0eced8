//! The dynos and the load of a run, as the command line says them, whatever proxies stand between.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use procfs::process::Process;
use router_bench::arrivals::{Replay, Spacing};
use router_bench::compare::Scenario;
use router_bench::dyno::Place;
use router_bench::engine::{MOST_THREADS, Pacing};
use router_bench::link::Tls;
use router_bench::logs::{self, Format, Wanted};
use router_bench::number::count;
use router_bench::peers::Peer;
use router_bench::service::Service;
use router_bench::tell;
use router_bench::trust;

use crate::{Failed, fleet, unused};

/// The most requests of one run: 56 bytes are kept of each.
const MOST_REQUESTS: u64 = 20_000_000;

/// The highest rate that is taken, in requests a second. A thread of the generator was seen to send 131,000
/// (`benches/reports/README.md`), so a plan of many such threads would only be ended for falling behind; and a run of as
/// many requests as are kept would be over in 20 s.
const MOST_RATE: f64 = 1_000_000.0;

/// The most connections, unless asked for more or the machine gives fewer.
const CONNECTIONS: u32 = 8_000;

/// The connections of HTTP/2, unless asked for more.
const HTTP2_CONNECTIONS: u32 = 16;

/// How long to wait for a proxy that runs already, unless somebody says.
const PATIENCE: Duration = Duration::from_secs(10);

/// The dynos and the load, whatever proxies stand between.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Work {
    /// The Host of the requests
    #[arg(long, default_value = "bench.test", value_parser = host, help_heading = "Load")]
    host: String,
    /// The path of the requests, with its query; for real dynos (--dyno)
    #[arg(long, default_value = "/", value_parser = path, conflicts_with = "replay", help_heading = "Load")]
    path: String,

    /// How many dynos [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000), help_heading = "Dynos")]
    pub(crate) dynos: Option<u16>,
    /// First port of the dynos, 0 for free ones (then printed) [default: 4100 with --target, else 0]
    #[arg(long, value_name = "PORT", help_heading = "Dynos")]
    dyno_ports: Option<u16>,
    /// How long a request keeps its dyno: fixed:TIME, exp:MEAN, lognormal:MEDIAN,P99, weibull:SHAPE,SCALE,
    /// pareto:SHAPE,MIN, bimodal:90%5ms,10%100ms, file:PATH or rapgenius [default: fixed:10ms]
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["plain", "dyno"], help_heading = "Dynos")]
    pub(crate) service: Option<Service>,
    /// All service times by this factor, those of a log too
    #[arg(long, value_name = "FACTOR", value_parser = positive, help_heading = "Dynos")]
    scale: Option<f64>,
    /// Plain forwarding: dynos answer at once and take as many requests as come
    // Of no time at all there is nothing to make longer, or to spread an answer over.
    #[arg(long, conflicts_with_all = ["scale", "warm_up", "answer_pieces"], help_heading = "Dynos")]
    pub(crate) plain: bool,
    #[command(flatten)]
    pub(crate) place: fleet::PlaceArgs,
    #[command(flatten)]
    behaviour: fleet::BehaviourArgs,

    /// Closed loop: so many clients, each waits for its answer [default: 200, with --plain 64]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=20_000), help_heading = "Load"
    )]
    pub(crate) clients: Option<u32>,
    /// Open loop: so many requests a second, whatever the answers do; at most 1000000
    #[arg(long, value_name = "R", conflicts_with = "clients", value_parser = rate, help_heading = "Load")]
    pub(crate) rate: Option<f64>,
    /// Open loop at this share of the dynos' capacity: 0.95
    #[arg(
        long, value_name = "SHARE", conflicts_with_all = ["clients", "rate", "plain", "dyno"],
        value_parser = positive, help_heading = "Load"
    )]
    pub(crate) load: Option<f64>,
    /// How an open loop spaces its requests: poisson, constant, burst:SIZE (so many at once, the bursts at random) or
    /// on-off:TIME/TIME (at random, all within the first of two alternating times) [default: poisson]
    #[arg(long, value_name = "HOW", conflicts_with = "replay", help_heading = "Load")]
    pub(crate) arrivals: Option<Spacing>,
    /// Send what is in this access log, when it was sent: its paths (as GET) and its dynos' service times, if it has
    /// them and the dynos are neither real (--dyno) nor --plain
    #[arg(long, value_name = "LOG", conflicts_with_all = ["clients", "rate", "load"], help_heading = "Load")]
    pub(crate) replay: Option<PathBuf>,
    /// Replay the log so many times as fast
    #[arg(
        long, value_name = "FACTOR", default_value_t = 1.0,
        value_parser = positive, help_heading = "Load"
    )]
    speed: f64,
    /// Replay only requests to this host
    #[arg(long, value_name = "HOST", help_heading = "Load")]
    replay_host: Option<String>,
    /// How the log is written [default: recognised by itself]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Load")]
    log_format: Option<Format>,
    /// How long a client of a closed loop thinks before its next request: fixed:TIME, exp:MEAN, ...
    #[arg(
        long, value_name = "TIMES", conflicts_with_all = ["rate", "load", "replay"], help_heading = "Load"
    )]
    pub(crate) think: Option<Service>,
    /// How long to send, after the warm-up; at most 1h [default: 10s, or until --requests are sent]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Load")]
    duration: Option<Duration>,
    /// How many requests to send at most, after the warm-up
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Load"
    )]
    requests: Option<u64>,
    /// Load before the figures count [default: 1s, with --replay 0s]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Load")]
    warmup: Option<Duration>,
    /// When a client gives a request up
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time, help_heading = "Load")]
    timeout: Duration,
    /// The most connections to the proxy [default: 8000, or what the limit on open files leaves]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=50_000), help_heading = "Load"
    )]
    connections: Option<u32>,
    /// Send with so many threads, 1 to 64: they share the clients or arrivals, and the connections; the same seed sends
    /// the same. Worth it when one was the limit (warnings say so) and cores are left. With --dynos-in same, the dynos
    /// are in the first
    #[arg(
        long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_THREADS)), help_heading = "Load"
    )]
    pub(crate) generator_threads: u32,
    /// Speak TLS to the proxy; those that are started get a certificate made for the run, and have to show it
    #[arg(long, help_heading = "Load")]
    tls: bool,
    /// Speak HTTP/2 to the proxy: with --tls by ALPN, else from the first byte
    #[arg(long, help_heading = "Load")]
    http2: bool,
    /// How many streams an HTTP/2 connection may have at once; --connections are taken in turn [default: 16 of them]
    #[arg(
        long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000), help_heading = "Load"
    )]
    streams: u32,
    /// Check the certificate of a --target against those in this file; without it any will do
    #[arg(long, value_name = "FILE", help_heading = "Load")]
    ca: Option<PathBuf>,
    /// The seed of arrivals and service times: the same seed, the same path
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    seed: u64,
    /// How often to run each proxy; the page shows medians [default: 1, with `compare` 3]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Load"
    )]
    rounds: Option<u32>,
}

/// What of a scenario the proxies decide.
pub(crate) struct Around {
    /// Whether one of them runs already, and so knows the dynos' ports.
    pub(crate) given: bool,
    pub(crate) threads: Option<u32>,
    /// How long to wait for one that runs already, unless it is the usual time.
    pub(crate) patience: Option<Duration>,
    /// How often each is run unless somebody says.
    pub(crate) rounds: u32,
}

impl Work {
    /// How many dynos there are.
    fn dynos(&self) -> u16 {
        self.dynos.unwrap_or(100)
    }

    /// Whether the generator can keep the line itself, which it does without a proxy.
    pub(crate) fn keeps_the_line(&self) -> Result<(), String> {
        match self.generator_threads {
            1 => Ok(()),
            threads => Err(format!(
                "--generator-threads {threads}: without a proxy the generator keeps the line itself, with one thread"
            )),
        }
    }

    /// Why a proxy cannot take part in this, if it cannot.
    pub(crate) fn cannot(&self, peer: Peer) -> Option<&'static str> {
        peer.cannot(self.plain, self.http2 && !self.tls)
    }
}

/// What is run. Takes all open files that the system allows: how many connections there may be depends on them.
pub(crate) fn scenario(args: &Work, around: &Around) -> Result<Scenario, Failed> {
    open_files()?;
    let interrupt = Arc::new(AtomicBool::new(false));
    let dynos = args.dynos();
    let place = args.place.place(dynos, &interrupt)?;
    // What a real server takes is not known before.
    let real = matches!(place, Place::Commands(_));
    let service = if real { Service::Instant } else { service(args)? };
    for warning in service.warnings().iter().chain(args.think.iter().flat_map(Service::warnings)) {
        tell!("warning: {warning}");
    }
    let pacing = pacing(args, &service)?;
    let hour = Duration::from_secs(3600);
    let until_sent = args.requests.is_some() || args.replay.is_some();
    let duration = args.duration.unwrap_or_else(|| if until_sent { hour } else { Duration::from_secs(10) });
    let warmup = args.warmup.unwrap_or_else(|| Duration::from_secs(u64::from(args.replay.is_none())));
    let first_port = args.dyno_ports.unwrap_or(if around.given { 4100 } else { 0 });
    if first_port != 0 && first_port.checked_add(dynos - 1).is_none() {
        return Err(Failed::Use(format!("{dynos} dynos from port {first_port} up are too many")));
    }
    if duration.is_zero() || duration > hour {
        return Err(Failed::Use("--duration must be more than 0 and at most 1h".to_owned()));
    }
    if let Pacing::Replay(replay) = &pacing {
        let (length, span) = (replay.length(), humantime::format_duration);
        if length < warmup {
            return Err(Failed::Use(format!(
                "the log lasts {}, which is less than the warm-up",
                span(length)
            )));
        }
        if args.duration.is_none() && length > hour + warmup {
            let text = span(length);
            return Err(Failed::Use(format!(
                "the log lasts {text}: --speed replays it faster, --duration a part"
            )));
        }
    }
    let connections = connections(args)?;
    divisible(args.generator_threads, &pacing, connections)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = around.threads.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1));
    Ok(Scenario {
        dynos,
        first_port,
        pacing,
        think: Option::clone(&args.think),
        service,
        plain: args.plain,
        seed: args.seed,
        warmup,
        duration,
        requests: args.requests.unwrap_or(MOST_REQUESTS),
        timeout: args.timeout,
        patience: around.patience.unwrap_or(PATIENCE),
        host: args.host.clone(),
        path: args.path.clone(),
        behaviour: args.behaviour.behaviour(matches!(place, Place::Here)),
        place,
        tls: tls(args, around.given)?,
        http2: args.http2.then_some(args.streams as usize),
        connections: connections as usize,
        generator_threads: args.generator_threads,
        threads,
        rounds: args.rounds.unwrap_or(around.rounds),
        interrupt,
    })
}

/// Whether each thread of the generator gets a connection and, in a closed loop, a client.
fn divisible(threads: u32, pacing: &Pacing, connections: u32) -> Result<(), Failed> {
    let clients = if let Pacing::Closed(clients) = pacing { *clients } else { threads };
    for (what, count) in [("--clients", clients), ("--connections", connections)] {
        if count < threads {
            let why =
                format!("--generator-threads {threads} cannot share {what} {count}: each needs one at least");
            return Err(Failed::Use(why));
        }
    }
    Ok(())
}

/// Takes all open files that the system allows.
pub(crate) fn open_files() -> io::Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?)
}

/// A signal to end sets the flag, also that of a terminal that closes: proxies would be left behind, as they are in
/// groups of their own. Under `nohup` the last is none.
pub(crate) fn ended_by_signals(interrupt: &Arc<AtomicBool>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let status = Process::myself().and_then(|this| this.status()).map_err(io::Error::other)?;
    let nohup = status.sigign & 1 << (SIGHUP - 1) != 0;
    for signal in [SIGINT, SIGTERM].into_iter().chain((!nohup).then_some(SIGHUP)) {
        signal_hook::flag::register(signal, Arc::clone(interrupt))?;
    }
    Ok(())
}

/// What a request takes that has no time of its own.
fn service(args: &Work) -> Result<Service, Failed> {
    let service = args.service.clone().unwrap_or(Service::Fixed(Duration::from_millis(10)));
    let scale = args.scale.unwrap_or(1.0);
    let scaled = service.scaled(scale);
    if scaled.is_some_time() {
        return Ok(scaled);
    }
    Err(Failed::Use(format!("--scale {scale} leaves nothing of {service}: times are whole nanoseconds")))
}

/// When requests are sent.
fn pacing(args: &Work, service: &Service) -> Result<Pacing, Failed> {
    let rate = match args.load {
        Some(load) => Some(load * f64::from(args.dynos()) / service.mean()),
        None => args.rate,
    };
    Ok(match (rate, &args.replay) {
        (_, Some(path)) => Pacing::Replay(Arc::new(replay(args, path)?)),
        (Some(rate), None) if rate > MOST_RATE => {
            return Err(Failed::Use(format!(
                "the load is {rate:.0} requests a second: this tool sends at most {MOST_RATE}"
            )));
        }
        (Some(rate), None) => args.arrivals.unwrap_or(Spacing::Poisson).at(rate),
        (None, None) => Pacing::Closed(args.clients.unwrap_or(if args.plain { 64 } else { 200 })),
    })
}

/// How TLS is spoken, if it is: a proxy that runs already has a certificate of its own.
fn tls(args: &Work, given: bool) -> Result<Option<Tls>, Failed> {
    let (host, http2) = (&args.host, args.http2);
    let tls = || if given { Tls::new(host, args.ca.as_deref(), http2) } else { Tls::own(host, http2) };
    args.tls.then(tls).transpose().map_err(Failed::Use)
}

/// How many connections there may be: as many as asked for, or as there can be.
fn connections(args: &Work) -> Result<u32, Failed> {
    let possible = |connections| trust::possible(u64::from(connections), u64::from(args.dynos()));
    let connections = match args.connections {
        Some(connections) => connections,
        None if args.http2 => HTTP2_CONNECTIONS.max(args.generator_threads),
        // Without a wish, as many as there can be.
        None => [CONNECTIONS, 2_000, 500].into_iter().find(|some| possible(*some).is_ok()).unwrap_or(100),
    };
    possible(connections).map_err(Failed::Use)?;
    Ok(connections)
}

/// The log to send again.
fn replay(args: &Work, path: &std::path::Path) -> Result<Replay, Failed> {
    let wanted = Wanted { format: args.log_format, host: args.replay_host.clone(), seed: args.seed };
    let failed = |why: String| Failed::Run(io::Error::other(format!("{}: {why}", path.display())));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let log = logs::read(BufReader::new(file), &wanted).map_err(|error| match error {
        logs::Useless::Io(error) => failed(error.to_string()),
        logs::Useless::Nothing(why) => failed(why),
    })?;
    if log.garbage > 0 {
        tell!("{}: {} could not be read", path.display(), count(log.garbage, "line"));
    }
    for logs::Garbage { line, why, excerpt } in &log.shown {
        tell!("  line {line}: {why}: {excerpt}");
    }
    if log.entries.len() as u64 > MOST_REQUESTS {
        return Err(failed(format!("{} requests are more than {MOST_REQUESTS}", log.entries.len())));
    }
    let replay = Replay::new(&log, args.speed);
    if args.plain {
        return Ok(replay.at_once());
    }
    unused::with_times_of(&replay, args)?;
    Ok(replay.scaled(args.scale.unwrap_or(1.0)))
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > Duration::from_secs(3600) { Err("at most 1h".to_owned()) } else { Ok(time) }
}

pub(crate) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
        _ => Err("a number more than 0 and at most 1000000".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MOST_RATE => Ok(rate),
        _ => Err(format!(
            "a number more than 0 and at most {MOST_RATE}, which is the most that this tool sends"
        )),
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.len() <= 4000 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a path that begins with / and has neither blanks nor other than ASCII characters".to_owned())
    }
}

fn host(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("a host name".to_owned())
    }
}
