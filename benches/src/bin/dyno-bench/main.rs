//! `dyno-bench`: measures what a proxy does to a fleet of one-at-a-time servers.

mod advise;
mod compare;
mod dyno;
mod fleet;
mod output;
mod peers;
mod report;
mod run;
mod simulate;
mod sweep;
mod theory;
mod unused;
mod work;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use router_bench::tell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The exit code of a program whose output nobody reads any more: what the shell makes of SIGPIPE.
const NOBODY_READS: u8 = 141;

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
  dyno-bench --via routerd --replay access.log --speed 2 --dynos 8
      what a log has, twice as fast: its arrivals, paths and service times
  dyno-bench --via routerd --rate 200 --arrivals burst:20 --dynos 4 --service exp:10ms
      twenty at once, ten times a second
  dyno-bench --target 127.0.0.1:8080 --dyno-ports 4100 --dynos 4 --pid 1234
      any proxy that runs already and knows the dynos 127.0.0.1:4100 to 4103
  dyno-bench --via routerd --dynos 4 --dyno 'gunicorn -w 1 -b 127.0.0.1:$PORT app:app' --path /report --clients 8
      real servers as dynos, watched by taps: each started with a port of its own
  dyno-bench --via routerd --dynos 10 --gc 50ms/1s --crash 0.001 --boot 2s --rate 500
      dynos on a bad day: they pause, and some requests bring them down for two seconds
  dyno-bench compare
      all proxies that are installed, in rounds: who keeps one request a dyno, at what cost? (compare --help)
  dyno-bench --via random --service rapgenius --scale 0.1 --dynos 75 --load 0.53
      what a router does that draws any dyno for each request
  dyno-bench --vs haproxy --memory 5000
      what does an idle connection cost the proxy, and what a request in line?
  dyno-bench --via routerd --plain --clients 64 --generator-threads 2
      two threads send: for proxies that can do more than one thread can ask for
  dyno-bench --self-test --service exp:10ms --load 0.8 --dynos 10 --rounds 5
      no proxy: how exact is the tool itself, beside Erlang C?

Wait is from the client's intended send to the dyno beginning to work. Excess is the wait since the actual send less
the wait in the ideal line (first come first served, no cost) on the same arrivals and service times,
or with the same --clients.

Exit codes: 0 done; 1 it failed, or a dyno was given two requests at once; 2 wrong use; 141 nobody reads its output
any more.";

/// Measures what a proxy does to a fleet of servers that do one request at a time. Starts the servers (dynos), sends
/// load through the proxy, prints waits, faults, overlaps and the proxy's CPU time. Talks to loopback addresses only.
#[derive(Debug, Parser)]
#[command(name = "dyno-bench", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Box<run::Args>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says from an access log how many dynos its load needs
    Advise(advise::Args),
    /// Runs several proxies on the same dynos and arrivals, and sets their figures side by side
    Compare(Box<compare::Args>),
    /// Runs dynos alone, for any other load generator, and says whether each had one request at a time
    Dyno(Box<dyno::Args>),
    /// Lists the proxies that can be compared, where they are, and how to get those that are missing
    Peers(peers::Args),
    /// Shows results that were written by --json again, as a page with plots, or compares them
    Report(report::Args),
    Simulate(Box<simulate::Args>),
    /// Runs the same load at several points: more dynos, more load, or until something gives way
    Sweep(Box<sweep::Args>),
    /// Dynos of a bench that has started this program
    #[command(hide = true)]
    DynosOfABench,
    /// Runs a command until standard input ends
    #[command(hide = true)]
    KeepADyno {
        command: String,
    },
}

impl Cli {
    /// Whether all went well.
    fn run(&self) -> Result<bool, Failed> {
        match &self.command {
            None => run::run(&self.run),
            Some(Command::Advise(args)) => advise::run(args),
            Some(Command::Compare(args)) => compare::run(args),
            Some(Command::Dyno(args)) => dyno::run(args),
            Some(Command::Peers(args)) => peers::run(args),
            Some(Command::Report(args)) => report::run(args),
            Some(Command::Simulate(args)) => simulate::run(args),
            Some(Command::Sweep(args)) => sweep::run(args),
            Some(Command::DynosOfABench) => Ok(router_bench::dyno::serve().map(|()| true)?),
            // Is none of those that succeed or fail: it ends as its command does.
            Some(Command::KeepADyno { .. }) => Ok(true),
        }
    }
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Some(Command::KeepADyno { command }) = &cli.command {
        return dyno::keep(command);
    }
    match unused::needs(&matches).and_then(|()| cli.run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failed::Use(why)) => Cli::command().error(ErrorKind::ValueValidation, why).exit(),
        Err(Failed::Run(why)) if is_broken_pipe(&why) && nobody_reads() => ExitCode::from(NOBODY_READS),
        Err(Failed::Run(why)) => {
            tell!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it is a pipe that somebody has closed, or comes of one.
fn is_broken_pipe(error: &io::Error) -> bool {
    let broken = |error: &(dyn Error + 'static)| {
        error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source()).any(broken)
}

/// Whether standard output is a pipe that its reader has closed, as `head` does. A broken pipe may be a proxy's too.
fn nobody_reads() -> bool {
    let stdout = io::stdout();
    let mut output = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut output, Some(&Timespec::default())).is_ok()
        && output[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
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
