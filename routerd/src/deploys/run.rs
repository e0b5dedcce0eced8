//! One deploy while it runs: asks the new dynos, keeps the clock, tells the router, and writes down how far it is.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use router_core::Router;
use router_core::canary::Canary;
use router_core::change::{Change, DynoSpec};
use router_core::ids::{Address, AppId};
use router_core::policy::deploy::{Deploy, Effect, Outcome, Progress, Saved, Side, State, Tally, WrongState};
use router_core::snapshot::{DynoSnapshot, DynoState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::counts::{Counting, Counts};

/// How often it is looked whether a dyno that drains has left, and what became of requests.
const LOOK: Duration = Duration::from_millis(50);

/// Connections in a row that a new dyno did not accept before it counts as dead.
const DEAD: u32 = 2;

/// Asks a dyno once whether it is ready; the error says in short what came instead.
pub(crate) type Prober = Arc<dyn Fn(DynoSpec) -> Probing + Send + Sync>;
/// One question to a dyno.
pub(crate) type Probing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
/// Writes a deploy down, so that it goes on after a restart.
pub(crate) type Keep = Box<dyn FnMut(Saved) -> Keeping + Send>;
/// One writing down. What cannot be written is reported by whoever writes.
pub(crate) type Keeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What can be asked of a deploy that runs.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Take it back.
    RollBack(String, Reply),
    /// End its canary: the new release replaces the old one.
    Promote(Reply),
    /// Change which requests its canary serves.
    Canary(Canary, Reply),
}

/// What comes back: nothing, or why that cannot be asked now.
pub(crate) type Reply = oneshot::Sender<Result<(), WrongState>>;

/// A deploy and all that it needs to run.
pub(crate) struct Run {
    pub(crate) app: AppId,
    pub(crate) deploy: Deploy,
    pub(crate) router: Router,
    pub(crate) prober: Prober,
    pub(crate) keep: Keep,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) shown: watch::Sender<Progress>,
    /// Is told of each state that it enters.
    pub(crate) told: Box<dyn Fn(&Progress) + Send + Sync>,
    /// What the old release did before.
    pub(crate) before: Tally,
    /// Dynos whose processes died, if somebody hears of that.
    pub(crate) crashes: Option<mpsc::UnboundedReceiver<(Address, String)>>,
}

struct Running {
    run: Run,
    counting: Counting,
    probes: JoinSet<(Address, Result<(), String>)>,
    /// Dynos that finish their last requests.
    leaving: BTreeSet<Address>,
    said: Option<State>,
}

impl Run {
    /// Runs it to its end. What it asked of the router has been done then, and what it said was written down.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the router as it is then, in the middle of the deploy.
    pub(crate) async fn run(self, counts: &Counts) -> Outcome {
        let dynos = self.deploy.progress(self.router.clock().now()).dynos;
        let counting = counts.watch(&self.app, dynos.iter().map(|dyno| (dyno.dyno.address, dyno.side)));
        let (probes, leaving) = (JoinSet::new(), BTreeSet::new());
        Running { run: self, counting, probes, leaving, said: None }.until_end().await
    }
}

impl Running {
    async fn until_end(mut self) -> Outcome {
        let now = self.run.router.clock().now();
        self.run.deploy.tallied(now, Side::Old, self.run.before);
        loop {
            if let Some(outcome) = self.act().await {
                return outcome;
            }
            let alarm = self.run.deploy.alarm().map(Instant::from_std);
            let due = async {
                match alarm {
                    Some(alarm) => sleep_until(alarm).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                ask = self.run.asks.recv() => if let Some(ask) = ask { self.ask(ask) },
                Some((dyno, how)) = crash(&mut self.run.crashes) => {
                    self.run.deploy.crashed(self.run.router.clock().now(), dyno, &how);
                }
                Some(answer) = self.probes.join_next() => self.answered(answer),
                () = due => self.run.deploy.tick(self.now()),
                () = sleep(LOOK) => self.look(),
            }
        }
    }

    fn now(&self) -> std::time::Instant {
        self.run.router.clock().now()
    }

    fn ask(&mut self, ask: Ask) {
        let now = self.now();
        // Whoever asked may not wait for the answer any more.
        match ask {
            Ask::RollBack(why, reply) => drop(reply.send(self.run.deploy.roll_back(now, &why))),
            Ask::Promote(reply) => drop(reply.send(self.run.deploy.promote(now))),
            Ask::Canary(rule, reply) => drop(reply.send(self.run.deploy.set_canary(rule))),
        }
    }

    fn answered(&mut self, answer: Result<(Address, Result<(), String>), tokio::task::JoinError>) {
        // A probe that panicked has no answer, and its dyno gets no further probe: `boot_timeout` ends that.
        if let Ok((dyno, answer)) = answer {
            self.run.deploy.probed(self.now(), dyno, answer.as_ref().copied().map_err(String::as_str));
        }
    }

    /// Who has left by now, and what became of requests.
    fn look(&mut self) {
        let now = self.now();
        let there = self.run.router.app(&self.run.app).map(|app| app.snapshot().dynos).unwrap_or_default();
        self.find_dead(&there);
        let there: BTreeSet<Address> = there.iter().map(|dyno| dyno.address).collect();
        let gone: Vec<_> = self.leaving.difference(&there).copied().collect();
        for dyno in gone {
            self.leaving.remove(&dyno);
            self.run.deploy.gone(now, dyno);
        }
        for side in [Side::Old, Side::New] {
            let tally = self.counting.take(side);
            if tally.requests > 0 {
                self.run.deploy.tallied(now, side, tally);
            }
        }
        self.run.deploy.tick(now);
    }

    /// A new dyno that has begun to serve and does not any more has crashed, whether or not somebody saw its process
    /// die: few requests may be left to tell of it.
    fn find_dead(&mut self, there: &[DynoSnapshot]) {
        for dyno in there {
            let unreachable = dyno.state == DynoState::Quarantined && !dyno.ejected && dyno.failures >= DEAD;
            let how = if unreachable {
                "does not accept connections"
            } else if dyno.state == DynoState::Unhealthy {
                "does not answer its probes"
            } else {
                continue;
            };
            if self.run.deploy.side(dyno.address) == Some(Side::New) {
                self.run.deploy.crashed(self.now(), dyno.address, &format!("it {how} since it serves"));
            }
        }
    }

    /// Does what the deploy wants done, and says when it is over.
    async fn act(&mut self) -> Option<Outcome> {
        let mut outcome = None;
        loop {
            let effects: Vec<_> = std::iter::from_fn(|| self.run.deploy.next_effect()).collect();
            if effects.is_empty() {
                break;
            }
            let worth_keeping = |effect: &Effect| {
                matches!(
                    effect,
                    Effect::Enters(_)
                        | Effect::Serve(_)
                        | Effect::Drain(_)
                        | Effect::Resume(_)
                        | Effect::CanaryIs(_)
                )
            };
            // Written down first: after a crash in between, what is written is done once more, which changes nothing.
            if effects.iter().any(worth_keeping) {
                let saved = self.run.deploy.saved();
                (self.run.keep)(saved).await;
            }
            self.tell(&effects);
            for effect in effects {
                match effect {
                    Effect::Probe(dyno) => self.probe(dyno),
                    Effect::Drain(dyno) => drop(self.leaving.insert(dyno.address)),
                    Effect::Resume(dyno) => drop(self.leaving.remove(&dyno.address)),
                    Effect::GivenUp(dyno) => {
                        tracing::warn!(
                            "app {}: {} is still busy; nobody waits for it",
                            self.run.app,
                            dyno.name
                        );
                    }
                    Effect::Ended(how) => outcome = Some(how),
                    Effect::Enters(_) | Effect::CanaryIs(_) | Effect::Canary(_) => {}
                    Effect::Add(_) | Effect::Awaited(_) | Effect::Serve(_) | Effect::Remove(_) => {}
                }
            }
        }
        self.show();
        outcome
    }

    fn tell(&mut self, effects: &[Effect]) {
        let app = &self.run.app;
        let changes: Vec<_> = effects.iter().flat_map(|effect| effect.changes(app)).collect();
        if self.run.router.apply(&changes).is_ok() {
            return;
        }
        // One of them is refused, for example because another app has got the dyno: that one fails, not the rest.
        let now = self.now();
        for change in changes {
            if let Err(error) = self.run.router.apply(std::slice::from_ref(&change)) {
                tracing::warn!("deploy: {error}");
                if let Change::AddDyno(_, dyno) = &change {
                    self.run.deploy.crashed(now, dyno.address, &error.to_string());
                }
            }
        }
    }

    fn probe(&mut self, dyno: DynoSpec) {
        let (address, probing) = (dyno.address, (self.run.prober)(dyno));
        self.probes.spawn(async move { (address, probing.await) });
    }

    fn show(&mut self) {
        let progress = self.run.deploy.progress(self.now());
        if self.said != Some(progress.state) {
            self.said = Some(progress.state);
            let (old, new) = (&progress.old.0, &progress.new.0);
            tracing::info!("app {}: deploy of {new} over {old} is {}", self.run.app, progress.state);
            (self.run.told)(&progress);
        }
        // Without anybody who looks it is kept all the same, for who looks later.
        self.run.shown.send_replace(progress);
    }
}

/// The next crash; never, if nobody hears of any.
async fn crash(
    crashes: &mut Option<mpsc::UnboundedReceiver<(Address, String)>>,
) -> Option<(Address, String)> {
    match crashes {
        Some(crashes) => crashes.recv().await,
        None => pending().await,
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("app", &self.app).field("deploy", &self.deploy).finish_non_exhaustive()
    }
}
