//! A real CA, Pebble, which asks a real name server where the hosts are; and a daemon that gets its certificates there.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::program::Program;
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Dyno, installed};

/// Seconds.
pub(super) const YEAR: u32 = 365 * 24 * 60 * 60;

/// A port that is free now and that nobody else here gets: none of those that the system gives to whoever asks for
/// any, as the other tests do.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(15_000..31_000)));
    let next = || NEXT.fetch_add(1, Ordering::Relaxed);
    std::iter::repeat_with(next).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A child that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A CA with a name server that knows `*.test`; at what ends with `lost.test` nobody listens.
pub(super) struct Ca {
    pub(super) own: Authority,
    pub(super) port: u16,
    pebble: Option<Peer>,
    name_server: u16,
    _names: Peer,
}

impl Ca {
    /// `None`: it is not installed here.
    pub(super) fn start(place: &Place, eab: Option<&str>, life: u32) -> Option<Self> {
        // Asked for its help, pebble ends well; dnsmasq for its version.
        if !installed("pebble", &["-h"]) || !installed("dnsmasq", &["--version"]) {
            return None;
        }
        let own = Authority::new();
        let https = own.issue("ca-https", &["127.0.0.1"]);
        let (port, name_server) = (free_port(), free_port());
        let names = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"])
            .args(["--bind-interfaces", "--listen-address=127.0.0.1", "--pid-file="])
            .args(["--address=/test/127.0.0.1", "--address=/lost.test/127.0.0.99"])
            .arg(format!("--user={}", std::env::var("USER").unwrap_or_else(|_| "root".to_owned())))
            .arg(format!("--port={name_server}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = eab.map_or(json!({}), |key| json!({ "kid-1": key }));
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": https.cert,
            "privateKey": https.key,
            "httpPort": place.http,
            "tlsPort": place.tls,
            "certificateValidityPeriod": life,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab.is_some(),
            "externalAccountMACKeys": keys,
        }});
        std::fs::write(own.folder.path().join("pebble.json"), config.to_string()).unwrap();
        let mut ca = Self { own, port, pebble: None, name_server, _names: Peer(names) };
        ca.rises();
        Some(ca)
    }

    /// It runs from now on; what it knew before is forgotten.
    pub(super) fn rises(&mut self) {
        let pebble = Command::new("pebble")
            .arg("-config")
            .arg(self.own.folder.path().join("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{}", self.name_server)])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            // Orders are counted.
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.pebble = Some(Peer(pebble));
        for _ in 0..2000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("pebble does not listen");
    }

    pub(super) fn falls(&mut self) {
        self.pebble = None;
    }

    /// `[acme]` with these lines.
    pub(super) fn table(&self, place: &Place, more: &str) -> String {
        self.table_at(self.port, place, more)
    }

    /// The same for a CA on another port.
    pub(super) fn table_at(&self, port: u16, place: &Place, more: &str) -> String {
        let (storage, ca) = (place.storage(), self.own.ca());
        let (storage, ca) = (storage.display(), ca.display());
        format!(
            "[acme]\ndirectory = 'https://127.0.0.1:{port}/dir'\naccept_terms = true\nstorage = '{storage}'\n\
             ca = '{ca}'\n{more}\n"
        )
    }
}

/// A configuration file of a daemon, and where it listens.
pub(super) struct Place {
    pub(super) folder: TempDir,
    /// Where certificates are kept, if not in that folder.
    pub(super) storage: Option<PathBuf>,
    pub(super) http: u16,
    pub(super) tls: u16,
    pub(super) dyno: Dyno,
}

impl Place {
    pub(super) async fn new() -> Self {
        let (folder, dyno) = (tempfile::tempdir().unwrap(), Dyno::start().await);
        Self { folder, storage: None, http: free_port(), tls: free_port(), dyno }
    }

    pub(super) fn storage(&self) -> PathBuf {
        self.storage.clone().unwrap_or_else(|| self.folder.path().join("acme"))
    }

    pub(super) fn plain(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http))
    }

    pub(super) fn secure(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.tls))
    }

    /// Writes the file: with that `[acme]`, and one app with these hosts.
    pub(super) fn write(&self, acme: &str, hosts: &[&str]) -> PathBuf {
        self.write_with(acme, hosts, "")
    }

    /// The same with further lines of the app.
    pub(super) fn write_with(&self, acme: &str, hosts: &[&str], app: &str) -> PathBuf {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let text = format!(
            "[server]\nlisten = ['{}']\nhandover = 'unix:{}'\n[tls]\nlisten = ['{}']\ndefault = 'strict'\n\
             [admin]\nlisten = 'unix:{}'\n{acme}[apps.shop]\nhosts = {hosts:?}\ndynos = ['{}']\n{app}\n",
            self.plain(),
            at("handover"),
            self.secure(),
            at("admin"),
            self.dyno.address,
        );
        let file = self.folder.path().join("routerd.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(super) fn run(&self, file: &Path) -> Program {
        Program::start(&["run".as_ref(), "--config".as_ref(), file.as_os_str()])
    }

    /// What `routerd ctl` answers.
    pub(super) async fn ctl(&self, args: &[&str]) -> String {
        let admin = format!("unix:{}", self.folder.path().join("admin").display());
        let all: Vec<_> =
            ["ctl", "--admin", &admin].into_iter().chain(args.iter().copied()).map(str::to_owned).collect();
        let output =
            tokio::task::spawn_blocking(move || crate::support::program::routerd(&all)).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// The certificate that is shown for a host: who has signed it, and its serial number. `None`: no handshake.
    pub(super) async fn served(&self, host: &str) -> Option<(String, String)> {
        let stream = TlsClient::credulous().connect(self.secure(), host).await.ok()?;
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        Some((leaf.issuer().to_string(), leaf.raw_serial_as_string()))
    }

    /// Whether the CA's certificate is shown, and no stand-in.
    pub(super) async fn is_real(&self, host: &str) -> bool {
        self.served(host).await.unwrap().0.contains("Pebble")
    }
}
