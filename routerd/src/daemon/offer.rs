//! The old side of a hand-over: lets another process have the listening sockets, then the dynos one by one.
//!
//! Until the other one serves, this one can go on as if nothing had been. From then on it takes no new connection, and
//! a dyno is the other's as soon as no request waits for it here: who is in line here came first.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use router_core::Router;
use router_core::ids::{Address, AppId};
use tokio::net::UnixStream;
use tokio::sync::{MutexGuard, watch};
use tokio::time::{sleep, timeout};

use super::live::Live;
use super::{Daemon, Inner};
use crate::accept::Connections;
use crate::admin::{Accepted, AdminAddress, AdminError, AdminListener};
use crate::drain::{Phase, reached};
use crate::handover::wire::{STEP, Wire};
use crate::handover::{Described, HandoverError, Message, Stage, VERSION};
use crate::inherit::Place;
use crate::upgrade::{Program, UpgradeError, start_new};

/// Only this user and root may connect.
const MODE: u32 = 0o600;
/// How long the new one may take to start.
const START: Duration = Duration::from_secs(60);
/// How often it is looked for dynos that have become free.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How long dynos are left alone whose router has died: what they still work on, nobody knows.
pub(super) const ORPHANED: Duration = Duration::from_secs(1);
/// The pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What a process must have let go of before another one can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holdings {
    /// Another process is about to serve: let go of locks on files.
    LetGo,
    /// It did not come to that: take them again.
    TakeBack,
}

/// Is told when to let go.
pub(super) type Hook = Box<dyn Fn(Holdings) + Send + Sync>;

impl Daemon {
    /// Lets another process take over by that socket: see [`take_over`](Self::take_over). A file there that no process
    /// answers on is replaced.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub async fn offer(&self, path: &Path) -> Result<(), AdminError> {
        let address = AdminAddress::Unix(path.into());
        let passed = self.inner.offered.lock().take().filter(|it| it.place == Place::Unix(path.into()));
        let listener = match passed {
            Some(passed) => {
                let listener = AdminListener::on(passed, &address)?;
                listener.own_file();
                listener
            }
            None => {
                let listener = AdminListener::bind(&address).await?;
                let mode = fs::set_permissions(path, fs::Permissions::from_mode(MODE));
                mode.map_err(|error| AdminError::Listen(address, error))?;
                listener
            }
        };
        let ends = self.inner.lasting.drain.watch();
        let offering = tokio::spawn(offering(listener, Arc::downgrade(&self.inner), ends));
        *self.inner.offering.lock() = Some(offering);
        Ok(())
    }

    /// How far it is with handing over.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.inner.stage.subscribe()
    }

    /// Waits until another process serves in place of this one, and gives its number. Then [`stop`](Self::stop) is
    /// to be called, which hands over what is left.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn handed_over(&self) -> Option<i32> {
        let mut stage = self.stage();
        let stage = stage.wait_for(Stage::is_handed_over).await;
        match stage.as_deref() {
            Ok(Stage::HandedOver { pid, .. }) => *pid,
            Ok(Stage::Alone(_) | Stage::Taking | Stage::Talking) | Err(_) => None,
        }
    }

    /// What is called when another process is about to serve, before it goes on, and again if it does not come to that:
    /// for whatever only one process may have, such as the lock on a file. It must not block for long.
    pub fn on_hand_over(&self, hook: impl Fn(Holdings) + Send + Sync + 'static) {
        *self.inner.hook.lock() = Some(Box::new(hook));
    }

    /// How this process was started: what [`upgrade`](Self::upgrade) starts anew. Only the first word counts.
    pub fn set_program(&self, program: Program) {
        let _ = self.inner.program.set(program);
    }

    /// Starts this program anew and waits until the new process has taken over; gives its number. Then
    /// [`handed_over`](Self::handed_over) is ready. `None`: it is not known how this process was started.
    ///
    /// # Cancel safety
    /// A dropped future leaves the new process running, and it takes over if it can.
    pub fn upgrade(&self) -> Option<impl Future<Output = Result<u32, UpgradeError>> + Send + use<>> {
        self.inner.upgrade()
    }
}

impl Inner {
    pub(super) fn upgrade(&self) -> Option<impl Future<Output = Result<u32, UpgradeError>> + Send + use<>> {
        let (program, stage) = (self.program.get()?.clone(), self.stage.subscribe());
        Some(async move { start_new(&program, stage).await })
    }
}

/// Talks to one process after the other, until one has taken over or this one ends.
async fn offering(listener: AdminListener, inner: Weak<Inner>, mut ends: watch::Receiver<Phase>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut ends, Phase::Draining) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok(Accepted::Unix(stream)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        let Some(inner) = inner.upgrade() else { return };
        if let Some(lender) = hand_over(stream, &listener, &inner, &mut ends).await {
            let stage = inner.stage.clone();
            drop((listener, inner));
            lender.lend(stage.subscribe()).await;
            stage.send_if_modified(Stage::end);
            return;
        }
    }
}

/// Hands over to the process at the other end; `None`: it did not come to that, and this one goes on.
async fn hand_over(
    stream: UnixStream,
    listener: &AdminListener,
    inner: &Inner,
    ends: &mut watch::Receiver<Phase>,
) -> Option<Lender> {
    let mut wire = Wire::over(stream).inspect_err(|error| tracing::warn!("{error}")).ok()?;
    let talked = tokio::select! {
        biased;
        talked = talk(&mut wire, listener, inner) => talked,
        () = reached(ends, Phase::Draining) => Err(HandoverError::Refused("it is ending".to_owned())),
    };
    match talked {
        // Not to be interrupted: the other one serves.
        Ok(agreed) => Some(commit(agreed, wire, listener, inner).await),
        Err(error) => {
            if let HandoverError::Refused(why) = &error {
                // It notices in any case.
                let _ = wire.send(&Message::Refused { why: why.clone() }).await;
            }
            tracing::warn!("no other process has taken over: {error}");
            // One that still takes over itself goes on with that.
            inner.stage.send_if_modified(|stage| {
                let talking = *stage != Stage::Taking;
                if talking {
                    *stage = Stage::Alone(Some(error.to_string()));
                }
                talking
            });
            None
        }
    }
}

/// The other one serves.
struct Agreed<'a> {
    live: MutexGuard<'a, Option<Live>>,
    dynos: BTreeSet<Address>,
}

/// All steps until the other one serves. If one of them fails, this one goes on as before.
async fn talk<'a>(
    wire: &mut Wire,
    listener: &AdminListener,
    inner: &'a Inner,
) -> Result<Agreed<'a>, HandoverError> {
    let refused = |why: String| Err(HandoverError::Refused(why));
    let said = wire.expect(STEP).await?;
    let Message::Hello { version } = said else { return Err(HandoverError::confused(&said)) };
    if version != VERSION {
        return refused(HandoverError::Version(version).to_string());
    }
    if *inner.stage.borrow() == Stage::Taking {
        return refused("it is still taking over itself".to_owned());
    }
    // With it, nothing of this process changes but what discovery finds.
    let Ok(mut slot) = timeout(STEP, inner.live.lock()).await else {
        return refused("it is changing its configuration".to_owned());
    };
    let Some(live) = slot.as_mut() else { return refused("it is ending".to_owned()) };
    if let Some(app) = inner.lasting.deploys.any() {
        return refused(format!("a deploy of app {app} is under way"));
    }
    inner.stage.send_replace(Stage::Talking);
    let router = &inner.lasting.router;
    let mut sockets = live.sockets();
    let place = match listener.address() {
        AdminAddress::Tcp(address) => Place::Tcp(*address),
        AdminAddress::Unix(path) => Place::Unix(path.clone()),
    };
    sockets.push((Described { place, file_stays: listener.file_stays() }, listener.as_fd()));
    let (described, sockets): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
    let known = dynos(router).into_iter().collect();
    wire.send_with(&Message::Sockets { sockets: described, dynos: known }, &sockets).await?;
    match wire.pid() {
        Some(pid) => tracing::info!("handing over to process {pid}, once it serves"),
        None => tracing::info!("handing over, once the other process serves"),
    }
    step(wire, START, &Message::Ready).await?;

    live.hold();
    let let_go = |holdings| inner.hook.lock().iter().for_each(|hook| hook(holdings));
    let_go(Holdings::LetGo);
    let mine = dynos(router);
    let committed = async {
        wire.send(&Message::Commit { dynos: mine.iter().copied().collect() }).await?;
        step(wire, STEP, &Message::Serving).await
    };
    if let Err(error) = committed.await {
        let_go(Holdings::TakeBack);
        live.go_on(&inner.lasting);
        return Err(error);
    }
    Ok(Agreed { live: slot, dynos: mine })
}

/// This one ends.
async fn commit(agreed: Agreed<'_>, mut wire: Wire, listener: &AdminListener, inner: &Inner) -> Lender {
    let Agreed { mut live, dynos: mine } = agreed;
    // Whether it hears of this is seen when dynos are handed over.
    let _ = wire.send(&Message::Committed).await;
    inner.lasting.readiness.drain();
    inner.lasting.drain.leave();
    listener.leave_file().set(true);
    if let Some(live) = live.take() {
        live.leave_files();
        // What is being answered may take a while.
        tokio::spawn(live.end());
    }
    inner.stage.send_replace(Stage::HandedOver { pid: wire.pid(), over: false });
    let (router, connections) = (inner.lasting.router.clone(), inner.lasting.connections.clone());
    let (theirs, asked) = (BTreeSet::new(), BTreeSet::new());
    Lender { router, connections, wire: Some(wire), mine, theirs, asked }
}

async fn step(wire: &mut Wire, within: Duration, wanted: &Message) -> Result<(), HandoverError> {
    let said = wire.expect(within).await?;
    if said == *wanted { Ok(()) } else { Err(HandoverError::confused(&said)) }
}

/// Every dyno of the router, those that leave included.
fn dynos(router: &Router) -> BTreeSet<Address> {
    let snapshot = router.snapshot();
    snapshot.apps.iter().flat_map(|app| app.dynos.iter().map(|dyno| dyno.address)).collect()
}

/// Hands dynos over as they become free.
struct Lender {
    router: Router,
    connections: Connections,
    /// `None`: the other one has ended.
    wire: Option<Wire>,
    mine: BTreeSet<Address>,
    theirs: BTreeSet<Address>,
    /// Apps for whose late requests a dyno was asked back.
    asked: BTreeSet<AppId>,
}

impl Lender {
    /// Until no request can need a dyno any more, or the daemon ends. Then the connection closes, and the other one has
    /// the rest.
    async fn lend(mut self, mut stage: watch::Receiver<Stage>) {
        loop {
            if let Err(error) = self.look().await {
                self.other_ended(&error).await;
            }
            if self.connections.open() == 0 && (self.mine.is_empty() || self.wire.is_none()) {
                return;
            }
            let said = tokio::select! {
                biased;
                _ = stage.wait_for(Stage::is_over) => return,
                said = heard(&mut self.wire) => said,
                () = sleep(LOOK) => continue,
            };
            match said {
                Ok(Some(Message::Yours { dyno })) => self.comes_back(dyno),
                Ok(Some(other)) => self.other_ended(&HandoverError::confused(&other)).await,
                Ok(None) => self.other_ended(&HandoverError::Gone).await,
                Err(error) => self.other_ended(&error).await,
            }
        }
    }

    /// Who waits here came first: a dyno goes over once nobody does.
    async fn look(&mut self) -> Result<(), HandoverError> {
        let Some(wire) = self.wire.as_mut() else { return Ok(()) };
        let mut free = self.mine.clone();
        for app in self.router.snapshot().apps {
            let own = || app.dynos.iter().map(|dyno| dyno.address).filter(|dyno| self.mine.contains(dyno));
            if app.waiting == 0 {
                continue;
            }
            if own().next().is_none() && self.asked.insert(app.id.clone()) {
                let dynos = app.dynos.iter().map(|dyno| dyno.address).collect();
                wire.send(&Message::Want { dynos }).await?;
            }
            for dyno in own() {
                free.remove(&dyno);
                self.router.regain(dyno);
            }
        }
        for dyno in free {
            if self.router.lend(dyno) {
                self.mine.remove(&dyno);
                self.theirs.insert(dyno);
                wire.send(&Message::Yours { dyno }).await?;
            }
        }
        Ok(())
    }

    fn comes_back(&mut self, dyno: Address) {
        if !self.theirs.remove(&dyno) {
            return;
        }
        self.mine.insert(dyno);
        self.router.regain(dyno);
        let has = |app: &AppId| {
            let app = self.router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
            app.iter().any(|it| it.address == dyno)
        };
        self.asked.retain(|app| !has(app));
    }

    /// Nobody else has the dynos any more, so the last requests here may have them all.
    async fn other_ended(&mut self, why: &HandoverError) {
        tracing::error!("the process that has taken over: {why}; what is left here is finished here");
        self.wire = None;
        sleep(ORPHANED).await;
        for dyno in std::mem::take(&mut self.theirs).into_iter().chain(std::mem::take(&mut self.mine)) {
            self.router.regain(dyno);
        }
    }
}

async fn heard(wire: &mut Option<Wire>) -> Result<Option<Message>, HandoverError> {
    match wire {
        Some(wire) => wire.receive().await,
        None => std::future::pending().await,
    }
}
