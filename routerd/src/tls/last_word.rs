//! The last word to a client whose handshake fails: an alert where there is one to give, and time to read it.
//!
//! The library knows the alert for most of what goes wrong. Where a first message is no ClientHello it gives none,
//! though RFC 8446 section 6.2 wants one; and it closes at once, which takes back what a client that still sends has
//! not read yet.

use std::io;
use std::pin::pin;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{ContentType, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, LazyConfigAcceptor, StartHandshake};

/// `unexpected_message` (RFC 8446 section 6.2).
const UNEXPECTED_MESSAGE: u8 = 10;
/// `unrecognized_name` (RFC 6066 section 3), which the library does not send.
const UNRECOGNIZED_NAME: u8 = 112;
/// To a client that has not begun with TLS.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 38\r\n\r\nthis port speaks TLS: ask with https:\n\n";
/// How much of what a client still sends is read, and for how long, so that it gets to read why there is no connection.
const REST_MAX: u64 = 256 << 10;
const REST: Duration = Duration::from_secs(1);

/// What went wrong, and the connection if it is still there: it is to [`linger`].
pub(super) type Broken = (io::Error, Option<TcpStream>);

/// Reads the ClientHello.
pub(super) async fn hello(stream: TcpStream) -> Result<StartHandshake<TcpStream>, Broken> {
    let mut acceptor = pin!(LazyConfigAcceptor::new(Acceptor::default(), stream));
    let error = match acceptor.as_mut().await {
        Ok(start) => return Ok(start),
        Err(error) => error,
    };
    let mut stream = acceptor.take_io();
    if let Some(stream) = stream.as_mut().filter(|_| is_unsaid(&error)) {
        // Whether it hears of it or not, it has failed.
        let _ = stream.write_all(&alert(UNEXPECTED_MESSAGE)).await;
    }
    Err((error, stream))
}

/// Whether the library has said nothing. An alert is not answered.
fn is_unsaid(error: &io::Error) -> bool {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InappropriateMessage { got_type, .. }) => *got_type != ContentType::Alert,
        Some(Error::InappropriateHandshakeMessage { .. }) => true,
        _ => false,
    }
}

/// What follows the ClientHello.
pub(super) async fn handshake(accept: Accept<TcpStream>) -> Result<TlsStream<TcpStream>, Broken> {
    accept.into_fallible().await.map_err(|(error, stream)| (error, Some(stream)))
}

/// Nobody of that name lives here.
pub(super) async fn unrecognized_name(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&alert(UNRECOGNIZED_NAME)).await
}

/// Says in the client's own words that this is the wrong port.
pub(super) async fn answer_plain(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN).await
}

/// A fatal alert, not encrypted.
fn alert(what: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, what]
}

/// Ends a connection so that the other side gets to read what was written: closed with something unread, the kernel
/// would take it back.
pub(super) async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let (mut rest, mut nowhere) = (stream.take(REST_MAX), tokio::io::sink());
        let _ = timeout(REST, tokio::io::copy(&mut rest, &mut nowhere)).await;
    }
}
