//! The daemon put together: router, proxy, listeners, discovery, log, metrics and admin; its reloads and orderly end.

mod ending;
mod errors;
mod lend;
mod lasting;
mod live;
mod names;
mod offer;
mod orders;
mod release;
mod spool;
mod succeed;
mod trail;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use router_core::Router;
use router_core::change::Change;
use router_core::ids::AppId;
use router_core::proxy::{Asking, Proxy};
use tokio::sync::{Mutex, RwLock, watch};

pub use self::errors::{ReloadError, StartError};
use self::lasting::{Lasting, access_log};
use self::live::Live;
use self::offer::Heir;
use self::orders::Orders;
use self::release::Deploys;
use self::succeed::Predecessor;
use self::trail::Trail;
use crate::acme::{self, Acme, Tokens};
use crate::admin::{Access, AdminAddress, Readiness, Reloads};
use crate::admission::Guards;
use crate::audit::{Asked, Outcome};
use crate::config::Config;
use crate::config::diff::Diff;
use crate::config::event::EventKind;
use crate::conn::{Begins, Terms};
use crate::connections::Connections;
use crate::control::Control;
use crate::deploys::counts::Counts;
use crate::deploys::grown::Grower;
use crate::door::Door;
use crate::drain::{Drain, Phase};
use crate::gate;
use crate::inherit::Inherited;
use crate::log::AccessLog;
use crate::metrics::Meters;
use crate::tls::{self, Edge};
use crate::web::Web;
use crate::webhooks::Event;

/// A running daemon. Dropping it cuts everything; [`stop`](Self::stop) is the orderly end.
pub struct Daemon {
    shared: Arc<Shared>,
    /// Dropping it ends the upkeep of the meters.
    _upkeep: watch::Sender<bool>,
}

/// What the tasks of a daemon share. They hold it weakly: it is dropped with the daemon.
struct Shared {
    lasting: Lasting,
    /// `None` while it starts, and once it is over.
    live: Mutex<Option<Live>>,
    shown: ArcSwap<Shown>,
    file: OnceLock<FromFile>,
    /// Held from reading a file to the end of its reload: what was read first is not put in place last.
    turn: Mutex<()>,
    /// Held for reading while something is changed and written down: nobody takes over in the middle of it.
    under_way: RwLock<()>,
    heir: Heir,
}

/// What is told of the configuration in place without waiting for a reload to end.
struct Shown {
    addresses: Vec<SocketAddr>,
    /// Those of them with TLS.
    secure: Vec<SocketAddr>,
    admin: Option<AdminAddress>,
    /// What is in place.
    config: Arc<Config>,
    /// What the file says.
    file: Arc<Config>,
}

/// Where configurations come from.
struct FromFile {
    path: PathBuf,
    /// Is told of each one that is put in place.
    then: Box<dyn Fn(&Config) + Send + Sync>,
}

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
        Self::start_as(config, &Router::new(), (log, true), sockets, None).await
    }

    /// The same with an access log of the caller's, which stays whatever a reload says.
    ///
    /// # Errors
    /// Says what cannot be started.
    pub async fn start_with_log(config: &Config, log: Option<AccessLog>) -> Result<Self, StartError> {
        Self::start_as(config, &Router::new(), (log, false), Inherited::default(), None).await
    }

    /// Starts on a new router; in place of another daemon, it serves when that one lets it.
    async fn start_as(
        first: &Config,
        router: &Router,
        (log, log_is_ours): (Option<AccessLog>, bool),
        sockets: Inherited,
        mut before: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let meters = Meters::new();
        let log = Arc::new(ArcSwapOption::from_pointee(log));
        let counts = Counts::default();
        let (guards, web, door) = (Guards::new(), Web::new(first), Door::default());
        guards.set(first, router.clock());
        let tokens = Tokens::default();
        let proxy = web.on(proxy(router, &meters, &counts, &log, &guards)).with_own(tokens.known());
        spool::check(first).await?;
        spool::set(&proxy, first);
        let book = before.as_ref().map(|before| before.estate.book.clone());
        let (trail, shelf) = Trail::open(first, book).await.map_err(StartError::Trail)?;
        let (edge, asked) = Edge::new();
        let acme = Acme::start(edge.clone(), tokens, asked);
        let secure = first.tls.as_ref().map(|tls| edge.terms(tls)).transpose().map_err(StartError::Tls)?;
        let connections = Connections::new();
        let terms = Terms::new(proxy.clone(), &meters, first, door.clone(), connections.clone(), secure);
        edge.set(first.tls.as_ref());
        acme.set(Box::pin(acme.prepare(first.acme.as_ref())).await.map_err(StartError::Acme)?);
        let lasting = Lasting {
            terms: Arc::new(ArcSwap::from_pointee(terms)),
            edge,
            acme,
            router: router.clone(),
            proxy,
            guards,
            web,
            door,
            meters,
            counts,
            trail,
            shelf,
            deploys: Deploys::default(),
            grower: OnceLock::new(),
            log,
            log_is_ours,
            connections,
            readiness: Readiness::default(),
            reloads: Reloads::new(),
            drain: Drain::new(),
            orders: Orders::default(),
            access: Access::new(),
        };
        let (upkeep, ended) = watch::channel(false);
        tokio::spawn(lasting.meters.clone().upkeep(ended));
        let shown = ArcSwap::from_pointee(Shown::before(first));
        let (live, file, turn, under_way) =
            (Mutex::new(None), OnceLock::new(), Mutex::new(()), RwLock::new(()));
        let heir = Heir::new(before.as_mut().and_then(|before| before.offered.take()), before.is_some());
        let shared = Arc::new(Shared { lasting, live, shown, file, turn, under_way, heir });
        // Whoever wants something of it before it has started waits here.
        let mut slot = shared.live.lock().await;
        shared.lasting.orders.are_for(&shared);
        let live = slot.insert(Live::start(first, &shared, sockets, before.as_deref_mut()).await?);
        if let Some(before) = before {
            before.serving().await.map_err(StartError::TakeOver)?;
        }
        shared.lasting.acme.go_on();
        shared.lasting.readiness.set(None);
        shared.shown.store(Arc::new(Shown::of(live)));
        live.follow_all(&shared).await;
        drop(slot);
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
    /// the admin interface is asked for, and [`reload_again`](Self::reload_again). `then` is told of each
    /// configuration that these put in place. Only the first call counts.
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

    /// The configuration in place: the file's, with the releases and dynos that the apps run now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.shared.shown.load().config)
    }

    /// Where it listens, with the ports it got; where it speaks TLS comes last.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.shown.load().addresses.clone()
    }

    /// Where it speaks TLS, with the ports it got.
    pub fn secure_addresses(&self) -> Vec<SocketAddr> {
        self.shared.shown.load().secure.clone()
    }

    /// The certificates that are served, and how TLS handshakes have gone.
    pub fn tls(&self) -> tls::Account {
        self.shared.lasting.edge.account()
    }

    /// How orders of certificates are doing.
    pub fn acme(&self) -> acme::Account {
        self.shared.lasting.acme.account()
    }

    /// Where the admin interface listens, with the port it got.
    pub fn admin_address(&self) -> Option<AdminAddress> {
        self.shared.shown.load().admin.clone()
    }

    /// The router, for changes and pictures.
    pub fn router(&self) -> &Router {
        &self.shared.lasting.router
    }

    /// What carries out orders, and says how things stand.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::new(self.shared.lasting.orders.clone())
    }

    /// Where a grid tells what the dynos of its app do. Nothing else finds dynos of that app from now on.
    pub(crate) async fn sink_of_grid(&self, app: &AppId) -> Arc<dyn Fn(Vec<Change>) + Send + Sync> {
        let live = self.shared.live.lock().await;
        // It has started, or there would be no `self`.
        let gate = live.as_ref().map(|live| Arc::clone(&live.gate));
        if let Some(gate) = &gate {
            gate.adopt(app, gate::GRID);
        }
        Arc::new(move |changes| {
            // What is refused is reported there, and a grid has no second try.
            gate.iter().for_each(|gate| drop(gate.pass(gate::GRID, changes.clone())));
        })
    }

    /// From now on that grid starts the dynos for deploys of its app.
    pub(crate) fn grows(&self, grower: Arc<dyn Grower>) {
        // There is one grid in a daemon's life.
        let _ = self.shared.lasting.grower.set(grower);
    }

    /// Open connections of clients.
    pub fn connections(&self) -> usize {
        self.shared.lasting.connections.open()
    }

    /// Those of them that have had nothing to do for some seconds, and keep no more than their socket.
    pub fn resting(&self) -> usize {
        self.shared.lasting.connections.resting()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An order that is being carried out holds what we share, and is no reason to go on.
        self.shared.lasting.drain.cut();
        self.shared.heir.over();
    }
}

impl Shared {
    /// Whether it has been told to end, or another process has taken over.
    fn is_ending(&self) -> bool {
        *self.lasting.drain.watch().borrow() != Phase::Running
    }

    async fn reload(self: &Arc<Self>, config: Config) -> Result<Diff, StartError> {
        let mut live = self.live.lock().await;
        let ending = self.is_ending();
        let Some(live) = live.as_mut().filter(|_| !ending) else { return Err(StartError::Ending) };
        let result = live.reload(config, self).await;
        match &result {
            Ok(_) => self.lasting.reloads.done(),
            Err(error) => self.lasting.reloads.failed(&error.to_string()),
        }
        self.shown.store(Arc::new(Shown::of(live)));
        result
    }

    async fn reload_file(self: &Arc<Self>, path: &Path) -> Result<(Config, Diff), ReloadError> {
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

    /// The same for whoever is not asked for by an order: it is an order of its own.
    async fn reload_again(self: &Arc<Self>, why: &str) -> Result<(Config, Diff), ReloadError> {
        let _under_way = self.under_way.read().await;
        let trail = &self.lasting.trail;
        let asked = Asked { who: why.to_owned(), what: "reload".to_owned(), ..Asked::default() };
        let seq = trail.begins(asked).await.map_err(|refused| ReloadError::NotKept(refused.to_string()));
        let result = match &seq {
            Ok(_) => self.reload_told(why).await,
            Err(_) => Err(ReloadError::Interrupted),
        };
        let seq = seq.inspect_err(|error| tracing::error!("{why}: {error}"))?;
        let outcome = match &result {
            Ok(_) => Outcome::done(),
            Err(error) => Outcome::refused(error.to_string()),
        };
        trail.ends(seq, outcome).await;
        result
    }

    /// Puts the file in place as it is now, and says what came of it in the log and to webhooks.
    async fn reload_told(self: &Arc<Self>, why: &str) -> Result<(Config, Diff), ReloadError> {
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
                let text = format!("another configuration is in place ({why})");
                self.lasting.trail.tell(&Event::new(EventKind::ReloadDone, text));
            }
            Err(error) => {
                error.to_string().lines().for_each(|line| tracing::error!("{line}"));
                tracing::error!("nothing was changed: the configuration in place goes on");
                let text = format!("a configuration was refused, nothing was changed ({why})");
                let cause = Some(error.to_string());
                self.lasting.trail.tell(&Event { cause, ..Event::new(EventKind::ReloadFailed, text) });
            }
        }
        result
    }
}

impl Shown {
    /// While it starts.
    fn before(first: &Config) -> Self {
        let (config, file) = (Arc::new(first.clone()), Arc::new(first.clone()));
        Self { addresses: Vec::new(), secure: Vec::new(), admin: None, config, file }
    }

    fn of(live: &Live) -> Self {
        let (config, file) = (Arc::clone(&live.config), Arc::clone(&live.file));
        let (plain, secure) = (live.addresses(Begins::Http), live.addresses(Begins::Tls));
        let addresses = [plain, secure.clone()].concat();
        Self { addresses, secure, admin: live.admin_address(), config, file }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

fn proxy(
    router: &Router,
    meters: &Meters,
    counts: &Counts,
    log: &Arc<ArcSwapOption<AccessLog>>,
    guards: &Guards,
) -> Proxy {
    let (meters, counts, log) = (meters.clone(), counts.clone(), Arc::clone(log));
    let (guards, clock) = (guards.clone(), router.clock().clone());
    let guard = Arc::new(move |asking: &Asking<'_>| guards.ask(asking, &clock));
    Proxy::new(router.clone()).with_guard(guard).on_record(move |record| {
        meters.count(&record);
        counts.count(&record);
        if let Some(log) = &*log.load() {
            log.write(&record);
        }
    })
}
