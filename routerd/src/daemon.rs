//! The daemon put together: router, proxy, listeners, discovery, log, metrics and admin; and its orderly end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use router_core::Router;
use router_core::change::{Change, ChangeError};
use router_core::dns::{Bounds, Settings, Source};
use router_core::proxy::{Proxy, Rules};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accept::{self, Connections};
use crate::admin::{Admin, AdminAddress, AdminError, AdminListener, Readiness};
use crate::config::{self, Config, DynoSource, LogFormat, LogOutput};
use crate::conn::Terms;
use crate::discover::{AppSources, Discoveries};
use crate::drain::Drain;
use crate::log::{AccessLog, Format};
use crate::metrics::{Meters, Scrape};

/// How long the start waits for the first answers about names of dynos.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);
/// How long the log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A running daemon. Dropping it cuts everything; [`stop`](Self::stop) is the orderly end.
pub struct Daemon {
    router: Router,
    proxy: Proxy,
    addresses: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    readiness: Readiness,
    drain: Drain,
    connections: Connections,
    log: Option<AccessLog>,
    discoveries: Discoveries,
    /// Told once the drain is over: until then the admin listener says "draining".
    stop_admin: watch::Sender<bool>,
    admin_task: Option<JoinHandle<()>>,
}

/// Why the daemon cannot start.
#[derive(Debug)]
pub enum StartError {
    /// A listener cannot be opened.
    Listen(SocketAddr, io::Error),
    /// The admin listener cannot be opened.
    Admin(AdminError),
    /// The access log cannot be started.
    Log(io::Error),
    /// The apps contradict each other.
    Apps(ChangeError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Admin(error) => write!(f, "{error}"),
            Self::Log(error) => write!(f, "cannot start the access log: {error}"),
            Self::Apps(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Daemon {
    /// Starts what the configuration says: opens the listeners, waits for the first answers about names of dynos
    /// (5 s at most), and accepts.
    ///
    /// # Errors
    /// Says what cannot be started. Nothing is left running then.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let log = access_log(&config.log).map_err(StartError::Log)?;
        Self::start_with_log(config, log).await
    }

    /// The same with an access log of the caller's.
    ///
    /// # Errors
    /// Says what cannot be started.
    pub async fn start_with_log(config: &Config, log: Option<AccessLog>) -> Result<Self, StartError> {
        let listeners = listen(&config.server.listen)?;
        let router = Router::new();
        let apps: Vec<_> = config.apps.iter().map(|app| Change::PutApp(app.spec.clone())).collect();
        router.apply(&apps).map_err(StartError::Apps)?;

        let meters = Meters::new();
        let proxy = proxy(&router, &config.server, &meters, log.clone());
        let (readiness, connections) = (Readiness::default(), Connections::new());
        let (stop_admin, stopped) = watch::channel(false);
        tokio::spawn(meters.clone().upkeep(stopped.clone()));
        let page = scraper(&router, &meters, &connections, log.as_ref());
        let (admin, admin_task) = admin(config, &router, page, &readiness, stopped).await?;

        let discoveries = discover(config, &router).await;
        let drain = Drain::new();
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let terms = Arc::new(Terms::new(proxy.clone(), &config.server));
        for listener in listeners {
            let (terms, connections) = (Arc::clone(&terms), connections.clone());
            let most = config.server.max_connections;
            tokio::spawn(accept::accept(listener, terms, connections, most, drain.watch()));
        }
        readiness.set(None);
        #[rustfmt::skip]
        let daemon = Self {
            router, proxy, addresses, admin, readiness, drain, connections, log, discoveries, stop_admin, admin_task,
        };
        Ok(daemon)
    }

    /// Where it listens, with the ports it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin interface listens, with the port it got.
    pub fn admin_address(&self) -> Option<&AdminAddress> {
        self.admin.as_ref()
    }

    /// The router, for changes and pictures.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }

    /// Stops accepting, lets what is running finish within that time, cuts the rest, and writes the last log lines.
    /// Says how many connections were cut.
    ///
    /// # Cancel safety
    /// A dropped future leaves the daemon draining and cuts it.
    pub async fn stop(self, within: Duration) -> usize {
        self.readiness.drain();
        self.drain.begin();
        let _ = tokio::time::timeout(within, self.connections.ended()).await;
        let cut = self.connections.open();
        if cut > 0 {
            self.proxy.force_close();
            self.drain.cut();
            let _ = tokio::time::timeout(LAST_LINES, self.connections.ended()).await;
        }
        drop(self.discoveries);
        if let Some(log) = &self.log
            && !log.close(LAST_LINES).await
        {
            tracing::warn!("the last lines of the access log could not be written in {LAST_LINES:?}");
        }
        self.stop_admin.send_replace(true);
        if let Some(task) = self.admin_task {
            let _ = task.await;
        }
        cut
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let open = |address: &SocketAddr| accept::listen(*address).map_err(|e| StartError::Listen(*address, e));
    addresses.iter().map(open).collect()
}

fn access_log(log: &config::Log) -> io::Result<Option<AccessLog>> {
    let format = match log.format {
        LogFormat::Logfmt => Format::Logfmt,
        LogFormat::Json => Format::Json,
    };
    match log.output {
        LogOutput::Off => Ok(None),
        LogOutput::Stdout => AccessLog::to_stdout(format, log.queue).map(Some),
        LogOutput::Stderr => AccessLog::start(format, log.queue, io::stderr()).map(Some),
    }
}

fn proxy(router: &Router, server: &config::Server, meters: &Meters, log: Option<AccessLog>) -> Proxy {
    let rules = Rules {
        request_line_max: server.request_line_max,
        header_line_max: server.header_line_max,
        headers_max: server.headers_max,
        trusted_request_id: server.trusted_request_id,
    };
    let meters = meters.clone();
    Proxy::new(router.clone()).with_rules(rules).on_record(move |record| {
        meters.count(&record);
        if let Some(log) = &log {
            log.write(record);
        }
    })
}

fn scraper(
    router: &Router,
    meters: &Meters,
    connections: &Connections,
    log: Option<&AccessLog>,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    let (router, meters, connections) = (router.clone(), meters.clone(), connections.clone());
    let log = log.cloned();
    Arc::new(move || {
        meters.render(&Scrape {
            snapshot: router.snapshot(),
            connections: connections.open(),
            log_lines_lost: log.as_ref().map_or(0, AccessLog::lost),
            log_write_errors: log.as_ref().map_or(0, AccessLog::errors),
        })
    })
}

async fn admin(
    config: &Config,
    router: &Router,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    readiness: &Readiness,
    stop: watch::Receiver<bool>,
) -> Result<(Option<AdminAddress>, Option<JoinHandle<()>>), StartError> {
    let address = match &config.admin {
        None => return Ok((None, None)),
        Some(config::Admin::Tcp(address)) => AdminAddress::Tcp(*address),
        Some(config::Admin::Unix(path)) => AdminAddress::Unix(path.clone()),
    };
    let listener = AdminListener::bind(&address).await.map_err(StartError::Admin)?;
    let address = listener.address().clone();
    let router = router.clone();
    let readiness = readiness.clone();
    let admin = Admin { snapshot: Arc::new(move || router.snapshot()), metrics, readiness };
    let task = tokio::spawn(listener.serve(admin, stop));
    Ok((Some(address), Some(task)))
}

/// Starts discovery and waits for the first answers, so that the first request finds dynos.
async fn discover(config: &Config, router: &Router) -> Discoveries {
    let dns = &config.dns;
    let bounds = Bounds {
        min_ttl: dns.min_ttl,
        max_ttl: dns.max_ttl,
        max_removal: dns.max_removal,
        confirm: dns.max_removal_confirm,
        families: dns.family,
        ..Bounds::default()
    };
    let settings = Settings::default()
        .with_servers(dns.servers.clone())
        .with_timeout(dns.timeout)
        .with_tries(u32::try_from(dns.attempts).unwrap_or(u32::MAX))
        .with_bounds(bounds);
    let apps: Vec<_> = config
        .apps
        .iter()
        .map(|app| AppSources {
            app: app.spec.id.clone(),
            sources: app.dynos.iter().map(source).collect(),
            concurrency: app.concurrency,
        })
        .collect();
    let router = router.clone();
    let mut discoveries =
        Discoveries::new(settings.clone(), Arc::new(move |changes| apply(&router, changes)));
    discoveries.apply(settings, &apps).await;
    if !discoveries.ready(FIRST_ANSWERS).await {
        tracing::warn!("not every name of a dyno has been answered in {FIRST_ANSWERS:?}; starting without");
    }
    discoveries
}

fn source(dyno: &DynoSource) -> Source {
    match dyno {
        DynoSource::Address(address) => Source::Address(*address),
        DynoSource::Dns { name, port } => Source::Dns { host: name.as_str().into(), port: *port },
        DynoSource::Srv { name } => Source::Srv { name: name.as_str().into() },
    }
}

/// Applies what discovery found. What cannot be done now, because another app still has the dyno, comes back.
fn apply(router: &Router, changes: Vec<Change>) -> Vec<Change> {
    if router.apply(&changes).is_ok() {
        return Vec::new();
    }
    // One of them is wrong: that is no reason to lose the others.
    let mut refused = Vec::new();
    for change in changes {
        if let Err(error) = router.apply(std::slice::from_ref(&change)) {
            tracing::warn!("discovery: {error}");
            refused.push(change);
        }
    }
    refused
}
