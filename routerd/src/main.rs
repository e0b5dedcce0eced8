//! `routerd`, the daemon: reads the command line, starts what it says, and turns its end into an exit code.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use clap::Parser;
use routerd::cli::{Cli, Command, PlanArgs, RunArgs, UpArgs};
use routerd::config::diff::Diff;
use routerd::config::{Config, Handover, LogLevel, Role, Scope, file};
use routerd::control::{Actor, Order};
use routerd::ctl::{self, CtlArgs};
use routerd::daemon::Daemon;
use routerd::descriptors;
use routerd::handover::default_socket;
use routerd::inherit::Inherited;
use routerd::messages::Messages;
use routerd::privileges;
use routerd::systemd;
use routerd::up::{self, Stop};
use routerd::upgrade::Program;
use routerd::watch::Watched;
use routerd::{password, token};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

/// Takes less than half of the C library's instructions for what a request allocates (callgrind: 3,900 of 9,400).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a daemon has to say, as soon as it has begun to.
static MESSAGES: OnceLock<Messages> = OnceLock::new();
/// How long the end waits for the last of it to be written.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

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
        Command::Password(args) => match password::run(&args) {
            Ok(text) => print(&text),
            Err(error) => fail(&format!("routerd: {error}\n")),
        },
        Command::Schema => schema(),
    }
}

/// `routerd run`: routes requests until it is told to stop.
fn run(args: RunArgs, config: Config) -> ExitCode {
    let set_level = messages(config.log.level);
    descriptors::raise();
    descriptors::warn(&config);
    let threads = config.server.threads;
    let watched = args.watch.then(|| Watched::new(&args.config));
    // Before there are other threads, and before anything is written.
    let sockets = match privileges::drop_to_user(&config, Inherited::from_env(), args.takeover) {
        Ok(sockets) => sockets,
        Err(error) => return fail(&format!("routerd: {error}\n")),
    };
    MESSAGES.get().map(Messages::begin);
    in_runtime(threads, async move {
        let mut signals = Signals::new()?;
        let daemon = start(&args, &config, sockets).await?;
        let secure = daemon.secure_addresses();
        for address in daemon.addresses() {
            let scheme = if secure.contains(&address) { "https" } else { "http" };
            tracing::info!("listening on {scheme}://{address}");
        }
        if let Some(address) = daemon.admin_address() {
            tracing::info!("admin on {address}");
        }
        daemon.reloads_from(&args.config, move |config| set_level(config.log.level));
        systemd::ready();
        serve(&daemon, &mut signals, watched).await;
        if !daemon.stage().borrow().is_handed_over() {
            systemd::stopping();
        }
        let within = daemon.config().server.shutdown_timeout;
        tracing::info!("draining {} connections, for {within:?} at most", daemon.connections());
        drain(daemon, &mut signals, within).await;
        Ok(())
    })
}

/// Lets what runs finish. A second signal cuts it, and a third one does not wait for the last lines of the log either.
async fn drain(daemon: Daemon, signals: &mut Signals, within: Duration) {
    let hurry = Notify::new();
    let mut stop = pin!(daemon.stop_unless(within, hurry.notified()));
    let mut after = format!(" after {within:?}");
    loop {
        tokio::select! {
            biased;
            cut = &mut stop => return match cut {
                0 => tracing::info!("drained"),
                cut => tracing::warn!("{cut} connections were cut{after}"),
            },
            () = signals.end() => {}
        }
        if after.is_empty() {
            return tracing::warn!("told to stop a third time: not waiting for anything");
        }
        tracing::warn!("told to stop a second time: not waiting any longer");
        after.clear();
        hurry.notify_one();
    }
}

/// Starts the daemon, in place of the one that runs if that is asked for, and lets another one take its place.
async fn start(args: &RunArgs, config: &Config, sockets: Inherited) -> Result<Daemon, String> {
    let socket = match &config.server.handover {
        Handover::Auto => default_socket(&args.config),
        Handover::Off => None,
        Handover::At(path) => Some(path.clone()),
    };
    let named = matches!(config.server.handover, Handover::At(_));
    let daemon = match (&socket, args.takeover) {
        (Some(path), true) => Daemon::take_over(config, path, sockets).await,
        (None, true) => {
            return Err("there is no hand-over socket: see server.handover".to_owned());
        }
        (_, false) => Daemon::start_on(config, sockets).await,
    };
    let daemon = daemon.map_err(|error| error.to_string())?;
    daemon.set_program(Program::this(&args.config));
    match &socket {
        Some(path) => match daemon.offer(path).await {
            Ok(()) => tracing::info!("hands over at unix:{}", path.display()),
            Err(error) if named => return Err(error.to_string()),
            Err(error) => tracing::warn!("no other process can take over from this one: {error}"),
        },
        None => tracing::info!("no other process can take over from this one: there is no hand-over socket"),
    }
    Ok(daemon)
}

/// Starts this program anew, in the background, and says what came of it.
fn upgrade(daemon: &Daemon) {
    tracing::info!("SIGUSR2: starting this program anew, to take over");
    let actor = Actor { name: "SIGUSR2".to_owned(), from: None, role: Role::Admin, apps: Scope::All };
    let upgrade = daemon.control().order(actor, Order::Upgrade);
    tokio::spawn(async move {
        // That it has taken over is said by whoever waits for that.
        if let Err(refusal) = upgrade.await {
            tracing::error!("{refusal}; this process goes on");
        }
    });
}

/// Until the daemon is told to end, or another process has taken over: reloads when a signal or the file says so. What
/// went wrong is in the log.
async fn serve(daemon: &Daemon, signals: &mut Signals, mut watched: Option<Watched>) {
    loop {
        let why = tokio::select! {
            told = signals.next() => match told {
                Told::End => return,
                Told::Reload => "SIGHUP",
                Told::Upgrade => {
                    upgrade(daemon);
                    continue;
                }
            },
            pid = daemon.handed_over() => {
                let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                tracing::info!("{who} has taken over");
                pid.into_iter().for_each(systemd::main_pid);
                return;
            }
            () = changed(&mut watched) => "the file has changed",
        };
        if !reload(daemon, signals, why).await {
            return;
        }
    }
}

/// Reloads until nobody asks for it any more. `false`: it was told to end meanwhile.
async fn reload(daemon: &Daemon, signals: &mut Signals, why: &str) -> bool {
    let mut why = Some(why);
    while let Some(reason) = why.take() {
        systemd::reloading();
        let mut reload = pin!(daemon.reload_again(reason));
        loop {
            tokio::select! {
                biased;
                _ = &mut reload => break,
                // It may wait for a process that takes its time to take over.
                told = signals.next() => match told {
                    Told::End => return false,
                    Told::Reload => why = Some("SIGHUP"),
                    Told::Upgrade => upgrade(daemon),
                },
            }
        }
        systemd::ready();
    }
    true
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
    MESSAGES.get().map(Messages::begin);
    let stays = outlives_its_terminal();
    in_runtime(0, async move {
        let mut signals = Signals::new()?;
        let stop = Stop::new();
        let asked = stop.clone();
        let watcher = tokio::spawn(async move {
            let mut ends = false;
            loop {
                match signals.next().await {
                    Told::End => asked.ask(),
                    Told::Reload if stays => {
                        tracing::warn!("SIGHUP: ignored, as it was when this process was started");
                        continue;
                    }
                    // The terminal is closed. It may be said twice, by the kernel and by the shell.
                    Told::Reload if ends => continue,
                    Told::Reload => asked.ask(),
                    Told::Upgrade => {
                        tracing::warn!("SIGUSR2: nothing can take over from `routerd up`");
                        continue;
                    }
                }
                ends = true;
            }
        });
        let result =
            up::run(&args.procfile, args.formation.as_ref(), args.listen, args.admin.as_deref(), stop).await;
        watcher.abort();
        result
    })
}

/// Whether SIGHUP was ignored when this process was started, as `nohup` has it.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The last bit is the first signal.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
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
    let messages = MESSAGES.get_or_init(Messages::default);
    let text = fmt::layer().with_writer(|| messages.clone()).with_ansi(colour).with_target(false);
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
        Ok(()) => {
            MESSAGES.get().map(|messages| messages.flush(LAST_MESSAGES));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("routerd: {error}\n")),
    }
}

/// What a signal tells.
#[derive(PartialEq, Eq)]
enum Told {
    End,
    Reload,
    Upgrade,
}

/// The signals that a daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Reload,
            _ = self.user.recv() => Told::Upgrade,
        }
    }

    /// Waits for SIGTERM or SIGINT once more.
    async fn end(&mut self) {
        loop {
            match self.next().await {
                Told::End => return,
                Told::Reload => tracing::warn!("SIGHUP: this process is ending"),
                Told::Upgrade => tracing::warn!("SIGUSR2: this process is ending"),
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
    if let Some(messages) = MESSAGES.get() {
        messages.say(why.as_bytes());
        messages.flush(LAST_MESSAGES);
    } else {
        let _ = io::stderr().write_all(why.as_bytes());
    }
    ExitCode::FAILURE
}
