//! Dynos found by a real dnsmasq: their number changes under load, the resolver dies, SRV, and IPv6.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::{Client, Dyno, Rig, installed, until};

/// A name server of our own.
struct Dnsmasq {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    args: Vec<String>,
}

impl Dnsmasq {
    fn start(hosts: &[String], args: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_hosts(&folder.path().join("hosts"), hosts);
        // Somebody else may take the port between the choice and the start.
        let (child, port) = (0..20).find_map(|_| begin(&folder, args)).expect("dnsmasq starts");
        Self { child, port, folder, args: args.to_vec() }
    }

    /// Other hosts from now on.
    fn set(&self, hosts: &[String]) {
        write_hosts(&self.folder.path().join("hosts"), hosts);
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self, hosts: &[String]) {
        write_hosts(&self.folder.path().join("hosts"), hosts);
        self.child = run(self.port, &self.folder, &self.args);
    }

    /// The app of the daemon that asks it.
    fn app(&self, dynos: &str) -> String {
        self.app_with("", dynos)
    }

    /// The same with a line of `[dns]`.
    fn app_with(&self, dns: &str, dynos: &str) -> String {
        format!(
            "[server]\nlisten = ['127.0.0.1:0', '[::1]:0']\n\
             [dns]\nservers = ['127.0.0.1:{}']\nmin_ttl = '100ms'\nmax_ttl = '300ms'\ntimeout = '300ms'\n\
             {dns}\n[apps.shop]\ndynos = ['{dynos}']\n",
            self.port
        )
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.kill();
    }
}

fn write_hosts(path: &PathBuf, hosts: &[String]) {
    std::fs::write(path, hosts.join("\n") + "\n").unwrap();
}

/// Starts it on a port that is free for UDP and TCP; `None` if it ends instead.
fn begin(folder: &tempfile::TempDir, args: &[String]) -> Option<(Child, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    UdpSocket::bind(address).ok()?;
    drop(listener);
    let mut child = run(address.port(), folder, args);
    while TcpStream::connect(address).is_err() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Some((child, address.port()))
}

fn run(port: u16, folder: &tempfile::TempDir, args: &[String]) -> Child {
    Command::new("dnsmasq")
        .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--local-ttl=1"])
        .args([
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--pid-file=",
            "--local=/test/",
            "--user=root",
        ])
        .arg(format!("--port={port}"))
        .arg(format!("--addn-hosts={}", folder.path().join("hosts").display()))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Dynos on one port of 127.0.0.1 and its neighbours, as the dynos of a name are.
async fn neighbours(count: u8) -> (Vec<Dyno>, u16) {
    'port: loop {
        let first = Dyno::start_at("127.0.1.1:0".parse().unwrap()).await;
        let port = first.address.port();
        let mut dynos = vec![first];
        for n in 2..=count {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, n), port));
            if TcpListener::bind(address).is_err() {
                continue 'port;
            }
            dynos.push(Dyno::start_at(address).await);
        }
        return (dynos, port);
    }
}

fn web(dynos: &[Dyno]) -> Vec<String> {
    dynos.iter().map(|dyno| format!("{} web.test", dyno.address.ip())).collect()
}

/// Clients that ask and ask. Each failed request fails the test at the end.
struct Load {
    served: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (served, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (served, ended) = (Arc::clone(&served), Arc::clone(&ended));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !ended.load(Ordering::Relaxed) {
                    let answer = client.get("/?ms=4").await;
                    assert!(answer.is_ok(), "{answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..8).map(client).collect();
        Self { served, ended, clients }
    }

    /// Waits for that many more requests.
    async fn go_on(&self, count: usize) {
        let wanted = self.served.load(Ordering::Relaxed) + count;
        until("requests are served", || {
            self.served.load(Ordering::Relaxed) >= wanted || self.clients.iter().any(JoinHandle::is_finished)
        })
        .await;
    }

    async fn end(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.served.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_4_dynos_to_2_to_6_and_back_under_load_no_request_fails_and_none_overlap() {
    if !installed("dnsmasq", &["--version"]) {
        return;
    }
    let (dynos, port) = neighbours(6).await;
    let server = Dnsmasq::start(&web(&dynos[..4]), &[]);
    let rig = Rig::from_toml(&server.app(&format!("dns:web.test:{port}"))).await;
    let are = async |count: usize| until(&format!("{count} dynos"), || rig.app().dynos.len() == count).await;
    are(4).await;
    let load = Load::start(rig.address);
    for count in [4, 2, 6, 2, 4] {
        server.set(&web(&dynos[..count]));
        are(count).await;
        let asked = |dynos: &[Dyno]| dynos.iter().map(Dyno::asked).sum::<usize>();
        let left = asked(&dynos[count..]);
        load.go_on(150).await;
        assert_eq!(asked(&dynos[count..]), left, "a dyno that is not in the answer was asked");
    }
    assert!(dynos.iter().all(|dyno| dyno.asked() > 0), "each had its part");
    let served = load.end().await;
    rig.log.are(served).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_resolver_is_dead_nothing_is_lost_and_its_return_is_noticed() {
    if !installed("dnsmasq", &["--version"]) {
        return;
    }
    let (dynos, port) = neighbours(3).await;
    let mut server = Dnsmasq::start(&web(&dynos[..2]), &[]);
    let rig = Rig::from_toml(&server.app(&format!("dns:web.test:{port}"))).await;
    until("2 dynos", || rig.app().dynos.len() == 2).await;
    let load = Load::start(rig.address);
    load.go_on(50).await;
    server.kill();
    let (dead_for, before) = (dead_for(), load.served.load(Ordering::Relaxed));
    // Many times its TTL of 1 s; what is tested is that time passes without harm.
    sleep(dead_for).await;
    load.go_on(50).await;
    let meanwhile = load.served.load(Ordering::Relaxed) - before;
    assert_eq!(rig.app().dynos.len(), 2);
    server.restart(&web(&dynos));
    until("3 dynos", || rig.app().dynos.len() == 3).await;
    // A name that is gone is no reason to send everybody away either.
    server.set(&["127.0.0.9 other.test".to_owned()]);
    load.go_on(200).await;
    assert_eq!(rig.app().dynos.len(), 3);
    let served = load.end().await;
    rig.log.are(served).await;
    let faults = rig.log.faults();
    let overlaps: Vec<_> = dynos.iter().flat_map(Dyno::wrong).collect();
    let (of_faults, of_overlaps) = (faults.len(), overlaps.len());
    let _ = writeln!(
        io::stderr(),
        "resolver dead for {dead_for:?}: {meanwhile} requests meanwhile, {served} in all, \
         {of_faults} faults, {of_overlaps} overlaps"
    );
    assert_eq!((faults, overlaps), (vec![], vec![]));
}

/// How long the resolver is dead: 5 s, or as many seconds as `DEAD_FOR` says.
fn dead_for() -> Duration {
    let seconds = std::env::var("DEAD_FOR").map(|seconds| seconds.parse().expect("DEAD_FOR is in seconds"));
    Duration::from_secs(seconds.unwrap_or(5))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dynos_of_an_srv_name_have_their_own_ports() {
    if !installed("dnsmasq", &["--version"]) {
        return;
    }
    let dynos = Dyno::several(3).await;
    let srv = |dyno: &Dyno| format!("--srv-host=_http._tcp.shop.test,web.test,{},1,1", dyno.address.port());
    let srv: Vec<_> = dynos.iter().map(srv).collect();
    let server = Dnsmasq::start(&["127.0.0.1 web.test".to_owned()], &srv);
    let rig = Rig::from_toml(&server.app("srv:_http._tcp.shop.test")).await;
    until("3 dynos", || rig.app().dynos.len() == 3).await;
    let load = Load::start(rig.address);
    load.go_on(100).await;
    let served = load.end().await;
    assert!(dynos.iter().all(|dyno| dyno.asked() > 0));
    rig.log.are(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_works_on_both_sides_and_from_a_name() {
    if TcpListener::bind("[::1]:0").is_err() || !installed("dnsmasq", &["--version"]) {
        return;
    }
    let dyno = Dyno::start_at("[::1]:0".parse().unwrap()).await;
    let port = dyno.address.port();
    let rig =
        Rig::from_toml(&format!("[server]\nlisten = ['[::1]:0']\n[apps.shop]\ndynos = ['[::1]:{port}']\n"))
            .await;
    assert!(rig.address.is_ipv6() && rig.get("/").await.is_ok());
    assert!(dyno.seen()[0].head.contains("x-forwarded-for: ::1\r\n"), "{}", dyno.seen()[0].head);
    drop(rig);
    until("its connection is closed", || dyno.open_connections() == 0).await;
    let server = Dnsmasq::start(&["::1 six.test".to_owned()], &[]);
    let rig = Rig::from_toml(&server.app(&format!("dns:six.test:{port}"))).await;
    until("the dyno is found", || rig.app().dynos.len() == 1).await;
    assert!(rig.get("/").await.is_ok());
}

/// One dyno on 127.0.0.1 and one on ::1, with the same port. `None` where there is no IPv6.
async fn on_both_families() -> Option<[Dyno; 2]> {
    TcpListener::bind("[::1]:0").ok()?;
    loop {
        let v4 = Dyno::start().await;
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, v4.address.port()));
        // Somebody else may have that port over there.
        if TcpListener::bind(address).is_ok() {
            return Some([v4, Dyno::start_at(address).await]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_name_with_a_and_aaaa_the_family_decides_where_requests_go() {
    let Some([v4, v6]) = on_both_families().await.filter(|_| installed("dnsmasq", &["--version"])) else {
        return;
    };
    let hosts = ["127.0.0.1 web.test", "::1 web.test", "127.0.0.1 four.test"].map(str::to_owned);
    let server = Dnsmasq::start(&hosts, &[]);
    let port = v4.address.port();
    for (family, name, wanted) in [
        ("", "web", vec![v4.address]),
        ("family = 'prefer-v4'", "web", vec![v4.address]),
        ("family = 'prefer-v6'", "web", vec![v6.address]),
        ("family = 'prefer-v6'", "four", vec![v4.address]),
        ("family = 'both'", "web", vec![v4.address, v6.address]),
    ] {
        let before = [v4.asked(), v6.asked()];
        let rig = Rig::from_toml(&server.app_with(family, &format!("dns:{name}.test:{port}"))).await;
        // As many at once as there are dynos, and one more: each dyno has its part.
        let gets: Vec<_> = (0..=wanted.len()).map(|_| rig.spawn_get("/?held=1")).collect();
        until("one is in line", || rig.app().waiting == 1).await;
        for dyno in [&v4, &v6].into_iter().filter(|dyno| wanted.contains(&dyno.address)) {
            // One of them has two to answer.
            (0..2).for_each(|_| dyno.let_go());
        }
        for get in gets {
            assert!(get.await.unwrap().is_ok(), "{family} {name}");
        }
        let mut found: Vec<_> = rig.app().dynos.iter().map(|dyno| dyno.address).collect();
        found.sort();
        assert_eq!(found, wanted, "{family} {name}");
        for (dyno, before) in [&v4, &v6].into_iter().zip(before) {
            assert_eq!(
                dyno.asked() > before,
                wanted.contains(&dyno.address),
                "{family} {name} {}",
                dyno.address
            );
        }
        drop(rig);
        until("its connections are closed", || v4.open_connections() + v6.open_connections() == 0).await;
    }
}
