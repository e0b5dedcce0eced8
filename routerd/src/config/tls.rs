//! Certificate and key of the admin listener, read from their files; and what all TLS of this process stands on.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The most bytes of each file.
const FILE_MAX: u64 = 1 << 20;

/// A certificate with its key, as they were when the configuration was read.
#[derive(Clone)]
pub struct Tls {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// The beginning of the certificate's SHA-256, in hexadecimal: tells one certificate from the next.
    pub mark: String,
    server: Arc<ServerConfig>,
}

/// Which of the two files is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The certificate.
    Cert(String),
    /// The key.
    Key(String),
}

impl Tls {
    /// Reads both files: the certificate with those that sign it, as PEM, and its private key, as PEM.
    ///
    /// # Errors
    /// Which file is missing, is not what it should be, or does not belong to the other.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let Pair { chain, secret, mark } = Pair::read(cert, key)?;
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TlsError::Cert(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(pair)?;
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), mark, server: Arc::new(server) })
    }

    /// What a listener needs. TLS 1.2 and 1.3.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

/// The cryptography of all TLS of this process. Its key exchanges begin with X25519MLKEM768.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What is in the two files.
pub(super) struct Pair {
    /// The certificate, and behind it those that sign it; never empty.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) secret: PrivateKeyDer<'static>,
    /// The beginning of the SHA-256 of the chain.
    pub(super) mark: String,
}

impl Pair {
    pub(super) fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read(cert).map_err(TlsError::Cert)?;
        Self::from_pem(&chain, &read(key).map_err(TlsError::Key)?)
    }

    /// From what is in the two files.
    pub(super) fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = chain(cert).map_err(TlsError::Cert)?;
        let secret = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Key(why(&error)))?;
        let mark = mark(&chain);
        Ok(Self { chain, secret, mark })
    }
}

/// The certificates in a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    chain(&read(path)?)
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| why(&error))?;
    if chain.is_empty() {
        return Err("there is no certificate in the file (PEM is wanted)".to_owned());
    }
    Ok(chain)
}

/// Tells these certificates from others.
pub(super) fn mark(chain: &[CertificateDer<'_>]) -> String {
    let mut digest = Context::new(&SHA256);
    chain.iter().for_each(|cert| digest.update(cert));
    HEXLOWER.encode(&digest.finish().as_ref()[..4])
}

/// A file's bytes, at most 1 MiB.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    file.map_err(|error| format!("the file cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err("the file is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// What is wrong with what is in a file.
fn why(error: &pem::Error) -> String {
    if let pem::Error::NoItemsFound = error {
        return "there is nothing of the kind in the file (PEM is wanted)".to_owned();
    }
    format!("the file is no PEM: {error}")
}

/// What is wrong with the two together.
pub(super) fn pair(error: rustls::Error) -> TlsError {
    if let rustls::Error::InconsistentKeys(_) = error {
        return TlsError::Key("this is the key of another certificate".to_owned());
    }
    if let rustls::Error::InvalidCertificate(error) = error {
        return TlsError::Cert(format!("no valid certificate: {error}"));
    }
    TlsError::Key(format!("no valid key: {error}"))
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cert(why) => write!(f, "cert: {why}"),
            Self::Key(why) => write!(f, "key: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        (&self.cert, &self.key, &self.mark) == (&other.cert, &other.key, &other.mark)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cert, key, mark, .. } = self;
        f.debug_struct("Tls")
            .field("cert", cert)
            .field("key", key)
            .field("mark", mark)
            .finish_non_exhaustive()
    }
}
