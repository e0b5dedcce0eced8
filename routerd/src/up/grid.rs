//! Watches over all processes of a grid: starts them, tells the router of them, starts them again, ends them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, future};

use router_core::change::{Change, DynoHealth, DynoSpec};
use router_core::ids::{AppId, DynoName};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Stop;
use super::formation::{Formation, FormationError, ProcessName, WEB};
use super::output::{Output, Source};
use super::port;
use super::process::{Ending, Pipes, Process};
use super::procfile::Procfile;

/// How long what a crashed process left running gets to end, at most.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);
/// How long the last lines of an ended process are waited for: somebody outside its group may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A boot longer than this is talked about ...
const LONG_BOOT: Duration = Duration::from_secs(3);
/// ... and then again this often.
const TALK_EVERY: Duration = Duration::from_secs(10);
/// The most processes that one such line names.
const MOST_NAMES: usize = 6;

/// Who is told what the dynos do. It is called from many tasks, for one dyno in order, and must not block.
pub type Sink = Arc<dyn Fn(Vec<Change>) + Send + Sync>;

/// What a grid may be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The app whose dynos the processes of `web` are.
    pub app: AppId,
    /// Where commands run: the directory of the Procfile.
    pub directory: PathBuf,
    /// Where lines go.
    pub output: Output,
    /// How long a boot may take before the process counts as crashed. 10 minutes: it may build what it runs.
    pub boot_timeout: Duration,
    /// How long processes get from SIGTERM to SIGKILL. 30 s.
    pub kill_after: Duration,
    /// The first pause before a process is started again; it doubles from crash to crash. 1 s.
    pub restart_after: Duration,
    /// The longest pause. 30 s.
    pub restart_after_max: Duration,
    /// How long a process has to run well for its next pause to be the first again. 30 s.
    pub settled_after: Duration,
}

impl Options {
    /// The usual times, for dynos of this app, run in this directory.
    pub fn new(app: AppId, directory: impl Into<PathBuf>, output: Output) -> Self {
        Self {
            app,
            directory: directory.into(),
            output,
            boot_timeout: Duration::from_secs(600),
            kill_after: Duration::from_secs(30),
            restart_after: Duration::from_secs(1),
            restart_after_max: Duration::from_secs(30),
            settled_after: Duration::from_secs(30),
        }
    }
}

/// The processes of a formation; nothing runs before [`run`](Self::run).
pub struct Grid {
    planned: Vec<(ProcessName, String)>,
    shared: Arc<Shared>,
}

/// What all processes of a grid share.
struct Shared {
    options: Options,
    sink: Sink,
    stop: Stop,
    /// Whether the first dyno has been ready, so that the others may start.
    first_ready: watch::Sender<bool>,
    /// Who is booting, since when and at which port.
    booting: watch::Sender<BTreeMap<ProcessName, (Instant, u16)>>,
}

impl Grid {
    /// Plans the processes. The sink gets their changes while the grid runs; `stop` ends it.
    ///
    /// # Errors
    /// The formation does not fit the Procfile.
    pub fn new(
        procfile: &Procfile,
        formation: &Formation,
        options: Options,
        sink: Sink,
        stop: Stop,
    ) -> Result<Self, FormationError> {
        let command = |name: &ProcessName| procfile.command(&name.entry).unwrap_or_default().to_owned();
        let processes = formation.processes(procfile)?;
        let planned: Vec<_> = processes.into_iter().map(|name| (name.clone(), command(&name))).collect();
        for (name, _) in &planned {
            options.output.make_room_for(&name.to_string());
        }
        let (first_ready, booting) = (watch::Sender::new(false), watch::Sender::new(BTreeMap::new()));
        Ok(Self { planned, shared: Arc::new(Shared { options, sink, stop, first_ready, booting }) })
    }

    /// The processes that will run.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessName> {
        self.planned.iter().map(|(name, _)| name)
    }

    /// How many of them are dynos: processes of `web`.
    pub fn dynos(&self) -> usize {
        self.processes().filter(|name| name.entry == WEB).count()
    }

    /// Runs until the grid was asked to stop and all processes have ended, or until no process is left to run.
    ///
    /// # Cancel safety
    /// If the future is dropped, every process that it started is killed.
    pub async fn run(self) {
        let shared = self.shared;
        let mut running = JoinSet::new();
        for (number, (name, command)) in self.planned.into_iter().enumerate() {
            let source = shared.options.output.source(&name.to_string(), number);
            let watched =
                Watched { name, command, source, port: None, ready_at: None, shared: Arc::clone(&shared) };
            running.spawn(watched.run());
        }
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut talked = None;
        loop {
            tokio::select! {
                ended = running.join_next() => if ended.is_none() { break },
                now = seconds.tick() => shared.talk_of_long_boots(now, &mut talked).await,
            }
        }
        shared.options.output.flush().await;
    }
}

impl fmt::Debug for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grid").field("planned", &self.planned).finish_non_exhaustive()
    }
}

impl Shared {
    /// Says who is booting for long, so that nobody wonders; one line for all, and not too often.
    async fn talk_of_long_boots(&self, now: Instant, talked: &mut Option<Instant>) {
        if talked.is_some_and(|last| now.duration_since(last) < TALK_EVERY) {
            return;
        }
        let mut slow: Vec<(ProcessName, Duration, u16)> = Vec::new();
        for (name, (since, port)) in self.booting.borrow().iter() {
            let took = now.saturating_duration_since(*since);
            if took >= LONG_BOOT {
                slow.push((name.clone(), took, *port));
            }
        }
        let Some(longest) = slow.iter().map(|(_, took, _)| took.as_secs()).max() else { return };
        let words = match slow.as_slice() {
            [(name, _, port)] => {
                format!("{name} is booting ... ({longest} s; ready when {} accepts)", port::address(*port))
            }
            many => {
                let mut names: Vec<_> =
                    many.iter().take(MOST_NAMES).map(|(name, ..)| name.to_string()).collect();
                if many.len() > MOST_NAMES {
                    names.push(format!("{} more", many.len() - MOST_NAMES));
                }
                format!("{} are booting ... ({longest} s)", names.join(", "))
            }
        };
        *talked = Some(now);
        self.options.output.say(&words).await;
    }
}

/// One process of the grid and its turns.
struct Watched {
    name: ProcessName,
    command: String,
    source: Source,
    /// The port of its last turn; the sink knows a dyno under it.
    port: Option<u16>,
    /// When it was seen to work in this turn.
    ready_at: Option<Instant>,
    shared: Arc<Shared>,
}

/// How a turn of a process ended.
enum Turn {
    /// The grid is ending.
    Stopped,
    /// By itself.
    Ended(Ending),
}

impl Watched {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        if self.is_dyno() && self.name.number > 1 {
            let mut first_ready = shared.first_ready.subscribe();
            tokio::select! {
                biased;
                () = shared.stop.asked() => return,
                _ = first_ready.wait_for(|ready| *ready) => {}
            }
        }
        let options = &shared.options;
        let mut pause = options.restart_after;
        loop {
            let ending = match self.turn().await {
                Turn::Stopped => return,
                Turn::Ended(ending) => ending,
            };
            if ending.well && !self.is_dyno() {
                return self.say(&format!("{} and is not started again", ending.how)).await;
            }
            if self.ready_at.is_some_and(|ready| ready.elapsed() >= options.settled_after) {
                pause = options.restart_after;
            }
            self.say(&format!("{}; it is started again in {:?}", ending.how, pause)).await;
            tokio::select! {
                biased;
                () = shared.stop.asked() => return self.forget(),
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(options.restart_after_max);
        }
    }

    /// Starts the process and stays with it until it has ended, with its whole group.
    async fn turn(&mut self) -> Turn {
        let shared = Arc::clone(&self.shared);
        self.ready_at = None;
        let started = port::free(self.port).and_then(|port| {
            self.booting(port);
            Process::start(&self.command, &shared.options.directory, &self.name.to_string(), port)
                .map(|(process, pipes)| (process, pipes, port))
        });
        let (mut process, pipes, port) = match started {
            Ok(started) => started,
            Err(error) => {
                self.crashed();
                return Turn::Ended(Ending { well: false, how: format!("could not be started: {error}") });
            }
        };
        let words = self.listen(pipes);
        let ending = tokio::select! {
            biased;
            () = shared.stop.asked() => None,
            ending = process.wait() => Some(ending),
            ending = self.boot(port) => Some(ending),
        };
        let grace = if ending.is_none() {
            self.forget();
            shared.options.kill_after
        } else {
            self.crashed();
            shared.options.kill_after.min(LEFTOVER_GRACE)
        };
        self.end(&mut process, words, grace).await;
        ending.map_or(Turn::Stopped, Turn::Ended)
    }

    /// Prints what the process says.
    fn listen(&self, pipes: Pipes) -> JoinSet<()> {
        let mut words = JoinSet::new();
        if let Some(out) = pipes.out {
            words.spawn(self.source.clone().copy(out));
        }
        if let Some(err) = pipes.err {
            words.spawn(self.source.clone().copy(err));
        }
        words
    }

    /// Waits until a dyno is ready and then for ever; returns only if it takes too long.
    async fn boot(&mut self, port: u16) -> Ending {
        if self.is_dyno() {
            let limit = self.shared.options.boot_timeout;
            let begun = Instant::now();
            if timeout(limit, port::accepts(port)).await.is_err() {
                let how = format!("did not accept a connection on port {port} within {limit:?}");
                return Ending { well: false, how };
            }
            self.ready(port);
            let took = begun.elapsed().as_secs_f64();
            self.say(&format!("is ready on {} after {took:.1} s", port::address(port))).await;
        }
        self.ready_at.get_or_insert_with(Instant::now);
        future::pending().await
    }

    /// Ends whatever of the process is left, and hears its last words.
    async fn end(&self, process: &mut Process, mut words: JoinSet<()>, grace: Duration) {
        let stop = &self.shared.stop;
        if !process.end(grace, stop.asked_twice()).await {
            self.say("has left something running that does not even end when it is killed").await;
        }
        let heard = timeout(LAST_WORDS, async { while words.join_next().await.is_some() {} });
        // Who does not end within that is cut off when `words` is dropped.
        let _ = heard.await;
    }

    fn is_dyno(&self) -> bool {
        self.name.entry == WEB
    }

    async fn say(&self, words: &str) {
        self.shared.options.output.say(&format!("{} {words}", self.name)).await;
    }

    // What the sink is told. For a process that is no dyno: nothing.

    fn booting(&mut self, port: u16) {
        let had = self.port.replace(port);
        if !self.is_dyno() {
            return;
        }
        self.boots(Some(port));
        let (app, address) = (self.shared.options.app.clone(), port::address(port));
        if had == Some(port) {
            return self.tell(vec![Change::SetDyno(app, address, DynoHealth::Booting)]);
        }
        let mut changes = Vec::new();
        if let Some(had) = had {
            changes.push(Change::RemoveDyno(app.clone(), port::address(had)));
        }
        let name = DynoName::new(self.name.to_string());
        changes.push(Change::AddDyno(
            app,
            DynoSpec { name, state: DynoHealth::Booting, ..DynoSpec::new(address) },
        ));
        self.tell(changes);
    }

    fn ready(&mut self, port: u16) {
        self.ready_at = Some(Instant::now());
        self.boots(None);
        self.tell(vec![Change::SetDyno(
            self.shared.options.app.clone(),
            port::address(port),
            DynoHealth::Ready,
        )]);
        self.shared.first_ready.send_replace(true);
    }

    fn crashed(&self) {
        self.leave(|app, address| Change::SetDyno(app, address, DynoHealth::Crashed));
    }

    fn forget(&self) {
        self.leave(Change::RemoveDyno);
    }

    fn leave(&self, change: impl FnOnce(AppId, std::net::SocketAddr) -> Change) {
        if let Some(port) = self.port.filter(|_| self.is_dyno()) {
            self.boots(None);
            self.tell(vec![change(self.shared.options.app.clone(), port::address(port))]);
        }
    }

    /// Notes that it boots at that port, or that it does not boot any more.
    fn boots(&self, port: Option<u16>) {
        self.shared.booting.send_modify(|all| {
            match port {
                Some(port) => all.insert(self.name.clone(), (Instant::now(), port)),
                None => all.remove(&self.name),
            };
        });
    }

    fn tell(&self, changes: Vec<Change>) {
        (self.shared.sink)(changes);
    }
}
