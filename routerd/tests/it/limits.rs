//! Bounds: what is refused, with which code and words, and what a client can make of it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::{Client, Dyno, Rig, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_too_many_is_h22_and_there_is_room_again_when_one_has_gone() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "max_connections = 2", "").await;
    let (mut one, two) = (rig.client().await, rig.client().await);
    assert!(one.get("/").await.is_ok());
    let mut three = rig.client().await;
    let refused = three.answer().await;
    assert_eq!((refused.status, refused.fault()), (503, "H22"));
    assert_eq!(refused.header("retry-after"), "1");
    drop(two);
    until("it is closed", || rig.daemon.as_ref().unwrap().connections() == 1).await;
    assert!(rig.get("/").await.is_ok());
    rig.log.are(3).await;
    assert_eq!(rig.log.codes(), ["-", "H22", "-"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_line_refuses_at_once_and_says_why_in_the_form_that_was_asked_for() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "queue = { max_requests_per_dyno = 2 }").await;
    let running = rig.spawn_get("/?held=1");
    until("it runs", || dyno.is_working()).await;
    let waiting = [rig.spawn_get("/"), rig.spawn_get("/")];
    rig.waiting(2).await;
    let refused = rig.get("/").await;
    assert_eq!((refused.status, refused.fault()), (503, "H11"));
    assert_eq!(refused.header("content-type"), "application/json");
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(
        (&body["fault"], &body["cause"], &body["status"]),
        (&"H11".into(), &"requests".into(), &503.into())
    );
    assert_eq!(body["retry_after"].to_string(), refused.header("retry-after"));
    assert!(body["retry_after"].as_u64().unwrap() >= 1);
    let mut browser = rig.client().await;
    browser.send("GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").await;
    let page = browser.answer().await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text().contains("Backlog too deep") && page.text().contains("H11"), "{}", page.text());
    // They were answered before anybody else. A refusal is no reason to close the connection.
    dyno.let_go();
    assert!(running.await.unwrap().is_ok());
    for get in waiting {
        assert!(get.await.unwrap().is_ok());
    }
    assert!(browser.get("/").await.is_ok());
    rig.log.are(6).await;
    assert_eq!(rig.log.faults(), ["H11"; 2]);
    let line = &rig.log.all()[0];
    assert_eq!((&line["desc"], &line["cause"]), (&"Backlog too deep".into(), &"requests".into()), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_wait_are_bounded_in_bytes() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "queue = { max_bytes = '3KiB' }").await;
    let running = rig.spawn_get("/?held=1");
    until("it runs", || dyno.is_working()).await;
    let mut one = rig.client().await;
    one.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2048\r\n\r\n").await;
    one.send(vec![b'u'; 2048]).await;
    rig.waiting(1).await;
    let refused = rig.client().await.post("/", &[b'u'; 2048]).await;
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.fault(), &body["cause"]), ("H11", &"bytes".into()));
    dyno.let_go();
    assert!(running.await.unwrap().is_ok() && one.answer().await.is_ok());
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_is_longer_than_allowed_is_refused_at_its_end_or_at_the_door() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "queue = { max_wait = '1s' }").await;
    // Nothing is known of the pace yet: the request waits, in vain.
    let running = rig.spawn_get("/?ms=3000");
    until("it runs", || dyno.is_working()).await;
    let began = Instant::now();
    let refused = rig.get("/").await;
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.fault(), &body["cause"]), ("H11", &"max wait".into()));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(running.await.unwrap().is_ok());
    // Now it is known, and nobody has to wait for the refusal.
    let running = rig.spawn_get("/?ms=3000");
    until("it runs", || dyno.is_working()).await;
    let before = rig.spawn_get("/");
    rig.waiting(1).await;
    let began = Instant::now();
    let refused = rig.get("/").await;
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!((refused.fault(), &body["cause"]), ("H11", &"expected wait".into()));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(running.await.unwrap().is_ok());
    assert_eq!(before.await.unwrap().fault(), "H11");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_its_bound_is_413_at_once_or_as_soon_as_it_shows() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "body_max = '1KiB'\nrequest_buffer = '512B'").await;
    assert!(rig.client().await.post("/", &[b'u'; 1024]).await.is_ok());
    let head = "POST / HTTP/1.1\r\nHost: shop.test\r\n";
    let chunked = |length: usize| {
        let chunk = format!("10\r\n{}\r\n", "u".repeat(16)).repeat(length / 16);
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}")
    };
    let mut whole = rig.client().await;
    whole.send(chunked(1024) + "0\r\n\r\n").await;
    assert!(whole.answer().await.is_ok());
    let served = dyno.seen().len();
    // By its length, before a byte of it; nobody is told to go on.
    for more in ["", "Expect: 100-continue\r\n"] {
        let mut client = rig.client().await;
        client.send(format!("{head}{more}Content-Length: 1025\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.fault(), answer.header("connection")), (413, "H26", "close"));
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(dyno.seen().len(), served);
    // By what has come: the dyno may have begun, and never sees a whole request.
    let mut client = rig.client().await;
    client.send(chunked(1040)).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.fault()), (413, "H26"));
    assert!(client.rest().await.is_empty());
    rig.at_rest().await;
    rig.log.are(5).await;
    let causes: Vec<_> = rig.log.all().iter().skip(2).map(|line| line["cause"].clone()).collect();
    assert_eq!(causes, ["oversized body"; 3]);
}

#[tokio::test]
async fn an_unknown_host_and_an_app_without_dynos_have_their_own_codes() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "hosts = ['other.test']\n[apps.empty]\nhosts = ['shop.test']").await;
    let empty = rig.get("/").await;
    assert_eq!((empty.status, empty.fault()), (503, "H14"));
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
    let unknown = client.answer().await;
    assert_eq!((unknown.status, unknown.fault()), (404, "M01"));
    assert_eq!(unknown.header("retry-after"), "");
    client.send("GET / HTTP/1.1\r\nHost: OTHER.test.:80\r\n\r\n").await;
    assert!(client.answer().await.is_ok());
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    let hostless = client.answer().await;
    assert_eq!((hostless.status, hostless.fault()), (400, "H26"));
    rig.log.are(4).await;
    assert_eq!(rig.log.codes(), ["H14", "M01", "-", "H26"]);
}

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_it_may_and_pipelined_ones_are_answered_in_order() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "keepalive_requests = 3", "").await;
    let mut client = rig.client().await;
    for body in [1, 2] {
        client.ask("GET", &format!("/?body={body}")).await;
    }
    client.ask("GET", "/?body=5").await;
    let mut lengths = Vec::new();
    let mut last = None;
    for _ in 0..3 {
        let answer = client.answer().await;
        assert!(answer.is_ok());
        lengths.push(answer.body.len());
        last = Some(answer.header("connection").to_owned());
    }
    assert_eq!((lengths, last.as_deref()), (vec![1, 2, 5], Some("close")));
    assert!(client.rest().await.is_empty());
    rig.log.are(3).await;
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_what_it_can_read() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let get = async |path: &str, more: &str| {
        let mut client: Client = rig.client().await;
        client.send(format!("GET {path} HTTP/1.0\r\nHost: shop.test\r\n{more}\r\n")).await;
        let answer = client.answer().await;
        (answer, client)
    };
    let (answer, mut client) = get("/", "").await;
    assert!(answer.is_ok() && answer.head.starts_with("HTTP/1.0"), "{answer:?}");
    assert!(client.rest().await.is_empty(), "closed");
    // Chunks are not for it: the end of the connection is the end of the body.
    let (answer, _) = get("/?length=0&body=1000&parts=3", "").await;
    assert_eq!((answer.header("transfer-encoding"), answer.body.len()), ("", 1000));
    let (answer, mut client) = get("/", "Connection: keep-alive\r\n").await;
    assert!(answer.is_ok());
    client.send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    assert!(client.answer().await.is_ok());
    rig.log.are(4).await;
    assert!(rig.log.all().iter().all(|line| line["protocol"] == "http1.0"), "{:?}", rig.log.last());
    assert!(dyno.seen().iter().all(|seen| seen.head.contains("HTTP/1.1\r\n")), "the dyno gets HTTP/1.1");
}
