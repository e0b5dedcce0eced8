//! The new side of a hand-over: takes the listening sockets of the daemon that runs, and its dynos one by one.
//!
//! Every dyno that the other one has is lent to it from the beginning, in the words of the router: requests wait for it
//! as for a busy one. So no request here is refused because the dynos are not here yet.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use router_core::Router;
use router_core::ids::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::lasting::access_log;
use super::lend::{LOOK, ORPHANED};
use super::{Daemon, StartError};
use crate::audit::Outcome;
use crate::config::Config;
use crate::drain::{Phase, reached};
use crate::handover::wire::{STEP, Wire};
use crate::handover::{Estate, HandoverError, Message, Ordered, VERSION};
use crate::inherit::{Inherited, Passed, Place};
use crate::log::AccessLog;

/// How long the old one may take to answer at first: it may be busy with a reload.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the old one may take to say that it ends. It is hardly ever more than a moment; who gives up here leaves
/// nobody who serves.
const COMMITTED: Duration = Duration::from_secs(60);
/// How long it is looked whether a process that fell silent is dead.
const DYING: Duration = Duration::from_secs(1);

impl Daemon {
    /// Starts in place of the daemon that offers that at this socket ([`offer`](Self::offer)): with its listening
    /// sockets, and with its dynos as they become free there. When this returns, this daemon serves and the other one
    /// finishes what it has. No dyno has requests of both at once.
    ///
    /// # Errors
    /// Says what cannot be started, or why the other one does not hand over. Then that one goes on, and nothing was
    /// lost.
    ///
    /// # Cancel safety
    /// A dropped future leaves the other one as it was.
    pub async fn take_over(config: &Config, path: &Path, sockets: Inherited) -> Result<Self, StartError> {
        let log = access_log(&config.log).map_err(StartError::Log)?;
        Self::succeed(config, path, (log, true), sockets).await
    }

    /// The same with an access log of the caller's.
    ///
    /// # Errors
    /// As [`take_over`](Self::take_over).
    ///
    /// # Cancel safety
    /// As [`take_over`](Self::take_over).
    pub async fn take_over_with_log(
        config: &Config,
        path: &Path,
        log: Option<AccessLog>,
    ) -> Result<Self, StartError> {
        Self::succeed(config, path, (log, false), Inherited::default()).await
    }

    async fn succeed(
        config: &Config,
        path: &Path,
        log: (Option<AccessLog>, bool),
        sockets: Inherited,
    ) -> Result<Self, StartError> {
        let router = Router::new();
        let found = Predecessor::find(path, &router).await.map_err(StartError::TakeOver)?;
        let (mut before, theirs) = found;
        let sockets = sockets.after(theirs);
        let daemon = match Self::start_as(config, &router, log, sockets, Some(&mut before)).await {
            Ok(daemon) => daemon,
            Err(error) => {
                before.failed(&error.to_string()).await;
                return Err(error);
            }
        };
        let lasting = &daemon.shared.lasting;
        let done = before.ordered.take().and_then(|ordered| ordered.audit);
        if let Some(done) = done.filter(|done| lasting.trail.file() == Some(&done.file)) {
            lasting.trail.ends(Some(done.seq), Outcome::done()).await;
        }
        let (ends, shared) = (lasting.drain.watch(), Arc::downgrade(&daemon.shared));
        tokio::spawn(async move {
            before.take_dynos(router, ends).await;
            if let Some(shared) = shared.upgrade() {
                shared.heir.is_alone();
            }
        });
        Ok(daemon)
    }
}

/// The daemon that runs.
pub(super) struct Predecessor {
    wire: Wire,
    /// Says when its process has ended; `None`: the system does not tell.
    process: Option<OwnedFd>,
    /// The dynos that it still has.
    held: BTreeSet<Address>,
    /// What it has decided, and what it runs.
    pub(super) estate: Estate,
    /// Its hand-over socket.
    pub(super) offered: Option<Passed>,
    /// Who has asked for this.
    ordered: Option<Ordered>,
}

impl Predecessor {
    /// Asks the daemon at that socket for its listening sockets. Its dynos are lent to it from now on.
    pub(super) async fn find(path: &Path, router: &Router) -> Result<(Self, Inherited), HandoverError> {
        let mut wire = Wire::connect(path).await?;
        let pid = wire.pid().and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        wire.send(&Message::Hello { version: VERSION }).await?;
        let said = wire.expect(ANSWER).await?;
        let Message::Sockets { sockets: described, dynos, estate } = said else {
            return Err(HandoverError::confused(&said));
        };
        let sockets = wire.take_sockets();
        if sockets.len() != described.len() {
            let what = format!("{} sockets instead of {}", sockets.len(), described.len());
            return Err(HandoverError::Confused(what));
        }
        let passed = described.into_iter().zip(sockets).map(|(described, socket)| Passed {
            place: described.place,
            socket,
            file_stays: described.file_stays,
        });
        let mut inherited = Inherited::new(passed.collect());
        let offered = inherited.take(&Place::Unix(path.into()));
        let estate = match serde_json::from_value(estate) {
            Ok(estate) => estate,
            Err(error) => {
                let error = HandoverError::Estate(error.to_string());
                // It notices in any case.
                let _ = wire.send(&Message::Failed { why: error.to_string() }).await;
                return Err(error);
            }
        };
        let held = BTreeSet::new();
        let mut predecessor = Self { wire, process, held, estate, offered, ordered: None };
        predecessor.holds(dynos, router);
        Ok((predecessor, inherited))
    }

    /// Says that this daemon could accept, and waits for its turn.
    pub(super) async fn ready(&mut self, router: &Router) -> Result<(), HandoverError> {
        let answer = match self.wire.send(&Message::Ready).await {
            Ok(()) => self.wire.expect(STEP).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Message::Commit { dynos, ordered }) => {
                self.holds(dynos, router);
                self.ordered = Some(ordered);
            }
            Ok(other) => return Err(HandoverError::confused(&other)),
            // There is nobody to wait for, and nobody else who serves.
            Err(HandoverError::Gone) if self.is_dead().await => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Says that this daemon accepts. From now on it is the one that serves, unless the old one says or does otherwise.
    pub(super) async fn serving(&mut self) -> Result<(), HandoverError> {
        let answer = match self.wire.send(&Message::Serving).await {
            Ok(()) => self.wire.expect(COMMITTED).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Message::Committed) => Ok(()),
            Ok(other) => Err(HandoverError::confused(&other)),
            // It may have gone on, because this one took too long. Two that serve must not be.
            Err(HandoverError::Gone) if self.is_dead().await => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says why this daemon cannot start.
    pub(super) async fn failed(mut self, why: &str) {
        // It notices in any case.
        let _ = self.wire.send(&Message::Failed { why: why.to_owned() }).await;
    }

    /// Takes dynos as they come, gives one back when it is asked for, and takes the rest when the old one has ended.
    pub(super) async fn take_dynos(mut self, router: Router, mut ends: watch::Receiver<Phase>) {
        let mut wanted = VecDeque::new();
        loop {
            let said = tokio::select! {
                biased;
                () = reached(&mut ends, Phase::Cut) => return,
                said = self.wire.receive() => said,
                () = sleep(LOOK), if !wanted.is_empty() => {
                    if self.give_back(&mut wanted, &router).await.is_err() {
                        break;
                    }
                    continue;
                }
            };
            match said {
                Ok(Some(Message::Yours { dyno })) => {
                    self.held.remove(&dyno);
                    router.regain(dyno);
                }
                Ok(Some(Message::Want { dynos })) => wanted.push_back(dynos),
                Ok(None) => break,
                Ok(Some(other)) => {
                    tracing::warn!("the process that hands over says what makes no sense: {other:?}");
                    break;
                }
                Err(error) => {
                    tracing::warn!("the process that hands over: {error}");
                    break;
                }
            }
        }
        // What it waited for cannot be given back any more.
        wanted
            .iter()
            .flatten()
            .filter(|dyno| !self.held.contains(dyno))
            .for_each(|dyno| router.regain(*dyno));
        if !self.held.is_empty() {
            let count = self.held.len();
            tracing::warn!("the process before has ended with {count} dynos: they are used in {ORPHANED:?}");
            sleep(ORPHANED).await;
            self.held.iter().for_each(|dyno| router.regain(*dyno));
        }
    }

    /// These are the dynos that the old one has, and no others.
    fn holds(&mut self, dynos: Vec<Address>, router: &Router) {
        let now: BTreeSet<_> = dynos.into_iter().collect();
        self.held.difference(&now).for_each(|dyno| router.regain(*dyno));
        for dyno in now.difference(&self.held) {
            router.lend(*dyno);
        }
        self.held = now;
    }

    /// The first of them that is free goes back to the old one.
    async fn give_back(
        &mut self,
        wanted: &mut VecDeque<Vec<Address>>,
        router: &Router,
    ) -> Result<(), HandoverError> {
        let Some(dynos) = wanted.front() else { return Ok(()) };
        let here: Vec<_> = dynos.iter().copied().filter(|dyno| !self.held.contains(dyno)).collect();
        let Some(free) = here.iter().copied().find(|dyno| router.lend(*dyno)) else { return Ok(()) };
        here.into_iter().filter(|dyno| *dyno != free).for_each(|dyno| router.regain(dyno));
        wanted.pop_front();
        self.held.insert(free);
        self.wire.send(&Message::Yours { dyno: free }).await
    }

    /// Whether its process has ended. A process that was just killed may take a moment.
    async fn is_dead(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let end = Instant::now() + DYING;
        loop {
            let mut asked = [PollFd::new(process, PollFlags::IN)];
            if poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK).await;
        }
    }
}
