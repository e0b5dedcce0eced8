//! `dyno-bench compare`: several proxies on the same dynos and arrivals, side by side.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use router_bench::compare::{self, Failure, Order, Proxy, Scenario, Target};
use router_bench::comparison::{self, Party};
use router_bench::peers::Peer;
use router_bench::results::Results;
use router_bench::tell;

use crate::run;
use crate::work::{self, Around, Work};
use crate::{Failed, output, unused};

/// The name of the run without a proxy.
const DIRECT: &str = "direct";

const EXAMPLES: &str = "\
Examples:
  dyno-bench compare
      all that are installed, each in its strongest form, and no proxy at all: three rounds of 10 s each
  dyno-bench compare routerd haproxy caddy --service exp:10ms --dynos 10 --load 0.9 --duration 60s --rounds 5
      these three in an open loop: whose requests wait how much longer than in the ideal line?
  dyno-bench compare direct routerd haproxy nginx envoy --plain --clients 64
      plain forwarding: what does a request cost?
  dyno-bench compare all --tls --http2
      clients that speak HTTP/2 over TLS to each: the certificate is made for the run
  dyno-bench compare routerd random --service rapgenius --scale 0.1 --dynos 75 --rate 1500 --duration 60s
      one line against a router that draws any dyno (the published RapGenius load, ten times as fast)
  dyno-bench compare haproxy haproxy-two nginx-unlimited
      set-ups that give a dyno two requests at once, and how it is noticed
  dyno-bench compare routerd --target mine=127.0.0.1:8080,1234 --dynos 4
      a proxy that runs already (process 1234) and knows the dynos 127.0.0.1:4100 to 4103

PROXY is one of those that `dyno-bench peers` lists, \"direct\" (no proxy: the generator keeps the line itself, which it
does with one thread only: not with --generator-threads), or \"all\". Who cannot do what is asked (kamal-proxy has HTTP/2
over TLS only, pingora no --plain) is skipped with the reason, and that is no failure. A figure is the median of the
rounds; below it stand the lowest and the highest.

Exit codes: 0 done; 1 a proxy could not be started, ended early or answered nothing, or the comparison was
interrupted (what was measured until then is shown); 2 wrong use. Overlaps are figures here and no failure.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Whom to compare [default: direct and all in their strongest form, as far as they are installed]
    #[arg(value_name = "PROXY", value_parser = choice)]
    proxies: Vec<Choice>,
    /// A proxy that runs already: its name, its address, and its processes if their CPU time shall count
    #[arg(long, value_name = "NAME=ADDR[,PID..]", value_parser = target, help_heading = "Proxies")]
    target: Vec<Target>,
    /// Who has which round [default: interleaved]
    #[arg(long, value_enum, help_heading = "Proxies")]
    order: Option<Order>,
    /// Where a proxy's program is, as envoy=/opt/envoy; may be given again [default: see `dyno-bench peers`]
    #[arg(long, value_name = "NAME=PATH", value_parser = run::peer_path, help_heading = "Proxies")]
    peer_path: Vec<(Peer, PathBuf)>,
    /// How many threads (or processes) each proxy shall use [default: one for each core]
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256),
        help_heading = "Proxies"
    )]
    proxy_threads: Option<u32>,
    /// How long to wait for a --target to accept [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = work::time, help_heading = "Proxies")]
    patience: Option<Duration>,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    output: output::Args,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Direct,
    All,
    Peer(Peer),
}

impl Choice {
    fn peer(self) -> Option<Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Direct | Self::All => None,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    let (given, threads) = (!args.target.is_empty(), args.proxy_threads);
    unused::spacing(&args.work)?;
    let choices = choices(args);
    unused::order(args.order.is_some(), choices.len() + args.target.len())?;
    let peers: Vec<Peer> = choices.into_iter().filter_map(|(choice, _)| choice.peer()).collect();
    unused::paths(&args.peer_path, false, &peers)?;
    unused::threads(threads.is_some(), &peers)?;
    let scenario =
        work::scenario(&args.work, &Around { given, threads, patience: args.patience, rounds: 3 })?;
    let Guests { parties, proxies, missing } = invite(args, &scenario)?;
    run::prepare(&args.output, &scenario)?;
    let mut results = Results::new(output::command(), &scenario);
    let mut out = io::stdout().lock();
    if !args.output.to_stdout() {
        writeln!(out, "{}", results.title())?;
        comparison::print_parties(&mut out, &parties)?;
        out.flush()?;
    }
    let mut outcome = compare::all(&scenario, &proxies, args.order.unwrap_or_default());
    outcome.failures.splice(0..0, missing);
    let interrupted = scenario.interrupt.load(Ordering::Relaxed);
    results.partial = interrupted.then(|| "interrupted".to_owned());
    (results.runs, results.parties, results.failures) =
        (outcome.runs.clone(), parties, outcome.failures.clone());
    args.output.write_files(&results)?;
    if args.output.to_stdout() {
        outcome.failures.iter().for_each(|failure| tell!("error: {failure}"));
    } else {
        let names: Vec<&str> = proxies.iter().map(Proxy::name).collect();
        comparison::print(&mut out, &names, &outcome)?;
    }
    let silent = outcome.runs.iter().filter(|run| run.is_silent());
    let silent = silent.inspect(|run| tell!("error: {} answered no request", run.proxy)).count();
    if interrupted {
        tell!("error: interrupted, the figures are of the rounds until then");
    }
    Ok(outcome.failures.is_empty() && silent == 0 && !interrupted)
}

/// Who takes part, and who was asked for by name and is not there.
#[derive(Default)]
struct Guests {
    parties: Vec<Party>,
    proxies: Vec<Proxy>,
    missing: Vec<Failure>,
}

fn invite(args: &Args, scenario: &Scenario) -> Result<Guests, Failed> {
    let programs = run::programs(&args.peer_path);
    let Guests { mut parties, mut proxies, mut missing } = Guests::default();
    for (choice, named) in choices(args) {
        let Choice::Peer(peer) = choice else {
            if let Err(why) = args.work.keeps_the_line() {
                if named {
                    return Err(Failed::Use(why));
                }
                tell!("{DIRECT} takes no part: {why}");
                continue;
            }
            parties.push(run::party(&Proxy::Direct, scenario));
            proxies.push(Proxy::Direct);
            continue;
        };
        let name = peer.name();
        if let Some(why) = args.work.cannot(peer) {
            tell!("{name}: skipped: {why}");
            let form = run::form(peer, scenario).to_owned();
            parties.push(Party { skipped: Some(why.to_owned()), ..Party::new(name, form) });
            continue;
        }
        match programs.find(peer) {
            Ok(path) => {
                let proxy = Proxy::Peer(peer, path);
                parties.push(run::party(&proxy, scenario));
                proxies.push(proxy);
            }
            Err(why) => {
                let name = name.to_owned();
                tell!("{name} takes no part: {why}");
                if named {
                    missing.push(Failure { proxy: name, round: 0, why });
                }
            }
        }
    }
    for target in &args.target {
        let proxy = Proxy::Target(target.clone());
        parties.push(run::party(&proxy, scenario));
        proxies.push(proxy);
    }
    let twice = (1..proxies.len()).find(|at| proxies[..*at].iter().any(|p| p.name() == proxies[*at].name()));
    if let Some(at) = twice {
        return Err(Failed::Use(format!("two take part as {}", proxies[at].name())));
    }
    if proxies.is_empty() {
        return Err(Failed::Use("nobody takes part: see `dyno-bench peers`".to_owned()));
    }
    Ok(Guests { parties, proxies, missing })
}

/// Whom to ask, each once, and whether by name.
fn choices(args: &Args) -> Vec<(Choice, bool)> {
    let all = || Peer::value_variants().iter().filter(|peer| !peer.breaks()).map(|peer| Choice::Peer(*peer));
    let everybody = args.proxies.contains(&Choice::All) || args.proxies.is_empty() && args.target.is_empty();
    let named = args.proxies.iter().filter(|choice| **choice != Choice::All);
    let mut chosen: Vec<_> = named.map(|choice| (*choice, true)).collect();
    if everybody {
        chosen.extend(std::iter::once(Choice::Direct).chain(all()).map(|choice| (choice, false)));
    }
    let mut once: Vec<(Choice, bool)> = Vec::new();
    for one in chosen {
        if once.iter().all(|(choice, _)| *choice != one.0) {
            once.push(one);
        }
    }
    once
}

fn choice(text: &str) -> Result<Choice, String> {
    if text == DIRECT {
        return Ok(Choice::Direct);
    }
    if text == "all" {
        return Ok(Choice::All);
    }
    Peer::from_str(text, true).map(Choice::Peer).map_err(|_| {
        let names: Vec<_> = Peer::value_variants().iter().map(|peer| peer.name()).collect();
        format!("there is no proxy of that name: it is one of {DIRECT}, all, {}", names.join(", "))
    })
}

fn target(text: &str) -> Result<Target, String> {
    const FORM: &str = "it is NAME=ADDR or NAME=ADDR,PID, such as mine=127.0.0.1:8080,1234";
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(FORM)?;
    let mut parts = rest.split(',');
    let address = parts.next().unwrap_or_default();
    let address: SocketAddr = address.parse().map_err(|_| format!("{address:?} is no address; {FORM}"))?;
    if !address.ip().is_loopback() {
        return Err("load is sent to loopback addresses only".to_owned());
    }
    let pids = parts.map(|pid| pid.parse().map_err(|_| format!("{pid:?} is no process; {FORM}")));
    Ok(Target { name: name.to_owned(), address, pids: pids.collect::<Result<_, _>>()? })
}
