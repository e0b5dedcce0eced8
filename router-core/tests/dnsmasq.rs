//! Discovery against a real dnsmasq: answers that change, names that vanish, servers that die, refuse or never answer.
//!
//! Without dnsmasq on the machine these tests say so and pass; with `PEERS=required` in the environment they fail.
#![cfg(feature = "dns")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use router_core::change::Change;
use router_core::dns::{Bounds, Discovery, Families, Resolver, Settings, Sink, Source, SourceStatus};
use router_core::ids::Address;
use router_core::policy::records::Failure;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// A dnsmasq of our own, with a hosts file of our own.
struct Dnsmasq {
    child: Child,
    server: SocketAddr,
    dir: PathBuf,
    args: Vec<String>,
}

impl Dnsmasq {
    /// Starts one that knows these hosts, and of `.test` nothing else. `None`: there is no dnsmasq here.
    fn start(hosts: &str, args: &[&str]) -> Option<Self> {
        Self::start_on("127.0.0.1", hosts, args)
    }

    fn start_on(ip: &str, hosts: &str, args: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let there = Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            let required = std::env::var("PEERS").is_ok_and(|peers| peers == "required");
            assert!(!required, "dnsmasq is not installed, and PEERS=required");
            eprintln!("skipped: dnsmasq is not installed");
            return None;
        }
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("router-core-dnsmasq-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts"), hosts).unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        // Somebody else may take the port between the choice and the start.
        for _ in 0..10 {
            let server = free_port(ip);
            if let Some(child) = spawn(server, &dir, &args) {
                return Some(Self { child, server, dir, args });
            }
        }
        panic!("dnsmasq does not start");
    }

    /// Puts other hosts in place and makes dnsmasq read them.
    fn put(&self, hosts: &str) {
        std::fs::write(self.dir.join("hosts"), hosts).unwrap();
        let signalled = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self, hosts: &str) {
        std::fs::write(self.dir.join("hosts"), hosts).unwrap();
        self.child = spawn(self.server, &self.dir, &self.args).expect("dnsmasq starts on its port again");
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        // It may have been killed by the test, and the folder is only tidiness.
        let _ = (self.child.kill(), self.child.wait(), std::fs::remove_dir_all(&self.dir));
    }
}

/// A port that is free for UDP and TCP.
fn free_port(ip: &str) -> SocketAddr {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    loop {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Starts dnsmasq and waits until it listens; `None` if it ends instead.
fn spawn(server: SocketAddr, dir: &std::path::Path, args: &[String]) -> Option<Child> {
    let mut child = Command::new("dnsmasq")
        .args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"])
        .args(["--local-ttl=1", "--local=/test/", "--no-negcache"])
        .arg(format!("--port={}", server.port()))
        .arg(format!("--listen-address={}", server.ip()))
        .arg(format!("--addn-hosts={}", dir.join("hosts").display()))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Duration::from_secs(10);
    let begun = router_core::clock::wall();
    while router_core::clock::wall() - begun < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(server).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = (child.kill(), child.wait());
    panic!("dnsmasq does not listen: {ended:?}");
}

/// A discovery, and a router that takes every change.
struct Bed {
    discovery: Discovery,
    dynos: watch::Receiver<BTreeSet<Address>>,
    sink: Sink,
}

fn bounds() -> Bounds {
    Bounds { max_ttl: SECOND, families: Families::Both, ..Bounds::default() }
}

fn settings(servers: &[SocketAddr]) -> Settings {
    Settings::default()
        .with_servers(servers.to_vec())
        .with_timeout(SECOND)
        .with_tries(1)
        .with_bounds(bounds())
}

impl Bed {
    fn start(settings: Settings, sources: &[&str]) -> Self {
        let sources: Vec<Source> = sources.iter().map(|text| text.parse().unwrap()).collect();
        let (router, dynos) = watch::channel(BTreeSet::new());
        let sink: Sink = Arc::new(move |changes| {
            router.send_modify(|dynos| {
                for change in &changes {
                    match change {
                        Change::AddDyno(_, spec) => assert!(dynos.insert(spec.address), "added twice"),
                        Change::RemoveDyno(_, address) => assert!(dynos.remove(address), "removed twice"),
                        Change::PutApp(_)
                        | Change::RemoveApp(_)
                        | Change::SetDyno(..)
                        | Change::SetCanary(..)
                        | Change::Hold(..) => {
                            panic!("{change:?}")
                        }
                    }
                }
            });
            Vec::new()
        });
        let discovery = Discovery::start(Resolver::new(settings), "shop".into(), &sources, 1, sink.clone());
        Self { discovery, dynos, sink }
    }

    /// Waits until the router has exactly these dynos.
    async fn has(&mut self, expected: &[&str]) {
        let expected: BTreeSet<Address> = expected.iter().map(|text| text.parse().unwrap()).collect();
        let reached = timeout(DEADLINE, self.dynos.wait_for(|dynos| *dynos == expected)).await;
        let reached = reached.map(|result| result.map(drop));
        assert!(reached.is_ok(), "{:?} instead of {expected:?}: {:#?}", self.now(), self.discovery.status());
    }

    fn now(&self) -> Vec<String> {
        self.dynos.borrow().iter().map(ToString::to_string).collect()
    }

    /// Waits until the status of the source at that place in the list is as it should be.
    async fn status(&self, at: usize, wanted: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let end = Instant::now() + DEADLINE;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            let status = self.discovery.status().swap_remove(at);
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status:#?}");
        }
    }
}

/// Lines of a hosts file that give `web.test` these addresses.
fn web(last: std::ops::RangeInclusive<u32>) -> String {
    last.map(|last| format!("10.0.{}.{} web.test\n", last / 250, last % 250 + 1)).collect()
}

fn dynos(last: std::ops::RangeInclusive<u32>) -> Vec<String> {
    last.map(|last| format!("10.0.{}.{}:3000", last / 250, last % 250 + 1)).collect()
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// A server that takes questions and never answers.
fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_and_aaaa_records_and_aliases_become_dynos() {
    let hosts = "10.0.0.1 web.test\n10.0.0.2 web.test\nfd00::1 web.test\nfd00::9 six.test\n";
    let Some(dnsmasq) = Dnsmasq::start(hosts, &["--cname=alias.test,web.test"]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:80"]);
    bed.has(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]).await;
    let mut bed =
        Bed::start(settings(&[dnsmasq.server]), &["dns:alias.test:80", "dns:six.test:81", "127.0.0.1:1"]);
    timeout(DEADLINE, bed.discovery.ready()).await.unwrap();
    assert!(bed.discovery.is_ready());
    bed.has(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80", "[fd00::9]:81", "127.0.0.1:1"]).await;
    let one_family = settings(&[dnsmasq.server]).with_bounds(Bounds::default());
    let mut bed = Bed::start(one_family, &["dns:web.test:80", "dns:six.test:80"]);
    bed.has(&["10.0.0.1:80", "10.0.0.2:80", "[fd00::9]:80"]).await;
}

#[tokio::test]
async fn a_server_may_be_reached_by_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: there is no IPv6 loopback");
        return;
    }
    let Some(dnsmasq) = Dnsmasq::start_on("::1", "fd00::1 web.test\n", &[]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:80"]);
    bed.has(&["[fd00::1]:80"]).await;
}

#[tokio::test]
async fn the_targets_of_a_service_are_resolved_and_the_lowest_priority_serves() {
    let hosts = "10.0.0.1 a.test\nfd00::1 a.test\n10.0.0.2 b.test\n10.0.0.3 spare.test\n";
    let args = [
        "--srv-host=_http._tcp.shop.test,a.test,3001,10,5",
        "--srv-host=_http._tcp.shop.test,B.test,3002,10,1",
        "--srv-host=_http._tcp.shop.test,spare.test,3003,20,1",
    ];
    let Some(dnsmasq) = Dnsmasq::start(hosts, &args) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["srv:_http._tcp.shop.test"]);
    bed.has(&["10.0.0.1:3001", "[fd00::1]:3001", "10.0.0.2:3002"]).await;

    dnsmasq.put("10.0.0.1 a.test\n10.0.0.3 spare.test\n");
    bed.has(&["10.0.0.1:3001", "10.0.0.2:3002"]).await;
    let status = bed.status(0, |status| status.error.is_some()).await;
    assert_eq!(status.error, Some(Failure::NoSuchName), "b.test is gone, and its last good address stays");
}

#[tokio::test]
async fn answers_that_change_are_followed_at_a_ttl_of_one_second() {
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=4), &[]) else { return };
    // Without a bound of ours on the TTL: what is followed here is the TTL of the answer.
    let settings = settings(&[dnsmasq.server]).with_bounds(Bounds { max_ttl: SECOND * 300, ..bounds() });
    let mut bed = Bed::start(settings, &["dns:web.test:3000"]);
    let begun = Instant::now();
    bed.has(&texts(&dynos(1..=4))).await;
    for range in [1..=2, 1..=6, 3..=6] {
        dnsmasq.put(&web(range.clone()));
        bed.has(&texts(&dynos(range))).await;
    }
    let status = bed.status(0, |status| status.asked >= 5).await;
    assert_eq!((status.ttl, status.failed, status.error), (SECOND, 0, None));
    let most = begun.elapsed().as_secs() + 1;
    assert!(status.asked <= most, "{} asks in {:?}", status.asked, begun.elapsed());
}

/// T14.
#[tokio::test]
async fn t14_a_name_that_vanishes_keeps_its_dynos_and_comes_back() {
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=3), &[]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:3000"]);
    bed.has(&texts(&dynos(1..=3))).await;
    dnsmasq.put("");
    bed.status(0, |status| status.error == Some(Failure::NoSuchName) && status.failed >= 2).await;
    assert_eq!(bed.now(), dynos(1..=3));
    // The name is there again, without addresses.
    dnsmasq.put("10.9.9.9 other.web.test\n");
    bed.status(0, |status| status.error == Some(Failure::Empty)).await;
    assert_eq!(bed.now(), dynos(1..=3));
    dnsmasq.put(&web(1..=4));
    bed.has(&texts(&dynos(1..=4))).await;
    bed.status(0, |status| status.error.is_none()).await;
}

/// T14.
#[tokio::test]
async fn t14_a_dead_server_takes_no_dyno_away_and_is_asked_until_it_is_back() {
    let Some(mut dnsmasq) = Dnsmasq::start(&web(1..=3), &[]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:3000"]);
    bed.has(&texts(&dynos(1..=3))).await;
    dnsmasq.kill();
    let status = bed.status(0, |status| status.failed >= 2).await;
    assert!(matches!(status.error, Some(Failure::Timeout | Failure::Unreachable)), "{status:?}");
    assert!(status.error_for.is_some() && status.answer_age >= status.error_for);
    assert_eq!(bed.now(), dynos(1..=3));
    dnsmasq.restart(&web(2..=5));
    bed.has(&texts(&dynos(2..=5))).await;
}

#[tokio::test]
async fn a_removal_of_nearly_all_dynos_waits_for_three_answers() {
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=4), &[]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:3000"]);
    bed.has(&texts(&dynos(1..=4))).await;
    dnsmasq.put(&web(5..=5));
    bed.has(&texts(&dynos(1..=5))).await;
    assert_eq!(bed.discovery.status()[0].held, 4);
    bed.has(&texts(&dynos(5..=5))).await;
}

#[tokio::test]
async fn an_answer_too_large_for_udp_is_had_over_tcp() {
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=240), &[]) else { return };
    let mut bed = Bed::start(settings(&[dnsmasq.server]), &["dns:web.test:3000"]);
    bed.has(&texts(&dynos(1..=240))).await;
}

/// T15.
#[tokio::test]
async fn t15_a_name_that_nobody_answers_for_holds_up_no_other() {
    let (_socket, hole) = black_hole();
    let forward = format!("--server=/slow.test/127.0.0.1#{}", hole.port());
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=2), &[&forward]) else { return };
    let slow = settings(&[dnsmasq.server]).with_timeout(SECOND * 5);
    let mut bed = Bed::start(slow, &["dns:slow.test:80", "dns:web.test:3000", "srv:_http._tcp.slow.test"]);
    bed.has(&texts(&dynos(1..=2))).await;
    // And again and again, while the slow ones wait for their first result.
    bed.status(1, |status| status.answered >= 2).await;
    for slow in [0, 2] {
        let status = bed.discovery.status().swap_remove(slow);
        assert_eq!((status.asked, status.answered + status.failed), (1, 0), "{status:?}");
    }
    assert!(!bed.discovery.is_ready());
    timeout(DEADLINE, bed.discovery.ready()).await.unwrap();
    assert_eq!(bed.discovery.status()[0].error, Some(Failure::Timeout));
}

#[tokio::test]
async fn a_server_that_never_answers_leaves_the_work_to_the_other() {
    let (_socket, hole) = black_hole();
    let Some(dnsmasq) = Dnsmasq::start(&web(1..=2), &[]) else { return };
    for servers in [[hole, dnsmasq.server], [dnsmasq.server, hole]] {
        let mut bed = Bed::start(settings(&servers), &["dns:web.test:3000"]);
        bed.has(&texts(&dynos(1..=2))).await;
        let status = bed.status(0, |status| status.answered >= 3).await;
        assert_eq!(status.failed, 0);
    }
}

#[tokio::test]
async fn a_server_that_refuses_leaves_the_work_to_the_other() {
    // Knows nothing of names outside `.test`, and has nobody to ask.
    let Some(ignorant) = Dnsmasq::start("", &[]) else { return };
    let Some(dnsmasq) = Dnsmasq::start("10.0.0.1 web.example\n", &["--local=/example/"]) else { return };
    let alone = Bed::start(settings(&[ignorant.server]), &["dns:web.example:80"]);
    let status = alone.status(0, |status| status.failed >= 1).await;
    assert_eq!(status.error, Some(Failure::Refused));
    let mut bed = Bed::start(settings(&[ignorant.server, dnsmasq.server]), &["dns:web.example:80"]);
    bed.has(&["10.0.0.1:80"]).await;
    let status = bed.status(0, |status| status.answered >= 4).await;
    assert_eq!(status.failed, 0);
}

#[tokio::test]
async fn other_sources_and_servers_are_taken_over_without_an_empty_app() {
    let Some(first) = Dnsmasq::start(&web(1..=2), &[]) else { return };
    let Some(second) = Dnsmasq::start("10.0.0.9 api.test\n", &[]) else { return };
    let mut bed = Bed::start(settings(&[first.server]), &["dns:web.test:3000"]);
    bed.has(&texts(&dynos(1..=2))).await;
    let seen = bed.dynos.clone();
    let api = ["dns:api.test:80".parse().unwrap()];
    bed.discovery.update(Resolver::new(settings(&[second.server])), &api, 1);
    assert!(!bed.discovery.is_ready());
    timeout(DEADLINE, bed.discovery.ready()).await.unwrap();
    assert!(seen.has_changed().unwrap());
    assert_eq!(bed.now(), ["10.0.0.9:80"]);
    bed.has(&["10.0.0.9:80"]).await;
}

#[tokio::test]
async fn dropping_a_discovery_ends_its_tasks() {
    let (_socket, hole) = black_hole();
    let bed = Bed::start(settings(&[hole]).with_timeout(SECOND * 60), &["dns:web.test:80", "127.0.0.1:80"]);
    bed.status(0, |status| status.asked == 1).await;
    let Bed { discovery, sink, .. } = bed;
    assert_eq!(Arc::strong_count(&sink), 2);
    timeout(DEADLINE, discovery.stop()).await.unwrap();
    assert_eq!(Arc::strong_count(&sink), 1);

    let bed = Bed::start(settings(&[hole]), &["dns:web.test:80"]);
    let Bed { discovery, sink, .. } = bed;
    drop(discovery);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let ended = async {
        while Arc::strong_count(&sink) > 1 {
            tick.tick().await;
        }
    };
    timeout(DEADLINE, ended).await.unwrap();
}

#[tokio::test]
async fn a_name_that_cannot_be_asked_for_is_a_failure_and_no_more() {
    let (_socket, hole) = black_hole();
    let name = "a".repeat(64);
    let (router, _dynos) = watch::channel(0);
    let sink: Sink = Arc::new(move |changes| {
        router.send_modify(|count| *count += changes.len());
        Vec::new()
    });
    let sources = [Source::Dns { host: name.as_str().into(), port: 80 }, Source::Srv { name: "..".into() }];
    let discovery = Discovery::start(Resolver::new(settings(&[hole])), "shop".into(), &sources, 1, sink);
    timeout(DEADLINE, discovery.ready()).await.unwrap();
    let errors: Vec<_> = discovery.status().iter().map(|status| status.error).collect();
    assert_eq!(errors, [Some(Failure::BadName); 2]);
    assert_eq!(discovery.dynos(), []);
}

#[tokio::test]
async fn without_servers_the_system_says_whom_to_ask() {
    let system = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut bed = Bed::start(Settings::default(), &["dns:localhost:80"]);
    timeout(DEADLINE, bed.discovery.ready()).await.unwrap();
    if system.lines().any(|line| line.starts_with("nameserver")) {
        bed.has(&["127.0.0.1:80"]).await;
    } else {
        assert_eq!(bed.discovery.status()[0].error, Some(Failure::Unreachable));
    }
}
