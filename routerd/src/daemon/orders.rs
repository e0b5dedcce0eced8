//! Carries out what is asked of the daemon, one order after the other, and says how things stand.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use router_core::ids::{Address, AppId};
use router_core::policy::deploy::WrongState;
use router_core::snapshot::AppSnapshot;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Inner;
use super::live::Live;
use super::release::{self, Refused};
use crate::config::DynoSource;
use crate::control::{
    Actor, AppFacts, CanaryOrder, Control, DecidedBy, DeployView, Mode, Order, PlanOrder, Receipt, Refusal,
    RefusalKind, ReleaseView,
};
use crate::deploys::book::{Page, Wanted};
use crate::deploys::run::Ask;

/// How long a promotion waits for the last requests of the app that gives its dynos.
const DONOR_DRAIN: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// The daemon as whoever brings orders sees it. It does not keep the daemon alive.
#[derive(Clone)]
pub(super) struct Orders(pub(super) Weak<Inner>);

impl Control for Orders {
    fn order(
        &self,
        actor: Actor,
        order: Order,
    ) -> Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>> {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let inner = inner.ok_or_else(ending)?;
            // Whoever waits may leave; what has begun is brought to its end.
            let task = tokio::spawn(async move { carry_out(&inner, &actor, order).await });
            task.await.unwrap_or_else(|_| Err(ending()))
        })
    }

    fn deploys(&self, app: Option<&str>) -> Vec<DeployView> {
        let Some(inner) = self.0.upgrade() else { return Vec::new() };
        let all = inner.lasting.deploys.list(view);
        all.into_iter().filter(|deploy| app.is_none_or(|app| deploy.app == app)).collect()
    }

    fn releases(&self, app: &str) -> Vec<ReleaseView> {
        let Some(inner) = self.0.upgrade() else { return Vec::new() };
        let Some((config, _)) = inner.shown.load().configs.clone() else { return Vec::new() };
        let Some(present) = config.app(&app.into()).map(Wanted::of) else { return Vec::new() };
        let page = inner.lasting.shelf.page(&app.into());
        let one = |past: &crate::deploys::book::Past| ReleaseView {
            app: app.to_owned(),
            release: past.wanted.release.to_string(),
            dynos: past.wanted.dynos.iter().map(ToString::to_string).collect(),
            since: past.since.clone(),
            by: past.by.clone(),
            how: if past.by_file { DecidedBy::File } else { DecidedBy::Api },
            current: past.wanted == present,
        };
        page.releases.iter().rev().map(one).collect()
    }

    fn facts(&self) -> Vec<AppFacts> {
        let Some(inner) = self.0.upgrade() else { return Vec::new() };
        let Some((_, file)) = inner.shown.load().configs.clone() else { return Vec::new() };
        let book = inner.lasting.shelf.read();
        let running = inner
            .lasting
            .deploys
            .list(|app, begun, progress, ended| ended.is_none().then(|| view(app, begun, progress, ended)));
        let snapshot = inner.lasting.router.snapshot();
        let one = |app: &AppSnapshot| {
            let file = file.app(&app.id)?;
            let page = book.apps.get(&app.id);
            let decided = page.is_some_and(|page| page.is_decided(&Wanted::of(file)));
            let name = app.id.as_str();
            Some(AppFacts {
                app: name.to_owned(),
                source: if decided { DecidedBy::Api } else { DecidedBy::File },
                file_release: file.spec.release.to_string(),
                mode: Mode::Open,
                deploy: running.iter().flatten().find(|deploy| deploy.app == name).cloned(),
                drained: page.map(drained).unwrap_or_default(),
            })
        };
        snapshot.apps.iter().filter_map(one).collect()
    }

    fn audit(&self, _app: Option<&str>, _limit: usize) -> Result<Vec<serde_json::Value>, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no audit trail: [audit] is not configured"))
    }

    fn verify_audit(&self) -> Result<String, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no audit trail: [audit] is not configured"))
    }
}

/// One order, from its lock to its receipt.
async fn carry_out(inner: &Arc<Inner>, actor: &Actor, order: Order) -> Result<Receipt, Refusal> {
    let mut slot = inner.live.lock().await;
    let live = slot.as_mut().ok_or_else(ending)?;
    let by = actor.name.clone();
    match order {
        Order::Deploy { app, release, dynos, canary, plan } => {
            live.deploy(&app.into(), &release, &dynos, (canary, &plan), by, inner).await
        }
        Order::Promote { app, from: None } => {
            let answer = live.ask(&app.as_str().into(), Ask::Promote, inner)?;
            drop(slot);
            answered(answer).await?;
            Ok(said(format!("{app}: the canary becomes the release")))
        }
        Order::Promote { app, from: Some(from) } => live.promote(&app.into(), &from.into(), by, inner).await,
        Order::RollBack { app, why } => {
            let id = AppId::from(app.as_str());
            let why = why.map_or_else(|| format!("{by} asked for it"), |why| format!("{by}: {why}"));
            if inner.lasting.deploys.busy(&id).is_ok() {
                return live.back(&id, by, inner).await;
            }
            let answer = live.ask(&id, |reply| Ask::RollBack(why, reply), inner)?;
            let number = inner.lasting.deploys.number(&id);
            drop(slot);
            answered(answer).await?;
            Ok(Receipt { deploy: number, ..said(format!("{app}: the deploy is taken back")) })
        }
        Order::Canary { app, rule } => {
            let answer = live.ask(&app.as_str().into(), |reply| Ask::Canary(rule.0.clone(), reply), inner)?;
            drop(slot);
            answered(answer).await?;
            Ok(said(format!("{app}: the canary serves {rule}")))
        }
        Order::Drain { app, dyno } => live.drain(&app.into(), &dyno, inner).await,
        Order::Undrain { app, dyno } => live.undrain(&app.into(), &dyno, inner).await,
        Order::Pause { .. } | Order::Resume { .. } | Order::Maintenance { .. } | Order::Restart { .. } => {
            Err(Refusal::new(RefusalKind::Unsupported, "not yet"))
        }
        Order::Upgrade => {
            // Whoever takes over needs it.
            drop(slot);
            let unknown = "it is not known how this process was started, so it cannot be started anew";
            let upgrade = inner.upgrade().ok_or_else(|| Refusal::new(RefusalKind::Unsupported, unknown))?;
            let pid =
                upgrade.await.map_err(|error| Refusal::new(RefusalKind::Conflict, error.to_string()))?;
            Ok(said(format!("process {pid} has taken over; this one finishes what it has")))
        }
        Order::Reload => Err(Refusal::new(RefusalKind::Unsupported, "not yet")),
    }
}

impl Live {
    async fn deploy(
        &mut self,
        app: &AppId,
        release: &str,
        dynos: &[String],
        (canary, plan): (Option<CanaryOrder>, &PlanOrder),
        by: String,
        inner: &Arc<Inner>,
    ) -> Result<Receipt, Refusal> {
        let base = self.app(app)?.plan.clone().with_canary(canary.map(|rule| rule.0));
        let plan = plan.over(base).map_err(|error| invalid(error.to_string()))?;
        let dynos: Result<Vec<_>, _> = dynos.iter().map(|text| DynoSource::parse(text)).collect();
        let wanted = Wanted { release: release.into(), dynos: dynos.map_err(invalid)? };
        let order = release::Order::new(app, wanted, plan, by);
        let deploy = self.begin(order, inner).await?;
        Ok(begun(app, release, deploy))
    }

    /// The release before the present one, once more.
    async fn back(&mut self, app: &AppId, by: String, inner: &Arc<Inner>) -> Result<Receipt, Refusal> {
        let plan = self.app(app)?.plan.clone();
        let page = inner.lasting.shelf.page(app);
        let Some(previous) = page.previous() else {
            return Err(Refused::NotNow(format!("app {app} has had no other release to go back to")).into());
        };
        let (wanted, release) = (previous.wanted.clone(), previous.wanted.release.clone());
        let deploy = self.begin(release::Order::new(app, wanted, plan, by), inner).await?;
        Ok(begun(app, release.as_str(), deploy))
    }

    /// Another app's release and its very dynos.
    async fn promote(
        &mut self,
        app: &AppId,
        from: &AppId,
        by: String,
        inner: &Arc<Inner>,
    ) -> Result<Receipt, Refusal> {
        let plan = self.app(app)?.plan.clone();
        let wanted = Wanted::of(self.app(from)?);
        inner.lasting.deploys.busy(app)?;
        inner.lasting.deploys.busy(from)?;
        if wanted.dynos.is_empty() {
            return Err(Refused::NotNow(format!("app {from} has no dynos to give")).into());
        }
        // Its dynos leave it first: probes and requests of the other app must not meet its last ones.
        self.gate.close(from);
        if let Err(busy) = let_go(from, inner).await {
            self.gate.open(from);
            return Err(busy.into());
        }
        let release = wanted.release.clone();
        let order =
            release::Order { donor: Some(from.clone()), ..release::Order::new(app, wanted, plan, by) };
        let result = self.begin(order, inner).await;
        if !matches!(result, Ok(Some(_))) {
            self.gate.open(from);
        }
        Ok(begun(app, release.as_str(), result?))
    }

    async fn drain(&self, app: &AppId, dyno: &str, inner: &Arc<Inner>) -> Result<Receipt, Refusal> {
        self.app(app)?;
        inner.lasting.deploys.busy(app)?;
        let address = address_of(app, dyno, inner)?;
        let kept = inner.lasting.shelf.turn(app, |page| page.drained.insert(address)).await;
        kept.map_err(Refused::NotKept)?;
        self.gate.drain(app, address);
        Ok(said(format!("{app}: {dyno} gets no further request")))
    }

    async fn undrain(&self, app: &AppId, dyno: &str, inner: &Arc<Inner>) -> Result<Receipt, Refusal> {
        self.app(app)?;
        let drained = self.gate.drained(app);
        let named = |address: &&Address| address.to_string() == dyno;
        let address = match drained.iter().find(named) {
            Some(address) => *address,
            None => address_of(app, dyno, inner)?,
        };
        if !drained.contains(&address) {
            return Err(Refused::NotNow(format!("{dyno} of app {app} was not drained by hand")).into());
        }
        let kept = inner.lasting.shelf.turn(app, |page| page.drained.remove(&address)).await;
        kept.map_err(Refused::NotKept)?;
        self.gate.undrain(app, address);
        Ok(said(format!("{app}: {dyno} gets requests again")))
    }
}

/// Takes an app's dynos out of the router and waits for their last requests.
async fn let_go(app: &AppId, inner: &Inner) -> Result<(), Refused> {
    let router = &inner.lasting.router;
    let dynos = || router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
    let leave =
        dynos().into_iter().map(|dyno| router_core::change::Change::RemoveDyno(app.clone(), dyno.address));
    router.apply(&leave.collect::<Vec<_>>()).map_err(|error| Refused::NotNow(error.to_string()))?;
    let deadline = Instant::now() + DONOR_DRAIN;
    while let Some(busy) = dynos().first() {
        if Instant::now() >= deadline {
            let why = format!("{} of app {app} is still busy after {DONOR_DRAIN:?}", busy.name);
            return Err(Refused::NotNow(why));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// A dyno by its name or address.
fn address_of(app: &AppId, dyno: &str, inner: &Inner) -> Result<Address, Refusal> {
    let there = inner.lasting.router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
    let found = there.iter().find(|it| it.name.as_str() == dyno || it.address.to_string() == dyno);
    let none = || Refusal::new(RefusalKind::NotFound, format!("app {app} has no dyno {dyno}"));
    found.map(|dyno| dyno.address).ok_or_else(none)
}

async fn answered(answer: oneshot::Receiver<Result<(), WrongState>>) -> Result<(), Refusal> {
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(wrong)) => Err(Refusal::new(RefusalKind::Conflict, wrong.to_string())),
        Err(_) => Err(Refusal::new(RefusalKind::Conflict, "the deploy has just ended")),
    }
}

fn view(
    app: &AppId,
    begun: &crate::deploys::book::Begun,
    progress: Option<&router_core::policy::deploy::Progress>,
    ended: Option<&release::Ended>,
) -> DeployView {
    DeployView {
        id: begun.id,
        app: app.to_string(),
        old: begun.from.release.to_string(),
        new: begun.wanted.release.to_string(),
        by: begun.by.clone(),
        began: begun.at.clone(),
        ended: ended.map(|ended| ended.at.clone()),
        ..match progress {
            Some(progress) => {
                DeployView::new((begun.id, app.as_str()), &begun.by, (begun.at.clone(), None), progress)
            }
            None => DeployView::unbegun(ended.map_or("staged", |ended| ended.state)),
        }
    }
    .with_cause(ended.and_then(|ended| ended.cause.clone()))
}

fn drained(page: &Page) -> Vec<String> {
    page.drained.iter().map(ToString::to_string).collect()
}

fn begun(app: &AppId, release: &str, deploy: Option<u64>) -> Receipt {
    let text = match deploy {
        Some(id) => format!("{app}: deploy {id} of {release} has begun"),
        None => format!("{app}: {release} is in place; no dyno had to be started for it"),
    };
    Receipt { deploy, ..said(text) }
}

fn said(text: String) -> Receipt {
    Receipt { text, ..Receipt::default() }
}

fn invalid(text: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text)
}

fn ending() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "the daemon is ending")
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let kind = match &refused {
            Refused::NoSuchApp(_) => RefusalKind::NotFound,
            Refused::Busy(_) | Refused::NotNow(_) => RefusalKind::Conflict,
            Refused::Wrong(_) => RefusalKind::Invalid,
            Refused::NotKept(_) => RefusalKind::Unavailable,
        };
        Self::new(kind, refused.to_string())
    }
}
