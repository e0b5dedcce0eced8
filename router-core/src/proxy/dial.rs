//! A connection to a dyno: opened when there is none, polled by whoever holds the lease, parked with the dyno.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::fault::Fault;
use crate::ids::Address;
use crate::proxy::upload::ToDyno;

/// The longest head of an answer.
const ANSWER_HEAD_MAX: usize = 512 << 10;

/// A dyno's one connection. It is the parcel of the dyno's lease.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<ToDyno>,
    driver: Option<Connection<TokioIo<Counted>, ToDyno>>,
    heard: Arc<Heard>,
    /// When it was last parked; `None` while it is new.
    pub(crate) parked: Option<Instant>,
}

impl Conn {
    /// Opens a connection that begins with the preamble.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`] or [`Fault::ConnectTimeout`]: the dyno has seen nothing of the request.
    pub(crate) async fn open(address: Address, limit: Duration, preamble: &[u8]) -> Result<Box<Self>, Fault> {
        match connect_with(address, limit, preamble).await {
            Ok(stream) => Self::over(stream).await,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Fault::ConnectTimeout),
            Err(_) => Err(Fault::ConnectRefused),
        }
    }

    /// Makes a connection of a socket.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`]: the dyno has seen nothing of the request.
    pub(crate) async fn over(stream: TcpStream) -> Result<Box<Self>, Fault> {
        // Without it only latency suffers.
        let _ = stream.set_nodelay(true);
        let heard = Arc::new(Heard::default());
        let io = TokioIo::new(Counted { stream, heard: Arc::clone(&heard) });
        // hyper takes 100 headers of an answer; with any other number it allocates for them with each answer.
        let shake = Builder::new().max_buf_size(ANSWER_HEAD_MAX).handshake(io).await;
        let (sender, driver) = shake.map_err(|_| Fault::ConnectRefused)?;
        Ok(Box::new(Self { sender, driver: Some(driver), heard, parked: None }))
    }

    /// Moves bytes both ways. Ready once the connection is over.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(()) };
        match Pin::new(driver).poll(cx) {
            Poll::Ready(_) => {
                self.driver = None;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the next request can go over it: nothing is under way and the dyno has not closed it.
    pub(crate) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_drive(cx).is_pending() && self.sender.is_ready()
    }

    /// Bytes read since the connection was opened.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.bytes.load(Ordering::Relaxed)
    }

    /// The head of an answer is here and more is to come. A server that sends head and body apart and leaves Nagle's
    /// algorithm on (most that do one thing at a time) holds the body back until the head is acknowledged, and the
    /// kernel holds that back for 40 ms: a dyno of 10 ms would do 20 requests a second instead of 100.
    pub(crate) fn expects_more(&self) {
        self.heard.acknowledge.store(true, Ordering::Relaxed);
    }
}

/// Opens a socket and sends the preamble.
pub(crate) async fn connect_with(
    address: Address,
    limit: Duration,
    preamble: &[u8],
) -> io::Result<TcpStream> {
    let stream = connect(address, limit).await?;
    if preamble.is_empty() {
        return Ok(stream);
    }
    stream.writable().await?;
    // The buffer of a new socket has room for a hundred bytes.
    match stream.try_write(preamble)? {
        sent if sent == preamble.len() => Ok(stream),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Opens a socket.
pub(crate) async fn connect(address: Address, limit: Duration) -> io::Result<TcpStream> {
    let late = |_| io::ErrorKind::TimedOut.into();
    tokio::time::timeout(limit, TcpStream::connect(address)).await.unwrap_or_else(|over| Err(late(over)))
}

/// What a connection tells about what it has read.
#[derive(Default)]
struct Heard {
    bytes: AtomicU64,
    /// Acknowledge at once when there is nothing more to read.
    acknowledge: AtomicBool,
}

/// Counts what is read: a request may be sent again only if the dyno has not answered a single byte.
struct Counted {
    stream: TcpStream,
    heard: Arc<Heard>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.heard.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        if result.is_pending() && self.heard.acknowledge.swap(false, Ordering::Relaxed) {
            // If the kernel will not, the answer only comes later.
            let _ = acknowledge_now(&self.stream);
        }
        result
    }
}

impl Drop for Counted {
    /// The dyno hears of the end now. Closing alone would tell it later if this process has just been forked: the child
    /// has the socket too until it runs its own program.
    fn drop(&mut self) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

#[cfg(target_os = "linux")]
fn acknowledge_now(stream: &TcpStream) -> io::Result<()> {
    stream.set_quickack(true)
}

/// Other kernels have no way to ask for it.
#[cfg(not(target_os = "linux"))]
fn acknowledge_now(_stream: &TcpStream) -> io::Result<()> {
    Ok(())
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn a_dyno_hears_that_its_connection_ends_even_while_a_forked_process_has_it_too() {
        let dyno = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(dyno.local_addr().unwrap()).await.unwrap();
        let _forked = stream.as_fd().try_clone_to_owned().unwrap();
        drop(Counted { stream, heard: Arc::default() });
        let (mut there, _) = dyno.accept().unwrap();
        there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(there.read(&mut [0]).unwrap(), 0);
    }
}
