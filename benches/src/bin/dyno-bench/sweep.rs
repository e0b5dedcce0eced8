//! `dyno-bench sweep`: the same load at several points.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use router_bench::compare::Scenario;
use router_bench::number::count;
use router_bench::results::Results;
use router_bench::sweep;

use crate::{Failed, output, run, unused, work};

/// So many points at most.
const MOST: usize = 100;

/// Runs the same scenario at several points: more dynos, more load, or until something gives way.
#[derive(Debug, clap::Args)]
// Those of a run are beside these.
#[group(skip)]
#[command(after_help = "\
Examples:
  dyno-bench sweep --over dynos=1,2,4,8,16,32,64,128 --service fixed:10ms --vs haproxy --html dynos.html
      does each dyno add as much as the one before? Throughput beside the ideal line; 2 clients for each dyno
  dyno-bench sweep --over load=0.5,0.7,0.8,0.9,0.95 --dynos 10 --service exp:10ms --duration 60s --html load.html
      how does the wait grow with the load? Beside the ideal line and Erlang C
  dyno-bench sweep --find-knee --dynos 20 --service exp:10ms --vs haproxy --knee-wait 50ms
      which rate can be sent until p99 of the wait exceeds 50 ms, faults come, or the generator itself is at its end?

Any other option of dyno-bench may be given too and holds for all points.

Exit codes: 0 done; 1 it failed, or a dyno was given two requests at once; 2 wrong use.")]
pub(crate) struct Args {
    /// What to vary and its values: dynos=1,2,4 or load=0.5,0.9
    #[arg(
        long,
        value_name = "WHAT=VALUES",
        required_unless_present = "find_knee",
        conflicts_with = "find_knee"
    )]
    over: Option<Over>,
    /// Raise the rate until p99 of the wait, the faults or the generator itself gives way, and say which
    // The search begins at what the dynos can do, which of real ones nobody knows.
    // It runs each rate once.
    #[arg(
        long,
        conflicts_with_all = ["clients", "rate", "load", "dyno", "arrivals", "replay", "think", "rounds"]
    )]
    find_knee: bool,
    /// The p99 of the wait at which it gives way [default: 5 times the mean service time; with --plain 10ms]
    #[arg(long, value_name = "TIME", value_parser = work::time)]
    knee_wait: Option<Duration>,
    #[command(flatten)]
    run: run::Args,
}

/// What a sweep goes over.
#[derive(Clone, Debug, PartialEq)]
enum Over {
    Dynos(Vec<u16>),
    Load(Vec<f64>),
}

impl FromStr for Over {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALLOWED: &str =
            "allowed are dynos=1,2,4 (1 to 10000) and load=0.5,0.9 (more than 0, at most 10)";
        let (what, values) = text.split_once('=').ok_or(ALLOWED)?;
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        if values.len() > MOST {
            return Err(format!("at most {MOST} values"));
        }
        if values.iter().collect::<HashSet<_>>().len() < values.len() {
            return Err("a value stands there twice".to_owned());
        }
        let wrong = |value: &str| format!("\"{value}\": {ALLOWED}");
        match what {
            "dynos" => {
                let dynos = |value: &&str| match value.parse() {
                    Ok(dynos) if (1..=10_000).contains(&dynos) => Ok(dynos),
                    _ => Err(wrong(value)),
                };
                values.iter().map(dynos).collect::<Result<_, _>>().map(Self::Dynos)
            }
            "load" => {
                let load = |value: &&str| match value.parse() {
                    Ok(load) if load > 0.0 && load <= 10.0 => Ok(load),
                    _ => Err(wrong(value)),
                };
                values.iter().map(load).collect::<Result<_, _>>().map(Self::Load)
            }
            other => Err(wrong(other)),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    if args.run.memory.is_some() {
        return Err(Failed::Use("a sweep measures no --memory".to_owned()));
    }
    match args.over {
        Some(Over::Load(_)) => {}
        Some(Over::Dynos(_)) if args.run.work.dynos.is_some() => {
            return Err(Failed::Use("--over dynos says how many there are: leave --dynos out".to_owned()));
        }
        Some(Over::Dynos(_)) | None => unused::spacing(&args.run.work)?,
    }
    let proxies = run::proxies(&args.run)?;
    let scenario = args.run.scenario()?;
    let points = args.over.as_ref().map(|over| points(over, &args.run, &scenario)).transpose()?;
    run::prepare(&args.run.output, &scenario)?;
    let mut results = Results::new(output::command(), &scenario);
    results.parties = run::parties(&proxies, &scenario);
    let done = if let Some(points) = points {
        let (name, load) = match &args.over {
            Some(Over::Load(loads)) => ("load", format!("loads of {}", list(loads))),
            Some(Over::Dynos(_)) | None => ("dynos", load_of_each(&args.run)),
        };
        results.over = Some(name.to_owned());
        results.scenario.insert("load".to_owned(), load);
        if let Some(Over::Dynos(dynos)) = &args.over {
            results.scenario.insert("dynos".to_owned(), list(dynos));
        }
        sweep::run(&points, &proxies, &mut results)
    } else {
        let mean = Duration::from_secs_f64(scenario.service.mean() * 5.0);
        let default = if scenario.plain { Duration::from_millis(10) } else { mean };
        results.over = Some("rate".to_owned());
        results.scenario.insert("load".to_owned(), "the rate is searched for".to_owned());
        sweep::find_knees(&scenario, &proxies, args.knee_wait.unwrap_or(default), &mut results)
    };
    output::finish(&args.run.output, results, scenario.interrupt.load(Ordering::Relaxed), done)
}

fn list(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a sweep over dynos sends at each point, in words.
fn load_of_each(run: &run::Args) -> String {
    if run.work.replay.is_some() {
        return "as in the log".to_owned();
    }
    match (run.work.load, run.work.rate, run.work.clients) {
        (Some(load), ..) => format!("load {load}"),
        (None, Some(rate), _) => format!("{} a second", count(rate, "request")),
        (None, None, Some(clients)) => count(clients, "client"),
        (None, None, None) => "2 clients for each dyno".to_owned(),
    }
}

/// Each point by name, checked before the first is run.
fn points(over: &Over, run: &run::Args, scenario: &Scenario) -> Result<Vec<(String, Scenario)>, Failed> {
    let point = |name: String, run: &run::Args| {
        let one = run.scenario()?;
        // One signal ends all of them.
        Ok((name, one.ended_by(&scenario.interrupt)))
    };
    match over {
        Over::Dynos(all) => {
            let work = &run.work;
            let open = work.load.is_some() || work.rate.is_some();
            let clients =
                |dynos| if open { None } else { work.clients.or_else(|| Some(2 * u32::from(dynos))) };
            let of = |dynos: &u16| {
                let mut run = run.clone();
                (run.work.dynos, run.work.clients) = (Some(*dynos), clients(*dynos));
                point(count(dynos, "dyno"), &run)
            };
            all.iter().map(of).collect()
        }
        Over::Load(_) if fixes_the_load(&run.work) => {
            let why = "--over load goes with none of --plain, --dyno, --rate, --clients, --load, --replay and --think";
            Err(Failed::Use(why.to_owned()))
        }
        Over::Load(all) => {
            let of = |load: &f64| {
                let mut run = run.clone();
                run.work.load = Some(*load);
                point(format!("load {load}"), &run)
            };
            all.iter().map(of).collect()
        }
    }
}

/// Whether something says already how much is sent.
fn fixes_the_load(work: &work::Work) -> bool {
    work.plain
        || work.place.real()
        || work.rate.is_some()
        || work.clients.is_some()
        || work.load.is_some()
        || work.replay.is_some()
        || work.think.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_sweep_over_is_checked() {
        assert_eq!("dynos=1, 2,4".parse(), Ok(Over::Dynos(vec![1, 2, 4])));
        assert_eq!("load=0.5,0.95".parse(), Ok(Over::Load(vec![0.5, 0.95])));
        for wrong in [
            "dynos",
            "dynos=",
            "dynos=0",
            "dynos=1,1",
            "load=0",
            "load=-1",
            "load=NaN",
            "speed=1",
            "dynos=1,x",
        ] {
            assert!(wrong.parse::<Over>().is_err(), "{wrong}");
        }
    }
}
