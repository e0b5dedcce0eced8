//! Real servers that do one thing at a time, as dynos: their ways to close, and never two connections to one of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{Client, Rig, installed, until};

/// A server in a process group of its own, which ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Starts a server: `PORT` in an argument is its port, and `files` are in its folder.
async fn start(program: &str, args: &[&str], files: &[(&str, &str)]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = address.port().to_string();
    let args: Vec<_> = args.iter().map(|arg| arg.replace("PORT", &port)).collect();
    let child = Command::new(program)
        .args(args)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut server = Server { child, address, _folder: folder };
    // Not by a connection: a server of this kind might have nothing else on its mind.
    until(&format!("{program} listens"), || {
        assert!(server.child.try_wait().unwrap().is_none(), "{program} has ended");
        sockets(address).0
    })
    .await;
    server
}

/// Whether a socket listens at that address, and the peers of the connections that it has.
fn sockets(address: SocketAddr) -> (bool, BTreeSet<String>) {
    const ESTABLISHED: &str = "01";
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    let (mut listens, mut peers) = (false, BTreeSet::new());
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(peer), Some(state)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if local.ends_with(&port) {
            listens |= state == LISTEN;
            if state == ESTABLISHED {
                peers.insert(peer.to_owned());
            }
        }
    }
    (listens, peers)
}

/// The most connections that the address has had at once, until it is told to end.
fn watch(address: SocketAddr, ended: &AtomicBool) -> usize {
    let (mut most, mut before) = (0, BTreeSet::new());
    while !ended.load(Ordering::Relaxed) {
        // The kernel's table is no picture of one moment; what stands in two in a row was there between them.
        let now = sockets(address).1;
        most = most.max(before.intersection(&now).count());
        before = now;
        std::thread::sleep(Duration::from_millis(2));
    }
    most
}

/// 40 requests over 8 connections all succeed, with pauses in which connections get old, and the server never has two.
async fn serves_one_at_a_time(server: &Server, app: &str, pause: Duration) {
    let address = server.address;
    let rig =
        Rig::from_toml(&format!("[server]\nlisten=['127.0.0.1:0']\n[apps.shop]\ndynos=['{address}']\n{app}"))
            .await;
    let ended = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || watch(address, &ended)
    });
    for round in 0..2 {
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let router = rig.address;
            clients.spawn(async move {
                let mut client = Client::connect(router).await;
                for _ in 0..if round == 0 { 4 } else { 1 } {
                    let answer = client.get("/").await;
                    assert!(answer.is_ok() && answer.text().contains("served"), "{answer:?}");
                }
            });
        }
        while let Some(end) = clients.join_next().await {
            end.unwrap();
        }
        if round == 0 {
            tokio::time::sleep(pause).await;
        }
    }
    // A POST on the connection that is there, or a new one.
    let post = rig.client().await.post("/", b"some=thing").await;
    assert!(matches!(post.status, 200 | 404 | 405 | 501), "{post:?}");
    ended.store(true, Ordering::Relaxed);
    let most = watcher.join().unwrap();
    assert!(most <= 1, "{most} connections to it at once");
    rig.log.are(41).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

const WSGI: &str = r#"
import time
def app(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"served"]
"#;

/// `--keep-alive` is for threaded workers only: the sync worker closes after each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gunicorn_with_a_sync_worker_serves_one_request_at_a_time() {
    if !installed("gunicorn", &["--version"]) {
        return;
    }
    let server = start("gunicorn", &["-w1", "-b127.0.0.1:PORT", "app:app"], &[("app.py", WSGI)]).await;
    serves_one_at_a_time(&server, "", Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gunicorn_with_one_thread_and_a_short_keep_alive_costs_no_request() {
    if !installed("gunicorn", &["--version"]) {
        return;
    }
    let args = ["-w1", "-kgthread", "--threads=1", "--keep-alive=1", "-b127.0.0.1:PORT", "app:app"];
    let server = start("gunicorn", &args, &[("app.py", WSGI)]).await;
    serves_one_at_a_time(&server, "", Duration::from_millis(1300)).await;
}

const PYTHON: &str = r#"
import sys, time
from http.server import HTTPServer, BaseHTTPRequestHandler
class Handler(BaseHTTPRequestHandler):
    protocol_version = sys.argv[2]
    timeout = 1
    def do_GET(self):
        time.sleep(0.02)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"served")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_http_server_serves_one_request_at_a_time_with_either_protocol() {
    if !installed("python3", &["-c", "import http.server"]) {
        return;
    }
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let args = ["app.py", "PORT", protocol];
        let server = start("python3", &args, &[("app.py", PYTHON)]).await;
        // With HTTP/1.1 it closes a connection that is idle for a second.
        serves_one_at_a_time(&server, "", Duration::from_millis(1200)).await;
    }
}

const WEBRICK: &str = r#"
require "webrick"
server = WEBrick::HTTPServer.new(BindAddress: "127.0.0.1", Port: ARGV[0].to_i, RequestTimeout: 1, MaxClients: 1,
  Logger: WEBrick::Log.new(File::NULL), AccessLog: [])
server.mount_proc("/") { |_, response| sleep 0.02; response.body = "served" }
server.start
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webrick_serves_one_request_at_a_time() {
    if !installed("ruby", &["-rwebrick", "-e", "1"]) {
        return;
    }
    let server = start("ruby", &["app.rb", "PORT"], &[("app.rb", WEBRICK)]).await;
    serves_one_at_a_time(&server, "", Duration::from_millis(1200)).await;
}

const RACK: &str = r#"run ->(_) { sleep 0.02; [200, { "content-type" => "text/plain" }, ["served"]] }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puma_with_one_thread_serves_one_request_at_a_time() {
    if !installed("puma", &["--version"]) {
        return;
    }
    let args = ["-t1:1", "-w0", "-C", "puma.rb", "-b", "tcp://127.0.0.1:PORT", "app.ru"];
    let server = start("puma", &args, &[("app.ru", RACK), ("puma.rb", "persistent_timeout 1\n")]).await;
    serves_one_at_a_time(&server, "", Duration::from_millis(1200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_php_serves_one_request_at_a_time() {
    if !installed("php", &["--version"]) {
        return;
    }
    let app = [("app.php", "<?php usleep(20000); echo \"served\";")];
    let server = start("php", &["-S", "127.0.0.1:PORT", "app.php"], &app).await;
    serves_one_at_a_time(&server, "", Duration::ZERO).await;
}

const NODE: &str = r#"
const server = require("http").createServer((request, response) => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  response.end("served");
});
server.keepAliveTimeout = 500;
server.listen(Number(process.argv[2]), "127.0.0.1");
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_node_server_serves_one_request_at_a_time() {
    if !installed("node", &["--version"]) {
        return;
    }
    let server = start("node", &["app.js", "PORT"], &[("app.js", NODE)]).await;
    serves_one_at_a_time(&server, "", Duration::from_millis(800)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_to_keep_connections_has_none_between_requests() {
    if !installed("python3", &["-c", "import http.server"]) {
        return;
    }
    let server = start("python3", &["app.py", "PORT", "HTTP/1.1"], &[("app.py", PYTHON)]).await;
    serves_one_at_a_time(&server, "timeouts.keepalive = '0s'", Duration::ZERO).await;
    until("no connection is left", || sockets(server.address).1.is_empty()).await;
}
