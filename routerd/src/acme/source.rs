//! Where certificates come from under one configuration: the folder, the account with the CA, and what one host needs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Error, ExternalAccountKey, NewAccount};
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::client::{self, Again, Http};
use super::failed::{Failed, Kind};
use super::issue::{Answers, issue};
use super::keep::{Keep, Kept};
use super::plan::Life;
use crate::config;
use crate::config::cert::Certificate;

/// Where certificates come from under one configuration.
pub(super) struct Source {
    pub(super) settings: Arc<config::Acme>,
    pub(super) keep: Keep,
    tls: ClientConfig,
    /// Held while the account is looked for or made: there is to be one.
    account: Mutex<()>,
    /// The CA does not say when to renew: no other host needs to ask.
    no_windows: AtomicBool,
}

/// What came of one order.
pub(super) struct Ordered {
    pub(super) result: Result<Arc<Certificate>, Failed>,
    /// In what time the CA wants to be asked again.
    pub(super) again: Option<Duration>,
}

/// When a CA wants a certificate to be renewed, and when it wants to be asked about that again.
pub(super) type Window = Option<(Life, Duration)>;

impl Source {
    /// Opens the folder. Blocks: from a task go through `spawn_blocking`.
    pub(super) fn open(settings: Arc<config::Acme>) -> Result<Self, String> {
        let folder = &settings.storage;
        let keep =
            Keep::open(folder).map_err(|error| format!("acme.storage, {}: {error}", folder.display()))?;
        let tls = client::tls(&settings);
        Ok(Self { settings, keep, tls, account: Mutex::default(), no_windows: AtomicBool::new(false) })
    }

    /// The kept certificates of these hosts that can be used. Blocks, too.
    pub(super) fn all_kept(&self, hosts: Vec<String>) -> Vec<(String, Arc<Certificate>)> {
        hosts.into_iter().filter_map(|host| self.kept(&host).map(|kept| (host, kept))).collect()
    }

    fn kept(&self, host: &str) -> Option<Arc<Certificate>> {
        let unusable =
            |why: String| tracing::error!("acme: {host}: the kept certificate cannot be used: {why}");
        let pem = self.keep.certificate(host).inspect_err(|error| unusable(error.to_string())).ok()??;
        let certificate = checked(&self.keep.place(host), &pem, host);
        certificate.inspect_err(|error| unusable(error.why.clone())).ok().map(Arc::new)
    }

    /// Orders a certificate for a host in place of the old one, and keeps it.
    pub(super) async fn order(
        self: Arc<Self>,
        host: &str,
        answers: &Answers,
        old: Option<&Certificate>,
    ) -> Ordered {
        let again = Again::default();
        let mut result = self.try_order(host, answers, old, &again).await;
        if result.as_ref().is_err_and(|failed| failed.no_account) {
            tracing::warn!("acme: {} does not know our account: making a new one", self.settings.directory);
            self.forget().await;
            result = self.try_order(host, answers, old, &again).await;
        }
        Ordered { result, again: again.get() }
    }

    async fn try_order(
        self: &Arc<Self>,
        host: &str,
        answers: &Answers,
        old: Option<&Certificate>,
        again: &Again,
    ) -> Result<Arc<Certificate>, Failed> {
        let account = self.account(again).await?;
        let replaces = old.and_then(|old| id(old).ok());
        let pem = issue(&account, host, &self.settings.challenges, answers, replaces).await?;
        let (source, host) = (Arc::clone(self), host.to_owned());
        let kept = spawn_blocking(move || {
            let certificate = checked(&source.keep.place(&host), pem.as_bytes(), &host)?;
            if let Err(error) = source.keep.keep_certificate(&host, pem.as_bytes()) {
                tracing::error!(
                    "acme: {host}: the new certificate cannot be kept, it is lost at the end: {error}"
                );
            }
            Ok(Arc::new(certificate))
        });
        kept.await.unwrap_or_else(|_| Err(Failed::local("the certificate", "this process ends")))
    }

    /// The account with the CA: the kept one, or a new one.
    async fn account(self: &Arc<Self>, again: &Again) -> Result<Account, Failed> {
        let _one_at_a_time = self.account.lock().await;
        let kept = self.blocking(|source| source.keep.account(&source.settings.directory)).await?;
        let builder = Account::builder_with_http(Box::new(Http::new(self.tls.clone(), again.clone())));
        let email = self.settings.email.clone();
        let contact = email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        if let Some(Kept { email: known, credentials }) = kept {
            let text =
                serde_json::to_vec(&credentials).map_err(|error| Failed::local("the account", error))?;
            let account = builder.from_credentials(credentials).await?;
            if known != email {
                account.update_contacts(&contact).await?;
                let credentials =
                    serde_json::from_slice(&text).map_err(|error| Failed::local("the account", error))?;
                self.keep_account(Kept { email, credentials }).await?;
            }
            return Ok(account);
        }
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let eab =
            self.settings.eab.as_ref().map(|eab| ExternalAccountKey::new(eab.kid.clone(), eab.expose()));
        let made = builder.create(&new, self.settings.directory.clone(), eab.as_ref()).await;
        let (account, credentials) = made.map_err(|error| {
            let failed = Failed::from(error);
            let what = if failed.kind == Kind::Refused { "no account: " } else { "" };
            Failed { why: format!("{what}{}", failed.why), ..failed }
        })?;
        // One that is not kept would be made anew with each order, until the CA has enough of it.
        self.keep_account(Kept { email, credentials }).await?;
        tracing::info!("acme: a new account with {}", self.settings.directory);
        Ok(account)
    }

    async fn keep_account(self: &Arc<Self>, kept: Kept) -> Result<(), Failed> {
        self.blocking(move |source| source.keep.keep_account(&source.settings.directory, &kept)).await
    }

    async fn forget(self: &Arc<Self>) {
        let _one_at_a_time = self.account.lock().await;
        // It is not there, or the next order says why it cannot be used.
        let _ = self.blocking(|source| source.keep.forget_account(&source.settings.directory)).await;
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        what: impl FnOnce(&Self) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Failed> {
        let source = Arc::clone(self);
        let done = spawn_blocking(move || what(&source)).await;
        let done = done.map_err(|_| Failed::local("the account", "this process ends"))?;
        done.map_err(|error| Failed::local("the kept account", error))
    }

    /// When the CA wants that certificate to be renewed; `None`: it does not say such things.
    pub(super) async fn look(self: Arc<Self>, old: &Certificate) -> Result<Window, Failed> {
        if self.no_windows.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let id = id(old).map_err(|why| Failed::local("the certificate", why))?;
        let account = self.account(&Again::default()).await?;
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                let life = Life::of(window.start.unix_timestamp(), window.end.unix_timestamp());
                Ok(Some((life, again)))
            }
            Err(Error::Unsupported(_)) => {
                self.no_windows.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What a CA calls a certificate.
fn id(certificate: &Certificate) -> Result<CertificateIdentifier<'static>, String> {
    let leaf = certificate.signed().cert.first().ok_or("it is empty")?;
    CertificateIdentifier::try_from(leaf).map(CertificateIdentifier::into_owned)
}

fn checked(place: &Path, pem: &[u8], host: &str) -> Result<Certificate, Failed> {
    let certificate = Certificate::from_pem(place, pem);
    let certificate =
        certificate.map_err(|error| Failed::new(Kind::Refused, format_args!("no certificate: {error}")))?;
    if certificate.covers(host) {
        Ok(certificate)
    } else {
        let names = certificate.names.join(", ");
        Err(Failed::new(Kind::Refused, format_args!("the certificate is for others: {names}")))
    }
}
