//! What a CA may also be: between the daemon and Pebble stands something that says when to renew (ARI, RFC 9773), or
//! refuses.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use router_core::sync::Mutex;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::tls::{Authority, TlsClient};

/// How it is.
#[derive(Clone, Default)]
pub(super) struct Mood {
    /// The windows of one certificate after the other, in RFC 3339; the last one stays.
    pub(super) windows: Vec<(String, String)>,
    /// Orders are refused: status, headers, problem or page.
    pub(super) orders: Option<(u16, &'static str, &'static str)>,
}

pub(super) struct Gate {
    pub(super) address: SocketAddr,
    pub(super) mood: Mutex<Mood>,
    /// New orders that were asked for.
    pub(super) orders: AtomicUsize,
    /// Those of them that name the certificate which they replace.
    pub(super) replacing: AtomicUsize,
    /// Where Pebble is.
    behind: u16,
    client: TlsClient,
}

impl Gate {
    /// In front of the CA on that port, whose HTTPS is signed by `own`, as that of this one.
    pub(super) async fn start(own: &Authority, behind: u16, mood: Mood) -> Arc<Self> {
        let issued = own.issue("gate", &["127.0.0.1"]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![issued.der], issued.secret).unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(server)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let gate = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            mood: Mutex::new(mood),
            orders: AtomicUsize::new(0),
            replacing: AtomicUsize::new(0),
            behind,
            client: own.client(),
        });
        let shared = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, gate) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| gate.answer(request));
                    // It ends as the daemon wants.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        gate
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().to_owned();
        if path.starts_with("/ari/") {
            return Ok(self.window());
        }
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if path == "/order-plz" {
            self.orders.fetch_add(1, Ordering::Relaxed);
            let jws: Value = serde_json::from_slice(&body).unwrap();
            let payload = BASE64URL_NOPAD.decode(jws["payload"].as_str().unwrap().as_bytes()).unwrap();
            if String::from_utf8(payload).unwrap().contains("\"replaces\":") {
                self.replacing.fetch_add(1, Ordering::Relaxed);
            }
            if let Some((status, kind, text)) = self.mood.lock().orders {
                let answer = Response::builder().status(status).header("content-type", kind);
                let answer = answer.header("retry-after", "7200").header("replay-nonce", "none");
                return Ok(answer.body(Full::from(text)).unwrap());
            }
        }
        head.uri = format!("https://127.0.0.1:{}{path}", self.behind).parse().unwrap();
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.client.config.clone());
        let client: Client<_, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build(tls.https_only().enable_http1().build());
        let Ok(answer) = client.request(Request::from_parts(head, Full::from(body))).await else {
            let answer = Response::builder().status(StatusCode::BAD_GATEWAY);
            return Ok(answer.body(Full::default()).unwrap());
        };
        let (mut head, body) = answer.into_parts();
        let mut body = body.collect().await.unwrap().to_bytes();
        if path == "/dir" && !self.mood.lock().windows.is_empty() {
            let mut directory: Value = serde_json::from_slice(&body).unwrap();
            directory["renewalInfo"] = json!(format!("https://{}/ari", self.address));
            body = directory.to_string().into();
            head.headers.remove("content-length");
        }
        Ok(Response::from_parts(head, Full::from(body)))
    }

    fn window(&self) -> Response<Full<Bytes>> {
        let windows = &mut self.mood.lock().windows;
        let (start, end) = if windows.len() > 1 { windows.remove(0) } else { windows[0].clone() };
        let text = json!({ "suggestedWindow": { "start": start, "end": end } }).to_string();
        let answer =
            Response::builder().header("content-type", "application/json").header("retry-after", "21600");
        answer.body(Full::from(text)).unwrap()
    }
}
