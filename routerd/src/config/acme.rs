//! Certificates by ACME: which CA, which ways, and for which hosts.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use http::Uri;
use toml::Spanned;

use super::check::Checker;
use super::error::Problem;
use super::file;
pub use super::file::{Challenge, Issue};
use super::host;
use super::walk::clip;
use super::{App, tls};

/// The default of `acme.directory`.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The default of `acme.storage`.
const STORAGE: &str = "routerd-acme";

/// Where certificates are to come from. The keys are described in [`file::Acme`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Acme {
    pub directory: String,
    pub email: Option<String>,
    pub storage: PathBuf,
    pub challenges: Vec<Challenge>,
    pub issue: Issue,
    pub ca_file: Option<PathBuf>,
    /// External account binding.
    pub eab: Option<Eab>,
}

/// A key that the CA gave out beforehand. The bytes are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    /// What the CA calls it.
    pub kid: String,
    key: Vec<u8>,
}

impl Eab {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The hosts that a certificate can be ordered for: names, with dots, without `*`. A CA proves no others in these ways.
pub fn hosts(apps: &[App]) -> Vec<String> {
    let patterns = apps.iter().flat_map(|app| &app.spec.hosts);
    let names = patterns.map(|pattern| pattern.split('/').next().unwrap_or_default());
    let public = |name: &&str| name.contains('.') && !name.contains('*') && host::name(name).is_ok();
    let address = |name: &&str| name.parse::<std::net::Ipv4Addr>().is_ok();
    let mut hosts: Vec<_> =
        names.filter(public).filter(|name| !address(name)).map(str::to_owned).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

impl Checker<'_> {
    /// `base` is the folder that relative paths begin at.
    pub(super) fn acme(&mut self, written: &Spanned<file::Acme>, base: &Path) -> Acme {
        let (span, file) = (written.span(), written.get_ref());
        if !file.accept_terms.or(false) && self.is_whole() {
            let problem = Problem::new(file.accept_terms.span().unwrap_or(span.clone()), "[acme] orders nothing");
            self.problem(problem.help("read the terms of service of the CA, then write accept_terms = true"));
        }
        let directory = file.directory.value().map_or(DIRECTORY, String::as_str).to_owned();
        let good = directory.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
        if let Some(span) = file.directory.span().filter(|_| !good) {
            let problem = Problem::new(span, "acme.directory: this is no https:// URL");
            self.problem(problem.found(format!("found \"{}\"", clip(&directory))));
        }
        if let (Some(email), Some(span)) = (file.email.value(), file.email.span())
            && !(email.contains('@') && email.chars().all(|c| c.is_ascii_graphic()))
        {
            let problem = Problem::new(span, "acme.email: this is no address of a mailbox");
            self.problem(problem.found(format!("found \"{}\"", clip(email))));
        }
        let mut challenges = file.challenges.value().cloned().unwrap_or_default();
        challenges.dedup();
        if challenges.is_empty() {
            challenges = vec![Challenge::TlsAlpn01, Challenge::Http01];
        }
        Acme {
            directory,
            email: file.email.value().cloned(),
            storage: base.join(file.storage.value().map_or(STORAGE, String::as_str)),
            challenges,
            issue: file.issue.or(Issue::default()),
            ca_file: self.ca_file(file, base),
            eab: self.eab(written, base),
        }
    }

    fn ca_file(&mut self, file: &file::Acme, base: &Path) -> Option<PathBuf> {
        let (path, span) = (file.ca_file.value()?, file.ca_file.span()?);
        let path = base.join(path);
        if let Err(tls::TlsError::Cert(why) | tls::TlsError::Key(why)) = tls::certificates(&path) {
            self.problem(Problem::new(span, format!("acme.ca_file: {why}")).found("named here"));
        }
        Some(path)
    }

    fn eab(&mut self, written: &Spanned<file::Acme>, base: &Path) -> Option<Eab> {
        let file = written.get_ref();
        let (kid, path) = (file.eab_kid.value(), file.eab_key_file.value());
        let span = file.eab_key_file.span().or(file.eab_kid.span())?;
        let (Some(kid), Some(path)) = (kid, path) else {
            let problem = Problem::new(span, "acme: eab_kid and eab_key_file go together");
            self.problem(problem.help("give both, or neither"));
            return None;
        };
        let text = std::fs::read_to_string(base.join(path)).map_err(|error| format!("the file cannot be read: {error}"));
        let key = text.and_then(|text| {
            let key = BASE64URL_NOPAD.decode(text.trim().trim_end_matches('=').as_bytes());
            key.map_err(|error| format!("the file is no base64url: {error}"))
        });
        match key {
            Ok(key) => Some(Eab { kid: kid.clone(), key }),
            Err(why) => {
                self.problem(Problem::new(span, format!("acme.eab_key_file: {why}")).found("named here"));
                None
            }
        }
    }
}
