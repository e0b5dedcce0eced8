//! Options that would do nothing in what was asked for: refused, with what they need or what makes them idle.

use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use router_bench::arrivals::Replay;
use router_bench::peers::Peer;
use router_bench::sim::{Policy, Setup};

use crate::Failed;
use crate::work::Work;

/// Options and what each needs. Not by clap's `requires`, which lets it pass where something else conflicts with what is
/// required: `--speed 2 --rate 5` has no log, and none could be given.
const NEEDS: [(&str, &str); 10] = [
    ("ca", "target"),
    ("ca", "tls"),
    ("dyno_patience", "dyno"),
    ("knee_wait", "find_knee"),
    ("log_format", "replay"),
    ("patience", "target"),
    ("pid", "target"),
    ("replay_host", "replay"),
    ("speed", "replay"),
    ("streams", "http2"),
];

/// Whether all that was given on the command line has what it needs. Other commands have some of these by themselves.
pub(crate) fn needs(matches: &ArgMatches) -> Result<(), Failed> {
    if let Some((_, matches)) = matches.subcommand() {
        return needs(matches);
    }
    let given = |id: &str| {
        matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    let lacking = NEEDS
        .iter()
        .find(|(option, needed)| given(option) && matches.try_contains_id(needed).is_ok() && !given(needed));
    let Some((option, needed)) = lacking else { return Ok(()) };
    refused(&format!("--{} needs --{}", option.replace('_', "-"), needed.replace('_', "-")))
}

fn refused(why: &str) -> Result<(), Failed> {
    Err(Failed::Use(why.to_owned()))
}

/// How requests are spaced in a closed loop is for its clients to say.
pub(crate) fn spacing(work: &Work) -> Result<(), Failed> {
    if work.arrivals.is_some() && work.rate.is_none() && work.load.is_none() {
        return refused("--arrivals spaces the requests of an open loop: it needs --rate or --load");
    }
    Ok(())
}

/// Programs that were named of proxies that take no part, or twice.
pub(crate) fn paths(given: &[(Peer, PathBuf)], routerd: bool, peers: &[Peer]) -> Result<(), Failed> {
    let part = |software: Peer| peers.iter().any(|peer| peer.software() == software);
    if routerd && !part(Peer::Routerd) {
        return refused("--routerd: routerd takes no part");
    }
    for (place, (peer, _)) in given.iter().enumerate() {
        let software = peer.software();
        if !part(software) {
            return refused(&format!("--peer-path {0}=..: {0} takes no part", peer.name()));
        }
        if given[..place].iter().any(|(other, _)| other.software() == software) {
            return refused(&format!("--peer-path says twice where {} is", software.name()));
        }
        if routerd && software == Peer::Routerd {
            return refused("--routerd and --peer-path both say where routerd is");
        }
    }
    Ok(())
}

/// Threads of proxies, where none is started.
pub(crate) fn threads(given: bool, peers: &[Peer]) -> Result<(), Failed> {
    if given && peers.is_empty() {
        return refused("--proxy-threads: no proxy is started that could use them");
    }
    Ok(())
}

/// The order of rounds, where one alone has them all.
pub(crate) fn order(given: bool, parties: usize) -> Result<(), Failed> {
    if given && parties < 2 {
        return refused("--order says who has which round: it needs two proxies or more");
    }
    Ok(())
}

/// Service times for requests of a log that have their own.
pub(crate) fn with_times_of(replay: &Replay, work: &Work) -> Result<(), Failed> {
    if work.service.is_some() && replay.has_all_times() {
        return refused(
            "the log says how long each request took: leave --service out (--scale changes what it says)",
        );
    }
    Ok(())
}

/// Ways between routers that nobody goes, and routers that make no difference.
pub(crate) fn routers(setup: &Setup, policies: &[Policy]) -> Result<(), Failed> {
    let forwards = |policy: &Policy| match policy {
        Policy::OneOwner | Policy::Pools(_) => true,
        Policy::OneLine
        | Policy::Random
        | Policy::RoundRobin
        | Policy::PowerOfTwo
        | Policy::LeastConnections
        | Policy::JoinIdle => false,
    };
    let alike = |policy: &Policy| matches!(policy, Policy::OneLine | Policy::Random);
    if !setup.hop.is_zero() && (setup.routers < 2 || !policies.iter().any(forwards)) {
        return refused(
            "--hop is the way from one router to another: it needs --routers 2 or more, and one-owner or pools \
             among the policies",
        );
    }
    if setup.routers < 2 && !setup.shares.is_empty() {
        return refused("--skew shares the requests out to routers: it needs --routers 2 or more");
    }
    if setup.routers > 1 && policies.iter().all(alike) {
        return refused("--routers: random and one-line are the same with one router and with several");
    }
    Ok(())
}
