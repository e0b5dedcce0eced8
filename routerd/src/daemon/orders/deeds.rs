//! What orders do: deploys, holds and drains of one app.

use std::sync::Arc;
use std::time::Duration;

use router_core::change::{Change, Hold};
use router_core::ids::{Address, AppId, ReleaseId};
use router_core::policy::deploy::Plan;
use tokio::time::{Instant, sleep};

use super::super::Shared;
use super::super::live::Live;
use super::super::release::{self, Refused};
use super::{Obeyed, begun, ending, invalid, said};
use crate::audit::Seq;
use crate::config::DynoSource;
use crate::control::{CanaryOrder, PlanOrder, Receipt, Refusal, RefusalKind};
use crate::deploys::book::Wanted;
use crate::deploys::grown::Grower;

/// How long a promotion waits for the last requests of the app that gives its dynos.
const DONOR_DRAIN: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// Who asks for a deploy, and where the audit trail says so.
pub(super) struct Asker {
    pub(super) by: String,
    pub(super) audit: Option<Seq>,
}

impl Asker {
    fn order(self, app: &AppId, wanted: Wanted, plan: Plan) -> release::Order {
        release::Order { audit: self.audit, ..release::Order::new(app, wanted, plan, self.by) }
    }
}

impl Live {
    pub(super) async fn deploy(
        &mut self,
        app: &AppId,
        release: &str,
        dynos: &[String],
        (canary, plan): (Option<CanaryOrder>, &PlanOrder),
        asker: Asker,
        inner: &Arc<Shared>,
    ) -> Result<Obeyed, Refusal> {
        let base = self.app(app)?.plan.clone().with_canary(canary.map(|rule| rule.0));
        let plan = plan.over(base).map_err(|error| invalid(error.to_string()))?;
        if grower(app, inner).is_some() {
            if let Some(dyno) = dynos.first() {
                return Err(invalid(format!(
                    "the dynos of app {app} are started here: {dyno} is not one of them"
                )));
            }
            return self.grow(app, release.into(), plan, asker, true, inner).await;
        }
        if dynos.is_empty() {
            return Err(invalid(format!("release {release} needs dynos, and there is none in the list")));
        }
        let dynos: Result<Vec<_>, _> = dynos.iter().map(|text| DynoSource::parse(text)).collect();
        let wanted = Wanted { release: release.into(), dynos: dynos.map_err(invalid)? };
        let order = asker.order(app, wanted, plan);
        let deploy = self.begin(order, inner).await?;
        Ok(begun(app, release, deploy))
    }

    /// The same release in new processes.
    pub(super) async fn restart(
        &mut self,
        app: &AppId,
        asker: Asker,
        inner: &Arc<Shared>,
    ) -> Result<Obeyed, Refusal> {
        let there = self.app(app)?;
        if grower(app, inner).is_none() {
            let why = format!(
                "the dynos of app {app} are not started here: deploy a release with dynos of its own"
            );
            return Err(Refusal::new(RefusalKind::Unsupported, why));
        }
        let (release, plan) = (there.spec.release.clone(), there.plan.clone());
        self.grow(app, release, plan, asker, false, inner).await
    }

    /// A release whose dynos are started for it.
    pub(super) async fn grow(
        &mut self,
        app: &AppId,
        release: ReleaseId,
        plan: Plan,
        asker: Asker,
        anew: bool,
        inner: &Arc<Shared>,
    ) -> Result<Obeyed, Refusal> {
        inner.lasting.deploys.busy(app)?;
        let Some(grower) = grower(app, inner) else { return Err(ending()) };
        let grown = grower.grow(anew).await.map_err(Refused::NotNow)?;
        let wanted = Wanted { release: release.clone(), dynos: Vec::new() };
        let order = release::Order { grown: Some(grown), ..asker.order(app, wanted, plan) };
        let deploy = self.begin(order, inner).await?;
        Ok(begun(app, release.as_str(), deploy))
    }

    /// The release before the present one, once more.
    pub(super) async fn back(
        &mut self,
        app: &AppId,
        asker: Asker,
        inner: &Arc<Shared>,
    ) -> Result<Obeyed, Refusal> {
        if grower(app, inner).is_some() {
            let why = format!(
                "the processes of the release before are gone: deploy it again, or restart app {app}"
            );
            return Err(Refused::NotNow(why).into());
        }
        let plan = self.app(app)?.plan.clone();
        let page = inner.lasting.shelf.page(app);
        let Some(previous) = page.previous() else {
            return Err(Refused::NotNow(format!("app {app} has had no other release to go back to")).into());
        };
        let (wanted, release) = (previous.wanted.clone(), previous.wanted.release.clone());
        let deploy = self.begin(asker.order(app, wanted, plan), inner).await?;
        Ok(begun(app, release.as_str(), deploy))
    }

    /// Another app's release and its very dynos.
    pub(super) async fn promote(
        &mut self,
        app: &AppId,
        from: &AppId,
        asker: Asker,
        inner: &Arc<Shared>,
    ) -> Result<Obeyed, Refusal> {
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
        let order = release::Order { donor: Some(from.clone()), ..asker.order(app, wanted, plan) };
        let result = self.begin(order, inner).await;
        if !matches!(result, Ok(Some(_))) {
            self.gate.open(from);
        }
        Ok(begun(app, release.as_str(), result?))
    }

    pub(super) fn hold(&self, app: &AppId, hold: Hold, inner: &Shared) -> Result<(), Refused> {
        self.app(app)?;
        let held = inner.lasting.router.apply(&[Change::Hold(app.clone(), hold)]);
        held.map_err(|error| Refused::NotNow(error.to_string()))
    }

    pub(super) async fn maintain(
        &self,
        app: &AppId,
        on: bool,
        inner: &Arc<Shared>,
    ) -> Result<Receipt, Refusal> {
        self.app(app)?;
        let kept = inner.lasting.shelf.turn(app, |page| page.maintenance = on).await;
        kept.map_err(Refused::NotKept)?;
        self.hold(app, Hold::Maintenance(on), inner)?;
        let what = if on { "every new request is refused" } else { "requests are served again" };
        Ok(said(format!("{app}: {what}")))
    }

    pub(super) async fn drain(
        &self,
        app: &AppId,
        dyno: &str,
        inner: &Arc<Shared>,
    ) -> Result<Receipt, Refusal> {
        self.app(app)?;
        inner.lasting.deploys.busy(app)?;
        let address = address_of(app, dyno, inner)?;
        let kept = inner.lasting.shelf.turn(app, |page| page.drained.insert(address)).await;
        kept.map_err(Refused::NotKept)?;
        self.gate.drain(app, address);
        Ok(said(format!("{app}: {dyno} gets no further request")))
    }

    pub(super) async fn undrain(
        &self,
        app: &AppId,
        dyno: &str,
        inner: &Arc<Shared>,
    ) -> Result<Receipt, Refusal> {
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

/// Who starts the dynos of that app.
fn grower(app: &AppId, inner: &Shared) -> Option<Arc<dyn Grower>> {
    inner.lasting.grower.get().filter(|grower| grower.app() == app).cloned()
}

/// Takes an app's dynos out of the router and waits for their last requests.
async fn let_go(app: &AppId, inner: &Shared) -> Result<(), Refused> {
    let router = &inner.lasting.router;
    let dynos = || router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
    let leave = dynos().into_iter().map(|dyno| Change::RemoveDyno(app.clone(), dyno.address));
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
fn address_of(app: &AppId, dyno: &str, inner: &Shared) -> Result<Address, Refusal> {
    let there = inner.lasting.router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
    let found = there.iter().find(|it| it.name.as_str() == dyno || it.address.to_string() == dyno);
    let none = || Refusal::new(RefusalKind::NotFound, format!("app {app} has no dyno {dyno}"));
    found.map(|dyno| dyno.address).ok_or_else(none)
}
