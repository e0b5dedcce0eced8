//! Two configurations compared: what a reload changes, key by key, as changes for the router and as text for people.
//!
//! Pure: no clock, no I/O. What stands in both is not named, and what is not named is not touched.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use router_core::change::Change;
use router_core::dns::Families;
use router_core::ids::AppId;
use router_core::limits::{Order, Protocol, ProxyHeader};

use super::door::RateLimit;
use super::edge::{ClientAuth, Edge, MinVersion, Unnamed};
use super::health::{Health, ProbeWord};
use super::units::{Period, Size};
use super::upstream;
use super::{
    Admin, Admission, App, Audit, Config, Dns, Http2, Log, LogFormat, LogLevel, LogOutput, ProxyProtocol,
    Server, State, Webhook,
};

/// Keys that are read once, when the daemon starts.
const AT_START: [&str; 6] =
    ["server.threads", "server.handover", "server.user", "server.group", "audit.file", "state.file"];

/// What is different between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Keys outside of apps.
    pub settings: Vec<KeyChange>,
    /// Apps that come, go or change, ordered by name.
    pub apps: Vec<AppDiff>,
    /// How many apps stay as they are.
    pub untouched: usize,
}

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key, like `queue.max_wait` or `server.listen`.
    pub key: &'static str,
    /// Its value before, as it would be written.
    pub from: Shown,
    /// Its value after.
    pub to: Shown,
}

/// A value as it would be written in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// One value.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// An app that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppDiff {
    /// Its name.
    pub id: AppId,
    /// How it is different.
    pub kind: AppChange,
}

/// How an app is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppChange {
    /// It comes.
    Added,
    /// It goes: who waits in its line is refused, who is being served is served to the end.
    Removed,
    /// It stays, with other values; its line, dynos and requests stay too.
    Changed(Vec<KeyChange>),
}

impl Diff {
    /// What changes from `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut diff =
            Self { settings: changed(settings(old), settings(new)), apps: Vec::new(), untouched: 0 };
        if old.webhooks != new.webhooks && !diff.has("webhooks") {
            // What differs is what is not shown.
            let to = new.webhooks.iter().map(|webhook| shown_beside(webhook, &old.webhooks));
            let change =
                KeyChange { key: "webhooks", from: many(&old.webhooks), to: Shown::Many(to.collect()) };
            diff.settings.push(change);
        }
        // Both are ordered by name, so one walk over both meets each app once.
        let (mut before, mut after) = (old.apps.iter().peekable(), new.apps.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.spec.id.cmp(&new.spec.id),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return diff,
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            diff.app(old, new);
        }
    }

    fn app(&mut self, old: Option<&App>, new: Option<&App>) {
        let kind = match (old, new) {
            (Some(old), Some(new)) if old == new => {
                self.untouched += 1;
                return;
            }
            (Some(old), Some(new)) => AppChange::Changed(changed(keys(old), keys(new))),
            (Some(_), None) => AppChange::Removed,
            (None, _) => AppChange::Added,
        };
        let id = old.or(new).map(|app| app.spec.id.clone());
        self.apps.extend(id.map(|id| AppDiff { id, kind }));
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.apps.is_empty()
    }

    /// Whether a key outside of apps changes.
    pub fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|change| change.key == key)
    }

    /// The same for the router, to be applied as one: apps that go make room before others come. Dynos are not in
    /// it, they are discovery's.
    pub fn changes(&self, new: &Config) -> Vec<Change> {
        let removed = self.apps.iter().filter(|app| app.kind == AppChange::Removed);
        let mut changes: Vec<_> = removed.map(|app| Change::RemoveApp(app.id.clone())).collect();
        let put: BTreeSet<&AppId> =
            self.apps.iter().filter(|app| app.kind != AppChange::Removed).map(|app| &app.id).collect();
        let specs = new.apps.iter().map(|app| &app.spec).filter(|spec| put.contains(&spec.id));
        changes.extend(specs.map(|spec| Change::PutApp(spec.clone())));
        changes
    }
}

impl fmt::Display for Diff {
    /// One line for each thing that changes: `+` comes, `-` goes, `~` changes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for change in &self.settings {
            let late = if AT_START.contains(&change.key) { "  (at the next start)" } else { "" };
            writeln!(f, "~ {change}{late}")?;
        }
        for app in &self.apps {
            match &app.kind {
                AppChange::Added => writeln!(f, "+ app {}", app.id)?,
                AppChange::Removed => {
                    writeln!(
                        f,
                        "- app {}: who waits in its line is refused, who is served is served",
                        app.id
                    )?;
                }
                AppChange::Changed(keys) => {
                    writeln!(f, "~ app {}", app.id)?;
                    keys.iter().try_for_each(|change| writeln!(f, "    {change}"))?;
                }
            }
        }
        let plural = if self.untouched == 1 { "app stays as it is" } else { "apps stay as they are" };
        writeln!(f, "{} {plural}; no connection is closed", self.untouched)
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        match (&self.from, &self.to) {
            (Shown::Many(from), Shown::Many(to)) => {
                let gone = from.iter().filter(|value| !to.contains(value)).map(|value| format!("- {value}"));
                let come = to.iter().filter(|value| !from.contains(value)).map(|value| format!("+ {value}"));
                let mut parts: Vec<_> = gone.chain(come).collect();
                if parts.is_empty() {
                    parts.push("another order".to_owned());
                }
                f.write_str(&parts.join(", "))
            }
            (from, to) => write!(f, "{from} -> {to}"),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(value) => f.write_str(value),
            Self::Many(values) => write!(f, "[{}]", values.join(", ")),
        }
    }
}

/// Keys and their values, in the order of the reference.
type Keys = Vec<(&'static str, Shown)>;

fn changed(old: Keys, new: Keys) -> Vec<KeyChange> {
    let pairs = old.into_iter().zip(new);
    let different = pairs.filter(|((_, from), (_, to))| from != to);
    different.map(|((key, from), (_, to))| KeyChange { key, from, to }).collect()
}

fn one(value: impl ToString) -> Shown {
    Shown::One(value.to_string())
}

fn or_none(value: Option<impl ToString>) -> Shown {
    one(value.map_or_else(|| "none".to_owned(), |value| value.to_string()))
}

fn many<T: ToString>(values: &[T]) -> Shown {
    Shown::Many(values.iter().map(ToString::to_string).collect())
}

fn settings(config: &Config) -> Keys {
    let mut keys = server(&config.server);
    keys.extend(http2(&config.http2));
    keys.extend(edge(config.tls.as_ref()));
    keys.extend(admin(config.admin.as_ref()));
    keys.extend(log(&config.log));
    keys.extend(dns(&config.dns));
    keys.extend(trail(config.audit.as_ref(), config.state.as_ref()));
    keys.push(("webhooks", many(&config.webhooks)));
    keys
}

/// A webhook of the new configuration: with a word to it if the old one has none that is the same.
fn shown_beside(webhook: &Webhook, old: &[Webhook]) -> String {
    let differs = if old.contains(webhook) { "" } else { ", with another path or secret" };
    format!("{webhook}{differs}")
}

// The structs are taken apart without `..`, so that a key that is added cannot be forgotten here.

fn server(server: &Server) -> Keys {
    let Server {
        listen,
        handover,
        shutdown_timeout,
        max_connections,
        header_timeout,
        request_line_max,
        header_line_max,
        headers_max,
        head_max,
        keepalive_requests,
        threads,
        trusted_request_id,
        http2,
        trusted_proxies,
        proxy_protocol,
        max_connections_per_ip,
        memory_max,
        user,
        group,
    } = server;
    let name = |name: &Option<String>| one(name.as_deref().unwrap_or("none"));
    let header = match proxy_protocol {
        ProxyProtocol::Off => "off",
        ProxyProtocol::Optional => "optional",
        ProxyProtocol::Required => "required",
    };
    vec![
        ("server.listen", many(listen)),
        ("server.handover", one(handover)),
        ("server.shutdown_timeout", one(Period(*shutdown_timeout))),
        ("server.max_connections", one(max_connections)),
        ("server.header_timeout", one(Period(*header_timeout))),
        ("server.request_line_max", one(Size(*request_line_max as u64))),
        ("server.header_line_max", one(Size(*header_line_max as u64))),
        ("server.headers_max", one(headers_max)),
        ("server.head_max", one(Size(*head_max as u64))),
        ("server.keepalive_requests", one(keepalive_requests)),
        ("server.threads", one(threads)),
        ("server.trusted_request_id", one(trusted_request_id)),
        (
            "server.trusted_proxies",
            trusted_proxies.as_ref().map_or_else(|| one("none"), |nets| many(nets.as_slice())),
        ),
        ("server.proxy_protocol", one(header)),
        ("server.max_connections_per_ip", one(max_connections_per_ip)),
        ("server.memory_max", one(Size(*memory_max))),
        ("server.user", name(user)),
        ("server.group", name(group)),
        ("server.http2", one(http2)),
    ]
}

fn http2(http2: &Http2) -> Keys {
    let Http2 {
        max_streams,
        max_reset_streams,
        stream_window,
        connection_window,
        ping_interval,
        ping_timeout,
        send_timeout,
    } = http2;
    vec![
        ("http2.max_streams", one(max_streams)),
        ("http2.max_reset_streams", one(max_reset_streams)),
        ("http2.stream_window", one(Size(u64::from(*stream_window)))),
        ("http2.connection_window", one(Size(u64::from(*connection_window)))),
        ("http2.ping_interval", one(Period(*ping_interval))),
        ("http2.ping_timeout", one(Period(*ping_timeout))),
        ("http2.send_timeout", one(Period(*send_timeout))),
    ]
}

fn edge(edge: Option<&Edge>) -> Keys {
    let Some(edge) = edge else {
        let none = || Shown::Many(Vec::new());
        let keys = ["tls.default", "tls.min_version", "tls.handshake_timeout", "tls.handshakes"];
        let auth = ["tls.client_auth", "tls.client_ca"];
        let rest = keys.into_iter().chain(auth).map(|key| (key, one("none")));
        return [("tls.listen", none()), ("tls.certificates", none())].into_iter().chain(rest).collect();
    };
    let Edge { listen, certificates, default, min_version, handshake_timeout, handshakes, .. } = edge;
    let Edge { client_auth, client_ca, .. } = edge;
    let default = match default {
        Unnamed::First => "first",
        Unnamed::Strict => "strict",
    };
    let min_version = match min_version {
        MinVersion::V12 => "1.2",
        MinVersion::V13 => "1.3",
    };
    let auth = match client_auth {
        ClientAuth::Off => "off",
        ClientAuth::Optional => "optional",
        ClientAuth::Required => "required",
    };
    vec![
        ("tls.listen", many(listen)),
        ("tls.certificates", many(certificates)),
        ("tls.default", one(default)),
        ("tls.min_version", one(min_version)),
        ("tls.handshake_timeout", one(Period(*handshake_timeout))),
        ("tls.handshakes", one(handshakes)),
        ("tls.client_auth", one(auth)),
        ("tls.client_ca", or_none(client_ca.as_ref())),
    ]
}

fn admin(admin: Option<&Admin>) -> Keys {
    let (listen, tokens, tls) = match admin {
        Some(Admin { listen, tokens, tls }) => (listen.to_string(), &tokens[..], tls.as_ref()),
        None => ("none".to_owned(), &[][..], None),
    };
    let file = |path: &Path, mark: &str| format!("{}{mark}", path.display());
    // Two certificates in one file are told apart by their marks.
    let cert = tls.map(|tls| file(&tls.cert, &format!(" (certificate {})", tls.mark)));
    let key = tls.map(|tls| file(&tls.key, ""));
    vec![
        ("admin.listen", one(listen)),
        ("admin.tls.cert", or_none(cert)),
        ("admin.tls.key", or_none(key)),
        ("admin.tokens", many(tokens)),
    ]
}

fn log(log: &Log) -> Keys {
    let Log { format, output, level, queue } = log;
    let format = match format {
        LogFormat::Logfmt => "logfmt",
        LogFormat::Json => "json",
    };
    let output = match output {
        LogOutput::Stdout => "stdout",
        LogOutput::Stderr => "stderr",
        LogOutput::Off => "off",
    };
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    vec![
        ("log.format", one(format)),
        ("log.output", one(output)),
        ("log.level", one(level)),
        ("log.queue", one(queue)),
    ]
}

fn dns(dns: &Dns) -> Keys {
    let Dns { servers, family, min_ttl, max_ttl, timeout, attempts, max_removal, max_removal_confirm } = dns;
    let family_word = match family {
        Families::PreferV4 => "prefer-v4",
        Families::PreferV6 => "prefer-v6",
        Families::Both => "both",
    };
    vec![
        ("dns.servers", many(servers)),
        ("dns.family", one(family_word)),
        ("dns.min_ttl", one(Period(*min_ttl))),
        ("dns.max_ttl", one(Period(*max_ttl))),
        ("dns.timeout", one(Period(*timeout))),
        ("dns.attempts", one(attempts)),
        ("dns.max_removal", one(max_removal)),
        ("dns.max_removal_confirm", one(max_removal_confirm)),
    ]
}

fn trail(audit: Option<&Audit>, state: Option<&State>) -> Keys {
    let path =
        |path: Option<&PathBuf>| one(path.map_or_else(|| "none".into(), |path| path.to_string_lossy()));
    let (file, max_size, files) = match audit {
        Some(Audit { file, max_size, files }) => (Some(file), *max_size, *files),
        None => (None, Audit::MAX_SIZE, Audit::FILES),
    };
    vec![
        ("audit.file", path(file)),
        ("audit.max_size", one(Size(max_size))),
        ("audit.files", one(files)),
        ("state.file", path(state.map(|State { file }| file))),
    ]
}

fn keys(app: &App) -> Keys {
    let App { spec, concurrency, health, dynos, plan, admission } = app;
    // What a probe begins with is what the app's connections begin with.
    let Health { probe, path, host, status, interval, timeout, header: _ } = health;
    let Admission { allow, deny, rate_limit } = admission;
    let rate =
        |key: &dyn Fn(&RateLimit) -> String| one(rate_limit.as_ref().map_or_else(|| "none".to_owned(), key));
    let probe = match probe {
        ProbeWord::Tcp => "tcp",
        ProbeWord::Http => "http",
        ProbeWord::None => "none",
    };
    let limits = &spec.limits;
    let encryption = limits.encryption.as_deref();
    let (name, ca) = limits.secured().map(upstream::shown).unzip();
    let redirect = encryption.and_then(|encryption| encryption.redirect);
    let hsts = encryption.and_then(|encryption| encryption.hsts.as_ref());
    let order = match limits.order {
        Order::LeastRecentlyUsed => "least-recently-used",
        Order::Random => "random",
        // `Order` may grow; the default stands for what this version cannot write.
        Order::Lifo | _ => "lifo",
    };
    let protocol = match limits.protocol {
        Protocol::H2c => "h2c",
        // As above.
        Protocol::Http1 | _ => "http1",
    };
    let header = match limits.proxy_protocol {
        ProxyHeader::Off => "off",
        ProxyHeader::V1 => "v1",
        ProxyHeader::V2 => "v2",
    };
    let mut keys = vec![
        ("hosts", many(&spec.hosts)),
        ("release", one(&spec.release)),
        ("dynos", many(dynos)),
        ("concurrency", one(concurrency)),
        ("streams", one(limits.streams)),
        ("protocol", one(protocol)),
        ("order", one(order)),
        ("body_max", one(Size(limits.body_max))),
        ("request_buffer", one(Size(limits.request_buffer as u64))),
        ("response_spool", one(Size(limits.response_spool as u64))),
        ("close_frees_dyno", one(limits.close_frees_dyno)),
        ("https.redirect", one(redirect.is_some())),
        ("https.port", or_none(redirect)),
        ("https.hsts", or_none(hsts)),
        ("https.hsts_subdomains", one(hsts.is_some_and(|hsts| hsts.contains("Sub")))),
        ("tls.to_dyno", one(limits.secured().is_some())),
        ("tls.name", or_none(name)),
        ("tls.ca", or_none(ca)),
        ("proxy_protocol", one(header)),
        ("allow", many(allow.as_slice())),
        ("deny", many(deny.as_slice())),
        ("rate_limit.per", rate(&|limit| limit.per.to_string())),
        ("rate_limit.rate", rate(&|limit| limit.rate.to_string())),
        ("rate_limit.burst", rate(&|limit| limit.burst.to_string())),
        ("queue.max_wait", one(Period(limits.queue_max_wait))),
        ("queue.max_requests_per_dyno", one(limits.queue_max_requests_per_dyno)),
        ("queue.max_bytes", one(Size(limits.queue_max_bytes))),
        ("queue.standing_after", one(Period(limits.standing_after))),
        ("queue.standing_wait", one(Period(limits.standing_wait))),
        ("timeouts.connect", one(Period(limits.connect))),
        ("timeouts.first_byte", one(Period(limits.first_byte))),
        ("timeouts.idle", one(Period(limits.idle))),
        ("timeouts.stream_idle", one(Period(limits.stream_idle))),
        ("timeouts.body", one(Period(limits.body))),
        ("timeouts.linger", one(Period(limits.linger))),
        ("timeouts.boot", one(Period(limits.boot))),
        ("timeouts.keepalive", one(Period(limits.keepalive))),
        ("retry.max_tries", one(limits.max_tries)),
        ("retry.quarantine", one(Period(limits.quarantine))),
        ("retry.quarantine_max", one(Period(limits.quarantine_max))),
        ("health.probe", one(probe)),
        ("health.path", one(path)),
        ("health.host", one(host.as_deref().unwrap_or("the dyno's address"))),
        ("health.status", one(status)),
        ("health.interval", one(Period(*interval))),
        ("health.timeout", one(Period(*timeout))),
        ("health.rise", one(limits.health_rise)),
        ("health.fall", one(limits.health_fall)),
        ("health.eject_after", one(limits.eject_after)),
        ("health.eject_max", one(limits.eject_max)),
    ];
    keys.extend(super::plan::keys(plan));
    keys
}

#[cfg(test)]
mod tests;
