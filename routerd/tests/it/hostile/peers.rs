//! HAProxy and nginx in front of the same kind of dyno, and the daemon beside them: what each makes of the table.

use std::any::Any;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::cases::GROUPS;
use super::dyno::Recorder;
use super::{expand, is_plain, rig};
use crate::support::{installed, until};

/// Silence after which nothing more is expected.
const SILENCE: Duration = Duration::from_millis(150);

/// A proxy with a dyno of its own.
struct Peer {
    name: &'static str,
    address: String,
    dyno: Recorder,
    /// What runs until this is dropped.
    _running: Box<dyn Any + Send>,
}

impl Peer {
    async fn ours() -> Self {
        let dyno = Recorder::start().await;
        let rig = rig(&dyno).await;
        Self { name: "routerd", address: rig.address.to_string(), dyno, _running: Box::new(rig) }
    }

    /// Starts a program with a configuration that is made of a free address, that of the dyno, and a folder.
    async fn start(
        name: &'static str,
        program: &str,
        args: &[&str],
        config: fn(&str, &str, &Path) -> String,
    ) -> Self {
        let dyno = Recorder::start().await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, config(&free, &dyno.address, dir.path())).unwrap();
        let child = Command::new(program)
            .args(args)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let there = || std::net::TcpStream::connect(&free).is_ok();
        until(&format!("{name} listens"), there).await;
        Self { name, address: free, dyno, _running: Box::new((child, dir)) }
    }

    /// What it makes of these bytes: the statuses, whether it closes, and how many requests reach the dyno; `!` behind
    /// the number if one of them can be read in two ways.
    async fn judge(&self, bytes: &[u8]) -> (String, usize) {
        self.dyno.take();
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
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
}

/// A peer may choose another Host for the dyno.
fn is_plain_but_for_host(seen: &super::Seen) -> bool {
    let mut seen = seen.clone();
    if let [host] = seen.values("host")[..] {
        seen.head = seen.head.replace(&format!(": {host}\r\n"), ": a.test\r\n");
    }
    is_plain(&seen)
}

fn haproxy(listen: &str, dyno: &str, _: &Path) -> String {
    format!(
        "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
         frontend f\n bind {listen}\n default_backend b\nbackend b\n server d {dyno} maxconn 1\n"
    )
}

fn nginx(listen: &str, dyno: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/errors;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {dir}/b;\nproxy_temp_path {dir}/p;\nfastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u;\nscgi_temp_path {dir}/s;\nserver {{ listen {listen};\nlocation / {{\n\
         proxy_pass http://{dyno};\nproxy_http_version 1.1;\nproxy_set_header Connection '';\n\
         proxy_set_header Host $host;\n}} }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_make_of_it() {
    if !std::env::var("HOSTILE").is_ok_and(|value| value == "report") {
        return;
    }
    let mut peers = vec![Peer::ours().await];
    if installed("haproxy", &["-v"]) {
        peers.push(Peer::start("HAProxy", "haproxy", &["-db", "-f"], haproxy).await);
    }
    if installed("nginx", &["-v"]) {
        peers.push(Peer::start("nginx", "nginx", &["-c"], nginx).await);
    }
    let names: Vec<_> = peers.iter().map(|peer| peer.name).collect();
    let head = format!("| case | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let (mut all, mut short, mut number) = (String::new(), String::new(), 0);
    for (group, cases) in GROUPS {
        let _ = write!(all, "\n## {group}\n\n{head}");
        for (name, text, ..) in *cases {
            let bytes = expand(text);
            let mut cells = Vec::new();
            for peer in &peers {
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
    let text =
        format!("{number} cases.\n{all}\n## Where they differ in what reaches the dyno\n\n{head}{short}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("hostile.md");
    std::fs::write(&target, text).unwrap();
}
