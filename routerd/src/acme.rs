//! Certificates by ACME (RFC 8555): ordered for the hosts of the configuration, renewed in time, and kept in files.
//!
//! One task looks after all hosts (`plan.rs` says when what is due) and lets a few orders run at a time. While a host has
//! no certificate a stand-in is served, so that the handshake works; while an old one is renewed, the old one is. What
//! goes wrong is logged with the words of the CA and the time of the next try, and touches nothing else. Never: an order
//! for a name that is not a host of the configuration, whatever a client asks for.

mod issue;
mod keep;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, CertificateIdentifier, Error, ExternalAccountKey, NewAccount,
};
use router_core::clock;
use router_core::sync::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use self::issue::{Issued, NotIssued, issue, stand_in, words};
use self::keep::Keep;
use self::plan::{Due, Life, Plan};
use crate::config;
use crate::config::acme::Issue;

/// Orders at a time.
const AT_ONCE: usize = 4;
/// Hosts that clients have asked for and nobody has looked at yet.
const ASKED_MAX: usize = 1024;
/// The wall clock may be set: it is looked at this often at least.
const LOOK: Duration = Duration::from_secs(600);

/// A certificate with its key.
pub type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Where certificates and answers to the CA are served from.
pub trait Answers: Send + Sync {
    /// Serves this for the host from now on.
    ///
    /// # Errors
    /// Key and certificate do not fit, or the key is of no known kind.
    fn serve(&self, host: &str, pair: Pair) -> Result<(), String>;
    /// Whether something is served for the host.
    fn serves(&self, host: &str) -> bool;
    /// Nothing of ours is served for the host any more.
    fn forget(&self, host: &str);
    /// Answers the CA's handshakes for the host with this certificate; `None`: no longer.
    ///
    /// # Errors
    /// As in [`serve`](Self::serve).
    fn certificate(&self, host: &str, pair: Option<(Vec<u8>, PrivateKeyDer<'static>)>) -> Result<(), String>;
    /// Answers the CA's request for that token; `None`: no longer.
    fn token(&self, token: &str, answer: Option<String>);
}

/// What is wanted: where from, and for which hosts.
type Wanted = Option<(config::Acme, Vec<String>)>;

/// Looks after certificates. Clones are the same; dropping the last one ends it.
#[derive(Clone)]
pub struct Acme {
    wanted: Arc<watch::Sender<Wanted>>,
    asked: mpsc::Sender<String>,
    state: Arc<Mutex<BTreeMap<String, State>>>,
}

/// How it stands with a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The certificate ends then, since 1970; `None`: there is none yet.
    pub until: Option<Duration>,
    /// Why the last order failed, and when the next one is tried.
    pub failed: Option<(String, Duration)>,
}

impl Acme {
    /// Looks after nothing until [`set`](Self::set).
    pub fn start(answers: Arc<dyn Answers>) -> Self {
        let (wanted, wants) = watch::channel(None);
        let (asked, asks) = mpsc::channel(ASKED_MAX);
        let state = Arc::default();
        let manager = Manager {
            answers,
            plan: Plan::default(),
            source: None,
            known: BTreeMap::new(),
            state: Arc::clone(&state),
        };
        tokio::spawn(manager.run(wants, asks));
        Self { wanted: Arc::new(wanted), asked, state }
    }

    /// Looks after these hosts from now on; `None`: after none.
    pub fn set(&self, wanted: Option<(config::Acme, Vec<String>)>) {
        self.wanted.send_if_modified(|now| {
            let changes = *now != wanted;
            *now = wanted;
            changes
        });
    }

    /// A client asks for that host, and there is no certificate. Does not wait.
    pub fn ask(&self, host: &str) {
        // Who asks again will be heard again.
        let _ = self.asked.try_send(host.to_owned());
    }

    /// How it stands with each host.
    pub fn state(&self) -> BTreeMap<String, State> {
        self.state.lock().clone()
    }
}

/// Where certificates come from and go to, once it could be opened.
#[derive(Clone)]
struct Source {
    settings: config::Acme,
    keep: Keep,
    /// Made when it is first needed.
    account: Arc<tokio::sync::Mutex<Option<Account>>>,
}

/// What came of one step for one host.
enum Done {
    Ordered(Result<(Issued, Pair, Life), String>),
    Looked(Result<Option<(Life, Duration)>, String>),
}

struct Manager {
    answers: Arc<dyn Answers>,
    plan: Plan,
    source: Option<Source>,
    /// The certificate that each host has.
    known: BTreeMap<String, CertificateDer<'static>>,
    state: Arc<Mutex<BTreeMap<String, State>>>,
}

impl Manager {
    async fn run(mut self, mut wants: watch::Receiver<Wanted>, mut asks: mpsc::Receiver<String>) {
        let mut running = JoinSet::new();
        loop {
            self.begin(&mut running);
            let next = self.plan.next().map_or(LOOK, |at| at.saturating_sub(clock::wall()).min(LOOK));
            tokio::select! {
                changed = wants.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = wants.borrow_and_update().clone();
                    self.want(wanted).await;
                }
                Some(done) = running.join_next() => {
                    if let Ok((host, done)) = done {
                        self.done(&host, done).await;
                    }
                }
                Some(host) = asks.recv() => self.asked(&host),
                () = sleep(next.max(Duration::from_millis(10))) => {}
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self, running: &mut JoinSet<(String, Done)>) {
        let Some(source) = &self.source else { return };
        let free = AT_ONCE.saturating_sub(running.len());
        for (host, due) in self.plan.due(clock::wall(), free) {
            let (source, answers, old) = (source.clone(), Arc::clone(&self.answers), self.known.get(&host).cloned());
            running.spawn(async move {
                let done = match due {
                    Due::Order => Done::Ordered(source.order(&host, &answers, old).await),
                    Due::Look => Done::Looked(source.look(old).await),
                };
                (host, done)
            });
        }
    }

    /// Other hosts, or another CA, are wanted.
    async fn want(&mut self, wanted: Wanted) {
        let (settings, hosts) = match wanted {
            Some((settings, hosts)) => (Some(settings), hosts),
            None => (None, Vec::new()),
        };
        let changed = settings != self.source.as_ref().map(|source| source.settings.clone());
        if changed {
            self.source = None;
            if let Some(settings) = settings.clone() {
                let folder = settings.storage.clone();
                match spawn_blocking(move || Keep::open(&folder)).await {
                    Ok(Ok(keep)) => self.source = Some(Source { settings, keep, account: Arc::default() }),
                    Ok(Err(error)) => {
                        tracing::error!("acme: the folder acme.storage cannot be used: {error}; no certificates")
                    }
                    Err(_) => return,
                }
            }
        }
        let gone: Vec<_> =
            self.known.keys().chain(self.state.lock().keys()).filter(|host| !hosts.contains(host)).cloned().collect();
        for host in gone {
            self.known.remove(&host);
            self.state.lock().remove(&host);
            self.answers.forget(&host);
        }
        for host in self.plan.want(hosts) {
            self.take_up(&host).await;
        }
        if changed {
            self.plan.hurry(clock::wall());
        }
    }

    /// A host is new here: its certificate may be on the disk.
    async fn take_up(&mut self, host: &str) {
        self.state.lock().entry(host.to_owned()).or_default();
        let Some(source) = self.source.clone() else { return };
        let (keep, name) = (source.keep.clone(), host.to_owned());
        let read = spawn_blocking(move || keep.certificate(&name)).await;
        let now = clock::wall();
        match read {
            Ok(Ok(Some(pem))) => match parse(&pem) {
                Ok((pair, life)) if life.until > now => match self.serve(host, pair, life) {
                    Ok(()) => return,
                    Err(error) => tracing::error!("acme: {host}: the kept certificate cannot be used: {error}"),
                },
                Ok(_) => tracing::warn!("acme: {host}: the kept certificate has ended"),
                Err(error) => tracing::error!("acme: {host}: the kept certificate cannot be used: {error}"),
            },
            Ok(Err(error)) => tracing::error!("acme: {host}: the kept certificate cannot be read: {error}"),
            Ok(Ok(None)) | Err(_) => {}
        }
        if !self.answers.serves(host) {
            let stands_in = stand_in(host).and_then(|(der, key)| {
                self.answers.serve(host, (vec![CertificateDer::from(der)], key))
            });
            if let Err(error) = stands_in {
                tracing::error!("acme: {host}: {error}");
            }
        }
        if source.settings.issue == Issue::AtStart {
            self.plan.lacks(host, now);
        }
    }

    fn asked(&mut self, host: &str) {
        if self.plan.wants(host) && !self.known.contains_key(host) {
            self.plan.lacks(host, clock::wall());
        }
    }

    fn serve(&mut self, host: &str, pair: Pair, life: Life) -> Result<(), String> {
        let own = pair.0.first().cloned();
        self.answers.serve(host, pair)?;
        self.known.extend(own.map(|own| (host.to_owned(), own)));
        self.plan.has(host, life, clock::wall(), fastrand::f64());
        let state = State { until: Some(life.until), failed: None };
        self.state.lock().insert(host.to_owned(), state);
        Ok(())
    }

    async fn done(&mut self, host: &str, done: Done) {
        let now = clock::wall();
        match done {
            Done::Ordered(Ok((issued, pair, life))) => {
                if !self.plan.wants(host) {
                    return;
                }
                if let Err(error) = self.serve(host, pair, life) {
                    self.failed(host, &error);
                    return;
                }
                let until = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + life.until);
                tracing::info!("acme: {host}: a certificate has come, until {until}");
                let Some(source) = self.source.clone() else { return };
                let (name, text) = (host.to_owned(), issued.key + &issued.chain);
                let kept = spawn_blocking(move || source.keep.keep_certificate(&name, text.as_bytes())).await;
                if let Ok(Err(error)) = kept {
                    tracing::error!("acme: {host}: the certificate is served and cannot be kept: {error}");
                }
            }
            Done::Ordered(Err(error)) => self.failed(host, &error),
            Done::Looked(Ok(Some((window, again)))) => {
                self.plan.window(host, window, again, now, fastrand::f64());
            }
            Done::Looked(Ok(None)) => self.plan.no_window(host, now, false),
            Done::Looked(Err(error)) => {
                tracing::debug!("acme: {host}: the CA does not say when to renew: {error}");
                self.plan.no_window(host, now, true);
            }
        }
    }

    fn failed(&mut self, host: &str, why: &str) {
        let now = clock::wall();
        let Some(next) = self.plan.failed(host, now, fastrand::f64()) else { return };
        let wait = Duration::from_secs(next.saturating_sub(now).as_secs());
        let meanwhile = if self.known.contains_key(host) { "the old one is served" } else { "a stand-in is served" };
        tracing::warn!("acme: {host}: no certificate: {why}; {meanwhile}, next try in {}", humantime::format_duration(wait));
        self.state.lock().entry(host.to_owned()).or_default().failed = Some((why.to_owned(), next));
    }
}

impl Source {
    /// The account with the CA: the kept one, or a new one.
    async fn account(&self) -> Result<Account, String> {
        let mut slot = self.account.lock().await;
        if let Some(account) = &*slot {
            return Ok(account.clone());
        }
        let (keep, directory) = (self.keep.clone(), self.settings.directory.clone());
        let kept = spawn_blocking(move || keep.account(&directory)).await.map_err(|_| "it ends".to_owned())?;
        let kept = kept.map_err(|error| format!("the kept account cannot be read: {error}"))?;
        let account = match kept {
            Some(kept) => {
                let account = self.builder()?.from_credentials(kept).await;
                account.map_err(|error| words(&error))?
            }
            None => self.new_account().await?,
        };
        *slot = Some(account.clone());
        Ok(account)
    }

    async fn new_account(&self) -> Result<Account, String> {
        let contact = self.settings.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let eab = self.settings.eab.as_ref().map(|eab| ExternalAccountKey::new(eab.kid.clone(), eab.expose()));
        let made = self.builder()?.create(&new, self.settings.directory.clone(), eab.as_ref()).await;
        let (account, credentials) = made.map_err(|error| format!("no account: {}", words(&error)))?;
        let (keep, directory) = (self.keep.clone(), self.settings.directory.clone());
        let kept = spawn_blocking(move || keep.keep_account(&directory, &credentials)).await;
        match kept {
            // With each start a new account would be made, until the CA has enough of it.
            Ok(Err(error)) => Err(format!("the new account cannot be kept: {error}")),
            Ok(Ok(())) | Err(_) => {
                tracing::info!("acme: a new account with {}", self.settings.directory);
                Ok(account)
            }
        }
    }

    fn builder(&self) -> Result<AccountBuilder, String> {
        let builder = match &self.settings.ca_file {
            Some(ca) => Account::builder_with_root(ca),
            None => Account::builder(),
        };
        builder.map_err(|error| words(&error))
    }

    /// One order.
    async fn order(
        &self,
        host: &str,
        answers: &Arc<dyn Answers>,
        old: Option<CertificateDer<'static>>,
    ) -> Result<(Issued, Pair, Life), String> {
        let account = self.account().await?;
        let replaces = old.as_ref().and_then(|old| CertificateIdentifier::try_from(old).ok());
        let replaces = replaces.map(CertificateIdentifier::into_owned);
        let issued = issue(&account, host, &self.settings.challenges, answers, replaces).await;
        if issued.as_ref().is_err_and(NotIssued::is_about_the_account) {
            // The CA has forgotten it: the next try makes another one.
            *self.account.lock().await = None;
            let (keep, directory) = (self.keep.clone(), self.settings.directory.clone());
            let _ = spawn_blocking(move || keep.forget_account(&directory)).await;
        }
        let issued = issued.map_err(|error| error.to_string())?;
        let (pair, life) = parse((issued.key.clone() + &issued.chain).as_bytes())?;
        Ok((issued, pair, life))
    }

    /// When the CA wants the certificate to be renewed; `None`: it does not say such things.
    async fn look(&self, old: Option<CertificateDer<'static>>) -> Result<Option<(Life, Duration)>, String> {
        let Some(old) = old else { return Ok(None) };
        let id = CertificateIdentifier::try_from(&old).map_err(|error| error.to_string())?;
        let account = self.account().await?;
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let since = |time: time::OffsetDateTime| {
                    Duration::from_secs(u64::try_from(time.unix_timestamp()).unwrap_or_default())
                };
                let window = info.suggested_window;
                Ok(Some((Life { from: since(window.start), until: since(window.end) }, again)))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(words(&error)),
        }
    }
}

/// Key and chain of a PEM file, and from when to when the first certificate is valid.
fn parse(pem: &[u8]) -> Result<(Pair, Life), String> {
    let text = |error: rustls::pki_types::pem::Error| error.to_string();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(text)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(text)?;
    let first = chain.first().ok_or("there is no certificate in it")?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|error| error.to_string())?;
    let validity = parsed.validity();
    let since = |time: i64| Duration::from_secs(u64::try_from(time).unwrap_or_default());
    let life =
        Life { from: since(validity.not_before.timestamp()), until: since(validity.not_after.timestamp()) };
    Ok(((chain, key), life))
}
