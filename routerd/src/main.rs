//! `routerd`, the daemon: reads the command line, starts what it says, and turns its end into an exit code.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use routerd::cli::{Cli, Command, UpArgs};
use routerd::config::{Config, LogLevel, file};
use routerd::daemon::Daemon;
use routerd::up::{self, Stop};
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => load(&args.config).map_or_else(|code| code, run),
        Command::Check(args) => {
            load(&args.config).map_or_else(|code| code, |config| check(&args.config, &config))
        }
        Command::Up(args) => run_up(args),
        Command::Schema => schema(),
    }
}

/// `routerd run`: routes requests until it is told to stop.
fn run(config: Config) -> ExitCode {
    messages(config.log.level);
    let threads = config.server.threads;
    in_runtime(threads, async move {
        let mut signals = Signals::new()?;
        let daemon = Daemon::start(&config).await.map_err(|error| error.to_string())?;
        for address in daemon.addresses() {
            tracing::info!("listening on http://{address}");
        }
        if let Some(address) = daemon.admin_address() {
            tracing::info!("admin on {address}");
        }
        signals.end().await;
        let within = config.server.shutdown_timeout;
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

/// `routerd up`: a grid of local dynos, and a router in front of them.
fn run_up(args: UpArgs) -> ExitCode {
    messages(LogLevel::Warn);
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
        let result = up::run(&args.procfile, args.formation.as_ref(), args.listen, stop).await;
        watcher.abort();
        result
    })
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

/// The daemon's own messages, on standard error.
fn messages(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
}

/// Runs to the end in a runtime with that many threads; 0: one for each core.
fn in_runtime(threads: usize, main: impl Future<Output = Result<(), String>>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
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

/// The signals that end a daemon.
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

    /// Waits for SIGTERM or SIGINT. SIGHUP would end a daemon by default, and is kept for the reload to come.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP: this version cannot reload its configuration; restart it instead");
                }
            }
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
