//! The instrument measures itself: broken proxies are caught, faults are counted, and the ideal line is nearly ideal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use router_bench::compare::{self, Proxy, Scenario};
use router_bench::dyno;
use router_bench::engine::{self, Pacing, Plan, Progress, Run};
use router_bench::load::Route;
use router_bench::peers::Peer;
use router_bench::report::Report;
use router_bench::service::Service;

const SERVICE: Service = Service::Fixed(Duration::from_millis(2));

fn drive(dynos: u16, pacing: Pacing, requests: u64, route: impl FnOnce(Vec<SocketAddr>) -> Route) -> Run {
    let listeners = dyno::listen(dynos, 0).unwrap();
    let route = route(listeners.iter().map(|listener| listener.local_addr().unwrap()).collect());
    let plan = Plan {
        route,
        listeners,
        pacing,
        service: SERVICE,
        seed: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(20),
        requests,
        timeout: Duration::from_secs(10),
        host: "bench.test".to_owned(),
        answer_bytes: 12,
        connections: 100,
        exclusive: true,
    };
    engine::run(plan, &Progress::default(), || {}).unwrap()
}

fn to_the_first(dynos: Vec<SocketAddr>) -> Route {
    Route::Proxy(dynos[0])
}

fn scenario(dynos: u16, pacing: Pacing, service: Service) -> Scenario {
    Scenario {
        dynos,
        first_port: 0,
        pacing,
        service,
        plain: false,
        seed: 1,
        warmup: Duration::from_millis(200),
        duration: Duration::from_secs(2),
        requests: 1_000_000,
        timeout: Duration::from_secs(20),
        patience: Duration::from_secs(1),
        host: "bench.test".to_owned(),
        answer_bytes: 12,
        connections: 1_000,
        threads: 2,
        rounds: 1,
        interrupt: Arc::new(AtomicBool::new(false)),
    }
}

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dyno-bench")).args(args).output().unwrap()
}

#[test]
fn two_requests_at_once_on_one_dyno_are_an_overlap() {
    let run = drive(1, Pacing::Closed(2), 50, to_the_first);
    assert!(run.seen.overlaps >= 40, "{:?}", run.seen);
    assert!(run.seen.second_connections >= 1);
    let first = &run.seen.shown[0];
    assert_eq!(first.dyno, 0);
    assert!(first.served.is_some() && first.came.is_some() && first.served != first.came);
    assert!(run.seen.shown.len() <= 10);
}

#[test]
fn overlapping_requests_are_still_served_one_after_the_other() {
    let run = drive(1, Pacing::Closed(3), 60, to_the_first);
    let mut served: Vec<_> = run.records.iter().filter(|record| record.served()).collect();
    served.sort_by_key(|record| record.started);
    assert!(served.len() >= 60);
    assert!(served.windows(2).all(|pair| pair[0].ended <= pair[1].started));
    assert!(served.iter().all(|record| record.ended - record.started >= 2_000_000));
}

#[test]
fn one_request_after_the_other_is_no_overlap() {
    let run = drive(1, Pacing::Closed(1), 200, to_the_first);
    assert_eq!((run.seen.overlaps, run.seen.second_connections), (0, 0));
    assert_eq!((run.outcome.good, run.outcome.faults.len()), (run.records.len() as u64, 0));
    let report = Report::new("dyno", (1, 1), 1, &run, None);
    assert!(report.dynos_busy > 0.0 && report.dynos_busy <= 1.0, "{report:?}");
}

#[test]
fn without_a_proxy_requests_are_served_in_order_of_arrival() {
    let run = drive(10, Pacing::Poisson(4_000.0), 4_000, Route::Direct);
    assert_eq!(
        (run.seen.overlaps, run.seen.second_connections, run.outcome.good),
        (0, 0, run.records.len() as u64)
    );
    let report = Report::new("self-test", (1, 1), 10, &run, None);
    assert!(report.ideal_wait.mean_ms > 0.0, "{report:?}");
    // How near is for the tool itself to say: a busy machine ends services late. Here only what holds whatever the
    // machine does: nobody does better than the ideal line, and the line is first come, first served. Requests that
    // left the line together may reach their dynos in another order, so a few may pass one that came earlier; a line
    // that took the last first would let hundreds pass.
    assert!(report.excess.mean_ms > -0.01, "{report:?}");
    let mut served: Vec<_> = run.records.iter().filter(|record| record.served()).collect();
    served.sort_by_key(|record| record.arrived);
    let passed = |(place, record): (usize, &&router_bench::records::Record)| {
        served[place..].iter().filter(|later| later.started < record.started).count()
    };
    let most = served.iter().enumerate().map(passed).max();
    assert!(most <= Some(10), "{most:?} requests passed one that came earlier");
}

#[test]
fn a_fault_counts_under_its_status_and_code() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = listener.local_addr().unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heads = 0;
        let mut buffer = [0; 4096];
        while heads < 3 {
            let len = stream.read(&mut buffer).unwrap();
            assert!(buffer[..len].starts_with(b"GET / HTTP/1.1\r\nhost: bench.test\r\n"));
            stream
                .write_all(b"HTTP/1.1 503 no\r\nX-Router-Fault: H11\r\nContent-Length: 2\r\n\r\nno")
                .unwrap();
            heads += 1;
        }
        let _ = stream.read(&mut buffer).unwrap();
    });
    let run = drive(1, Pacing::Closed(1), 4, move |_| Route::Proxy(proxy));
    answers.join().unwrap();
    assert_eq!(run.outcome.faults["503 H11"], 3, "{:?}", run.outcome);
    assert_eq!(run.outcome.faults.values().sum::<u64>(), 4, "{:?}", run.outcome);
    assert!(run.outcome.faults.keys().any(|fault| fault.contains("before the answer")), "{:?}", run.outcome);
}

#[test]
fn the_program_ends_with_1_when_it_saw_an_overlap() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().to_string();
    let target = format!("127.0.0.1:{port}");
    let common =
        ["--target", &target, "--dyno-ports", &port, "--dynos", "1", "--requests", "30", "--warmup", "0s"];
    let broken = bench(&[&common[..], &["--clients", "2"]].concat());
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert!(
        String::from_utf8_lossy(&broken.stdout).contains("OVERLAP: dyno 0 was serving request"),
        "{broken:?}"
    );
    let whole = bench(&[&common[..], &["--clients", "1", "--json", "-"]].concat());
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    let json: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert_eq!((json[0]["overlaps"].as_u64(), json[0]["requests"].as_u64()), (Some(0), Some(30)), "{json}");
}

#[test]
fn wrong_use_ends_with_2_and_says_why() {
    for (args, why) in [
        (&["--target", "192.0.2.1:80"][..], "loopback addresses only"),
        (&["--via", "nginx"], "--plain"),
        (&["--service", "gamma"], "rapgenius"),
        (&["--self-test", "--duration", "2h"], "at most 1h"),
        (&["--self-test", "--clients", "5", "--load", "0.9"], "cannot be used with"),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?}: {output:?}");
    }
}

/// HAProxy, if it is installed; with `PEERS=required` it has to be.
fn haproxy() -> Option<PathBuf> {
    match Peer::Haproxy.program() {
        Ok(program) => Some(program),
        Err(why) if std::env::var("PEERS").as_deref() == Ok("required") => {
            panic!("PEERS=required, but {why}")
        }
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

#[test]
fn haproxy_keeps_one_request_a_dyno_and_most_dynos_busy() {
    let Some(program) = haproxy() else { return };
    let load = scenario(20, Pacing::Closed(40), Service::Fixed(Duration::from_millis(10)));
    let reports = compare::run(&load, &[Proxy::Peer(Peer::Haproxy, program)]).unwrap();
    let report = &reports[0];
    assert_eq!((report.overlaps, report.faults()), (0, 0), "{report:?}");
    assert!(report.requests > 1_000 && report.dynos_busy > 0.5, "{report:?}");
    assert!(report.cpu_us_per_request.unwrap() > 1.0, "{report:?}");
}

#[test]
fn memory_is_measured_of_requests_that_really_wait() {
    let Some(_) = haproxy() else { return };
    let run = bench(&["--memory", "100", "--via", "haproxy", "--json", "-"]);
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    let all: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(all[0]["connections"], 100);
    assert!(all[0]["start"].as_u64().unwrap() > 1 << 20, "{all}");
}
