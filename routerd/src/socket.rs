//! A client's socket with two hands on it: hyper reads and writes, and the request in between may send interim answers
//! and ask whether the client is gone.
//!
//! *Shared:* the stream, between hyper and the request that hyper is polling: both live in one task, so the lock is
//! never waited for. *Never:* an interim answer in the middle of another one: it is sent only while nothing of an
//! earlier answer is unflushed, and dropped otherwise (a pipelining client that does not read).

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use http::StatusCode;
use http::header::HeaderMap;
use router_core::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::stream::Stream;

/// What hyper reads from and writes to.
pub(crate) struct Socket(Arc<Side>);

/// The other hand on the socket.
pub(crate) struct Side {
    wire: Mutex<Wire>,
    /// Reading has come to an end: the client has closed its side, or the connection is broken.
    ended: AtomicBool,
}

struct Wire {
    stream: Stream,
    /// hyper has written and not flushed: an answer is on its way.
    unflushed: bool,
    /// The rest of an interim answer that the kernel did not take at once.
    interim: Vec<u8>,
    /// What the kernel does not take at once is kept here instead of being refused.
    keeps: bool,
    /// Our side was closed.
    shut: bool,
}

impl Socket {
    pub(crate) fn new(stream: Stream) -> (Self, Arc<Side>) {
        let wire =
            Mutex::new(Wire { stream, unflushed: false, interim: Vec::new(), keeps: false, shut: false });
        let side = Arc::new(Side { wire, ended: AtomicBool::new(false) });
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

    /// Whether hyper has read up to the end of what the client sent.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// hyper is about to write its last, and forgets what was refused when it ends there: until hyper has ended, all
    /// that it writes is taken. That is a head, and the answers before it that it has not sent yet.
    pub(crate) fn keep_all(&self, keeps: bool) {
        self.wire.lock().keeps = keeps;
    }

    /// Closes our side, if hyper has not: it leaves that out after a request that asked for another protocol in vain.
    pub(crate) fn close(&self) {
        let mut wire = self.wire.lock();
        if !wire.shut {
            wire.shut = true;
            // What the kernel does not take now is not waited for.
            let _ = Pin::new(&mut wire.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
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

impl Wire {
    /// Writes, behind what is left of an interim answer.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.poll_interim(cx)?.is_ready() {
            self.unflushed = true;
            let result = write(Pin::new(&mut self.stream), cx);
            if result.is_ready() || !self.keeps {
                return result;
            }
        } else if !self.keeps {
            return Poll::Pending;
        }
        let before = self.interim.len();
        bufs.iter().for_each(|buf| self.interim.extend_from_slice(buf));
        Poll::Ready(Ok(self.interim.len() - before))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.0.wire.lock().stream).poll_read(cx, buf);
        if result.is_ready() && buf.filled().len() == before {
            self.0.ended.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        wire.poll_write(cx, &[io::IoSlice::new(buf)], |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        wire.poll_write(cx, bufs, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        if !wire.keeps {
            ready!(wire.poll_interim(cx))?;
        }
        wire.unflushed = false;
        Pin::new(&mut wire.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        wire.shut = true;
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_hyper_writes_last_is_kept_for_a_client_that_does_not_read() {
        let long = Duration::from_secs(20);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut socket, side) = Socket::new(Stream::Tcp(listener.accept().await.unwrap().0));
        let (part, mut sent) = (vec![b'x'; 64 << 10], 0);
        while let Ok(written) = timeout(Duration::from_millis(200), socket.write(&part)).await {
            sent += written.unwrap();
        }
        side.keep_all(true);
        timeout(long, socket.write_all(b"last")).await.expect("it is taken at once").unwrap();
        side.keep_all(false);
        let mut read = Vec::new();
        let reads = timeout(long, client.read_to_end(&mut read));
        let (reads, ()) = tokio::join!(reads, async {
            socket.flush().await.unwrap();
            socket.write_all(b" word").await.unwrap();
            drop((socket, side));
        });
        reads.expect("all of it comes").unwrap();
        assert_eq!(read.len(), sent + 9);
        assert!(read.ends_with(b"xlast word"));
    }
}
