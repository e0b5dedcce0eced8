//! What a reload changes of a running daemon, and the order in which it does: everything that can fail comes first.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use router_core::change::{AppSpec, Change, ChangeError};
use router_core::ids::AppId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::lasting::{LAST_LINES, Lasting, access_log};
use super::release::{self};
use super::succeed::Predecessor;
use super::{Shared, StartError, names, spool};
use crate::accept;
use crate::acme::Prepared;
use crate::admin::{Admin, AdminAddress, AdminError, AdminListener, LeaveFile};
use crate::config::diff::{AppChange, Diff};
use crate::config::{self, AdminListen, Config};
use crate::conn::Begins;
use crate::discover::Discoveries;
use crate::gate::Gate;
use crate::handover::Described;
use crate::health::Watch;
use crate::inherit::{self, Inherited, Place};
use crate::log::AccessLog;
use crate::tls::{self};

/// How long the start, and a reload that adds apps, wait for the first answers about names of dynos.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// What a reload changes.
pub(super) struct Live {
    /// The configuration in place: the file's, with the releases and dynos that the apps run now.
    pub(super) config: Arc<Config>,
    /// As the file has it.
    pub(super) file: Arc<Config>,
    listeners: Vec<Listening>,
    admin: Option<RunningAdmin>,
    pub(super) discoveries: Discoveries,
    pub(super) gate: Arc<Gate>,
    /// Dropping it ends the probes.
    watch: Watch,
}

/// One listener of the configuration. Dropping it closes the listener, not the connections that came through it.
struct Listening {
    /// As the configuration has it: port 0 is any free port.
    wanted: SocketAddr,
    begins: Begins,
    address: SocketAddr,
    listener: Arc<TcpListener>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct RunningAdmin {
    /// As the configuration has it.
    wanted: Place,
    address: AdminAddress,
    /// The socket, for another process.
    socket: OwnedFd,
    file_stays: bool,
    leave_file: LeaveFile,
    /// Dropping it ends the listener.
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What has been opened for a configuration that is not in place yet.
#[derive(Default)]
struct Opened {
    listeners: Vec<(SocketAddr, Begins, TcpListener)>,
    tls: Option<tls::Terms>,
    acme: Prepared,
    admin: Option<(Place, AdminListener, OwnedFd)>,
    log: Option<AccessLog>,
    inherited: Inherited,
}

impl Live {
    /// The first configuration. With a daemon before this one it accepts when its turn has come.
    pub(super) async fn start(
        file: &Config,
        inner: &Arc<Shared>,
        inherited: Inherited,
        before: Option<&mut Predecessor>,
    ) -> Result<Self, StartError> {
        let lasting = &inner.lasting;
        let (mut config, book) = (file.clone(), lasting.shelf.read());
        release::overlay(&mut config, &book);
        // What runs goes on; what is to run instead takes over from it by a deploy.
        for app in &mut config.apps {
            let running = before.as_ref().and_then(|before| before.estate.running.get(&app.spec.id));
            running.iter().for_each(|running| running.put(app));
        }
        let mut opened = Opened { inherited, ..Opened::default() };
        doors(&config).try_for_each(|(address, begins)| opened.listen(address, begins))?;
        opened.admin(&config).await?;
        std::mem::take(&mut opened.inherited).close();
        let apps: Vec<_> = config.apps.iter().map(|app| Change::PutApp(app.spec.clone())).collect();
        lasting.router.apply(&apps).map_err(StartError::Apps)?;
        let gate = Arc::new(Gate::new(lasting.router.clone()));
        let discoveries = Discoveries::new(names::settings(&config), Arc::clone(&gate));
        // The admin listener first: whoever asks whether the daemon is ready gets an answer while names are looked up.
        lasting.access.set(config.admin.as_ref());
        let start = |admin| RunningAdmin::start(admin, lasting);
        let admin = opened.admin.take_if(|_| before.is_none()).map(start);
        let (config, file, listeners) = (Arc::new(config), Arc::new(file.clone()), Vec::new());
        let watch = Watch::start(lasting.router.clone(), lasting.meters.clone(), names::health(&config));
        let mut live = Self { config: Arc::clone(&config), file, listeners, admin, discoveries, gate, watch };
        live.take_up(&book, inner).await;
        live.discover(&config, true).await;
        if let Some(before) = before {
            before.ready(&lasting.router).await.map_err(StartError::TakeOver)?;
            lasting.trail.take().await.map_err(StartError::Trail)?;
            lasting.shelf.put_down().await.map_err(StartError::Trail)?;
            live.admin = opened.admin.take().map(start);
        }
        live.accept(opened.listeners, lasting);
        Ok(live)
    }

    /// Puts another configuration in place; what is in both is not touched. Says what was different.
    ///
    /// # Errors
    /// What cannot be had; then nothing has changed.
    pub(super) async fn reload(&mut self, file: Config, inner: &Arc<Shared>) -> Result<Diff, StartError> {
        let lasting = &inner.lasting;
        let mut new = file.clone();
        release::overlay(&mut new, &lasting.shelf.read());
        let told = Diff::between(&self.config, &new);
        // What an app runs is changed by a deploy, not in place.
        let moved = self.keep_releases(&mut new);
        let diff = Diff::between(&self.config, &new);
        let opened = self.open(&diff, &new, lasting).await?;
        // Apps that come get their dynos before their hosts, so that their first requests find them.
        let come = diff.apps.iter().filter(|app| app.kind == AppChange::Added);
        let come: BTreeSet<&AppId> = come.map(|app| &app.id).collect();
        let hostless = |app: &config::App| Change::PutApp(AppSpec { hosts: Vec::new(), ..app.spec.clone() });
        let added = new.apps.iter().filter(|app| come.contains(&app.spec.id));
        let added: Vec<_> = added.map(hostless).collect();
        lasting.router.apply(&added).map_err(StartError::Apps)?;
        self.gate.set_quiet(true);
        self.discover(&new, !added.is_empty()).await;
        let changes = [diff.changes(&new), self.handed_on(&diff, lasting)].concat();
        let applied = lasting.router.apply(&changes);
        self.gate.set_quiet(false);
        if let Err(error) = applied {
            // A checked configuration cannot be refused; should it be, the old one goes on.
            return Err(self.take_back(&added, error, lasting).await);
        }
        self.switch(opened, &diff, &new, lasting);
        (self.config, self.file) = (Arc::new(new), Arc::new(file));
        for donor in lasting.deploys.retain(|id| self.config.app(id).is_some()) {
            self.gate.open(&donor);
        }
        for app in moved {
            self.follow(&app, inner).await;
        }
        Ok(told)
    }

    /// Dynos of apps that go, found for apps that come (one that has got another name): those have them from the moment
    /// that the others are gone, so that no request finds them without.
    fn handed_on(&self, diff: &Diff, lasting: &Lasting) -> Vec<Change> {
        let these = |kind| diff.apps.iter().filter(move |app| app.kind == kind).map(|app| &app.id);
        let gone = these(AppChange::Removed).filter_map(|id| lasting.router.app(id));
        let dynos = gone.flat_map(|app| app.snapshot().dynos);
        let mut free: BTreeSet<_> = dynos.map(|dyno| dyno.address).collect();
        let found = these(AppChange::Added).map(|id| (id, self.gate.wanted(id)));
        let found = found.flat_map(|(id, dynos)| dynos.into_iter().map(move |dyno| (id, dyno)));
        let handed_on = found.filter(|(_, dyno)| free.remove(&dyno.address));
        handed_on.map(|(id, dyno)| Change::AddDyno(id.clone(), dyno)).collect()
    }

    /// Opens what the new configuration has and the old has not.
    async fn open(&self, diff: &Diff, new: &Config, lasting: &Lasting) -> Result<Opened, StartError> {
        let mut opened = Opened::default();
        for (address, begins) in doors(new).filter(|at| self.listener(*at).is_none()) {
            // One that begins otherwise stays open.
            if address.port() == 0 || !self.listeners.iter().any(|it| it.wanted == address) {
                opened.listen(address, begins)?;
            }
        }
        opened.tls = lasting.secure(new)?;
        spool::check(new).await?;
        // In a box: a reload is large enough as it is.
        let prepared = Box::pin(lasting.acme.prepare(new.acme.as_ref())).await;
        opened.acme = prepared.map_err(StartError::Acme)?;
        if diff.has("admin.listen") {
            opened.admin(new).await?;
        }
        if lasting.log_is_ours && changes_log(diff) {
            opened.log = access_log(&new.log).map_err(StartError::Log)?;
        }
        Ok(opened)
    }

    /// Nothing here can fail.
    fn switch(&mut self, opened: Opened, diff: &Diff, new: &Config, lasting: &Lasting) {
        // Before a new admin listener answers, and without waiting for the old one to end.
        lasting.access.set(new.admin.as_ref());
        lasting.edge.set(new.tls.as_ref());
        lasting.acme.set(opened.acme);
        lasting.guards.set(new, lasting.router.clock());
        spool::set(&lasting.proxy, new);
        lasting.web.set(new);
        lasting.terms.store(Arc::new(lasting.terms_of(new, opened.tls)));
        lasting.trail.set(new);
        if lasting.log_is_ours && changes_log(diff) {
            let old = lasting.log.swap(opened.log.map(Arc::new));
            tokio::spawn(async move {
                if let Some(old) = old {
                    old.close(LAST_LINES).await;
                }
            });
        }
        self.watch.set(names::health(new));
        self.listeners.retain_mut(|it| {
            let stays = doors(new).any(|at| at == (it.wanted, it.begins));
            let other = doors(new).find(|at| at.0 == it.wanted && it.wanted.port() != 0);
            if let Some((_, begins)) = other.filter(|_| !stays) {
                it.task.abort();
                it.begins = begins;
                it.task = lasting.accept(&it.listener, begins);
            }
            let goes = !stays && other.is_none();
            if goes {
                it.task.abort();
                lasting.sweep(&it.listener, it.begins);
            }
            !goes
        });
        self.accept(opened.listeners, lasting);
        if diff.has("admin.listen") {
            let admin = opened.admin.map(|admin| RunningAdmin::start(admin, lasting));
            // The old one finishes what it is answering by itself.
            drop(std::mem::replace(&mut self.admin, admin));
        }
    }

    async fn take_back(&mut self, added: &[Change], error: ChangeError, lasting: &Lasting) -> StartError {
        let old = Arc::clone(&self.config);
        self.discover(&old, false).await;
        let gone = added.iter().filter_map(|change| match change {
            Change::PutApp(spec) => Some(Change::RemoveApp(spec.id.clone())),
            Change::RemoveApp(_) | Change::AddDyno(..) | Change::RemoveDyno(..) => None,
            Change::SetDyno(..) | Change::SetCanary(..) | Change::Hold(..) => None,
        });
        // They were added a moment ago.
        let _ = lasting.router.apply(&gone.collect::<Vec<_>>());
        StartError::Apps(error)
    }

    async fn discover(&mut self, config: &Config, wait: bool) {
        self.discoveries.apply(names::settings(config), &names::sources(config)).await;
        if wait && !self.discoveries.ready(FIRST_ANSWERS).await {
            tracing::warn!(
                "not every name of a dyno has been answered in {FIRST_ANSWERS:?}; going on without"
            );
        }
    }

    fn accept(&mut self, listeners: Vec<(SocketAddr, Begins, TcpListener)>, lasting: &Lasting) {
        for (wanted, begins, listener) in listeners {
            let Ok(address) = listener.local_addr() else { continue };
            let listener = Arc::new(listener);
            let task = lasting.accept(&listener, begins);
            self.listeners.push(Listening { wanted, begins, address, listener, task });
        }
        // Another process finds them in the order of the configuration, which tells two with port 0 apart.
        self.listeners.sort_by_key(|it| it.begins == Begins::Tls);
    }

    fn listener(&self, (wanted, begins): (SocketAddr, Begins)) -> Option<&Listening> {
        self.listeners.iter().find(|it| it.wanted == wanted && it.begins == begins)
    }

    /// The listening sockets, for another process.
    pub(super) fn sockets(&self) -> Vec<(Described, BorrowedFd<'_>)> {
        let listener = |it: &'_ Listening| Described { place: Place::Tcp(it.wanted), file_stays: false };
        let listeners = self.listeners.iter().map(|it| (listener(it), it.listener.as_fd()));
        let admin = self.admin.iter().map(|it| {
            let (place, file_stays) = (it.wanted.clone(), it.file_stays);
            (Described { place, file_stays }, it.socket.as_fd())
        });
        listeners.chain(admin).collect()
    }

    /// Accepts nothing and changes nothing until [`go_on`](Self::go_on). Clients wait in the kernel.
    pub(super) fn halt(&self) {
        self.listeners.iter().for_each(|it| it.task.abort());
        self.gate.close_all();
    }

    pub(super) fn go_on(&mut self, lasting: &Lasting) {
        for it in &mut self.listeners {
            it.task = lasting.accept(&it.listener, it.begins);
        }
        self.gate.open_all();
    }

    /// The file of a Unix socket is another process's from now on.
    pub(super) fn leave_files(&self) {
        self.admin.iter().for_each(|admin| admin.leave_file.set(true));
    }

    /// Where it listens, in the order of the configuration.
    pub(super) fn addresses(&self, begins: Begins) -> Vec<SocketAddr> {
        let order = |it: &&Listening| doors(&self.config).position(|at| at == (it.wanted, it.begins));
        let mut listeners: Vec<_> = self.listeners.iter().filter(|it| it.begins == begins).collect();
        listeners.sort_by_key(order);
        listeners.into_iter().map(|it| it.address).collect()
    }

    pub(super) fn admin_address(&self) -> Option<AdminAddress> {
        self.admin.as_ref().map(|admin| admin.address.clone())
    }

    /// The drain has begun: nobody is listened to but who asks the admin listener. Who has connected is served, unless
    /// it is for another process to do that.
    pub(super) async fn close(&mut self, lasting: &Lasting, is_handed_over: bool) {
        for mut it in self.listeners.drain(..) {
            it.task.abort();
            // It has the listener too, which is to be closed as soon as it is empty.
            let _ = (&mut it.task).await;
            if !is_handed_over {
                lasting.sweep(&it.listener, it.begins);
            }
        }
    }

    /// The drain is over: the admin listener, which said so until now, ends.
    pub(super) async fn end(self) {
        if let Some(admin) = self.admin {
            admin.stop.send_replace(true);
            let _ = admin.task.await;
        }
    }
}

impl Opened {
    fn listen(&mut self, address: SocketAddr, begins: Begins) -> Result<(), StartError> {
        let listener = match self.inherited.take(&Place::Tcp(address)) {
            Some(passed) => inherit::tcp(passed.socket),
            None => accept::listen(address),
        };
        let listener = listener.map_err(|error| StartError::Listen(address, error))?;
        self.listeners.push((address, begins, listener));
        Ok(())
    }

    async fn admin(&mut self, config: &Config) -> Result<(), StartError> {
        let (place, address) = match config.admin.as_ref().map(|admin| &admin.listen) {
            None => return Ok(()),
            Some(AdminListen::Tcp(address)) => (Place::Tcp(*address), AdminAddress::Tcp(*address)),
            Some(AdminListen::Unix(path)) => (Place::Unix(path.clone()), AdminAddress::Unix(path.clone())),
        };
        let listener = match self.inherited.take(&place) {
            Some(passed) => AdminListener::on(passed, &address),
            None => AdminListener::bind(&address).await,
        };
        let listener = listener.map_err(StartError::Admin)?;
        let socket = listener.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|error| StartError::Admin(AdminError::Listen(address, error)))?;
        self.admin = Some((place, listener, socket));
        Ok(())
    }
}

impl RunningAdmin {
    fn start((wanted, listener, socket): (Place, AdminListener, OwnedFd), lasting: &Lasting) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (router, edge, acme) = (lasting.router.clone(), lasting.edge.clone(), lasting.acme.clone());
        let admin = Admin {
            snapshot: Arc::new(move || router.snapshot()),
            tls: Arc::new(move || edge.account()),
            acme: Arc::new(move || acme.account()),
            metrics: lasting.scraper(),
            readiness: lasting.readiness.clone(),
            reloads: lasting.reloads.clone(),
            control: Arc::new(lasting.orders.clone()),
            access: lasting.access.clone(),
        };
        listener.own_file();
        let (address, file_stays, leave_file) =
            (listener.address().clone(), listener.file_stays(), listener.leave_file());
        let task = tokio::spawn(listener.serve(admin, stopped));
        Self { wanted, address, socket, file_stays, leave_file, stop, task }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Where a configuration listens, in its order.
fn doors(config: &Config) -> impl Iterator<Item = (SocketAddr, Begins)> {
    let secure = config.tls.iter().flat_map(|tls| &tls.listen);
    let plain = config.server.listen.iter().map(|address| (*address, Begins::Http));
    plain.chain(secure.map(|address| (*address, Begins::Tls)))
}

fn changes_log(diff: &Diff) -> bool {
    ["log.format", "log.output", "log.queue"].iter().any(|key| diff.has(key))
}
