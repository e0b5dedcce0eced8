//! A certificate of the edge with its key: the names in it, until when it is good, and which clients can use it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tls::{Pair, TlsError, pair, provider};

/// A certificate that is served to clients, with its key, as its files were when they were read.
pub struct Certificate {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// The beginning of the chain's SHA-256, in hexadecimal.
    pub mark: String,
    /// The names that it is good for: DNS names in lower case, `*.shop.test` among them, and addresses. Names that
    /// stand in the subject alone do not count (RFC 9525 section 2).
    pub names: Vec<String>,
    /// From when it is good, in seconds since 1970.
    pub starts: i64,
    /// When it expires, in seconds since 1970.
    pub expires: i64,
    signed: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads both files: the certificate with those that sign it, as PEM, and its private key, as PEM.
    ///
    /// # Errors
    /// Which file is missing, is not what it should be, or does not belong to the other.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::of(cert, key, Pair::read(cert, key)?)
    }

    /// The same from what is in one file, or is to be: certificates and key, as PEM.
    ///
    /// # Errors
    /// What is missing in it, is not what it should be, or does not belong to the other.
    pub fn from_pem(file: &Path, pem: &[u8]) -> Result<Self, TlsError> {
        Self::of(file, file, Pair::from_pem(pem, pem)?)
    }

    fn of(cert: &Path, key: &Path, pair_read: Pair) -> Result<Self, TlsError> {
        let Pair { chain, secret, mark } = pair_read;
        let signed = CertifiedKey::from_der(chain, secret, &provider()).map_err(pair)?;
        let leaf = signed.cert.first().map(AsRef::as_ref).unwrap_or_default();
        let read = X509Certificate::from_der(leaf);
        let (_, leaf) = read.map_err(|error| TlsError::Cert(format!("no valid certificate: {error}")))?;
        let names = names(&leaf).map_err(TlsError::Cert)?;
        let starts = leaf.validity().not_before.timestamp();
        let expires = leaf.validity().not_after.timestamp();
        let (cert, key, signed) = (cert.to_owned(), key.to_owned(), Arc::new(signed));
        Ok(Self { cert, key, mark, names, starts, expires, signed })
    }

    /// What logs and metrics call it: its first name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// What a handshake needs.
    pub fn signed(&self) -> &Arc<CertifiedKey> {
        &self.signed
    }

    /// Whether it is good for that name: lower case, without a dot at the end.
    pub fn covers(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(below) => parent == Some(below),
            None => own == name,
        })
    }

    /// Which one is offered first where several have the same name: the cheap signature.
    pub fn rank(&self) -> usize {
        const ORDER: [SignatureAlgorithm; 3] =
            [SignatureAlgorithm::ECDSA, SignatureAlgorithm::ED25519, SignatureAlgorithm::RSA];
        let algorithm = self.signed.key.algorithm();
        ORDER.iter().position(|known| *known == algorithm).unwrap_or(ORDER.len())
    }

    /// Whether that client can use it.
    pub fn suits(&self, hello: &ClientHello<'_>) -> bool {
        if self.signed.key.choose_scheme(hello.signature_schemes()).is_none() {
            return false;
        }
        let algorithm = self.signed.key.algorithm();
        hello.cipher_suites().iter().any(|suite| signs(*suite, algorithm))
    }
}

/// Whether a certificate with that algorithm goes with a suite. In TLS 1.3 suites do not say.
fn signs(wanted: CipherSuite, algorithm: SignatureAlgorithm) -> bool {
    let provider = provider();
    let ours = provider.cipher_suites.iter().find(|ours| ours.suite() == wanted);
    ours.is_some_and(|ours| ours.usable_for_signature_algorithm(algorithm))
}

fn names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let found = leaf.subject_alternative_name();
    let found = found.map_err(|error| format!("its names (subjectAltName) cannot be read: {error}"))?;
    let names = found.iter().flat_map(|found| &found.value.general_names);
    Ok(names.filter_map(name).collect())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some(name.trim_end_matches('.').to_ascii_lowercase());
    }
    // Nobody asks a server for mail addresses and the like.
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).ok().map(|address| address.to_string())
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        (&self.cert, &self.key, &self.mark) == (&other.cert, &other.key, &other.mark)
    }
}

impl fmt::Display for Certificate {
    /// Two certificates in one file are told apart by their marks.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (certificate {}), {}", self.cert.display(), self.mark, self.key.display())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("cert", &self.cert)
            .field("mark", &self.mark)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
