//! Clients that do not read, that send too slowly, and that are too many at one place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use router_core::snapshot::DynoState;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::tls::Authority;
use crate::support::{Client, Dyno, Rig, until};

const SEND: &str = "send_timeout = '500ms'";

async fn nobody_is_left(rig: &Rig) {
    until("its connection is closed", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    rig.at_rest().await;
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_loses_its_connection() {
    // One answer that was taken from its dyno, one that was not, and many short ones.
    for (spool, path, times) in
        [("64MiB", "/?body=20000000", 1), ("64KiB", "/?body=20000000", 1), ("64KiB", "/?body=60000", 300)]
    {
        let dyno = Dyno::start().await;
        let rig = Rig::start_with(&[&dyno], SEND, &format!("response_spool = '{spool}'")).await;
        let mut client = Client::small(rig.address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n").repeat(times)).await;
        until("it was asked", || dyno.asked() > 0).await;
        nobody_is_left(&rig).await;
        if times == 1 {
            rig.log.are(2).await;
            assert_eq!(rig.log.faults(), ["H28"], "{spool}");
        } else {
            assert!(dyno.asked() < times, "{} of {times}", dyno.asked());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_tls_help_it() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n{SEND}\n[tls]\nlisten = ['127.0.0.1:0']\ncertificates = [{}]\n\
         [apps.shop]\ndynos = ['{}']\nresponse_spool = '64MiB'\n",
        issued.entry(),
        dyno.address
    ))
    .await;
    let secure = rig.daemon.as_ref().unwrap().secure_addresses()[0];
    let mut stream = authority.client().connect(secure, "shop.test").await.unwrap();
    stream.write_all(b"GET /?body=30000000 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await.unwrap();
    until("it was asked", || dyno.asked() > 0).await;
    nobody_is_left(&rig).await;
    rig.log.are(2).await;
    assert_eq!(rig.log.faults(), ["H28"]);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_gets_all_of_its_answer() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], SEND, "response_spool = '64MiB'").await;
    let mut client = Client::small(rig.address).await;
    client.ask("GET", "/?body=6000000").await;
    let mut answer = client.head().await;
    let begun = Instant::now();
    // Three times as long as it may take nothing.
    while begun.elapsed() < Duration::from_millis(1500) {
        client.stream.readable().await.unwrap();
        client.take(20_000);
        sleep(Duration::from_millis(20)).await;
    }
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body.len() == 6_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_one_cut_that_reads_steadily_while_its_dyno_waits() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "response_spool = '64KiB'\ntimeouts = { idle = '1s' }").await;
    let mut client = Client::small(rig.address).await;
    client.ask("GET", "/?body=9000000").await;
    let mut answer = client.head().await;
    let begun = Instant::now();
    let mut taken = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        client.stream.readable().await.unwrap();
        // 300,000 bytes a second.
        if taken < begun.elapsed().as_millis() as usize * 300 {
            taken += client.take(10_000);
        } else {
            sleep(Duration::from_millis(2)).await;
        }
    }
    assert!(taken > 600_000, "{taken}");
    assert_eq!((rig.count(DynoState::Busy), rig.log.codes()), (1, vec![]));
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body.len() == 9_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_trickles_loses_its_dyno_and_one_that_is_slow_does_not() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(&dynos.iter().collect::<Vec<_>>(), "request_buffer = '0B'").await;
    let mut uploads = JoinSet::new();
    // 20 and 2,000 bytes a second.
    for part in [1, 100] {
        let mut client = rig.client().await;
        uploads.spawn(async move {
            client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 14000\r\n\r\n").await;
            let mut sent = 0;
            while sent < 14_000 && client.is_open() {
                client.send(vec![b'u'; part]).await;
                sent += part;
                sleep(Duration::from_millis(50)).await;
            }
            (part, client.answer().await.status)
        });
    }
    rig.are(2, DynoState::Busy).await;
    let begun = Instant::now();
    let (part, status) = uploads.join_next().await.unwrap().unwrap();
    assert_eq!((part, status), (1, 0));
    assert!((3..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    rig.are(1, DynoState::Idle).await;
    assert_eq!(uploads.join_next().await.unwrap().unwrap(), (100, 200));
    rig.log.are(2).await;
    assert_eq!(rig.log.codes(), ["H28", "-"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_at_one_listener_from_one_address_delays_nobody_at_the_other() {
    let dyno = Dyno::start().await;
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0', '127.0.0.1:0']\nmax_connections_per_ip = 50\n\
         [apps.shop]\ndynos = ['{}']\n",
        dyno.address
    ))
    .await;
    let other = rig.daemon.as_ref().unwrap().addresses()[1];
    let (over, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut flood = JoinSet::new();
    for _ in 0..80 {
        let (address, over, tries) = (rig.address, Arc::clone(&over), Arc::clone(&tries));
        flood.spawn(async move {
            // Who gets a seat keeps it; the others come again and again.
            while !over.load(Ordering::SeqCst) {
                let mut client = Client::connect(address).await;
                tries.fetch_add(1, Ordering::SeqCst);
                client.send("GET / HTTP/1.1\r\n").await;
                tokio::select! {
                    _ = client.rest() => {}
                    () = until("the flood is over", || over.load(Ordering::SeqCst)) => {}
                }
            }
        });
    }
    until("the flood is there", || tries.load(Ordering::SeqCst) > 500).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        assert!(from("127.0.0.2", other).await.get("/").await.is_ok());
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let before = tries.load(Ordering::SeqCst);
    until("it has gone on meanwhile", || tries.load(Ordering::SeqCst) > before + 100).await;
    // At the same listener, too.
    assert!(from("127.0.0.2", rig.address).await.get("/").await.is_ok());
    over.store(true, Ordering::SeqCst);
    while flood.join_next().await.is_some() {}
}

/// A client at that address of this machine.
async fn from(address: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    Client::over(socket.connect(to).await.unwrap())
}
