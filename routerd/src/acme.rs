//! Certificates by ACME (RFC 8555): ordered for the hosts of the configuration, renewed in time, and kept in files.
//!
//! One task looks after all hosts (`plan.rs` says when what is due) and lets a few orders run at a time. While a host
//! has no certificate a stand-in is served, so that the handshake works; while an old one is renewed, the old one is.
//! What goes wrong is logged with the words of the CA and the time of the next try, and touches nothing else.
//!
//! Certificates are read and served by whoever has the folder; only who has its lock orders. So a second process on the
//! same folder never doubles an order, and at a hand-over the old one lets go of it and the new one goes on. Never: an
//! order for a name that is not a host of the configuration, whatever a client asks for.

mod client;
mod failed;
mod issue;
mod keep;
mod plan;
mod source;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use router_core::clock;
use router_core::sync::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet, spawn_blocking};
use tokio::time::sleep;

use self::failed::{Failed, Kind};
use self::issue::Answers;
use self::plan::{Due, Life, Plan};
use self::source::{Ordered, Source, Window};
pub(crate) use self::tokens::Tokens;
use crate::config;
use crate::config::cert::Certificate;
use crate::durable::Lock;
use crate::tls::Edge;

/// Orders at a time.
const AT_ONCE: usize = 4;
/// The wall clock may be set, and the folder may become free: so often at least both are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// The shortest pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks after certificates. Clones are the same; dropping the last one ends it.
#[derive(Clone)]
pub(crate) struct Acme {
    shared: Arc<Shared>,
    told: Arc<watch::Sender<Told>>,
    /// Whether orders may be running here.
    holds: watch::Receiver<bool>,
}

struct Shared {
    edge: Edge,
    hosts: Mutex<BTreeMap<String, State>>,
    issued: AtomicU64,
    failed: [AtomicU64; Kind::ALL.len()],
}

/// How it stands with a host.
#[derive(Clone, Default)]
struct State {
    certificate: Option<Arc<Certificate>>,
    /// Why the last order failed, if it did.
    error: Option<String>,
    next: Option<Duration>,
    failures: u32,
}

/// What is wanted.
#[derive(Clone, Default)]
struct Told {
    source: Option<Arc<Source>>,
    /// This process may order.
    may: bool,
}

/// What was read for a configuration that is not in place yet.
#[derive(Default)]
pub(crate) struct Prepared {
    source: Option<Arc<Source>>,
    kept: Vec<(String, Arc<Certificate>)>,
}

/// How orders are doing.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The hosts that certificates are ordered for, by name.
    pub hosts: Vec<Host>,
    /// Orders by what has become of them.
    pub orders: Vec<(&'static str, u64)>,
}

/// How it stands with the certificate of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The certificate, if it has come.
    pub certificate: Option<Arc<Certificate>>,
    /// Why the last order failed, if it did.
    pub error: Option<String>,
    /// How many orders have failed in a row.
    pub failures: u32,
    /// When the next one is due, since 1970; `None`: once a client asks for the host.
    pub next: Option<Duration>,
}

impl Acme {
    /// Looks after nothing until [`set`](Self::set), and orders nothing until [`go_on`](Self::go_on). `asks` are hosts
    /// that clients ask for and that have no certificate yet.
    pub(crate) fn start(edge: Edge, tokens: Tokens, asks: mpsc::Receiver<String>) -> Self {
        let answers = Answers { tokens, edge: edge.clone() };
        let (hosts, issued, failed) = (Mutex::default(), AtomicU64::new(0), Default::default());
        let shared = Arc::new(Shared { edge, hosts, issued, failed });
        let (told, hears) = watch::channel(Told::default());
        let (holds, held) = watch::channel(false);
        let manager = Manager {
            shared: Arc::clone(&shared),
            answers,
            plan: Plan::default(),
            told: Told::default(),
            lock: None,
            warned: false,
            running: JoinSet::new(),
            of: HashMap::new(),
            holds,
        };
        tokio::spawn(manager.run(hears, asks));
        Self { shared, told: Arc::new(told), holds: held }
    }

    /// Opens the folder and reads what is kept there.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) async fn prepare(&self, settings: Option<&Arc<config::Acme>>) -> Result<Prepared, String> {
        let Some(settings) = settings.cloned() else { return Ok(Prepared::default()) };
        let here = self.told.borrow().source.as_ref().map(|source| source.settings.storage.clone());
        let mut hosts = settings.hosts.clone();
        if here.as_ref() == Some(&settings.storage) {
            let states = self.shared.hosts.lock();
            hosts.retain(|host| states.get(host).is_none_or(|state| state.certificate.is_none()));
        }
        let read = spawn_blocking(move || {
            let source = Arc::new(Source::open(settings)?);
            let kept = source.all_kept(hosts);
            Ok(Prepared { source: Some(source), kept })
        });
        read.await.unwrap_or_else(|_| Err("this process ends".to_owned()))
    }

    /// Looks after the hosts of that configuration from now on. Their certificates are served when this returns.
    pub(crate) fn set(&self, prepared: Prepared) {
        let Prepared { source, kept } = prepared;
        {
            let mut states = self.shared.hosts.lock();
            let mut before = std::mem::take(&mut *states);
            let hosts = source.iter().flat_map(|source| &source.settings.hosts);
            states.extend(hosts.map(|host| (host.clone(), before.remove(host).unwrap_or_default())));
            for (host, kept) in &kept {
                take(&mut states, host, kept);
            }
            let ordered = states.iter().map(|(host, state)| (host.clone(), state.certificate.clone()));
            self.shared.edge.set_ordered(ordered.collect());
        }
        self.told.send_modify(|told| told.source = source);
    }

    /// This process may order from now on, once nobody else does.
    pub(crate) fn go_on(&self) {
        self.told.send_modify(|told| told.may = true);
    }

    /// Breaks off what runs; another process may order when this returns.
    pub(crate) async fn let_go(&self) {
        self.told.send_modify(|told| told.may = false);
        // It ends with the runtime.
        let _ = self.holds.clone().wait_for(|holds| !holds).await;
    }

    /// How orders are doing.
    pub(crate) fn account(&self) -> Account {
        let host = |(name, state): (&String, &State)| {
            let State { certificate, error, next, failures } = state.clone();
            Host { name: name.clone(), certificate, error, failures, next }
        };
        let hosts = self.shared.hosts.lock().iter().map(host).collect();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failed = Kind::ALL.iter().map(|kind| (kind.as_str(), count(&self.shared.failed[*kind as usize])));
        let orders = std::iter::once(("issued", count(&self.shared.issued))).chain(failed).collect();
        Account { hosts, orders }
    }
}

/// A certificate takes the place of an older one. `false`: there is none, or the host is not wanted.
fn take(states: &mut BTreeMap<String, State>, host: &str, new: &Arc<Certificate>) -> bool {
    let Some(state) = states.get_mut(host) else { return false };
    let newer = state.certificate.as_ref().is_none_or(|old| old.expires < new.expires);
    if newer {
        state.certificate = Some(Arc::clone(new));
    }
    newer
}

impl Shared {
    /// Serves a certificate, if it is newer than what is there.
    fn put(&self, host: &str, new: &Arc<Certificate>) -> bool {
        let mut states = self.hosts.lock();
        let newer = take(&mut states, host, new);
        if newer {
            self.edge.come(host, new);
        }
        newer
    }

    fn certificate(&self, host: &str) -> Option<Arc<Certificate>> {
        self.hosts.lock().get(host).and_then(|state| state.certificate.clone())
    }
}

/// What came of one step for one host.
enum Done {
    Ordered(Ordered),
    Looked(Result<Window, Failed>),
}

struct Manager {
    shared: Arc<Shared>,
    answers: Answers,
    plan: Plan,
    told: Told,
    /// The right to order.
    lock: Option<Lock>,
    /// That there is no such right has been said.
    warned: bool,
    running: JoinSet<Done>,
    /// Whom what runs is for.
    of: HashMap<Id, String>,
    holds: watch::Sender<bool>,
}

impl Manager {
    async fn run(mut self, mut hears: watch::Receiver<Told>, mut asks: mpsc::Receiver<String>) {
        loop {
            self.begin();
            let now = clock::wall();
            let can = self.lock.is_some() && self.running.len() < AT_ONCE;
            let next = self.plan.next().filter(|_| can);
            let next = next.map_or(LOOK, |at| at.saturating_sub(now).clamp(PAUSE, LOOK));
            tokio::select! {
                changed = hears.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let told = hears.borrow_and_update().clone();
                    self.hear(told).await;
                }
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(host) = asks.recv() => {
                    self.asked(&host);
                    // All that wait at once: what follows looks at every host.
                    while let Ok(host) = asks.try_recv() {
                        self.asked(&host);
                    }
                }
                () = sleep(next) => self.try_lock().await,
            }
        }
    }

    /// A client has named a host whose certificate was still to come.
    fn asked(&mut self, host: &str) {
        if self.shared.certificate(host).is_none() {
            self.plan.lacks(host, clock::wall());
            self.note(host);
        }
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let Some(source) = self.told.source.as_ref().filter(|_| self.lock.is_some()) else { return };
        let free = AT_ONCE.saturating_sub(self.running.len());
        for (host, due) in self.plan.due(clock::wall(), free) {
            let (source, answers, old) =
                (Arc::clone(source), self.answers.clone(), self.shared.certificate(&host));
            let name = host.clone();
            let task = self.running.spawn(async move {
                match (due, old) {
                    (Due::Look, Some(old)) => Done::Looked(source.look(&old).await),
                    (Due::Look, None) => Done::Looked(Ok(None)),
                    (Due::Order, old) => Done::Ordered(source.order(&name, &answers, old.as_deref()).await),
                }
            });
            self.of.insert(task.id(), host);
        }
    }

    /// Something else is wanted.
    async fn hear(&mut self, told: Told) {
        let settings = |told: &Told| {
            let settings = told.source.as_ref().map(|source| source.settings.clone());
            settings.map(|settings| config::Acme { hosts: Vec::new(), ..config::Acme::clone(&settings) })
        };
        let (before, now) = (settings(&self.told), settings(&told));
        let folder = |settings: &Option<config::Acme>| settings.as_ref().map(|it| it.storage.clone());
        if !told.may || folder(&before) != folder(&now) {
            self.running.shutdown().await;
            self.of.clear();
            self.plan.stopped();
            self.lock = None;
            self.warned = false;
            self.holds.send_replace(false);
        }
        self.told = told;
        let hosts = self.told.source.as_ref().map_or_else(Vec::new, |source| source.settings.hosts.clone());
        let new = self.plan.want(hosts.iter().cloned());
        let schedule = if before == now { &new } else { &hosts };
        schedule.iter().for_each(|host| self.schedule(host));
        // Somebody may have put right what they failed for.
        self.plan.hurry(clock::wall());
        hosts.iter().for_each(|host| self.note(host));
        self.try_lock().await;
    }

    /// Says when the next step for a host is due.
    fn schedule(&mut self, host: &str) {
        let Some(source) = &self.told.source else { return };
        let (now, settings) = (clock::wall(), &source.settings);
        match self.shared.certificate(host) {
            Some(it) => {
                let life = Life::of(it.starts, it.expires);
                self.plan.has(host, life, settings.renew_before, now, fastrand::f64());
            }
            None if settings.on_demand => {}
            None => self.plan.lacks(host, now),
        }
        self.note(host);
    }

    /// What is planned for a host, for whoever asks.
    fn note(&self, host: &str) {
        let (next, failures) = self.plan.order(host);
        if let Some(state) = self.shared.hosts.lock().get_mut(host) {
            (state.next, state.failures) = (next, failures);
        }
    }

    /// Takes the right to order, if it is wanted and free, and what another process has got meanwhile in any case.
    async fn try_lock(&mut self) {
        let Some(source) = self.told.source.clone().filter(|_| self.told.may && self.lock.is_none()) else {
            return;
        };
        let read = spawn_blocking(move || {
            let lock = source.keep.lock();
            let kept = source.all_kept(source.settings.hosts.clone());
            (lock, kept)
        });
        let Ok((lock, kept)) = read.await else { return };
        for (host, kept) in kept {
            if self.shared.put(&host, &kept) {
                self.schedule(&host);
            }
        }
        match lock {
            Ok(Some(lock)) => {
                self.lock = Some(lock);
                self.holds.send_replace(true);
                if std::mem::take(&mut self.warned) {
                    tracing::info!(
                        "acme: no other process orders certificates for acme.storage any more: this one does"
                    );
                }
            }
            Ok(None) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(
                    "acme: another process orders certificates for acme.storage: this one serves what is there"
                );
            }
            Err(error) if !std::mem::replace(&mut self.warned, true) => {
                tracing::error!("acme: nothing is ordered: acme.storage cannot be locked: {error}");
            }
            Ok(None) | Err(_) => {}
        }
    }

    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (id, done) = match ended {
            Ok((id, done)) => (id, done),
            Err(error) => {
                let result = Err(Failed::local("the order", "it has broken off"));
                (error.id(), Done::Ordered(Ordered { result, again: None }))
            }
        };
        let Some(host) = self.of.remove(&id) else { return };
        let now = clock::wall();
        match done {
            Done::Ordered(Ordered { result: Ok(certificate), .. }) => self.come(&host, &certificate),
            Done::Ordered(Ordered { result: Err(failed), again }) => self.failed(&host, &failed, again),
            Done::Looked(Ok(Some((window, again)))) => {
                self.plan.window(&host, window, again, now, fastrand::f64());
            }
            Done::Looked(Ok(None)) => self.plan.no_window(&host, now, false),
            Done::Looked(Err(failed)) => {
                tracing::debug!("acme: {host}: the CA does not say when to renew: {failed}");
                self.plan.no_window(&host, now, true);
            }
        }
        self.note(&host);
    }

    fn come(&mut self, host: &str, certificate: &Arc<Certificate>) {
        self.shared.issued.fetch_add(1, Ordering::Relaxed);
        if !self.shared.put(host, certificate) {
            return;
        }
        if let Some(state) = self.shared.hosts.lock().get_mut(host) {
            state.error = None;
        }
        self.schedule(host);
        let until = Duration::from_secs(certificate.expires.try_into().unwrap_or_default());
        let next = self.plan.order(host).0.unwrap_or_default();
        let (until, next) = (date(until), date(next));
        tracing::info!(
            "acme: {host}: a certificate has come, good until {until}; the next is ordered at {next}"
        );
    }

    fn failed(&mut self, host: &str, failed: &Failed, again: Option<Duration>) {
        self.shared.failed[failed.kind as usize].fetch_add(1, Ordering::Relaxed);
        let now = clock::wall();
        let Some(next) = self.plan.failed(host, again, now, fastrand::f64()) else { return };
        let wait = humantime::format_duration(Duration::from_secs(next.saturating_sub(now).as_secs()));
        let meanwhile = match self.shared.certificate(host) {
            None => "a stand-in is served".to_owned(),
            Some(old) => {
                let until = Duration::from_secs(old.expires.try_into().unwrap_or_default());
                format!("the old one is served, which is good until {}", date(until))
            }
        };
        tracing::warn!("acme: {host}: no certificate: {failed}; {meanwhile}, next try in {wait}");
        if let Some(state) = self.shared.hosts.lock().get_mut(host) {
            state.error = Some(failed.to_string());
        }
    }
}

fn date(since_1970: Duration) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970).to_string()
}
