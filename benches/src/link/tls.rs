//! How TLS is spoken to a proxy, and the certificate that those proxies show which this tool starts.
//!
//! What is agreed on is the client's choice, so that it is the same whoever answers: X25519 and AES-128-GCM come first,
//! which all proxies take, and no session is resumed, so each connection is a whole handshake.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How TLS is spoken to a proxy.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    certificate: Arc<Certificate>,
}

/// A certificate made for a run, with an authority of its own that signs nothing else. All in PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// The authority's certificate.
    pub ca: String,
}

/// Whose certificates are taken.
enum Trust<'a> {
    /// Anybody's: load goes to loopback addresses only.
    Any,
    /// Those signed by the run's own authority, or by one of those in the file.
    Authorities(Option<&'a Path>),
}

impl Tls {
    /// For a proxy that shall show a certificate for `host`, signed by one of those in the file `ca` or by
    /// [`certificate`](Self::certificate)'s authority. Without a file any certificate will do: load goes to loopback
    /// addresses only. With `http2` that is the protocol asked for.
    ///
    /// # Errors
    /// Says what is wrong with the host or the file.
    pub fn new(host: &str, ca: Option<&Path>, http2: bool) -> Result<Self, String> {
        Self::with(host, ca.map_or(Trust::Any, |path| Trust::Authorities(Some(path))), http2)
    }

    /// For proxies that show [`certificate`](Self::certificate), and no other.
    ///
    /// # Errors
    /// Says what is wrong with the host.
    pub fn own(host: &str, http2: bool) -> Result<Self, String> {
        Self::with(host, Trust::Authorities(None), http2)
    }

    /// What the proxies that are started shall show.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The client's side of a new connection.
    ///
    /// # Errors
    /// When the TLS library refuses its settings.
    pub fn session(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone())
    }

    /// The same for HTTP/1.1, whatever the load speaks.
    ///
    /// # Errors
    /// When the TLS library refuses its settings.
    pub fn http1_session(&self) -> Result<ClientConnection, rustls::Error> {
        let alpn = vec![b"http/1.1".to_vec()];
        ClientConnection::new_with_alpn(Arc::clone(&self.config), self.name.clone(), alpn)
    }

    fn with(host: &str, trust: Trust<'_>, http2: bool) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name for TLS"))?;
        let certificate = Certificate::new(host).map_err(|error| error.to_string())?;
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = match trust {
            Trust::Authorities(file) => {
                builder.with_root_certificates(roots(&certificate, file)?).with_no_client_auth()
            }
            Trust::Any => {
                let any = Arc::new(AnyCertificate(provider));
                builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name, certificate: Arc::new(certificate) })
    }
}

impl Certificate {
    fn new(host: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "dyno-bench, for one run");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "a proxy of dyno-bench");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Self { cert: cert.pem(), key: key.serialize_pem(), ca: issuer.pem() })
    }
}

/// The library's own choice with another order: first what all proxies take.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let first = cipher_suite::TLS13_AES_128_GCM_SHA256.suite();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    provider
}

fn roots(own: &Certificate, file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |certificate: Result<CertificateDer<'static>, _>| -> Result<(), String> {
        let certificate = certificate.map_err(|error: rustls::pki_types::pem::Error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())
    };
    add(CertificateDer::from_pem_slice(own.ca.as_bytes()))?;
    if let Some(path) = file {
        let failed = |why: String| format!("{}: {why}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
        let mut any = false;
        for certificate in certificates {
            add(certificate).map_err(failed)?;
            any = true;
        }
        if !any {
            return Err(failed("there is no certificate in it".to_owned()));
        }
    }
    Ok(roots)
}

/// Takes any certificate, as long as the other side has its key: that of a proxy under test is self-signed more often
/// than not, for names that nobody asks for here, and what is measured is the same. Nothing secret is sent, and to
/// loopback addresses only; rustls has no such verifier of its own, and `--ca` does without it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{HandshakeKind, NamedGroup, ServerConfig, ServerConnection};

    use super::*;

    /// Lets both sides talk until the handshake is done or has failed.
    fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &*wire).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &*wire).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    fn server(certificate: &Certificate) -> Arc<ServerConfig> {
        let cert = CertificateDer::from_pem_slice(certificate.cert.as_bytes()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        // One that would rather have keys of after the quantum computer, as this project's daemon does.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_no_client_auth().with_single_cert(vec![cert], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    #[test]
    fn every_handshake_is_whole_and_agrees_on_the_same() {
        let tls = Tls::own("bench.test", true).unwrap();
        let config = server(tls.certificate());
        // Each begins when the one before has been told how to be resumed.
        for alpn in [b"h2".as_slice(), b"http/1.1", b"h2"] {
            let session = if alpn == b"h2" { tls.session() } else { tls.http1_session() };
            let mut client = session.unwrap();
            let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
            shake(&mut client, &mut server).unwrap();
            assert_eq!(client.alpn_protocol(), Some(alpn));
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert!(client.tls13_tickets_received() > 0);
            let group = client.negotiated_key_exchange_group().unwrap();
            assert_eq!(group.name(), NamedGroup::X25519);
            let suite = client.negotiated_cipher_suite().unwrap();
            assert_eq!(suite.suite(), cipher_suite::TLS13_AES_128_GCM_SHA256.suite());
        }
    }

    #[test]
    fn only_the_certificate_of_the_run_is_taken() {
        let (tls, other) = (Tls::own("bench.test", false).unwrap(), Tls::own("bench.test", false).unwrap());
        let mut server = ServerConnection::new(server(other.certificate())).unwrap();
        let error = shake(&mut tls.session().unwrap(), &mut server).unwrap_err();
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
    }
}
