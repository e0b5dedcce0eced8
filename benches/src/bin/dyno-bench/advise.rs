//! `dyno-bench advise`: from an access log to a number of dynos.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use router_bench::advise::{self, Advice, Figures, Growth, Need, Price, Question, Target, Today};
use router_bench::logs::{self, Format, Log, Useless, Wanted};
use router_bench::number::count;
use router_bench::service::Service;
use router_bench::tell;
use serde::Serialize;

use crate::Failed;

const EXAMPLES: &str = "\
Examples:
  dyno-bench advise --log access.log --target 'p99 wait < 100ms'
      how many dynos for this log's load, behind one line and with random routing, and for more of it?
  journalctl -u routerd -o short-iso-precise | dyno-bench advise --log - --host shop.test --target 'queued < 20%'
      one app out of the log of a running routerd
  dyno-bench advise --log nginx.log --service exp:80ms --target 'mean wait < 5ms' --dynos 40 --price 25/month
      a log that does not say how long requests took, and what the dynos cost

The log's arrivals and service times are replayed, nothing is fitted: first come first served in one line that costs
nothing, and each request to a dyno by lot. More load is the same arrivals, closer together.

Exit codes: 0 done; 1 it failed, or no number of dynos meets the target; 2 wrong use.";

/// Replays an access log and says how many dynos meet a target: now, at more load, and with random routing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The access log: routerd's (JSON, or logfmt with time stamps), Common or Combined Log Format, HAR; "-" is
    /// standard input
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// What is good enough: "p99 wait < 100ms", "mean latency < 1s", "queued < 20%"
    #[arg(long, value_name = "TARGET")]
    target: Target,
    /// Only requests to this host: each app has a line of its own
    #[arg(long)]
    host: Option<String>,
    /// How many dynos there are today [default: as many as the log names]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    dynos: Option<u32>,
    /// How the log is written [default: recognised by itself]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// Service times for a log that has none: fixed:TIME, exp:MEAN, ...
    #[arg(long, value_name = "TIMES")]
    service: Option<Service>,
    /// What a dyno costs: 25/month, 0.05/hour
    #[arg(long, value_name = "PRICE")]
    price: Option<Price>,
    /// By which lots are drawn: the same seed, the same answer
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What is written as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    log: Source<'a>,
    #[serde(flatten)]
    advice: &'a Advice,
}

/// What was read.
#[derive(Serialize)]
struct Source<'a> {
    format: &'static str,
    garbage: u64,
    garbage_shown: &'a [logs::Garbage],
    answered_without_a_dyno: u64,
    other_hosts: u64,
    faults: &'a std::collections::BTreeMap<String, u64>,
}

/// Whether the target can be met at the log's load.
pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    for warning in args.service.iter().flat_map(Service::warnings) {
        tell!("warning: {warning}");
    }
    let log = open(args)?;
    let question = Question {
        target: args.target,
        dynos: args.dynos.map(|dynos| dynos as usize),
        service: Option::clone(&args.service),
        price: args.price.clone(),
        seed: args.seed,
    };
    let advice = advise::advise(&log, &question).map_err(Failed::Use)?;
    let mut out = io::stdout().lock();
    if args.json {
        let log = Source {
            format: log.format.name(),
            garbage: log.garbage,
            garbage_shown: &log.shown,
            answered_without_a_dyno: log.aside,
            other_hosts: log.others,
            faults: &log.faults,
        };
        serde_json::to_writer_pretty(&mut out, &Answer { log, advice: &advice }).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        print_log(&mut out, &log)?;
        print(&mut out, &advice)?;
    }
    Ok(advice.growth.first().is_some_and(|now| now.one_line.dynos.is_some()))
}

fn open(args: &Args) -> Result<Log, Failed> {
    let name = args.log.display();
    let from: Box<dyn BufRead> = if args.log.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let failed = |error| Failed::Run(io::Error::other(format!("{name}: {error}")));
        Box::new(BufReader::with_capacity(256 * 1024, File::open(&args.log).map_err(failed)?))
    };
    let wanted = Wanted { format: args.log_format, host: args.host.clone(), seed: args.seed };
    logs::read(from, &wanted).map_err(|error| {
        Failed::Run(io::Error::other(match error {
            Useless::Io(error) => format!("{name}: {error}"),
            Useless::Nothing(why) => format!("{name}: {why}"),
        }))
    })
}

fn print_log(out: &mut impl Write, log: &Log) -> io::Result<()> {
    write!(out, "{} for a dyno ({})", count(log.entries.len(), "request"), log.format.name())?;
    for (number, what) in [(log.aside, "answered without a dyno"), (log.others, "to other hosts")] {
        if number > 0 {
            write!(out, ", {number} {what}")?;
        }
    }
    writeln!(out)?;
    for (code, number) in &log.faults {
        writeln!(out, "  fault {code}: {number}")?;
    }
    if log.garbage > 0 {
        writeln!(out, "  {} could not be read:", count(log.garbage, "line"))?;
    }
    for logs::Garbage { line, why, excerpt } in &log.shown {
        writeln!(out, "    line {line}: {why}: {excerpt}")?;
    }
    Ok(())
}

fn print(out: &mut impl Write, advice: &Advice) -> io::Result<()> {
    let length = std::time::Duration::from_secs(advice.seconds.round() as u64);
    writeln!(
        out,
        "over {}: the work of {:.2} dynos that are never idle; service times {:.1} ms on average, SCV {:.2}\n",
        humantime::format_duration(length),
        advice.load,
        advice.service_mean_ms,
        advice.service_scv
    )?;
    if let Some(today) = &advice.today {
        print_today(out, today)?;
    }
    let price = advice.growth.iter().any(|row| row.one_line.cost.is_some());
    let head = if price { ("cost", "cost") } else { ("", "") };
    writeln!(out, "dynos for {}:", advice.target)?;
    let head =
        ["load", "one line", "busy", "wait mean", "wait p99", head.0, "random", "of its replays", head.1];
    writeln!(out, "{}", row(head.map(str::to_owned)))?;
    for growth in &advice.growth {
        writeln!(out, "{}", row(cells(growth)))?;
    }
    for growth in &advice.growth {
        if let Some(why) = &growth.one_line.why {
            writeln!(out, "x{}: {why}", growth.times)?;
        }
    }
    let [first, second] = [0, 1].map(|half: usize| number(&advice.halves[half]));
    writeln!(out, "\nthe first half of the log alone needs {first}, the second {second}")?;
    if advice.drawn > 0 {
        let drawn = count(advice.drawn, "request");
        writeln!(out, "{drawn} had no service time in the log: one was drawn from the others")?;
    }
    writeln!(
        out,
        "the ideal line costs nothing: a real one adds its own time for each request to the service"
    )?;
    advice.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
}

fn print_today(out: &mut impl Write, today: &Today) -> io::Result<()> {
    let from = if today.counted { "named in the log" } else { "as given" };
    let cost = today.cost.as_ref().map(|cost| format!(", {cost}")).unwrap_or_default();
    writeln!(
        out,
        "with {} ({from}{cost}), busy {:.1} %:",
        count(today.dynos, "dyno"),
        today.one_line.busy_share * 100.0
    )?;
    let line = |figures: &Figures| {
        format!(
            "wait mean {:.3} ms, p99 {:.3} ms, {:.1} % wait",
            figures.wait_mean_ms,
            figures.wait_p99_ms,
            figures.queued_share * 100.0
        )
    };
    writeln!(out, "  one line   {}", line(&today.one_line))?;
    writeln!(out, "  random     {}", line(&today.random))?;
    if let Some([mean, p99]) = today.logged_wait_ms {
        writeln!(out, "  as logged  wait mean {mean:.3} ms, p99 {p99:.3} ms")?;
    }
    writeln!(out)
}

fn cells(growth: &Growth) -> [String; 9] {
    let figure = |of: fn(&Figures) -> String| growth.one_line.figures.as_ref().map(of).unwrap_or_default();
    let cost = |need: &Need| need.cost.clone().unwrap_or_default();
    [
        format!("x{}", growth.times),
        number(&growth.one_line),
        figure(|figures| format!("{:.1} %", figures.busy_share * 100.0)),
        figure(|figures| format!("{:.3} ms", figures.wait_mean_ms)),
        figure(|figures| format!("{:.3} ms", figures.wait_p99_ms)),
        cost(&growth.one_line),
        growth.random.dynos.map_or_else(
            || {
                growth
                    .random
                    .why
                    .clone()
                    .filter(|why| why.starts_with("more"))
                    .unwrap_or_else(|| "-".to_owned())
            },
            |dynos| dynos.to_string(),
        ),
        growth.random_range.map(|[few, many]| format!("{few}..{many}")).unwrap_or_default(),
        cost(&growth.random),
    ]
}

fn number(need: &Need) -> String {
    need.dynos.map_or_else(|| "-".to_owned(), |dynos| dynos.to_string())
}

fn row(cells: [String; 9]) -> String {
    const WIDTHS: [usize; 9] = [6, 9, 9, 13, 13, 14, 10, 16, 16];
    let text: String = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:>width$}")).collect();
    text.trim_end().to_owned()
}
