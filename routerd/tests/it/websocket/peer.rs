//! Both ends of a WebSocket for tests: a dyno that does one thing at a time and says when it is asked for more, and a
//! client that reads and writes frames.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use data_encoding::BASE64;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use router_core::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::DEADLINE;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;

/// A frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) data: Vec<u8>,
}

/// A close frame with that code and words.
pub(crate) fn close(code: u16, words: &str) -> Frame {
    Frame { opcode: CLOSE, data: [&code.to_be_bytes(), words.as_bytes()].concat() }
}

pub(crate) fn text(data: impl Into<Vec<u8>>) -> Frame {
    Frame { opcode: TEXT, data: data.into() }
}

impl Frame {
    /// As it goes over the wire.
    pub(crate) fn bytes(&self, masked: bool) -> Vec<u8> {
        let (mut out, mark) = (vec![0x80 | self.opcode], if masked { 0x80 } else { 0 });
        match self.data.len() {
            short @ 0..126 => out.push(mark | short as u8),
            middle @ 126..65536 => {
                out.push(mark | 126);
                out.extend((middle as u16).to_be_bytes());
            }
            long => {
                out.push(mark | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        let mask = if masked { fastrand::u32(..).to_be_bytes() } else { [0; 4] };
        if masked {
            out.extend(mask);
        }
        out.extend(self.data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }
}

/// One end of a WebSocket.
pub(crate) struct End<S = TcpStream> {
    pub(crate) stream: S,
    /// What it sends is masked: it is the client.
    pub(crate) masks: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> End<S> {
    pub(crate) async fn send(&mut self, frame: &Frame) {
        let bytes = frame.bytes(self.masks);
        timeout(DEADLINE, self.stream.write_all(&bytes)).await.expect("somebody reads").unwrap();
    }

    /// The next frame; `None` if the connection ends.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        timeout(DEADLINE, read_frame(&mut self.stream)).await.expect("a frame, or the end")
    }

    pub(crate) async fn echoes(&mut self, words: &str) {
        self.send(&text(words)).await;
        assert_eq!(self.next().await, Some(text(words)));
    }

    /// Says goodbye and waits for the end.
    pub(crate) async fn close(mut self, code: u16) {
        self.send(&close(code, "")).await;
        assert_eq!(self.next().await, Some(close(code, "")));
        assert_eq!(self.next().await, None);
    }
}

async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Frame> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let length = match head[1] & 0x7F {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).await.ok()?;
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).await.ok()?;
    data.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some(Frame { opcode: head[0] & 0x0F, data })
}

/// What a client sends to begin with.
pub(crate) fn wish(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A client whose WebSocket is open.
pub(crate) async fn open(address: SocketAddr, path: &str) -> End {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(wish(path).as_bytes()).await.unwrap();
    let head = timeout(DEADLINE, read_head(&mut stream)).await.expect("an answer").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    End { stream, masks: true }
}

/// A dyno that answers plain requests with "ok" and echoes what it hears on WebSockets, one thing at a time: besides
/// `streams` WebSockets it does not take two connections that want something of it.
pub(crate) struct WsDyno {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    process: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    streams: usize,
    requests: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    overlapped: AtomicBool,
    /// The close frames that it was sent, as code.
    closes: Mutex<Vec<u16>>,
    /// What it was asked for.
    asked: Mutex<Vec<String>>,
    /// What is at `/page`.
    page: Mutex<&'static str>,
}

impl State {
    fn look(&self) {
        let (requests, open) = (self.requests.load(Ordering::SeqCst), self.open.load(Ordering::SeqCst));
        self.most_open.fetch_max(open, Ordering::SeqCst);
        if requests + open.saturating_sub(self.streams) > 1 {
            self.overlapped.store(true, Ordering::SeqCst);
        }
    }
}

impl WsDyno {
    pub(crate) async fn start(streams: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { streams, ..State::default() });
        let mut process = JoinSet::new();
        process.spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, process: Mutex::new(process) }
    }

    pub(crate) async fn several(count: usize, streams: usize) -> Vec<Self> {
        let mut dynos = Vec::new();
        for _ in 0..count {
            dynos.push(Self::start(streams).await);
        }
        dynos
    }

    /// Its process dies with all of its connections.
    pub(crate) fn kill(&self) {
        self.process.lock().abort_all();
    }

    /// WebSockets that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub(crate) fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// The paths that it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().clone()
    }

    /// From now on that is at `/page`.
    pub(crate) fn shows(&self, page: &'static str) {
        *self.state.page.lock() = page;
    }

    pub(crate) fn closes(&self) -> Vec<u16> {
        self.state.closes.lock().clone()
    }
}

impl Drop for WsDyno {
    fn drop(&mut self) {
        let overlapped = self.state.overlapped.load(Ordering::SeqCst);
        assert!(!overlapped || std::thread::panicking(), "two things at once");
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, Arc::clone(&state)));
    }
}

/// Counts what it is part of, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize, state: &State) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        state.look();
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    stream.set_nodelay(true).unwrap();
    while let Some(head) = read_head(&mut stream).await {
        let request = Counted::new(&state.requests, &state);
        let path = head.split(' ').nth(1).unwrap().to_owned();
        state.asked.lock().push(path.clone());
        if path.contains("/forbidden") {
            drop(request);
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        if path.contains("/refuse") || !head.contains("upgrade: websocket") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            drop(request);
            let page = if path == "/page" { *state.page.lock() } else { "ok" };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(format!("{head}{page}").as_bytes()).await;
            continue;
        }
        drop(request);
        let open = Counted::new(&state.open, &state);
        let key = if path.contains("/misheard") { "another" } else { header(&head, "sec-websocket-key") };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept(key)
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let end = End { stream, masks: false };
        return talk(end, &path, &state, open).await;
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(has, _)| has.eq_ignore_ascii_case(name)).map(|(_, value)| value).next().unwrap_or("")
}

fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// `_open` goes before the connection is closed: from then on the dyno may be asked for something else.
async fn talk(mut end: End, path: &str, state: &State, _open: Counted<'_>) {
    if path.contains("/half") {
        // The first half of a frame, and the other one a moment later if it says so.
        let bytes = text("x".repeat(100)).bytes(false);
        end.stream.write_all(&bytes[..50]).await.unwrap();
        if path.contains("/half/whole") {
            tokio::time::sleep(std::time::Duration::from_millis(700)).await;
            let _ = end.stream.write_all(&bytes[50..]).await;
        }
    }
    if path.ends_with("/half") {
        // Silent until the other side has closed.
        while end.stream.read_u8().await.is_ok() {}
        return;
    }
    if path.contains("/closes") {
        end.send(&close(3003, "enough")).await;
    }
    while let Some(frame) = read_frame(&mut end.stream).await {
        let last = frame.opcode == CLOSE;
        if last {
            state.closes.lock().push(u16::from_be_bytes([frame.data[0], frame.data[1]]));
        }
        if !path.contains("/closes") && end.stream.write_all(&frame.bytes(false)).await.is_err() || last {
            return;
        }
    }
}
