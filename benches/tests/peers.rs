//! Proxies side by side: who keeps one request a dyno and who does not, and what a proxy that fails leaves behind.
//!
//! What is not installed is left out with a word; `PEERS=required` makes HAProxy and nginx a must.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support {
    pub(crate) mod needs;
    pub(crate) mod program;
    pub(crate) mod scenario;
}

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use router_bench::compare::{self, Order, Proxy, Scenario};
use router_bench::comparison::Logs;
use router_bench::dyno::{Behaviour, Fleet, Place};
use router_bench::link::Tls;
use router_bench::peers::{Load, Peer};
use router_bench::report::Report;
use rustls::{CipherSuite, NamedGroup};

use support::needs::left_out;
use support::program::{PROGRAM, bench, json};
use support::scenario::scenario;

/// The program of a peer, if it is there.
fn program(peer: Peer) -> Option<PathBuf> {
    let must = matches!(peer.software(), Peer::Routerd | Peer::Haproxy | Peer::Nginx);
    // This project's daemon is beside dyno-bench, and not beside this test.
    let daemon = Path::new(env!("CARGO_BIN_EXE_dyno-bench")).with_file_name("routerd");
    let there = if daemon.is_file() { Ok(daemon) } else { Err("it is not built".to_owned()) };
    match if peer == Peer::Routerd { there } else { peer.program() } {
        Ok(program) => Some(program),
        Err(why) if must => left_out(&why),
        Err(why) => {
            eprintln!("left out: {}: {why}", peer.name());
            None
        }
    }
}

/// The figures of one run through a peer, if its program is there.
fn through(peer: Peer, scenario: &Scenario) -> Option<Report> {
    let proxy = Proxy::Peer(peer, program(peer)?);
    let outcome = compare::all(scenario, &[proxy], Order::default());
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    outcome.runs.into_iter().next()
}

/// A program that is a shell script.
fn script(dir: &Path, text: &str) -> String {
    let path = dir.join("proxy");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Whether a file of the directory in which a proxy works gets this into it, and soon.
fn writes(dir: &Path, text: &str) -> bool {
    let has =
        |path: PathBuf| std::fs::read(path).is_ok_and(|all| String::from_utf8_lossy(&all).contains(text));
    let there = || std::fs::read_dir(dir).unwrap().any(|entry| has(entry.unwrap().path()));
    // Envoy writes every ten seconds.
    (0..150).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        there()
    })
}

#[test]
fn whoever_is_said_to_write_an_access_log_writes_one() {
    for peer in Peer::value_variants() {
        // That there is none would take as long as the slowest takes to write one.
        if peer.logs() != Logs::On {
            assert_eq!((*peer, peer.logs()), (Peer::Pingora, Logs::Off));
            continue;
        }
        let Some(program) = program(*peer) else { continue };
        let fleet = Fleet::start(1, Behaviour::default()).unwrap();
        let started = peer.start(&program, fleet.addresses(), &scenario().load()).unwrap();
        let dir = std::fs::read_link(format!("/proc/{}/cwd", started.pids()[0])).unwrap();
        let mut stream = TcpStream::connect(started.address).unwrap();
        write!(stream, "GET /looked-for HTTP/1.1\r\nhost: bench.test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{peer:?}: {answer}");
        assert!(writes(&dir, "/looked-for"), "{peer:?} writes no log in {}", dir.display());
    }
}

#[test]
fn two_requests_at_once_are_found_in_every_set_up_that_breaks_the_rule() {
    for peer in [Peer::HaproxyTwo, Peer::NginxUnlimited, Peer::Random] {
        let Some(report) = through(peer, &scenario()) else { continue };
        assert!(report.overlaps > 0, "{report:?}");
        let shown = report.overlaps_shown.iter();
        let known = shown.filter(|overlap| overlap.served.is_some() && overlap.came.is_some()).count();
        assert!(known > 0, "{report:?}");
        assert!(report.overlaps_shown.iter().all(|overlap| overlap.served != overlap.came), "{report:?}");
    }
}

#[test]
fn proxies_that_can_keep_one_request_a_dyno() {
    for peer in [Peer::Haproxy, Peer::Nginx, Peer::Envoy, Peer::Caddy, Peer::Pingora] {
        let Some(report) = through(peer, &scenario()) else { continue };
        assert_eq!(report.overlaps, 0, "{report:?}");
        // nginx refuses so fast that its run is over before it says much.
        let refuses = peer == Peer::Nginx;
        assert!(report.served_per_second > 0.0 && (refuses || report.dynos_busy > 0.3), "{report:?}");
        assert_eq!(report.faults.contains_key("502"), refuses, "{report:?}");
        assert!(report.connections_per_1000 > 0.0, "{report:?}");
        assert!(report.memory.unwrap().rss_peak > 1 << 20, "{report:?}");
        assert!(report.evenness.requests > 0.1 && report.evenness.requests <= 1.0, "{report:?}");
    }
}

#[test]
fn traefik_chooses_the_least_loaded_and_serves_all() {
    let Some(report) = through(Peer::Traefik, &scenario()) else { return };
    assert_eq!(report.faults(), 0, "{report:?}");
    assert!(report.overlaps > 0, "it has got a bound for a server? {report:?}");
}

#[test]
fn plain_forwarding_works_through_all() {
    let scenario = Scenario { plain: true, requests: 2_000, ..scenario() };
    for peer in [Peer::Haproxy, Peer::Nginx, Peer::Envoy, Peer::Traefik, Peer::Caddy] {
        let Some(report) = through(peer, &scenario) else { continue };
        assert_eq!((report.overlaps, report.faults()), (0, 0), "{report:?}");
        assert_eq!(report.requests, 2_000, "{report:?}");
    }
}

/// The scenario with TLS, HTTP/2, or both in front.
fn fronted(tls: bool, http2: bool) -> Scenario {
    let tls = tls.then(|| Tls::own("bench.test", http2).unwrap());
    let (http2, connections) = if http2 { (Some(100), 4) } else { (None, 1_000) };
    Scenario { tls, http2, connections, ..scenario() }
}

#[test]
fn who_keeps_one_request_a_dyno_keeps_it_behind_tls_and_http2() {
    for (tls, http2) in [(true, false), (false, true), (true, true)] {
        let scenario = fronted(tls, http2);
        for peer in [Peer::Routerd, Peer::Haproxy, Peer::Nginx, Peer::Envoy, Peer::Caddy, Peer::Pingora] {
            let Some(report) = through(peer, &scenario) else { continue };
            assert_eq!((report.overlaps, report.requests), (0, 800), "{tls} {http2} {report:?}");
            assert!(report.served_per_second > 0.0, "{tls} {http2} {report:?}");
            // nginx has no queue. Who does not speak what was asked for answers nothing at all.
            let refuses = peer == Peer::Nginx;
            let faults: Vec<_> = report.faults.keys().filter(|fault| !refuses || *fault != "502").collect();
            assert!(faults.is_empty(), "{tls} {http2} {report:?}");
        }
    }
}

#[test]
fn who_has_no_bound_serves_all_behind_tls_and_http2() {
    for (tls, http2) in [(true, false), (false, true), (true, true)] {
        let scenario = fronted(tls, http2);
        for peer in [Peer::Traefik, Peer::KamalProxy] {
            if peer.cannot(false, http2 && !tls).is_some() {
                continue;
            }
            let Some(report) = through(peer, &scenario) else { continue };
            assert_eq!((report.faults(), report.requests), (0, 800), "{tls} {http2} {report:?}");
            assert!(report.overlaps > 0, "it has got a bound for a server? {report:?}");
        }
    }
}

#[test]
fn every_proxy_agrees_on_the_same_with_a_client_that_speaks_tls() {
    let tls = Tls::own("bench.test", true).unwrap();
    let dyno = Fleet::at(&Place::Here, (1, 0), Behaviour::default()).unwrap();
    for peer in Peer::value_variants().iter().filter(|peer| !peer.breaks()) {
        let Some(program) = program(*peer) else { continue };
        let load = Load { plain: false, host: "bench.test", threads: 1, tls: Some(&tls), http2: true };
        let started = peer.start(&program, dyno.addresses(), &load).unwrap();
        for (session, alpn) in [(tls.session(), "h2"), (tls.http1_session(), "http/1.1")] {
            let mut session = session.unwrap();
            let mut stream = TcpStream::connect(started.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut stream).unwrap_or_else(|error| panic!("{peer:?}: {error}"));
            }
            assert_eq!(session.alpn_protocol(), Some(alpn.as_bytes()), "{peer:?}");
            let group = session.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519, "{peer:?}");
            let suite = session.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256, "{peer:?}");
        }
    }
}

#[test]
fn who_cannot_do_what_is_asked_is_skipped_with_the_reason() {
    let load = ["--dynos", "4", "--clients", "4", "--requests", "50", "--warmup", "0s", "--rounds", "1"];
    for (what, who, why) in [
        ("--http2", "kamal-proxy", "it speaks HTTP/2 over TLS only"),
        ("--plain", "pingora", "it is for one request a dyno and has no plain form"),
    ] {
        let output = bench(&[&["compare", "direct", who, what][..], &load].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let page = String::from_utf8_lossy(&output.stdout);
        assert!(page.contains(&format!("{who:16}skipped: {why}")), "{page}");
        assert!(!page.contains("FAILED"), "{page}");
        let output = bench(&[&["compare", "direct", who, what, "--json", "-"][..], &load].concat());
        let document = json(&output);
        let party =
            document["parties"].as_array().unwrap().iter().find(|party| party["name"] == who).unwrap();
        assert!(party["skipped"].as_str().unwrap().starts_with(why), "{document}");
        assert_eq!(document["failures"].as_array().unwrap().len(), 0, "{document}");
        assert_eq!(document["runs"][0]["faults"], serde_json::json!({}), "{document}");
        // Alone, it is wrong use.
        let output = bench(&["--via", who, what]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}

#[test]
fn tls_to_a_proxy_that_runs_already_goes_by_its_own_authority() {
    let Some(program) = program(Peer::Haproxy) else { return };
    let dyno = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let tls = Tls::own("bench.test", false).unwrap();
    let load = Load { plain: false, host: "bench.test", threads: 1, tls: Some(&tls), http2: false };
    let started = Peer::Haproxy.start(&program, &[dyno], &load).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, tls: &Tls| {
        let path = dir.path().join(name);
        std::fs::write(&path, &tls.certificate().ca).unwrap();
        path.display().to_string()
    };
    let (own, other) = (file("own", &tls), file("other", &Tls::own("bench.test", false).unwrap()));
    let (target, port) = (format!("mine={}", started.address), dyno.port().to_string());
    let common =
        ["compare", "--target", &target, "--tls", "--dyno-ports", &port, "--dynos", "1", "--json", "-"];
    let load = ["--clients", "1", "--requests", "20", "--warmup", "0s", "--rounds", "1"];
    for (ca, code) in [(&[][..], 0), (&["--ca", &own], 0), (&["--ca", &other], 1)] {
        let output = bench(&[&common[..], &load, ca].concat());
        assert_eq!(output.status.code(), Some(code), "{ca:?}: {output:?}");
        let faults = json(&output)["runs"][0]["faults"].as_object().unwrap().len();
        assert_eq!(faults > 0, code == 1, "{ca:?}: {output:?}");
    }
}

#[test]
fn latency_is_held_against_that_without_a_proxy() {
    let Some(program) = program(Peer::Haproxy) else { return };
    let scenario = Scenario { rounds: 2, requests: 300, ..scenario() };
    let proxies = [Proxy::Direct, Proxy::Peer(Peer::Haproxy, program)];
    let outcome = compare::all(&scenario, &proxies, Order::Interleaved);
    let names: Vec<_> = outcome.runs.iter().map(|run| (run.proxy.as_str(), run.round)).collect();
    assert_eq!(names, [("self-test", 1), ("haproxy", 1), ("self-test", 2), ("haproxy", 2)]);
    for pair in outcome.runs.chunks(2) {
        assert_eq!(pair[0].seed, pair[1].seed);
        let added = pair[1].added_latency.unwrap();
        assert!((added.p50_ms - (pair[1].latency.p50_ms - pair[0].latency.p50_ms)).abs() < 1e-9);
        assert!(pair[0].added_latency.is_none());
    }
}

#[test]
fn who_does_not_start_costs_the_others_nothing() {
    let load = ["--dynos", "4", "--clients", "4", "--requests", "50", "--warmup", "0s", "--rounds", "2"];
    let program = ["--peer-path", "envoy=/bin/false", "--peer-path", "caddy=/nowhere/caddy"];
    let output = bench(&[&["compare", "direct", "envoy", "caddy"][..], &load, &program].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("FAILED: envoy (round 1): envoy: it ended (exit status: 1)"), "{page}");
    assert!(page.contains("FAILED: caddy took no part: there is no /nowhere/caddy"), "{page}");
    assert!(page.contains("envoy           FAILED, see below"), "{page}");
    let output = bench(&[&["compare", "direct", "envoy", "--json", "-"][..], &load, &program[..2]].concat());
    let document = json(&output);
    assert_eq!(document["runs"].as_array().unwrap().len(), 2, "{document}");
    assert_eq!(document["runs"][1]["proxy"], "self-test");
    assert_eq!(document["failures"].as_array().unwrap().len(), 1, "tried again: {document}");
    assert_eq!(document["parties"][1]["name"], "envoy");
}

#[test]
fn who_ends_in_the_middle_keeps_its_figures_and_the_fault() {
    let Some(haproxy) = program(Peer::Haproxy) else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{} \"$@\" & sleep 1; kill -9 $!; echo gone >&2; exit 7", haproxy.display());
    let program = format!("haproxy={}", script(dir.path(), &text));
    let load = ["--dynos", "4", "--clients", "4", "--duration", "4s", "--warmup", "0s", "--rounds", "1"];
    let output = bench(
        &[&["compare", "haproxy", "direct", "--peer-path", &program, "--json", "-"][..], &load].concat(),
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document = json(&output);
    assert_eq!(document["runs"][0]["proxy"], "haproxy", "{document}");
    assert!(document["runs"][0]["answers_per_second"].as_f64().unwrap() > 0.0, "{document}");
    let faults = document["runs"][0]["faults"].as_object().unwrap();
    assert!(faults.keys().any(|fault| fault.contains("before the answer")), "{faults:?}");
    let why = document["failures"][0]["why"].as_str().unwrap();
    assert!(why.contains("exit status: 7") && why.contains("gone"), "{why}");
    assert_eq!(document["runs"][1]["proxy"], "self-test", "{document}");
}

#[test]
fn an_interruption_keeps_what_was_measured() {
    let mut child = Command::new(PROGRAM)
        .args(["compare", "direct", "--dynos", "4", "--clients", "4", "--requests", "50", "--warmup", "0s"])
        .args(["--rounds", "1000", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap());
    // It says when a round begins; the second one's beginning is the first one's end.
    let mut lines = said.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("self-test 2/1000")));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(lines.any(|line| line.contains("interrupted")));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document = json(&output);
    let runs = document["runs"].as_array().unwrap();
    assert!(!runs.is_empty() && runs.len() < 1000, "{document}");
    assert_eq!(document["failures"].as_array().unwrap().len(), 0, "{document}");
}

#[test]
fn a_proxy_that_runs_already_has_the_name_it_was_given() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().to_string();
    let target = format!("mine=127.0.0.1:{port},{}", std::process::id());
    let load =
        ["--dyno-ports", &port, "--dynos", "1", "--clients", "1", "--requests", "20", "--warmup", "0s"];
    let output = bench(&[&["compare", "--target", &target, "--json", "-"][..], &load].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let document = json(&output);
    assert_eq!(document["runs"].as_array().unwrap().len(), 3, "{document}");
    assert_eq!(document["runs"][0]["proxy"], "mine");
    assert!(document["runs"][0]["memory"]["rss_peak"].as_u64().unwrap() > 0, "{document}");
}

#[test]
fn dynos_that_cannot_listen_are_told_of_with_their_ports() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = bench(&["compare", "direct", "--dynos", "1", "--dyno-ports", &port, "--requests", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains(&format!("port {port}")) && page.contains("in use"), "{page}");
}

#[test]
fn wrong_use_of_compare_ends_with_2_and_says_why() {
    for (args, why) in [
        (&["nobody"][..], "haproxy-two"),
        (&["--target", "127.0.0.1:80"], "NAME=ADDR"),
        (&["--target", "a=192.0.2.1:80"], "loopback addresses only"),
        (&["--target", "a=127.0.0.1:80,x"], "is no process"),
        (&["--target", "a=127.0.0.1:80", "--target", "a=127.0.0.1:81"], "two take part as a"),
        (&["--peer-path", "haproxy"], "NAME=PATH"),
        (&["--peer-path", "apache=/bin/true"], "it is one of routerd"),
        (&["--order", "sorted"], "interleaved"),
    ] {
        let output = bench(&[&["compare"][..], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?}: {output:?}");
    }
}

#[test]
fn the_list_of_proxies_says_where_they_are_or_how_to_get_them() {
    let output = bench(&["peers", "--peer-path", "envoy=/nowhere/envoy"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(list.contains("missing: there is no /nowhere/envoy"), "{list}");
    for name in ["routerd", "haproxy", "nginx", "traefik", "caddy", "pingora", "kamal-proxy", "haproxy-two"] {
        assert!(list.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {list}");
    }
}

#[test]
fn an_address_is_free_again_when_a_proxy_has_ended() {
    let Some(program) = program(Peer::HaproxyTwo) else { return };
    let dyno = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let load = scenario();
    let started = Peer::HaproxyTwo.start(&program, &[dyno], &load.load()).unwrap();
    let (address, pids) = (started.address, started.pids());
    assert_eq!(pids.len(), 2);
    drop(started);
    TcpListener::bind(address).unwrap();
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}
