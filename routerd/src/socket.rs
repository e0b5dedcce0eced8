//! A client's socket with two hands on it: hyper reads and writes, and the request in between may send interim answers
//! and ask whether the client is gone.
//!
//! *Shared:* the stream, between hyper and the request that hyper is polling: both live in one task, so the lock is
//! never waited for. *Never:* an interim answer in the middle of another one: it is sent only while nothing of an
//! earlier answer is unflushed, and dropped otherwise (a client that does not read). *Never:* a byte for hyper that the
//! guard has not let pass. What it refuses in a head ends the reading with an error once all answers before it are
//! written; what it refuses in a body, at once.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use router_core::fault::BadRequest;
use router_core::sync::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::guard::Guard;
use crate::stream::Stream;

/// How long, and for how many bytes, a client that was refused may go on sending: closed before, it would lose the
/// answer to a reset (RFC 9112 section 9.6).
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 << 10);

/// What hyper reads from and writes to.
pub(crate) struct Socket(Arc<Side>);

/// The other hand on the socket.
pub(crate) struct Side {
    wire: Mutex<Wire>,
    /// Reading has come to an end: the client has closed its side, or the connection is broken.
    ended: AtomicBool,
    /// The client may still send what nobody wants to read.
    refused: AtomicBool,
}

struct Wire {
    stream: Stream,
    guard: Guard,
    /// What was read behind a request that asks for another protocol, and who waits for it.
    held: Vec<u8>,
    waiting: Option<Waker>,
    /// How far the refusal of a head has come.
    refusal: Stage,
    /// hyper has written and not flushed: an answer is on its way.
    unflushed: bool,
    /// The rest of an interim answer that the kernel did not take at once.
    interim: Vec<u8>,
}

/// What has been done about a head that the guard refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: hyper has not come to it.
    Ahead,
    /// hyper wants to read on, so the answers before it are made; perhaps they are not written.
    Reached,
    /// They are.
    Written,
}

impl Socket {
    /// Takes the longest head of a request, in bytes.
    pub(crate) fn new(stream: Stream, head_max: usize) -> (Self, Arc<Side>) {
        let wire = Mutex::new(Wire {
            stream,
            guard: Guard::new(head_max),
            held: Vec::new(),
            waiting: None,
            refusal: Stage::Ahead,
            unflushed: false,
            interim: Vec::new(),
        });
        let side = Side { wire, ended: AtomicBool::new(false), refused: AtomicBool::new(false) };
        let side = Arc::new(side);
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

    /// What is wrong with the head that has ended the reading, if one has.
    pub(crate) fn refusal(&self) -> Option<BadRequest> {
        let wire = self.wire.lock();
        let refusal = wire.guard.refusal().filter(|refusal| !refusal.in_body && wire.refusal != Stage::Ahead);
        refusal.map(|refusal| refusal.cause)
    }

    /// The present request is answered. `switched`: the connection speaks another protocol from now on, and the guard
    /// leaves it alone. Says whether nothing more will be read of this client.
    pub(crate) fn answered(&self, switched: bool) -> bool {
        let mut wire = self.wire.lock();
        wire.guard.decided(switched);
        if let Some(waiting) = wire.waiting.take() {
            waiting.wake();
        }
        wire.guard.is_over()
    }

    /// The client is refused while it may still be sending: its connection has to be closed gently.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Ends the connection of a client that was refused: says that nothing more comes, and reads what it still sends,
    /// for a while, so that it gets to see its answer.
    pub(crate) async fn close_gently(&self) {
        if !self.refused.load(Ordering::Relaxed) || self.has_ended() {
            return;
        }
        let (time, mut bytes) = LINGER;
        let rest = poll_fn(|cx| {
            let wire = &mut *self.wire.lock();
            // What could not be written to it will not be read by it.
            let _ = ready!(wire.poll_interim(cx));
            let _ = ready!(Pin::new(&mut wire.stream).poll_shutdown(cx));
            let mut buf = [0; 4096];
            loop {
                let mut buf = ReadBuf::new(&mut buf);
                let read = ready!(Pin::new(&mut wire.stream).poll_read(cx, &mut buf));
                bytes = bytes.saturating_sub(buf.filled().len());
                if read.is_err() || buf.filled().is_empty() || bytes == 0 {
                    return Poll::Ready(());
                }
            }
        });
        // Whoever takes longer has had its time.
        let _ = tokio::time::timeout(time, rest).await;
    }

    /// Sends an interim answer (RFC 9110 section 15.2) at once, if nothing else is on its way.
    pub(crate) fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        // One that waits is enough: a dyno may have any number of them for a client that does not read.
        if !self.wire.lock().interim.is_empty() {
            return;
        }
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

    /// Reads what the guard lets pass.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(refusal) = self.guard.refusal() {
            if !refusal.in_body && self.refusal != Stage::Written {
                // The flush that follows each read of hyper's tells when the answers are written.
                self.refusal = Stage::Reached;
                return Poll::Pending;
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.cause.as_str())));
        }
        if self.guard.is_asked() && !self.held.is_empty() {
            return self.wait(cx);
        }
        let before = buf.filled().len();
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let part = self.held.len().min(buf.remaining());
            buf.put_slice(&self.held[..part]);
            self.held.drain(..part);
        }
        let read = &buf.filled()[before..];
        let passed = self.guard.pass(read);
        if passed == read.len() {
            return Poll::Ready(Ok(()));
        }
        match self.guard.refusal() {
            None => {
                self.held.extend_from_slice(&read[passed..]);
                buf.set_filled(before + passed);
                if passed == 0 { self.wait(cx) } else { Poll::Ready(Ok(())) }
            }
            Some(refusal) if refusal.in_body => {
                buf.set_filled(before + passed);
                if passed == 0 { self.poll_read(cx, buf) } else { Poll::Ready(Ok(())) }
            }
            Some(_) => {
                // One letter more, which begins a head that never ends: hyper asks for the rest once it has come to it,
                // and not while a request before it is being served.
                buf.filled_mut()[before + passed] = b'X';
                buf.set_filled(before + passed + 1);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Waits for what becomes of a request that asks for another protocol.
    fn wait(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.0.wire.lock().poll_read(cx, buf);
        if result.is_ready() && buf.filled().len() == before {
            self.0.ended.store(true, Ordering::Relaxed);
        }
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
        ready!(Pin::new(&mut wire.stream).poll_flush(cx))?;
        if wire.refusal == Stage::Reached {
            wire.refusal = Stage::Written;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        Pin::new(&mut wire.stream).poll_shutdown(cx)
    }
}
