//! Carries out what is asked of the daemon, one order after the other, and says how things stand.

mod deeds;

use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use router_core::change::Hold;
use router_core::ids::AppId;
use router_core::policy::deploy::WrongState;
use router_core::snapshot::AppSnapshot;
use serde_json::json;
use tokio::sync::oneshot;

use self::deeds::Asker;
use super::release::{self, Refused};
use super::trail::event_of;
use super::{ReloadError, Shared};
use crate::audit::{Asked, Outcome, Seq};
use crate::config::units::Period;
use crate::control::{
    Actor, AppFacts, Control, DecidedBy, DeployView, Mode, Order, Receipt, Refusal, RefusalKind, ReleaseView,
};
use crate::deploys::book::{Page, Wanted};
use crate::deploys::run::Ask;
use crate::handover::Ordered;
use crate::webhooks::Event;

/// The daemon as orders see it. Clones are the same; none of them keeps the daemon alive.
#[derive(Clone, Default)]
pub(super) struct Orders(Arc<OnceLock<Weak<Shared>>>);

impl Orders {
    /// From now on orders go to this daemon. Until then they are refused: the admin listener answers while it starts.
    pub(super) fn are_for(&self, daemon: &Arc<Shared>) {
        // It is called once, by the daemon's start.
        let _ = self.0.set(Arc::downgrade(daemon));
    }

    fn daemon(&self) -> Result<Arc<Shared>, Refusal> {
        let unavailable = |text| Refusal::new(RefusalKind::Unavailable, text);
        let daemon = self.0.get().ok_or_else(|| unavailable("the daemon is starting"))?;
        daemon.upgrade().ok_or_else(|| unavailable("the daemon is ending"))
    }
}

impl Control for Orders {
    fn order(
        &self,
        actor: Actor,
        order: Order,
    ) -> Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>> {
        let inner = self.daemon();
        Box::pin(async move {
            let inner = inner?;
            // Whoever waits may leave; what has begun is brought to its end.
            let task = tokio::spawn(async move { carry_out(&inner, &actor, order).await });
            task.await.unwrap_or_else(|_| Err(ending()))
        })
    }

    fn deploys(&self, app: Option<&str>) -> Vec<DeployView> {
        let Ok(inner) = self.daemon() else { return Vec::new() };
        let all = inner.lasting.deploys.list(view);
        all.into_iter().filter(|deploy| app.is_none_or(|app| deploy.app == app)).collect()
    }

    fn releases(&self, app: &str) -> Vec<ReleaseView> {
        let Ok(inner) = self.daemon() else { return Vec::new() };
        let config = Arc::clone(&inner.shown.load().config);
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
        let Ok(inner) = self.daemon() else { return Vec::new() };
        let file = Arc::clone(&inner.shown.load().file);
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
                mode: mode(app),
                deploy: running.iter().flatten().find(|deploy| deploy.app == name).cloned(),
                drained: page.map(drained).unwrap_or_default(),
            })
        };
        snapshot.apps.iter().filter_map(one).collect()
    }

    fn audit(&self, app: Option<&str>, limit: usize) -> Result<Vec<serde_json::Value>, Refusal> {
        self.daemon()?.lasting.trail.tail(app, limit)
    }

    fn verify_audit(&self) -> Result<String, Refusal> {
        self.daemon()?.lasting.trail.verify()
    }
}

/// One order, from the line in the audit trail that it is asked for to the one that says what came of it.
async fn carry_out(inner: &Arc<Shared>, actor: &Actor, order: Order) -> Result<Receipt, Refusal> {
    // An upgrade is nothing that a hand-over would have to wait for.
    let _under_way = if order == Order::Upgrade { None } else { Some(inner.under_way.read().await) };
    if inner.heir.stage().borrow().is_handed_over() {
        let text = "another process has taken over: ask again, it answers in place of this one";
        return Err(Refusal::new(RefusalKind::Unavailable, text));
    }
    // What waits in a line that is held is to be served; all else would begin what has no time to end.
    if inner.is_ending() && !matches!(order, Order::Resume { .. }) {
        return Err(ending());
    }
    let trail = &inner.lasting.trail;
    let app = order.app().map(AppId::from);
    let before = app.as_ref().and_then(|app| inner.shown.load().config.app(app).map(Wanted::of));
    let asked = Asked {
        who: actor.name.clone(),
        from: actor.from.clone(),
        what: order.verb().to_owned(),
        app: app.map(|app| app.to_string()),
        before: before.and_then(|before| serde_json::to_value(before).ok()),
        after: Some(order.body()),
    };
    let seq = trail.begins(asked).await?;
    let result = obey(inner, actor, order.clone(), seq.clone()).await;
    let outcome = match &result {
        Ok(Obeyed { begun: true, .. }) => None,
        Ok(Obeyed { begun: false, .. }) => Some(Outcome::done()),
        Err(refusal) => Some(Outcome::refused(refusal.text.clone())),
    };
    let mut mark = None;
    if let Some(outcome) = outcome {
        mark = trail.ends(seq, outcome).await;
    }
    let Obeyed { receipt, .. } = result?;
    if let Some(event) = event_of(&order, &actor.name, &receipt.text) {
        trail.tell(&Event { audit: mark, ..event });
    }
    Ok(receipt)
}

async fn reload(inner: &Arc<Shared>, actor: &Actor) -> Result<Receipt, Refusal> {
    let why = match &actor.from {
        Some(from) => format!("{} at {from} asks for it", actor.name),
        None => format!("{} asks for it", actor.name),
    };
    match inner.reload_told(&why).await {
        Ok((_, diff)) => {
            let text = diff.to_string();
            let lines: Vec<_> = text.lines().collect();
            let details = Some(json!({ "changes": lines }));
            Ok(Receipt { text: format!("reloaded: {}", text.trim_end()), deploy: None, details })
        }
        Err(error) => {
            let kind = match error {
                ReloadError::Config(_) => RefusalKind::Invalid,
                ReloadError::Start(_) => RefusalKind::Conflict,
                ReloadError::NoFile => RefusalKind::Unsupported,
                ReloadError::NotKept(_) | ReloadError::Interrupted => RefusalKind::Unavailable,
            };
            Err(Refusal::new(kind, format!("nothing was changed: {error}")))
        }
    }
}

/// What came of an order.
struct Obeyed {
    receipt: Receipt,
    /// It has begun, and how it comes out is told elsewhere.
    begun: bool,
}

impl From<Receipt> for Obeyed {
    fn from(receipt: Receipt) -> Self {
        Self { receipt, begun: false }
    }
}

async fn obey(
    inner: &Arc<Shared>,
    actor: &Actor,
    order: Order,
    audit: Option<Seq>,
) -> Result<Obeyed, Refusal> {
    let mut slot = inner.live.lock().await;
    let live = slot.as_mut().ok_or_else(ending)?;
    let asker = Asker { by: actor.name.clone(), audit };
    let said = match order {
        Order::Deploy { app, release, dynos, canary, plan } => {
            return live.deploy(&app.into(), &release, &dynos, (canary, &plan), asker, inner).await;
        }
        Order::Promote { app, from: None } => {
            let answer = live.ask(&app.as_str().into(), Ask::Promote, inner)?;
            drop(slot);
            answered(answer).await?;
            said(format!("{app}: the canary becomes the release"))
        }
        Order::Promote { app, from: Some(from) } => {
            return live.promote(&app.into(), &from.into(), asker, inner).await;
        }
        Order::RollBack { app, why } => {
            let (id, by) = (AppId::from(app.as_str()), &asker.by);
            let why = why.map_or_else(|| format!("{by} asked for it"), |why| format!("{by}: {why}"));
            if inner.lasting.deploys.busy(&id).is_ok() {
                return live.back(&id, asker, inner).await;
            }
            let answer = live.ask(&id, |reply| Ask::RollBack(why, reply), inner)?;
            let number = inner.lasting.deploys.number(&id);
            drop(slot);
            answered(answer).await?;
            Receipt { deploy: number, ..said(format!("{app}: the deploy is taken back")) }
        }
        Order::Canary { app, rule } => {
            let answer = live.ask(&app.as_str().into(), |reply| Ask::Canary(rule.0.clone(), reply), inner)?;
            drop(slot);
            answered(answer).await?;
            said(format!("{app}: the canary serves {rule}"))
        }
        Order::Drain { app, dyno } => live.drain(&app.into(), &dyno, inner).await?,
        Order::Undrain { app, dyno } => live.undrain(&app.into(), &dyno, inner).await?,
        Order::Pause { app, at_most } => {
            let at_most = at_most.unwrap_or(Hold::PAUSE_DEFAULT).min(Hold::PAUSE_MAX);
            live.hold(&app.as_str().into(), Hold::Pause { at_most, over: Hold::RESUME_DEFAULT }, inner)?;
            said(format!("{app}: requests are held in line, for {} at most", Period(at_most)))
        }
        Order::Resume { app, over } => {
            let over = over.unwrap_or(Hold::RESUME_DEFAULT).min(Hold::RESUME_MAX);
            live.hold(&app.as_str().into(), Hold::Resume { over }, inner)?;
            said(format!("{app}: requests are served again, all dynos within {}", Period(over)))
        }
        Order::Maintenance { app, on } => live.maintain(&app.into(), on, inner).await?,
        Order::Restart { app } => return live.restart(&app.into(), asker, inner).await,
        // It takes the lock itself.
        Order::Reload => {
            drop(slot);
            reload(inner, actor).await?
        }
        Order::Upgrade => {
            // Whoever takes over needs it.
            drop(slot);
            let ordered = Ordered::new(asker.by, asker.audit, inner.lasting.trail.file());
            let pid = inner.heir.upgrade(ordered).await?;
            let receipt = said(format!("process {pid} has taken over; this one finishes what it has"));
            // That it is done is written down by the other process.
            return Ok(Obeyed { receipt, begun: true });
        }
    };
    Ok(said.into())
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

fn mode(app: &AppSnapshot) -> Mode {
    match &app.held {
        _ if app.maintenance => Mode::Maintenance,
        Some(held) if held.paused > Duration::ZERO => Mode::Paused,
        Some(_) => Mode::Resuming,
        None => Mode::Open,
    }
}

fn drained(page: &Page) -> Vec<String> {
    page.drained.iter().map(ToString::to_string).collect()
}

fn begun(app: &AppId, release: &str, deploy: Option<u64>) -> Obeyed {
    let text = match deploy {
        Some(id) => format!("{app}: deploy {id} of {release} has begun"),
        None => format!("{app}: {release} is in place; no dyno had to be started for it"),
    };
    Obeyed { receipt: Receipt { deploy, ..said(text) }, begun: deploy.is_some() }
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
