//! A client's socket with two hands on it: hyper reads and writes, and the request in between may send interim answers
//! and ask whether the client is gone.
//!
//! *Shared:* the stream, between hyper and the request that hyper is polling: both live in one task, so the lock is
//! never waited for. *Never:* an interim answer in the middle of another one: it is sent only while nothing of an
//! earlier answer is unflushed, and dropped otherwise (a pipelining client that does not read).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use router_core::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::timeout;

use crate::stream::Stream;

/// What hyper reads from and writes to.
pub(crate) struct Socket(Arc<Side>);

/// The other hand on the socket.
pub(crate) struct Side {
    wire: Mutex<Wire>,
    /// Reading has come to an end: the client has closed its side, or the connection is broken.
    ended: AtomicBool,
    /// Bytes read since the last of them was of use.
    useless: AtomicU64,
}

struct Wire {
    stream: Stream,
    /// hyper has written and not flushed: an answer is on its way.
    unflushed: bool,
    /// The rest of an interim answer that the kernel did not take at once.
    interim: Vec<u8>,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> (Self, Arc<Side>) {
        let wire = Mutex::new(Wire { stream, unflushed: false, interim: Vec::new() });
        let side = Arc::new(Side { wire, ended: AtomicBool::new(false), useless: AtomicU64::new(0) });
        (Self(Arc::clone(&side)), side)
    }
}

impl Side {
    /// Whether the client has closed its side. Asks what the runtime knows already: no system call.
    pub(crate) fn is_gone(&self) -> bool {
        let wire = self.wire.lock();
        let ready = pin!(wire.stream.tcp().ready(Interest::READABLE));
        let mut cx = Context::from_waker(Waker::noop());
        matches!(ready.poll(&mut cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Says that nothing more will come, and takes in what the client still sends until it is done too, for `most` at
    /// the longest: a socket that is closed with unread bytes takes back what the client has not read yet.
    pub(crate) async fn part(&self, most: Duration) {
        let mut buffer = vec![0; 16 << 10];
        let done = poll_fn(|cx| {
            let mut wire = self.wire.lock();
            let _ = ready!(Pin::new(&mut wire.stream).poll_shutdown(cx));
            loop {
                let mut read = ReadBuf::new(&mut buffer);
                let result = ready!(Pin::new(&mut wire.stream).poll_read(cx, &mut read));
                if result.is_err() || read.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        });
        let _ = timeout(most, done).await;
    }

    /// Bytes that were read since [`Side::of_use`] was last said.
    pub(crate) fn useless(&self) -> u64 {
        self.useless.load(Ordering::Relaxed)
    }

    /// What has been read so far was worth it.
    pub(crate) fn of_use(&self) {
        self.useless.store(0, Ordering::Relaxed);
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
        let mut wire = self.wire.lock();
        if wire.unflushed {
            return;
        }
        wire.interim.extend_from_slice(text);
        let mut cx = Context::from_waker(Waker::noop());
        // An error shows again when hyper writes.
        if wire.poll_interim(&mut cx).is_ready() {
            let _ = Pin::new(&mut wire.stream).poll_flush(&mut cx);
        }
    }
}

impl Wire {
    /// Sends what is left of an interim answer.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim))?;
            self.interim.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.0.wire.lock().stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if result.is_ready() && read == 0 {
            self.0.ended.store(true, Ordering::Relaxed);
        }
        self.0.useless.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        ready!(wire.poll_interim(cx))?;
        wire.unflushed = true;
        Pin::new(&mut wire.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        ready!(wire.poll_interim(cx))?;
        wire.unflushed = true;
        Pin::new(&mut wire.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        wire.unflushed = false;
        Pin::new(&mut wire.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}
