//! `dyno-bench advise` on logs that somebody else has written: a real routerd, nginx's form, and on wrong use.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support {
    pub(crate) mod needs;
    pub(crate) mod plan;
    pub(crate) mod program;
    pub(crate) mod routerd;
}

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use router_bench::dyno::Place;
use router_bench::engine::{Pacing, Plan, Run};
use router_bench::load::Route;
use router_bench::oracle::Oracle;
use router_core::clock::Clock;

use support::plan::{plan, run};
use support::program::{bench, json};
use support::routerd::routerd;

fn advise(args: &[&str]) -> Output {
    bench(&[&["advise"][..], args].concat())
}

/// Ends it when the test does, however it does.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends load through a routerd that logs to a file as JSON, and ends it.
fn logged(program: &Path, dir: &Path, dynos: u16, pacing: Pacing, requests: u64) -> (Run, PathBuf) {
    let plan = plan(&Place::Here, dynos, pacing, requests);
    let addresses: Vec<String> = plan.dynos.addresses().iter().map(|dyno| format!("\"{dyno}\"")).collect();
    let proxy: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (config, log) = (dir.join("config.toml"), dir.join("access.log"));
    let text = format!(
        "[server]\nlisten = [\"{proxy}\"]\n[log]\nformat = \"json\"\n[apps.bench]\nhosts = [\"bench.test\"]\n\
         queue = {{ max_wait = \"30s\", max_requests_per_dyno = 1000, standing_after = \"1h\" }}\n\
         dynos = [{}]\n",
        addresses.join(", ")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(&config).stdout(File::create(&log).unwrap()).stderr(Stdio::null());
    let mut daemon = Daemon(command.spawn().unwrap());
    let clock = Clock::system();
    let deadline = clock.now() + Duration::from_secs(20);
    while TcpStream::connect(proxy).is_err() {
        assert!(clock.now() < deadline && daemon.0.try_wait().unwrap().is_none(), "routerd does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let plan = Plan {
        route: Route::Proxy(proxy),
        service: "exp:5ms".parse().unwrap(),
        seed: 3,
        duration: Duration::from_secs(60),
        connections: 500,
        ..plan
    };
    let run = run(plan);
    // SIGTERM: it writes what is left of its log.
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.0.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.0.wait().unwrap();
    (run, log)
}

/// Arrivals and service times of a log in JSON, in nanoseconds, in order of arrival.
fn seen(log: &str) -> Vec<(u64, u64)> {
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let time = humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap();
        let arrival = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        (arrival, (line["service_ms"].as_f64().unwrap() * 1e6).round() as u64)
    };
    let mut seen: Vec<(u64, u64)> = log.lines().map(line).collect();
    seen.sort_by_key(|(arrival, _)| *arrival);
    seen
}

#[test]
fn the_log_of_a_real_routerd_needs_what_its_run_needed() {
    let Some(program) = routerd() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (run, log) = logged(&program, dir.path(), 6, Pacing::Poisson(600.0), 1_500);
    assert_eq!(run.outcome.good, run.records.len() as u64, "{:?}", run.outcome);
    // What the router saw, read by other means and put through the ideal line.
    let seen = seen(&std::fs::read_to_string(&log).unwrap());
    let need = (1..).find(|dynos| {
        let mut oracle = Oracle::new(*dynos);
        let waits = seen.iter().map(|(arrival, service)| oracle.wait(*arrival, *service));
        (waits.sum::<u64>() as f64) < seen.len() as f64 * 1e6
    });
    File::options().append(true).open(&log).unwrap().write_all(b"{\"half a line\n\xff\n").unwrap();
    let output = advise(&["--log", log.to_str().unwrap(), "--target", "mean wait < 1ms", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer = json(&output);
    assert_eq!(answer["requests"], 1_500, "{answer}");
    assert_eq!(
        (&answer["log"]["format"], &answer["log"]["garbage"]),
        (&"json".into(), &2.into()),
        "{answer}"
    );
    assert_eq!(
        (&answer["today"]["dynos"], &answer["today"]["counted"]),
        (&6.into(), &true.into()),
        "{answer}"
    );
    assert_eq!(answer["growth"][0]["one_line"]["dynos"], need.unwrap(), "{answer}");
    // The router sees the dyno's work and what the machine adds to it.
    let worked: u64 = run.records.iter().map(|record| record.ended - record.started).sum();
    let told = answer["service_mean_ms"].as_f64().unwrap();
    assert!(told >= worked as f64 / 1e6 / 1_500.0 - 0.001, "{told}: {answer}");
    let said = |row: usize| answer["growth"][row]["one_line"]["dynos"].as_u64().unwrap();
    assert!(said(0) <= said(1) && said(1) <= said(2) && said(2) <= said(3) && said(3) > said(0), "{answer}");
    assert!(answer["growth"][0]["random"]["dynos"].as_u64().unwrap() > said(0), "{answer}");
    let text =
        advise(&["--log", log.to_str().unwrap(), "--target", "mean wait < 1ms", "--price", "25/month"]);
    let page = String::from_utf8(text.stdout).unwrap();
    assert!(
        page.contains("2 lines could not be read") && page.contains("with 6 dynos (named in the log"),
        "{page}"
    );
    assert!(page.contains(&format!("{}/month", said(0) * 25)), "{page}");
}

#[test]
fn a_common_log_needs_service_times_to_advise() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let line = |n: u32| {
        format!("::1 - - [22/Nov/2026:17:13:{:02} +0000] \"GET /{n} HTTP/1.1\" 200 5 \"-\" \"x\"\n", n / 10)
    };
    std::fs::write(&log, (0..600).map(line).collect::<String>()).unwrap();
    let log = log.to_str().unwrap();
    let output = advise(&["--log", log, "--target", "p99 wait < 100ms"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("give --service"), "{output:?}");
    let args =
        ["--log", log, "--target", "p99 wait < 100ms", "--service", "fixed:200ms", "--dynos", "3", "--json"];
    let output = advise(&args);
    let answer = json(&output);
    assert_eq!(output.status.code(), Some(0));
    // Ten a second of 0.2 s each are two dynos' work.
    assert!((answer["load"].as_f64().unwrap() - 2.0).abs() < 0.2, "{answer}");
    assert!((3..=6).contains(&answer["growth"][0]["one_line"]["dynos"].as_u64().unwrap()), "{answer}");
    assert_eq!(output.stdout, advise(&args).stdout);
}

#[test]
fn advise_says_what_is_wrong_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    std::fs::write(&log, "nothing\nof use\n").unwrap();
    let log = log.to_str().unwrap();
    let one = dir.path().join("one.log");
    std::fs::write(&one, "{\"time\":\"2026-01-01T00:00:00Z\",\"method\":\"GET\",\"service_ms\":900}\n")
        .unwrap();
    let one = one.to_str().unwrap();
    for (args, code, why) in [
        (&["--log", "/nowhere/x.log", "--target", "queued < 5%"][..], 1, "/nowhere/x.log: No such file"),
        (
            &["--log", log, "--target", "queued < 5%"],
            1,
            "line 1: it has none of the forms looked for: nothing",
        ),
        (&["--log", log, "--target", "fast"], 2, "allowed are"),
        (&["--log", log], 2, "--target"),
        (&["--log", one, "--target", "p99 wait < 1ms", "--price", "much"], 2, "such as 25/month"),
        (&["--log", one, "--target", "p99 wait < 1ms", "--service", "exp:1s"], 2, "leave --service out"),
        (&["--log", one, "--target", "p99 latency < 100ms"], 1, "not with any number of dynos"),
    ] {
        let output = advise(args);
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(String::from_utf8_lossy(&said).contains(why), "{args:?}: {}", String::from_utf8_lossy(&said));
    }
}
