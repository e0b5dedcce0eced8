//! One process of a grid: its start, what it says, how it ends, and its next start.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use router_core::change::{Change, DynoHealth, DynoSpec};
use router_core::ids::{AppId, DynoName};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Stop;
use super::crew::Crew;
use super::formation::{ProcessName, WEB};
use super::grid::Shared;
use super::output::Source;
use super::port;
use super::process::{Ending, Pipes, Process};

/// How long what a crashed process left running gets to end, at most.
const LEFTOVER_GRACE: Duration = Duration::from_secs(5);
/// How long the last lines of an ended process are waited for: somebody outside its group may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One process of the grid and its turns.
pub(crate) struct Watched {
    pub(crate) name: ProcessName,
    pub(crate) command: String,
    pub(crate) source: Source,
    /// The port of its last turn, or the one that it is to have.
    pub(crate) port: Option<u16>,
    /// The crew knows a dyno under that port.
    pub(crate) told: bool,
    /// When it was seen to work in this turn.
    pub(crate) ready_at: Option<Instant>,
    pub(crate) crew: Arc<Crew>,
    pub(crate) shared: Arc<Shared>,
}

async fn asked(stop: &Stop, crew: &Crew) {
    tokio::select! {
        biased;
        () = stop.asked() => {}
        () = crew.retired() => {}
    }
}

/// How a turn of a process ended.
enum Turn {
    /// The grid is ending.
    Stopped,
    /// By itself.
    Ended(Ending),
}

impl Watched {
    pub(crate) async fn run(mut self) {
        let (shared, crew) = (Arc::clone(&self.shared), Arc::clone(&self.crew));
        tokio::select! {
            biased;
            () = self.asked() => return,
            () = self.may_start() => {}
        }
        let options = &shared.options;
        let mut pause = options.restart_after;
        loop {
            let ending = match self.turn().await {
                Turn::Stopped => return,
                Turn::Ended(ending) => ending,
            };
            if self.on_trial(&ending.how) {
                self.say(&format!("{}; its deploy goes on without it", ending.how)).await;
                if !crew.trial_over().await {
                    return;
                }
                // Under its port it has failed for good.
                self.told = false;
            }
            if ending.well && !self.is_dyno() {
                return self.say(&format!("{} and is not started again", ending.how)).await;
            }
            if self.ready_at.is_some_and(|ready| ready.elapsed() >= options.settled_after) {
                pause = options.restart_after;
            }
            self.say(&format!("{}; it is started again in {:?}", ending.how, pause)).await;
            tokio::select! {
                biased;
                () = self.asked() => return self.forget(),
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(options.restart_after_max);
        }
    }

    /// Starts the process and stays with it until it has ended, with its whole group.
    async fn turn(&mut self) -> Turn {
        let (shared, crew) = (Arc::clone(&self.shared), Arc::clone(&self.crew));
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
            () = asked(&shared.stop, &crew) => None,
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

    /// Until this process may start: `web.1` boots alone, and what is no dyno has no part in a trial.
    async fn may_start(&self) {
        if !self.is_dyno() {
            self.crew.trial_over().await;
        } else if self.name.number > 1 {
            self.crew.after_first().await;
        }
    }

    /// Until it is to end, with its crew or with the whole grid.
    async fn asked(&self) {
        asked(&self.shared.stop, &self.crew).await;
    }

    /// Tells of its end. `true`: a deploy decides what becomes of it.
    fn on_trial(&self, how: &str) -> bool {
        self.port.is_some_and(|port| self.is_dyno() && self.crew.crashed(port::address(port), how))
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
        let told = std::mem::replace(&mut self.told, true);
        let had = had.filter(|_| told);
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
        self.crew.first_is_ready();
    }

    fn crashed(&self) {
        self.leave(|app, address| Change::SetDyno(app, address, DynoHealth::Crashed));
    }

    fn forget(&self) {
        self.leave(Change::RemoveDyno);
    }

    fn leave(&self, change: impl FnOnce(AppId, std::net::SocketAddr) -> Change) {
        if let Some(port) = self.port.filter(|_| self.is_dyno() && self.told) {
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
        self.crew.tell(changes);
    }
}
