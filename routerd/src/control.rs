//! What can be asked of a running daemon, by whom, and what is answered: plain data and one trait.
//!
//! An [`Order`] changes something; everything else is a look at what is there. Whoever carries orders out implements
//! [`Control`]; whoever brings them (the admin interface) asks [`may`] first.

mod orders;
#[cfg(test)]
mod tests;
mod views;

use std::fmt;
use std::pin::Pin;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::config::deploy::{CanaryOrder, Pace, ReadyWhen};
pub use crate::config::{Role, Scope};
pub(crate) use orders::PART;
pub use orders::{
    BakeOrder, CanaryBody, DeployBody, MaintenanceBody, Nothing, Order, PauseBody, PlanOrder, PromoteBody,
    ResumeBody, RollBackBody,
};
pub use views::{AppFacts, DecidedBy, DeployDynoView, DeployView, Mode, ReleaseView};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// What the audit trail calls it: the name of its token, `unix uid 0`, `loopback`.
    pub name: String,
    /// Its address, if it has one.
    pub from: Option<String>,
    /// What it may ask.
    pub role: Role,
    /// Of which apps.
    pub apps: Scope,
}

impl Actor {
    /// Whether it may do what this role may, to this app; to the daemon as a whole without one.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], with what would be needed. Whether there is such an app is not told.
    pub fn may(&self, needs: Role, app: Option<&str>) -> Result<(), Refusal> {
        let refused = |why: String| Err(Refusal::new(RefusalKind::Forbidden, why));
        if self.role < needs {
            return refused(format!(
                "this needs the role {needs}, and {} has the role {}",
                self.name, self.role
            ));
        }
        match app {
            Some(app) if !self.apps.covers(app) => {
                refused(format!("{} has no say over the app {app}, only over {}", self.name, self.apps))
            }
            None if self.apps != Scope::All => refused(format!(
                "this needs a say over all apps, and {} has it over {}",
                self.name, self.apps
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether the order may be given.
///
/// # Errors
/// [`RefusalKind::Forbidden`], with what would be needed.
pub fn may(actor: &Actor, order: &Order) -> Result<(), Refusal> {
    actor.may(order.needs(), order.app())?;
    if let Order::Promote { from: Some(other), .. } = order {
        actor.may(order.needs(), Some(other))?;
    }
    Ok(())
}

/// Why something was not done. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub kind: RefusalKind,
    /// Why, in a sentence for people.
    pub text: String,
}

impl Refusal {
    /// A refusal of that kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Kinds of refusals, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// 401: it is not known who asks.
    Unauthorized,
    /// 403: whoever asks may not.
    Forbidden,
    /// 404: there is no such thing.
    NotFound,
    /// 405: not with this method.
    WrongMethod,
    /// 409: not in the present state.
    Conflict,
    /// 413: the body is too large.
    TooLarge,
    /// 415: the body is no JSON by its `Content-Type`.
    NoJson,
    /// 422: what is asked makes no sense.
    Invalid,
    /// 500: a fault of the daemon.
    Internal,
    /// 501: this daemon cannot do it.
    Unsupported,
    /// 503: not now.
    Unavailable,
}

impl RefusalKind {
    /// Its HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::WrongMethod => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::NoJson => 415,
            Self::Invalid => 422,
            Self::Internal => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
        }
    }
}

/// What came of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// What was done, in a sentence for people.
    pub text: String,
    /// The deploy that carries it out, if one does: it goes on after this answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<u64>,
    /// More, for machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
}

/// Carries orders out and says how things stand. Whether whoever asks may has been decided before.
pub trait Control: Send + Sync + 'static {
    /// Carries an order out. A deploy has only begun when this is done: the receipt names it. The future does not
    /// depend on whoever waits for it: a task of its own runs it to its end.
    fn order(
        &self,
        actor: Actor,
        order: Order,
    ) -> Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>>;

    /// Deploys of one app, or of all: those that run and the last few that ended, newest first.
    fn deploys(&self, app: Option<&str>) -> Vec<DeployView>;

    /// The releases that the app had, newest first.
    fn releases(&self, app: &str) -> Vec<ReleaseView>;

    /// What is to be said of each app beside what the router knows.
    fn facts(&self) -> Vec<AppFacts>;

    /// The last lines of the audit trail, newest first, of one app or all. May block.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    fn audit(&self, app: Option<&str>, limit: usize) -> Result<Vec<serde_json::Value>, Refusal>;

    /// Checks the audit trail from its beginning to its end and says what was found. May block.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it was tampered with.
    fn verify_audit(&self) -> Result<String, Refusal>;
}
