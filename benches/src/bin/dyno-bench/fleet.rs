//! The arguments that say what dynos there are: how they behave, and where they live.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum;
use router_bench::dyno::{Accept, Behaviour, Commands, Pauses, Place, WarmUp};

use crate::Failed;
use crate::work::time;

/// How emulated dynos behave.
#[derive(Clone, Debug, clap::Args)]
// Several commands take these, each beside arguments of its own.
#[group(skip)]
pub(crate) struct BehaviourArgs {
    /// The first N requests of a dyno take longer, the first F times as long, then less and less: 20x3
    #[arg(long, value_name = "NxF", help_heading = "Behaviour of dynos")]
    warm_up: Option<WarmUp>,
    /// Pauses in which a dyno does nothing, within requests and between them, at random: 50ms/1s
    #[arg(long, value_name = "TIME/EVERY", help_heading = "Behaviour of dynos")]
    gc: Option<Pauses>,
    /// The share of requests that bring their dyno down, with half of an answer or none: 0.001
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, help_heading = "Behaviour of dynos")]
    crash: f64,
    /// Each dyno goes down by itself, on average this often
    #[arg(long, value_name = "TIME", value_parser = some_time, help_heading = "Behaviour of dynos")]
    crash_every: Option<Duration>,
    /// How long a dyno boots with its port closed: at first, and after each crash
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time, help_heading = "Behaviour of dynos")]
    boot: Duration,
    /// Dynos end their connection with each answer
    #[arg(long, help_heading = "Behaviour of dynos")]
    dyno_close: bool,
    /// What a dyno reads: "all" sees every overlap at once; "one" accepts and reads only while idle, as a
    /// single-threaded server, with a kernel's queue of 1024 connections, or "one:BACKLOG"
    #[arg(long, value_name = "WHICH", default_value = "all", help_heading = "Behaviour of dynos")]
    dyno_accept: Accept,
    /// Length of a dyno's answer
    #[arg(
        long, value_name = "BYTES", default_value_t = 12,
        value_parser = clap::value_parser!(u32).range(0..=16_777_216), help_heading = "Behaviour of dynos"
    )]
    answer_bytes: u32,
    /// The answer comes in so many pieces, evenly over the service time
    #[arg(
        long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Behaviour of dynos"
    )]
    answer_pieces: u32,
    /// Stay awake for this long before the end of each service time, which takes a processor and saves the 50 us that
    /// the kernel is late [default: 0s; with 4 cores or more and dynos of their own thread or process 100us]
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Behaviour of dynos")]
    dyno_spin: Option<Duration>,
}

impl BehaviourArgs {
    /// What was asked for. Dynos that do not share their thread may spin where there are cores to spare.
    pub(crate) fn behaviour(&self, shared: bool) -> Behaviour {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if shared || cores < 4 { Duration::ZERO } else { Duration::from_micros(100) };
        Behaviour {
            warm_up: self.warm_up,
            pauses: self.gc,
            crash: self.crash,
            crash_every: self.crash_every,
            boot: self.boot,
            close: self.dyno_close,
            accept: self.dyno_accept,
            answer_bytes: self.answer_bytes as usize,
            pieces: self.answer_pieces,
            spin: self.dyno_spin.unwrap_or(spin),
            ..Behaviour::default()
        }
    }
}

/// Real servers as dynos.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct CommandArgs {
    /// Real dynos: a command for sh, started once for each dyno with a free port of its own in $PORT, behind a tap that
    /// watches it: 'gunicorn -w 1 -b 127.0.0.1:$PORT app:app'; requests take what they take there
    #[arg(
        long, value_name = "COMMAND", help_heading = "Real dynos",
        conflicts_with_all = [
            "warm_up", "gc", "crash", "crash_every", "boot", "dyno_close", "dyno_accept", "answer_bytes",
            "answer_pieces", "dyno_spin", "scale",
        ]
    )]
    dyno: Option<String>,
    /// How long the commands may take until they accept connections
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time, help_heading = "Real dynos")]
    dyno_patience: Duration,
}

impl CommandArgs {
    /// The commands, if there are any; starting them is given up when `interrupt` is set.
    pub(crate) fn commands(&self, interrupt: &Arc<AtomicBool>) -> io::Result<Option<Commands>> {
        let Some(command) = &self.dyno else { return Ok(None) };
        Ok(Some(Commands {
            program: std::env::current_exe()?,
            command: command.clone(),
            patience: self.dyno_patience,
            interrupt: Arc::clone(interrupt),
        }))
    }
}

/// Where dynos live.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct PlaceArgs {
    /// Where the dynos live
    #[arg(long, value_enum, default_value_t = In::Same, conflicts_with = "dyno", help_heading = "Dynos")]
    dynos_in: In,
    /// In how many processes, with --dynos-in process [default: one for each dyno]
    #[arg(
        long, value_name = "N", conflicts_with = "dyno",
        value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Dynos"
    )]
    dyno_processes: Option<u16>,
    #[command(flatten)]
    commands: CommandArgs,
}

/// Where dynos live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum In {
    /// In the generator's thread, of several the first: best with one or two cores.
    Same,
    /// In a thread of their own.
    Thread,
    /// In processes of their own.
    Process,
}

impl PlaceArgs {
    /// Whether they are real servers.
    pub(crate) fn real(&self) -> bool {
        self.commands.dyno.is_some()
    }

    /// Where so many dynos shall live; starting them is given up when `interrupt` is set.
    pub(crate) fn place(&self, dynos: u16, interrupt: &Arc<AtomicBool>) -> Result<Place, Failed> {
        if let Some(commands) = self.commands.commands(interrupt)? {
            return Ok(Place::Commands(commands));
        }
        if self.dyno_processes.is_some() && self.dynos_in != In::Process {
            return Err(Failed::Use("--dyno-processes needs --dynos-in process".to_owned()));
        }
        match self.dynos_in {
            In::Same => Ok(Place::Here),
            In::Thread => Ok(Place::Thread),
            In::Process if self.dyno_processes.is_none() && dynos > 1000 => Err(Failed::Use(format!(
                "a process for each of {dynos} dynos is too much: --dyno-processes 8"
            ))),
            In::Process => Ok(Place::Processes {
                program: std::env::current_exe()?,
                count: self.dyno_processes.unwrap_or(dynos),
            }),
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 1".to_owned()),
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    time(text).and_then(|time| if time.is_zero() { Err("more than 0".to_owned()) } else { Ok(time) })
}
