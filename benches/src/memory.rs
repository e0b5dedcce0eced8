//! What a connection and a waiting request cost a proxy in memory: its resident set before and after there are many.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use router_core::clock::Clock;
use serde::Serialize;

use crate::cpu;
use crate::peers::{Load, Peer};
use crate::wire::{self, Parsed};

/// How long a connection may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(20);
/// The resident set counts as settled when it has not grown for this long.
const SETTLED: Duration = Duration::from_millis(1000);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);
/// The path that the dyno answers only at the end.
const HOLD: &str = "/hold";

/// What was measured of one proxy.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Which proxy.
    pub proxy: String,
    /// How many connections there were, and then how many requests in line.
    pub connections: u32,
    /// The resident set with one connection, in bytes.
    pub start: u64,
    /// What each idle connection added that had carried one request, in bytes.
    pub per_connection: f64,
    /// What each request added that waited in line, on a connection that was there already, in bytes.
    pub per_waiting: f64,
}

/// Measures with so many connections, in front of one dyno.
///
/// # Errors
/// When the proxy cannot be started, or does not serve, or `interrupt` is set meanwhile.
pub fn measure(
    peer: Peer,
    program: &Path,
    connections: u32,
    load: &Load<'_>,
    interrupt: &AtomicBool,
) -> io::Result<Memory> {
    let dyno = HeldDyno::start()?;
    let proxy = peer.start(program, &[dyno.address], load)?;
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: dyno-bench\r\n\r\n", load.host);
    let mut first = open(proxy.address)?;
    for _ in 0..100 {
        exchange(&mut first, &request("/"))?;
    }
    let start = settled(&proxy.pids())?;
    let mut idle = Vec::new();
    for _ in 0..connections {
        go_on(interrupt)?;
        let mut stream = open(proxy.address)?;
        exchange(&mut stream, &request("/"))?;
        idle.push(stream);
    }
    let with_idle = settled(&proxy.pids())?;
    // One keeps the dyno; all others wait for it.
    first.write_all(request(HOLD).as_bytes())?;
    dyno.wait_until_held()?;
    for stream in &mut idle {
        go_on(interrupt)?;
        stream.write_all(request("/").as_bytes())?;
    }
    let with_waiting = settled(&proxy.pids())?;
    for stream in &idle {
        still_waits(stream)?;
    }
    go_on(interrupt)?;
    dyno.release();
    Ok(Memory::of(peer.name(), connections, [start, with_idle, with_waiting]))
}

impl Memory {
    /// From the resident sets with one connection, with so many, and with a request in line on each of these.
    fn of(proxy: &str, connections: u32, [start, with_idle, with_waiting]: [u64; 3]) -> Self {
        let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
        Self {
            proxy: proxy.to_owned(),
            connections,
            start,
            per_connection: each(start, with_idle),
            per_waiting: each(with_idle, with_waiting),
        }
    }
}

/// Writes the page: a line for each proxy.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(out: &mut impl Write, all: &[Memory]) -> io::Result<()> {
    writeln!(
        out,
        "{:12}{:>14}{:>12}{:>22}{:>22}",
        "", "connections", "start", "idle connection", "request in line"
    )?;
    for memory in all {
        let kib = |bytes: f64| format!("{:.2} KiB", bytes / 1024.0);
        writeln!(
            out,
            "{:12}{:>14}{:>12}{:>22}{:>22}",
            memory.proxy,
            memory.connections,
            format!("{} KiB", memory.start / 1024),
            kib(memory.per_connection),
            kib(memory.per_waiting)
        )?;
    }
    Ok(())
}

/// A dyno that answers at once, but for one path.
struct HeldDyno {
    address: SocketAddr,
    held: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
}

impl HeldDyno {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (held, released) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let dyno = Self { address, held: Arc::clone(&held), released: Arc::clone(&released) };
        // It ends with the program; a connection that fails is the proxy's business.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A proxy may open a second connection before it closes the first.
                let (held, released) = (Arc::clone(&held), Arc::clone(&released));
                thread::spawn(move || serve(stream, &held, &released));
            }
        });
        Ok(dyno)
    }

    fn wait_until_held(&self) -> io::Result<()> {
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        while !self.held.load(Ordering::Acquire) {
            if clock.now() > deadline {
                return Err(io::Error::other("the request that holds the dyno did not come"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn release(&self) {
        self.released.store(true, Ordering::Release);
    }
}

impl Drop for HeldDyno {
    fn drop(&mut self) {
        self.release();
    }
}

fn serve(mut stream: TcpStream, held: &AtomicBool, released: &AtomicBool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let Some(end) = head_end(&input) else {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..len]);
            continue;
        };
        if input.starts_with(format!("GET {HOLD} ").as_bytes()) {
            held.store(true, Ordering::Release);
            while !released.load(Ordering::Acquire) {
                thread::sleep(LOOK);
            }
        }
        input.drain(..end);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello world\n")?;
    }
}

fn head_end(input: &[u8]) -> Option<usize> {
    input.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn open(proxy: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    answer(stream)
}

/// Fails if there is an answer already: the request was refused and its memory is not what was measured.
fn still_waits(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(io::Error::other("a request did not wait in line")),
    }
}

/// Reads an answer to its end. Any other than 200 is an error.
fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut input = Vec::new();
    let head = loop {
        match wire::answer(&input) {
            Parsed::Whole(head) => break head,
            Parsed::Partial => more(stream, &mut input)?,
            Parsed::Broken => return Err(io::Error::other("the answer is not HTTP")),
        }
    };
    if head.status != 200 {
        let fault = head.fault.unwrap_or_default();
        return Err(io::Error::other(format!("an answer {} {fault}", head.status).trim_end().to_owned()));
    }
    input.drain(..head.len);
    let mut body = head.body;
    while !matches!(body.take(&mut input), Parsed::Whole(())) {
        more(stream, &mut input)?;
    }
    Ok(())
}

/// Reads on; the end is an error.
fn more(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Err(io::Error::other("closed before the end of an answer")),
        Ok(len) => {
            input.extend_from_slice(&buffer[..len]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let patience = humantime::format_duration(PATIENCE);
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience}")))
        }
        Err(error) => Err(error),
    }
}

fn go_on(interrupt: &AtomicBool) -> io::Result<()> {
    if interrupt.load(Ordering::Relaxed) { Err(io::Error::other("interrupted")) } else { Ok(()) }
}

/// The resident set of these processes and their descendants, once it has stopped growing.
fn settled(pids: &[u32]) -> io::Result<u64> {
    let clock = Clock::system();
    let (mut highest, mut since) = (cpu::resident(pids)?, clock.now());
    loop {
        thread::sleep(LOOK);
        let now = cpu::resident(pids)?;
        if now > highest {
            (highest, since) = (now, clock.now());
        } else if clock.now().duration_since(since) > SETTLED {
            return Ok(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
    }

    #[test]
    fn a_dyno_holds_one_request_until_it_is_released() {
        let dyno = HeldDyno::start().unwrap();
        let (mut held, mut other) = (open(dyno.address).unwrap(), open(dyno.address).unwrap());
        exchange(&mut held, &get("/")).unwrap();
        held.write_all(get(HOLD).as_bytes()).unwrap();
        dyno.wait_until_held().unwrap();
        still_waits(&held).unwrap();
        held.set_nonblocking(false).unwrap();
        // Whoever is answered meanwhile did not wait in line.
        exchange(&mut other, &get("/")).unwrap();
        other.write_all(get("/").as_bytes()).unwrap();
        other.peek(&mut [0]).unwrap();
        assert!(still_waits(&other).unwrap_err().to_string().contains("did not wait"));
        dyno.release();
        answer(&mut held).unwrap();
    }

    #[test]
    fn an_answer_other_than_200_is_told_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for (text, why) in [
            (&b"HTTP/1.1 503 x\r\nx-router-fault: H11\r\ncontent-length: 9\r\n\r\n"[..], "an answer 503 H11"),
            (b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\no", "closed before"),
            (b"no\r\n\r\n", "not HTTP"),
        ] {
            let mut client = open(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            server.write_all(text).unwrap();
            server.shutdown(std::net::Shutdown::Write).unwrap();
            let error = answer(&mut client).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn what_each_adds_is_counted_from_what_was_there_before_it() {
        const MIB: u64 = 1024 * 1024;
        let memory = Memory::of("routerd", 1_024, [10 * MIB, 10 * MIB + 5 * MIB / 2, 10 * MIB + 7 * MIB / 2]);
        let mut out = Vec::new();
        print(&mut out, &[memory]).unwrap();
        let words: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        let words: Vec<_> = words[1].split_whitespace().collect();
        assert_eq!(words, ["routerd", "1024", "10240", "KiB", "2.50", "KiB", "1.00", "KiB"]);
    }
}
