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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderMap;
use router_core::fault::BadRequest;
use router_core::sync::Mutex;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::time::timeout;

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
    /// Bytes read since the last of them was of use.
    useless: AtomicU64,
    /// The kernel has given the connection up: the client took nothing for `send_timeout`.
    stalled: AtomicBool,
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
    /// What the kernel does not take at once is kept here instead of being refused.
    keeps: bool,
    /// Our side was closed.
    shut: bool,
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
    /// Nothing that the guard refuses gets to hyper.
    pub(crate) fn new(stream: Stream, guard: Guard) -> (Self, Arc<Side>) {
        let wire = Mutex::new(Wire {
            stream,
            guard,
            held: Vec::new(),
            waiting: None,
            refusal: Stage::Ahead,
            unflushed: false,
            interim: Vec::new(),
            keeps: false,
            shut: false,
        });
        let side = Arc::new(Side {
            wire,
            ended: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            useless: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        });
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

    /// Whether something has come that is not read yet, as the kernel knows it.
    pub(crate) fn has_unread(&self) -> bool {
        let wire = self.wire.lock();
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(wire.stream.tcp(), &mut [0], flags).is_ok_and(|(read, _)| read > 0)
    }

    /// Ready if nothing is held here, nothing has come of a request, and all that was written is with the kernel. What
    /// hyper holds is another matter.
    pub(crate) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = &mut *self.wire.lock();
        let waits = wire.unflushed || wire.keeps || !wire.held.is_empty() || !wire.interim.is_empty();
        if waits || !wire.guard.is_at_rest() {
            return Poll::Pending;
        }
        // An error shows again when hyper reads or writes.
        Pin::new(&mut wire.stream).poll_flush(cx).map(|_| ())
    }

    /// Waits until there is something to read, or the connection has ended.
    pub(crate) async fn readable(&self) {
        // What is wrong with it shows when hyper reads.
        poll_fn(|cx| self.wire.lock().stream.tcp().poll_read_ready(cx).map(|_| ())).await;
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

    /// Whether the connection has ended because the client took nothing for too long.
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Notes why the connection has ended.
    fn noted<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.stalled.store(true, Ordering::Relaxed);
        }
        result
    }

    /// What has been read so far was worth it.
    pub(crate) fn of_use(&self) {
        self.useless.store(0, Ordering::Relaxed);
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
        let _ = timeout(time, rest).await;
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
        let result = self.0.noted(self.0.wire.lock().poll_read(cx, buf));
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
        self.0.noted(wire.poll_write(cx, &[io::IoSlice::new(buf)], |stream, cx| stream.poll_write(cx, buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.wire.lock();
        self.0.noted(wire.poll_write(cx, bufs, |stream, cx| stream.poll_write_vectored(cx, bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire.lock();
        if !wire.keeps {
            ready!(self.0.noted(wire.poll_interim(cx)))?;
        }
        wire.unflushed = false;
        ready!(self.0.noted(Pin::new(&mut wire.stream).poll_flush(cx)))?;
        if wire.refusal == Stage::Reached {
            wire.refusal = Stage::Written;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
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
        let (mut socket, side) = Socket::new(Stream::Tcp(listener.accept().await.unwrap().0), Guard::open());
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
