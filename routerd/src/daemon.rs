//! The daemon put together: router, proxy, listeners, discovery, log, metrics and admin; its reloads and orderly end.

mod live;
mod names;
mod offer;
mod orders;
mod release;
mod succeed;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use router_core::Router;
use router_core::change::ChangeError;
use router_core::proxy::Proxy;
use router_core::sync;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use self::live::{LAST_LINES, Lasting, Live, access_log};
pub use self::offer::Holdings;
use self::orders::Orders;
use self::release::Deploys;
use self::succeed::Predecessor;
use crate::accept::Connections;
use crate::admin::{AdminAddress, AdminError, Readiness, Reloads};
use crate::config::diff::Diff;
use crate::config::{Config, ConfigError};
use crate::conn::Terms;
use crate::control::Control;
use crate::deploys::book::{Book, Shelf};
use crate::deploys::counts::Counts;
use crate::drain::Drain;
use crate::handover::{HandoverError, Stage};
use crate::inherit::{Inherited, Passed, Place};
use crate::log::AccessLog;
use crate::metrics::Meters;
use crate::upgrade::Program;

/// How long clients may ask once more on the connections they have when another process has taken over.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// A running daemon. Dropping it cuts everything; [`stop`](Self::stop) is the orderly end.
pub struct Daemon {
    inner: Arc<Inner>,
    /// Dropping it ends the upkeep of the meters.
    _upkeep: watch::Sender<bool>,
}

/// What the tasks of a daemon share. They hold it weakly: it is dropped with the daemon.
struct Inner {
    lasting: Lasting,
    /// `None` while it starts.
    live: Mutex<Option<Live>>,
    shown: ArcSwap<Shown>,
    stage: watch::Sender<Stage>,
    /// The hand-over socket of the daemon before.
    offered: sync::Mutex<Option<Passed>>,
    /// Whoever talks to processes that want to take over.
    offering: sync::Mutex<Option<JoinHandle<()>>>,
    hook: sync::Mutex<Option<offer::Hook>>,
    program: OnceLock<Program>,
}

/// What is told of listeners without waiting for a reload to end.
#[derive(Default)]
struct Shown {
    addresses: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    /// What is in place, and what the file says. `None`: it starts.
    configs: Option<(Arc<Config>, Arc<Config>)>,
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
    /// The daemon that runs does not hand over.
    TakeOver(HandoverError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Admin(error) => write!(f, "{error}"),
            Self::Log(error) => write!(f, "cannot start the access log: {error}"),
            Self::Apps(error) => write!(f, "{error}"),
            Self::TakeOver(error) => write!(f, "cannot take over: {error}"),
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
    /// The file was not read to its end: the daemon is ending.
    Interrupted,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
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
        Self::start_on(config, Inherited::default()).await
    }

    /// The same with listening sockets that are open already. Those that the configuration does not name are closed
    /// and reported.
    ///
    /// # Errors
    /// Says what cannot be started.
    pub async fn start_on(config: &Config, sockets: Inherited) -> Result<Self, StartError> {
        let log = access_log(&config.log).map_err(StartError::Log)?;
        Self::start_as(config, (log, true), sockets, None).await
    }

    /// The same with an access log of the caller's, which stays whatever a reload says.
    ///
    /// # Errors
    /// Says what cannot be started.
    pub async fn start_with_log(config: &Config, log: Option<AccessLog>) -> Result<Self, StartError> {
        Self::start_as(config, (log, false), Inherited::default(), None).await
    }

    async fn start_as(
        config: &Config,
        (log, ours): (Option<AccessLog>, bool),
        sockets: Inherited,
        path: Option<&Path>,
    ) -> Result<Self, StartError> {
        let (router, meters) = (Router::new(), Meters::new());
        let (mut before, mut sockets, mut offered) = (None, sockets, None);
        if let Some(path) = path {
            let found = Predecessor::find(path, &router).await.map_err(StartError::TakeOver)?;
            before = Some(found.0);
            sockets = sockets.after(found.1);
            offered = sockets.take(&Place::Unix(path.into()));
        }
        let log = Arc::new(ArcSwapOption::from_pointee(log));
        let counts = Counts::default();
        let proxy = proxy(&router, &meters, &counts, &log);
        let lasting = Lasting {
            terms: Arc::new(ArcSwap::from_pointee(Terms::new(proxy.clone(), &config.server))),
            router,
            proxy,
            meters,
            counts,
            shelf: Shelf::new(Book::default(), None),
            deploys: Deploys::default(),
            log,
            log_is_ours: ours,
            connections: Connections::new(),
            readiness: Readiness::default(),
            reloads: Reloads::new(),
            drain: Drain::new(),
        };
        let (upkeep, ended) = watch::channel(false);
        tokio::spawn(lasting.meters.clone().upkeep(ended));
        let inner = Arc::new(Inner {
            lasting,
            live: Mutex::new(None),
            shown: ArcSwap::default(),
            stage: watch::Sender::new(if before.is_some() { Stage::Taking } else { Stage::Alone(None) }),
            offered: sync::Mutex::new(offered),
            offering: sync::Mutex::new(None),
            hook: sync::Mutex::new(None),
            program: OnceLock::new(),
        });
        // Whoever wants something of it before it has started waits here.
        let mut slot = inner.live.lock().await;
        let live = match Live::start(config, &inner, sockets, before.as_mut()).await {
            Ok(live) => slot.insert(live),
            Err(error) => {
                if let Some(before) = before {
                    before.failed(&error.to_string()).await;
                }
                return Err(error);
            }
        };
        if let Some(before) = before {
            inner.succeed(before).await.map_err(StartError::TakeOver)?;
        }
        inner.lasting.readiness.set(None);
        inner.shown.store(Arc::new(Shown::of(live)));
        drop(slot);
        Ok(Self { inner, _upkeep: upkeep })
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
        let mut live = self.inner.live.lock().await;
        // It has started, or there would be no `self`.
        let Some(live) = live.as_mut() else { return Ok(Diff::default()) };
        let result = live.reload(config, &self.inner).await;
        match &result {
            Ok(_) => self.inner.lasting.reloads.done(),
            Err(error) => self.inner.lasting.reloads.failed(&error.to_string()),
        }
        self.inner.shown.store(Arc::new(Shown::of(live)));
        result
    }

    /// The same with a configuration that is in a file; gives it too.
    ///
    /// # Errors
    /// Also what is wrong with the file. Nothing has changed then.
    ///
    /// # Cancel safety
    /// As [`reload`](Self::reload).
    pub async fn reload_file(&self, path: &Path) -> Result<(Config, Diff), ReloadError> {
        let owned = path.to_owned();
        let loaded = tokio::task::spawn_blocking(move || Config::load(&owned)).await;
        match loaded {
            Ok(Ok(config)) => {
                let diff = self.reload(config.clone()).await.map_err(ReloadError::Start)?;
                Ok((config, diff))
            }
            Ok(Err(error)) => {
                self.inner.lasting.reloads.failed(&error.to_string());
                Err(ReloadError::Config(error))
            }
            Err(_) => Err(ReloadError::Interrupted),
        }
    }

    /// Where it listens, with the ports it got.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.inner.shown.load().addresses.clone()
    }

    /// Where the admin interface listens, with the port it got.
    pub fn admin_address(&self) -> Option<AdminAddress> {
        self.inner.shown.load().admin.clone()
    }

    /// The router, for changes and pictures.
    pub fn router(&self) -> &Router {
        &self.inner.lasting.router
    }

    /// What carries out orders, and says how things stand.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::new(Orders(Arc::downgrade(&self.inner)))
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.inner.lasting.connections.open()
    }

    /// Stops accepting, lets what is running finish within that time, cuts the rest, and writes the last log lines.
    /// Says how many connections were cut. If another process has taken over, clients have a second to ask once more
    /// on the connections they have, and it gets the dynos that are left.
    ///
    /// # Cancel safety
    /// A dropped future leaves the daemon draining and cuts it.
    pub async fn stop(self, within: Duration) -> usize {
        let lasting = &self.inner.lasting;
        let deadline = Instant::now() + within;
        let mut stage = self.stage();
        if stage.borrow().is_handed_over() {
            let _ = timeout(LAST_REQUEST.min(within), lasting.connections.ended()).await;
        }
        lasting.readiness.drain();
        lasting.drain.begin();
        let _ = timeout_at(deadline, lasting.connections.ended()).await;
        if stage.borrow().is_handed_over() {
            // Dynos that still work for clients that are gone.
            let _ = timeout_at(deadline, stage.wait_for(Stage::is_over)).await;
        }
        let cut = lasting.connections.open();
        if cut > 0 {
            lasting.proxy.force_close();
            lasting.drain.cut();
            let _ = timeout(LAST_LINES, lasting.connections.ended()).await;
        }
        if let Some(log) = lasting.log.load_full()
            && !log.close(LAST_LINES).await
        {
            tracing::warn!("the last lines of the access log could not be written in {LAST_LINES:?}");
        }
        if let Some(live) = self.inner.live.lock().await.take() {
            live.end().await;
        }
        let offering = self.inner.offering.lock().take();
        if let Some(offering) = offering.filter(|_| !stage.borrow().is_handed_over()) {
            // It takes the file of its socket away, and has been told to end.
            let _ = offering.await;
        }
        cut
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Whoever talks about a hand-over may still hold on to the rest.
        self.inner.lasting.drain.cut();
        self.inner.stage.send_if_modified(Stage::end);
    }
}

impl Shown {
    fn of(live: &Live) -> Self {
        let configs = Some((Arc::clone(&live.config), Arc::clone(&live.file)));
        Self { addresses: live.addresses(), admin: live.admin_address(), configs }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

fn proxy(router: &Router, meters: &Meters, counts: &Counts, log: &Arc<ArcSwapOption<AccessLog>>) -> Proxy {
    let (meters, counts, log) = (meters.clone(), counts.clone(), Arc::clone(log));
    Proxy::new(router.clone()).on_record(move |record| {
        meters.count(&record);
        counts.count(&record);
        if let Some(log) = &*log.load() {
            log.write(&record);
        }
    })
}
