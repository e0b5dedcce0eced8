//! The instrument measures itself: broken proxies are caught, faults are counted, and the ideal line is nearly ideal.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support {
    pub(crate) mod needs;
    pub(crate) mod plan;
    pub(crate) mod program;
    pub(crate) mod routerd;
    pub(crate) mod scenario;
}

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use router_bench::compare::{self, Proxy, Scenario};
use router_bench::dyno::Place;
use router_bench::engine::{Pacing, Plan, Run};
use router_bench::load::Route;
use router_bench::peers::Peer;
use router_bench::report::Report;

use support::needs::left_out;
use support::plan::{plan, run};
use support::program::{bench, json};
use support::routerd::routerd;
use support::scenario::scenario;

fn drive(dynos: u16, pacing: Pacing, requests: u64, route: impl FnOnce(Vec<SocketAddr>) -> Route) -> Run {
    let plan = plan(&Place::Here, dynos, pacing, requests);
    run(Plan { route: route(plan.dynos.addresses().to_vec()), ..plan })
}

fn to_the_first(dynos: Vec<SocketAddr>) -> Route {
    Route::Proxy(dynos[0])
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
    let json = json(&whole);
    let run = &json["runs"][0];
    assert_eq!((run["overlaps"].as_u64(), run["requests"].as_u64()), (Some(0), Some(30)), "{json}");
}

#[test]
fn wrong_use_ends_with_2_and_says_why() {
    for (args, why) in [
        (&["--target", "192.0.2.1:80"][..], "loopback addresses only"),
        (&["--via", "nginx", "--peer-path", "nginx=/nowhere/nginx"], "there is no /nowhere/nginx"),
        (&["--service", "gamma"], "rapgenius"),
        (&["--self-test", "--duration", "2h"], "at most 1h"),
        (&["--self-test", "--clients", "5", "--load", "0.9"], "cannot be used with"),
        (&["--memory", "100", "--warm-up", "20x3"], "cannot be used with"),
        (&["--memory", "100", "--gc", "5ms/1s"], "cannot be used with"),
        (&["--memory", "100", "--service", "exp:10ms"], "cannot be used with"),
        (&["--memory", "100", "--rounds", "3"], "cannot be used with"),
        (&["--peer-path", "routerd="], "it is NAME=PATH"),
        (&["--self-test", "--rate", "1000000.1"], "at most 1000000, which is the most that this tool sends"),
        (&["--self-test", "--rate", "NaN"], "at most 1000000"),
        (
            &["--self-test", "--load", "1.1", "--service", "fixed:100us"],
            "the load is 1100000 requests a second",
        ),
        (&["--self-test", "--service", "fixed:1ns", "--scale", "0.1"], "leaves nothing of fixed:1ns"),
        (&["--service", "lognormal:1us,10us x 0.0001"], "nothing is left"),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?}: {output:?}");
    }
}

#[test]
fn a_process_that_cannot_be_is_told_of() {
    for (pid, why) in
        [("4294967295", "process 4294967295: no number of one"), ("4194304", "process 4194304: ")]
    {
        let output = bench(&["--target", "127.0.0.1:9", "--dynos", "1", "--dyno-ports", "0", "--pid", pid]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}

#[test]
fn an_empty_answer_in_pieces_is_no_overlap() {
    let pieces = ["--answer-bytes", "0", "--answer-pieces", "10", "--service", "fixed:20ms"];
    let load = ["--self-test", "--dynos", "2", "--clients", "4", "--requests", "20", "--warmup", "0s"];
    let output = bench(&[&load[..], &pieces, &["--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["runs"][0]["overlaps"], 0, "{output:?}");
}

#[test]
fn options_that_would_do_nothing_are_refused_with_what_they_need() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let line = "{\"time\":\"2026-01-01T00:00:01Z\",\"method\":\"GET\",\"status\":200,\"service_ms\":5}\n";
    std::fs::write(&path, line).unwrap();
    let log = path.to_str().unwrap();
    let conflict = "cannot be used with";
    for (args, why) in [
        (&["--patience", "5s"][..], "--patience needs --target"),
        (&["--self-test", "--patience", "5s"], "--patience needs --target"),
        (&["compare", "direct", "--patience", "5s"], "--patience needs --target"),
        (&["--self-test", "--pid", "1"], "--pid needs --target"),
        (&["--via", "haproxy", "--tls", "--ca", log], "--ca needs --target"),
        (&["--target", "127.0.0.1:9", "--ca", log], "--ca needs --tls"),
        (&["--self-test", "--rate", "5", "--speed", "2"], "--speed needs --replay"),
        (&["--self-test", "--clients", "5", "--replay-host", "a"], "--replay-host needs --replay"),
        (&["--self-test", "--path", "/x", "--log-format", "json"], "--log-format needs --replay"),
        (&["--self-test", "--streams", "5"], "--streams needs --http2"),
        (&["--self-test", "--gc", "5ms/1s", "--dyno-patience", "5s"], "--dyno-patience needs --dyno"),
        (
            &["sweep", "--self-test", "--over", "load=0.5", "--knee-wait", "5ms"],
            "--knee-wait needs --find-knee",
        ),
        (&["compare", "direct", "--proxy-threads", "2"], "no proxy is started"),
        (&["compare", "direct", "--order", "random"], "needs two proxies or more"),
        (&["--self-test", "--arrivals", "burst:5"], "needs --rate or --load"),
        (&["compare", "direct", "--arrivals", "constant", "--clients", "4"], "needs --rate or --load"),
        (&["--self-test", "--connections", "5"], conflict),
        (&["--self-test", "--routerd", "/bin/true"], conflict),
        (&["--self-test", "--peer-path", "nginx=/bin/true"], conflict),
        (&["--target", "127.0.0.1:9", "--routerd", "/bin/true"], conflict),
        (&["--via", "haproxy", "--routerd", "/bin/true"], "routerd takes no part"),
        (&["--via", "haproxy", "--peer-path", "nginx=/bin/true"], "nginx takes no part"),
        (&["--routerd", "/bin/true", "--peer-path", "routerd=/bin/true"], "both say where routerd is"),
        (&["compare", "haproxy", "--peer-path", "caddy=/bin/true"], "caddy takes no part"),
        (&["--peer-path", "routerd=/bin/a", "--peer-path", "routerd=/bin/b"], "says twice where routerd is"),
        (&["--via", "random", "--peer-path", "haproxy=/bin/true", "--vs", "random"], "random is there twice"),
        (&["--plain", "--scale", "2"], conflict),
        (&["--plain", "--warm-up", "20x3"], conflict),
        (&["--plain", "--answer-pieces", "2"], conflict),
        (&["--self-test", "--replay", log, "--service", "exp:5ms"], "leave --service out"),
        (&["report", log, "--least", "0.1"], "--least needs two files"),
        (&["report", log, "--anyway"], "--anyway needs two files"),
        (&["report", log, "--fail-on", "worse"], "--fail-on needs two files"),
        (&["dyno", "--dyno", "true", "--seed", "2"], conflict),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?}: {output:?}");
    }
}

#[test]
fn service_times_of_a_log_are_scaled_and_are_the_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let line = |n: u32| {
        let rest = "\"method\":\"GET\",\"status\":200,\"service_ms\":40";
        format!("{{\"time\":\"2026-01-01T00:00:00.{:02}0Z\",{rest}}}\n", n)
    };
    std::fs::write(&path, (0..=50).map(line).collect::<String>()).unwrap();
    let log = path.to_str().unwrap();
    let run = |more: &[&str]| {
        let output = bench(&[&["--dynos", "10", "--replay", log, "--json", "-"][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        json(&output)
    };
    // 102 requests a second of 80 ms are the work of eight dynos.
    let twice = run(&["--self-test", "--scale", "2"]);
    let figure = |json: &serde_json::Value, key: &str| json["runs"][0][key].as_f64().unwrap();
    assert!((figure(&twice, "load") - 0.816).abs() < 0.01, "{twice}");
    assert!((twice["service"]["mean_ms"].as_f64().unwrap() - 80.0).abs() < 1e-6, "{twice}");
    let latency = twice["runs"][0]["latency"]["p50_ms"].as_f64().unwrap();
    assert!(latency > 79.0, "{latency}");
    // Plain forwarding is plain whatever the log says; a dyno that is asked without a proxy will do for one.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().to_string();
    let target = format!("127.0.0.1:{port}");
    let output = bench(&[
        "--plain",
        "--dynos",
        "1",
        "--target",
        &target,
        "--dyno-ports",
        &port,
        "--replay",
        log,
        "--json",
        "-",
    ]);
    let plain = json(&output);
    let latency = plain["runs"][0]["latency"]["p50_ms"].as_f64().unwrap();
    assert!(latency < 30.0, "{plain}");
}

#[test]
fn erlang_c_stands_beside_what_it_speaks_of_alone() {
    let common = ["--self-test", "--dynos", "4", "--requests", "100", "--warmup", "0s"];
    for (more, why) in [
        (&["--service", "exp:2ms", "--load", "0.5"][..], None),
        (&["--service", "fixed:2ms", "--load", "0.5"], Some("--service exp:MEAN")),
        (&["--service", "exp:2ms", "--clients", "2"], Some("--load or --rate")),
        (&["--service", "exp:2ms", "--load", "0.5", "--gc", "1ms/1s"], Some("without --gc")),
        (
            &["--service", "exp:2ms", "--load", "0.5", "--warm-up", "9x2", "--boot", "1ms"],
            Some("without --warm-up, --boot"),
        ),
        (&["--service", "exp:2s", "--load", "0.5", "--requests", "3", "--timeout", "1ms"], Some("faults")),
    ] {
        let common = if more.contains(&"--requests") { &common[..3] } else { &common[..] };
        let page = String::from_utf8(bench(&[common, more].concat()).stdout).unwrap();
        assert_eq!(page.contains("ideal line, the same arrivals"), why.is_none(), "{more:?}: {page}");
        let left_out: Vec<_> = page.lines().filter(|line| line.starts_with("Erlang C is left out")).collect();
        assert_eq!(left_out.len(), usize::from(why.is_some()), "{more:?}: {page}");
        assert!(why.is_none_or(|why| left_out[0].contains(why)), "{more:?}: {page}");
    }
}

/// HAProxy, if it is installed.
fn haproxy() -> Option<PathBuf> {
    Peer::Haproxy.program().map_or_else(|why| left_out(&why), Some)
}

#[test]
fn haproxy_keeps_one_request_a_dyno_and_most_dynos_busy() {
    let Some(program) = haproxy() else { return };
    let load = Scenario {
        dynos: 20,
        pacing: Pacing::Closed(40),
        duration: Duration::from_secs(2),
        requests: 1_000_000,
        ..scenario()
    };
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
    let all = json(&run);
    assert_eq!(all[0]["connections"], 100);
    assert!(all[0]["start"].as_u64().unwrap() > 1 << 20, "{all}");
}

#[test]
fn a_run_says_who_took_part_and_whether_it_writes_an_access_log() {
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (target, port) = (held.local_addr().unwrap().to_string(), held.local_addr().unwrap().port());
    drop(held);
    let load = ["--dynos", "1", "--clients", "1", "--requests", "20", "--warmup", "0s"];
    let given = bench(&[&["--target", &target, "--dyno-ports", &port.to_string()][..], &load].concat());
    assert!(text(&given.stdout).contains("access log unknown: as somebody has set it up"), "{given:?}");
    let sweep = ["sweep", "--over", "load=0.2,0.4", "--self-test", "--requests", "20", "--warmup", "0s"];
    assert!(!text(&bench(&sweep).stdout).contains("access log"), "without a proxy there is none");
    let Some(program) = routerd() else { return };
    let started = bench(&[&["--via", "routerd", "--routerd", program.to_str().unwrap()][..], &load].concat());
    assert!(text(&started.stdout).contains("access log on: a line for each request"), "{started:?}");
}
