//! A small HTTP server that keeps what it gets and answers as it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ring::hmac;
use router_core::sync::Mutex;
use rustls::pki_types::PrivateKeyDer;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What signs.
pub(crate) const SECRET: &str = "a secret, with a blank and \"quotes\"";

/// What the next request gets. Without more of them: status 200.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16),
    Redirect(String),
    /// No answer, for ever.
    Hang,
    /// The connection ends without an answer.
    Close,
}

/// What it got.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
    headers: http::HeaderMap,
}

/// The server.
pub(crate) struct Target {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    replies: Mutex<Vec<Reply>>,
    seen: Mutex<Vec<Post>>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Target {
    pub(crate) async fn start(replies: &[Reply]) -> Self {
        Self::start_as("http", replies, None).await
    }

    /// With TLS, and the certificate of its authority, which is itself.
    pub(crate) async fn start_tls(replies: &[Reply]) -> (Self, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::start_as("https", replies, Some(acceptor)).await, der.to_vec())
    }

    async fn start_as(scheme: &'static str, replies: &[Reply], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut replies = replies.to_vec();
        replies.reverse();
        let shared = Arc::new(Shared { replies: Mutex::new(replies), seen: Mutex::new(Vec::new()) });
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, scheme, shared, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// What it got so far.
    pub(crate) fn seen(&self) -> Vec<Post> {
        self.shared.seen.lock().clone()
    }

    /// The texts of the events that it got.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.seen().iter().map(|post| post.json()["text"].as_str().unwrap().to_owned()).collect()
    }
}

impl Post {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn check_signature(&self) {
        let timestamp = self.header("x-routerd-timestamp");
        let age = router_core::clock::wall().as_secs() - timestamp.parse::<u64>().unwrap();
        assert!(age < 60, "{age} s old");
        assert_eq!(self.header("x-routerd-signature"), signature(timestamp, &self.body));
    }
}

/// An address that nobody listens at, for as long as the socket is kept.
pub(crate) fn nobody() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// What the page says that a signature is.
pub(crate) fn signature(timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, &[timestamp.as_bytes(), b".", body].concat());
    let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => serve(stream, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, Arc::clone(&shared)));
    // That it ends in an error is what some replies are for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<String>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes().to_vec();
    let (method, path) = (head.method.to_string(), head.uri.to_string());
    shared.seen.lock().push(Post { method, path, body, at: now(), headers: head.headers });
    let reply = shared.replies.lock().pop().unwrap_or(Reply::Status(200));
    let response = match reply {
        Reply::Status(status) => Response::builder().status(status),
        Reply::Redirect(to) => Response::builder().status(302).header("location", to),
        Reply::Hang => match std::future::pending::<Infallible>().await {},
        Reply::Close => return Err(std::io::Error::other("told to")),
    };
    Ok(response.body("ok".to_owned()).unwrap())
}

fn now() -> Instant {
    router_core::clock::Clock::system().now()
}
