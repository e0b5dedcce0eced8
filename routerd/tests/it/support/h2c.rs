//! A dyno that speaks HTTP/2 without TLS: it does what the query of a path says, and counts what it has at once.
//!
//! `ms` wait before the answer · `body` its length · `trailers=1` say in a trailer how long the body was that came ·
//! `do=hang` never answer, `do=reset` reset the stream, `do=cut` reset it in the middle of the body, `do=close` close
//! the whole connection · `echo=1` send each part of the body back as it comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use router_core::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

/// A server of HTTP/2.
pub(crate) struct H2c {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    process: AbortHandle,
}

#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    opened: AtomicUsize,
    active: AtomicUsize,
    most: AtomicUsize,
    reset: AtomicUsize,
    seen: Mutex<Vec<http::request::Parts>>,
    second: AtomicUsize,
    close: Notify,
}

/// Counts something while it lives.
struct Counted(Arc<Shared>, fn(&Shared) -> &AtomicUsize);

impl Counted {
    fn new(shared: &Arc<Shared>, what: fn(&Shared) -> &AtomicUsize) -> Self {
        what(shared).fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared), what)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::SeqCst);
    }
}

impl H2c {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let process = tokio::spawn(process(listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, process }
    }

    /// Closes its connection and goes on listening.
    pub(crate) fn close_connection(&self) {
        self.shared.close.notify_waiters();
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.shared.opened.load(Ordering::SeqCst)
    }

    /// The most requests it has had at once.
    pub(crate) fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Requests that it works on.
    pub(crate) fn active(&self) -> usize {
        self.shared.active.load(Ordering::SeqCst)
    }

    /// Requests that were reset while it worked on them.
    pub(crate) fn reset(&self) -> usize {
        self.shared.reset.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<http::request::Parts> {
        self.shared.seen.lock().clone()
    }
}

impl Drop for H2c {
    fn drop(&mut self) {
        self.process.abort();
        let second = self.shared.second.load(Ordering::SeqCst);
        assert!(second == 0 || std::thread::panicking(), "{second} connections beside another");
    }
}

async fn process(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        if shared.open.load(Ordering::SeqCst) > 0 {
            shared.second.fetch_add(1, Ordering::SeqCst);
        }
        let (shared, open) = (Arc::clone(&shared), Counted::new(&shared, |shared| &shared.open));
        shared.opened.fetch_add(1, Ordering::SeqCst);
        connections.spawn(async move {
            let _open = open;
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let mut streams = JoinSet::new();
            let mut close = std::pin::pin!(shared.close.notified());
            loop {
                tokio::select! {
                    () = &mut close => return,
                    next = connection.accept() => match next {
                        Some(Ok((request, respond))) => {
                            streams.spawn(answer(Arc::clone(&shared), request, respond));
                        }
                        _ => return,
                    },
                }
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let active = Counted::new(&shared, |shared| &shared.active);
    shared.most.fetch_max(shared.active.load(Ordering::SeqCst), Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    shared.seen.lock().push(head);
    let asks = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(has, _)| *has == name).map(|(_, value)| value.to_owned())
    };
    let number = |name: &str| asks(name).map_or(0, |value| value.parse().unwrap());
    if asks("echo").is_some() {
        let stream = respond.send_response(Response::new(()), false).unwrap();
        return echo(body, stream).await;
    }
    let wait = async {
        let length = read(body).await;
        tokio::time::sleep(Duration::from_millis(number("ms"))).await;
        if asks("do").as_deref() == Some("hang") {
            std::future::pending::<()>().await;
        }
        length
    };
    let length = tokio::select! {
        length = wait => length,
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
            shared.reset.fetch_add(1, Ordering::SeqCst);
            return;
        }
    };
    match asks("do").as_deref() {
        Some("reset") => return respond.send_reset(Reason::INTERNAL_ERROR),
        Some("close") => return shared.close.notify_waiters(),
        _ => {}
    }
    // From here on the router may send the next one.
    drop(active);
    let trailers = asks("trailers").is_some();
    let cut = asks("do").as_deref() == Some("cut");
    let size = number("body") as usize;
    let mut stream = respond.send_response(Response::new(()), size == 0 && !trailers).unwrap();
    if size > 0 {
        stream.send_data(Bytes::from(vec![b'x'; size]), !trailers && !cut).unwrap();
    }
    if cut {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    } else if trailers {
        let mut map = HeaderMap::new();
        map.insert("x-length", length.into());
        stream.send_trailers(map).unwrap();
    }
}

async fn read(mut body: RecvStream) -> usize {
    let mut length = 0;
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        length += data.len();
    }
    length
}

async fn echo(mut body: RecvStream, mut stream: SendStream<Bytes>) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if stream.send_data(data, false).is_err() {
            return;
        }
    }
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    let _ = stream.send_trailers(trailers);
}
