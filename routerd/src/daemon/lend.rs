//! The end of a hand-over: the dynos go over one by one, as no request needs them here any more.

use std::collections::BTreeSet;
use std::time::Duration;

use router_core::Router;
use router_core::ids::{Address, AppId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::connections::Connections;
use crate::handover::wire::Wire;
use crate::handover::{HandoverError, Message, Stage};

/// How often it is looked for dynos that have become free.
pub(super) const LOOK: Duration = Duration::from_millis(5);
/// How long dynos are left alone whose router has died: what they still work on, nobody knows.
pub(super) const ORPHANED: Duration = Duration::from_secs(1);

/// Hands dynos over as they become free.
pub(super) struct Lender {
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
    /// The dynos `mine` are still this daemon's.
    pub(super) fn new(router: Router, connections: Connections, wire: Wire, mine: BTreeSet<Address>) -> Self {
        let (theirs, asked) = (BTreeSet::new(), BTreeSet::new());
        Self { router, connections, wire: Some(wire), mine, theirs, asked }
    }

    /// Until no request can need a dyno any more, or the daemon ends. Then the connection closes, and the other one has
    /// the rest.
    pub(super) async fn lend(mut self, mut stage: watch::Receiver<Stage>) {
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
