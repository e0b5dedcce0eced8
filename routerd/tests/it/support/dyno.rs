//! A dyno that does what the path of a request says and fails the test when it is asked to do two things at once.
//!
//! The query of the path is the script: `ms` wait before the answer · `held=1` until the test lets it go · `body` its
//! length · `parts`, `gap` send it in that many parts with that many ms between · `length=0` chunks instead of
//! Content-Length · `do=close` end without an answer, `do=cut` end after the first part, `do=hang` never answer,
//! `do=reads` the same but end when the other side closes, `do=stall` fall silent after the first part, `do=garbage` ·
//! `keep=0` close after the answer · `next=close` end without an answer when the next request comes on this
//! connection · `readms` pause that long after each read of the body · `early=1` answer before the body has been read ·
//! `kind` its media type, and the body is that of [`text`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use router_core::sync::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::client::header;

/// A server that does one thing at a time.
pub(crate) struct Dyno {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    process: Mutex<Option<AbortHandle>>,
}

/// What a dyno was asked.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
    /// Bytes of the body that came.
    pub(crate) body: usize,
}

/// How a dyno is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    Well,
    /// Answers 500 at once, whatever the script says.
    Sick,
    /// Accepts and reads, and does not answer.
    Wedged,
}

#[derive(Default)]
struct Shared {
    mood: AtomicU8,
    active: AtomicUsize,
    answered: AtomicUsize,
    opened: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    wrong: Mutex<Vec<String>>,
    open: Mutex<Vec<Weak<TcpStream>>>,
    gate: Gate,
}

/// What `held` waits at.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Dyno {
    /// Starts one on a port of its own.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts some.
    pub(crate) async fn several(count: usize) -> Vec<Self> {
        let mut dynos = Vec::new();
        for _ in 0..count {
            dynos.push(Self::start().await);
        }
        dynos
    }

    /// Starts one at that address.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let dyno = Self { address, shared: Arc::default(), process: Mutex::new(None) };
        dyno.run(listener);
        tokio::task::yield_now().await;
        dyno
    }

    fn run(&self, listener: TcpListener) {
        let process = tokio::spawn(process(listener, Arc::clone(&self.shared)));
        *self.process.lock() = Some(process.abort_handle());
    }

    /// Its process dies: the listener and every connection are closed.
    pub(crate) async fn kill(&self) {
        let process = self.process.lock().take().unwrap();
        process.abort();
        super::until("the dyno is dead", || process.is_finished()).await;
        super::until("its connections are closed", || self.open_connections() == 0).await;
        self.shared.active.store(0, Ordering::SeqCst);
    }

    /// How it is from now on.
    pub(crate) fn is_now(&self, mood: Mood) {
        self.shared.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// Its process is started again, on the same port.
    pub(crate) fn restart(&self) {
        self.run(listen(self.address));
    }

    /// Closes its connections and goes on listening: what a keep-alive time-out does.
    pub(crate) fn close_connections(&self) {
        for stream in self.shared.open.lock().drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Both);
        }
    }

    /// Connections that nobody has closed.
    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open()
    }

    /// Everything it was asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// How many requests it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.shared.seen.lock().len()
    }

    /// How many it has answered to the last byte.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Connections it has had in all.
    pub(crate) fn connections(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// What should not have happened to it: two requests at once above all. Any of it fails the test in the end.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().clone()
    }

    /// Lets a request go on that is `held`, or the next one that would be.
    pub(crate) fn let_go(&self) {
        self.shared.gate.0.add_permits(1);
    }

    /// Whether it works on a request.
    pub(crate) fn is_working(&self) -> bool {
        self.shared.active.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Dyno {
    fn drop(&mut self) {
        if let Some(process) = self.process.lock().take() {
            process.abort();
        }
        let wrong = self.shared.wrong.lock();
        assert!(wrong.is_empty() || std::thread::panicking(), "{}: {wrong:?}", self.address);
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

async fn process(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with the task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            Some(_) = connections.join_next() => continue,
        };
        stream.set_nodelay(true).unwrap();
        let stream = Arc::new(stream);
        if shared.open() > 0 {
            shared.complain("a second connection while one was open");
        }
        shared.opened.fetch_add(1, Ordering::SeqCst);
        shared.open.lock().push(Arc::downgrade(&stream));
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

impl Shared {
    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    fn complain(&self, what: &str) {
        self.wrong.lock().push(what.to_owned());
    }

    /// Connections that neither side has closed.
    fn open(&self) -> usize {
        let mut open = self.open.lock();
        open.retain(|stream| stream.upgrade().is_some_and(|stream| is_open(&stream)));
        open.len()
    }
}

/// Whether neither side has closed it. Asks the kernel, because the router may open a new one as soon as it has closed
/// the old one, before anybody here has read that.
pub(crate) fn is_open(stream: &TcpStream) -> bool {
    let over = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut asked = [PollFd::new(stream, over)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}

/// One request under way.
struct Working<'a>(&'a Shared);

impl<'a> Working<'a> {
    fn begin(shared: &'a Shared) -> Self {
        if shared.active.fetch_add(1, Ordering::SeqCst) > 0 {
            shared.complain("a second request while one was under way");
        }
        Self(shared)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        // After a kill it is zero already.
        let less = |active: usize| Some(active.saturating_sub(1));
        let _ = self.0.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }
}

async fn serve(stream: Arc<TcpStream>, shared: Arc<Shared>) {
    let mut read = Vec::new();
    let mut close_next = false;
    while let Some(head) = read_head(&stream, &mut read).await {
        let working = Working::begin(&shared);
        let mut words = head.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        let script = Script::of(&path);
        let at = {
            let mut seen = shared.seen.lock();
            seen.push(Seen { method, path, head: head.clone(), body: 0 });
            seen.len() - 1
        };
        if close_next {
            return;
        }
        if !script.has("early") {
            let Some(body) = read_body(&stream, &mut read, &head, script.ms("readms")).await else { return };
            shared.seen.lock()[at].body = body;
        }
        while shared.is(Mood::Wedged) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if shared.is(Mood::Sick) {
            drop(working);
            let sick = b"HTTP/1.1 500 Sick\r\nContent-Length: 4\r\n\r\nsick";
            if write_all(&stream, sick).await {
                continue;
            }
            return;
        }
        tokio::time::sleep(script.ms("ms")).await;
        if script.has("held") {
            shared.gate.0.acquire().await.unwrap().forget();
        }
        if !answer(&stream, &script, working).await {
            return;
        }
        shared.answered.fetch_add(1, Ordering::SeqCst);
        if script.is("keep", "0") || script.has("early") {
            return;
        }
        close_next = script.is("next", "close");
    }
}

/// Says whether the answer was given to its end. The work is done when its last part is sent, not when somebody finds
/// the time to say so: the next request may be here before.
async fn answer(stream: &TcpStream, script: &Script, working: Working<'_>) -> bool {
    let mut working = Some(working);
    match script.get("do") {
        Some("close") => return false,
        Some("hang") => return std::future::pending().await,
        Some("reads") => {
            while more(stream, &mut Vec::new()).await.is_some() {}
            return false;
        }
        Some("garbage") => {
            write_all(stream, b"what?\r\n\r\n").await;
            return false;
        }
        _ => {}
    }
    let length = script.number("body").unwrap_or(3);
    let parts = script.number("parts").unwrap_or(1).max(1);
    let chunks = script.is("length", "0");
    let frame =
        if chunks { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {length}") };
    let close = if script.is("keep", "0") { "Connection: close\r\n" } else { "" };
    let kind = script.get("kind").map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
    let text = if kind.is_empty() { vec![b'x'; length] } else { text(length) };
    let mut out = format!("HTTP/1.1 200 OK\r\n{frame}\r\n{kind}{close}\r\n").into_bytes();
    for part in 0..parts {
        let (from, to) = (length * part / parts, length * (part + 1) / parts);
        let piece = to - from;
        if chunks {
            out.extend_from_slice(format!("{piece:x}\r\n").as_bytes());
        }
        out.extend_from_slice(&text[from..to]);
        if chunks {
            out.extend_from_slice(if part + 1 == parts { b"\r\n0\r\n\r\n" } else { b"\r\n" });
        }
        if part + 1 == parts && !write_all_but_one(stream, &mut out).await {
            return false;
        }
        if part + 1 == parts {
            working.take();
        }
        if !write_all(stream, &out).await || (part == 0 && script.is("do", "cut")) {
            return false;
        }
        if part == 0 && script.is("do", "stall") {
            return std::future::pending().await;
        }
        out.clear();
        if part + 1 < parts {
            tokio::time::sleep(script.ms("gap")).await;
        }
    }
    true
}

/// A text of that length, in which nothing stands in one place alone and little comes again soon.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"etaoin shrdlu\n<p>"[(state >> 28) as usize]
    };
    std::iter::repeat_with(&mut letter).take(length).collect()
}

/// The query of a path.
struct Script(Vec<(String, String)>);

impl Script {
    fn of(path: &str) -> Self {
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.get(name).map(|value| value.parse().unwrap())
    }

    fn ms(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name).unwrap_or(0) as u64)
    }
}

/// Reads something more; `None` at the end.
pub(crate) async fn more(stream: &TcpStream, read: &mut Vec<u8>) -> Option<()> {
    loop {
        stream.readable().await.ok()?;
        match stream.try_read_buf(read) {
            Ok(0) => return None,
            Ok(_) => return Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn read_head(stream: &TcpStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..at + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        more(stream, read).await?;
    }
}

async fn read_body(stream: &TcpStream, read: &mut Vec<u8>, head: &str, pause: Duration) -> Option<usize> {
    let length: Option<usize> = header(head, "content-length").map(|length| length.parse().unwrap());
    let chunked = header(head, "transfer-encoding").is_some();
    let mut sum = 0;
    loop {
        match length {
            Some(length) => {
                let part = read.len().min(length - sum);
                read.drain(..part);
                sum += part;
                if sum == length {
                    return Some(sum);
                }
            }
            None if !chunked => return Some(0),
            None => {
                if let Some(at) = read.windows(5).position(|five| five == b"0\r\n\r\n") {
                    // Chunks of the router begin with their length; only tests without "0\r\n\r\n" in a body use them.
                    read.drain(..at + 5);
                    return Some(at);
                }
            }
        }
        more(stream, read).await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Leaves the last byte to be written.
async fn write_all_but_one(stream: &TcpStream, bytes: &mut Vec<u8>) -> bool {
    // A short answer goes in one piece, as most do.
    if bytes.len() < 10_000 {
        return true;
    }
    let last = bytes.split_off(bytes.len() - 1);
    write_all(stream, bytes).await && {
        *bytes = last;
        true
    }
}

pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        if stream.writable().await.is_err() {
            return false;
        }
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}
