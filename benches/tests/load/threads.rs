//! Several threads send: the same requests as one would, each once, and one result of all.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use router_bench::dyno::{Behaviour, Fleet};
use router_bench::engine::{self, Progress, Run};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A plan for several threads, to a proxy.
fn shared(threads: u32, proxy: SocketAddr, pacing: Pacing, requests: u64) -> Plan {
    Plan { route: Route::Proxy(proxy), threads, ..plan(pacing, requests) }
}

/// When requests were due, from the first, and for how long their dynos work.
fn path(run: &Run) -> Vec<(u64, u64)> {
    let first = run.records.iter().next().unwrap().due;
    run.records.iter().map(|record| (record.due - first, record.service)).collect()
}

/// For a dyno that nobody asks.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn several_threads_send_what_one_alone_would() {
    // It says nothing of service times, so they are drawn.
    let line = |n: u32| {
        let (minute, second) = (n * n / 60, n * n % 60);
        format!("127.0.0.1 - - [01/Jan/2026:00:{minute:02}:{second:02} +0000] \"GET /n{n} HTTP/1.1\" 200 5\n")
    };
    let text: String = (0..30).map(line).collect();
    let log = logs::read(text.as_bytes(), &Wanted::default()).unwrap();
    let replay = Pacing::Replay(Arc::new(Replay::new(&log, 1_000.0)));
    let sent = |threads| {
        let (proxy, told) = front(None);
        let service = "exp:2ms".parse().unwrap();
        let run = run(Plan { service, ..shared(threads, proxy, replay.clone(), u64::MAX) });
        assert_eq!((run.outcome.good, run.curtailed, run.threads.len()), (30, true, threads as usize));
        let mut lines: Vec<String> = told.iter().take(30).collect();
        lines.sort();
        (path(&run), lines)
    };
    let alone = sent(1);
    assert_eq!(alone.1.iter().collect::<BTreeSet<_>>().len(), 30, "{alone:?}");
    for threads in [2, 3, 40] {
        assert_eq!(sent(threads), alone, "{threads} threads");
    }
}

#[test]
fn an_open_loop_is_shared_and_ends_with_its_last_request() {
    let (proxy, _told) = front(None);
    let pacing = Pacing::Poisson(2_000.0);
    let run = run(shared(2, proxy, pacing.clone(), 800));
    assert_eq!((run.records.len(), run.outcome.good, run.curtailed), (800, 800, true), "{:?}", run.outcome);
    // One thread may be ahead of the other at the end; but each request is one of those that there are, and once.
    let whole: Vec<u64> = Arrivals::new(pacing, 1, 0, 1).take(20_000).map(|due| due.at).collect();
    let mut wanted = whole.iter().map(|at| at - whole[0]);
    assert!(path(&run).iter().all(|(due, _)| wanted.any(|wanted| wanted == *due)));
    let report = Report::new("front", (1, 1), 10, &run, None);
    assert_eq!((report.requests, report.generator.threads.len()), (800, 2), "{report:?}");
    assert!(run.late.len() >= 800, "{}", run.late.len());
}

#[test]
fn nobody_sends_when_the_last_request_is_taken() {
    let (proxy, _told) = front(None);
    let run = run(Plan { duration: Duration::from_millis(50), ..shared(2, proxy, Pacing::Closed(4), 0) });
    assert_eq!((run.records.len(), run.curtailed, run.outcome.faults.len()), (0, false, 0));
}

#[test]
fn the_numbers_of_requests_are_unique_and_dynos_answer_all_threads() {
    for place in [Place::Here, Place::Thread] {
        let dynos = Fleet::at(&place, (1, 0), Behaviour::default()).unwrap();
        let proxy = dynos.addresses()[0];
        let warmup = Duration::from_millis(50);
        let run = run(Plan { dynos, warmup, ..shared(3, proxy, Pacing::Closed(5), 100) });
        // A number that two requests have would be a repeat.
        let counted = run.records.iter().filter(|record| record.due >= run.window.0).count();
        assert_eq!((counted, run.repeats, run.seen.strangers), (100, 0, 0), "{place:?}: {:?}", run.outcome);
        assert_eq!(run.outcome.good, run.records.len() as u64, "{place:?}: {:?}", run.outcome);
        assert!(run.records.iter().all(|record| record.served() && record.due < run.window.1), "{place:?}");
        // Five clients at one dyno: the proxy that is none is caught, and both requests have a number.
        assert!(run.seen.overlaps >= 60, "{place:?}: {:?}", run.seen);
        let pairs = || run.seen.shown.iter().map(|pair| (pair.served, pair.came));
        assert!(pairs().all(|(served, came)| served.is_some() && came.is_some() && served != came));
        let boarded: Vec<bool> = run.threads.iter().map(|thread| thread.dynos).collect();
        assert_eq!(boarded, [matches!(place, Place::Here), false, false]);
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let (proxy, _told) = front(None);
    let direct = Plan { threads: 2, ..plan(Pacing::Closed(4), 10) };
    let few = shared(3, proxy, Pacing::Closed(2), 10);
    let narrow = Plan { connections: 1, ..shared(2, proxy, Pacing::Constant(10.0), 10) };
    for (plan, why) in [(direct, "one line"), (few, "2 clients"), (narrow, "1 connection cannot")] {
        let error = engine::run(plan, &Progress::default(), || {}).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let to = ["--target", "127.0.0.1:1", "--generator-threads"];
    for (args, why) in [
        (&["--self-test", "--generator-threads", "2"][..], "keeps the line itself"),
        (&["compare", "direct", "--generator-threads", "2"], "keeps the line itself"),
        (&["sweep", "--self-test", "--find-knee", "--generator-threads", "2"], "keeps the line itself"),
        (&[to[0], to[1], to[2], "3", "--clients", "2"], "cannot share --clients 2"),
        (&[to[0], to[1], to[2], "3", "--connections", "1"], "cannot share --connections 1"),
        (&[to[0], to[1], to[2], "0"], "1..=64"),
        (&[to[0], to[1], to[2], "65"], "1..=64"),
        (&["--memory", "100", "--generator-threads", "2"], "cannot be used with"),
    ] {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(why), "{args:?}: {output:?}");
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_at_all_ends_all_threads_with_the_error() {
    let nowhere = SocketAddr::from(([255, 255, 255, 255], 80));
    let error =
        engine::run(shared(3, nowhere, Pacing::Closed(3), 10), &Progress::default(), || {}).unwrap_err();
    assert!(error.raw_os_error().is_some(), "{error}");
}

#[test]
fn a_rate_that_several_cannot_send_is_noticed_too() {
    let (proxy, _told) = front(None);
    let timeout = Duration::from_millis(200);
    let run = run(Plan { timeout, ..shared(2, proxy, Pacing::Constant(1e8), u64::MAX) });
    assert!(run.overrun && !run.interrupted);
    let report = Report::new("front", (1, 1), 10, &run, None);
    let doubts = report.generator.doubts.join("\n");
    assert!(doubts.contains("fell a second behind") && doubts.contains("of the generator's 2"), "{doubts}");
}

#[test]
fn routerd_keeps_one_request_a_dyno_whoever_sends() {
    let Some(program) = routerd() else { return };
    let program = program.display().to_string();
    let common = ["--via", "routerd", "--routerd", &program, "--service", "fixed:3ms", "--dynos", "5"];
    let threads = ["--generator-threads", "2", "--requests", "400", "--timeout", "20s", "--json", "-"];
    for load in [
        &["--clients", "20", "--warmup", "100ms"][..],
        &["--rate", "800", "--warmup", "100ms", "--dynos-in", "thread"],
        &["--rate", "800", "--arrivals", "burst:7", "--warmup", "0s"],
        &["--clients", "8", "--warmup", "0s", "--tls", "--http2", "--connections", "3"],
    ] {
        let output = bench(&[&common[..], &threads, load].concat());
        assert_eq!(output.status.code(), Some(0), "{load:?}: {output:?}");
        let json = json(&output);
        let report = &json["runs"][0];
        assert_eq!((&report["requests"], &report["overlaps"]), (&400.into(), &0.into()), "{load:?}: {json}");
        assert_eq!((&report["faults"], &report["repeats"]), (&serde_json::json!({}), &0.into()), "{json}");
        // All of them came to a dyno: waits and the ideal line are known.
        assert!(report["dynos_busy"].as_f64() > Some(0.05), "{load:?}: {json}");
        assert_eq!(report["generator"]["threads"].as_array().unwrap().len(), 2, "{json}");
        assert_eq!(json["scenario"]["generator_threads"], "2", "{json}");
    }
}

#[test]
fn an_interruption_keeps_what_all_threads_have_seen() {
    let (proxy, told) = front(None);
    let child = Command::new(support::program::PROGRAM)
        .args(["--target", &proxy.to_string(), "--dynos", "1", "--dyno-ports", &free_port(), "--plain"])
        .args([
            "--rate",
            "300",
            "--duration",
            "10m",
            "--warmup",
            "0s",
            "--generator-threads",
            "2",
            "--json",
            "-",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let answered = (0..50).all(|_| told.recv_timeout(Duration::from_secs(20)).is_ok());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(answered && output.status.code() == Some(1), "{output:?}");
    let json = json(&output);
    let report = &json["runs"][0];
    assert_eq!((&json["partial"], &report["interrupted"]), (&"interrupted".into(), &true.into()), "{json}");
    assert!(report["requests"].as_u64() >= Some(50), "{json}");
    assert_eq!(report["generator"]["threads"].as_array().unwrap().len(), 2, "{json}");
}

#[test]
fn more_threads_than_cores_are_allowed_with_a_warning() {
    let (proxy, _told) = front(None);
    let (proxy, port) = (proxy.to_string(), free_port());
    let to = ["--target", &proxy, "--dynos", "1", "--dyno-ports", &port, "--plain", "--warmup", "0s"];
    let load = ["--clients", "64", "--requests", "640", "--generator-threads", "64"];
    let output = bench(&[&to[..], &load].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).contains("so they take turns");
    let many = std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 64);
    assert!(said != many, "{output:?}");
}
