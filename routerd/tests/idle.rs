//! What a connection costs that has nothing to do, in bytes of the heap: all of them are counted, so this has a process
//! of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dhat::{HeapStats, Profiler};
use routerd::config::Config;
use routerd::daemon::Daemon;
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Connections that are measured.
const MANY: usize = 200;
/// What one of them may cost: its task, its socket and no buffer. Without optimisation 4,051 bytes were counted, and
/// 12,267 with an empty slice of a buffer.
const MOST: usize = 5 << 10;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: nobody.test\r\nUser-Agent: one\r\n\r\n";

/// That many connections, each of which has had an answer.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut answer = [0; 4096];
    let one = |_| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        stream.write_all(REQUEST).expect("it takes a request");
        let read = stream.read(&mut answer).expect("an answer in time");
        assert!(answer[..read].starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer[..read]));
        stream
    };
    (0..count).map(one).collect()
}

/// Waits until so many connections rest, and says how much of the heap is in use.
fn in_use(daemon: &Daemon, resting: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(60);
    while daemon.resting() != resting {
        assert!(Instant::now() < end, "{} of {resting} connections rest", daemon.resting());
        std::thread::sleep(Duration::from_millis(20));
    }
    HeapStats::get().curr_bytes
}

#[test]
fn a_connection_that_rests_keeps_no_buffer() {
    let _profiler = Profiler::builder().testing().build();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let text = "[server]\nlisten = ['127.0.0.1:0']\n[log]\noutput = 'off'\n\
                [apps.shop]\nhosts = ['shop.test']\ndynos = ['127.0.0.1:9']\n";
    let config = Config::parse(text, "test.toml").expect("a configuration");
    let daemon = runtime.block_on(Daemon::start(&config)).expect("a daemon");
    let address = daemon.addresses()[0];
    // What the first ones cost is not theirs alone.
    let _first = connect(address, 50);
    let before = in_use(&daemon, 50);
    let _many = connect(address, MANY);
    let each = in_use(&daemon, 50 + MANY).saturating_sub(before) / MANY;
    assert!(each < MOST, "{each} bytes for a connection that rests");
    assert!(each > 1 << 10, "{each} bytes are too few to be true");
}
