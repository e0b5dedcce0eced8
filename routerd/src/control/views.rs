//! What is shown of deploys, releases and apps.

use router_core::policy::deploy::Progress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One deploy as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeployView {
    /// Its number; a later one has a higher one.
    pub id: u64,
    /// Of which app.
    pub app: String,
    /// The release that is replaced.
    pub old: String,
    /// The release that replaces it.
    pub new: String,
    /// Where it stands: staged, warming, ready, canary, cutting_over, baking, draining, rolling_back, and at the end
    /// done, failed or rolled_back.
    pub state: String,
    /// How long it has been in this state.
    pub since_ms: u64,
    /// The time after which the clock ends this state at the latest; null: it does not wait for the clock.
    pub deadline_ms: Option<u64>,
    /// Who asked for it.
    pub by: String,
    /// When it began, as in RFC 3339.
    pub began: String,
    /// When it ended; null while it runs.
    pub ended: Option<String>,
    /// Why it fails or is taken back; null if it does not.
    pub cause: Option<String>,
    /// New dynos.
    pub new_total: usize,
    /// New dynos that are ready or beyond.
    pub new_ready: usize,
    /// New dynos that serve from the app's line.
    pub new_serving: usize,
    /// New dynos that failed.
    pub new_failed: usize,
    /// Old dynos that serve.
    pub old_serving: usize,
    /// Old dynos that are not gone.
    pub old_left: usize,
    /// Old dynos that still had requests after the time they had for them.
    pub old_given_up: usize,
    /// Every dyno: the old ones, then the new ones.
    pub dynos: Vec<DeployDynoView>,
}

/// One dyno of a deploy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeployDynoView {
    /// Whose it is: old or new.
    pub side: String,
    /// What people call it.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Where it stands: staged, warming, ready, canary, serving, crashed, draining, gone or failed.
    pub stage: String,
    /// What it answered to its last probe that was not good, or why it failed.
    pub trouble: Option<String>,
}

impl DeployView {
    /// The view of a deploy that stands so. `began` and `ended` are times as in RFC 3339.
    pub fn new(
        (id, app): (u64, &str),
        by: &str,
        (began, ended): (String, Option<String>),
        progress: &Progress,
    ) -> Self {
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let dynos = progress.dynos.iter().map(|dyno| DeployDynoView {
            side: dyno.side.as_str().to_owned(),
            name: dyno.dyno.name.to_string(),
            address: dyno.dyno.address.to_string(),
            stage: dyno.stage.as_str().to_owned(),
            trouble: dyno.trouble.clone(),
        });
        Self {
            id,
            app: app.to_owned(),
            old: progress.old.0.to_string(),
            new: progress.new.0.to_string(),
            state: progress.state.as_str().to_owned(),
            since_ms: milliseconds(progress.since),
            deadline_ms: progress.deadline.map(milliseconds),
            by: by.to_owned(),
            began,
            ended,
            cause: progress.cause.as_ref().map(ToString::to_string),
            new_total: progress.new_total,
            new_ready: progress.new_ready,
            new_serving: progress.new_serving,
            new_failed: progress.new_failed,
            old_serving: progress.old_serving,
            old_left: progress.old_left,
            old_given_up: progress.old_given_up,
            dynos: dynos.collect(),
        }
    }
}

impl DeployView {
    /// The view of a deploy that never began to run.
    pub fn unbegun(state: &str) -> Self {
        Self {
            id: 0,
            app: String::new(),
            old: String::new(),
            new: String::new(),
            state: state.to_owned(),
            since_ms: 0,
            deadline_ms: None,
            by: String::new(),
            began: String::new(),
            ended: None,
            cause: None,
            new_total: 0,
            new_ready: 0,
            new_serving: 0,
            new_failed: 0,
            old_serving: 0,
            old_left: 0,
            old_given_up: 0,
            dynos: Vec::new(),
        }
    }

    /// The same with the cause of its end, if there is one.
    #[must_use]
    pub fn with_cause(self, cause: Option<String>) -> Self {
        Self { cause: cause.or(self.cause), ..self }
    }
}

/// One release of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseView {
    /// Of which app.
    pub app: String,
    /// Its name.
    pub release: String,
    /// Its dynos, as they were written.
    pub dynos: Vec<String>,
    /// Since when it serves, or served, as in RFC 3339.
    pub since: String,
    /// Who brought it.
    pub by: String,
    /// How it came.
    pub how: DecidedBy,
    /// Whether it serves now.
    pub current: bool,
}

/// What decides an app's release and dynos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// The configuration file.
    File,
    /// An order.
    Api,
}

/// What an app does with its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Serves them.
    Open,
    /// Holds them in line.
    Paused,
    /// Serves more and more of them, after a pause.
    Resuming,
    /// Refuses them.
    Maintenance,
}

/// What is to be said of an app beside what the router knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppFacts {
    /// Its name.
    pub app: String,
    /// What decides its release and dynos now.
    pub source: DecidedBy,
    /// The release that the configuration file names.
    pub file_release: String,
    /// What it does with its requests.
    pub mode: Mode,
    /// The deploy that runs.
    pub deploy: Option<DeployView>,
    /// Dynos that were told to drain, by name.
    pub drained: Vec<String>,
}
