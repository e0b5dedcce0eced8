//! `dyno-bench`: measures what a proxy does to a fleet of one-at-a-time servers.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
use router_bench::compare::{self, Proxy, Scenario};
use router_bench::engine::Pacing;
use router_bench::memory;
use router_bench::peers::Peer;
use router_bench::report::{self, Report};
use router_bench::service::Service;
use serde::Serialize;

/// The most requests of one run: 56 bytes are kept of each.
const MOST_REQUESTS: u64 = 20_000_000;

const EXAMPLES: &str = "\
Examples:
  dyno-bench --via routerd
      100 dynos of 10 ms, 200 clients, 10 s: how busy does the proxy keep them, what does it cost?
  dyno-bench --vs haproxy --rounds 5
      the same through routerd and HAProxy in turn, side by side
  dyno-bench --vs haproxy --service exp:10ms --load 0.95 --dynos 10 --duration 60s
      open loop at 95 % of capacity: how much longer do requests wait than in the ideal line?
  dyno-bench --vs haproxy --vs nginx --plain --clients 64
      plain forwarding: dynos answer at once and take all that comes
  dyno-bench --via routerd --service rapgenius --dynos 50 --rate 150 --duration 5m
      the published RapGenius load
  dyno-bench --target 127.0.0.1:8080 --dyno-ports 4100 --dynos 4 --pid 1234
      any proxy that runs already and knows the dynos 127.0.0.1:4100 to 4103
  dyno-bench --vs haproxy --memory 5000
      what does an idle connection cost the proxy, and what a request in line?
  dyno-bench --self-test --service exp:10ms --load 0.95
      no proxy: how exact is the tool itself?

Wait is from the client's intended send to the dyno beginning to work. Excess is the wait since the actual send less
the wait in the ideal line (first come first served, no cost) on the same arrivals and service times.

Exit codes: 0 done; 1 it failed, or a dyno was given two requests at once; 2 wrong use.";

/// Measures what a proxy does to a fleet of servers that do one request at a time. Starts the servers (dynos), sends
/// load through the proxy, prints waits, faults, overlaps and the proxy's CPU time. Talks to loopback addresses only.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// A proxy that runs already; see --dyno-ports and --pid
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["via", "vs", "self_test"], help_heading = "Proxy")]
    target: Option<SocketAddr>,
    /// Start this proxy [default: routerd]
    #[arg(long, value_name = "PROXY", help_heading = "Proxy")]
    via: Option<Peer>,
    /// Run this one in turn with the first; may be given again
    #[arg(long, value_name = "PROXY", help_heading = "Proxy")]
    vs: Vec<Peer>,
    /// No proxy: the generator keeps the line itself, to show how exact it is
    #[arg(long, conflicts_with_all = ["via", "vs", "plain"], help_heading = "Proxy")]
    self_test: bool,
    /// The routerd to start [default: the one beside this program]
    #[arg(long, value_name = "PATH", help_heading = "Proxy")]
    routerd: Option<PathBuf>,
    /// How many threads (or processes) each proxy shall use [default: one for each core]
    #[arg(
        long, value_name = "N", conflicts_with_all = ["target", "self_test"],
        value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Proxy"
    )]
    proxy_threads: Option<u32>,
    /// Processes of the --target whose CPU time counts, with their children; may be given again
    #[arg(long, requires = "target", help_heading = "Proxy")]
    pid: Vec<u32>,
    /// How long to wait for the --target to accept
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time, help_heading = "Proxy")]
    patience: Duration,
    /// The Host of the requests
    #[arg(long, default_value = "bench.test", value_parser = host, help_heading = "Proxy")]
    host: String,

    /// How many dynos
    #[arg(
        long, default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(1..=10_000), help_heading = "Dynos"
    )]
    dynos: u16,
    /// First port of the dynos, 0 for free ones (then printed) [default: 4100 with --target, else 0]
    #[arg(long, value_name = "PORT", help_heading = "Dynos")]
    dyno_ports: Option<u16>,
    /// How long a request keeps its dyno: fixed:TIME, exp:MEAN or rapgenius
    #[arg(
        long,
        value_name = "TIMES",
        default_value = "fixed:10ms",
        conflicts_with = "plain",
        help_heading = "Dynos"
    )]
    service: Service,
    /// All service times by this factor
    #[arg(
        long, value_name = "FACTOR", default_value_t = 1.0,
        value_parser = positive, help_heading = "Dynos"
    )]
    scale: f64,
    /// Length of a dyno's answer
    #[arg(
        long, value_name = "BYTES", default_value_t = 12,
        value_parser = clap::value_parser!(u32).range(0..=16_777_216), help_heading = "Dynos"
    )]
    answer_bytes: u32,
    /// Plain forwarding: dynos answer at once and take as many requests as come
    #[arg(long, help_heading = "Dynos")]
    plain: bool,

    /// Closed loop: so many clients, each waits for its answer [default: 200, with --plain 64]
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=20_000), help_heading = "Load"
    )]
    clients: Option<u32>,
    /// Open loop: so many requests a second, whatever the answers do
    #[arg(long, value_name = "R", conflicts_with = "clients", value_parser = positive, help_heading = "Load")]
    rate: Option<f64>,
    /// Open loop at this share of the dynos' capacity: 0.95
    #[arg(
        long, value_name = "SHARE", conflicts_with_all = ["clients", "rate", "plain"],
        value_parser = positive, help_heading = "Load"
    )]
    load: Option<f64>,
    /// How an open loop spaces its requests
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, help_heading = "Load")]
    arrivals: Arrivals,
    /// How long to send, after the warm-up; at most 1h [default: 10s, or until --requests are sent]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Load")]
    duration: Option<Duration>,
    /// How many requests to send at most, after the warm-up
    #[arg(
        long, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=MOST_REQUESTS), help_heading = "Load"
    )]
    requests: Option<u64>,
    /// Load before the figures count
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time, help_heading = "Load")]
    warmup: Duration,
    /// When a client gives a request up
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time, help_heading = "Load")]
    timeout: Duration,
    /// The most connections to the proxy
    #[arg(
        long, value_name = "N", default_value_t = 8000,
        value_parser = clap::value_parser!(u32).range(1..=50_000), help_heading = "Load"
    )]
    connections: u32,
    /// The seed of arrivals and service times: the same seed, the same path
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    seed: u64,
    /// How often to run each proxy, in turn; the page shows medians
    #[arg(
        long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Load"
    )]
    rounds: u32,
    /// Instead of load: open so many connections, let a request wait on each, and measure the proxy's memory
    #[arg(
        long, value_name = "CONNECTIONS", conflicts_with_all = ["target", "self_test", "plain"],
        value_parser = clap::value_parser!(u32).range(100..=9_000), help_heading = "Load"
    )]
    memory: Option<u32>,
    /// Also write all figures of all runs as JSON; "-" is standard output, instead of the page
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How an open loop spaces its requests.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Arrivals {
    /// At random, as many independent people do.
    Poisson,
    /// Evenly.
    Constant,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failed::Use(why)) => Args::command().error(ErrorKind::ValueValidation, why).exit(),
        Err(Failed::Run(why)) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

enum Failed {
    /// Wrong use: exit code 2.
    Use(String),
    /// It failed: exit code 1.
    Run(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Run(error)
    }
}

/// Whether all went well.
fn run(args: &Args) -> Result<bool, Failed> {
    let proxies = proxies(args)?;
    let scenario = scenario(args)?;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).map_err(io::Error::from)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&scenario.interrupt))?;
    }
    if let Some(connections) = args.memory {
        return memory(args, &scenario, &proxies, connections);
    }
    let reports = compare::run(&scenario, &proxies)?;
    let json_only = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    match &args.json {
        Some(_) if json_only => write_json(&mut io::stdout().lock(), &reports)?,
        Some(path) => write_json(&mut File::create(path)?, &reports)?,
        None => {}
    }
    if json_only {
        for warning in reports.iter().flat_map(Report::warnings) {
            eprintln!("warning: {warning}");
        }
    } else {
        let mut out = io::stdout().lock();
        writeln!(out, "{} dynos, {}", scenario.dynos, describe(&scenario))?;
        report::print(&mut out, &reports)?;
    }
    let unserved = reports.iter().find(|report| report.answers_per_second == 0.0);
    if let Some(report) = unserved {
        eprintln!("error: {} answered no request", report.proxy);
    }
    let clean = reports.iter().all(|report| report.overlaps == 0 && !report.interrupted);
    Ok(clean && unserved.is_none() && !reports.is_empty())
}

/// Measures memory instead of waits.
fn memory(args: &Args, scenario: &Scenario, proxies: &[Proxy], connections: u32) -> Result<bool, Failed> {
    let mut all = Vec::new();
    for proxy in proxies {
        if let Proxy::Peer(peer, program) = proxy {
            all.push(memory::measure(*peer, program, connections, &scenario.load())?);
        }
    }
    match &args.json {
        Some(path) if path.as_os_str() == "-" => write_json(&mut io::stdout().lock(), &all)?,
        Some(path) => write_json(&mut File::create(path)?, &all)?,
        None => memory::print(&mut io::stdout().lock(), &all)?,
    }
    Ok(true)
}

fn proxies(args: &Args) -> Result<Vec<Proxy>, Failed> {
    if args.self_test {
        return Ok(vec![Proxy::Direct]);
    }
    if let Some(target) = args.target {
        if !target.ip().is_loopback() {
            return Err(Failed::Use(format!("--target {target}: load is sent to loopback addresses only")));
        }
        return Ok(vec![Proxy::Target(target, args.pid.clone())]);
    }
    let first = args.via.unwrap_or(Peer::Routerd);
    let mut proxies = Vec::new();
    for peer in std::iter::once(first).chain(args.vs.iter().copied()) {
        if peer == Peer::Nginx && !args.plain {
            return Err(Failed::Use("nginx has no queue of its own: compare it with --plain".to_owned()));
        }
        let program = match &args.routerd {
            Some(path) if peer == Peer::Routerd => path.clone(),
            _ => peer.program().map_err(Failed::Use)?,
        };
        proxies.push(Proxy::Peer(peer, program));
    }
    Ok(proxies)
}

fn scenario(args: &Args) -> Result<Scenario, Failed> {
    let service = args.service.scaled(args.scale);
    let rate = match args.load {
        Some(load) => Some(load * f64::from(args.dynos) / service.mean()),
        None => args.rate,
    };
    let pacing = match (rate, args.arrivals) {
        (Some(rate), _) if rate > 1e6 => {
            return Err(Failed::Use(format!("{rate:.0} requests a second are more than this tool can send")));
        }
        (Some(rate), Arrivals::Poisson) => Pacing::Poisson(rate),
        (Some(rate), Arrivals::Constant) => Pacing::Constant(rate),
        (None, _) => Pacing::Closed(args.clients.unwrap_or(if args.plain { 64 } else { 200 })),
    };
    let hour = Duration::from_secs(3600);
    let duration =
        args.duration.unwrap_or_else(|| if args.requests.is_some() { hour } else { Duration::from_secs(10) });
    let first_port = args.dyno_ports.unwrap_or_else(|| if args.target.is_some() { 4100 } else { 0 });
    if first_port != 0 && first_port.checked_add(args.dynos - 1).is_none() {
        return Err(Failed::Use(format!("{} dynos from port {first_port} up are too many", args.dynos)));
    }
    if duration.is_zero() || duration > hour {
        return Err(Failed::Use("--duration must be more than 0 and at most 1h".to_owned()));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.proxy_threads.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1));
    Ok(Scenario {
        dynos: args.dynos,
        first_port,
        pacing,
        service,
        plain: args.plain,
        seed: args.seed,
        warmup: args.warmup,
        duration,
        requests: args.requests.unwrap_or(MOST_REQUESTS),
        timeout: args.timeout,
        patience: args.patience,
        host: args.host.clone(),
        answer_bytes: args.answer_bytes as usize,
        connections: args.connections as usize,
        threads,
        rounds: args.rounds,
        interrupt: Arc::new(AtomicBool::new(false)),
    })
}

fn describe(scenario: &Scenario) -> String {
    let load = match scenario.pacing {
        Pacing::Closed(clients) => format!("{clients} clients"),
        Pacing::Poisson(rate) => format!("{rate:.1} requests a second at random"),
        Pacing::Constant(rate) => format!("{rate:.1} requests a second evenly"),
    };
    let service = if scenario.plain { Service::Instant } else { scenario.service };
    format!("service {service}, {load}, seed {}, {} rounds", scenario.seed, scenario.rounds)
}

fn write_json(out: &mut impl Write, reports: &[impl Serialize]) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, reports)?;
    writeln!(out)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > Duration::from_secs(3600) { Err("at most 1h".to_owned()) } else { Ok(time) }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
        _ => Err("a number more than 0 and at most 1000000".to_owned()),
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
