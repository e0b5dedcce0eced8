//! How many instructions the work of a request takes, held against stored figures: noise of a busy machine does not
//! reach them, so they can be judged in CI.
//!
//! Needs valgrind. Each case runs twice in it, with few and with many repetitions; the difference is the case's own.
//! A case that takes 2 % more than its stored figure is a warning, one that takes 10 % more is an error (exit code 1).
//! Other compilers and C libraries give other figures: the first line of the file says whose it has.
//!
//! `cargo bench -p router-core --bench instructions` judges; with `UPDATE=1` before it, it stores.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::hint::black_box;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::{Command, ExitCode};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::ids::AppId;
use router_core::limits::Limits;
use router_core::policy::route::RouteTable;
use router_core::proxy::{Client, Proxy};
use router_core::{AppRef, Outcome, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const FEW: u64 = 100;
const MANY: u64 = 1_100;
/// More than this over the stored figure is said.
const WARN: f64 = 0.02;
/// More than this is an error.
const FAIL: f64 = 0.10;

type Case = (&'static str, fn(u64));

/// What is counted: the argument says how often it is done.
const CASES: [Case; 6] = [
    ("acquire and check in, 100 idle dynos", acquire),
    ("wait in line and hand over, 1 dyno", hand_over),
    ("leave a line of 1000 in its middle", leave),
    ("route, 10 000 hosts", route),
    ("proxied GET with 6 headers, over loopback", get),
    ("proxied POST of 1 KiB, over loopback", post),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [name, repetitions] = &args[..]
        && let Ok(repetitions) = repetitions.parse()
        && let Some((_, case)) = CASES.iter().find(|(known, _)| known == name)
    {
        case(repetitions);
        return ExitCode::SUCCESS;
    }
    match judge(args.first().map_or("", String::as_str)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the cases whose names contain `filter`. Says whether none takes far more than it did.
fn judge(filter: &str) -> Result<bool, String> {
    let (whose, stored) = stored();
    let (mut out, mut found, mut good) = (std::io::stdout().lock(), BTreeMap::new(), true);
    for (name, _) in CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let each = (count(name, MANY)?.saturating_sub(count(name, FEW)?)) / (MANY - FEW);
        let before = stored.get(*name).copied();
        let change = before.map(|before| each as f64 / before as f64 - 1.0);
        let verdict = match change {
            None => "new: UPDATE=1 stores it".to_owned(),
            Some(change) if change > FAIL => format!("{:+.1} %: TOO MANY", change * 100.0),
            Some(change) if change > WARN => format!("{:+.1} %: warning", change * 100.0),
            Some(change) => format!("{:+.1} %", change * 100.0),
        };
        good &= change.is_none_or(|change| change <= FAIL);
        writeln!(out, "{name:45} {each:8} instructions  {verdict}").map_err(|error| error.to_string())?;
        found.insert((*name).to_owned(), each);
    }
    if std::env::var_os("UPDATE").is_some() {
        let all: BTreeMap<_, _> = stored.into_iter().chain(found).collect();
        return store(&all).map(|()| true);
    }
    if !good {
        eprintln!("stored: {whose}; here: {}", here());
        eprintln!("meant to be so? UPDATE=1 cargo bench -p router-core --bench instructions");
    }
    Ok(good)
}

/// Instructions of a whole run of a case.
fn count(name: &str, repetitions: u64) -> Result<u64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(me)
        .args([name, &repetitions.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; get it with: apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find_map(|line| line.split_once("Collected :"));
    match total.and_then(|(_, total)| total.trim().parse().ok()) {
        Some(total) if output.status.success() => Ok(total),
        _ => Err(format!("{name}: {}: {said}", output.status)),
    }
}

/// Whose figures are stored, and which.
fn stored() -> (String, BTreeMap<String, u64>) {
    let text = std::fs::read_to_string(Path::new(FILE)).unwrap_or_default();
    let mut lines = text.lines();
    let whose = lines.next().unwrap_or("nothing").trim_start_matches("# ").to_owned();
    let figure =
        |line: &str| line.split_once(' ').and_then(|(n, name)| Some((name.to_owned(), n.parse().ok()?)));
    (whose, lines.filter_map(figure).collect())
}

fn store(figures: &BTreeMap<String, u64>) -> Result<(), String> {
    let mut text = format!("# {}\n", here());
    for (name, figure) in figures {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{figure} {name}");
    }
    std::fs::write(FILE, text).map_err(|error| format!("{FILE}: {error}"))
}

/// What makes the figures what they are.
fn here() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{} on {}", version.unwrap_or_else(|| "an unknown rustc".to_owned()), std::env::consts::ARCH)
}

fn app(router: &Router, ports: impl Iterator<Item = u16>) -> AppRef {
    let limits = Limits::default()
        .with_queue_max_wait(Duration::from_secs(3600))
        .with_queue_max_requests_per_dyno(1_000_000);
    let id: AppId = "bench".into();
    let hosts = vec!["bench.test".into()];
    let mut changes = vec![Change::PutApp(AppSpec { id: id.clone(), hosts, release: "v1".into(), limits })];
    changes.extend(
        ports.map(|port| Change::AddDyno(id.clone(), DynoSpec::new((Ipv4Addr::LOCALHOST, port).into()))),
    );
    router.apply(&changes).expect("these changes name one new app and its dynos");
    router.app(&id).expect("it was just added")
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn acquire(repetitions: u64) {
    let router = Router::new();
    let app = app(&router, 10_000..10_100);
    for _ in 0..repetitions {
        let ticket = pin!(router.ticket(&app, 0).expect("there is room"));
        let Poll::Ready(Ok(lease)) = poll(ticket) else { panic!("a dyno is idle") };
        black_box(&lease);
        lease.check_in(Outcome::Served);
    }
}

fn hand_over(repetitions: u64) {
    let router = Router::new();
    let app = app(&router, 10_000..10_001);
    let first = pin!(router.ticket(&app, 0).expect("there is room"));
    let Poll::Ready(Ok(mut lease)) = poll(first) else { panic!("the dyno is idle") };
    for _ in 0..repetitions {
        let mut next = pin!(router.ticket(&app, 0).expect("there is room"));
        assert!(poll(next.as_mut()).is_pending());
        lease.check_in(Outcome::Served);
        let Poll::Ready(Ok(mine)) = poll(next) else { panic!("it was handed over") };
        lease = mine;
    }
}

fn leave(repetitions: u64) {
    let router = Router::new();
    let app = app(&router, 10_000..10_001);
    let join = || Box::pin(router.ticket(&app, 0).expect("there is room"));
    let Poll::Ready(Ok(_held)) = poll(join().as_mut()) else { panic!("the dyno is idle") };
    let mut line: Vec<_> = (0..1_000).map(|_| join()).collect();
    line.iter_mut().for_each(|ticket| assert!(poll(ticket.as_mut()).is_pending()));
    for _ in 0..repetitions {
        let mut ticket = join();
        assert!(poll(ticket.as_mut()).is_pending());
        let place = line.len() / 2;
        drop(std::mem::replace(&mut line[place], ticket));
    }
}

fn route(repetitions: u64) {
    let mut table = RouteTable::default();
    for number in 0..10_000_u32 {
        table.add(&format!("app-{number}.example.test"), number).expect("these are patterns");
    }
    for number in 0..repetitions {
        let host = ["app-17.example.test", "app-9999.example.test"][number as usize % 2];
        assert!(black_box(table.find(black_box(host), "/orders/17?page=2")).is_ok());
    }
}

fn get(repetitions: u64) {
    proxied(repetitions, |request| request.method("GET").body(Vec::new()).expect("it is a request"));
}

fn post(repetitions: u64) {
    proxied(repetitions, |request| request.method("POST").body(vec![b'x'; 1024]).expect("it is a request"));
}

/// Requests through the whole of the proxy to a dyno that costs next to nothing, all on this thread.
fn proxied(repetitions: u64, make: impl Fn(http::request::Builder) -> Request<Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("the proxy connects");
            let mut buffer = vec![0; 16 * 1024];
            let mut length = 0;
            while let Ok(read @ 1..) = stream.read(&mut buffer[length..]).await {
                length += read;
                let Some(head) = buffer[..length].windows(4).position(|end| end == b"\r\n\r\n") else {
                    continue;
                };
                let body = if buffer.starts_with(b"POST") { 1024 } else { 0 };
                if length < head + 4 + body {
                    continue;
                }
                length = 0;
                let answer = b"HTTP/1.1 200 OK\r\nserver: dyno\r\ncontent-type: text/plain\r\n\
                    content-length: 12\r\nconnection: keep-alive\r\n\r\nhello world\n";
                stream.write_all(answer).await.expect("the proxy reads");
            }
        });
        let router = Router::new();
        app(&router, port..port + 1);
        let proxy = Proxy::new(router);
        let client = Client::new(([127, 0, 0, 1], 4711).into(), 8080);
        for number in 0..repetitions {
            let builder = Request::builder()
                .uri(format!("/orders/{}?page=2", number % 10))
                .header("host", "bench.test")
                .header("user-agent", "bench/1.0")
                .header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
                .header("accept-encoding", "gzip, br")
                .header("accept-language", "en")
                .header("cookie", "session=0123456789abcdef");
            let request = make(builder).map(|body| {
                if body.is_empty() { Empty::new().boxed() } else { http_body_util::Full::from(body).boxed() }
            });
            let answer = proxy.serve(&client, request).await.expect("the client is there");
            assert_eq!(answer.status(), 200);
            let body = answer.into_body().collect().await.expect("the answer is whole").to_bytes();
            assert_eq!(body.len(), 12);
        }
    });
}
