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
/// When the proxy cannot be started, or does not serve.
pub fn measure(peer: Peer, program: &Path, connections: u32, load: &Load<'_>) -> io::Result<Memory> {
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
        let mut stream = open(proxy.address)?;
        exchange(&mut stream, &request("/"))?;
        idle.push(stream);
    }
    let with_idle = settled(&proxy.pids())?;
    // One keeps the dyno; all others wait for it.
    first.write_all(request(HOLD).as_bytes())?;
    dyno.wait_until_held()?;
    for stream in &mut idle {
        stream.write_all(request("/").as_bytes())?;
    }
    let with_waiting = settled(&proxy.pids())?;
    for stream in &idle {
        still_waits(stream)?;
    }
    dyno.release();
    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(connections);
    Ok(Memory {
        proxy: peer.name().to_owned(),
        connections,
        start,
        per_connection: each(start, with_idle),
        per_waiting: each(with_idle, with_waiting),
    })
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

/// Reads an answer, which is always the same short one.
fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
    while !input.ends_with(b"hello world\n") {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            let text = String::from_utf8_lossy(&input).into_owned();
            return Err(io::Error::other(format!("no answer, but {text:?}")));
        }
        input.extend_from_slice(&buffer[..len]);
    }
    if input.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(io::Error::other("an answer other than 200"))
    }
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
