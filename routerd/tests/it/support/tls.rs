//! Certificates, and clients that speak TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::DEADLINE;

/// Who signs certificates, and the folder they are in.
pub(crate) struct Authority {
    pub(crate) folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) secret: PrivateKeyDer<'static>,
}

impl Issued {
    /// As an entry of `tls.certificates`.
    pub(crate) fn entry(&self) -> String {
        format!("{{ cert = '{}', key = '{}' }}", self.cert.display(), self.key.display())
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// The file with its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate in `<file>.pem` with the key in `<file>.key`.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_with(file, names, KeyPair::generate().unwrap(), |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let made = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        let (cert, secret) = (at("pem"), at("key"));
        put(&cert, &made.pem());
        put(&secret, &key.serialize_pem());
        let der = made.der().clone();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Issued { cert, key: secret, der, secret: private }
    }

    /// A client that trusts it, and nobody else.
    pub(crate) fn client(&self) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        TlsClient::new(builder().with_root_certificates(roots).with_no_client_auth())
    }

    /// The same with a certificate of its own.
    pub(crate) fn client_as(&self, issued: Issued) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = builder().with_root_certificates(roots);
        TlsClient::new(builder.with_client_auth_cert(vec![issued.der], issued.secret).unwrap())
    }
}

/// Replaces a file in one step.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn builder() -> Builder {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client; its clones share the tickets that servers give it.
#[derive(Clone)]
pub(crate) struct TlsClient {
    pub(crate) config: ClientConfig,
}

impl TlsClient {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self { config }
    }

    /// One that trusts everybody.
    pub(crate) fn credulous() -> Self {
        let builder = builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        Self::new(builder.with_no_client_auth())
    }

    /// Without SNI.
    pub(crate) fn nameless(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    pub(crate) async fn connect(&self, to: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = TcpStream::connect(to).await?;
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        timeout(DEADLINE, connector.connect(name, stream)).await.expect("the handshake ends")
    }

    /// The certificate that it is shown for a name.
    pub(crate) async fn shown(&self, to: SocketAddr, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(to, name).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// One request on a connection of its own; what came back.
    pub(crate) async fn get(&self, to: SocketAddr, name: &str, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect(to, name).await?;
        ask(&mut stream, name, path).await
    }
}

/// One request, the last on its connection.
pub(crate) async fn ask(
    stream: &mut TlsStream<TcpStream>,
    host: &str,
    path: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an answer in time")?;
    Ok(answer)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Runs a program with that input to its end; what it has said.
pub(crate) async fn says(program: &str, args: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let out = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}
