//! A client's socket with two hands on it: hyper reads and writes, and the request in between may send interim answers
//! and ask whether the client is gone.
//!
//! *Shared:* the write half, between hyper and the request that hyper is polling: both live in one task, so the lock
//! is never waited for. *Never:* an interim answer in the middle of another one: it is sent only while nothing of an
//! earlier answer is unflushed, and dropped otherwise (a pipelining client that does not read).

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use http::StatusCode;
use http::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use router_core::sync::Mutex;

/// What hyper reads from and writes to.
pub(crate) struct Socket {
    read: OwnedReadHalf,
    side: Arc<Side>,
}

/// The other hand on the socket.
pub(crate) struct Side {
    out: Mutex<Out>,
    /// Reading has come to an end: the client has closed its side, or the connection is broken.
    ended: AtomicBool,
}

struct Out {
    half: OwnedWriteHalf,
    /// hyper has written and not flushed: an answer is on its way.
    unflushed: bool,
    /// The rest of an interim answer that the kernel did not take at once.
    interim: Vec<u8>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<Side>) {
        let (read, half) = stream.into_split();
        let out = Mutex::new(Out { half, unflushed: false, interim: Vec::new() });
        let side = Arc::new(Side { out, ended: AtomicBool::new(false) });
        (Self { read, side: Arc::clone(&side) }, side)
    }
}

impl Side {
    /// Whether the client has closed its side. Asks what the runtime knows already: no system call.
    pub(crate) fn is_gone(&self) -> bool {
        let out = self.out.lock();
        let stream: &TcpStream = out.half.as_ref();
        let ready = pin!(stream.ready(Interest::READABLE));
        let mut cx = Context::from_waker(Waker::noop());
        matches!(ready.poll(&mut cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Whether hyper has read up to the end of what the client sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Sends an interim answer (RFC 9110 section 15.2) at once, if nothing else is on its way.
    pub(crate) fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut text =
            format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default())
                .into_bytes();
        for (name, value) in headers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        self.send(&text);
    }

    /// Sends text as it is, between answers; what the kernel does not take goes before the next answer.
    pub(crate) fn send(&self, text: &[u8]) {
        let mut out = self.out.lock();
        if out.unflushed {
            return;
        }
        let sent = if out.interim.is_empty() { out.half.try_write(text).unwrap_or(0) } else { 0 };
        out.interim.extend_from_slice(&text[sent..]);
    }
}

impl Out {
    /// Sends what is left of an interim answer.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let sent = ready!(Pin::new(&mut self.half).poll_write(cx, &self.interim))?;
            self.interim.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.read).poll_read(cx, buf);
        if result.is_ready() && buf.filled().len() == before {
            self.side.ended.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut out = self.side.out.lock();
        ready!(out.poll_interim(cx))?;
        out.unflushed = true;
        Pin::new(&mut out.half).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut out = self.side.out.lock();
        ready!(out.poll_interim(cx))?;
        out.unflushed = true;
        Pin::new(&mut out.half).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.side.out.lock();
        out.unflushed = false;
        Pin::new(&mut out.half).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.side.out.lock();
        Pin::new(&mut out.half).poll_shutdown(cx)
    }
}
