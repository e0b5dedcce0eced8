//! What file and decisions want, and what an app runs: how the second follows the first, also over a restart.

use std::sync::Arc;

use router_core::change::{Change, Hold};
use router_core::ids::AppId;
use router_core::policy::deploy::Deploy;

use super::super::Shared;
use super::super::live::Live;
use super::words::{Ended, Order, Refused};
use super::{Means, now_text};
use crate::audit::{self, Asked};
use crate::config;
use crate::deploys::book::{Begun, Book, Page, Wanted};

impl Live {
    /// Begins a deploy if the app is to run something else than it does.
    pub(crate) async fn follow(&mut self, app: &AppId, inner: &Arc<Shared>) {
        let (Ok(there), Some(file)) = (self.app(app), self.file.app(app)) else { return };
        if inner.lasting.deploys.busy(app).is_err() {
            // It is asked again when that has ended.
            return;
        }
        let wanted = inner.lasting.shelf.page(app).wanted(&Wanted::of(file));
        if wanted == Wanted::of(there) {
            return;
        }
        let (plan, by, from) = (file.plan.clone(), "the configuration file".to_owned(), Wanted::of(there));
        let asked = Asked {
            who: by.clone(),
            what: "deploy".to_owned(),
            app: Some(app.to_string()),
            before: json(&from),
            after: json(&wanted),
            ..Asked::default()
        };
        let result = match inner.lasting.trail.begins(asked).await {
            Err(refused) => Err(refused),
            Ok(audit) => {
                let order = Order::new(app, wanted.clone(), plan, by.clone());
                let order = Order { by_file: true, audit: audit.clone(), ..order };
                let result = Box::pin(self.begin(order, inner)).await;
                let outcome = match &result {
                    Ok(Some(_)) => None,
                    Ok(None) => Some(audit::Outcome::done()),
                    Err(refused) => Some(audit::Outcome::refused(refused.to_string())),
                };
                if let Some(outcome) = outcome {
                    inner.lasting.trail.ends(audit, outcome).await;
                }
                result
            }
        };
        if let Err(refused) = result {
            tracing::warn!("app {app}: release {} cannot be deployed: {refused}", wanted.release);
            let (over, at) = (wanted.clone(), now_text());
            let begun = Begun {
                id: 0,
                wanted,
                from,
                over,
                donor: None,
                by,
                by_file: true,
                at: at.clone(),
                audit: None,
                saved: None,
            };
            inner.lasting.shelf.stay(app, &begun).await;
            let cause = Some(refused.to_string());
            inner.lasting.deploys.over(Ended {
                app: app.clone(),
                begun,
                at,
                progress: None,
                state: "failed",
                cause,
            });
        }
    }

    /// The same for all apps.
    pub(crate) async fn follow_all(&mut self, inner: &Arc<Shared>) {
        let apps: Vec<_> = self.config.apps.iter().map(|app| app.spec.id.clone()).collect();
        for app in apps {
            self.follow(&app, inner).await;
        }
    }

    /// Goes on with a deploy that a restart has interrupted.
    pub(crate) async fn resume(&mut self, app: &AppId, begun: Begun, inner: &Arc<Shared>) {
        let Some(saved) = begun.saved.clone() else {
            // It had done nothing yet; if the file asks for it, it begins anew.
            return inner.lasting.shelf.forget_deploy(app).await;
        };
        let staged = self.stage(app, &begun.wanted).await;
        let deploy =
            Deploy::resume(saved, inner.lasting.now()).map_err(|error| Refused::Wrong(error.to_string()));
        match (staged, deploy) {
            (Ok((feed, _)), Ok(deploy)) => {
                tracing::info!("app {app}: deploy {} goes on where it was", begun.id);
                let prober = self.prober(app);
                begun.donor.iter().for_each(|donor| self.gate.close(donor));
                let means = Means { feed: Some(feed), verdict: None, crashes: None, prober };
                self.run(app, deploy, begun, means, inner);
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!("app {app}: deploy {} cannot go on: {error}", begun.id);
                inner.lasting.shelf.stay(app, &begun).await;
            }
        }
    }

    /// Takes up what was decided and begun before a restart: nothing passes for apps whose deploys go on.
    pub(crate) async fn take_up(&mut self, book: &Book, inner: &Arc<Shared>) {
        for (app, page) in &book.apps {
            let Some(file) = self.file.app(app).map(Wanted::of) else { continue };
            self.gate.set_drained(app, page.drained.clone());
            if page.maintenance
                && let Err(error) =
                    inner.lasting.router.apply(&[Change::Hold(app.clone(), Hold::Maintenance(true))])
            {
                tracing::error!("app {app}: {error}");
            }
            let Some(begun) = &page.deploy else { continue };
            if file == begun.over {
                self.resume(app, begun.clone(), inner).await;
            } else {
                tracing::warn!("app {app}: deploy {} is over: the file says something else by now", begun.id);
                inner.lasting.shelf.forget_deploy(app).await;
            }
        }
    }

    /// Gives the apps of a configuration what they run now. Says which would have run something else.
    pub(crate) fn keep_releases(&self, new: &mut config::Config) -> Vec<AppId> {
        let mut moved = Vec::new();
        for app in &mut new.apps {
            let Some(there) = self.config.app(&app.spec.id) else { continue };
            let (there, wanted) = (Wanted::of(there), Wanted::of(app));
            if there != wanted {
                moved.push(app.spec.id.clone());
                there.put(app);
            }
        }
        moved
    }
}

/// Puts what was decided over what the file says. What the file has said anew since is the newer word.
pub(crate) fn overlay(config: &mut config::Config, book: &Book) {
    for app in &mut config.apps {
        if let Some(page) = book.apps.get(&app.spec.id) {
            present(page, &Wanted::of(app)).put(app);
        }
    }
}

/// What an app runs when the daemon starts.
fn present(page: &Page, file: &Wanted) -> Wanted {
    match &page.deploy {
        // It is gone on with from where it began.
        Some(begun) if begun.over == *file => begun.from.clone(),
        Some(_) | None => page.wanted(file),
    }
}

/// For the audit trail: texts and lists of them, nothing that JSON could not say.
fn json(wanted: &Wanted) -> Option<serde_json::Value> {
    serde_json::to_value(wanted).ok()
}
