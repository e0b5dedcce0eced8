//! From the file as written to the checked configuration: what one key alone cannot show to be wrong.

mod acme;
mod admin;
mod auth;
mod compression;
mod door;
mod http2;
mod spool;
mod sticky;
mod tls;
mod web;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use router_core::change::AppSpec;
use router_core::dns::Families;
use router_core::ids::{AppId, ReleaseId};
use router_core::limits::{Limits, Order, Protocol};

use super::access::is_name;
use super::dyno::DynoSource;
use super::error::Problem;
use super::file;
use super::health::Health;
use super::host;
use super::key::{Key, Text};
use super::units::{Period, Size};
use super::walk::clip;
use super::{App, Config, Dns, Handover, Log, Server};

/// The longest path of a socket that the system takes.
const SOCKET_PATH_MAX: usize = 107;
/// What is said of one that is longer.
pub(super) const NO_PATH: &str = "the path of a socket has 1 to 107 bytes";

/// Collects what is wrong on the way.
pub(super) struct Checker<'a> {
    problems: &'a mut Vec<Problem>,
    /// Nothing was taken out of the file, so what is missing was not written.
    whole: bool,
    /// What paths in the file are relative to: the folder it is in.
    folder: &'a Path,
    /// The first port with TLS.
    https: Option<u16>,
    /// Certificates come by ACME too.
    ordered: bool,
}

/// Who has a host or a dyno, and where that is written.
type Taken<T> = BTreeMap<T, (Range<usize>, String)>;

impl<'a> Checker<'a> {
    pub(super) fn new(problems: &'a mut Vec<Problem>, whole: bool, folder: &'a Path) -> Self {
        Self { problems, whole, folder, https: None, ordered: false }
    }

    /// What is returned is legal if no problem was added.
    pub(super) fn config(mut self, file: &file::File) -> Config {
        let base = self.folder;
        let mut addresses = Taken::new();
        let server = self.server(&file.server, &mut addresses);
        self.ordered = file.acme.is_some();
        let tls = file.tls.as_ref().map(|tls| self.edge(tls, &mut addresses));
        self.https = tls.as_ref().and_then(|tls| tls.listen.first()).map(SocketAddr::port);
        let admin = file.admin.as_ref().map(|admin| self.admin(admin, &mut addresses));
        let http2 = http2::http2(&file.http2);
        let log = log(&file.log);
        let dns = self.dns(&file.dns);
        let (audit, state, webhooks) = self.trail(file, base);
        let apps = self.apps(file, &addresses);
        let acme = file.acme.as_ref().map(|acme| Arc::new(self.acme(acme, &apps, tls.as_ref())));
        Config { server, http2, tls, acme, admin, log, dns, audit, state, webhooks, apps }
    }

    pub(super) fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Whether nothing was taken out of the file, so that what is missing was not written.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    fn server(&mut self, file: &file::Server, taken: &mut Taken<SocketAddr>) -> Server {
        let default = Server::default();
        let mut listen = Vec::new();
        for text in file.listen.value().into_iter().flatten() {
            match text.as_str().parse::<SocketAddr>() {
                Ok(address) => {
                    self.listener(address, text.span(), taken);
                    listen.push(address);
                }
                Err(_) => self.no_address(text, "server.listen", r#""127.0.0.1:8080" or "[::]:8080""#),
            }
        }
        if file.listen.value().is_none() {
            listen = default.listen;
        }
        let head_max = size(&file.head_max, default.head_max);
        for (name, key) in
            [("request_line_max", &file.request_line_max), ("header_line_max", &file.header_line_max)]
        {
            if let (Some(line), Some(span)) = (key.value(), key.span())
                && line.0 > head_max as u64
            {
                let message = format!("server.{name} is more than server.head_max");
                let found = format!("found {line}, and head_max is {}", Size(head_max as u64));
                self.problems
                    .push(Problem::new(span, message).found(found).help("raise head_max, or lower this"));
            }
        }
        let (trusted_proxies, proxy_protocol) = self.believed(file);
        let (user, group) = self.user_and_group(file);
        Server {
            listen,
            handover: self.handover(&file.handover),
            shutdown_timeout: file.shutdown_timeout.or(Period(default.shutdown_timeout)).0,
            max_connections: count(&file.max_connections, default.max_connections),
            header_timeout: file.header_timeout.or(Period(default.header_timeout)).0,
            send_timeout: file.send_timeout.or(Period(default.send_timeout)).0,
            request_line_max: size(&file.request_line_max, default.request_line_max),
            header_line_max: size(&file.header_line_max, default.header_line_max),
            headers_max: count(&file.headers_max, default.headers_max),
            head_max,
            keepalive_requests: file.keepalive_requests.or(default.keepalive_requests),
            threads: count(&file.threads, default.threads),
            trusted_request_id: file.trusted_request_id.or(default.trusted_request_id),
            http2: file.http2.or(default.http2),
            trusted_proxies,
            proxy_protocol,
            user,
            group,
            memory_max: file.memory_max.or(Size(default.memory_max)).0,
            spool_dir: self.spool_dir(file),
            disk_max: file.disk_max.or(Size(default.disk_max)).0,
            max_connections_per_ip: file.max_connections_per_ip.or(default.max_connections_per_ip),
        }
    }

    /// Notes an address that this daemon listens on. Port 0 is another port each time.
    fn listener(&mut self, address: SocketAddr, span: Range<usize>, taken: &mut Taken<SocketAddr>) {
        if address.port() == 0 {
            return;
        }
        if let Some((first, _)) = taken.get(&address) {
            let problem = Problem::new(span, format!("two listeners on {address}")).found("second time");
            self.problems.push(problem.other(first.clone(), "first time"));
            return;
        }
        taken.insert(address, (span, String::new()));
    }

    fn handover(&mut self, key: &Key<String>) -> Handover {
        let (Some(text), Some(span)) = (key.value(), key.span()) else { return Handover::default() };
        match text.as_str() {
            "auto" => return Handover::Auto,
            "off" => return Handover::Off,
            path => {
                if let Some(path) = socket_path(path) {
                    return Handover::At(path);
                }
            }
        }
        let why = if text.starts_with("unix:") { NO_PATH } else { "this is no socket" };
        let problem = Problem::new(span, format!("server.handover: {why}"));
        let problem = problem.found(format!("found \"{}\"", clip(text)));
        self.problems.push(problem.help(r#"allowed: "unix:/run/routerd/shop.handover", "auto" or "off""#));
        Handover::default()
    }

    fn no_address(&mut self, text: &Text, key: &str, allowed: &str) {
        let problem = Problem::new(text.span(), format!("{key}: this is no address"));
        let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
        self.problems.push(problem.help(format!("allowed: {allowed}")));
    }

    fn dns(&mut self, file: &file::Dns) -> Dns {
        let default = Dns::default();
        let mut servers = Vec::new();
        for text in file.servers.value().into_iter().flatten() {
            let written = text.as_str();
            let bare = || written.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
            match written.parse::<SocketAddr>().or_else(|_| bare()) {
                Ok(address) if address.port() > 0 => servers.push(address),
                _ => self.no_address(text, "dns.servers", r#""10.0.0.2", "10.0.0.2:5353" or "[::1]:53""#),
            }
        }
        let max_ttl = file.max_ttl.or(Period(default.max_ttl)).0;
        let short = ("dns.min_ttl", &file.min_ttl, default.min_ttl);
        let min_ttl = self.shorter(short, ("dns.max_ttl", &file.max_ttl, max_ttl));
        let family = file.family.value().map_or(default.family, |family| match family {
            file::Family::PreferV4 => Families::PreferV4,
            file::Family::PreferV6 => Families::PreferV6,
            file::Family::Both => Families::Both,
        });
        Dns {
            servers,
            family,
            min_ttl,
            max_ttl,
            timeout: file.timeout.or(Period(default.timeout)).0,
            attempts: file.attempts.value().map_or(default.attempts, |attempts| *attempts as usize),
            max_removal: file.max_removal.or(default.max_removal),
            max_removal_confirm: file.max_removal_confirm.or(default.max_removal_confirm),
        }
    }

    /// The shorter one of a pair: an error if it is written and longer than `long`; its default gives way.
    fn shorter(
        &mut self,
        (name, key, default): (&str, &Key<Period>, Duration),
        (long_name, long_key, long): (&str, &Key<Period>, Duration),
    ) -> Duration {
        let (Some(short), Some(span)) = (key.value(), key.span()) else { return default.min(long) };
        if short.0 > long {
            let mut problem = Problem::new(span, format!("{name} is more than {long_name}"));
            problem = problem.found(format!("found {short}"));
            let long = Period(long);
            problem = match long_key.span() {
                Some(place) => problem.other(place, format!("and here {long}")),
                None => problem.help(format!("{long_name} is {long} by default: raise it, or lower this")),
            };
            self.problems.push(problem);
        }
        short.0
    }

    fn apps(&mut self, file: &file::File, listeners: &Taken<SocketAddr>) -> Vec<App> {
        let only = file.apps.len() == 1;
        if file.apps.is_empty() && self.whole {
            self.problems.push(Problem::of_file("no app: add [apps.NAME]"));
        }
        let (mut hosts_taken, mut dynos_taken) = (Taken::new(), Taken::new());
        let mut apps = Vec::new();
        // In the order of the file, so that of two that want the same the second one is wrong.
        let mut written: Vec<_> = file.apps.iter().collect();
        written.sort_by_key(|(key, _)| key.span().start);
        for (key, app) in written {
            let name = key.get_ref();
            if !is_name(name) {
                let problem = Problem::new(key.span(), format!("\"{}\" is no name for an app", clip(name)));
                self.problems
                    .push(problem.help("allowed: letters, digits, -, _ and ., at most 100 characters"));
            }
            if app.hosts.value().is_none() && !only && self.whole {
                let problem = Problem::new(key.span(), format!("apps.{} has no hosts", clip(name)));
                self.problems
                    .push(problem.help(r#"add hosts = ["shop.test"], or ["*"] for what no other app takes"#));
            }
            let hosts = match app.hosts.value() {
                Some(hosts) => self.hosts(name, hosts, &mut hosts_taken),
                None => vec!["*".to_owned()],
            };
            let dynos = app.dynos.value().map_or(&[][..], Vec::as_slice);
            let dynos = self.dynos(name, dynos, &mut dynos_taken, listeners);
            let spec = AppSpec {
                id: AppId::new(name.as_str()),
                hosts,
                release: self.release(app),
                limits: self.limits(app),
            };
            let health = self.health(app, &spec.hosts);
            let admission = self.admission(app);
            let web = self.web(name, app, &spec.hosts);
            let plan = app.deploy.plan(name, self.problems).with_rise(spec.limits.health_rise);
            let concurrency = app.concurrency.or(1);
            apps.push(App { spec, concurrency, health, dynos, plan, admission, web });
        }
        apps.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
        apps
    }

    fn release(&mut self, app: &file::App) -> ReleaseId {
        let release = app.release.value().map_or("v1", String::as_str);
        if let Some(span) = app.release.span().filter(|_| !is_name(release)) {
            let problem = Problem::new(span, format!("\"{}\" is no name for a release", clip(release)));
            self.problems.push(problem.help("allowed: letters, digits, -, _ and ., at most 100 characters"));
        }
        ReleaseId::new(release)
    }

    fn hosts(&mut self, app: &str, texts: &[Text], taken: &mut Taken<String>) -> Vec<String> {
        let mut hosts = Vec::new();
        for text in texts {
            let host = match host::pattern(text.as_str()) {
                Ok(host) => host,
                Err(why) => {
                    let problem = Problem::new(text.span(), format!("apps.{}.hosts: {why}", clip(app)));
                    let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
                    let allowed =
                        r#""shop.test", "*.shop.test" or "*", each also with a path: "shop.test/api""#;
                    self.problems.push(problem.help(format!("allowed: {allowed}")));
                    continue;
                }
            };
            if self.free(format!("the host {host}"), app, text.span(), taken.get(&host)) {
                taken.insert(host.clone(), (text.span(), app.to_owned()));
                hosts.push(host);
            }
        }
        hosts
    }

    fn dynos(
        &mut self,
        app: &str,
        texts: &[Text],
        taken: &mut Taken<DynoSource>,
        listeners: &Taken<SocketAddr>,
    ) -> Vec<DynoSource> {
        let mut dynos = Vec::new();
        for text in texts {
            let source = match DynoSource::parse(text.as_str()) {
                Ok(source) => source,
                Err(why) => {
                    let problem = Problem::new(text.span(), format!("apps.{}.dynos: {why}", clip(app)));
                    let problem = problem.found(format!("found \"{}\"", clip(text.as_str())));
                    self.problems.push(problem.help(format!("allowed: {}", DynoSource::ALLOWED)));
                    continue;
                }
            };
            if let DynoSource::Address(address) = &source
                && let Some((span, _)) = listeners.get(address)
            {
                let problem = Problem::new(text.span(), format!("{address} is routerd itself, not a dyno"));
                self.problems.push(problem.found("a dyno here").other(span.clone(), "and a listener here"));
            }
            if self.free(format!("the dyno {source}"), app, text.span(), taken.get(&source)) {
                taken.insert(source.clone(), (text.span(), app.to_owned()));
                dynos.push(source);
            }
        }
        dynos
    }

    /// Whether nobody has `what` yet.
    fn free(
        &mut self,
        what: String,
        app: &str,
        span: Range<usize>,
        has: Option<&(Range<usize>, String)>,
    ) -> bool {
        let Some((first, owner)) = has else { return true };
        let message = match owner == app {
            true => format!("{what} is twice in app {}", clip(app)),
            false => format!("{what} is in two apps, {} and {}", clip(owner), clip(app)),
        };
        self.problems
            .push(Problem::new(span, message).found("second time").other(first.clone(), "first time"));
        false
    }

    fn health(
        &mut self,
        file::App { health: file, proxy_protocol, .. }: &file::App,
        hosts: &[String],
    ) -> Health {
        let default = Health::default();
        let interval = file.interval.or(Period(default.interval)).0;
        let timeout = self.shorter(
            ("health.timeout", &file.timeout, default.timeout),
            ("health.interval", &file.interval, interval),
        );
        let is_path = |path: &str| path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        let is_host = |host: &str| (1..=253).contains(&host.len()) && host.parse::<Authority>().is_ok();
        let path = self.text("health.path", &file.path, r#""/" or "/up?deep=1""#, |text| {
            is_path(text).then(|| text.to_owned()).ok_or("this is no path")
        });
        let host = self.text("health.host", &file.host, r#""shop.test" or "shop.test:8080""#, |text| {
            (text.is_empty() || is_host(text)).then(|| text.to_owned()).ok_or("this is no host")
        });
        let plain = hosts.iter().find(|host| !host.contains('*')).and_then(|host| host.split('/').next());
        let status = self.text("health.status", &file.status, r#""200-399" or "204""#, str::parse);
        Health {
            probe: file.probe.or(default.probe),
            path: path.unwrap_or(default.path),
            host: host.filter(|host| !host.is_empty()).or_else(|| plain.map(str::to_owned)),
            status: status.unwrap_or(default.status),
            interval,
            timeout,
            header: door::header_to_dynos(proxy_protocol.or(file::ProxyWord::Off)),
        }
    }

    /// Reads a text; `None`: it is not written, or wrong.
    fn text<T>(
        &mut self,
        name: &str,
        key: &Key<String>,
        allowed: &str,
        read: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let (text, span) = (key.value()?, key.span()?);
        let why = match read(text) {
            Ok(value) => return Some(value),
            Err(why) => why,
        };
        let problem = Problem::new(span, format!("{name}: {why}")).found(format!("found \"{}\"", clip(text)));
        self.problems.push(problem.help(format!("allowed: {allowed}")));
        None
    }

    fn limits(&mut self, app: &file::App) -> Limits {
        let file::App { queue, timeouts, retry, health, .. } = app;
        let default = Limits::default();
        let or = |key: &Key<Period>, default| key.or(Period(default)).0;
        let order = app.order.value().map_or(default.order, |order| match order {
            file::Order::Lifo => Order::Lifo,
            file::Order::LeastRecentlyUsed => Order::LeastRecentlyUsed,
            file::Order::Random => Order::Random,
        });
        let protocol = app.protocol.value().map_or(default.protocol, |protocol| match protocol {
            file::Protocol::Http1 => Protocol::Http1,
            file::Protocol::H2c => Protocol::H2c,
        });
        let max_wait = or(&queue.max_wait, default.queue_max_wait);
        let standing_wait = self.shorter(
            ("queue.standing_wait", &queue.standing_wait, default.standing_wait),
            ("queue.max_wait", &queue.max_wait, max_wait),
        );
        let quarantine_max = or(&retry.quarantine_max, default.quarantine_max);
        let quarantine = self.shorter(
            ("retry.quarantine", &retry.quarantine, default.quarantine),
            ("retry.quarantine_max", &retry.quarantine_max, quarantine_max),
        );
        self.disk(app, default.clone())
            .with_queue_max_wait(max_wait)
            .with_queue_max_requests_per_dyno(
                queue.max_requests_per_dyno.or(default.queue_max_requests_per_dyno),
            )
            .with_queue_max_bytes(queue.max_bytes.or(Size(default.queue_max_bytes)).0)
            .with_standing_after(or(&queue.standing_after, default.standing_after))
            .with_standing_wait(standing_wait)
            .with_boot(or(&timeouts.boot, default.boot))
            .with_connect(or(&timeouts.connect, default.connect))
            .with_first_byte(or(&timeouts.first_byte, default.first_byte))
            .with_idle(or(&timeouts.idle, default.idle))
            .with_stream_idle(or(&timeouts.stream_idle, default.stream_idle))
            .with_stream_drain(or(&app.deploy.drain_timeout, default.stream_drain))
            .with_streams(app.streams.or(default.streams))
            .with_body(or(&timeouts.body, default.body))
            .with_linger(or(&timeouts.linger, default.linger))
            .with_keepalive(or(&timeouts.keepalive, default.keepalive))
            .with_max_tries(retry.max_tries.or(default.max_tries))
            .with_quarantine(quarantine)
            .with_quarantine_max(quarantine_max)
            .with_eject_after(health.eject_after.or(default.eject_after))
            .with_eject_max(health.eject_max.or(default.eject_max))
            .with_health_rise(health.rise.or(default.health_rise))
            .with_health_fall(health.fall.or(default.health_fall))
            .with_body_rate_min(app.body_rate_min.or(Size(default.body_rate_min)).0)
            .with_body_max(app.body_max.or(Size(default.body_max)).0)
            .with_request_buffer(size(&app.request_buffer, default.request_buffer))
            .with_response_spool(size(&app.response_spool, default.response_spool))
            .with_order(order)
            .with_protocol(protocol)
            .with_encryption(self.encryption(app))
            .with_close_frees_dyno(app.close_frees_dyno.or(default.close_frees_dyno))
            .with_proxy_protocol(self.header(app))
    }
}

/// The path of a socket, written as `unix:` and the path.
/// The path in `unix:` and a path.
pub(super) fn socket_path(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix:")?;
    (1..=SOCKET_PATH_MAX).contains(&path.len()).then(|| PathBuf::from(path))
}

fn log(file: &file::Log) -> Log {
    let default = Log::default();
    Log {
        format: file.format.or(default.format),
        output: file.output.or(default.output),
        level: file.level.or(default.level),
        queue: count(&file.queue, default.queue),
    }
}

/// A size in memory; what does not fit is as much as there can be.
fn size(key: &Key<Size>, default: usize) -> usize {
    key.value().map_or(default, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
}

fn count(key: &Key<u32>, default: usize) -> usize {
    key.value().map_or(default, |count| usize::try_from(*count).unwrap_or(usize::MAX))
}
