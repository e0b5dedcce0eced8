//! Watches over all processes of a grid: starts them, tells the router of them, starts them again, ends them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use router_core::change::{Change, DynoSpec};
use router_core::ids::{AppId, DynoName};
use router_core::sync::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Stop;
use super::crew::Crew;
use super::formation::{Formation, FormationError, ProcessName, WEB};
use super::output::Output;
use super::port;
use super::procfile::Procfile;
use super::watched::Watched;
use crate::deploys::grown::{Grown, Verdict};
use crate::deploys::run::Prober;

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
    planned: Planned,
    crew: Arc<Crew>,
    shared: Arc<Shared>,
    grow: (mpsc::Sender<Grow>, mpsc::Receiver<Grow>),
}

/// Processes and their commands.
pub(crate) type Planned = Vec<(ProcessName, String)>;

/// Starts another crew beside the present one.
pub(crate) struct Grow {
    pub(crate) planned: Planned,
    pub(crate) reply: oneshot::Sender<io::Result<Grown>>,
}

/// What all processes of a grid share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    sink: Sink,
    pub(crate) stop: Stop,
    /// The crew that serves, if no deploy is about to replace it.
    present: Mutex<Arc<Crew>>,
    /// Who is booting, since when and at which port.
    pub(crate) booting: watch::Sender<BTreeMap<ProcessName, (Instant, u16)>>,
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
        let planned = plan(procfile, formation)?;
        for (name, _) in &planned {
            options.output.make_room_for(&name.to_string());
        }
        let crew = Arc::new(Crew::serving(&options.app, Arc::clone(&sink)));
        let present = Mutex::new(Arc::clone(&crew));
        let shared = Shared { options, sink, stop, present, booting: watch::Sender::new(BTreeMap::new()) };
        Ok(Self { planned, crew, shared: Arc::new(shared), grow: mpsc::channel(1) })
    }

    /// The processes that will run.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessName> {
        self.planned.iter().map(|(name, _)| name)
    }

    /// Where it is told to start another crew while it runs.
    pub(crate) fn growth(&self) -> mpsc::Sender<Grow> {
        self.grow.0.clone()
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
        let Self { planned, crew, shared, grow: (_keeps_open, mut grow) } = self;
        let mut running = JoinSet::new();
        start(planned, Vec::new(), &crew, &shared, &mut running);
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut talked = None;
        loop {
            tokio::select! {
                ended = running.join_next() => if ended.is_none() { break },
                Some(Grow { planned, reply }) = grow.recv() => {
                    let grown = shared.grow(planned, &mut running);
                    // Whoever asked may have left; then its deploy has not begun, and the crew ends.
                    if let Err(Ok(grown)) = reply.send(grown) {
                        (grown.verdict)(false).await;
                    }
                }
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

/// The processes of a formation and their commands.
pub(crate) fn plan(procfile: &Procfile, formation: &Formation) -> Result<Planned, FormationError> {
    let command = |name: &ProcessName| procfile.command(&name.entry).unwrap_or_default().to_owned();
    let processes = formation.processes(procfile)?;
    Ok(processes.into_iter().map(|name| (name.clone(), command(&name))).collect())
}

/// Starts the processes of a crew, dynos on the ports that are given for them.
fn start(
    planned: Planned,
    mut ports: Vec<u16>,
    crew: &Arc<Crew>,
    shared: &Arc<Shared>,
    running: &mut JoinSet<()>,
) {
    ports.reverse();
    for (number, (name, command)) in planned.into_iter().enumerate() {
        let source = shared.options.output.source(&name.to_string(), number);
        let port = if name.entry == WEB { ports.pop() } else { None };
        let (crew, shared) = (Arc::clone(crew), Arc::clone(shared));
        let watched = Watched { name, command, source, port, told: false, ready_at: None, crew, shared };
        running.spawn(watched.run());
    }
}

impl Shared {
    /// Starts a crew for a deploy, beside the one that serves.
    fn grow(self: &Arc<Self>, planned: Planned, running: &mut JoinSet<()>) -> io::Result<Grown> {
        let names: Vec<_> = planned.iter().map(|(name, _)| name).filter(|name| name.entry == WEB).collect();
        let ports = names.iter().map(|_| port::free(None)).collect::<io::Result<Vec<_>>>()?;
        let dyno = |(name, port): (&&ProcessName, &u16)| DynoSpec {
            name: DynoName::new(name.to_string()),
            ..DynoSpec::new(port::address(*port))
        };
        let dynos = names.iter().zip(&ports).map(dyno).collect();
        let (crashed, crashes) = mpsc::unbounded_channel();
        let crew = Arc::new(Crew::on_trial(&self.options.app, Arc::clone(&self.sink), crashed));
        start(planned, ports, &crew, self, running);
        let asked = Arc::clone(&crew);
        let prober: Prober = Arc::new(move |dyno: DynoSpec| {
            let answer = asked.is_ready(dyno.address);
            Box::pin(async move { answer })
        });
        let shared = Arc::clone(self);
        let verdict: Verdict = Box::new(move |stays| {
            if stays {
                crew.serve();
                std::mem::replace(&mut *shared.present.lock(), crew).retire();
            } else {
                crew.retire();
            }
            Box::pin(async {})
        });
        Ok(Grown { dynos, prober, crashes, verdict })
    }

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
