//! What is written down and told of changes: the audit trail, the state file and the webhooks, as the daemon uses them.

use std::path::PathBuf;
use std::sync::Arc;

use router_core::ids::AppId;
use router_core::policy::deploy::{Progress, State};
use tokio::task::spawn_blocking;

use super::release::Refused;
use crate::audit::{Asked, Audit, Filter, Keep, Outcome, Seq, tail, verify};
use crate::config::Config;
use crate::config::event::EventKind;
use crate::control::{Order, Refusal, RefusalKind};
use crate::deploys::book::{Begun, Book, Shelf};
use crate::state::StateFile;
use crate::webhooks::{Event, Webhooks};

/// The audit trail and the webhooks.
pub(super) struct Trail {
    audit: Option<(Arc<Audit>, PathBuf)>,
    webhooks: Webhooks,
}

impl Trail {
    /// Opens what the configuration names.
    pub(super) async fn open(config: &Config) -> Result<Self, String> {
        let audit = match config.audit.clone() {
            None => None,
            Some(audit) => {
                let keep = Keep { max_size: audit.max_size, files: audit.files };
                let path = audit.file.clone();
                let open = spawn_blocking(move || Audit::open(&audit.file, keep));
                let open = open.await.map_err(|_| "the audit trail was not opened".to_owned())?;
                Some((Arc::new(open.map_err(|error| error.to_string())?), path))
            }
        };
        Ok(Self { audit, webhooks: Webhooks::start(&config.webhooks) })
    }

    /// Another configuration is in place. Which file is written stays; the rest changes.
    pub(super) fn set(&self, config: &Config) {
        self.webhooks.set(&config.webhooks);
        if let (Some((audit, _)), Some(new)) = (&self.audit, &config.audit) {
            audit.keep(Keep { max_size: new.max_size, files: new.files });
        }
    }

    /// A change is about to begin. If that cannot be written down it must not.
    pub(super) async fn begins(&self, asked: Asked) -> Result<Option<Seq>, Refused> {
        let Some((audit, _)) = &self.audit else { return Ok(None) };
        let audit = Arc::clone(audit);
        match spawn_blocking(move || audit.begin(&asked)).await {
            Ok(Ok(seq)) => Ok(Some(seq)),
            Ok(Err(error)) => Err(Refused::NotKept(error.to_string())),
            Err(_) => Err(Refused::NotKept("the daemon is ending".to_owned())),
        }
    }

    /// How it came out. It is done by then: what cannot be written down is reported. Gives the trail's last hash.
    pub(super) async fn ends(&self, seq: Option<Seq>, outcome: Outcome) -> Option<String> {
        let (Some((audit, _)), Some(seq)) = (&self.audit, seq) else { return None };
        let audit = Arc::clone(audit);
        match spawn_blocking(move || audit.end(seq, &outcome)).await {
            Ok(Ok(mark)) => Some(mark.hash),
            Ok(Err(error)) => {
                tracing::error!("how a change came out is not in the audit trail: {error}");
                None
            }
            Err(_) => None,
        }
    }

    pub(super) fn tell(&self, event: &Event) {
        self.webhooks.tell(event);
    }

    pub(super) fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// The last lines, the newest first.
    pub(super) fn tail(&self, app: Option<&str>, limit: usize) -> Result<Vec<serde_json::Value>, Refusal> {
        let filter = Filter { app: app.map(str::to_owned), limit };
        let lines = tail(self.path()?, &filter).map_err(|error| broken(error.to_string()))?;
        lines
            .iter()
            .map(|line| serde_json::to_value(line).map_err(|error| broken(error.to_string())))
            .collect()
    }

    /// Walks the whole trail.
    pub(super) fn verify(&self) -> Result<String, Refusal> {
        let verified = verify(self.path()?).map_err(|error| broken(error.to_string()))?;
        Ok(verified.to_string())
    }

    fn path(&self) -> Result<&PathBuf, Refusal> {
        let none = || {
            Refusal::new(
                RefusalKind::Unsupported,
                "there is no audit trail: the configuration has no [audit]",
            )
        };
        self.audit.as_ref().map(|(_, path)| path).ok_or_else(none)
    }
}

fn broken(text: String) -> Refusal {
    Refusal::new(RefusalKind::Internal, text)
}

/// The book of the state file, and the file to write it to.
pub(super) async fn shelf(config: &Config) -> Result<Shelf, String> {
    let Some(state) = config.state.clone() else { return Ok(Shelf::new(Book::default(), None)) };
    let open = spawn_blocking(move || {
        // The lock first: whoever else writes it has gone by then.
        let file = StateFile::<Book>::open(&state.file)?;
        let book = StateFile::load(&state.file)?.unwrap_or_default();
        Ok((file, book))
    });
    let open = open.await.map_err(|_| "the state file was not read".to_owned())?;
    let (file, book) = open.map_err(|error: crate::state::StateError| error.to_string())?;
    Ok(Shelf::new(book, Some(Arc::new(move |book| file.save(book).map_err(|error| error.to_string())))))
}

/// What webhooks are told of an order that was carried out. Of deploys they are told by the deploys themselves.
pub(super) fn event_of(order: &Order, by: &str, text: &str) -> Option<Event> {
    let kind = match order {
        Order::Pause { .. } => EventKind::AppPaused,
        Order::Resume { .. } => EventKind::AppResumed,
        Order::Maintenance { on: true, .. } => EventKind::AppMaintenanceOn,
        Order::Maintenance { on: false, .. } => EventKind::AppMaintenanceOff,
        Order::Drain { .. } => EventKind::DynoDrained,
        Order::Undrain { .. } => EventKind::DynoUndrained,
        Order::Upgrade => EventKind::DaemonUpgraded,
        Order::Deploy { .. } | Order::Promote { .. } | Order::RollBack { .. } | Order::Canary { .. } => {
            return None;
        }
        Order::Restart { .. } | Order::Reload => return None,
    };
    let app = order.app().map(str::to_owned);
    Some(Event { app, by: Some(by.to_owned()), ..Event::new(kind, format!("{text} (by {by})")) })
}

/// What webhooks are told of a deploy. A restart that is done has an event of its own.
pub(super) fn event_of_deploy(
    app: &AppId,
    begun: &Begun,
    state: State,
    progress: Option<&Progress>,
) -> Option<Event> {
    let kind = match state {
        State::Staged => EventKind::DeployStarted,
        State::Canary => EventKind::DeployCanary,
        State::RollingBack => EventKind::DeployRollingBack,
        State::Done if begun.wanted == begun.from => EventKind::AppRestarted,
        State::Done => EventKind::DeployDone,
        State::Failed => EventKind::DeployFailed,
        State::RolledBack => EventKind::DeployRolledBack,
        State::Warming | State::Ready | State::CuttingOver | State::Baking | State::Draining | _ => {
            return None;
        }
    };
    let cause = progress.and_then(|progress| progress.cause.as_ref()).map(ToString::to_string);
    let release = &begun.wanted.release;
    let what = match (state, progress, &cause) {
        (State::Staged, ..) => format!("deploy of {release} over {} has begun", begun.from.release),
        (State::Canary, ..) => format!("the canary of {release} serves its share and waits to be promoted"),
        (State::Done, Some(progress), _) => {
            format!("deploy of {release} is done: {} dynos serve", progress.new_serving)
        }
        (state, _, Some(cause)) => format!("deploy of {release} is {state}: {cause}"),
        (state, ..) => format!("deploy of {release} is {state}"),
    };
    let text = format!("{app}: {what} (by {})", begun.by);
    Some(Event {
        app: Some(app.to_string()),
        release: Some(release.to_string()),
        by: Some(begun.by.clone()),
        deploy: Some(begun.id),
        cause,
        ..Event::new(kind, text)
    })
}
