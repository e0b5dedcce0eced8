//! `routerd up` as it is typed: the program itself, real processes, a real client, and Ctrl-C.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;

use procfs::process::{Stat, all_processes};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::program::{Program, routerd};
use crate::support::{Answer, Client, Load, installed, until};

/// Serves one request at a time, and says who it is; without the look-up of names that `HTTPServer` does.
const SERVER: &str = r#"
import os, time
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(0.2)
        name = os.environ["DYNO"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
    def log_message(self, *words):
        pass
TCPServer.allow_reuse_address = True
server = TCPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("pid", os.getpid(), flush=True)
server.serve_forever()
"#;

/// The worker has a child, so that ending it alone is not enough; nobody asks for the last entry.
const PROCFILE: &str = "web: python3 server.py\nworker: sleep 600 & echo at work; wait\nidle: echo never\n";

fn stats() -> Vec<Stat> {
    all_processes().unwrap().flatten().filter_map(|process| process.stat().ok()).collect()
}

/// The processes that it has started. Each leads a group.
fn started_by(pid: Pid) -> BTreeSet<i32> {
    stats().iter().filter(|stat| stat.ppid == pid.as_raw_pid()).map(|stat| stat.pid).collect()
}

/// Who of these groups is alive. One that is dead and that nobody has asked for is not.
fn alive(groups: &BTreeSet<i32>) -> Vec<(i32, String)> {
    let of_them = |stat: &Stat| groups.contains(&stat.pgrp) && !matches!(stat.state, 'Z' | 'X');
    stats().into_iter().filter(of_them).map(|stat| (stat.pid, stat.comm)).collect()
}

/// The process of a dyno, once it has said for the `times`-th time who it is.
async fn process(program: &Program, name: &str, times: usize) -> Pid {
    let line = program.says(&format!("{name}    | pid "), times).await;
    Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap()).unwrap()
}

/// Asks for two answers at once, and says who gave them.
async fn two_at_once(program: &Program) -> [String; 2] {
    let address = program.address().await;
    let get = async || Client::connect(address).await.get("/").await;
    let answers = tokio::join!(get(), get());
    let name = |answer: Answer| {
        assert!(answer.is_ok(), "{answer:?}\n{:#?}", program.lines());
        answer.text()
    };
    let mut names = [name(answers.0), name(answers.1)];
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_serves_starts_again_what_dies_and_leaves_nothing_behind() {
    if !installed("python3", &["-c", "import http.server"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let procfile = folder.path().join("Procfile");
    fs::write(folder.path().join("server.py"), SERVER).unwrap();
    fs::write(&procfile, PROCFILE).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--admin", "off", "--formation", "web=2,worker=1"].map(OsStr::new);
    let mut program = Program::start(&[&["up".as_ref(), procfile.as_os_str()], &args[..]].concat());
    let address = program.address().await;
    assert_ne!(address.port(), 0);
    for ready in ["web.1 is ready on ", "web.2 is ready on ", "worker.1 | at work"] {
        program.says(ready, 1).await;
    }
    assert_eq!(two_at_once(&program).await, ["web.1", "web.2"], "each works on one");
    program.says("dyno=web.1 ", 1).await;
    program.says("dyno=web.2 ", 1).await;

    let mut groups = started_by(program.pid());
    assert_eq!(groups.len(), 3, "{groups:?}");
    let first = process(&program, "web.1", 1).await;
    kill_process(first, Signal::KILL).unwrap();
    program.says("web.1 was ended by signal 9 (SIGKILL); it is started again in 1s", 1).await;
    assert_ne!(process(&program, "web.1", 2).await, first);
    program.says("web.1 is ready on ", 2).await;
    assert_eq!(two_at_once(&program).await, ["web.1", "web.2"]);

    groups.extend(started_by(program.pid()));
    assert_eq!(alive(&groups).len(), 4, "two dynos, the worker and its child: {:?}", alive(&groups));
    let status = program.end(Signal::INT).await;
    assert_eq!(status.code(), Some(0), "{:#?}", program.lines());
    assert_eq!(alive(&groups), [], "{:#?}", program.lines());
    until("its last line", || program.lines().iter().any(|line| line.contains("stopping"))).await;
    let lines = program.lines();
    let pointing: Vec<_> = lines.iter().filter(|line| line.contains("http://")).collect();
    let words = format!("routerd  | http://{address} leads to 2 dynos, one request each at a time");
    assert_eq!(pointing, [&words], "one line says where to point the browser");
    assert!(!lines.iter().any(|line| line.contains("never") || line.contains("panicked")), "{lines:#?}");
}

/// What an order to the grid says, and how it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_ends_with_its_terminal_unless_it_is_to_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let procfile = folder.path().join("Procfile");
    fs::write(&procfile, "worker: echo at work; exec sleep 600\n").unwrap();
    let args = ["--listen", "127.0.0.1:0", "--admin", "off"].map(OsStr::new);
    let args = [&["up".as_ref(), procfile.as_os_str()], &args[..]].concat();
    let mut program = Program::start(&args);
    program.says("worker.1 | at work", 1).await;
    let groups = started_by(program.pid());
    assert_eq!(program.end(Signal::HUP).await.code(), Some(0), "{:#?}", program.lines());
    assert_eq!(alive(&groups), []);
    // As `nohup` does.
    let mut program = Program::after("trap '' HUP", &args);
    program.says("worker.1 | at work", 1).await;
    program.signal(Signal::HUP);
    program.says("SIGHUP: ", 1).await;
    assert_eq!(alive(&started_by(program.pid())).len(), 1);
    assert_eq!(program.end(Signal::TERM).await.code(), Some(0));
}

async fn ctl(admin: &str, args: &[&str]) -> (String, Option<i32>) {
    let all: Vec<_> = [&["ctl", "--admin", admin], args].concat().into_iter().map(str::to_owned).collect();
    let output = tokio::task::spawn_blocking(move || routerd(&all)).await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (said, output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_processes_start_beside_the_old_ones_and_take_over_when_they_are_ready() {
    if !installed("python3", &["-c", "import http.server"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (procfile, server) = (folder.path().join("Procfile"), folder.path().join("server.py"));
    fs::write(&procfile, "web: python3 server.py\nworker: echo at work; exec sleep 600\n").unwrap();
    let release = |name: &str| {
        let text = SERVER.replace("time.sleep(0.2)", "time.sleep(0.01)");
        fs::write(&server, text.replace(".encode()", &format!(".encode() + b' {name}'"))).unwrap();
    };
    release("one");
    let args = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--formation", "web=2,worker=1"];
    let args: Vec<_> = args.iter().map(OsStr::new).collect();
    let mut program = Program::start(&[&["up".as_ref(), procfile.as_os_str()], &args[..]].concat());
    let address = program.address().await;
    let line = program.says("orders are taken at ", 1).await;
    let admin = line.split_once("at ").unwrap().1.split_once(": ").unwrap().0.to_owned();
    for ready in ["web.1 is ready on ", "web.2 is ready on ", "worker.1 | at work"] {
        program.says(ready, 1).await;
    }
    let load = Load::start(address, 4);
    let says = async || Client::connect(address).await.get("/").await.text();
    assert!(says().await.ends_with(" one"));

    release("two");
    let (said, code) = ctl(&admin, &["deploy", "up", "--release", "v2"]).await;
    assert_eq!(code, Some(0), "{said}\n{:#?}", program.lines());
    assert!(says().await.ends_with(" two"), "{said}");
    program.says("worker.1 | at work", 2).await;

    fs::write(&server, "import sys\nsys.exit(3)\n").unwrap();
    let (said, code) = ctl(&admin, &["deploy", "up", "--release", "v3"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("exit code 3"), "{said}");
    assert!(says().await.ends_with(" two"));

    release("three");
    let before = started_by(program.pid());
    let (said, code) = ctl(&admin, &["restart", "up"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(says().await.ends_with(" three"));
    until("the old processes are gone", || alive(&before).is_empty()).await;
    load.more(20).await;
    load.end().await;
    let (said, code) = ctl(&admin, &["deploy", "up", "--release", "v4", "--dynos", "127.0.0.1:1"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("are started here"), "{said}");
    let groups = started_by(program.pid());
    assert_eq!(groups.len(), 3, "{groups:?}");
    assert_eq!(program.end(Signal::INT).await.code(), Some(0), "{:#?}", program.lines());
    assert_eq!(alive(&groups), []);
}

#[test]
fn up_says_what_is_wrong_with_the_procfile_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let procfile = folder.path().join("Procfile");
    let refused = |args: &[&str], says: String| {
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        let output = routerd(&[&["up".as_ref(), procfile.as_os_str()], &args[..]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.as_str()), (Some(1), says.as_str()));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    };
    let any = ["--listen", "127.0.0.1:0", "--admin", "off"];
    refused(&any, format!("routerd: there is no Procfile at {}\n", procfile.display()));
    fs::write(&procfile, "web: echo never\n\nworker sidekiq\n").unwrap();
    let words = "line 3: a line is `NAME: COMMAND`, and `worker sidekiq` has no colon";
    refused(&any, format!("routerd: {}, {words}\n", procfile.display()));
    fs::write(&procfile, "web: echo never\n").unwrap();
    let formation = ["--formation", "web=1,wroker=1"];
    refused(
        &[&any[..], &formation[..]].concat(),
        "routerd: the Procfile has no entry `wroker`; it has web\n".to_owned(),
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    refused(
        &["--listen", &taken, "--admin", "off"],
        format!("routerd: cannot listen on {taken}: Address already in use (os error 98)\n"),
    );
}
