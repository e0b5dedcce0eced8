//! Dynos as others meet them: each behaviour over real sockets, in every place, and real servers behind taps.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod alone;
mod behaviour;
#[path = "../support/needs.rs"]
mod needs;
mod places;
#[path = "../support/plan.rs"]
mod plan;
#[path = "../support/program.rs"]
mod program;
mod real;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use router_core::clock::Clock;

use program::PROGRAM;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request that asks for so much work.
pub(crate) fn send(mut stream: &TcpStream, ms: u64, id: &str) {
    let service = ms * 1_000_000;
    write!(stream, "GET / HTTP/1.1\r\nhost: a\r\nx-bench-service: {service}\r\nx-request-id: {id}\r\n\r\n")
        .unwrap();
}

/// Reads one answer with the default body, or what comes until the end.
pub(crate) fn answer(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut all, mut line) = (String::new(), String::new());
    while !all.ends_with("hello world\n") && reader.read_line(&mut line).unwrap_or(0) > 0 {
        all.push_str(&line);
        line.clear();
    }
    all
}

pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + PATIENCE;
    while !so() {
        assert!(clock.now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes that this one has started.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let all = procfs::process::all_processes().unwrap().filter_map(Result::ok).filter_map(|p| p.stat().ok());
    all.filter(|stat| stat.ppid == parent as i32 && stat.state != 'Z').map(|stat| stat.pid).collect()
}

pub(crate) fn lives(pid: i32) -> bool {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.state != 'Z')
}

/// A bench that would run for a minute, with as many children as it shall have.
pub(crate) fn long_bench(args: &[&str], expected: usize) -> (Child, Vec<i32>) {
    let child = Command::new(PROGRAM)
        .args(["--self-test", "--dynos", "2", "--clients", "2", "--duration", "60s", "--warmup", "0s"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut found = Vec::new();
    until("the bench has its children", || {
        found = children(child.id());
        found.len() == expected
    });
    (child, found)
}

pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
