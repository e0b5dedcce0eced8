//! TLS in front of the apps: the listeners, their certificates, and what a handshake may be.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, Error, RootCertStore, ServerConfig, WantsVerifier};

use super::cert::Certificate;
pub use super::file::{ClientAuth, MinVersion, Unnamed};
use super::tls::{mark, provider};

/// TLS in front. The keys are described in [`file::Edge`](super::file::Edge).
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Edge {
    pub listen: Vec<SocketAddr>,
    /// In the order of the file.
    pub certificates: Vec<Arc<Certificate>>,
    pub default: Unnamed,
    pub min_version: MinVersion,
    pub handshake_timeout: Duration,
    /// 0 is 100 for every core.
    pub handshakes: usize,
    pub client_auth: ClientAuth,
    pub client_ca: Option<ClientCa>,
}

impl Edge {
    /// The default of `handshake_timeout`.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

    /// The beginning of what a handshake is made with: versions, and who is asked for a certificate.
    ///
    /// # Errors
    /// What the library refuses; a checked configuration gives it no reason.
    pub fn server(&self) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, Error> {
        let versions = match self.min_version {
            MinVersion::V12 => &[&TLS13, &TLS12][..],
            MinVersion::V13 => &[&TLS13][..],
        };
        let builder: ConfigBuilder<ServerConfig, WantsVerifier> =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let verifier = self.client_ca.as_ref().map(|ca| Arc::clone(&ca.verifier));
        Ok(match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        })
    }

    /// Which clients a ticket may have been given to: one that was given out under other terms is not taken.
    pub fn admission(&self) -> String {
        let ca = self.client_ca.as_ref().map_or("", |ca| &ca.mark);
        format!("{:?} {ca}", self.client_auth)
    }
}

/// Who signs the certificates of clients.
#[derive(Clone)]
pub struct ClientCa {
    /// The file.
    pub path: PathBuf,
    /// The beginning of the SHA-256 of what is in it, in hexadecimal.
    pub mark: String,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientCa {
    /// Takes the certificates that were in the file.
    ///
    /// # Errors
    /// None of them can sign others, or one is none.
    pub fn new(
        path: PathBuf,
        certificates: Vec<CertificateDer<'static>>,
        auth: ClientAuth,
    ) -> Result<Self, String> {
        let mark = mark(&certificates);
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| format!("no valid certificate: {error}"))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = match auth {
            ClientAuth::Required => builder,
            ClientAuth::Optional | ClientAuth::Off => builder.allow_unauthenticated(),
        };
        let verifier = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { path, mark, verifier })
    }
}

impl PartialEq for ClientCa {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.mark) == (&other.path, &other.mark)
    }
}

impl fmt::Display for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (certificates {})", self.path.display(), self.mark)
    }
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("path", &self.path).field("mark", &self.mark).finish_non_exhaustive()
    }
}
