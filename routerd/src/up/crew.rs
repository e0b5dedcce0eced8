//! Processes of a grid that come and go together: the first ones, or those that one deploy has started beside them.

use std::collections::BTreeMap;
use std::future::pending;

use router_core::change::{Change, DynoHealth, DynoSpec};
use router_core::ids::{Address, AppId};
use router_core::sync::Mutex;
use tokio::sync::{mpsc, watch};

use super::grid::Sink;

/// How a crew stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A deploy has started it and decides about its dynos. → serving, retired.
    Trial,
    /// The router is told of its dynos. → retired.
    Serving,
    /// It ends.
    Retired,
}

/// A crew. Its processes tell it what they do; whether the router hears of it depends on the phase.
pub(crate) struct Crew {
    app: AppId,
    sink: Sink,
    phase: watch::Sender<Phase>,
    /// Whether the first dyno has been ready, so that the others may start.
    first_ready: watch::Sender<bool>,
    /// Its dynos, in one lock with the passing on: the router is told of none too late or not at all.
    dynos: Mutex<BTreeMap<Address, DynoSpec>>,
    crashes: Option<Crashes>,
}

/// Who hears of dynos that died, and how.
pub(crate) type Crashes = mpsc::UnboundedSender<(Address, String)>;

impl Crew {
    /// The first crew of a grid.
    pub(crate) fn serving(app: &AppId, sink: Sink) -> Self {
        Self::new(app, sink, Phase::Serving, None)
    }

    /// A crew for a deploy, which hears of crashes.
    pub(crate) fn on_trial(app: &AppId, sink: Sink, crashes: Crashes) -> Self {
        Self::new(app, sink, Phase::Trial, Some(crashes))
    }

    fn new(app: &AppId, sink: Sink, phase: Phase, crashes: Option<Crashes>) -> Self {
        let (phase, first_ready) = (watch::Sender::new(phase), watch::Sender::new(false));
        Self { app: app.clone(), sink, phase, first_ready, dynos: Mutex::default(), crashes }
    }

    /// What became of a process.
    pub(crate) fn tell(&self, changes: Vec<Change>) {
        let mut dynos = self.dynos.lock();
        for change in &changes {
            match change {
                Change::AddDyno(_, spec) => drop(dynos.insert(spec.address, spec.clone())),
                Change::RemoveDyno(_, address) => drop(dynos.remove(address)),
                Change::SetDyno(_, address, health) => {
                    if let Some(dyno) = dynos.get_mut(address) {
                        dyno.state = *health;
                    }
                }
                Change::PutApp(_) | Change::RemoveApp(_) | Change::SetCanary(..) | Change::Hold(..) => {}
            }
        }
        if *self.phase.borrow() != Phase::Trial {
            (self.sink)(changes);
        }
    }

    /// A process of it died. `true`: it is on trial, and the process is not started again before that is over.
    pub(crate) fn crashed(&self, dyno: Address, how: &str) -> bool {
        let on_trial = *self.phase.borrow() == Phase::Trial;
        if on_trial && let Some(crashes) = &self.crashes {
            // Without anybody who listens the deploy is over.
            let _ = crashes.send((dyno, how.to_owned()));
        }
        on_trial
    }

    /// Whether the dyno at that address is ready; the error says how it stands.
    pub(crate) fn is_ready(&self, dyno: Address) -> Result<(), String> {
        match self.dynos.lock().get(&dyno).map(|dyno| dyno.state) {
            Some(DynoHealth::Ready) => Ok(()),
            Some(DynoHealth::Crashed) => Err("its process has ended".to_owned()),
            Some(_) | None => Err("its process does not accept connections yet".to_owned()),
        }
    }

    /// The trial is over: the router is told of its dynos from now on.
    pub(crate) fn serve(&self) {
        let dynos = self.dynos.lock();
        let ready = dynos.values().filter(|dyno| dyno.state == DynoHealth::Ready);
        (self.sink)(ready.map(|dyno| Change::AddDyno(self.app.clone(), dyno.clone())).collect());
        self.phase.send_replace(Phase::Serving);
    }

    /// It ends: the router forgets its dynos now, the processes get their time.
    pub(crate) fn retire(&self) {
        let mut dynos = self.dynos.lock();
        if self.phase.send_replace(Phase::Retired) == Phase::Serving {
            let gone = std::mem::take(&mut *dynos).into_keys();
            (self.sink)(gone.map(|address| Change::RemoveDyno(self.app.clone(), address)).collect());
        }
    }

    /// Waits until it ends.
    pub(crate) async fn retired(&self) {
        self.reached(Phase::Retired).await;
    }

    /// Waits until its trial is over. `true`: it serves.
    pub(crate) async fn trial_over(&self) -> bool {
        self.reached(Phase::Serving).await;
        *self.phase.borrow() == Phase::Serving
    }

    async fn reached(&self, wanted: Phase) {
        if self.phase.subscribe().wait_for(|phase| *phase >= wanted).await.is_err() {
            // The sender is ours.
            pending::<()>().await;
        }
    }

    /// The first dyno is ready.
    pub(crate) fn first_is_ready(&self) {
        self.first_ready.send_replace(true);
    }

    /// Waits until the first dyno is ready.
    pub(crate) async fn after_first(&self) {
        let _ = self.first_ready.subscribe().wait_for(|ready| *ready).await;
    }
}
