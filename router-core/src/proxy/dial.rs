//! A connection to a dyno: opened when there is none, polled by whoever holds the lease, parked with the dyno.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::encryption::Secured;
use crate::fault::Fault;
use crate::limits::{Limits, Protocol, ProxyHeader};
use crate::proxy::link::{self, Common, Link};
use crate::proxy::upload::ToDyno;
use crate::proxy::wire::{Wire, connect};
use crate::router::Lease;

/// The longest head of an answer.
pub(crate) const ANSWER_HEAD_MAX: usize = 512 << 10;

/// A dyno's one connection. It is the parcel of the dyno's lease.
pub(crate) struct Conn {
    talk: Talk,
    heard: Arc<Heard>,
    secured: Option<Secured>,
    /// It was given a request since it was last driven.
    sent_now: bool,
    /// When it was last parked; `None` while it is new.
    pub(crate) parked: Option<Instant>,
}

#[expect(clippy::large_enum_variant, reason = "a Conn is always in a box")]
enum Talk {
    Http1 {
        sender: SendRequest<ToDyno>,
        driver: Option<Connection<TokioIo<Counted>, ToDyno>>,
        /// The driver has come to its end; it still has the socket.
        over: bool,
    },
    /// The dyno's other leases have it too, and it has a task of its own.
    Http2(Arc<Link>),
}

/// A request that could not be sent, or was not answered.
pub(crate) type Unsent = TrySendError<Request<ToDyno>>;
/// The head of an answer that is still to come.
pub(crate) type Head = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Unsent>> + Send>>;

impl Conn {
    /// Opens a connection to the dyno of a lease that begins with the preamble, or joins the one that it shares, which
    /// has none.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`] or [`Fault::ConnectTimeout`]: the dyno has seen nothing of the request.
    #[expect(
        clippy::needless_pass_by_ref_mut,
        reason = "a reference to a lease that is shared could not be sent"
    )]
    pub(crate) async fn open(
        lease: &mut Lease,
        limits: &Limits,
        preamble: &[u8],
    ) -> Result<Box<Self>, Fault> {
        let address = lease.dyno().address;
        match limits.protocol {
            Protocol::Http1 => {
                let secured = limits.secured();
                let stream = connect(address, limits.connect, preamble, secured).await;
                Self::http1(stream.map_err(|error| Fault::of_connect(&error))?, secured).await
            }
            Protocol::H2c => {
                let now = lease.app().shared().now();
                lease.common::<Common>().open(address, limits, now).await.map(Self::shared)
            }
        }
    }

    /// The dyno's connection from a lease before or beside this one, if it can be used.
    pub(crate) fn warm(lease: &mut Lease, limits: &Limits) -> Option<Box<Self>> {
        let now = lease.app().shared().now();
        let parcel = lease.take_parcel::<Self>();
        match limits.protocol {
            Protocol::Http1 => {
                let mut conn = parcel?;
                let parked = conn.parked?;
                // What a connection has said of its client is true of no other.
                let bound = limits.proxy_protocol != ProxyHeader::Off;
                if bound || now.duration_since(parked) > limits.keepalive || !conn.is_as(limits) {
                    return None;
                }
                // Nobody is to be woken by what is only looked at: who sends next drives it again.
                conn.is_reusable(&mut Context::from_waker(Waker::noop())).then_some(conn)
            }
            Protocol::H2c => lease.common::<Common>().warm(limits, now).map(Self::shared),
        }
    }

    /// Makes a connection of a socket.
    ///
    /// # Errors
    /// [`Fault::ConnectRefused`]: the dyno has seen nothing of the request.
    pub(crate) async fn over(
        stream: Wire,
        protocol: Protocol,
        secured: Option<&Secured>,
    ) -> Result<Box<Self>, Fault> {
        match protocol {
            Protocol::Http1 => Self::http1(stream, secured).await,
            Protocol::H2c => Link::over(stream).await.map(Arc::new).map(Self::shared),
        }
    }

    fn shared(link: Arc<Link>) -> Box<Self> {
        Box::new(Self {
            talk: Talk::Http2(link),
            heard: Arc::default(),
            secured: None,
            sent_now: false,
            parked: None,
        })
    }

    async fn http1(stream: Wire, secured: Option<&Secured>) -> Result<Box<Self>, Fault> {
        let heard = Arc::new(Heard::default());
        let io = TokioIo::new(Counted { stream, heard: Arc::clone(&heard), hears: Hears::Yes });
        // hyper takes 100 headers of an answer; with any other number it allocates for them with each answer.
        let mut http = Builder::new();
        http.max_buf_size(ANSWER_HEAD_MAX)
            // Both are for a proxy to mend (RFC 9112 sections 5.1 and 5.2).
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true);
        let shake = http.handshake(io).await;
        let (sender, driver) = shake.map_err(|_| Fault::ConnectRefused)?;
        let talk = Talk::Http1 { sender, driver: Some(driver), over: false };
        Ok(Box::new(Self { talk, heard, secured: secured.cloned(), sent_now: false, parked: None }))
    }

    /// Sends a request; the head of its answer comes while the connection is driven.
    pub(crate) fn send(&mut self, mut request: Request<ToDyno>) -> Head {
        self.sent_now = true;
        match &mut self.talk {
            Talk::Http1 { sender, .. } => Box::pin(sender.try_send_request(request)),
            Talk::Http2(link) => {
                link::target(&mut request);
                Box::pin(link.sender().try_send_request(request))
            }
        }
    }

    /// A request on it has ended, and another may be sent: it stays with the dyno of the lease.
    pub(crate) fn stay(self: Box<Self>, lease: &mut Lease, limits: &Limits) {
        if let Talk::Http2(link) = self.talk {
            let now = lease.app().shared().now();
            lease.common::<Common>().rest(link, limits.keepalive, now);
        } else {
            self.put_back(lease);
        }
    }

    /// Nothing was sent over it, and it stays with the dyno of the lease.
    pub(crate) fn put_back(self: Box<Self>, lease: &mut Lease) {
        if !self.is_shared() {
            lease.put_parcel(self);
        }
    }

    /// Moves bytes both ways. Ready once the connection is over.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Talk::Http1 { driver, over, .. } = &mut self.talk else { return Poll::Pending };
        let Some(running) = driver.as_mut().filter(|_| !*over) else { return Poll::Ready(()) };
        let result = ready!(Pin::new(running).poll(cx));
        *over = true;
        if result.is_err() {
            *driver = None;
        }
        Poll::Ready(())
    }

    /// Looks for what this connection brings its one request, and drives it as long as there is nothing. It is called
    /// again when the waker is called.
    ///
    /// A connection of HTTP/1.1 is moved by nobody else, so what it brings is here after it was driven or not at all,
    /// and no waker is given to wait for it: hyper's two halves would call that of the task that is running, which
    /// would run once more for nothing, and again at the next request. The waker is given only for the last drive, to
    /// the socket and the client's body.
    pub(crate) fn poll_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.is_shared() {
            return look(cx);
        }
        let quiet = &mut Context::from_waker(Waker::noop());
        // A new request has to be sent before there can be anything.
        if !std::mem::take(&mut self.sent_now) {
            if let Poll::Ready(found) = look(quiet) {
                return Poll::Ready(found);
            }
            let _ = self.poll_drive(quiet);
            if let Poll::Ready(found) = look(quiet) {
                return Poll::Ready(found);
            }
        }
        let _ = self.poll_drive(cx);
        let found = look(quiet);
        // Whoever looks with no budget left sees nothing, and would have to be woken.
        if found.is_pending() && !tokio::task::coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
        }
        found
    }

    /// The socket, and what was read from it and is part of no answer, once the connection is over because the dyno has
    /// changed the protocol. `None`: it is not over, or broke. Then it is closed.
    pub(crate) fn into_io(self: Box<Self>) -> Option<(Counted, Bytes)> {
        let Talk::Http1 { driver, over: true, .. } = self.talk else { return None };
        let parts = driver?.into_parts();
        let mut io = parts.io.into_inner();
        io.hears = Hears::Upgraded;
        Some((io, parts.read_buf))
    }

    /// Whether other leases of its dyno have it too.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.talk, Talk::Http2(_))
    }

    /// Whether nothing is under way, as far as was read. Says nothing of a connection that is shared.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(&self.talk, Talk::Http1 { sender, over: false, .. } if sender.is_ready())
    }

    /// Whether the next request can go over it: nothing is under way and the dyno has not closed it.
    pub(crate) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_drive(cx).is_pending()
            && match &self.talk {
                Talk::Http1 { sender, .. } => sender.is_ready(),
                Talk::Http2(link) => link.is_open(),
            }
    }

    /// Whether it is as secure as the app wants it now.
    pub(crate) fn is_as(&self, limits: &Limits) -> bool {
        self.secured.as_ref() == limits.secured()
    }

    /// Bytes read since the connection was opened; 0 if it is shared, where they say nothing of one request.
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

/// What a connection tells about what it has read.
#[derive(Default)]
struct Heard {
    bytes: AtomicU64,
    /// Acknowledge at once when there is nothing more to read.
    acknowledge: AtomicBool,
}

/// Counts what is read: a request may be sent again only if the dyno has not answered a single byte. And has the
/// answer read of a dyno that gives it before it has the whole request, and closes its connection: the kernel says so
/// when more is written, and hyper would give up with the answer unread.
pub(crate) struct Counted {
    stream: Wire,
    heard: Arc<Heard>,
    hears: Hears,
}

/// Whether the dyno takes what is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hears {
    Yes,
    /// Not any more: what is written is thrown away, and the end is found by reading. `reset`: it was no orderly one.
    No {
        reset: bool,
    },
    /// The connection has changed the protocol: there is no answer that would still be read.
    Upgraded,
}

impl Counted {
    /// Whether that is how the dyno has closed the connection; then all that is written from now on counts as written.
    fn is_closed_by<T>(&mut self, result: &io::Result<T>) -> bool {
        let Some(kind) = result.as_ref().err().map(io::Error::kind) else { return false };
        let reset = kind == io::ErrorKind::ConnectionReset;
        let closed = self.hears == Hears::Yes && (reset || kind == io::ErrorKind::BrokenPipe);
        if closed {
            self.hears = Hears::No { reset };
        }
        closed
    }

    fn is_deaf(&self) -> bool {
        matches!(self.hears, Hears::No { .. })
    }
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
        } else if matches!(result, Poll::Ready(Ok(()))) && self.hears == (Hears::No { reset: true }) {
            // The kernel has said so already, to who has written.
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if result.is_pending() && self.heard.acknowledge.swap(false, Ordering::Relaxed) {
            // If the kernel will not, the answer only comes later.
            let _ = acknowledge_now(self.stream.tcp());
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
        if self.is_deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(if self.is_closed_by(&result) { Ok(buf.len()) } else { result })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf() {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(if self.is_closed_by(&result) { Ok(()) } else { result })
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
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_deaf() {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(if self.is_closed_by(&result) { Ok(length) } else { result })
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Read;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_dyno_hears_that_its_connection_ends_even_while_a_forked_process_has_it_too() {
        let dyno = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(dyno.local_addr().unwrap()).await.unwrap();
        let _forked = stream.as_fd().try_clone_to_owned().unwrap();
        drop(Counted { stream: Wire::Tcp(stream), heard: Arc::default(), hears: Hears::Yes });
        let (mut there, _) = dyno.accept().unwrap();
        there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(there.read(&mut [0]).unwrap(), 0);
    }
}
