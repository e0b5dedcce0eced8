//! The picture of the router as JSON, for `/v1/status`. The words are those of the log and the metrics.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use router_core::snapshot::{AppSnapshot, DynoSnapshot, Held, Snapshot};
use schemars::JsonSchema;
use serde::Serialize;

use super::Account;
use crate::control::{AppFacts, DecidedBy};
use crate::{acme, tls};

#[derive(Serialize, JsonSchema)]
pub(super) struct Page<'a> {
    version: &'static str,
    ready: bool,
    /// Why it is not ready; null if it is.
    reason: Option<&'a str>,
    config: Config<'a>,
    /// Those that are served to clients.
    certificates: Vec<Certificate<'a>>,
    /// The hosts that certificates are ordered for by ACME.
    acme: Vec<Ordered<'a>>,
    apps: Vec<App<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Config<'a> {
    /// When the one that is in place was loaded.
    loaded: String,
    reloads: u64,
    failed: u64,
    /// Why the last reload failed; null if it did not.
    error: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct Certificate<'a> {
    /// The file it is from.
    cert: String,
    names: &'a [String],
    expires: String,
    /// Why its files as they are now are not served; null if they are.
    error: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct Ordered<'a> {
    host: &'a str,
    /// When its certificate expires; null: it has none yet, and a stand-in is served.
    expires: Option<String>,
    /// When the next order is due; null: once a client asks for the host.
    next: Option<String>,
    /// How many orders have failed in a row.
    failures: u32,
    /// Why the last one has failed; null if it has not.
    error: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
struct App<'a> {
    name: &'a str,
    release: &'a str,
    /// What decides its release and dynos now; null: nothing is known of that.
    source: Option<DecidedBy>,
    waiting: usize,
    waiting_bytes: u64,
    oldest_wait_ms: f64,
    service_time_ms: f64,
    dispatched: u64,
    refused: u64,
    left: u64,
    ejected: u64,
    maintenance: bool,
    /// Null if the line is not held.
    held: Option<Hold>,
    dynos: Vec<Dyno<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct Hold {
    /// How long it has been held.
    since_ms: f64,
    /// How long it stays paused; 0: it is resuming.
    paused_ms: f64,
    /// How long until it is not held any more.
    left_ms: f64,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Dyno<'a> {
    name: &'a str,
    address: String,
    /// The release it runs.
    release: &'a str,
    /// Whose requests it takes: main or canary.
    lane: &'static str,
    state: &'static str,
    concurrency: u32,
    in_flight: u32,
    lingering: u32,
    /// Its connections that have changed their protocol, those beside its slots included.
    upgraded: u32,
    dispatched: u64,
    answered: u64,
    failures: u32,
    ejected: bool,
    bad_answers: u32,
    bad_probes: u32,
    probing: bool,
}

/// What clients are shown in handshakes.
pub(super) struct Served<'a> {
    pub(super) certificates: &'a [tls::Held],
    pub(super) ordered: &'a [acme::Host],
}

/// The page.
pub(super) fn page<'a>(
    snapshot: &'a Snapshot,
    facts: &[AppFacts],
    reason: Option<&'a str>,
    reloads: &'a Account,
    served: Served<'a>,
) -> Page<'a> {
    let facts: HashMap<&str, DecidedBy> = facts.iter().map(|it| (it.app.as_str(), it.source)).collect();
    Page {
        version: env!("CARGO_PKG_VERSION"),
        ready: reason.is_none(),
        reason,
        config: Config {
            loaded: humantime::format_rfc3339_seconds(UNIX_EPOCH + reloads.loaded).to_string(),
            reloads: reloads.done,
            failed: reloads.failed,
            error: reloads.error.as_deref(),
        },
        certificates: served.certificates.iter().map(Certificate::of).collect(),
        acme: served.ordered.iter().map(Ordered::of).collect(),
        apps: snapshot.apps.iter().map(|app| App::of(app, facts.get(app.id.as_str()).copied())).collect(),
    }
}

impl<'a> Certificate<'a> {
    fn of(held: &'a tls::Held) -> Self {
        let certificate = &held.certificate;
        Self {
            cert: certificate.cert.display().to_string(),
            names: &certificate.names,
            expires: date(certificate.expires),
            error: held.failed.as_deref(),
        }
    }
}

impl<'a> Ordered<'a> {
    fn of(host: &'a acme::Host) -> Self {
        Self {
            host: &host.name,
            expires: host.certificate.as_ref().map(|certificate| date(certificate.expires)),
            next: host.next.map(|next| humantime::format_rfc3339_seconds(UNIX_EPOCH + next).to_string()),
            failures: host.failures,
            error: host.error.as_deref(),
        }
    }
}

fn date(seconds: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
    humantime::format_rfc3339_seconds(time).to_string()
}

impl<'a> App<'a> {
    fn of(app: &'a AppSnapshot, source: Option<DecidedBy>) -> Self {
        Self {
            name: app.id.as_str(),
            release: app.release.as_str(),
            source,
            waiting: app.waiting,
            waiting_bytes: app.waiting_bytes,
            oldest_wait_ms: milliseconds(app.oldest_wait),
            service_time_ms: milliseconds(app.service_time),
            dispatched: app.dispatched,
            refused: app.refused,
            left: app.left,
            ejected: app.ejected,
            maintenance: app.maintenance,
            held: app.held.map(Hold::of),
            dynos: app.dynos.iter().map(Dyno::of).collect(),
        }
    }
}

impl Hold {
    fn of(held: Held) -> Self {
        Self {
            since_ms: milliseconds(held.since),
            paused_ms: milliseconds(held.paused),
            left_ms: milliseconds(held.left),
        }
    }
}

impl<'a> Dyno<'a> {
    pub(super) fn of(dyno: &'a DynoSnapshot) -> Self {
        Self {
            name: dyno.name.as_str(),
            address: dyno.address.to_string(),
            release: dyno.release.as_str(),
            lane: dyno.lane.as_str(),
            state: dyno.state.as_str(),
            concurrency: dyno.concurrency,
            in_flight: dyno.in_flight,
            lingering: dyno.lingering,
            upgraded: dyno.upgraded,
            dispatched: dyno.dispatched,
            answered: dyno.answered,
            failures: dyno.failures,
            ejected: dyno.ejected,
            bad_answers: dyno.bad_answers,
            bad_probes: dyno.bad_probes,
            probing: dyno.probing,
        }
    }
}

/// Milliseconds to the microsecond, as in the log.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
