//! Dynos that speak HTTP/2: one connection, as many streams as they serve at once.

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use router_core::snapshot::DynoState;
use tokio::time::timeout;

use crate::support::h2c::H2c;
use crate::support::http2::{Http2, read, reason, request};
use crate::support::{Client, DEADLINE, Dyno, Rig, until};

async fn rig(dyno: &H2c, app: &str) -> Rig {
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[apps.shop]\nprotocol = 'h2c'\ndynos = ['{}']\n{app}\n",
        dyno.address
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_has_one_connection_and_no_more_streams_than_it_serves() {
    for concurrency in [1, 4] {
        let dyno = H2c::start().await;
        let rig = rig(&dyno, &format!("concurrency = {concurrency}")).await;
        let client = Http2::connect(rig.address).await;
        let mut answers = Vec::new();
        for _ in 0..40 {
            let (answer, _) = client.send(request("GET", "/?ms=10", &[]), true).await;
            answers.push(answer);
        }
        // From HTTP/1.1 too.
        let mut plain = rig.client().await;
        assert!(plain.get("/?body=100").await.is_ok());
        for answer in answers {
            assert_eq!(read(answer).await.unwrap().head.status, 200);
        }
        assert_eq!((dyno.most(), dyno.connections()), (concurrency, 1));
        rig.at_rest().await;
        rig.log.are(41).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_comes_as_one_of_http2() {
    let dyno = H2c::start().await;
    let rig = rig(&dyno, "").await;
    let client = Http2::connect(rig.address).await;
    let reply =
        client.ask(request("GET", "/cart?x=1", &[("te", "trailers"), ("cookie", "a=1")])).await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("via")), (200, "2.0 routerd"));
    let seen = dyno.seen().remove(0);
    assert_eq!(seen.uri, "http://shop.test/cart?x=1");
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["via"], "2.0 routerd");
    assert!(!seen.headers.contains_key("host") && !seen.headers.contains_key("connection"), "{seen:?}");
    let mut plain = rig.client().await;
    plain.send("GET / HTTP/1.1\r\nHost: shop.test\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n").await;
    let answer = plain.answer().await;
    assert_eq!((answer.status, answer.header("via")), (200, "2.0 routerd"));
    assert!(!dyno.seen()[1].headers.contains_key("te"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_trailers_go_both_ways_while_both_sides_talk() {
    let dyno = H2c::start().await;
    let rig = rig(&dyno, "").await;
    let client = Http2::connect(rig.address).await;
    let call = request("POST", "/?echo=1", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let (answer, mut body) = client.send(call, false).await;
    // The answer begins before the first byte of the body is sent.
    let mut answer = timeout(DEADLINE, answer).await.unwrap().unwrap();
    for word in ["one", "two", "three"] {
        body.send_data(Bytes::from(word), false).unwrap();
        let back = timeout(DEADLINE, answer.body_mut().data()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    body.send_trailers(trailers.clone()).unwrap();
    assert!(timeout(DEADLINE, answer.body_mut().data()).await.unwrap().is_none());
    assert_eq!(answer.body_mut().trailers().await.unwrap(), Some(trailers));
    rig.at_rest().await;
    let reply = client.get("/?body=3000000&trailers=1").await.unwrap();
    assert_eq!((reply.body.len(), reply.trailers.unwrap()["x-length"].to_str().unwrap()), (3_000_000, "0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dyno_does_to_a_stream_is_a_fault_of_that_request_alone() {
    let dyno = H2c::start().await;
    let rig = rig(&dyno, "concurrency = 4").await;
    let client = Http2::connect(rig.address).await;
    let (beside, _) = client.send(request("GET", "/?ms=300", &[]), true).await;
    until("it works", || dyno.active() == 1).await;
    let reply = client.get("/?do=reset").await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("x-router-fault")), (503, "H18"));
    let asked = dyno.seen().iter().filter(|seen| seen.uri.query() == Some("do=reset")).count();
    assert_eq!(asked, 1, "it may have begun with it");
    assert_eq!(reason(client.get("/?body=3000000&do=cut").await), Reason::INTERNAL_ERROR);
    assert_eq!(read(beside).await.unwrap().head.status, 200);
    assert_eq!(dyno.connections(), 1);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_dies_fails_its_streams_and_the_next_request_opens_another() {
    let dyno = H2c::start().await;
    let rig = rig(&dyno, "concurrency = 4").await;
    let client = Http2::connect(rig.address).await;
    let (first, _) = client.send(request("POST", "/?do=hang", &[]), true).await;
    let (second, _) = client.send(request("POST", "/?do=hang", &[]), true).await;
    until("both are there", || dyno.active() == 2).await;
    dyno.close_connection();
    for answer in [first, second] {
        let reply = read(answer).await.unwrap();
        assert_eq!((reply.head.status.as_u16(), reply.header("x-router-fault")), (503, "H13"));
    }
    rig.at_rest().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.unwrap().head.status, 200);
    }
    assert_eq!((dyno.connections(), dyno.open()), (2, 1));
    // Closed while nothing is under way: nobody notices.
    dyno.close_connection();
    until("it is closed", || dyno.open() == 0).await;
    assert_eq!(client.get("/").await.unwrap().head.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_whose_client_is_gone_lingers_or_has_its_stream_reset() {
    for frees in [false, true] {
        let dyno = H2c::start().await;
        let rig = rig(&dyno, &format!("close_frees_dyno = {frees}")).await;
        let client = Http2::connect(rig.address).await;
        let (answer, mut body) = client.send(request("GET", "/?ms=1500", &[]), true).await;
        until("it works", || dyno.active() == 1).await;
        body.send_reset(Reason::CANCEL);
        drop(answer);
        let state = if frees { DynoState::Idle } else { DynoState::Lingering };
        rig.are(1, state).await;
        assert_eq!(client.get("/").await.unwrap().head.status, 200);
        assert_eq!((dyno.reset(), dyno.most(), dyno.connections()), (usize::from(frees), 1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_for_keepalive_and_not_longer() {
    let dyno = H2c::start().await;
    let rig = rig(&dyno, "timeouts = { keepalive = '0s' }").await;
    let client = Http2::connect(rig.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.unwrap().head.status, 200);
        until("it is closed", || dyno.open() == 0).await;
    }
    assert_eq!(dyno.connections(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_does_not_speak_it_is_a_fault() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", "protocol = 'h2c'").await;
    let answer = Client::connect(rig.address).await.get("/").await;
    assert!(answer.status == 503 && answer.fault() != "-", "{answer:?}");
    drop(rig);
    let dyno = H2c::start().await;
    let rig = self::rig(&dyno, "health = { probe = 'http', interval = '100ms' }").await;
    until("it is probed", || !dyno.seen().is_empty()).await;
    assert_eq!(dyno.seen()[0].method, "GET");
    rig.at_rest().await;
    assert_eq!(rig.get("/").await.status, 200);
    assert_eq!(dyno.connections(), 1, "the probe is one of its streams");
}
