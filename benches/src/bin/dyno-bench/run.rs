//! `dyno-bench` without a command: load through one proxy or several in turn, and the page of figures.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use router_bench::compare::{self, Proxy, Scenario, Target};
use router_bench::comparison::{Logs, Party};
use router_bench::memory;
use router_bench::number::count;
use router_bench::peers::Peer;
use router_bench::peers::find::{self, Programs};
use router_bench::results::Results;
use router_bench::tell;

use crate::work::{self, Around, Work, scenario, time};
use crate::{Failed, output, theory, unused};

/// What to run, and through what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
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
    // It has one connection to each dyno, whatever is asked for.
    #[arg(
        long, conflicts_with_all = ["via", "vs", "plain", "tls", "http2", "connections"], help_heading = "Proxy"
    )]
    self_test: bool,
    /// The routerd to start [default: the one beside this program]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["target", "self_test"], help_heading = "Proxy")]
    routerd: Option<PathBuf>,
    /// Where a proxy's program is, as envoy=/opt/envoy; may be given again [default: see `dyno-bench peers`]
    #[arg(
        long, value_name = "NAME=PATH", value_parser = peer_path, conflicts_with_all = ["target", "self_test"],
        help_heading = "Proxy"
    )]
    peer_path: Vec<(Peer, PathBuf)>,
    /// How many threads (or processes) each proxy shall use [default: one for each core]
    #[arg(
        long, value_name = "N", conflicts_with_all = ["target", "self_test"],
        value_parser = clap::value_parser!(u32).range(1..=256), help_heading = "Proxy"
    )]
    proxy_threads: Option<u32>,
    /// Processes of the --target whose CPU time counts, with their children; may be given again
    #[arg(long, help_heading = "Proxy")]
    pid: Vec<u32>,
    /// How long to wait for the --target to accept [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Proxy")]
    patience: Option<Duration>,
    #[command(flatten)]
    pub(crate) work: Work,
    /// Instead of load: open so many connections, let a request wait on each for one dyno that answers at once and then
    /// not at all, and measure the proxy's memory
    // It has one dyno of its own, and no load.
    #[arg(
        long, value_name = "CONNECTIONS",
        conflicts_with_all = [
            "target", "self_test", "plain", "dyno", "tls", "http2", "dynos", "dyno_ports", "service", "scale",
            "dynos_in", "dyno_processes", "warm_up", "gc", "crash", "crash_every", "boot", "dyno_close", "dyno_accept",
            "answer_bytes", "answer_pieces", "dyno_spin", "path", "clients", "rate", "load", "arrivals", "replay",
            "think", "duration", "requests", "warmup", "timeout", "connections", "generator_threads", "seed",
            "rounds",
        ],
        value_parser = clap::value_parser!(u32).range(100..=9_000), help_heading = "Load"
    )]
    pub(crate) memory: Option<u32>,
    #[command(flatten)]
    pub(crate) output: output::Args,
}

impl Args {
    /// What is run, once each unless somebody says more.
    pub(crate) fn scenario(&self) -> Result<Scenario, Failed> {
        let (given, threads) = (self.target.is_some(), self.proxy_threads);
        scenario(&self.work, &Around { given, threads, patience: self.patience, rounds: 1 })
    }
}

/// Whether all went well.
pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    let proxies = proxies(args)?;
    unused::spacing(&args.work)?;
    let scenario = args.scenario()?;
    if args.memory.is_some() && (args.output.csv.is_some() || args.output.html.is_some()) {
        return Err(Failed::Use("--memory writes no --csv and no --html".to_owned()));
    }
    prepare(&args.output, &scenario)?;
    if let Some(connections) = args.memory {
        return memory(args, &scenario, &proxies, connections);
    }
    let mut results = Results::new(output::command(), &scenario);
    results.parties = parties(&proxies, &scenario);
    let done = compare::run_into(&scenario, &proxies, &mut results.runs);
    let runs = args.self_test.then(|| results.runs.clone());
    let clean = output::finish(&args.output, results, scenario.interrupt.load(Ordering::Relaxed), done)?;
    if let Some(runs) = runs.filter(|_| !args.output.to_stdout()) {
        theory::print(&mut io::stdout().lock(), &scenario, &runs)?;
    }
    Ok(clean)
}

/// What has to be done before sockets are opened: results that can be written, and signals that end a run
/// early.
pub(crate) fn prepare(output: &output::Args, scenario: &Scenario) -> Result<(), Failed> {
    output.check()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = scenario.generator_threads;
    if threads as usize > cores {
        let cores = count(cores, "core");
        tell!("warning: --generator-threads {threads}: this machine has {cores}, so they take turns");
    }
    Ok(work::ended_by_signals(&scenario.interrupt)?)
}

/// Measures memory instead of waits.
fn memory(args: &Args, scenario: &Scenario, proxies: &[Proxy], connections: u32) -> Result<bool, Failed> {
    let mut all = Vec::new();
    for proxy in proxies {
        if let Proxy::Peer(peer, program) = proxy {
            let (load, interrupt) = (scenario.load(), &scenario.interrupt);
            let measured = memory::measure(*peer, program, connections, &load, interrupt);
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", peer.name()));
            all.push(measured.map_err(named)?);
        }
    }
    output::write(args.output.json.as_deref(), |out| {
        serde_json::to_writer_pretty(&mut *out, &all)?;
        writeln!(out)
    })?;
    if !args.output.to_stdout() {
        memory::print(&mut io::stdout().lock(), &all)?;
    }
    Ok(true)
}

pub(crate) fn proxies(args: &Args) -> Result<Vec<Proxy>, Failed> {
    if args.self_test {
        args.work.keeps_the_line().map_err(Failed::Use)?;
        return Ok(vec![Proxy::Direct]);
    }
    if let Some(target) = args.target {
        if !target.ip().is_loopback() {
            return Err(Failed::Use(format!("--target {target}: load is sent to loopback addresses only")));
        }
        let target = Target { name: "target".to_owned(), address: target, pids: args.pid.clone() };
        return Ok(vec![Proxy::Target(target)]);
    }
    let mut programs = programs(&args.peer_path);
    if let Some(path) = &args.routerd {
        programs.give(Peer::Routerd, path.clone());
    }
    let first = args.via.unwrap_or(Peer::Routerd);
    let peers: Vec<Peer> = std::iter::once(first).chain(args.vs.iter().copied()).collect();
    unused::paths(&args.peer_path, args.routerd.is_some(), &peers)?;
    let mut proxies: Vec<Proxy> = Vec::new();
    for peer in peers {
        if proxies.iter().any(|proxy| proxy.name() == peer.name()) {
            let why = format!("{} is there twice: --rounds runs it more often", peer.name());
            return Err(Failed::Use(why));
        }
        if let Some(why) = args.work.cannot(peer) {
            return Err(Failed::Use(format!("{}: {why}", peer.name())));
        }
        proxies.push(Proxy::Peer(peer, programs.find(peer).map_err(Failed::Use)?));
    }
    Ok(proxies)
}

/// The proxies of a run, with what is known of each.
pub(crate) fn parties(proxies: &[Proxy], scenario: &Scenario) -> Vec<Party> {
    // Without a proxy there is nothing to say.
    let proxies = proxies.iter().filter(|proxy| !matches!(proxy, Proxy::Direct));
    proxies.map(|proxy| party(proxy, scenario)).collect()
}

/// What is known of a proxy that takes part.
pub(crate) fn party(proxy: &Proxy, scenario: &Scenario) -> Party {
    let known = |form: &str| Party::new(proxy.name(), form.to_owned());
    match proxy {
        Proxy::Direct => known("no proxy: the generator keeps the line itself, over plain HTTP/1.1"),
        Proxy::Peer(peer, path) => Party {
            version: find::version(*peer, path).ok(),
            program: Some(path.clone()),
            logs: Some(peer.logs()),
            ..known(form(*peer, scenario))
        },
        Proxy::Target(_) => {
            Party { logs: Some(Logs::Unknown), ..known("runs already, as somebody has set it up") }
        }
    }
}

/// How a proxy is set up that this tool starts.
pub(crate) fn form(peer: Peer, scenario: &Scenario) -> &'static str {
    if scenario.plain { "plain forwarding" } else { peer.form() }
}

/// Where programs are that were named by hand.
pub(crate) fn programs(given: &[(Peer, PathBuf)]) -> Programs {
    let mut programs = Programs::default();
    for (peer, path) in given {
        programs.give(*peer, path.clone());
    }
    programs
}

pub(crate) fn peer_path(text: &str) -> Result<(Peer, PathBuf), String> {
    let parts = text.split_once('=').filter(|(_, path)| !path.is_empty());
    let (name, path) = parts.ok_or("it is NAME=PATH, such as envoy=/opt/envoy")?;
    let peer = Peer::from_str(name, true).map_err(|_| {
        let names: Vec<_> =
            Peer::value_variants().iter().filter(|peer| !peer.breaks()).map(|p| p.name()).collect();
        format!("there is no proxy {name:?}: it is one of {}", names.join(", "))
    })?;
    Ok((peer, PathBuf::from(path)))
}
