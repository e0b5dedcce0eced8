//! The old side of a hand-over: lets another process have the listening sockets, then the dynos one by one.
//!
//! Until the other one serves, this one can go on as if nothing had been. From then on it takes no new connection, and
//! a dyno is the other's as soon as no request waits for it here: who is in line here came first.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use router_core::ids::Address;
use router_core::{Router, sync};
use tokio::net::UnixStream;
use tokio::sync::{MutexGuard, RwLockWriteGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::lend::Lender;
use super::live::Live;
use super::release::Refused;
use super::{Daemon, Shared};
use crate::admin::{Accepted, AdminAddress, AdminError, AdminListener};
use crate::audit::{Asked, Outcome};
use crate::config::event::EventKind;
use crate::control::{Refusal, RefusalKind};
use crate::deploys::book::{Book, Wanted};
use crate::drain::{Phase, reached};
use crate::handover::wire::{STEP, Wire};
use crate::handover::{Described, Estate, HandoverError, Message, Ordered, Stage, VERSION};
use crate::inherit::{Passed, Place};
use crate::upgrade::{Program, start_new};
use crate::webhooks::Event;

/// Only this user and root may connect.
const MODE: u32 = 0o600;
/// How long the new one may take to start.
const START: Duration = Duration::from_secs(60);
/// The pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What a daemon knows of the one that comes after it.
pub(super) struct Heir {
    stage: watch::Sender<Stage>,
    /// The hand-over socket of the daemon before.
    offered: sync::Mutex<Option<Passed>>,
    /// Whoever talks to processes that want to take over.
    offering: sync::Mutex<Option<JoinHandle<()>>>,
    /// How this process was started.
    program: OnceLock<Program>,
    /// Who has asked for the upgrade that is under way.
    ordered: sync::Mutex<Option<Ordered>>,
}

impl Heir {
    /// With the hand-over socket of the daemon before, if there is one that hands over.
    pub(super) fn new(offered: Option<Passed>, taking: bool) -> Self {
        Self {
            stage: watch::Sender::new(if taking { Stage::Taking } else { Stage::Alone(None) }),
            offered: sync::Mutex::new(offered),
            offering: sync::Mutex::default(),
            program: OnceLock::new(),
            ordered: sync::Mutex::default(),
        }
    }

    pub(super) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// The daemon before has nothing left.
    pub(super) fn is_alone(&self) {
        self.stage.send_if_modified(|stage| {
            let taking = *stage == Stage::Taking;
            if taking {
                *stage = Stage::Alone(None);
            }
            taking
        });
    }

    /// Nothing is left here for the other process to wait for.
    pub(super) fn over(&self) {
        self.stage.send_if_modified(Stage::end);
    }

    /// The hand-over socket goes.
    pub(super) async fn end(&self) {
        let offering = self.offering.lock().take();
        if let Some(offering) = offering.filter(|_| !self.stage.borrow().is_handed_over()) {
            // It takes the file of its socket away, and has been told to end.
            let _ = offering.await;
        }
    }

    /// Starts this program anew and waits until it has taken over. Gives the number of its process.
    pub(super) async fn upgrade(&self, ordered: Ordered) -> Result<u32, Refusal> {
        let unknown = "this daemon was not started by `routerd run`, and does not know how to start it anew";
        let program = self.program.get().ok_or_else(|| Refusal::new(RefusalKind::Unsupported, unknown))?;
        let conflict = |text: String| Refusal::new(RefusalKind::Conflict, text);
        {
            let mut slot = self.ordered.lock();
            if let Some(other) = &*slot {
                return Err(conflict(format!("an upgrade that {} has asked for is under way", other.by)));
            }
            *slot = Some(ordered);
        }
        let result = start_new(program, self.stage()).await;
        *self.ordered.lock() = None;
        result.map_err(|error| conflict(error.to_string()))
    }
}

impl Daemon {
    /// Lets another process take over by that socket: see [`take_over`](Self::take_over). A file there that no process
    /// answers on is replaced.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub async fn offer(&self, path: &Path) -> Result<(), AdminError> {
        let address = AdminAddress::Unix(path.into());
        let passed = self.shared.heir.offered.lock().take().filter(|it| it.place == Place::Unix(path.into()));
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
        let ends = self.shared.lasting.drain.watch();
        let offering = tokio::spawn(offering(listener, Arc::downgrade(&self.shared), ends));
        *self.shared.heir.offering.lock() = Some(offering);
        Ok(())
    }

    /// How far it is with handing over.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.shared.heir.stage()
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

    /// How this process was started: what an order to upgrade starts anew. Only the first word counts.
    pub fn set_program(&self, program: Program) {
        let _ = self.shared.heir.program.set(program);
    }
}

/// Talks to one process after the other, until one has taken over or this one ends.
async fn offering(listener: AdminListener, inner: Weak<Shared>, mut ends: watch::Receiver<Phase>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut ends, Phase::Draining) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((Accepted::Unix(stream), _)) = accepted else {
            sleep(PAUSE).await;
            continue;
        };
        let Some(inner) = inner.upgrade() else { return };
        if let Some(lender) = hand_over(stream, &listener, &inner, &mut ends).await {
            let stage = inner.heir.stage.clone();
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
    inner: &Shared,
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
            inner.heir.stage.send_if_modified(|stage| {
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
    _nothing_under_way: RwLockWriteGuard<'a, ()>,
    dynos: BTreeSet<Address>,
    by: String,
}

/// All steps until the other one serves. If one of them fails, this one goes on as before.
async fn talk<'a>(
    wire: &mut Wire,
    listener: &AdminListener,
    inner: &'a Shared,
) -> Result<Agreed<'a>, HandoverError> {
    let refused = |why: String| HandoverError::Refused(why);
    let said = wire.expect(STEP).await?;
    let Message::Hello { version } = said else { return Err(HandoverError::confused(&said)) };
    if version != VERSION {
        return Err(refused(HandoverError::Version(version).to_string()));
    }
    if *inner.heir.stage.borrow() == Stage::Taking {
        return Err(refused("it is still taking over itself".to_owned()));
    }
    // With these, nothing of this process changes but what discovery finds.
    let busy = |_| refused("it is changing something that takes its time".to_owned());
    let nothing_under_way = timeout(STEP, inner.under_way.write()).await.map_err(busy)?;
    let mut slot = timeout(STEP, inner.live.lock()).await.map_err(busy)?;
    let live = slot.as_mut().ok_or_else(|| refused("it is ending".to_owned()))?;
    if let Some(why) = not_now(inner) {
        return Err(refused(why));
    }
    inner.heir.stage.send_replace(Stage::Talking);
    send_sockets(wire, listener, live, inner).await?;
    match wire.pid() {
        Some(pid) => tracing::info!("handing over to process {pid}, once it serves"),
        None => tracing::info!("handing over, once the other process serves"),
    }
    step(wire, START, &Message::Ready).await?;
    let ordered = ordered(wire.pid(), inner).await.map_err(|error| refused(error.to_string()))?;
    let (by, own) =
        (ordered.by.clone(), ordered.audit.clone().filter(|_| inner.heir.ordered.lock().is_none()));

    live.halt();
    inner.lasting.trail.let_go();
    inner.lasting.acme.let_go().await;
    let mine = dynos(&inner.lasting.router);
    let committed = async {
        wire.send(&Message::Commit { dynos: mine.iter().copied().collect(), ordered }).await?;
        step(wire, STEP, &Message::Serving).await
    };
    if let Err(error) = committed.await {
        // What cannot be had yet is had when it is needed.
        let _ = inner.lasting.trail.take().await.inspect_err(|error| tracing::warn!("{error}"));
        live.go_on(&inner.lasting);
        inner.lasting.acme.go_on();
        if let Some(audit) = own {
            inner.lasting.trail.ends(Some(audit.seq), Outcome::failed(error.to_string())).await;
        }
        return Err(error);
    }
    Ok(Agreed { live: slot, _nothing_under_way: nothing_under_way, dynos: mine, by })
}

/// Why this is no time to hand over.
fn not_now(inner: &Shared) -> Option<String> {
    if let Some(app) = inner.lasting.deploys.any() {
        return Some(format!("a deploy of app {app} is under way"));
    }
    // Who waits there waits in this process, and would keep its dynos here.
    let apps = inner.lasting.router.snapshot().apps;
    let held = apps.into_iter().find(|app| app.held.is_some())?;
    Some(format!("app {} is paused, or was until a moment ago: resume it first", held.id))
}

/// Tells the other one what there is, and gives it the sockets.
async fn send_sockets(
    wire: &mut Wire,
    listener: &AdminListener,
    live: &Live,
    inner: &Shared,
) -> Result<(), HandoverError> {
    let mut sockets = live.sockets();
    let place = match listener.address() {
        AdminAddress::Tcp(address) => Place::Tcp(*address),
        AdminAddress::Unix(path) => Place::Unix(path.clone()),
    };
    sockets.push((Described { place, file_stays: listener.file_stays() }, listener.as_fd()));
    let (sockets, fds): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
    let dynos = dynos(&inner.lasting.router).into_iter().collect();
    let running = live.config.apps.iter().map(|app| (app.spec.id.clone(), Wanted::of(app))).collect();
    let estate = Estate { book: Book::clone(&inner.lasting.shelf.read()), running };
    let estate = serde_json::to_value(estate).map_err(|error| HandoverError::Refused(error.to_string()))?;
    wire.send_with(&Message::Sockets { sockets, dynos, estate }, &fds).await
}

/// Who has asked for this, as the audit trail has it. Whoever starts a process by hand has asked with that.
async fn ordered(pid: Option<i32>, inner: &Shared) -> Result<Ordered, Refused> {
    let known = inner.heir.ordered.lock().clone();
    if let Some(ordered) = known {
        return Ok(ordered);
    }
    let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let asked = Asked { who: who.clone(), what: "upgrade".to_owned(), ..Asked::default() };
    let seq = inner.lasting.trail.begins(asked).await?;
    Ok(Ordered::new(who, seq, inner.lasting.trail.file()))
}

/// This one ends.
async fn commit(agreed: Agreed<'_>, mut wire: Wire, listener: &AdminListener, inner: &Shared) -> Lender {
    let Agreed { mut live, dynos: mine, by, _nothing_under_way } = agreed;
    // Whether it hears of this is seen when dynos are handed over.
    let _ = wire.send(&Message::Committed).await;
    let lasting = &inner.lasting;
    lasting.readiness.drain();
    lasting.drain.leave();
    listener.leave_file().set(true);
    if let Some(live) = live.take() {
        live.leave_files();
        // What is being answered may take a while.
        tokio::spawn(live.end());
    }
    let who = wire.pid().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    let text = format!("{who} has taken over (by {by})");
    lasting.trail.tell(&Event { by: Some(by), ..Event::new(EventKind::DaemonUpgraded, text) });
    inner.heir.stage.send_replace(Stage::HandedOver { pid: wire.pid(), over: false });
    Lender::new(lasting.router.clone(), lasting.connections.clone(), wire, mine)
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
