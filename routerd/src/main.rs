//! `routerd`, the daemon: reads the command line, starts what it says, and turns its end into an exit code.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use routerd::cli::{Cli, Command, PlanArgs, RunArgs, UpArgs};
use routerd::config::diff::Diff;
use routerd::config::{Config, LogLevel, file};
use routerd::ctl::{self, CtlArgs};
use routerd::daemon::Daemon;
use routerd::token;
use routerd::up::{self, Stop};
use routerd::watch::Watched;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => load(&args.config).map_or_else(|code| code, |config| run(args, config)),
        Command::Check(args) => {
            load(&args.config).map_or_else(|code| code, |config| check(&args.config, &config))
        }
        Command::Plan(args) => plan(&args).unwrap_or_else(|code| code),
        Command::Up(args) => run_up(args),
        Command::Ctl(args) => ask(*args),
        Command::Token(args) => match token::run(&args) {
            Ok(text) => print(&text),
            Err(error) => fail(&format!("routerd: {error}\n")),
        },
        Command::Schema => schema(),
    }
}

/// `routerd run`: routes requests until it is told to stop.
fn run(args: RunArgs, config: Config) -> ExitCode {
    let set_level = messages(config.log.level);
    let threads = config.server.threads;
    let watched = args.watch.then(|| Watched::new(&args.config));
    in_runtime(threads, async move {
        let mut signals = Signals::new()?;
        let daemon = Daemon::start(&config).await.map_err(|error| error.to_string())?;
        for address in daemon.addresses() {
            tracing::info!("listening on http://{address}");
        }
        if let Some(address) = daemon.admin_address() {
            tracing::info!("admin on {address}");
        }
        daemon.reloads_from(&args.config, move |config| set_level(config.log.level));
        serve(&daemon, &mut signals, watched).await;
        let within = daemon.config().server.shutdown_timeout;
        tracing::info!("draining {} connections, for {within:?} at most", daemon.connections());
        tokio::select! {
            cut = daemon.stop(within) => match cut {
                0 => tracing::info!("drained"),
                cut => tracing::warn!("{cut} connections were cut after {within:?}"),
            },
            () = signals.end() => tracing::warn!("told to stop a second time: not waiting any longer"),
        }
        Ok(())
    })
}

/// Until the daemon is told to end: reloads when a signal or the file says so. What went wrong is in the log.
async fn serve(daemon: &Daemon, signals: &mut Signals, mut watched: Option<Watched>) {
    loop {
        let why = tokio::select! {
            told = signals.next() => match told {
                Told::End => return,
                Told::Reload => "SIGHUP",
            },
            () = changed(&mut watched) => "the file has changed",
        };
        let _ = daemon.reload_again(why).await;
    }
}

async fn changed(watched: &mut Option<Watched>) {
    match watched {
        Some(watched) => watched.changed().await,
        None => std::future::pending().await,
    }
}

/// `routerd plan`: what a reload would change.
fn plan(args: &PlanArgs) -> Result<ExitCode, ExitCode> {
    let (old, new) = (load(&args.against)?, load(&args.config)?);
    Ok(print(&Diff::between(&old, &new).to_string()))
}

/// `routerd up`: a grid of local dynos, and a router in front of them.
fn run_up(args: UpArgs) -> ExitCode {
    let _level_stays = messages(LogLevel::Warn);
    in_runtime(0, async move {
        let mut signals = Signals::new()?;
        let stop = Stop::new();
        let asked = stop.clone();
        let watcher = tokio::spawn(async move {
            loop {
                signals.end().await;
                asked.ask();
            }
        });
        let result =
            up::run(&args.procfile, args.formation.as_ref(), args.listen, args.admin.as_deref(), stop).await;
        watcher.abort();
        result
    })
}

/// `routerd ctl`: asks a running daemon.
fn ask(args: CtlArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("routerd: cannot start: {error}\n")),
    };
    match runtime.block_on(ctl::run(args)) {
        Ok(done) => {
            let printed = print(&done.out);
            done.failed.map_or(printed, |why| fail(&format!("routerd: {why}\n")))
        }
        Err(trouble) => fail(&format!("routerd: {trouble}\n")),
    }
}

fn check(path: &Path, config: &Config) -> ExitCode {
    print(&format!("{} is valid: {}\n", path.display(), config.summary()))
}

fn schema() -> ExitCode {
    print(&format!("{:#}\n", file::schema().to_value()))
}

/// The configuration, or what is wrong with it on standard error and the exit code.
fn load(path: &Path) -> Result<Config, ExitCode> {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Config::load(path).map_err(|error| fail(&error.render(colour)))
}

/// The daemon's own messages, on standard error. Gives the means to change the level.
fn messages(level: LogLevel) -> impl Fn(LogLevel) + Send + Sync + 'static {
    let filter = |level| match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (reloadable, handle) = reload::Layer::new(filter(level));
    let text = fmt::layer().with_writer(io::stderr).with_ansi(colour).with_target(false);
    tracing_subscriber::registry().with(reloadable).with(text).init();
    move |level| {
        // The subscriber lives as long as the process.
        let _ = handle.reload(filter(level));
    }
}

/// Runs to the end in a runtime with that many threads; 0: one for every two cores.
fn in_runtime(threads: usize, main: impl Future<Output = Result<(), String>>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let half = || thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    builder.worker_threads(if threads == 0 { half() } else { threads });
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("routerd: cannot start: {error}\n")),
    };
    let result = runtime.block_on(main);
    // What still runs was told to end and had its time.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("routerd: {error}\n")),
    }
}

/// What a signal tells.
#[derive(PartialEq, Eq)]
enum Told {
    End,
    Reload,
}

/// The signals that a daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }

    /// Waits for SIGTERM or SIGINT.
    async fn end(&mut self) {
        while self.next().await == Told::Reload {
            tracing::warn!("SIGHUP: there is no configuration to load anew");
        }
    }
}

/// Writes to standard output. That nobody reads on (`routerd schema | head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("routerd: cannot write to standard output: {error}\n")),
    }
}

/// Says why on standard error. If that is gone too, the exit code alone has to tell.
fn fail(why: &str) -> ExitCode {
    let _ = io::stderr().write_all(why.as_bytes());
    ExitCode::FAILURE
}
