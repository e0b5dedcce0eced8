//! Bytes to and from a dyno, as they go over TCP or under TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::encryption::Secured;
use crate::ids::Address;

/// A connection to a dyno under encryption.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
}

/// A handshake that goes on.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Carrier>>> + Send>>;

/// Makes connections to dynos secure, and knows which dynos it may trust.
pub trait Connector: Send + Sync + 'static {
    /// The handshake with the dyno at that address, over a connection that is open. It ends with an error unless the
    /// dyno is who it should be.
    fn connect(&self, address: Address, stream: TcpStream) -> Connecting;
}

/// Dynos are spoken to by this connector. Two with the same mark do the same.
pub fn secured(mark: &str, connector: impl Connector) -> Secured {
    let connector: Box<dyn Connector> = Box::new(connector);
    Secured::new(mark, Arc::new(connector))
}

/// A connection to a dyno.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Tls(Box<dyn Carrier>),
}

/// Opens a connection that begins with the preamble, with its handshake if it has one.
pub(crate) async fn connect(
    address: Address,
    limit: Duration,
    preamble: &[u8],
    secured: Option<&Secured>,
) -> io::Result<Wire> {
    let open = async {
        let stream = TcpStream::connect(address).await?;
        // Without it only latency suffers.
        let _ = stream.set_nodelay(true);
        if !preamble.is_empty() {
            stream.writable().await?;
            // The buffer of a new socket has room for a hundred bytes.
            if stream.try_write(preamble)? != preamble.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        let Some(secured) = secured else { return Ok(Wire::Tcp(stream)) };
        // Never without, if it is wanted.
        let connector = secured.connector::<Box<dyn Connector>>();
        let connector = connector.ok_or_else(|| io::Error::other("no connector"))?;
        connector.connect(address, stream).await.map(Wire::Tls)
    };
    timeout(limit, open).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Wire {
    /// The socket below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}
