//! Certificates from a real CA: Pebble, which asks a real name server where the hosts are.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::json;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::support::program::{Program, routerd};
use crate::support::{Client, Dyno, installed, until};

/// Seconds.
const YEAR: u32 = 365 * 24 * 60 * 60;

/// A port that is free now. Somebody else may take it.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A CA with a name server that knows `*.test`, except what ends with `lost.test`.
struct Ca {
    folder: TempDir,
    port: u16,
    pebble: Option<Peer>,
    name_server: u16,
    _names: Peer,
}

impl Ca {
    fn start(place: &Place, eab: Option<&str>, life: u32) -> Option<Self> {
        if !installed("pebble", &["-h"]) || !installed("dnsmasq", &["--version"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        root(folder.path());
        let (port, name_server) = (free_port(), free_port());
        let names = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file=", "--user=root"])
            .args(["--address=/test/127.0.0.1", "--address=/lost.test/127.0.0.99"])
            .arg(format!("--port={name_server}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = eab.map_or(json!({}), |key| json!({ "kid-1": key }));
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": folder.path().join("ca-cert.pem"),
            "privateKey": folder.path().join("ca-key.pem"),
            "httpPort": place.http,
            "tlsPort": place.tls,
            "certificateValidityPeriod": life,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab.is_some(),
            "externalAccountMACKeys": keys,
        }});
        std::fs::write(folder.path().join("pebble.json"), config.to_string()).unwrap();
        let mut ca = Self { folder, port, pebble: None, name_server, _names: Peer(names) };
        ca.rises();
        Some(ca)
    }

    /// It runs from now on; what it knew before is forgotten.
    fn rises(&mut self) {
        let pebble = Command::new("pebble")
            .arg("-config")
            .arg(self.folder.path().join("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.name_server)])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.pebble = Some(Peer(pebble));
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn falls(&mut self) {
        self.pebble = None;
    }

    /// `[acme]` with these lines.
    fn table(&self, storage: &Path, more: &str) -> String {
        format!(
            "[acme]\ndirectory = 'https://127.0.0.1:{}/dir'\naccept_terms = true\nstorage = '{}'\nca_file = '{}'\n{more}\n",
            self.port,
            storage.display(),
            self.folder.path().join("root.pem").display(),
        )
    }
}

/// Makes the CA's own certificates: those of its HTTPS.
fn root(folder: &Path) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_cert = root.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("root.pem"), root_cert.pem()).unwrap();
    std::fs::write(folder.join("ca-cert.pem"), cert.pem()).unwrap();
    std::fs::write(folder.join("ca-key.pem"), key.serialize_pem()).unwrap();
}

/// Takes any certificate, to look at it.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that is served for a host: who signed it, and its serial number. `None`: there is no handshake.
async fn served(address: SocketAddr, host: &str) -> Option<(String, String)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    Some((leaf.issuer().to_string(), leaf.raw_serial_as_string()))
}

async fn is_real(address: SocketAddr, host: &str) -> bool {
    served(address, host).await.unwrap().0.contains("Pebble")
}

/// A configuration file of a daemon for these hosts, and where it listens.
struct Place {
    folder: TempDir,
    http: u16,
    tls: u16,
    dyno: Dyno,
}

impl Place {
    async fn new() -> Self {
        let (folder, dyno) = (tempfile::tempdir().unwrap(), Dyno::start().await);
        Self { folder, http: free_port(), tls: free_port(), dyno }
    }

    fn storage(&self) -> PathBuf {
        self.folder.path().join("acme")
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.tls))
    }

    fn write(&self, acme: &str, hosts: &[&str]) -> PathBuf {
        let hosts: Vec<_> = hosts.iter().map(|host| format!("'{host}'")).collect();
        let text = format!(
            "[server]\nlisten = ['127.0.0.1:{}']\nhandover = 'off'\n[tls]\nlisten = ['127.0.0.1:{}']\n[admin]\n\
             listen = 'unix:{}'\n{acme}[apps.shop]\nhosts = [{}]\ndynos = ['{}']\n",
            self.http,
            self.tls,
            self.folder.path().join("admin").display(),
            hosts.join(", "),
            self.dyno.address,
        );
        let file = self.folder.path().join("routerd.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn run(&self, file: &Path) -> Program {
        Program::start(&["run".as_ref(), "--config".as_ref(), file.as_os_str()])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gets_its_certificate_by_either_way_and_keeps_it_over_a_restart() {
    for way in ["http-01", "tls-alpn-01"] {
        let place = Place::new().await;
        let Some(mut ca) = Ca::start(&place, None, YEAR) else { return };
        let acme = ca.table(&place.storage(), &format!("challenges = ['{way}']"));
        let file = place.write(&acme, &["shop.test", "two.test", "*.test"]);
        let mut daemon = place.run(&file);
        daemon.says("shop.test: a certificate has come", 1).await;
        daemon.says("two.test: a certificate has come", 1).await;
        let own = served(place.address(), "shop.test").await;
        assert!(is_real(place.address(), "shop.test").await, "{way}: {own:?}");
        assert_ne!(served(place.address(), "two.test").await, own, "each has its own");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        until("it is kept", || place.storage().join("shop.test.pem").exists()).await;
        assert_eq!((mode(&place.storage()), mode(&place.storage().join("shop.test.pem"))), (0o700, 0o600));
        // The CA is no longer needed.
        assert_eq!(daemon.end(rustix::process::Signal::TERM).await.code(), Some(0));
        ca.falls();
        let again = place.run(&file);
        again.address().await;
        assert_eq!(served(place.address(), "shop.test").await, own);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ca_is_down_a_stand_in_is_served_and_once_it_is_back_the_real_one() {
    let place = Place::new().await;
    let Some(mut ca) = Ca::start(&place, None, YEAR) else { return };
    ca.falls();
    let acme = ca.table(&place.storage(), "");
    let file = place.write(&acme, &["shop.test"]);
    let daemon = place.run(&file);
    let said = daemon.says("shop.test: no certificate", 1).await;
    assert!(said.contains("a stand-in is served, next try in"), "{said}");
    assert!(!is_real(place.address(), "shop.test").await);
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], place.http))).await;
    client.ask("GET", "/").await;
    assert!(client.answer().await.status != 0, "plain requests go on");
    ca.rises();
    // Whoever does not want to wait for the next try loads the configuration anew.
    let acme = ca.table(&place.storage(), "email = 'ops@shop.test'");
    place.write(&acme, &["shop.test"]);
    daemon.signal(rustix::process::Signal::HUP);
    daemon.says("shop.test: a certificate has come", 1).await;
    assert!(is_real(place.address(), "shop.test").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_time_and_every_handshake_meets_a_good_one() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, 8) else { return };
    let file = place.write(&ca.table(&place.storage(), ""), &["shop.test"]);
    let daemon = place.run(&file);
    daemon.says("shop.test: a certificate has come", 1).await;
    let first = served(place.address(), "shop.test").await;
    let come = || daemon.lines().iter().filter(|line| line.contains("a certificate has come")).count();
    while come() < 3 {
        assert!(is_real(place.address(), "shop.test").await);
        tokio::task::yield_now().await;
    }
    assert_ne!(served(place.address(), "shop.test").await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_not_here_is_told_and_the_others_get_theirs() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let acme = ca.table(&place.storage(), "challenges = ['http-01']");
    let file = place.write(&acme, &["shop.lost.test", "shop.test"]);
    let daemon = place.run(&file);
    let said = daemon.says("shop.lost.test: no certificate", 1).await;
    assert!(said.contains("the CA could not see that the host is served here"), "{said}");
    daemon.says("shop.test: a certificate has come", 1).await;
    assert!(!is_real(place.address(), "shop.lost.test").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_demand_only_what_is_asked_for_and_is_in_the_configuration_is_ordered() {
    let place = Place::new().await;
    let Some(ca) = Ca::start(&place, None, YEAR) else { return };
    let acme = ca.table(&place.storage(), "issue = 'on_demand'");
    let file = place.write(&acme, &["shop.test", "two.test"]);
    let daemon = place.run(&file);
    daemon.address().await;
    assert_eq!(served(place.address(), "stranger.test").await, None);
    assert!(!is_real(place.address(), "shop.test").await, "the first gets the stand-in");
    daemon.says("shop.test: a certificate has come", 1).await;
    assert!(is_real(place.address(), "shop.test").await);
    let said = daemon.lines().join("\n");
    assert!(!said.contains("two.test: a cert") && !said.contains("stranger"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_bound_to_one_elsewhere_and_a_new_one_is_made_when_the_ca_has_forgotten_it() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let place = Place::new().await;
    let Some(mut ca) = Ca::start(&place, Some(KEY), YEAR) else { return };
    let acme = ca.table(&place.storage(), "");
    let file = place.write(&acme, &["shop.test"]);
    let mut daemon = place.run(&file);
    let said = daemon.says("shop.test: no certificate", 1).await;
    assert!(said.contains("no account: "), "{said}");
    let key = place.folder.path().join("eab");
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let acme = ca.table(&place.storage(), &format!("eab_kid = 'kid-1'\neab_key_file = '{}'", key.display()));
    place.write(&acme, &["shop.test"]);
    daemon.signal(rustix::process::Signal::HUP);
    daemon.says("shop.test: a certificate has come", 1).await;
    daemon.end(rustix::process::Signal::TERM).await;
    // Pebble forgets everything when it ends.
    ca.falls();
    ca.rises();
    std::fs::remove_file(place.storage().join("shop.test.pem")).unwrap();
    let daemon = place.run(&file);
    daemon.says("shop.test: no certificate", 1).await;
    assert!(!is_real(place.address(), "shop.test").await);
    until("the account that nobody knows is gone", || {
        let names = std::fs::read_dir(place.storage()).unwrap().map(|entry| entry.unwrap().file_name());
        !names.into_iter().any(|name| name.to_string_lossy().starts_with("account"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_acme_wants_is_checked_before_anything_is_ordered() {
    let folder = tempfile::tempdir().unwrap();
    let check = |acme: &str| {
        let file = folder.path().join("x.toml");
        let text = format!("[tls]\n[acme]\n{acme}\n[apps.shop]\nhosts = ['shop.test']\ndynos = ['127.0.0.1:1']\n");
        std::fs::write(&file, text).unwrap();
        let output = routerd(&["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (acme, says) in [
        ("", "accept_terms = true"),
        ("accept_terms = true\ndirectory = 'http://ca.test/dir'", "no https:// URL"),
        ("accept_terms = true\nemail = 'nobody'", "no address of a mailbox"),
        ("accept_terms = true\nca_file = 'none.pem'", "cannot be read"),
        ("accept_terms = true\neab_kid = 'x'", "go together"),
        ("accept_terms = true\nchallenges = ['dns-01']", "http-01"),
    ] {
        let (code, said) = check(acme);
        assert!(code == Some(1) && said.contains(says), "{acme}: {code:?} {said}");
    }
    assert_eq!(check("accept_terms = true").0, Some(0));
}
