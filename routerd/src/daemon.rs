//! The daemon put together: router, proxy, listeners, discovery, log, metrics and admin; its reloads and orderly end.

mod live;
mod names;
mod orders;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use router_core::Router;
use router_core::change::ChangeError;
use router_core::proxy::Proxy;
use tokio::sync::{Mutex, watch};

use self::live::{LAST_LINES, Lasting, Live, access_log};
use self::orders::Orders;
use crate::accept::Connections;
use crate::admin::{Access, AdminAddress, AdminError, Readiness, Reloads};
use crate::config::diff::Diff;
use crate::config::{Config, ConfigError};
use crate::conn::Terms;
use crate::drain::{Drain, Phase};
use crate::log::AccessLog;
use crate::metrics::Meters;

/// A running daemon. Dropping it cuts everything; [`stop`](Self::stop) is the orderly end.
pub struct Daemon {
    shared: Arc<Shared>,
    /// Dropping it ends the upkeep of the meters.
    _upkeep: watch::Sender<bool>,
}

/// What the daemon shares with the orders that it carries out.
struct Shared {
    lasting: Lasting,
    /// `None` once it is over.
    live: Mutex<Option<Live>>,
    shown: ArcSwap<Shown>,
    file: OnceLock<FromFile>,
    /// Held from reading a file to the end of its reload: what was read first is not put in place last.
    turn: Mutex<()>,
}

/// What is told of the configuration in place without waiting for a reload to end.
struct Shown {
    addresses: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    config: Arc<Config>,
}

/// Where configurations come from.
struct FromFile {
    path: PathBuf,
    /// Is told of each one that is put in place.
    then: Box<dyn Fn(&Config) + Send + Sync>,
}

/// Why the daemon cannot start, or cannot have another configuration.
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
    /// The daemon is ending.
    Ending,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Admin(error) => write!(f, "{error}"),
            Self::Log(error) => write!(f, "cannot start the access log: {error}"),
            Self::Apps(error) => write!(f, "{error}"),
            Self::Ending => f.write_str("the daemon is ending"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload has changed nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// The file says something that is wrong.
    Config(ConfigError),
    /// The file asks for something that cannot be had.
    Start(StartError),
    /// The daemon was not started from a file.
    NoFile,
    /// The file was not read to its end: the daemon is ending.
    Interrupted,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::NoFile => f.write_str("the daemon was not started from a file"),
            Self::Interrupted => f.write_str("the daemon is ending"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl Daemon {
    /// Starts what the configuration says: opens the listeners, waits for the first answers about names of dynos
    /// (5 s at most), and accepts.
    ///
    /// # Errors
    /// Says what cannot be started. Nothing is left running then.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let log = access_log(&config.log).map_err(StartError::Log)?;
        Self::start_as(config, log, true).await
    }

    /// The same with an access log of the caller's, which stays whatever a reload says.
    ///
    /// # Errors
    /// Says what cannot be started.
    pub async fn start_with_log(config: &Config, log: Option<AccessLog>) -> Result<Self, StartError> {
        Self::start_as(config, log, false).await
    }

    async fn start_as(config: &Config, log: Option<AccessLog>, ours: bool) -> Result<Self, StartError> {
        let (router, meters) = (Router::new(), Meters::new());
        let log = Arc::new(ArcSwapOption::from_pointee(log));
        let proxy = proxy(&router, &meters, &log);
        let lasting = Lasting {
            terms: Arc::new(ArcSwap::from_pointee(Terms::new(proxy.clone(), &config.server))),
            router,
            proxy,
            meters,
            log,
            log_is_ours: ours,
            connections: Connections::new(),
            readiness: Readiness::default(),
            reloads: Reloads::new(),
            drain: Drain::new(),
            orders: Orders::default(),
            access: Access::new(),
        };
        let (upkeep, ended) = watch::channel(false);
        tokio::spawn(lasting.meters.clone().upkeep(ended));
        let live = Live::start(config, &lasting).await?;
        lasting.readiness.set(None);
        let shown = ArcSwap::from_pointee(Shown::of(&live));
        let (live, file) = (Mutex::new(Some(live)), OnceLock::new());
        let shared = Arc::new(Shared { lasting, live, shown, file, turn: Mutex::new(()) });
        shared.lasting.orders.are_for(&shared);
        Ok(Self { shared, _upkeep: upkeep })
    }

    /// Puts another configuration in place and says what was different. What is in both is not touched: apps keep
    /// their lines, dynos, requests and counters, listeners their connections. Connections that are open keep the
    /// bounds of `[server]` under which they came. An app that comes gets its hosts once its names of dynos have been
    /// answered, or after 5 s. One reload waits for the other.
    ///
    /// # Errors
    /// What cannot be had, such as an address that is taken. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Not cancel safe: a future dropped half-way leaves some apps as they were and some as they are to be. Another
    /// reload brings all to one state.
    pub async fn reload(&self, config: Config) -> Result<Diff, StartError> {
        self.shared.reload(config).await
    }

    /// The same with a configuration that is in a file; gives it too.
    ///
    /// # Errors
    /// Also what is wrong with the file. Nothing has changed then.
    ///
    /// # Cancel safety
    /// As [`reload`](Self::reload).
    pub async fn reload_file(&self, path: &Path) -> Result<(Config, Diff), ReloadError> {
        self.shared.reload_file(path).await
    }

    /// Names the file that the configuration came from, which makes reloads possible that do not name one: those that
    /// the admin interface is asked for, and [`reload_again`](Self::reload_again). `then` is told of each configuration
    /// that these put in place. Only the first call counts.
    pub fn reloads_from(&self, path: &Path, then: impl Fn(&Config) + Send + Sync + 'static) {
        let _ = self.shared.file.set(FromFile { path: path.to_owned(), then: Box::new(then) });
    }

    /// Puts the file in place as it is now, and logs what came of it. `why` says who or what asks.
    ///
    /// # Errors
    /// What is wrong with the file, or cannot be had. Nothing has changed then.
    ///
    /// # Cancel safety
    /// As [`reload`](Self::reload).
    pub async fn reload_again(&self, why: &str) -> Result<(Config, Diff), ReloadError> {
        self.shared.reload_again(why).await
    }

    /// The configuration in place.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    /// Where it listens, with the ports it got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.shown.load().addresses.clone()
    }

    /// Where the admin interface listens, with the port it got.
    pub fn admin_address(&self) -> Option<AdminAddress> {
        self.shared.shown.load().admin.clone()
    }

    /// The router, for changes and pictures.
    pub fn router(&self) -> &Router {
        &self.shared.lasting.router
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.shared.lasting.connections.open()
    }

    /// Stops accepting, lets what is running finish within that time, cuts the rest, and writes the last log lines.
    /// Says how many connections were cut.
    ///
    /// # Cancel safety
    /// A dropped future leaves the daemon draining and cuts it.
    pub async fn stop(self, within: Duration) -> usize {
        let Shared { lasting, live, .. } = &*self.shared;
        lasting.readiness.drain();
        lasting.drain.begin();
        let _ = tokio::time::timeout(within, lasting.connections.ended()).await;
        let cut = lasting.connections.open();
        if cut > 0 {
            lasting.proxy.force_close();
            lasting.drain.cut();
            let _ = tokio::time::timeout(LAST_LINES, lasting.connections.ended()).await;
        }
        if let Some(log) = lasting.log.load_full()
            && !log.close(LAST_LINES).await
        {
            tracing::warn!("the last lines of the access log could not be written in {LAST_LINES:?}");
        }
        // A reload that still goes on is cut with all the rest.
        if let Ok(mut live) = tokio::time::timeout(LAST_LINES, live.lock()).await
            && let Some(live) = live.take()
        {
            live.end().await;
        }
        cut
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An order that is being carried out holds what we share, and is no reason to go on.
        self.shared.lasting.drain.cut();
    }
}

impl Shared {
    async fn reload(&self, config: Config) -> Result<Diff, StartError> {
        let mut live = self.live.lock().await;
        let ending = *self.lasting.drain.watch().borrow() != Phase::Running;
        let Some(live) = live.as_mut().filter(|_| !ending) else { return Err(StartError::Ending) };
        let result = live.reload(config, &self.lasting).await;
        match &result {
            Ok(_) => self.lasting.reloads.done(),
            Err(error) => self.lasting.reloads.failed(&error.to_string()),
        }
        self.shown.store(Arc::new(Shown::of(live)));
        result
    }

    async fn reload_file(&self, path: &Path) -> Result<(Config, Diff), ReloadError> {
        let _turn = self.turn.lock().await;
        let owned = path.to_owned();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&owned)).await;
        match loaded {
            Ok(Ok(config)) => {
                let diff = self.reload(config.clone()).await.map_err(ReloadError::Start)?;
                Ok((config, diff))
            }
            Ok(Err(error)) => {
                self.lasting.reloads.failed(&error.to_string());
                Err(ReloadError::Config(error))
            }
            Err(_) => Err(ReloadError::Interrupted),
        }
    }

    async fn reload_again(&self, why: &str) -> Result<(Config, Diff), ReloadError> {
        let FromFile { path, then } = self.file.get().ok_or(ReloadError::NoFile)?;
        tracing::info!("{why}: loading {} anew", path.display());
        let clock = self.lasting.router.clock();
        let begun = clock.now();
        let result = self.reload_file(path).await;
        match &result {
            Ok((config, diff)) => {
                then(config);
                let took = clock.now().duration_since(begun);
                diff.to_string().lines().for_each(|line| tracing::info!("reloaded: {line}"));
                tracing::info!("reloaded in {} ms", took.as_millis());
            }
            Err(error) => {
                error.to_string().lines().for_each(|line| tracing::error!("{line}"));
                tracing::error!("nothing was changed: the configuration in place goes on");
            }
        }
        result
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shown.load().config)
    }
}

impl Shown {
    fn of(live: &Live) -> Self {
        let config = Arc::new(live.config().clone());
        Self { addresses: live.addresses(), admin: live.admin_address(), config }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

fn proxy(router: &Router, meters: &Meters, log: &Arc<ArcSwapOption<AccessLog>>) -> Proxy {
    let (meters, log) = (meters.clone(), Arc::clone(log));
    Proxy::new(router.clone()).on_record(move |record| {
        meters.count(&record);
        if let Some(log) = &*log.load() {
            log.write(&record);
        }
    })
}
