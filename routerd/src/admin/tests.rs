//! Tests of the admin listener over real sockets: what it answers, whom it cuts off, and what it leaves behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use router_core::canary::Lane;
use router_core::ids::{AppId, DynoName, ReleaseId};
use router_core::snapshot::{AppSnapshot, DynoSnapshot, DynoState, Held};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::control::{Actor, AppFacts, DeployView, Order, Receipt, Refusal, RefusalKind, ReleaseView};

/// Carries nothing out.
struct Nobody;

impl Control for Nobody {
    fn order(
        &self,
        _: Actor,
        _: Order,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>> {
        Box::pin(async { Err(Refusal::new(RefusalKind::Unsupported, "nobody is here")) })
    }

    fn deploys(&self, _: Option<&str>) -> Vec<DeployView> {
        Vec::new()
    }

    fn releases(&self, _: &str) -> Vec<ReleaseView> {
        Vec::new()
    }

    fn facts(&self) -> Vec<AppFacts> {
        Vec::new()
    }

    fn audit(&self, _: Option<&str>, _: usize) -> Result<Vec<serde_json::Value>, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no trail"))
    }

    fn verify_audit(&self) -> Result<String, Refusal> {
        Err(Refusal::new(RefusalKind::Unsupported, "there is no trail"))
    }
}

/// The longest any condition here may take.
const DEADLINE: Duration = Duration::from_secs(20);

fn snapshot() -> Snapshot {
    let dyno = DynoSnapshot {
        address: ([127, 0, 0, 1], 3001).into(),
        name: DynoName::from("web.1"),
        release: ReleaseId::from("v1"),
        lane: Lane::Main,
        state: DynoState::Busy,
        concurrency: 1,
        in_flight: 1,
        lingering: 0,
        upgraded: 0,
        dispatched: 42,
        failures: 0,
        answered: 41,
        ejected: false,
        bad_answers: 0,
        bad_probes: 2,
        probing: false,
    };
    let second = Duration::from_secs(1);
    let app = AppSnapshot {
        id: AppId::from("shop"),
        release: ReleaseId::from("v1"),
        waiting: 3,
        waiting_canary: 0,
        waiting_bytes: 10,
        oldest_wait: Duration::from_micros(1_250),
        service_time: Duration::from_millis(18),
        dispatched: 42,
        refused: 1,
        left: 2,
        ejected: 0,
        held: Some(Held { since: second, paused: second * 29, left: second * 30 }),
        maintenance: false,
        dynos: vec![dyno],
    };
    Snapshot { apps: vec![app] }
}

struct Running {
    address: AdminAddress,
    readiness: Readiness,
    access: Access,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(address: &str, bounds: Bounds) -> Self {
        Self::start_with(address, bounds, Arc::new(|| "routerd_connections 3\n".to_owned())).await
    }

    async fn start_with(
        address: &str,
        bounds: Bounds,
        metrics: Arc<dyn Fn() -> String + Send + Sync>,
    ) -> Self {
        let listener = AdminListener::bind(&address.parse().unwrap()).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let (readiness, access) = (Readiness::default(), Access::new());
        let admin = Admin {
            snapshot: Arc::new(snapshot),
            tls: Arc::new(tls::Account::default),
            acme: Arc::new(acme::Account::default),
            metrics,
            readiness: readiness.clone(),
            reloads: Reloads::new(),
            control: Arc::new(Nobody),
            access: access.clone(),
        };
        let address = listener.address().clone();
        let task = tokio::spawn(listener.serve_within(bounds, admin, stopped));
        Self { address, readiness, access, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        let AdminAddress::Tcp(address) = self.address else { panic!("a TCP address") };
        TcpStream::connect(address).await.unwrap()
    }

    async fn ask(&self, request: &str) -> String {
        ask(self.connect().await, request).await
    }

    async fn stop(self) {
        let _ = self.stop.send(true);
        timeout(DEADLINE, self.task).await.expect("the listener ends").unwrap();
    }
}

/// Sends a request line with a Host and returns the whole answer.
async fn ask(mut stream: impl Stream, request: &str) -> String {
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    answer
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head and a body").1
}

#[tokio::test]
async fn it_answers_what_it_is_for() {
    let admin = Running::start("127.0.0.1:0", BOUNDS).await;
    let answer = admin.ask("GET /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && body(&answer) == "ok\n", "{answer}");
    let answer = admin.ask("GET /metrics").await;
    assert!(answer.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert_eq!(body(&answer), "routerd_connections 3\n");
    admin.stop().await;
}

#[tokio::test]
async fn readiness_follows_the_switch_and_says_why() {
    let admin = Running::start("127.0.0.1:0", BOUNDS).await;
    let answer = admin.ask("GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && body(&answer) == "not ready: starting\n", "{answer}");
    admin.readiness.set(None);
    assert!(admin.ask("GET /readyz").await.starts_with("HTTP/1.1 200 "));
    admin.readiness.drain();
    assert_eq!(body(&admin.ask("GET /readyz").await), "not ready: draining\n");
    assert!(admin.ask("GET /healthz").await.starts_with("HTTP/1.1 200 "), "a daemon that drains is healthy");
    admin.stop().await;
}

#[tokio::test]
async fn the_status_is_the_snapshot_as_json() {
    let admin = Running::start("127.0.0.1:0", BOUNDS).await;
    let answer = admin.ask("GET /v1/status").await;
    let mut page: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    let loaded = page["config"]["loaded"].take();
    assert!(loaded.as_str().unwrap().ends_with('Z'), "{loaded}");
    let expected = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "ready": false, "reason": "starting",
        "config": { "loaded": null, "reloads": 0, "failed": 0, "error": null },
        "certificates": [],
        "acme": [],
        "apps": [{
            "name": "shop", "release": "v1", "source": null, "waiting": 3, "waiting_bytes": 10,
            "oldest_wait_ms": 1.25, "service_time_ms": 18.0, "dispatched": 42, "refused": 1, "left": 2,
            "ejected": 0, "maintenance": false,
            "held": { "since_ms": 1000.0, "paused_ms": 29000.0, "left_ms": 30000.0 },
            "dynos": [{
                "name": "web.1", "address": "127.0.0.1:3001", "release": "v1", "lane": "main", "state": "busy",
                "concurrency": 1, "in_flight": 1,
                "lingering": 0, "upgraded": 0, "dispatched": 42, "answered": 41, "failures": 0, "ejected": false,
                "bad_answers": 0, "bad_probes": 2, "probing": false,
            }],
        }],
    });
    assert_eq!(page, expected);
    admin.stop().await;
}

#[tokio::test]
async fn unknown_paths_and_other_methods_are_refused_in_json() {
    let admin = Running::start("127.0.0.1:0", BOUNDS).await;
    let answer = admin.ask("GET /v1/\"nothing").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let page: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    let error = serde_json::json!({ "kind": "not_found", "text": "there is no /v1/\"nothing" });
    assert_eq!(page["error"], error);
    let answer = admin.ask("DELETE /v1/status").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET,HEAD\r\n"), "{answer}");
    let page: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(page["error"]["text"], "/v1/status does not take DELETE");
    let answer = admin.ask(&format!("GET /{}", "a".repeat(2 * HEAD_MAX))).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
    admin.stop().await;
}

#[tokio::test]
async fn a_panic_in_what_it_asks_is_an_answer_and_not_the_end() {
    let admin = Running::start_with("127.0.0.1:0", BOUNDS, Arc::new(|| panic!("as a test"))).await;
    assert!(admin.ask("GET /metrics").await.starts_with("HTTP/1.1 500 "));
    assert!(admin.ask("GET /healthz").await.starts_with("HTTP/1.1 200 "));
    admin.stop().await;
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let admin = Running::start("127.0.0.1:0", Bounds { head: Duration::from_millis(50), ..BOUNDS }).await;
    let mut slow = admin.connect().await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(DEADLINE, slow.read_to_end(&mut answer)).await.expect("the connection ends");
    assert!(ended.is_err() || !answer.starts_with(b"HTTP/1.1 200 "));
    admin.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let bounds = Bounds { connections: 1, connection: Duration::from_millis(200), ..BOUNDS };
    let admin = Running::start_with("127.0.0.1:0", bounds, Arc::new(|| "x".repeat(64 << 20))).await;
    let mut deaf = admin.connect().await;
    deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    // There is one place, so the next is served once the deaf one is gone.
    assert!(admin.ask("GET /healthz").await.starts_with("HTTP/1.1 200 "));
    drop(deaf);
    admin.stop().await;
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait_their_turn() {
    let admin = Running::start("127.0.0.1:0", Bounds { connections: 2, ..BOUNDS }).await;
    let idle = [admin.connect().await, admin.connect().await];
    let mut third = admin.connect().await;
    third.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let early = timeout(Duration::from_millis(100), third.read_to_string(&mut answer)).await;
    assert!(early.is_err() && answer.is_empty(), "both places are taken");
    drop(idle);
    timeout(DEADLINE, third.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "));
    admin.stop().await;
}

#[tokio::test]
async fn a_stop_lets_an_answer_finish_and_does_not_wait_for_the_silent() {
    let (asked, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let metrics = {
        let (asked, go_on) = (Arc::clone(&asked), Arc::clone(&go_on));
        Arc::new(move || {
            asked.store(true, Ordering::Relaxed);
            while !go_on.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            "late\n".to_owned()
        })
    };
    let bounds = Bounds { stop: DEADLINE, connection: 2 * DEADLINE, head: 2 * DEADLINE, ..BOUNDS };
    let admin = Running::start_with("127.0.0.1:0", bounds, metrics).await;
    let silent = admin.connect().await;
    let stream = admin.connect().await;
    let answer = tokio::spawn(ask(stream, "GET /metrics"));
    timeout(DEADLINE, async {
        while !asked.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the request is being answered");
    let _ = admin.stop.send(true);
    go_on.store(true, Ordering::Relaxed);
    timeout(DEADLINE / 2, admin.task).await.expect("nobody waits for a silent connection").unwrap();
    assert_eq!(body(&answer.await.unwrap()), "late\n");
    drop(silent);
}

fn socket_address(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[tokio::test]
async fn a_unix_socket_is_for_its_group_and_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = Running::start(&socket_address(&path), BOUNDS).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let answer = ask(UnixStream::connect(&path).await.unwrap(), "GET /healthz").await;
    assert_eq!(body(&answer), "ok\n");
    admin.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_socket_on_which_nobody_answers_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    // What a killed process leaves: a socket's file without a listener.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let admin = Running::start(&socket_address(&path), BOUNDS).await;
    let again = AdminListener::bind(&admin.address).await;
    assert!(matches!(again, Err(AdminError::Taken(_))), "{again:?}");
    assert!(path.exists(), "a refused start leaves the other's socket alone");

    // Another process took the place over: our end leaves its file alone.
    std::fs::remove_file(&path).unwrap();
    let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
    admin.stop().await;
    assert!(path.exists());
    drop(theirs);

    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "keep me").unwrap();
    let refused = AdminListener::bind(&AdminAddress::Unix(file.clone())).await;
    assert!(matches!(refused, Err(AdminError::NoSocket(_))), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep me");
}

#[tokio::test]
async fn an_address_that_is_taken_or_none_is_refused_in_plain_words() {
    let admin = Running::start("127.0.0.1:0", BOUNDS).await;
    let error = AdminListener::bind(&admin.address).await.expect_err("taken");
    let wanted = format!("cannot listen on {}: Address already in use (os error 98)", admin.address);
    assert_eq!(error.to_string(), wanted);
    admin.stop().await;
    for text in ["", "unix:", "localhost", "127.0.0.1", "127.0.0.1:99999"] {
        let error = text.parse::<AdminAddress>().expect_err("no address");
        assert!(error.to_string().starts_with(&format!("{text:?} is neither")), "{error}");
    }
    assert_eq!("unix:/run/a.sock".parse::<AdminAddress>().unwrap().to_string(), "unix:/run/a.sock");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_no_order_and_takes_no_place_for_long() {
    let bounds = Bounds { connections: 1, connection: Duration::from_millis(200), ..BOUNDS };
    let admin = Running::start("127.0.0.1:0", bounds).await;
    let mut slow = admin.connect().await;
    let head = "POST /v1/apps/shop/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    assert!(
        admin.ask("GET /healthz").await.starts_with("HTTP/1.1 200 "),
        "there is one place, and it is free again"
    );
    let mut answer = String::new();
    let _ = timeout(DEADLINE, slow.read_to_string(&mut answer)).await.expect("it was cut");
    assert_eq!(answer, "");
    admin.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
    let text = "[admin]\ntls = { cert = 'a.pem', key = 'a.key' }\n[apps.shop]\n";
    let name = folder.path().join("test.toml");
    let config = crate::config::Config::parse(text, name.to_str().unwrap()).unwrap();
    let bounds = Bounds { connections: 1, head: Duration::from_millis(100), ..BOUNDS };
    let admin = Running::start("127.0.0.1:0", bounds).await;
    admin.access.set(config.admin.as_ref());
    // One says nothing, one speaks plain HTTP; neither keeps the one place.
    let mut silent = admin.connect().await;
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, silent.read_to_end(&mut answer)).await.expect("it is cut");
    let mut plain = admin.connect().await;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let _ = timeout(DEADLINE, plain.read_to_end(&mut answer)).await.expect("it is cut");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    admin.stop().await;
}
