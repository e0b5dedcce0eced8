//! The proxy in front of dynos that notice when two requests, or two connections, meet on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::services::background::BackgroundService;
use pingora_proxy::http_proxy;
use router_core::Router;
use router_core::limits::Limits;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::front::{Front, Timekeeper};
use crate::{Args, configuration, router, tls};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a dyno has seen.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    connections: Meeting,
    in_flight: Meeting,
    opened: AtomicUsize,
}

/// How many are in there now, and how many were at the most.
#[derive(Default)]
struct Meeting {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Meeting {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// A dyno that would serve any number of requests at once, and counts them. Each takes `work`.
async fn dyno(work: Duration) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
    let counts = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&counts);
            tokio::spawn(async move {
                seen.opened.fetch_add(1, Ordering::SeqCst);
                seen.connections.enter();
                serve(stream, &seen, work).await;
                seen.connections.leave();
            });
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, seen: &Seen, work: Duration) {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.is_empty() {
            continue;
        }
        seen.in_flight.enter();
        sleep(work).await;
        seen.requests.fetch_add(1, Ordering::SeqCst);
        // Before the answer is out: the next request may be here before this task runs again.
        seen.in_flight.leave();
        if writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The proxy on a port of its own.
async fn front(router: &Router, dynos: usize) -> SocketAddr {
    let proxy = Arc::new(http_proxy(&Arc::new(configuration(dynos)), Front::new(router.clone())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, shutdown) = watch::channel(false);
    let timekeeper = Timekeeper::new(router.clone());
    let watch = shutdown.clone();
    tokio::spawn(async move { timekeeper.start(watch).await });
    tokio::spawn(async move {
        let _stop = stop;
        while let Ok((stream, _)) = listener.accept().await {
            let (proxy, shutdown) = (Arc::clone(&proxy), shutdown.clone());
            tokio::spawn(async move {
                let mut next: Option<Stream> = Some(Box::new(TcpIo::from(stream)));
                while let Some(stream) = next {
                    next = proxy.process_new(stream, &shutdown).await;
                }
            });
        }
    });
    address
}

/// The status line of an answer to a request on a connection of its own.
async fn get(front: SocketAddr) -> String {
    let request = async {
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    };
    timeout(PATIENCE, request).await.expect("an answer in time")
}

async fn until(condition: impl Fn() -> bool) {
    let there = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, there).await.expect("it comes to that in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_at_once_never_meet_on_a_dyno() {
    let (one, one_seen) = dyno(Duration::from_millis(3)).await;
    let (two, two_seen) = dyno(Duration::from_millis(3)).await;
    // The third is down: who is sent there goes back to the front of the line.
    let dynos = [one, two, nobody().await];
    let limits = Limits::default().with_queue_max_wait(PATIENCE).with_queue_max_requests_per_dyno(200);
    let router = router(&dynos, limits).unwrap();
    let front = front(&router, dynos.len()).await;

    let mut clients = JoinSet::new();
    for _ in 0..200 {
        clients.spawn(get(front));
    }
    for answer in clients.join_all().await {
        assert_eq!(answer, "HTTP/1.1 200 OK");
    }
    let mut served = 0;
    for seen in [one_seen, two_seen] {
        assert_eq!(seen.in_flight.most(), 1, "two requests met on a dyno");
        assert_eq!(seen.connections.most(), 1, "two connections met on a dyno");
        assert_eq!(seen.opened.load(Ordering::SeqCst), 1, "the one connection is used again");
        served += seen.requests.load(Ordering::SeqCst);
    }
    assert_eq!(served, 200, "each request was served once");
    let app = router.snapshot().apps.remove(0);
    assert!(app.dynos.iter().all(|dyno| dyno.in_flight == 0), "every dyno was checked in");
}

#[tokio::test]
async fn who_has_waited_too_long_is_told_so() {
    let (slow, seen) = dyno(Duration::from_secs(3600)).await;
    let limits = Limits::default().with_queue_max_wait(Duration::from_millis(50));
    let router = router(&[slow], limits).unwrap();
    let front = front(&router, 1).await;
    let first = tokio::spawn(get(front));
    until(|| seen.in_flight.most() == 1).await;
    assert_eq!(get(front).await, "HTTP/1.1 503 Service Unavailable");
    first.abort();
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_the_line() {
    let (slow, _seen) = dyno(Duration::from_secs(3600)).await;
    let router = router(&[slow], Limits::default().with_queue_max_wait(PATIENCE)).unwrap();
    let front = front(&router, 1).await;
    let app = router.route("app.test", "/").unwrap();
    let at_work = || router.snapshot().apps[0].dynos[0].in_flight == 1;
    let first = tokio::spawn(get(front));
    until(at_work).await;
    let second = tokio::spawn(get(front));
    until(|| app.gauges().0 == 1).await;
    second.abort();
    until(|| app.gauges().0 == 0).await;
    assert!(at_work(), "the second was never dispatched: the first still has the dyno");
    first.abort();
}

#[test]
fn a_certificate_that_cannot_be_read_is_an_error_and_no_panic() {
    let error = tls("/nowhere/cert.pem", "/nowhere/key.pem", true).err().expect("there is no such file");
    assert!(error.to_string().contains("/nowhere/cert.pem"), "{error}");
}

#[test]
fn a_certificate_without_its_key_and_a_proxy_without_dynos_are_wrong_use() {
    let parse = |args: &str| Args::try_parse_from(std::iter::once("pingora-front").chain(args.split(' ')));
    assert!(parse("127.0.0.1:0").is_err());
    assert!(parse("127.0.0.1:0 127.0.0.1:1 --cert cert.pem").is_err());
    let args = parse("127.0.0.1:0 127.0.0.1:1 127.0.0.1:2 --cert cert.pem --key key.pem --http2").unwrap();
    assert_eq!((args.dynos.len(), args.threads, args.max_wait), (2, 1, 5));
}
