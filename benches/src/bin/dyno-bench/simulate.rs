//! `dyno-bench simulate`: what a fleet would do under one policy or another, in virtual time.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use router_bench::erlang;
use router_bench::number::count;
use router_bench::service::Service;
use router_bench::sim::{self, Case, Length, Outcome, Policy, Progress, Setup, Shed, Waits};
use router_bench::tell;

use crate::work::ended_by_signals;
use crate::{Failed, unused};

/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(200);
/// How many requests are simulated if nobody says.
const REQUESTS: u64 = 1_000_000;

const EXAMPLES: &str = "\
Examples:
  dyno-bench simulate --service rapgenius --dynos 75 --rate 150
      the published RapGenius load: what do random routing and one line make of it?
  dyno-bench simulate --service lognormal:60ms,1s --dynos 12 --rate 80 --policy one-line
      half of my requests take less than 60 ms and one in a hundred a second: how long do they wait?
  dyno-bench simulate --service file:times.txt --dynos 12 --load 0.9
      the same with the service times of a file: one a line, in milliseconds or with a unit
  dyno-bench simulate --service exp:10ms --dynos 100 --load 0.95 --routers 4 --hop 0.1ms \\
      --policy least-connections,jiq,pools:4,one-owner,one-line
      four routers: does it help that they know of each other?
  dyno-bench simulate --service exp:1s --dynos 10 --load 1.2 --patience 10s --shed none,gone,bound:5,codel,routerd
      more than the dynos can do: which answers come in time?

Wait is from the arrival to the dyno beginning to work. A policy without a line binds each request to a dyno as it
comes; the others let it wait for the first that is free. one-line is router-core itself, on a virtual clock. The
ideal line costs nothing and gets the same arrivals and service times, so 'x ideal' has next to no noise.

Exit codes: 0 done; 1 it was interrupted (what there was by then is printed); 2 wrong use.";

/// Simulates the fleet under each policy and prints what requests would wait
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How long a request keeps its dyno: fixed:TIME, exp:MEAN, lognormal:MEDIAN,P99, weibull:SHAPE,SCALE,
    /// pareto:SHAPE,MIN, bimodal:90%5ms,10%100ms, file:PATH or rapgenius
    #[arg(long, value_name = "TIMES")]
    service: Service,
    /// How many dynos
    #[arg(long)]
    dynos: u32,
    /// So many requests a second, at random instants
    #[arg(long, value_name = "R", required_unless_present = "load")]
    rate: Option<f64>,
    /// The requests that need this share of the dynos' time: 0.95; above 1 is overload
    #[arg(long, value_name = "SHARE", conflicts_with = "rate")]
    load: Option<f64>,
    /// Policies, parted by commas: random, round-robin, power-of-two, least-connections, jiq, pools:P, one-owner,
    /// one-line
    #[arg(
        long,
        value_name = "POLICY",
        value_delimiter = ',',
        default_value = "random,round-robin,power-of-two,least-connections,jiq,one-line"
    )]
    policy: Vec<Policy>,

    /// How many routers; each knows only what it has done itself
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Routers")]
    routers: u32,
    /// What part of the requests comes to each router: 40,30,20,10 [default: the same]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', help_heading = "Routers")]
    skew: Vec<f64>,
    /// From one router to another, one way
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration,
        help_heading = "Routers")]
    hop: Duration,
    /// From a router to a dyno and back
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration,
        help_heading = "Routers")]
    rtt: Duration,

    /// Clients give up after this time; a dyno that has begun works on to the end [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Overload")]
    patience: Option<Duration>,
    /// How policies with a line shed load, parted by commas, each simulated: none, gone, bound:N (for each dyno),
    /// expected-wait or expected-wait:TIME, deadline or
    /// deadline:TIME, codel, adaptive-lifo, routerd or routerd:MAX_WAIT
    /// [default: none, with --patience routerd]
    #[arg(long, value_name = "HOW", value_delimiter = ',', help_heading = "Overload")]
    shed: Vec<Shed>,

    /// How many requests count for each policy, after a quarter of them that fill the lines [default: 1000000]
    #[arg(long, value_name = "N", conflicts_with = "duration", help_heading = "Length")]
    requests: Option<u64>,
    /// Each replication begins with an empty fleet and lasts so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, help_heading = "Length")]
    duration: Option<Duration>,
    /// Independent parts, over all cores; what they differ by gives the half-width
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Length")]
    replications: u32,
    /// The seed: the same one gives the same figures, on any number of cores
    #[arg(long, default_value_t = 1, help_heading = "Length")]
    seed: u64,

    /// Print one JSON array instead of the table: an object a policy, in the order given
    #[arg(long)]
    json: bool,
}

/// Whether all went well.
pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    for warning in args.service.warnings() {
        tell!("warning: {warning}");
    }
    let (setup, cases) = setup(args)?;
    setup.check(&cases).map_err(Failed::Use)?;
    unused::routers(&setup, &args.policy)?;
    if !args.shed.is_empty() && !args.policy.iter().any(|policy| policy.has_line()) {
        let why = "--shed is for policies with a line: one-line, one-owner or pools".to_owned();
        return Err(Failed::Use(why));
    }
    if setup.load_of_line() >= 1.0 && setup.patience.is_none() {
        tell!(
            "warning: the load is {:.2}, with the way to the dynos {:.2}: lines grow for as long as it lasts, so waits \
            are those of this length; with --patience clients give up",
            setup.load(),
            setup.load_of_line()
        );
    }
    unsettled(&setup, &cases);
    let progress = Progress::default();
    ended_by_signals(&progress.interrupt)?;
    let outcomes = watched(&setup, &cases, &progress)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &outcomes).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print(&mut out, &setup, &outcomes)?;
    }
    let overlaps: u64 = outcomes.iter().map(|outcome| outcome.overlaps).sum();
    if overlaps > 0 {
        tell!("error: {} came to a dyno that had one", count(overlaps, "request"));
    }
    let interrupted = outcomes.iter().any(|outcome| outcome.interrupted);
    if interrupted {
        tell!("interrupted: the figures are of a part of the run");
    }
    Ok(overlaps == 0 && !interrupted)
}

fn setup(args: &Args) -> Result<(Setup, Vec<Case>), Failed> {
    let rate = match (args.rate, args.load) {
        (Some(rate), _) => rate,
        (None, Some(load)) if load > 0.0 && load <= 1000.0 => {
            load * f64::from(args.dynos) / args.service.mean()
        }
        (None, _) => return Err(Failed::Use("--load must be more than 0 and at most 1000".to_owned())),
    };
    let default = if args.patience.is_some() { Shed::Routerd(None) } else { Shed::None };
    let sheds = if args.shed.is_empty() { vec![default] } else { args.shed.clone() };
    let cases = args.policy.iter().flat_map(|policy| match policy.has_line() {
        true => sheds.iter().map(|shed| Case { policy: *policy, shed: *shed }).collect(),
        false => vec![Case::of(*policy)],
    });
    let length = match args.duration {
        Some(time) => Length::Time(time),
        None => Length::Requests(args.requests.unwrap_or(REQUESTS)),
    };
    let setup = Setup {
        routers: args.routers,
        shares: args.skew.clone(),
        hop: args.hop,
        rtt: args.rtt,
        patience: args.patience,
        length,
        replications: args.replications,
        seed: args.seed,
        ..Setup::new(args.service.clone(), args.dynos, rate)
    };
    Ok((setup, cases.collect()))
}

/// Says so if what comes before the requests that count is too little to fill the lines.
fn unsettled(setup: &Setup, cases: &[Case]) {
    let Length::Requests(requests) = setup.length else { return };
    let Some(settles) = setup.settles_in().filter(|_| setup.patience.is_none()) else { return };
    let needed = settles.as_secs_f64() * setup.rate * f64::from(setup.replications) * 4.0;
    if cases.iter().any(|case| !case.policy.has_line()) && requests < needed as u64 {
        let remedy = if needed * 1.25 <= sim::MOST_REQUESTS {
            format!("--requests {needed:.0} would do")
        } else {
            "no number of requests that is allowed would do".to_owned()
        };
        tell!(
            "warning: at a load of {:.3} a line at each dyno takes long to fill: the waits of policies without one \
            line come out too short; {remedy}",
            setup.load(),
        );
    }
}

/// Simulates on other threads and draws the progress meanwhile.
fn watched(setup: &Setup, cases: &[Case], progress: &Progress) -> Result<Vec<Outcome>, Failed> {
    let total = setup.arrivals().saturating_mul(cases.len() as u64);
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if bar.is_hidden() {
        tell!("simulating about {}", count(total, "request"));
    } else if let Ok(style) = ProgressStyle::with_template(
        "simulating [{wide_bar}] {percent:>3} % of {human_len} requests, {eta} left",
    ) {
        bar.set_style(style);
    }
    let outcomes = thread::scope(|scope| {
        let me = thread::current();
        let worker = scope.spawn(move || {
            let outcomes = sim::run(setup, cases, progress);
            me.unpark();
            outcomes
        });
        while !worker.is_finished() {
            bar.set_position(progress.done.load(Ordering::Relaxed).min(total));
            thread::park_timeout(DRAW);
        }
        worker.join()
    });
    bar.finish_and_clear();
    let outcomes = outcomes.map_err(|_| io::Error::other("the simulation's thread ended early"))?;
    outcomes.map_err(Failed::Use)
}

/// Prints the table.
fn print(out: &mut impl Write, setup: &Setup, outcomes: &[Outcome]) -> io::Result<()> {
    let (mean, scv, load) = (setup.service.mean() * 1e3, setup.service.scv(), setup.load());
    writeln!(
        out,
        "{}, service {} (mean {}, SCV {scv:.2}), {:.1} requests a second: load {load:.3}",
        count(setup.dynos, "dyno"),
        setup.service,
        ms(mean),
        setup.rate
    )?;
    let parts = count(setup.replications, "replication");
    let length = match setup.length {
        Length::Requests(requests) => format!("{} in {parts}", count(requests, "request")),
        Length::Time(time) => format!("{parts} of {}", humantime::format_duration(time)),
    };
    let ways = format!("hop {}, way to a dyno and back {}", show(setup.hop), show(setup.rtt));
    writeln!(out, "{length}, seed {}; {}, {ways}\n", setup.seed, count(setup.routers, "router"))?;
    writeln!(
        out,
        "{:34}{:>9}{:>24}{:>12}{:>12}{:>12}{:>9}",
        "", "queued", "wait mean", "p50", "p95", "p99", "x ideal"
    )?;
    for outcome in outcomes {
        let Outcome { wait_ms, half_width_ms, .. } = outcome;
        let width = half_width_ms.map_or_else(String::new, |width| format!(" ± {}", ms(width)));
        let ratio = outcome.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        row(out, &name(outcome), Some(outcome.queued_share), &width, wait_ms, &ratio)?;
    }
    if let Some(ideal) = outcomes.iter().find_map(|outcome| outcome.ideal_wait_ms) {
        row(out, "ideal line, same arrivals", None, "", &ideal, "1.00")?;
    }
    theory(out, setup)?;
    if outcomes.iter().any(|outcome| outcome.forwarded_share > 0.0) {
        writeln!(out, "\nforwarded to another router:")?;
        for outcome in outcomes.iter().filter(|outcome| outcome.forwarded_share > 0.0) {
            writeln!(out, "{:34}{:>9}", name(outcome), percent(outcome.forwarded_share))?;
        }
    }
    if setup.patience.is_some() {
        overload(out, setup, outcomes)?;
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.overrun) {
        writeln!(out, "warning: {}: four million wait, so the simulation gave up", name(outcome))?;
    }
    Ok(())
}

fn row(
    out: &mut impl Write,
    name: &str,
    queued: Option<f64>,
    width: &str,
    waits: &Waits,
    ratio: &str,
) -> io::Result<()> {
    let queued = queued.map_or_else(String::new, percent);
    let mean = format!("{}{width}", ms(waits.mean));
    let [p50, p95, p99] = [waits.p50, waits.p95, waits.p99].map(ms);
    writeln!(out, "{name:34}{queued:>9}{mean:>24}{p50:>12}{p95:>12}{p99:>12}{ratio:>9}")
}

/// What theory says of one line and of random routing, where it says something.
fn theory(out: &mut impl Write, setup: &Setup) -> io::Result<()> {
    let (mean, scv) = (setup.service.mean(), setup.service.scv());
    let (load, of_line) = (setup.load(), setup.load_of_line());
    if setup.patience.is_some() {
        return Ok(());
    }
    let way = setup.rtt.as_secs_f64() / 2.0;
    if of_line < 1.0 {
        // A dyno is held for the service time and the way there and back.
        let held = mean + setup.rtt.as_secs_f64();
        let wait = erlang::mean_wait(setup.dynos, of_line, scv * (mean / held).powi(2)) * held + way;
        let whose = if (scv - 1.0).abs() < 1e-9 { "Erlang C" } else { "Lee-Longton, roughly" };
        writeln!(out, "{:43}{:>24}", format!("theory, one line ({whose})"), ms(wait * 1e3))?;
    }
    if load < 1.0 {
        let wait = erlang::random_wait(load, scv) * mean + way;
        writeln!(out, "{:43}{:>24}", "theory, random (Pollaczek-Khinchine)", ms(wait * 1e3))?;
    }
    Ok(())
}

/// What became of those who did not wait for ever.
fn overload(out: &mut impl Write, setup: &Setup, outcomes: &[Outcome]) -> io::Result<()> {
    let patience = setup.patience.unwrap_or_default();
    writeln!(
        out,
        "\nClients give up after {}. Goodput: what the dynos did for answers in time, of all they could do.\n",
        show(patience)
    )?;
    writeln!(
        out,
        "{:34}{:>9}{:>9}{:>9}{:>9}{:>9}{:>14}{:>15}",
        "", "goodput", "in time", "late", "refused", "gone", "p99 in time", "refused after"
    )?;
    for outcome in outcomes {
        let shares = [
            outcome.goodput,
            outcome.good_share,
            outcome.late_share,
            outcome.refused_share,
            outcome.gone_share,
        ];
        write!(out, "{:34}", name(outcome))?;
        shares.iter().try_for_each(|share| write!(out, "{:>9}", percent(*share)))?;
        let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), ms);
        let (p99, after) = (time(outcome.good_latency_p99_ms), time(outcome.refused_after_ms));
        writeln!(out, "{p99:>14}{after:>15}")?;
    }
    Ok(())
}

fn name(outcome: &Outcome) -> String {
    match outcome.shed.as_deref() {
        Some(shed) if shed != "none" => format!("{}, {shed}", outcome.policy),
        Some(_) | None => outcome.policy.clone(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Milliseconds with three digits, or seconds where they are many.
fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 1.0 => format!("{ms:.2} ms"),
        0.0 => "0 ms".to_owned(),
        ms => format!("{ms:.4} ms"),
    }
}

fn show(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}
