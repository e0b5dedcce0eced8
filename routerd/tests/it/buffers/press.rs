//! A dyno whose answers can be checked byte by byte, and who checks the bodies it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use router_core::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::client::header;

/// It does one thing at a time, and ends the test when it is asked for two.
pub(super) struct Press {
    pub(super) address: SocketAddr,
    bodies: Arc<AtomicUsize>,
    says: mpsc::UnboundedSender<String>,
    overlaps: Arc<AtomicUsize>,
    process: JoinHandle<()>,
}

/// What it is asked to say on `/events`.
type Said = Arc<Mutex<mpsc::UnboundedReceiver<String>>>;

/// So many bytes, of which no part is like another.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}

impl Press {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (bodies, (says, said)) = (Arc::<AtomicUsize>::default(), mpsc::unbounded_channel());
        let overlaps = Arc::<AtomicUsize>::default();
        let (counted, noted, said) = (Arc::clone(&bodies), Arc::clone(&overlaps), Arc::new(Mutex::new(said)));
        let process = tokio::spawn(async move {
            let working = Working(Arc::default(), noted);
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, working.clone(), Arc::clone(&counted), Arc::clone(&said)));
            }
        });
        Self { address, bodies, says, overlaps, process }
    }

    /// How many bodies it has had, to their ends.
    pub(super) fn bodies(&self) -> usize {
        self.bodies.load(Ordering::SeqCst)
    }

    /// Sends that on `/events`.
    pub(super) fn says(&self, text: &str) {
        self.says.send(text.to_owned()).unwrap();
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        self.process.abort();
        let overlaps = self.overlaps.load(Ordering::SeqCst);
        assert!(overlaps == 0 || std::thread::panicking(), "{overlaps} requests while one was under way");
    }
}

/// How many requests it works on, and how many came too early.
#[derive(Clone)]
struct Working(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Working {
    fn begin(&self) {
        let early = self.0.fetch_add(1, Ordering::SeqCst) > 0;
        self.1.fetch_add(usize::from(early), Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(mut stream: TcpStream, working: Working, bodies: Arc<AtomicUsize>, said: Said) {
    let mut read = Vec::new();
    loop {
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
            match stream.read_buf(&mut read).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        working.begin();
        let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
        let path = head.split(' ').nth(1).unwrap().trim_start_matches('/');
        let done = if head.starts_with("POST") {
            let length = header(&head, "content-length").unwrap().parse().unwrap();
            let whole = take(&mut stream, &mut read, length).await;
            bodies.fetch_add(usize::from(whole), Ordering::SeqCst);
            let same = if read == pattern(length) { "same" } else { "else" };
            read.clear();
            say(&mut stream, &working, same.as_bytes()).await && whole
        } else if path == "events" {
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let mut said = std::mem::replace(&mut *said.lock(), mpsc::unbounded_channel().1);
            while let Some(text) = said.recv().await {
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if stream.write_all(chunk.as_bytes()).await.is_err() {
                    break;
                }
            }
            working.end();
            false
        } else {
            say(&mut stream, &working, &pattern(path.parse().unwrap_or(1))).await
        };
        if !done {
            return;
        }
    }
}

/// Reads until there is so much.
async fn take(stream: &mut TcpStream, read: &mut Vec<u8>, length: usize) -> bool {
    while read.len() < length {
        if !matches!(stream.read_buf(read).await, Ok(1..)) {
            return false;
        }
    }
    true
}

/// Answers. Its work is done when all is sent but for the last byte, for which the router waits.
async fn say(stream: &mut TcpStream, working: &Working, body: &[u8]) -> bool {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let (rest, last) = body.split_at(body.len() - 1);
    let sent = stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(rest).await.is_ok();
    working.end();
    sent && stream.write_all(last).await.is_ok()
}
