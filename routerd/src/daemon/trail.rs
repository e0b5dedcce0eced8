//! What is written down and told of changes: the audit trail, the state file and the webhooks, as the daemon uses them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use router_core::ids::AppId;
use router_core::policy::deploy::{Progress, State};
use tokio::task::{JoinError, spawn_blocking};

use super::release::Refused;
use crate::audit::{Asked, Audit, Filter, Keep, Outcome, Seq, tail, verify};
use crate::config::Config;
use crate::config::event::EventKind;
use crate::control::{Order, Refusal, RefusalKind};
use crate::deploys::book::{Begun, Book, Shelf, Write};
use crate::state::StateFile;
use crate::webhooks::{Event, Webhooks};

/// The audit trail, the state file and the webhooks.
pub(super) struct Trail {
    audit: Option<(Arc<Audit>, PathBuf)>,
    state: Option<Arc<StateFile<Book>>>,
    webhooks: Webhooks,
}

impl Trail {
    /// Opens what the configuration names, and the book of what was decided. With the book of a daemon that still
    /// runs, the files are that one's until they are [`taken`](Self::take).
    pub(super) async fn open(config: &Config, handed: Option<Book>) -> Result<(Self, Shelf), String> {
        let audit = config.audit.as_ref().map(|audit| {
            let keep = Keep { max_size: audit.max_size, files: audit.files };
            (Arc::new(Audit::of_another(&audit.file, keep)), audit.file.clone())
        });
        let path = config.state.as_ref().map(|state| state.file.clone());
        let state = path.as_ref().map(|path| Arc::new(StateFile::of_another(path)));
        let trail = Self { audit, state, webhooks: Webhooks::start(&config.webhooks) };
        let book = match (handed, path) {
            (Some(book), _) => book,
            (None, path) => {
                trail.take().await?;
                let load = |path: PathBuf| spawn_blocking(move || StateFile::load(&path));
                match path {
                    Some(path) => flat(load(path).await)?.unwrap_or_default(),
                    None => Book::default(),
                }
            }
        };
        let write = trail.state.clone().map(|file| -> Write {
            Arc::new(move |book| file.save(book).map_err(|error| error.to_string()))
        });
        Ok((trail, Shelf::new(book, write)))
    }

    /// The files are this process's from now on. If that fails, it is tried again when they are written.
    pub(super) async fn take(&self) -> Result<(), String> {
        let (audit, state) = (self.audit.as_ref().map(|(audit, _)| Arc::clone(audit)), self.state.clone());
        if let Some(audit) = audit {
            flat(spawn_blocking(move || audit.take()).await)?;
        }
        if let Some(state) = state {
            flat(spawn_blocking(move || state.take()).await)?;
        }
        Ok(())
    }

    /// Another process writes the files from now on.
    pub(super) fn let_go(&self) {
        self.audit.iter().for_each(|(audit, _)| audit.let_go());
        self.state.iter().for_each(|state| state.let_go());
    }

    /// The file of the audit trail.
    pub(super) fn file(&self) -> Option<&Path> {
        self.audit.as_ref().map(|(_, path)| path.as_path())
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

/// What came of a task that may block.
fn flat<T>(result: Result<Result<T, impl ToString>, JoinError>) -> Result<T, String> {
    result.map_err(|_| "the daemon is ending".to_owned())?.map_err(|error| error.to_string())
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
        Order::Deploy { .. } | Order::Promote { .. } | Order::RollBack { .. } | Order::Canary { .. } => {
            return None;
        }
        // The first has the event of its deploy, the others tell of themselves.
        Order::Restart { .. } | Order::Reload | Order::Upgrade => return None,
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
