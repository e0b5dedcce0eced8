//! Certificates by ACME: which CA, which ways, and for which hosts.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

pub use super::file::Challenge;
use super::tls::mark;
use super::{App, Edge, host};

/// Where certificates come from, and for which hosts. The keys are described in [`file::Acme`](super::file::Acme).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Acme {
    pub directory: String,
    pub email: Option<String>,
    pub storage: PathBuf,
    /// The preferred way first; at least one.
    pub challenges: Vec<Challenge>,
    /// `None`: a share of each certificate's life.
    pub renew_before: Option<Duration>,
    pub on_demand: bool,
    pub ca: Option<Ca>,
    /// External account binding.
    pub eab: Option<Eab>,
    /// For whom, in order, without those that have a certificate from a file.
    pub hosts: Vec<String>,
}

impl Acme {
    /// The default of `directory`.
    pub const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
    /// The default of `storage`.
    pub const STORAGE: &str = "routerd-acme";
}

/// Who signs the certificate of the CA's own HTTPS.
#[derive(Clone)]
pub struct Ca {
    /// The file.
    pub path: PathBuf,
    /// The beginning of the SHA-256 of what is in it, in hexadecimal.
    pub mark: String,
    /// What is in it.
    pub roots: RootCertStore,
}

impl Ca {
    /// Takes the certificates that were in the file.
    ///
    /// # Errors
    /// One of them is none that can sign others.
    pub(super) fn new(path: PathBuf, certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let (mark, mut roots) = (mark(&certificates), RootCertStore::empty());
        for certificate in certificates {
            roots.add(certificate).map_err(|error| format!("no valid certificate: {error}"))?;
        }
        Ok(Self { path, mark, roots })
    }
}

impl PartialEq for Ca {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.mark) == (&other.path, &other.mark)
    }
}

impl Eq for Ca {}

impl fmt::Display for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (certificates {})", self.path.display(), self.mark)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("path", &self.path).field("mark", &self.mark).finish_non_exhaustive()
    }
}

/// A key that the CA gave out beforehand. The bytes are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    /// What the CA calls it.
    pub kid: String,
    /// The file with the key.
    pub file: PathBuf,
    key: Vec<u8>,
}

impl Eab {
    pub(super) fn new(kid: String, file: PathBuf, key: Vec<u8>) -> Self {
        Self { kid, file, key }
    }

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

/// The hosts that certificates can be ordered for: names with a dot, without `*`, that no file has a certificate for.
/// In the two ways there are, a CA proves no others.
pub(super) fn hosts(apps: &[App], tls: Option<&Edge>) -> Vec<String> {
    let patterns = apps.iter().flat_map(|app| &app.spec.hosts);
    let names = patterns.map(|pattern| pattern.split('/').next().unwrap_or_default());
    let files = tls.map_or(&[][..], |tls| &tls.certificates);
    let wanted = |name: &&str| is_public(name) && !files.iter().any(|it| it.covers(name));
    let mut hosts: Vec<_> = names.filter(wanted).map(str::to_owned).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn is_public(name: &str) -> bool {
    // No CA gives out a certificate for a name with _ in it.
    let plain = name.contains('.') && !name.contains(['*', '_', '[']) && host::name(name).is_ok();
    plain && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// Whether that text is the URL of a directory.
pub(super) fn is_directory(text: &str) -> bool {
    let uri = text.parse::<http::Uri>();
    let host = |uri: &http::Uri| uri.host().is_some_and(|host| !host.is_empty());
    uri.is_ok_and(|uri| uri.scheme_str() == Some("https") && host(&uri)) && !text.contains(['@', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_ca_can_prove_gets_a_certificate() {
        for name in ["shop.test", "a.b.shop.test", "xn--bcher-kva.test"] {
            assert!(is_public(name), "{name}");
        }
        for name in ["*", "*.shop.test", "localhost", "127.0.0.1", "[::1]", "a_b.shop.test", ""] {
            assert!(!is_public(name), "{name}");
        }
    }

    #[test]
    fn a_directory_is_asked_over_https_alone() {
        assert!(is_directory(Acme::DIRECTORY) && is_directory("https://127.0.0.1:14000/dir"));
        for text in
            ["http://ca.test/dir", "ca.test", "https://", "https://me@ca.test/", "https://ca.test/#x", ""]
        {
            assert!(!is_directory(text), "{text}");
        }
    }
}
