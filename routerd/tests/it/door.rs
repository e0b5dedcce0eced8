//! The door: whom to believe about the client, how many may come in, how often they may ask.

mod limits;
mod proxied;
mod slow;
mod user;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use router_core::sync::Mutex;
use routerd::proxy_header::{Parsed, parse};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::header;
use crate::support::dyno::{is_open, more, write_all};
use crate::support::{Answer, Dyno, Rig, until};

/// Sends these bytes in front of a GET, in two parts, and gives the answer.
async fn get_after(rig: &Rig, bytes: &[u8], cut: usize) -> Answer {
    let mut client = rig.client().await;
    let (one, two) = bytes.split_at(cut.min(bytes.len()));
    client.send(one).await;
    tokio::task::yield_now().await;
    client.send([two, b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"].concat()).await;
    client.answer().await
}

/// Connections that were turned away for that reason, as the metrics have it.
async fn refused(rig: &Rig, reason: &str) -> u64 {
    metric(rig, &format!("routerd_connections_refused_total{{reason=\"{reason}\"}} ")).await
}

/// The value of the series whose line begins so.
pub(crate) async fn metric(rig: &Rig, begins: &str) -> u64 {
    rig.metric(begins).await
}

#[tokio::test]
async fn what_strangers_say_of_themselves_is_replaced_once_it_is_said_who_is_trusted() {
    const CLAIMS: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n\
                          X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\r\n";
    for (server, list, proto, forwarded, logged) in [
        ("", "6.6.6.6, 203.0.113.7, 127.0.0.1", "http", true, "6.6.6.6, 203.0.113.7, 127.0.0.1"),
        ("trusted_proxies = []", "127.0.0.1", "http", false, "127.0.0.1"),
        ("trusted_proxies = ['10.0.0.0/8']", "127.0.0.1", "http", false, "127.0.0.1"),
        (
            "trusted_proxies = ['127.0.0.0/8']",
            "6.6.6.6, 203.0.113.7, 127.0.0.1",
            "https",
            true,
            "203.0.113.7",
        ),
    ] {
        let dyno = Dyno::start().await;
        let rig = Rig::start_with(&[&dyno], server, "").await;
        let mut client = rig.client().await;
        client.send(CLAIMS).await;
        assert!(client.answer().await.is_ok());
        let head = dyno.seen().remove(0).head;
        assert_eq!(header(&head, "x-forwarded-for"), Some(list), "{server}");
        assert_eq!(header(&head, "x-forwarded-proto"), Some(proto), "{server}");
        assert_eq!(header(&head, "forwarded").is_some(), forwarded, "{server}");
        rig.log.are(1).await;
        assert_eq!(rig.log.last()["fwd"], logged, "{server}");
    }
}

/// The client that the header named, and the head of the request.
type Told = Arc<Mutex<Vec<(Option<SocketAddr>, String)>>>;

/// A dyno that wants a header of the PROXY protocol on each connection, and tells what it got.
struct Wary {
    address: SocketAddr,
    seen: Told,
    last: Arc<Mutex<Weak<TcpStream>>>,
}

impl Wary {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wary = Self { address, seen: Told::default(), last: Arc::default() };
        let (seen, last) = (Arc::clone(&wary.seen), Arc::clone(&wary.last));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = Arc::new(stream);
                let before = std::mem::replace(&mut *last.lock(), Arc::downgrade(&stream));
                assert!(!is_still_open(&before), "a second connection to one dyno");
                tokio::spawn(Self::serve(stream, Arc::clone(&seen)));
            }
        });
        wary
    }

    async fn serve(stream: Arc<TcpStream>, seen: Told) {
        let mut read = Vec::new();
        while more(&stream, &mut read).await.is_some() {
            let Parsed::Header(header) = parse(&read) else { continue };
            let request = read.get(header.length..).unwrap_or_default();
            let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(request[..end].to_vec()).unwrap();
            seen.lock().push((header.ends.map(|(from, _)| from), head));
            // It would keep the connection.
            write_all(&stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    }
}

fn is_still_open(stream: &Weak<TcpStream>) -> bool {
    stream.upgrade().is_some_and(|stream| is_open(&stream))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_asks_for_it_is_told_of_the_client_on_a_connection_of_each_request() {
    for version in ["v1", "v2"] {
        let dyno = Wary::start().await;
        let rig = Rig::from_toml(&format!(
            "[server]\nlisten = ['127.0.0.1:0']\ntrusted_proxies = ['127.0.0.1']\n[apps.shop]\ndynos = ['{}']\n\
             proxy_protocol = '{version}'\nhealth = {{ probe = 'http', path = '/up', interval = '100ms' }}\n",
            dyno.address
        ))
        .await;
        let mut client = rig.client().await;
        let from = client.stream.local_addr().unwrap();
        for _ in 0..3 {
            assert!(client.get("/").await.is_ok());
        }
        client.send("GET /far HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n").await;
        assert!(client.answer().await.is_ok());
        let of = |path: &str| {
            let seen = dyno.seen.lock();
            let asks = format!("GET {path} ");
            let those = seen.iter().filter(|(_, head)| head.starts_with(&asks));
            those.map(|(from, _)| *from).collect::<Vec<_>>()
        };
        assert_eq!(of("/"), [Some(from); 3]);
        assert_eq!(of("/far"), [Some("203.0.113.7:0".parse().unwrap())]);
        // A probe speaks for itself.
        until("it was probed", || !of("/up").is_empty()).await;
        assert_eq!(of("/up")[0], None);
        until("no connection is kept", || !is_still_open(&dyno.last.lock())).await;
    }
}
