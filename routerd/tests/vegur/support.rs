//! A stand for one test: the daemon in this process, a raw client socket and a raw dyno socket in the test's hands.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use router_core::sync::Mutex;
use routerd::config::Config;
use routerd::daemon::Daemon;
use routerd::log::{AccessLog, Format};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// The longest any wait of a test may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// A request without a body.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// An answer with a body of two bytes.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The daemon with one app, `a.test`, and its one dyno, which the test plays.
pub(crate) struct Stand {
    daemon: Daemon,
    dyno: TcpListener,
    lines: Lines,
}

/// Where the access log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stand {
    pub(crate) async fn new() -> Self {
        Self::with("", "").await
    }

    /// With more keys for the app.
    pub(crate) async fn app(keys: &str) -> Self {
        Self::with("", keys).await
    }

    /// With more keys for the server and for the app.
    pub(crate) async fn with(server: &str, app: &str) -> Self {
        let dyno = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = dyno.local_addr().unwrap();
        let dynos = format!("dynos = [\"{address}\"]\n{app}");
        Self::with_dynos(dyno, server, &dynos).await
    }

    /// With the dynos that `app` names.
    pub(crate) async fn with_dynos(dyno: TcpListener, server: &str, app: &str) -> Self {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n{server}\n[apps.shop]\nhosts = [\"a.test\"]\n{app}\n"
        );
        let config = Config::parse(&text, "test.toml").unwrap();
        let lines = Lines::default();
        let log = AccessLog::start(Format::Logfmt, 1000, lines.clone()).unwrap();
        let daemon = Daemon::start_with_log(&config, Some(log)).await.unwrap();
        Self { daemon, dyno, lines }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.daemon.addresses()[0]
    }

    /// A new connection of a client.
    pub(crate) async fn client(&self) -> Wire {
        Wire::new(TcpStream::connect(self.address()).await.unwrap())
    }

    /// A client that has sent this.
    pub(crate) async fn sent(&self, text: impl AsRef<[u8]>) -> Wire {
        let mut client = self.client().await;
        client.send(text).await;
        client
    }

    /// The next connection that the daemon opens to the dyno.
    pub(crate) async fn dyno(&self) -> Wire {
        let (stream, _) =
            timeout(DEADLINE, self.dyno.accept()).await.expect("no connection to the dyno").unwrap();
        Wire::new(stream)
    }

    /// Sends a request, lets the dyno answer, and gives both their sockets and heads.
    pub(crate) async fn exchange(&self, request: &str, answer: &str) -> Exchange {
        let mut client = self.sent(request).await;
        let mut dyno = self.dyno().await;
        let seen = dyno.head().await;
        dyno.send(answer).await;
        let got = client.head().await;
        Exchange { client, dyno, seen, got }
    }

    /// What the client gets for a request that must not reach the dyno.
    pub(crate) async fn refused(&self, request: impl AsRef<[u8]>) -> Head {
        let got = self.sent(request).await.head().await;
        self.dyno_was_left_alone().await;
        got
    }

    /// Fails if the daemon has opened a connection to the dyno.
    pub(crate) async fn dyno_was_left_alone(&self) {
        let short = Duration::from_millis(1);
        assert!(timeout(short, self.dyno.accept()).await.is_err(), "the request reached the dyno");
    }

    /// Waits for a line of the access log with all of these in it.
    pub(crate) async fn logged(&self, parts: &[&str]) -> String {
        let found = timeout(DEADLINE, async {
            loop {
                let text = String::from_utf8_lossy(&self.lines.0.lock()).into_owned();
                let hit = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
                if let Some(line) = hit {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("no {parts:?} in {:?}", String::from_utf8_lossy(&self.lines.0.lock())))
    }
}

/// Both ends of one request.
pub(crate) struct Exchange {
    pub(crate) client: Wire,
    pub(crate) dyno: Wire,
    /// What the dyno got.
    pub(crate) seen: Head,
    /// What the client got.
    pub(crate) got: Head,
}

/// A socket in the test's hands.
pub(crate) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.stream.write_all(text.as_ref())).await.expect("nobody reads").unwrap();
    }

    /// Sends as much as the other side takes; it may hang up.
    pub(crate) async fn try_send(&mut self, text: impl AsRef<[u8]>) {
        let _ = timeout(DEADLINE, self.stream.write_all(text.as_ref())).await.expect("nobody reads");
    }

    /// Closes the sending side only.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.read)).await;
        let read = read.unwrap_or_else(|_| panic!("silence after {:?}", String::from_utf8_lossy(&self.read)));
        // A reset is an end as well.
        read.unwrap_or(0) > 0
    }

    /// Reads up to and including `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|part| part == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            assert!(self.more().await, "closed after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub(crate) async fn head(&mut self) -> Head {
        Head::parse(&self.until("\r\n\r\n").await)
    }

    /// The next head; `None` if the connection ends instead.
    pub(crate) async fn head_or_end(&mut self) -> Option<Head> {
        while !self.read.windows(4).any(|part| part == b"\r\n\r\n") {
            if !self.more().await {
                return None;
            }
        }
        Some(self.head().await)
    }

    /// Reads the body that goes with the head, by its length or by chunks.
    pub(crate) async fn body(&mut self, head: &Head) -> Vec<u8> {
        match (head.get("content-length"), head.get("transfer-encoding")) {
            (Some(length), None) => self.take(length.parse().unwrap()).await,
            (None, Some("chunked")) => self.chunks().await.0,
            _ => panic!("not one frame: {head:?}"),
        }
    }

    /// Reads that many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(self.more().await, "closed after {} of {length} bytes", self.read.len());
        }
        let rest = self.read.split_off(length);
        std::mem::replace(&mut self.read, rest)
    }

    pub(crate) async fn text(&mut self, length: usize) -> String {
        String::from_utf8(self.take(length).await).unwrap()
    }

    /// Reads chunks to the last one: data, and the lines of the trailers.
    pub(crate) async fn chunks(&mut self) -> (Vec<u8>, Vec<String>) {
        let mut data = Vec::new();
        loop {
            let size = self.until("\r\n").await;
            let size =
                usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("chunk size {size:?}"));
            if size == 0 {
                break;
            }
            data.extend(self.take(size).await);
            assert_eq!(self.take(2).await, b"\r\n");
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.until("\r\n").await;
            if line == "\r\n" {
                return (data, trailers);
            }
            trailers.push(line.trim_end().to_owned());
        }
    }

    /// Reads to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    /// Fails unless the other side closes without another byte.
    pub(crate) async fn closes(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// Fails if anything comes, or the end, for a short while.
    pub(crate) async fn stays_silent(&mut self) {
        assert!(self.read.is_empty(), "{:?}", String::from_utf8_lossy(&self.read));
        let short = Duration::from_millis(50);
        let read = timeout(short, self.stream.read_buf(&mut self.read)).await;
        assert!(read.is_err(), "{read:?}: {:?}", String::from_utf8_lossy(&self.read));
    }
}

/// Start line and headers, as they came.
pub(crate) struct Head {
    pub(crate) line: String,
    lines: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let split = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        };
        Self { line, lines: lines.map(split).collect() }
    }

    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// All values of a name, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.lines.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a name; `None` if it is not there.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there {} times", all.len());
        all.first().copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The names as they were written.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.lines.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(crate) fn fault(&self) -> Option<&str> {
        self.get("x-router-fault")
    }

    /// Fails unless it is this status with this fault.
    pub(crate) fn is(&self, status: u16, fault: &str) {
        assert_eq!((self.status(), self.fault()), (status, Some(fault)), "{self:?}");
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        self.lines.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}
