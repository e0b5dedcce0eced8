//! A good client of HTTP/2.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::DEADLINE;

/// One connection.
pub(crate) struct Http2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// An answer that came to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A request of this client with these headers.
pub(crate) fn request(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://shop.test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Http2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &Builder::new()).await
    }

    /// With settings of its own.
    pub(crate) async fn connect_with(address: SocketAddr, builder: &Builder) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, connection) = timeout(DEADLINE, builder.handshake(stream)).await.unwrap().unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Sends a request; its body, if there is to be one, is sent by the caller.
    pub(crate) async fn send(&self, request: Request<()>, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = timeout(DEADLINE, self.send.clone().ready()).await.unwrap().unwrap();
        ready.send_request(request, ends).unwrap()
    }

    /// Sends a request without a body and reads its answer.
    pub(crate) async fn ask(&self, request: Request<()>) -> Result<Reply, h2::Error> {
        let (answer, _body) = self.send(request, true).await;
        read(answer).await
    }

    /// Whether the server says that it takes extended CONNECT.
    pub(crate) fn may_connect(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply, h2::Error> {
        self.ask(request("GET", path, &[])).await
    }

    /// Ends the connection without a word.
    pub(crate) async fn cut(self) {
        self.driver.abort();
        let _ = self.driver.await;
    }

    /// Waits until the connection is over.
    pub(crate) async fn over(self) -> Result<(), h2::Error> {
        let Self { send, driver } = self;
        let over = timeout(DEADLINE, driver).await.expect("the connection ends").unwrap();
        drop(send);
        over
    }
}

/// Reads an answer to its end.
pub(crate) async fn read(answer: ResponseFuture) -> Result<Reply, h2::Error> {
    let answer = timeout(DEADLINE, answer).await.expect("an answer")?;
    let (head, mut body): (_, RecvStream) = Response::into_parts(answer);
    let mut bytes = Vec::new();
    while let Some(data) = timeout(DEADLINE, body.data()).await.expect("a part of the body") {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend(data);
    }
    let trailers = body.trailers().await?;
    Ok(Reply { head, body: bytes, trailers })
}

/// The code of a stream or connection that was ended.
pub(crate) fn reason<T: std::fmt::Debug>(result: Result<T, h2::Error>) -> Reason {
    result.unwrap_err().reason().expect("a code")
}
