//! Apps as JSON, for `/v1/apps`: what the router knows of each, and what is being done with it.

use std::collections::BTreeMap;

use router_core::snapshot::AppSnapshot;
use schemars::JsonSchema;
use serde::Serialize;

use super::status::milliseconds;
use crate::control::{AppFacts, DecidedBy, DeployView, Mode};

/// One app.
#[derive(Serialize, JsonSchema)]
pub(super) struct AppView {
    /// Its name.
    name: String,
    /// The release that its dynos run.
    release: String,
    /// What decides its release and dynos now.
    source: DecidedBy,
    /// The release that the configuration file names.
    file_release: String,
    /// What it does with its requests.
    mode: Mode,
    /// The deploy that runs; null if none does.
    deploy: Option<DeployView>,
    /// Dynos that were told to drain, by name.
    drained: Vec<String>,
    /// How many dynos are in which state.
    dynos: BTreeMap<&'static str, usize>,
    /// Connections that have changed their protocol (WebSocket).
    upgraded: u64,
    /// Requests in line.
    waiting: usize,
    /// How long the first in line has waited.
    oldest_wait_ms: f64,
    /// Smoothed time that a dyno needs for a request.
    service_time_ms: f64,
    /// Requests that got a dyno, since the app was added.
    dispatched: u64,
    /// Requests that were refused at the door or taken out of the line.
    refused: u64,
    /// Requests that left the line because their client was gone.
    left: u64,
}

impl AppView {
    /// The app as it is. One of which nothing more is known is as the file has it.
    pub(super) fn of(app: &AppSnapshot, facts: Option<AppFacts>) -> Self {
        let mut dynos = BTreeMap::new();
        for dyno in &app.dynos {
            *dynos.entry(dyno.state.as_str()).or_default() += 1;
        }
        let facts = facts.unwrap_or_else(|| AppFacts {
            app: app.id.to_string(),
            source: DecidedBy::File,
            file_release: app.release.to_string(),
            mode: Mode::Open,
            deploy: None,
            drained: Vec::new(),
        });
        Self {
            name: facts.app,
            release: app.release.to_string(),
            source: facts.source,
            file_release: facts.file_release,
            mode: facts.mode,
            deploy: facts.deploy,
            drained: facts.drained,
            dynos,
            upgraded: app.dynos.iter().map(|dyno| u64::from(dyno.upgraded)).sum(),
            waiting: app.waiting,
            oldest_wait_ms: milliseconds(app.oldest_wait),
            service_time_ms: milliseconds(app.service_time),
            dispatched: app.dispatched,
            refused: app.refused,
            left: app.left,
        }
    }
}
