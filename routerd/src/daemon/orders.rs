//! Carries out what the admin interface asks of the daemon.

use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::{ReloadError, Shared};
use crate::control::{
    Actor, AppFacts, Control, DecidedBy, DeployView, Mode, Order, Receipt, Refusal, RefusalKind, ReleaseView,
};

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

    async fn reload(&self, actor: &Actor) -> Result<Receipt, Refusal> {
        let why = match &actor.from {
            Some(from) => format!("{} at {from} asks for it", actor.name),
            None => format!("{} asks for it", actor.name),
        };
        match self.daemon()?.reload_again(&why).await {
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
                    ReloadError::Interrupted => RefusalKind::Unavailable,
                };
                Err(Refusal::new(kind, format!("nothing was changed: {error}")))
            }
        }
    }
}

impl Control for Orders {
    fn order(
        &self,
        actor: Actor,
        order: Order,
    ) -> Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>> {
        let orders = self.clone();
        Box::pin(async move {
            if order == Order::Reload {
                return orders.reload(&actor).await;
            }
            let text = format!("this daemon cannot {} yet", order.verb());
            Err(Refusal::new(RefusalKind::Unsupported, text))
        })
    }

    fn deploys(&self, _app: Option<&str>) -> Vec<DeployView> {
        Vec::new()
    }

    fn releases(&self, app: &str) -> Vec<ReleaseView> {
        let Ok(daemon) = self.daemon() else { return Vec::new() };
        let (config, loaded) = (daemon.config(), daemon.lasting.reloads.account().loaded);
        let since = humantime::format_rfc3339_millis(UNIX_EPOCH + loaded).to_string();
        let of_app = config.apps.iter().filter(|it| it.spec.id.as_str() == app);
        of_app
            .map(|it| ReleaseView {
                app: app.to_owned(),
                release: it.spec.release.to_string(),
                dynos: it.dynos.iter().map(ToString::to_string).collect(),
                since: since.clone(),
                by: "the configuration file".to_owned(),
                how: DecidedBy::File,
                current: true,
            })
            .collect()
    }

    fn facts(&self) -> Vec<AppFacts> {
        let Ok(daemon) = self.daemon() else { return Vec::new() };
        let one = |app: &crate::config::App| AppFacts {
            app: app.spec.id.to_string(),
            source: DecidedBy::File,
            file_release: app.spec.release.to_string(),
            mode: Mode::Open,
            deploy: None,
            drained: Vec::new(),
        };
        daemon.config().apps.iter().map(one).collect()
    }

    fn audit(&self, _app: Option<&str>, _limit: usize) -> Result<Vec<Value>, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no audit trail"))
    }

    fn verify_audit(&self) -> Result<String, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no audit trail"))
    }
}
