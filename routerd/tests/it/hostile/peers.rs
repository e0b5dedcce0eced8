//! HAProxy and nginx in front of the same kind of dyno, and the daemon beside them: what each makes of the tables.

use std::any::Any;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::cases::GROUPS;
use super::dyno::Recorder;
use super::{expand, is_plain, tls};
use crate::http2::attacks;
use crate::support::frames::{self, Frames};
use crate::support::tls::{Authority, Issued};
use crate::support::{Rig, installed, until};

/// Silence after which nothing more is expected.
const SILENCE: Duration = Duration::from_millis(150);

/// A proxy with a dyno of its own.
struct Peer {
    name: &'static str,
    ends: Ends,
    dyno: Recorder,
    /// What runs until this is dropped.
    _running: Box<dyn Any + Send>,
}

/// Where a proxy listens, for clients that begin with each of these.
struct Ends {
    http1: SocketAddr,
    http2: SocketAddr,
    tls: SocketAddr,
}

impl Ends {
    fn free() -> Self {
        let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let all = [listener(), listener(), listener()];
        let [http1, http2, tls] = all.map(|listener| listener.local_addr().unwrap());
        Self { http1, http2, tls }
    }
}

impl Peer {
    async fn ours(issued: &Issued) -> Self {
        let dyno = Recorder::start().await;
        let rig = Rig::from_toml(&format!(
            "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[tls]\nlisten = ['127.0.0.1:0']\n\
             certificates = [{}]\n[apps.shop]\nhosts = ['a.test', 'shop.test']\ndynos = ['{}']\n",
            issued.entry(),
            dyno.address
        ))
        .await;
        let tls = rig.daemon.as_ref().unwrap().secure_addresses()[0];
        let ends = Ends { http1: rig.address, http2: rig.address, tls };
        Self { name: "routerd", ends, dyno, _running: Box::new(rig) }
    }

    /// Starts a program with a configuration that is made of free addresses, that of the dyno, and a folder in which
    /// there is a certificate.
    async fn start(
        name: &'static str,
        program: &str,
        args: &[&str],
        config: fn(&Ends, &str, &Path) -> String,
        issued: &Issued,
    ) -> Self {
        let dyno = Recorder::start().await;
        let ends = Ends::free();
        let dir = TempDir::new().unwrap();
        let [cert, key] = [&issued.cert, &issued.key].map(|file| std::fs::read_to_string(file).unwrap());
        std::fs::write(dir.path().join("both.pem"), cert + &key).unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, config(&ends, &dyno.address, dir.path())).unwrap();
        let child = Command::new(program)
            .args(args)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let there = || std::net::TcpStream::connect(ends.tls).is_ok();
        until(&format!("{name} listens"), there).await;
        Self { name, ends, dyno, _running: Box::new((child, dir)) }
    }

    /// What it makes of these bytes: the statuses, whether it closes, and how many requests reach the dyno; `!` behind
    /// the number if one of them can be read in two ways.
    async fn judge(&self, bytes: &[u8]) -> (String, usize) {
        self.dyno.take();
        let mut stream = TcpStream::connect(self.ends.http1).await.unwrap();
        let _ = tokio::time::timeout(SILENCE, stream.write_all(bytes)).await;
        let mut got = Vec::new();
        let closed = loop {
            match tokio::time::timeout(SILENCE, stream.read_buf(&mut got)).await {
                Err(_) => break false,
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => break true,
            }
        };
        drop(stream);
        let text = String::from_utf8_lossy(&got);
        // Bodies of answers end in no line end, so the next status line may stand behind one.
        let parts = text.split("HTTP/1.").skip(1).filter(|part| part.get(1..2) == Some(" "));
        let statuses: Vec<_> = parts.filter_map(|part| part.get(2..5)).filter(|s| *s != "100").collect();
        let seen = self.dyno.take();
        let mut cell = if statuses.is_empty() { "-".to_owned() } else { statuses.join(" ") };
        if closed {
            cell.push_str(" closed");
        }
        if !seen.is_empty() {
            let doubtful = if seen.iter().all(is_plain_but_for_host) { "" } else { "!" };
            let _ = write!(cell, " → {}{doubtful}", seen.len());
        }
        (cell, seen.len())
    }

    /// The same for frames of HTTP/2: what was said, and how many of the requests that are none reach the dyno.
    async fn judge_frames(&self, bytes: &[u8]) -> String {
        self.dyno.take();
        let mut frames = Frames::connect(self.ends.http2).await;
        let writing = frames.write_all(bytes.to_vec());
        let (words, closed) = frames::judge(&mut frames, SILENCE).await;
        writing.abort();
        drop(frames);
        let reached = self.dyno.take().into_iter().filter(|seen| seen.head.contains("/attack")).count();
        cell(&words.join(" "), closed, reached)
    }

    /// The same for what is no handshake.
    async fn judge_tls(&self, bytes: &[u8]) -> String {
        self.dyno.take();
        let mut stream = tls::send(self.ends.tls, bytes).await;
        let word = tls::first_word(&mut stream, SILENCE).await;
        let mut rest = Vec::new();
        let closed = matches!(&*word, "end" | "reset")
            || tokio::time::timeout(SILENCE, stream.read_to_end(&mut rest)).await.is_ok();
        let word = if matches!(&*word, "end" | "reset" | "silence") { "" } else { &word };
        cell(word, closed, self.dyno.take().len())
    }
}

fn cell(words: &str, closed: bool, reached: usize) -> String {
    let words = if words.is_empty() { "-" } else { words };
    let closed = if closed { " closed" } else { "" };
    let reached = if reached == 0 { String::new() } else { format!(" → {reached}") };
    format!("{words}{closed}{reached}")
}

/// A peer may choose another Host for the dyno.
fn is_plain_but_for_host(seen: &super::Seen) -> bool {
    let mut seen = seen.clone();
    if let [host] = seen.values("host")[..] {
        seen.head = seen.head.replace(&format!(": {host}\r\n"), ": a.test\r\n");
    }
    is_plain(&seen)
}

fn haproxy(ends: &Ends, dyno: &str, dir: &Path) -> String {
    let Ends { http1, http2, tls } = ends;
    let dir = dir.display();
    format!(
        "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
         frontend f\n bind {http1}\n bind {http2} proto h2\n bind {tls} ssl crt {dir}/both.pem alpn h2,http/1.1\n \
         default_backend b\nbackend b\n server d {dyno} maxconn 1\n"
    )
}

fn nginx(ends: &Ends, dyno: &str, dir: &Path) -> String {
    let Ends { http1, http2, tls } = ends;
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/errors;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {dir}/b;\nproxy_temp_path {dir}/p;\nfastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u;\nscgi_temp_path {dir}/s;\nserver {{ listen {http1};\nlisten {http2} http2;\n\
         listen {tls} ssl http2;\nssl_certificate {dir}/both.pem;\nssl_certificate_key {dir}/both.pem;\n\
         location / {{\nproxy_pass http://{dyno};\nproxy_http_version 1.1;\nproxy_set_header Connection '';\n\
         proxy_set_header Host $host;\n}} }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_make_of_it() {
    if !std::env::var("HOSTILE").is_ok_and(|value| value == "report") {
        return;
    }
    let authority = Authority::new();
    let issued = authority.issue("shop", &["shop.test"]);
    let mut peers = vec![Peer::ours(&issued).await];
    if installed("haproxy", &["-v"]) {
        peers.push(Peer::start("HAProxy", "haproxy", &["-db", "-f"], haproxy, &issued).await);
    }
    if installed("nginx", &["-v"]) {
        peers.push(Peer::start("nginx", "nginx", &["-c"], nginx, &issued).await);
    }
    let names: Vec<_> = peers.iter().map(|peer| peer.name).collect();
    let head = format!("| case | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let text = [heads(&peers, &head).await, frames_of(&peers, &head).await, handshakes(&peers, &head).await];
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("hostile.md");
    std::fs::write(&target, text.concat()).unwrap();
}

async fn heads(peers: &[Peer], head: &str) -> String {
    let (mut all, mut short, mut number) = (String::new(), String::new(), 0);
    for (group, cases) in GROUPS {
        let _ = write!(all, "\n## {group}\n\n{head}");
        for (name, text, ..) in *cases {
            let bytes = expand(text);
            let mut cells = Vec::new();
            for peer in peers {
                cells.push(peer.judge(&bytes).await);
            }
            let texts: Vec<_> = cells.iter().map(|(cell, _)| cell.as_str()).collect();
            let row = texts.join(" | ");
            let _ = writeln!(all, "| {name} | {row} |");
            if cells.iter().any(|(_, seen)| *seen != cells[0].1) {
                let _ = writeln!(short, "| {group}: {name} | {row} |");
            }
            number += 1;
        }
    }
    format!("{number} cases.\n{all}\n## Where they differ in what reaches the dyno\n\n{head}{short}")
}

async fn frames_of(peers: &[Peer], head: &str) -> String {
    let mut all = format!("\n## HTTP/2\n\n{head}");
    for (group, cases) in attacks::groups() {
        for (name, bytes, _) in cases {
            let mut row = format!("| {group}: {name} |");
            for peer in peers {
                let _ = write!(row, " {} |", peer.judge_frames(&bytes).await);
            }
            let _ = writeln!(all, "{row}");
        }
    }
    all
}

async fn handshakes(peers: &[Peer], head: &str) -> String {
    let mut all = format!("\n## TLS\n\n{head}");
    for (name, bytes, _) in tls::cases() {
        let mut row = format!("| {name} |");
        for peer in peers {
            let _ = write!(row, " {} |", peer.judge_tls(&bytes).await);
        }
        let _ = writeln!(all, "{row}");
    }
    all
}
