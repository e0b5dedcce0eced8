//! A client that writes bytes and reads answers, and knows no more of HTTP than where an answer ends.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::DEADLINE;

/// One connection to the daemon.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// 0: the connection ended without an answer.
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// All of it came.
    pub(crate) whole: bool,
}

impl Answer {
    /// A header of it, or "".
    pub(crate) fn header(&self, name: &str) -> &str {
        header(&self.head, name).unwrap_or_default()
    }

    /// The code of the fault, or "-".
    pub(crate) fn fault(&self) -> &str {
        header(&self.head, "x-router-fault").unwrap_or("-")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// It came, whole, with 200 and the body of a dyno.
    pub(crate) fn is_ok(&self) -> bool {
        self.status == 200 && self.whole && self.fault() == "-"
    }
}

/// A header of a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap();
        Self::over(stream)
    }

    /// A client whose kernel takes next to nothing in.
    pub(crate) async fn small(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self::over(TcpSocket::from_std_stream(socket.into()).connect(address).await.unwrap())
    }

    /// A client on a connection that is there.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Writes bytes; that the other side is gone is seen by reading.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(DEADLINE, self.stream.write_all(bytes.as_ref())).await.expect("it takes the bytes");
    }

    /// Whether the other side has not ended it, as far as is known now.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0; 64]), Ok(0))
            && self.stream.take_error().is_ok_and(|error| error.is_none())
    }

    /// Sends a request without a body.
    pub(crate) async fn ask(&mut self, method: &str, path: &str) {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path).await;
        self.answer().await
    }

    /// GET from the admin listener of this machine, which answers to no other name.
    pub(crate) async fn local(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.answer().await
    }

    /// A request with a body.
    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n"))
            .await;
        self.send(body).await;
        self.answer().await
    }

    /// Takes what is there, and no more than that, without waiting. Says how much it was.
    pub(crate) fn take(&mut self, most: usize) -> usize {
        let mut part = vec![0; most];
        let read = self.stream.try_read(&mut part).unwrap_or_default();
        self.read.extend_from_slice(&part[..read]);
        read
    }

    /// Reads something more; false at the end.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.read)).await.expect("something to read");
        read.is_ok_and(|read| read > 0)
    }

    /// Reads the head of the next answer; interim answers are left out.
    pub(crate) async fn head(&mut self) -> Answer {
        loop {
            while let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..at + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                if status >= 200 {
                    return Answer { status, head, ..Answer::default() };
                }
            }
            if !self.more().await {
                return Answer::default();
            }
        }
    }

    /// Reads the next answer to its end.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.status != 0 {
            self.body(&mut answer).await;
        }
        answer
    }

    /// Reads the body of an answer whose head is there.
    pub(crate) async fn body(&mut self, answer: &mut Answer) {
        if let Some(length) = header(&answer.head, "content-length") {
            let length: usize = length.parse().unwrap();
            answer.whole = true;
            while self.read.len() < length && answer.whole {
                answer.whole = self.more().await;
            }
            let there = length.min(self.read.len());
            answer.body = self.read.drain(..there).collect();
        } else if header(&answer.head, "transfer-encoding").is_some() {
            answer.whole = self.chunks(&mut answer.body).await;
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.read);
            answer.whole = true;
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            match self.chunk(body).await {
                None => return false,
                Some(0) => return true,
                Some(_) => {}
            }
        }
    }

    /// Reads one chunk, and says how long it is; `None` at the end of the connection.
    pub(crate) async fn chunk(&mut self, body: &mut Vec<u8>) -> Option<usize> {
        let at = loop {
            match self.read.windows(2).position(|two| two == b"\r\n") {
                Some(at) => break at,
                None if self.more().await => {}
                None => return None,
            }
        };
        let length = usize::from_str_radix(std::str::from_utf8(&self.read[..at]).unwrap(), 16).unwrap();
        while self.read.len() < at + 2 + length + 2 {
            if !self.more().await {
                return None;
            }
        }
        body.extend_from_slice(&self.read[at + 2..at + 2 + length]);
        self.read.drain(..at + 2 + length + 2);
        Some(length)
    }

    /// Waits until the other side has closed, and says what came before.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }
}
