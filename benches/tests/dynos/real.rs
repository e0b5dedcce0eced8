//! Real servers as dynos, behind taps.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use crate::needs::left_out;
use crate::program::{bench, json};
use crate::{children, lives, long_bench, text, until};

/// Whether a program is here.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    there || left_out::<()>(&format!("{program} is not installed")).is_some()
}

/// Real servers with one line in front keep one request at a time; without, the tap tells that they do not, whether they
/// work on all at once or let them wait.
fn are_watched(command: &str) {
    let load = ["--requests", "40", "--warmup", "0s", "--json", "-", "--dyno", command];
    let line = bench(&[&["--self-test", "--dynos", "2", "--clients", "6"][..], &load].concat());
    assert_eq!(line.status.code(), Some(0), "{line:?}");
    let line = &json(&line)["runs"][0];
    assert_eq!((&line["overlaps"], &line["requests"]), (&0.into(), &40.into()), "{line}");
    assert_eq!(line["faults"], serde_json::json!({}), "{line}");
    // Each took what the server slept.
    assert!(line["latency"]["p50_ms"].as_f64() >= Some(20.0), "{line}");
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    drop(held);
    let target = format!("127.0.0.1:{port}");
    let straight = ["--target", &target, "--dyno-ports", &port, "--dynos", "1", "--clients", "6"];
    let straight = bench(&[&straight[..], &load].concat());
    assert_eq!(straight.status.code(), Some(1), "{straight:?}");
    let straight = &json(&straight)["runs"][0];
    assert!(straight["overlaps"].as_u64() >= Some(20), "{straight}");
    let busy = straight["dynos_busy"].as_f64().unwrap();
    assert!(busy > 0.0 && busy <= 1.0, "what it does at once is its time once: {straight}");
    assert_eq!(straight["faults"], serde_json::json!({}), "{straight}");
}

const PYTHON: &str = "python3 -m http.server --bind 127.0.0.1 $PORT";

#[test]
fn real_servers_are_dynos_behind_taps() {
    if !has("python3") {
        return;
    }
    let run = bench(&[
        "--self-test",
        "--dyno",
        PYTHON,
        "--dynos",
        "2",
        "--clients",
        "4",
        "--requests",
        "40",
        "--warmup",
        "0s",
        "--path",
        "/Cargo.toml",
        "--json",
        "-",
    ]);
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    let json = json(&run);
    let report = &json["runs"][0];
    assert_eq!((report["overlaps"].as_u64(), report["requests"].as_u64()), (Some(0), Some(40)), "{json}");
    assert!(report["faults"].as_object().unwrap().is_empty(), "{json}");
    assert!(report["dynos_busy"].as_f64() > Some(0.0), "{json}");
    // The tape of the taps is whole: every request has been served by a dyno.
    let timeline = report["curves"]["timeline"].as_array().unwrap();
    let faults: u64 = timeline.iter().map(|interval| interval["faults"].as_u64().unwrap()).sum();
    assert_eq!(faults, 0, "{json}");
    let scenario = &json["scenario"];
    assert_eq!((&scenario["path"], &scenario["behaviour"]), (&"/Cargo.toml".into(), &"their own".into()));
    assert_eq!(
        (&scenario["service"], &scenario["place"]),
        (&format!("of `{PYTHON}`").into(), &format!("`{PYTHON}` behind taps").into())
    );
}

#[test]
fn two_requests_at_once_in_a_real_server_are_an_overlap() {
    if !has("python3") {
        return;
    }
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    drop(held);
    let server = "exec python3 -c '
import http.server, os, time
class Slow(http.server.BaseHTTPRequestHandler):
    protocol_version = \"HTTP/1.1\"
    def do_GET(self):
        time.sleep(0.02)
        self.send_response(200)
        self.send_header(\"Transfer-Encoding\", \"chunked\")
        self.end_headers()
        self.wfile.write(b\"2\\r\\nok\\r\\n0\\r\\n\\r\\n\")
http.server.ThreadingHTTPServer((\"127.0.0.1\", int(os.environ[\"PORT\"])), Slow).serve_forever()
'";
    let target = format!("127.0.0.1:{port}");
    let common = [
        "--target",
        &target,
        "--dyno-ports",
        &port,
        "--dynos",
        "1",
        "--dyno",
        server,
        "--requests",
        "20",
        "--warmup",
        "0s",
        "--json",
        "-",
        "--clients",
    ];
    for (clients, overlaps) in [("1", false), ("2", true)] {
        let run = bench(&[&common[..], &[clients]].concat());
        let json = json(&run);
        assert_eq!(run.status.code(), Some(i32::from(overlaps)), "{json}");
        assert_eq!(json["runs"][0]["overlaps"].as_u64() >= Some(5), overlaps, "{json}");
        assert!(json["runs"][0]["wait"]["p50_ms"].as_f64() < Some(20.0) || overlaps, "{json}");
    }
}

#[test]
fn node_works_on_many_at_once_and_the_tap_says_so() {
    if !has("node") {
        return;
    }
    are_watched(
        "exec node -e 'require(\"http\").createServer((_, answer) => setTimeout(() => answer.end(\"ok\"), 20))\
         .listen(process.env.PORT, \"127.0.0.1\")'",
    );
}

#[test]
fn puma_with_one_thread_is_watched() {
    if !has("puma") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("config.ru");
    std::fs::write(&app, "run ->(_) { sleep 0.02; [200, { 'content-length' => '2' }, ['ok']] }\n").unwrap();
    are_watched(&format!("exec puma -q -t 1:1 -b tcp://127.0.0.1:$PORT {}", app.display()));
}

#[test]
fn php_is_watched() {
    if !has("php") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("index.php"), "<?php usleep(20000); echo 'ok';\n").unwrap();
    are_watched(&format!("exec php -q -S 127.0.0.1:$PORT -t {}", dir.path().display()));
}

#[test]
fn gunicorn_keeps_its_dynos_busy_and_ends_with_a_bench_that_is_killed() {
    if !has("gunicorn") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("app.py"),
        "def app(environ, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n",
    )
    .unwrap();
    // With a shell between, and a master with a worker: all of them have to go.
    let command = format!("cd {} && gunicorn -w 1 -b 127.0.0.1:$PORT app:app; true", dir.path().display());
    let run = bench(&[
        "--self-test",
        "--dyno",
        &command,
        "--dynos",
        "1",
        "--clients",
        "2",
        "--requests",
        "30",
        "--warmup",
        "0s",
    ]);
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    let (mut child, keepers) = long_bench(&["--dyno", &command], 2);
    let mut all = Vec::new();
    until("gunicorn has its worker", || {
        let below = |pids: &[i32]| pids.iter().flat_map(|pid| children(*pid as u32)).collect::<Vec<_>>();
        let shells = below(&keepers);
        let masters = below(&shells);
        let workers = below(&masters);
        let done = workers.len() >= 2;
        all = [keepers.clone(), shells, masters, workers].concat();
        done
    });
    child.kill().unwrap();
    child.wait().unwrap();
    until("all of gunicorn ends", || !all.iter().any(|pid| lives(*pid)));
}

#[test]
fn a_server_that_does_not_come_up_is_an_error_with_its_last_words() {
    let long = "echo no such app; exec sleep 60";
    for (command, patience, why) in [
        ("echo no such app; exit 3", "30s", "ended at once (exit status: 3): no such app"),
        (long, "300ms", "did not listen within 300ms: no such app"),
        ("no-such-program-here", "30s", "ended at once (exit status: 127)"),
    ] {
        let output = bench(&["--self-test", "--dynos", "2", "--dyno", command, "--dyno-patience", patience]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(why), "{command}: {output:?}");
    }
}
