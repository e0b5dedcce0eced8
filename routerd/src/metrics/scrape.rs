//! What is read when somebody asks: the state of lines and dynos, of the log, and of the process, as text.
//!
//! These series are written from the snapshot itself and not through the registry, which would keep an app's last
//! values for ever.

use std::fmt::{Display, Write};

use metrics_exporter_prometheus::formatting::{sanitize_description, sanitize_label_value};
use router_core::snapshot::{AppSnapshot, DynoState, Snapshot};

use super::{Metric, process};
use crate::acme;
use crate::tls::{self, Held};
use crate::webhooks;

/// What the daemon knows at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The apps and their dynos.
    pub snapshot: Snapshot,
    /// Open connections of clients.
    pub connections: usize,
    /// Those of them that rest.
    pub connections_resting: usize,
    /// Connections that were turned away, by reason.
    pub connections_refused: Vec<(&'static str, u64)>,
    /// Bytes of bodies that are held.
    pub buffered_bytes: u64,
    /// Bytes of bodies that are on disk.
    pub disk_bytes: u64,
    /// Files that they are in.
    pub disk_files: u64,
    /// Bodies that were not kept there though they might have been, by reason.
    pub disk_fallbacks: Vec<(&'static str, u64)>,
    /// Lines of the access log lost so far.
    pub log_lines_lost: u64,
    /// Writes of the access log that failed so far.
    pub log_write_errors: u64,
    /// Reloads that put a configuration in place.
    pub reloads_done: u64,
    /// Reloads that failed.
    pub reloads_failed: u64,
    /// When the configuration in place was loaded, in seconds since 1970.
    pub config_loaded: u64,
    /// What has become of events for webhooks.
    pub webhooks: webhooks::Account,
    /// Requests that the admin listener turned away, by reason.
    pub admin_denied: Vec<(&'static str, u64)>,
    /// TLS in front.
    pub tls: tls::Account,
    /// Orders of certificates.
    pub acme: acme::Account,
}

impl Scrape {
    /// Appends its series to the text.
    pub(super) fn write(&self, text: &mut String) {
        let apps = &self.snapshot.apps;
        each_app(text, &super::WAITING_REQUESTS, apps, |app| app.waiting);
        each_app(text, &super::WAITING_BYTES, apps, |app| app.waiting_bytes);
        each_app(text, &super::OLDEST_WAIT, apps, |app| app.oldest_wait.as_secs_f64());
        if !apps.is_empty() {
            head(text, &super::DYNOS);
        }
        for app in apps {
            for state in DynoState::ALL {
                sample(text, &super::DYNOS, &[app.id.as_str(), state.as_str()], app.count(state));
            }
        }
        let upgraded = |app: &AppSnapshot| app.dynos.iter().map(|dyno| u64::from(dyno.upgraded)).sum::<u64>();
        each_app(text, &super::UPGRADED, apps, upgraded);
        each_app(text, &super::DISPATCHED, apps, |app| app.dispatched);
        each_app(text, &super::REFUSED, apps, |app| app.refused);
        each_app(text, &super::LEFT, apps, |app| app.left);
        each_app(text, &super::EJECTED, apps, |app| app.ejected);
        if !apps.is_empty() {
            head(text, &super::APP_INFO);
        }
        for app in apps {
            sample(text, &super::APP_INFO, &[app.id.as_str(), app.release.as_str()], 1);
        }
        single(text, &super::CONNECTIONS, &[], self.connections);
        single(text, &super::CONNECTIONS_RESTING, &[], self.connections_resting);
        self.write_tls(text);
        self.write_acme(text);
        by_reason(text, &super::CONNECTIONS_REFUSED, &self.connections_refused);
        single(text, &super::BUFFERED_BYTES, &[], self.buffered_bytes);
        single(text, &super::DISK_BYTES, &[], self.disk_bytes);
        single(text, &super::DISK_FILES, &[], self.disk_files);
        by_reason(text, &super::DISK_FALLBACKS, &self.disk_fallbacks);
        single(text, &super::LOG_LINES_LOST, &[], self.log_lines_lost);
        single(text, &super::LOG_WRITE_ERRORS, &[], self.log_write_errors);
        head(text, &super::RELOADS);
        sample(text, &super::RELOADS, &["done"], self.reloads_done);
        sample(text, &super::RELOADS, &["failed"], self.reloads_failed);
        single(text, &super::CONFIG_LOADED, &[], self.config_loaded);
        head(text, &super::WEBHOOKS);
        sample(text, &super::WEBHOOKS, &["delivered"], self.webhooks.delivered);
        sample(text, &super::WEBHOOKS, &["failed"], self.webhooks.failed);
        sample(text, &super::WEBHOOKS, &["dropped"], self.webhooks.dropped);
        by_reason(text, &super::ADMIN_DENIED, &self.admin_denied);
        if let Some(seconds) = process::cpu_seconds() {
            single(text, &super::PROCESS_CPU, &[], seconds);
        }
        if let Some(bytes) = process::resident_bytes() {
            single(text, &super::PROCESS_RSS, &[], bytes);
        }
        single(text, &super::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    }

    fn write_tls(&self, text: &mut String) {
        let tls::Account { certificates, handshakes } = &self.tls;
        if certificates.is_empty() && handshakes.iter().all(|(_, count)| *count == 0) {
            return;
        }
        head(text, &super::TLS_HANDSHAKES);
        for (result, count) in handshakes {
            sample(text, &super::TLS_HANDSHAKES, &[result], count);
        }
        let mut each = |metric: &Metric, value: fn(&Held) -> i64| {
            if !certificates.is_empty() {
                head(text, metric);
            }
            for held in certificates {
                let file = held.certificate.cert.to_string_lossy();
                sample(text, metric, &[held.certificate.name(), &file], value(held));
            }
        };
        each(&super::CERTIFICATE_EXPIRY, |held| held.certificate.expires);
        each(&super::CERTIFICATE_REFUSED, |held| i64::from(held.failed.is_some()));
    }

    fn write_acme(&self, text: &mut String) {
        let acme::Account { hosts, orders } = &self.acme;
        if hosts.is_empty() {
            return;
        }
        head(text, &super::ACME_ORDERS);
        for (result, count) in orders {
            sample(text, &super::ACME_ORDERS, &[result], count);
        }
        each_host(text, &super::ACME_FAILURES, hosts, |host| u64::from(host.failures));
        each_host(text, &super::ACME_NEXT, hosts, |host| host.next.map_or(0, |next| next.as_secs()));
    }
}

/// A metric with one series a host.
fn each_host(text: &mut String, metric: &Metric, hosts: &[acme::Host], value: impl Fn(&acme::Host) -> u64) {
    head(text, metric);
    for host in hosts {
        sample(text, metric, &[&host.name], value(host));
    }
}

/// A metric with one series an app.
fn each_app<V: Display>(
    text: &mut String,
    metric: &Metric,
    apps: &[AppSnapshot],
    value: impl Fn(&AppSnapshot) -> V,
) {
    if !apps.is_empty() {
        head(text, metric);
    }
    for app in apps {
        sample(text, metric, &[app.id.as_str()], value(app));
    }
}

/// A metric with one series a reason.
fn by_reason(text: &mut String, metric: &Metric, counts: &[(&'static str, u64)]) {
    if !counts.is_empty() {
        head(text, metric);
    }
    for (reason, count) in counts {
        sample(text, metric, &[reason], count);
    }
}

/// A metric with one series.
fn single(text: &mut String, metric: &Metric, labels: &[&str], value: impl Display) {
    head(text, metric);
    sample(text, metric, labels, value);
}

fn head(text: &mut String, metric: &Metric) {
    let meaning = sanitize_description(metric.meaning);
    // A String takes whatever is written to it.
    let _ = write!(text, "# HELP {0} {meaning}\n# TYPE {0} {1}\n", metric.name, metric.kind.as_str());
}

fn sample(text: &mut String, metric: &Metric, values: &[&str], value: impl Display) {
    debug_assert_eq!(metric.labels.len(), values.len(), "{} has other labels", metric.name);
    text.push_str(metric.name);
    for (i, (label, value)) in metric.labels.iter().zip(values).enumerate() {
        let before = if i == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{label}=\"{}\"", sanitize_label_value(value));
    }
    let _ = writeln!(text, "{} {value}", if values.is_empty() { "" } else { "}" });
}
