//! Releases of a running daemon: begins deploys and ends them, so that each app runs what file and decisions want.

mod follow;
mod words;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use router_core::change::{Change, DynoHealth, DynoSpec};
use router_core::clock;
use router_core::ids::{Address, AppId};
use router_core::policy::deploy::{CauseKind, Deploy, Outcome, Progress, Release, State, WrongState};
use router_core::snapshot::DynoState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

pub(super) use self::follow::overlay;
use self::words::Running;
pub(super) use self::words::{Deploys, Ended, Order, Refused};
use super::live::Live;
use super::trail::event_of_deploy;
use super::{Shared, names};
use crate::audit;
use crate::config;
use crate::deploys::book::{Begun, Wanted};
use crate::deploys::grown::{Grown, Verdict};
use crate::deploys::run::{Ask, Keep, Prober, Reply, Run};
use crate::discover::Feed;
use crate::webhooks::Event;

/// How long a deploy waits for the first answers about names of its dynos.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);
/// Questions to a deploy that may wait for it.
const ASKS_MAX: usize = 64;

/// The dynos of a deploy.
struct Sides {
    old: Vec<DynoSpec>,
    new: Vec<DynoSpec>,
}

/// What a deploy needs beside the machine that decides.
struct Means {
    /// Where its dynos are found from its end on; `None`: a grid tells.
    feed: Option<Feed>,
    verdict: Option<Verdict>,
    crashes: Option<mpsc::UnboundedReceiver<(Address, String)>>,
    prober: Prober,
}

impl Live {
    /// Begins a deploy and gives its number; `None`: nothing had to be started or ended, and it is done.
    pub(super) async fn begin(&mut self, order: Order, inner: &Arc<Shared>) -> Result<Option<u64>, Refused> {
        let Order { app, wanted, plan, by, by_file, grown, donor, audit } = order;
        inner.lasting.deploys.busy(&app)?;
        let present = Wanted::of(self.app(&app)?);
        let over = Wanted::of(self.file.app(&app).ok_or_else(|| Refused::NoSuchApp(app.clone()))?);
        let (mut means, found) = match grown {
            Some(Grown { dynos, prober, crashes, verdict }) => {
                (Means { feed: None, verdict: Some(verdict), crashes: Some(crashes), prober }, dynos)
            }
            None => {
                let (feed, found) = self.stage(&app, &wanted).await?;
                (Means { feed: Some(feed), verdict: None, crashes: None, prober: self.prober(&app) }, found)
            }
        };
        let at = now_text();
        let mut begun =
            Begun { id: 0, wanted, from: present, over, donor, by, by_file, at, audit, saved: None };
        let made = self.sides(&app, &begun, found, inner).and_then(|sides| {
            if sides.new.is_empty() {
                return Ok(None);
            }
            let old = Release { id: begun.from.release.clone(), dynos: sides.old };
            let new = Release { id: begun.wanted.release.clone(), dynos: sides.new };
            let deploy = Deploy::new(inner.lasting.now(), old, new, plan);
            deploy.map(Some).map_err(|error| Refused::Wrong(error.to_string()))
        });
        let kept = match made {
            Ok(made) => {
                let kept = inner.lasting.shelf.begin(&app, &mut begun, made.is_some()).await;
                kept.map(|()| made).map_err(Refused::NotKept)
            }
            Err(refused) => Err(refused),
        };
        match kept {
            Ok(Some(mut deploy)) => {
                // It was made a moment ago, so it has not been started before.
                let _ = deploy.start(inner.lasting.now());
                let id = begun.id;
                let event = event_of_deploy(&app, &begun, State::Staged, None);
                event.iter().for_each(|event| inner.lasting.trail.tell(event));
                self.run(&app, deploy, begun, means, inner);
                Ok(Some(id))
            }
            Ok(None) => {
                self.gate.close(&app);
                self.settle_on(&app, &begun, means.feed.take(), inner).await;
                self.gate.open(&app);
                Ok(None)
            }
            Err(refused) => {
                self.not_wanted(means.feed, means.verdict).await;
                Err(refused)
            }
        }
    }

    /// Looks for the dynos of a release that is to come.
    async fn stage(&mut self, app: &AppId, wanted: &Wanted) -> Result<(Feed, Vec<DynoSpec>), Refused> {
        let mut there = self.app(app)?.clone();
        wanted.put(&mut there);
        let feed = self.discoveries.stage(&names::sources_of(&there));
        let _late = timeout(FIRST_ANSWERS, feed.ready()).await;
        let found = feed.found(&self.gate);
        Ok((feed, found))
    }

    /// Who serves now and who is to serve.
    fn sides(
        &self,
        app: &AppId,
        begun: &Begun,
        found: Vec<DynoSpec>,
        inner: &Shared,
    ) -> Result<Sides, Refused> {
        if found.is_empty() && !begun.by_file {
            let sources: Vec<_> = begun.wanted.dynos.iter().map(ToString::to_string).collect();
            let why = format!(
                "release {} has no dynos: nothing was found at {}",
                begun.wanted.release,
                sources.join(", ")
            );
            return Err(Refused::Wrong(why));
        }
        let drained = self.gate.drained(app);
        let snapshot = inner.lasting.router.snapshot();
        let mut old = Vec::new();
        for there in &snapshot.apps {
            for dyno in there.dynos.iter().filter(|dyno| dyno.state != DynoState::Draining) {
                let wanted = found.iter().any(|found| found.address == dyno.address);
                if there.id == *app {
                    old.push(spec(dyno));
                } else if wanted && !begun.by_file && begun.donor.as_ref() != Some(&there.id) {
                    let why = format!("the dyno at {} is app {}'s", dyno.address, there.id);
                    return Err(Refused::Wrong(why));
                }
            }
        }
        let has = |list: &[DynoSpec], address| list.iter().any(|dyno| dyno.address == address);
        let common: BTreeSet<Address> =
            found.iter().map(|dyno| dyno.address).filter(|address| has(&old, *address)).collect();
        if let Some(both) = common.first()
            && begun.wanted.release != begun.from.release
            && !begun.by_file
        {
            let why = format!(
                "the dyno at {both} runs release {}: another release needs dynos of its own, beside the present ones",
                begun.from.release
            );
            return Err(Refused::Wrong(why));
        }
        let beside = |dyno: &DynoSpec| !common.contains(&dyno.address);
        old.retain(beside);
        let new = found.into_iter().filter(beside).filter(|dyno| !drained.contains(&dyno.address)).collect();
        Ok(Sides { old, new })
    }

    /// Lets a deploy run in a task of its own.
    fn run(&self, app: &AppId, deploy: Deploy, begun: Begun, means: Means, inner: &Arc<Shared>) {
        let Means { feed, verdict, crashes, prober } = means;
        let lasting = &inner.lasting;
        self.gate.close(app);
        let (ask, asks) = mpsc::channel(ASKS_MAX);
        let (shown, progress) = watch::channel(deploy.progress(lasting.now()));
        let run = Run {
            app: app.clone(),
            deploy,
            router: lasting.router.clone(),
            prober,
            keep: keep(inner, app),
            asks,
            shown,
            told: tell(inner, app, &begun),
            crashes,
            before: lasting.deploys.of_present(app, lasting.meters.tally(app)),
        };
        let (counts, weak, ended_app, id) =
            (lasting.counts.clone(), Arc::downgrade(inner), app.clone(), begun.id);
        let task = tokio::spawn(async move {
            let outcome = run.run(&counts).await;
            // By a task of its own, because this one ends with the deploy's place in the list.
            tokio::spawn(ended(weak, ended_app, id, outcome));
        });
        let running = Running { begun, feed, verdict, asks: ask, progress, task: task.abort_handle() };
        lasting.deploys.begins(app, running);
    }

    /// Takes a deploy that is over off the list, and puts in place what came of it.
    async fn ended(&mut self, app: &AppId, id: u64, outcome: Outcome, inner: &Arc<Shared>) {
        let Some(ending) = inner.lasting.deploys.ends(app, id) else { return };
        let words::Ending { begun, feed, verdict, progress } = ending;
        let (on_new, cause) = match &outcome {
            Outcome::Done => (true, None),
            Outcome::Failed(cause) => (cause.kind == CauseKind::NoWayBack, Some(cause)),
            Outcome::RolledBack(cause, _) => (false, Some(cause)),
        };
        if on_new {
            self.settle_on(app, &begun, feed, inner).await;
            if let Some(verdict) = verdict {
                verdict(true).await;
            }
        } else {
            self.not_wanted(feed, verdict).await;
            inner.lasting.shelf.stay(app, &begun).await;
        }
        self.gate.open(app);
        if let Some(donor) = &begun.donor {
            self.gate.open(donor);
        }
        match &outcome {
            Outcome::Done => tracing::info!("app {app}: deploy of {} is done", begun.wanted.release),
            bad @ (Outcome::Failed(_) | Outcome::RolledBack(..)) => {
                tracing::warn!("app {app}: deploy of {} {bad}", begun.wanted.release)
            }
        }
        let (state, cause) = (outcome.as_str(), cause.map(ToString::to_string));
        let written = match &outcome {
            Outcome::Done => audit::Outcome::done(),
            bad @ (Outcome::Failed(_) | Outcome::RolledBack(..)) => audit::Outcome::failed(bad.to_string()),
        };
        let mark = inner.lasting.trail.ends(begun.audit.clone(), written).await;
        let event = event_of_deploy(app, &begun, progress.state, Some(&progress));
        event.into_iter().for_each(|event| inner.lasting.trail.tell(&Event { audit: mark.clone(), ..event }));
        let progress = Some(progress);
        inner.lasting.deploys.over(Ended { app: app.clone(), begun, at: now_text(), progress, state, cause });
        self.follow(app, inner).await;
    }

    /// The dynos of a deploy are not those of its app.
    async fn not_wanted(&self, feed: Option<Feed>, verdict: Option<Verdict>) {
        if let Some(feed) = feed {
            self.discoveries.discard(feed).await;
        }
        if let Some(verdict) = verdict {
            verdict(false).await;
        }
    }

    /// The app runs this release from now on.
    async fn settle_on(&mut self, app: &AppId, begun: &Begun, feed: Option<Feed>, inner: &Arc<Shared>) {
        let lasting = &inner.lasting;
        self.put(app, &begun.wanted, inner);
        if let Some(feed) = feed {
            self.discoveries.adopt(feed).await;
        }
        let mut gave = None;
        if let Some(donor) = &begun.donor
            && let Some(there) = self.file.app(donor)
        {
            let over = Wanted::of(there);
            self.put(donor, &Wanted { release: over.release.clone(), dynos: Vec::new() }, inner);
            self.discoveries.apply(names::settings(&self.config), &names::sources(&self.config)).await;
            gave = Some((donor, over));
        }
        lasting.deploys.since(app, lasting.meters.tally(app));
        lasting.shelf.settle(app, begun, gave).await;
    }

    /// What an app runs, in the configuration and in the router.
    fn put(&mut self, app: &AppId, wanted: &Wanted, inner: &Shared) {
        let config = Arc::make_mut(&mut self.config);
        let Some(there) = config.apps.iter_mut().find(|there| there.spec.id == *app) else { return };
        wanted.put(there);
        if let Err(error) = inner.lasting.router.apply(&[Change::PutApp(there.spec.clone())]) {
            tracing::error!("app {app}: {error}");
        }
        inner.shown.store(Arc::new(super::Shown::of(self)));
    }

    /// Asks a deploy that runs; the answer comes by itself.
    pub(super) fn ask(
        &self,
        app: &AppId,
        ask: impl FnOnce(Reply) -> Ask,
        inner: &Shared,
    ) -> Result<oneshot::Receiver<Result<(), WrongState>>, Refused> {
        self.app(app)?;
        let none = || Refused::NotNow(format!("app {app} is not being deployed"));
        let asks = inner.lasting.deploys.asks(app).ok_or_else(none)?;
        let (reply, answer) = oneshot::channel();
        let busy = |_| Refused::NotNow(format!("the deploy of app {app} has too much to answer"));
        asks.try_send(ask(reply)).map_err(busy)?;
        Ok(answer)
    }

    pub(super) fn app(&self, app: &AppId) -> Result<&config::App, Refused> {
        self.config.app(app).ok_or_else(|| Refused::NoSuchApp(app.clone()))
    }

    /// Asks dynos as the app's configuration says.
    fn prober(&self, app: &AppId) -> Prober {
        let probe = self.config.app(app).map(|app| (app.health.probe(), app.spec.limits.clone()));
        Arc::new(move |dyno: DynoSpec| {
            let probe = probe.clone();
            Box::pin(async move {
                match probe {
                    Some((probe, limits)) => {
                        let speech = (limits.protocol, limits.secured());
                        crate::probe::probe(&probe, speech, dyno.address).await
                    }
                    None => Err("its app is gone".to_owned()),
                }
            })
        })
    }
}

/// Where the end of a deploy finds its way back to the daemon.
async fn ended(inner: Weak<Shared>, app: AppId, id: u64, outcome: Outcome) {
    let Some(inner) = inner.upgrade() else { return };
    let mut live = inner.live.lock().await;
    if let Some(live) = live.as_mut() {
        live.ended(&app, id, outcome, &inner).await;
    }
}

/// What tells others of the states of a deploy. Of its end they are told when everything is in place.
fn tell(inner: &Arc<Shared>, app: &AppId, begun: &Begun) -> Box<dyn Fn(&Progress) + Send + Sync> {
    let (inner, app, begun) = (Arc::downgrade(inner), app.clone(), begun.clone());
    Box::new(move |progress| {
        let event = event_of_deploy(&app, &begun, progress.state, Some(progress));
        if let (false, Some(event), Some(inner)) = (progress.state.is_end(), event, inner.upgrade()) {
            inner.lasting.trail.tell(&event);
        }
    })
}

/// What writes a deploy down while it runs.
fn keep(inner: &Arc<Shared>, app: &AppId) -> Keep {
    let (shelf, app) = (inner.lasting.shelf.clone(), app.clone());
    Box::new(move |saved| {
        let (shelf, app) = (shelf.clone(), app.clone());
        Box::pin(async move { shelf.keep(&app, saved).await })
    })
}

fn spec(dyno: &router_core::snapshot::DynoSnapshot) -> DynoSpec {
    DynoSpec {
        address: dyno.address,
        name: dyno.name.clone(),
        concurrency: dyno.concurrency,
        state: DynoHealth::Ready,
        release: Some(dyno.release.clone()),
    }
}

/// Now, in RFC 3339.
pub(super) fn now_text() -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + clock::wall()).to_string()
}
