//! The generator: replays logs as they were, speaks TLS, and says when it, and not the proxy, is the bottleneck.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support"]
mod support {
    pub(crate) mod needs;
    pub(crate) mod plan;
    pub(crate) mod program;
    pub(crate) mod routerd;
}
mod threads;

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use router_bench::arrivals::{Arrivals, Replay};
use router_bench::dyno::Place;
use router_bench::engine::{Pacing, Plan};
use router_bench::link::Tls;
use router_bench::load::Route;
use router_bench::logs::{self, Wanted};
use router_bench::report::Report;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};

use support::plan::run;
use support::program::{bench, json};
use support::routerd::routerd;

/// A run on ten dynos.
fn plan(pacing: Pacing, requests: u64) -> Plan {
    support::plan::plan(&Place::Here, 10, pacing, requests)
}

/// Thirty requests, one each 20 ms, their service times growing by the number.
fn log() -> String {
    let line = |n: u32| {
        format!(
            "{{\"time\":\"2026-01-01T00:00:00.{:03}Z\",\"method\":\"GET\",\"path\":\"/n{n}\",\"status\":200,\
             \"service_ms\":{}.5}}\n",
            n * 20,
            n % 5
        )
    };
    (0..30).map(line).collect()
}

fn replay(speed: f64) -> Pacing {
    let log = logs::read(log().as_bytes(), &Wanted::default()).unwrap();
    Pacing::Replay(Arc::new(Replay::new(&log, speed)))
}

/// A server that answers by itself, over TLS if it has a certificate, and tells the request lines.
fn front(tls: Option<ServerConfig>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = channel();
    let tls = tls.map(Arc::new);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (tell, tls) = (tell.clone(), tls.clone());
            std::thread::spawn(move || {
                let tell = |line| tell.send(line).is_ok();
                match tls {
                    None => answer(&mut &stream, tell),
                    Some(config) => secured(config, stream, tell),
                }
            });
        }
    });
    (address, told)
}

fn secured(config: Arc<ServerConfig>, mut stream: TcpStream, tell: impl FnMut(String) -> bool) {
    let mut session = ServerConnection::new(config).unwrap();
    answer(&mut Stream::new(&mut session, &mut stream), tell);
}

fn answer(stream: &mut (impl Read + Write), mut tell: impl FnMut(String) -> bool) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => return,
            }
        }
        let line = head.lines().next().unwrap().unwrap();
        // First, so that who has all answers finds all lines.
        if !tell(line) || stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

fn certificate(dir: &Path) -> (ServerConfig, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(["bench.test".to_owned()]).unwrap();
    let path = dir.join("ca.pem");
    std::fs::write(&path, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (config, path)
}

#[test]
fn a_replay_sends_the_log_when_it_was_sent() {
    let run = run(plan(replay(2.0), u64::MAX));
    assert_eq!((run.records.len(), run.outcome.good, run.interrupted), (30, 30, false), "{:?}", run.outcome);
    let due: Vec<u64> =
        run.records.iter().map(|record| record.due - run.records.iter().next().unwrap().due).collect();
    assert!(due.iter().zip(0..).all(|(due, n)| *due == n * 10_000_000), "{due:?}");
    let services: Vec<u64> = run.records.iter().map(|record| record.service).collect();
    assert!(
        services.iter().zip(0..).all(|(service, n)| *service == n % 5 * 1_000_000 + 500_000),
        "{services:?}"
    );
    assert!(run.records.iter().all(|record| record.started >= record.due), "sent before it was due");
    assert!((run.rate.unwrap() / 103.4 - 1.0).abs() < 0.01, "{:?}", run.rate);
}

#[test]
fn a_replay_asks_for_the_paths_of_the_log() {
    let (proxy, told) = front(None);
    let run = run(Plan { route: Route::Proxy(proxy), ..plan(replay(10.0), u64::MAX) });
    assert_eq!(run.outcome.good, 30, "{:?}", run.outcome);
    let mut lines: Vec<String> = told.iter().take(30).collect();
    lines.sort();
    let mut wanted: Vec<String> = (0..30).map(|n| format!("GET /n{n} HTTP/1.1")).collect();
    wanted.sort();
    assert_eq!(lines, wanted);
}

#[test]
fn the_program_replays_a_log_and_says_what_it_could_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    std::fs::write(&path, format!("{}not a line\n", log())).unwrap();
    let path = path.to_str().unwrap();
    let whole = bench(&["--self-test", "--dynos", "5", "--replay", path, "--speed", "3", "--json", "-"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let json = json(&whole);
    assert_eq!(json["runs"][0]["requests"], 30, "{json}");
    assert!(String::from_utf8_lossy(&whole.stderr).contains("1 line could not be read"), "{whole:?}");
    for (args, code, why) in [
        (&["--self-test", "--replay", "/nowhere/x.log"][..], 1, "/nowhere/x.log: No such file"),
        (&["--self-test", "--replay", path, "--warmup", "5s"], 2, "less than the warm-up"),
        (&["--self-test", "--replay", path, "--rate", "5"], 2, "cannot be used with"),
        (&["--self-test", "--speed", "2"], 2, "--replay"),
        (&["--self-test", "--rate", "5", "--arrivals", "burst:0"], 2, "allowed are"),
        (
            &["--target", "127.0.0.1:9", "--connections", "50000", "--dynos", "10000", "--load", "0.5"],
            2,
            "--connections",
        ),
    ] {
        // The last one fails only where the limits of the machine are usual ones.
        let output = bench(args);
        let usual =
            output.status.code() == Some(code) && String::from_utf8_lossy(&output.stderr).contains(why);
        assert!(usual || args.contains(&"--connections"), "{args:?}: {output:?}");
    }
}

#[test]
fn a_client_thinks_between_its_requests() {
    let thinking = Plan { think: Some("fixed:50ms".parse().unwrap()), ..plan(Pacing::Closed(3), 12) };
    let run = run(thinking);
    let mut due: Vec<u64> = run.records.iter().map(|record| record.due).collect();
    due.sort_unstable();
    // Three at a time, and each of the four rounds at least 50 ms after the one before.
    assert_eq!((due.len(), run.outcome.good), (12, 12), "{:?}", run.outcome);
    assert!(due[11] - due[0] >= 150_000_000, "{due:?}");
}

#[test]
fn a_rate_that_cannot_be_sent_is_noticed() {
    let impossible = Plan { timeout: Duration::from_millis(200), ..plan(Pacing::Constant(1e8), u64::MAX) };
    let run = run(impossible);
    assert!(run.overrun && !run.interrupted);
    let report = Report::new("self-test", (1, 1), 10, &run, None);
    assert!(!report.generator.trust, "{:?}", report.generator);
    let doubts = report.generator.doubts.join("\n");
    assert!(
        doubts.contains("fell a second behind its plan") && doubts.contains("where 100000000 were to be"),
        "{doubts}"
    );
    assert!(report.warnings().iter().any(|warning| warning.starts_with("self-test: ")), "{report:?}");
}

#[test]
fn a_lack_of_connections_is_noticed_and_the_run_ends_well() {
    let args =
        ["--rate", "2000", "--connections", "2", "--duration", "1s", "--warmup", "0s", "--timeout", "1s"];
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let target = format!("127.0.0.1:{port}");
    let to = ["--target", &target, "--dyno-ports", &port, "--dynos", "1", "--plain", "--json", "-"];
    let output = bench(&[&args[..], &to].concat());
    let json = json(&output);
    let generator = &json["runs"][0]["generator"];
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Two connections answer a few thousand a second at most, one after the other: some have to wait.
    assert!(generator["waited_for_connection"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(generator["trust"], false, "{json}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("raise --connections"), "{output:?}");
}

#[test]
fn tls_is_spoken_and_certificates_are_checked_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (config, ca) = certificate(dir.path());
    let (proxy, told) = front(Some(config));
    let through = |tls| Plan { route: Route::Proxy(proxy), tls: Some(tls), ..plan(Pacing::Closed(4), 200) };
    for ca in [None, Some(ca.as_path())] {
        let run = run(through(Tls::new("bench.test", ca, false).unwrap()));
        assert_eq!(
            (run.outcome.good, run.outcome.faults.len()),
            (run.records.len() as u64, 0),
            "{:?}",
            run.outcome
        );
    }
    assert_eq!(told.try_iter().count(), 400);
    // Another name, and another authority.
    let (_, other) = certificate(tempfile::tempdir_in(dir.path()).unwrap().keep().as_path());
    for tls in [Tls::new("other.test", Some(&ca), false), Tls::new("bench.test", Some(&other), false)] {
        let run = run(through(tls.unwrap()));
        assert!(run.outcome.good == 0, "{:?}", run.outcome);
        assert!(run.outcome.faults.keys().any(|fault| fault.contains("tls: ")), "{:?}", run.outcome);
    }
    assert!(
        Tls::new("bench.test", Some(Path::new("/nowhere/ca.pem")), false)
            .unwrap_err()
            .contains("/nowhere/ca.pem")
    );
}

#[test]
fn who_speaks_no_tls_is_a_fault_and_no_panic() {
    let (proxy, _told) = front(None);
    let tls = Some(Tls::new("bench.test", None, false).unwrap());
    let timeout = Duration::from_millis(500);
    let run = run(Plan { route: Route::Proxy(proxy), tls, timeout, ..plan(Pacing::Closed(2), 4) });
    assert_eq!(run.outcome.good, 0, "{:?}", run.outcome);
    assert!(run.outcome.faults.values().sum::<u64>() >= 4, "{:?}", run.outcome);
}

#[test]
fn routerd_is_measured_over_tls_and_http2() {
    let Some(program) = routerd() else { return };
    let common = [
        "--via",
        "routerd",
        "--routerd",
        program.to_str().unwrap(),
        "--service",
        "fixed:3ms",
        "--dynos",
        "5",
        "--json",
        "-",
    ];
    for front in [&["--tls"][..], &["--http2"], &["--tls", "--http2", "--connections", "3"]] {
        let load = ["--clients", "20", "--requests", "600", "--warmup", "0s", "--timeout", "20s"];
        let output = bench(&[&common[..], &load, front].concat());
        assert_eq!(output.status.code(), Some(0), "{front:?}: {output:?}");
        let json = json(&output);
        let report = &json["runs"][0];
        assert_eq!((&report["requests"], &report["overlaps"]), (&600.into(), &0.into()), "{front:?}: {json}");
        assert_eq!(report["faults"], serde_json::json!({}), "{front:?}: {json}");
        // All of them came to a dyno: waits and the ideal line are known.
        assert!(report["dynos_busy"].as_f64().unwrap() > 0.2, "{front:?}: {json}");
    }
}

#[test]
fn streams_share_connections_and_wait_when_there_are_too_many() {
    let Some(program) = routerd() else { return };
    let common = [
        "--via",
        "routerd",
        "--routerd",
        program.to_str().unwrap(),
        "--service",
        "fixed:5ms",
        "--dynos",
        "4",
        "--json",
        "-",
    ];
    let load = [
        "--rate",
        "1500",
        "--requests",
        "300",
        "--warmup",
        "0s",
        "--http2",
        "--connections",
        "1",
        "--streams",
        "3",
    ];
    let output = bench(&[&common[..], &load].concat());
    let json = json(&output);
    assert_eq!(json["runs"][0]["requests"], 300, "{json}");
    assert_eq!(json["runs"][0]["faults"], serde_json::json!({}), "{json}");
    assert!(json["runs"][0]["generator"]["waited_for_connection"].as_u64().unwrap() > 100, "{json}");
}

#[test]
fn who_speaks_no_http2_is_a_fault_and_no_panic() {
    let (proxy, _told) = front(None);
    let timeout = Duration::from_millis(500);
    let run =
        run(Plan { route: Route::Proxy(proxy), http2: Some(10), timeout, ..plan(Pacing::Closed(2), 4) });
    assert_eq!(run.outcome.good, 0, "{:?}", run.outcome);
    assert!(run.outcome.faults.values().sum::<u64>() >= 4, "{:?}", run.outcome);
}
