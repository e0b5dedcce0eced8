//! A stream of HTTP/2 that is to become a WebSocket (RFC 8441): the handshake that its dyno expects, and the stream as
//! something that carries bytes both ways.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use data_encoding::BASE64;
use h2::{RecvStream, SendStream};
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderValue, Method, Request};
use ring::digest::{Context as Digest, SHA1_FOR_LEGACY_USE_ONLY};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Side;

/// What a server puts behind the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most bytes that are given to a stream at once: the longest frame that every client takes.
const WRITE_MAX: usize = 16 << 10;

/// The handshake of HTTP/1.1, which the client of HTTP/2 knows nothing of.
pub(super) struct Handshake {
    /// What a dyno that has understood it answers.
    accept: String,
}

impl Handshake {
    /// Whether it has a `:protocol` that does not belong there: h2 lets it pass, once extended CONNECT is allowed.
    pub(super) fn is_malformed(request: &Request<RecvStream>) -> bool {
        let Some(_) = request.extensions().get::<h2::ext::Protocol>() else { return false };
        let target = request.uri();
        *request.method() != Method::CONNECT || target.scheme().is_none() || target.path_and_query().is_none()
    }

    /// Begins one if the client wants a WebSocket.
    pub(super) fn begun(request: &mut Request<RecvStream>) -> Option<Self> {
        let to = request.extensions().get::<h2::ext::Protocol>()?;
        if *request.method() != Method::CONNECT || !to.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        let key = BASE64.encode(&fastrand::u128(..).to_be_bytes());
        let value = HeaderValue::try_from(&key).ok()?;
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, value);
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        Some(Self { accept: accept(&key) })
    }

    /// The head for the client, if the dyno's shows that it has understood (RFC 6455 section 4.1).
    pub(super) fn is_kept_by(&self, mut head: http::response::Parts) -> Option<http::response::Parts> {
        let accept = head.headers.remove(SEC_WEBSOCKET_ACCEPT)?;
        (accept.as_bytes() == self.accept.as_bytes()).then_some(head)
    }
}

fn accept(key: &str) -> String {
    let mut digest = Digest::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(GUID);
    BASE64.encode(digest.finish().as_ref())
}

/// A stream as a socket. Dropped before its end, the client hears of it (CANCEL).
pub(super) struct Tunnel {
    recv: RecvStream,
    send: SendStream<Bytes>,
    /// What was received and not read yet; its room is the client's again once it is read.
    rest: Bytes,
    side: Arc<Side>,
}

impl Tunnel {
    pub(super) fn new(recv: RecvStream, send: SendStream<Bytes>, side: Arc<Side>) -> Self {
        Self { recv, send, rest: Bytes::new(), side }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(data) => self.rest = data.map_err(into_io)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        self.side.of_use();
        let _ = self.recv.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len().min(WRITE_MAX));
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(into_io)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let length = self.send.capacity().min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..length]), false).map_err(into_io)?;
        self.side.of_use();
        Poll::Ready(Ok(length))
    }

    /// What was written is with h2, which sends it without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of what we send, as TCP's FIN would be (RFC 8441 section 5).
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(into_io))
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_rfc_6455() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
