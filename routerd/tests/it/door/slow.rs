//! Strangers who are slow, in numbers, and the memory that they cost.

use std::time::Duration;

use router_core::snapshot::DynoState;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::metric;
use crate::support::{Client, Dyno, Rig, until};

/// So many strangers.
const MANY: usize = 200;

/// Asks for something 50 times, and says how long the slowest took.
async fn slowest_of_ordinary(rig: &Rig) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        assert!(rig.get("/").await.is_ok());
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_do_not_read_delay_nobody() {
    let dynos = Dyno::several(2).await;
    let line = "queue = { max_requests_per_dyno = 200, max_wait = '20s' }";
    let rig = Rig::start(&dynos.iter().collect::<Vec<_>>(), line).await;
    let mut strangers = Vec::new();
    for _ in 0..MANY {
        let mut client = Client::small(rig.address).await;
        client.ask("GET", "/?body=400000").await;
        strangers.push(client);
    }
    let asked = || dynos.iter().map(Dyno::asked).sum::<usize>();
    until("all have been served", || asked() == MANY && rig.count(DynoState::Idle) == 2).await;
    let slowest = slowest_of_ordinary(&rig).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    until("only they are left", || rig.daemon.as_ref().unwrap().connections() == MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_send_a_body_byte_by_byte_delay_nobody_and_are_given_up() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "timeouts = { body = '2s' }").await;
    let mut strangers = JoinSet::new();
    for _ in 0..MANY {
        let address = rig.address;
        strangers.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 60000\r\n\r\n").await;
            let begun = Instant::now();
            // Never silent for as long as `idle`.
            while begun.elapsed() < Duration::from_secs(15) && client.is_open() {
                client.send("b").await;
                sleep(Duration::from_millis(50)).await;
            }
            begun.elapsed()
        });
    }
    until("all are there", || rig.daemon.as_ref().unwrap().connections() == MANY).await;
    let slowest = slowest_of_ordinary(&rig).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    while let Some(lasted) = strangers.join_next().await {
        assert!(lasted.unwrap() < Duration::from_secs(12));
    }
    until("each has its line", || rig.log.count() == MANY + 50).await;
    assert_eq!(rig.log.faults(), vec!["H28"; MANY]);
    assert_eq!(dyno.asked(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_for_bodies_requests_with_one_are_refused_and_others_served() {
    let dyno = Dyno::start().await;
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nmemory_max = '256KiB'\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\ndynos = ['{}']\n",
        dyno.address
    ))
    .await;
    let body = vec![b'u'; 60_000];
    let running = rig.spawn_get("/?held=1");
    until("it runs", || dyno.is_working()).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = rig.client().await;
        client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 60000\r\n\r\n").await;
        client.send(&body).await;
        waiting.push(client);
    }
    rig.waiting(5).await;
    let held = metric(&rig, "routerd_buffered_bytes ").await;
    assert!(held >= 256 << 10, "{held}");
    let refused = rig.client().await.post("/", b"one more").await;
    assert_eq!((refused.status, refused.fault()), (503, "M13"));
    let without = rig.spawn_get("/");
    rig.waiting(6).await;
    dyno.let_go();
    assert!(without.await.unwrap().is_ok(), "a request without a body");
    assert!(running.await.unwrap().is_ok());
    for client in &mut waiting {
        assert!(client.answer().await.is_ok());
    }
    assert!(dyno.seen().iter().filter(|seen| seen.method == "POST").all(|seen| seen.body == 60_000));
    rig.at_rest().await;
    drop(waiting);
    until("it is all gone", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    assert_eq!(metric(&rig, "routerd_buffered_bytes ").await, 0);
    assert!(rig.client().await.post("/", b"again").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_kept_without_memory_and_come_whole_in_the_end() {
    let dynos = Dyno::several(8).await;
    let addresses: Vec<String> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nmemory_max = '1MiB'\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\ndynos = [{}]\nresponse_spool = '64MiB'\n",
        addresses.join(", ")
    ))
    .await;
    const LENGTH: usize = 12 << 20;
    let mut strangers = Vec::new();
    for _ in 0..6 {
        let mut client = Client::small(rig.address).await;
        client.ask("GET", &format!("/?body={LENGTH}")).await;
        strangers.push(client);
    }
    rig.are(6, DynoState::Busy).await;
    assert!(rig.get("/?body=10").await.is_ok(), "a dyno that is free serves");
    let end = Instant::now() + Duration::from_millis(500);
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(metric(&rig, "routerd_buffered_bytes ").await);
    }
    // The bound, and of each answer what was on its way: a part in the spool and some with its connection.
    assert!((1 << 20..16 << 20).contains(&most), "{most}");
    for client in &mut strangers {
        let answer = client.answer().await;
        assert_eq!((answer.is_ok(), answer.body.len()), (true, LENGTH));
    }
    drop(strangers);
    until("it is all gone", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    assert_eq!(metric(&rig, "routerd_buffered_bytes ").await, 0);
}
