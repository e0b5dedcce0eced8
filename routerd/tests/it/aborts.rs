//! Clients that go away, at every stage of a request; and the capacity that is still there afterwards.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use router_core::snapshot::DynoState;
use tokio::process::Command;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Client, Dyno, Rig, installed, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_the_line_is_never_given_a_dyno() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let first = rig.spawn_get("/first?held=1");
    until("the dyno is at work", || dyno.is_working()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.ask("GET", "/never").await;
        clients.push(client);
    }
    rig.waiting(20).await;
    let last = rig.spawn_get("/last");
    rig.waiting(21).await;
    drop(clients);
    rig.waiting(1).await;
    dyno.let_go();
    assert!(first.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    assert!(dyno.seen().iter().all(|seen| !seen.path.contains("never")));
    assert_eq!(rig.app().left, 20);
    rig.log.are(22).await;
    assert_eq!(rig.log.faults(), ["H27"; 20]);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_mid_service_leaves_its_dyno_busy_until_the_dyno_is_done() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let mut client = rig.client().await;
    client.ask("GET", "/?held=1").await;
    until("the dyno is at work", || dyno.is_working()).await;
    drop(client);
    rig.are(1, DynoState::Lingering).await;
    rig.log.are(1).await;
    let line = rig.log.last();
    assert_eq!((line["code"].as_str(), line["status"].as_u64()), (Some("H27"), Some(499)), "{line}");
    let next = rig.spawn_get("/next");
    rig.waiting(1).await;
    dyno.let_go();
    assert!(next.await.unwrap().is_ok());
    assert_eq!(dyno.connections(), 1);
    rig.log.are(2).await;
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_mid_answer_costs_one_record_and_no_dyno() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "response_spool = '64KiB'").await;
    for path in ["/?body=20000000", "/?body=5000&parts=5&gap=40&length=0"] {
        let mut client = rig.client().await;
        client.ask("GET", path).await;
        assert_eq!(client.head().await.status, 200);
        drop(client);
        rig.at_rest().await;
    }
    rig.log.are(2).await;
    assert_eq!(rig.log.faults(), ["H27"; 2]);
    assert_eq!(dyno.connections(), 1, "both answers were read to their ends");
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_in_mid_upload_holds_nothing() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "request_buffer = '1KiB'").await;
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9000\r\n\r\n";
    // Before a dyno was taken.
    let mut client = rig.client().await;
    client.send(format!("{post}few")).await;
    drop(client);
    rig.log.are(1).await;
    assert_eq!(dyno.asked(), 0);
    // While the dyno reads: half a request never becomes an answer, so its connection is closed.
    let mut client = rig.client().await;
    client.send(format!("{post}{}", "u".repeat(4000))).await;
    until("the dyno reads", || dyno.asked() == 1).await;
    drop(client);
    rig.log.are(2).await;
    assert_eq!(rig.log.faults(), ["H27"; 2]);
    until("the dyno is done with it", || !dyno.is_working()).await;
    rig.at_rest().await;
    assert!(rig.get("/").await.is_ok());
}

/// How a client of the crowd goes away.
async fn misbehave(address: std::net::SocketAddr, seed: u64) -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client::connect(address).await;
    match random.u8(0..6) {
        0 => client.ask("GET", "/?ms=1").await,
        1 => {
            client.ask("GET", "/?ms=2").await;
            sleep(Duration::from_millis(random.u64(0..20))).await;
        }
        2 => {
            client.ask("GET", "/?body=40000&parts=4&gap=1&length=0").await;
            client.head().await;
        }
        3 => {
            let part = random.usize(0..4000);
            let head = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5000\r\n\r\n";
            client.send(format!("{head}{}", "u".repeat(part))).await;
        }
        4 => {
            client.ask("GET", "/?ms=1").await;
            client.head().await;
        }
        _ => {
            // Reset instead of an orderly end.
            client.ask("GET", "/?ms=1").await;
            sleep(Duration::from_millis(random.u64(1..10))).await;
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_thousand_aborts_the_full_capacity_is_still_there() {
    const ABORTS: usize = 10_000;
    const DYNOS: usize = 8;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let dynos = Dyno::several(DYNOS).await;
    let all: Vec<&Dyno> = dynos.iter().collect();
    let rig = Rig::start(&all, "request_buffer = '2KiB'\nqueue = { max_wait = '20s' }").await;
    let (address, next) = (rig.address, Arc::new(AtomicUsize::new(0)));
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let next = Arc::clone(&next);
        crowd.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= ABORTS {
                    return;
                }
                misbehave(address, seed * 1_000_003 + number as u64).await;
            }
        });
    }
    while let Some(end) = crowd.join_next().await {
        end.unwrap();
    }
    rig.at_rest().await;
    let lines = rig.settled().await;
    assert_eq!(lines.len(), ABORTS, "SEED={seed}: one record each, even for who is gone at once");
    let ids: std::collections::HashSet<_> =
        lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    assert_eq!(ids.len(), ABORTS, "SEED={seed}: a request with two records");
    let (app, logged) = (rig.app(), rig.log.count());
    assert_eq!((app.waiting, app.waiting_bytes), (0, 0));

    // As many requests as dynos, at once: each dyno has to be there.
    let (barrier, before) = (Arc::new(Barrier::new(DYNOS)), dynos.iter().map(Dyno::asked).sum::<usize>());
    let mut last = JoinSet::new();
    for _ in 0..DYNOS {
        let barrier = Arc::clone(&barrier);
        last.spawn(async move {
            let mut client = Client::connect(address).await;
            barrier.wait().await;
            client.get("/?held=1").await
        });
    }
    until("all dynos at work at once", || dynos.iter().all(Dyno::is_working)).await;
    dynos.iter().for_each(Dyno::let_go);
    while let Some(answer) = last.join_next().await {
        assert!(answer.unwrap().is_ok());
    }
    assert_eq!(dynos.iter().map(Dyno::asked).sum::<usize>(), before + DYNOS);
    rig.log.are(logged + DYNOS).await;
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_killed_in_mid_run_costs_no_dyno() {
    if !installed("sh", &["-c", "command -v wrk"]) {
        return;
    }
    let dynos = Dyno::several(3).await;
    let rig = Rig::start(&[&dynos[0], &dynos[1], &dynos[2]], "").await;
    for round in 1..=3 {
        let url = format!("http://{}/?ms=3", rig.address);
        let args = ["-t2", "-c60", "-d60s", &url];
        let mut wrk =
            Command::new("wrk").args(args).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        until("it is at it", || rig.log.count() > round * 100 && rig.app().waiting > 10).await;
        wrk.kill().await.unwrap();
        rig.at_rest().await;
    }
    until("every connection is closed", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    let gets: Vec<_> = (0..3).map(|_| rig.spawn_get("/?held=1")).collect();
    until("all dynos at work at once", || dynos.iter().all(Dyno::is_working)).await;
    dynos.iter().for_each(Dyno::let_go);
    for get in gets {
        assert!(get.await.unwrap().is_ok());
    }
    let asked: usize = dynos.iter().map(Dyno::asked).sum();
    until("a record for each", || rig.log.count() >= asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_killed_within_a_request_costs_one_record_and_no_dyno() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    for round in 1..=3 {
        let url = format!("http://{}/?held=1", rig.address);
        let mut curl = Command::new("curl").args(["-s", &url]).kill_on_drop(true).spawn().unwrap();
        until("the dyno has it", || dyno.asked() == round).await;
        curl.kill().await.unwrap();
        rig.log.are(round).await;
        dyno.let_go();
        rig.at_rest().await;
    }
    assert_eq!(rig.log.faults(), ["H27"; 3]);
    assert!(rig.get("/").await.is_ok());
}
