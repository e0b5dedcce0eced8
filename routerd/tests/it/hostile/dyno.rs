//! A dyno that writes down what reaches it, read strictly, and answers 200 to each whole request.

use std::sync::Arc;

use router_core::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: String,
    /// `None`: the connection ended within it.
    pub(super) body: Option<Vec<u8>>,
}

impl Seen {
    /// Method, target and body.
    pub(super) fn short(&self) -> String {
        let line: Vec<_> = self.head.splitn(3, ' ').take(2).collect();
        let body = self.body.as_ref().map_or_else(|| "<cut>".into(), |body| String::from_utf8_lossy(body));
        format!("{} {body}", line.join(" "))
    }

    /// Values of a header.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").filter_map(|line| line.split_once(':'));
        fields.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

pub(super) struct Recorder {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&all);
                tokio::spawn(async move { serve(stream, &seen).await });
            }
        });
        Self { address, seen }
    }

    /// What has come since the last time.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock())
    }
}

async fn serve(mut stream: TcpStream, all: &Mutex<Vec<Seen>>) {
    let mut read = Vec::new();
    loop {
        let Some(head) = until(&mut stream, &mut read, b"\r\n\r\n").await else { return };
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut seen = Seen { head, body: None };
        let chunked = !seen.values("transfer-encoding").is_empty();
        let length = seen.values("content-length").first().and_then(|length| length.parse().ok());
        seen.body = if chunked {
            chunks(&mut stream, &mut read).await
        } else {
            take(&mut stream, &mut read, length.unwrap_or(0)).await
        };
        let whole = seen.body.is_some();
        all.lock().push(seen);
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if !whole || stream.write_all(ok).await.is_err() {
            return;
        }
    }
}

async fn chunks(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = until(stream, read, b"\r\n").await?;
        let size = usize::from_str_radix(std::str::from_utf8(&size[..size.len() - 2]).ok()?, 16).ok()?;
        if size == 0 {
            while until(stream, read, b"\r\n").await?.len() > 2 {}
            return Some(body);
        }
        body.extend(take(stream, read, size).await?);
        take(stream, read, 2).await?;
    }
}

async fn until(stream: &mut TcpStream, read: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = read.windows(end.len()).position(|part| part == end) {
            return Some(read.drain(..at + end.len()).collect());
        }
        more(stream, read).await?;
    }
}

async fn take(stream: &mut TcpStream, read: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while read.len() < length {
        more(stream, read).await?;
    }
    Some(read.drain(..length).collect())
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<()> {
    stream.read_buf(read).await.ok().filter(|read| *read > 0).map(|_| ())
}
