//! `dyno-bench dyno`: dynos alone, emulated or real, for whatever load comes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_bench::dyno::{Behaviour, Fleet, Overlap, Place, Seen, keep as keep_command};
use router_bench::engine::{self, Pacing, Plan, Progress};
use router_bench::load::Route;
use router_bench::number::count;
use router_bench::service::Service;
use router_bench::tell;
use router_core::clock::Clock;
use serde::Serialize;

use crate::work::{ended_by_signals, open_files, positive, time};
use crate::{Failed, fleet};

/// So many overlaps are printed as they happen; all are counted.
const PRINTED: u32 = 100;
/// How long the check of the dynos' timers takes in each place.
const CHECK: Duration = Duration::from_secs(2);
/// How often we look whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  dyno-bench dyno --dynos 4 --service exp:20ms
      four dynos on ports 4100 to 4103, until Ctrl-C; a request may ask for its own time, in nanoseconds, in the
      header X-Bench-Service
  dyno-bench dyno --dynos 4 --gc 50ms/1s --crash 0.001 --boot 2s
      the same, as dynos are on a bad day
  dyno-bench dyno --dynos 2 --dyno 'python3 -m http.server $PORT'
      two real servers on free ports, watched by taps on ports 4100 and 4101
  dyno-bench dyno --check
      how exact are emulated dynos on this machine?

Point a proxy at the ports and load at the proxy. Each overlap is printed as it happens: the dyno, both requests by
their X-Request-Id, and how long the first had been served. Exit code: 0 one request at a time, 1 overlaps or an error,
2 wrong use.";

/// Which dynos, and for how long.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The first port, on the loopback address; 0 for free ones
    #[arg(long, default_value_t = 4100)]
    port: u16,
    /// How many dynos
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    dynos: u16,
    /// How long a request takes that does not ask for a time
    #[arg(long, value_name = "TIMES", default_value = "fixed:10ms", conflicts_with = "dyno")]
    service: Service,
    /// All these service times by this factor
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive, conflicts_with = "dyno")]
    scale: f64,
    /// The seed of service times, pauses and crashes
    #[arg(long, default_value_t = 1, conflicts_with = "dyno")]
    seed: u64,
    /// Ends after this time [default: on Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Instead: how late do the timers of such dynos end service times, here and under this tool's own load?
    #[arg(long, conflicts_with_all = ["dyno", "duration", "port"])]
    check: bool,
    #[command(flatten)]
    commands: fleet::CommandArgs,
    #[command(flatten)]
    behaviour: fleet::BehaviourArgs,
}

/// Whether each dyno had one request at a time.
pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    if args.port != 0 && args.port.checked_add(args.dynos - 1).is_none() {
        return Err(Failed::Use(format!("{} dynos from port {} up are too many", args.dynos, args.port)));
    }
    args.service.warnings().iter().for_each(|warning| tell!("warning: {warning}"));
    let interrupt = Arc::new(AtomicBool::new(false));
    open_files()?;
    ended_by_signals(&interrupt)?;
    if args.check {
        return check(args);
    }
    let ports = (args.dynos, args.port);
    let fleet = match args.commands.commands(&interrupt)? {
        Some(commands) => Fleet::telling_of(&commands, ports, Box::new(teller()))?,
        None => {
            let service = args.service.scaled(args.scale);
            let behaviour = Behaviour { service, seed: args.seed, ..args.behaviour.behaviour(false) };
            let fleet = Fleet::telling(ports, behaviour, Box::new(teller()));
            fleet.map_err(|error| io::Error::new(error.kind(), format!("{error} (see --port)")))?
        }
    };
    let addresses: Vec<String> = fleet.addresses().iter().map(ToString::to_string).collect();
    tell!("dynos: {}", addresses.join(" "));
    let clock = Clock::system();
    let start = clock.now();
    while !interrupt.load(Ordering::Relaxed)
        && fleet.lives()
        && args.duration.is_none_or(|duration| clock.now().duration_since(start) < duration)
    {
        std::thread::sleep(LOOK);
    }
    let seen = fleet.stop()?;
    for note in &seen.notes {
        tell!("warning: {note}");
    }
    let mut out = io::stdout().lock();
    let summary = Summary::of(&seen);
    if args.json {
        serde_json::to_writer_pretty(&mut out, &summary).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        summary.print(&mut out)?;
    }
    Ok(seen.overlaps == 0)
}

/// Prints overlaps as they happen, as long as somebody may read them all.
fn teller() -> impl FnMut(&Overlap) + Send {
    let mut printed = 0;
    move |overlap| {
        if printed < PRINTED {
            tell!("OVERLAP: {overlap}");
        } else if printed == PRINTED {
            tell!("more overlaps are counted, but not printed");
        }
        printed = printed.saturating_add(1);
    }
}

/// What is said at the end.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    requests: u64,
    overlaps: u64,
    overlaps_shown: &'a [Overlap],
    second_connections: u64,
    crashes: u64,
    late_p50_us: f64,
    late_p99_us: f64,
}

impl<'a> Summary<'a> {
    fn of(seen: &'a Seen) -> Self {
        Self {
            requests: seen.requests,
            overlaps: seen.overlaps,
            overlaps_shown: &seen.shown,
            second_connections: seen.second_connections,
            crashes: seen.crashes,
            late_p50_us: late(seen, 0.5),
            late_p99_us: late(seen, 0.99),
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "requests             {:>12}", self.requests)?;
        writeln!(out, "overlaps             {:>12}", self.overlaps)?;
        writeln!(out, "second connections   {:>12}", self.second_connections)?;
        writeln!(out, "crashes              {:>12}", self.crashes)?;
        writeln!(out, "timers late p50, us  {:>12.1}", self.late_p50_us)?;
        writeln!(out, "timers late p99, us  {:>12.1}", self.late_p99_us)
    }
}

/// How late timers were, in microseconds.
fn late(seen: &Seen, quantile: f64) -> f64 {
    if seen.late.is_empty() { 0.0 } else { seen.late.value_at_quantile(quantile) as f64 / 1e3 }
}

/// How exact the dynos are, with one client for each and nothing in between.
fn check(args: &Args) -> Result<bool, Failed> {
    let mut lines = Vec::new();
    for (place, name) in
        [(Place::Here, "in the generator's thread"), (Place::Thread, "in a thread of their own")]
    {
        let behaviour =
            Behaviour { seed: args.seed, ..args.behaviour.behaviour(matches!(place, Place::Here)) };
        let dynos = Fleet::at(&place, (args.dynos, 0), behaviour)?;
        let plan = Plan {
            route: Route::Direct(dynos.addresses().to_vec()),
            tls: None,
            http2: None,
            dynos,
            pacing: Pacing::Closed(args.dynos.into()),
            think: None,
            service: args.service.scaled(args.scale),
            seed: args.seed,
            warmup: Duration::from_millis(200),
            duration: CHECK,
            requests: 1_000_000,
            timeout: Duration::from_secs(300),
            host: "bench.test".to_owned(),
            path: "/".to_owned(),
            connections: args.dynos.into(),
            threads: 1,
        };
        let run = engine::run(plan, &Progress::default(), || {})?;
        lines.push((name, run.seen.late.len(), late(&run.seen, 0.5), late(&run.seen, 0.99)));
    }
    let mut out = io::stdout().lock();
    if args.json {
        let rows = lines.iter().map(|(place, ends, p50, p99)| {
            serde_json::json!({"place": place, "ends": ends, "late_p50_us": p50, "late_p99_us": p99})
        });
        serde_json::to_writer_pretty(&mut out, &rows.collect::<Vec<_>>()).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(true);
    }
    let service = args.service.scaled(args.scale);
    writeln!(out, "{}, service {service}: how late their work ends", count(args.dynos, "dyno"))?;
    for (place, ends, p50, p99) in lines {
        writeln!(out, "{place:26} p50 {p50:8.1} us   p99 {p99:8.1} us   of {ends}")?;
    }
    writeln!(out, "With --dyno-spin 100us they end more exactly, if there is a core to spare.")?;
    Ok(true)
}

/// Runs a command as a dyno's keeper, with its exit code.
pub(crate) fn keep(command: &str) -> ExitCode {
    match keep_command(command) {
        Ok(status) => {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
            let code = status.code().unwrap_or(128 + signal);
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
        Err(error) => {
            tell!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
