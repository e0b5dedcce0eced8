//! gRPC: faults as its clients understand them.

use router_core::snapshot::DynoState;

use crate::support::http2::{Http2, read, request};
use crate::support::{Dyno, Rig};

const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_told_as_a_status_of_grpc() {
    let rig = Rig::start_with(&[], "http2 = true", "").await;
    let client = Http2::connect(rig.address).await;
    let reply = client.ask(request("POST", "/shop.Cart/Add", &[GRPC])).await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("grpc-status")), (200, "14"));
    assert_eq!((reply.header("content-type"), reply.header("x-router-fault")), ("application/grpc", "H14"));
    assert!(reply.header("grpc-message").starts_with("H14: "), "{reply:?}");
    assert!(reply.body.is_empty() && reply.trailers.is_none());
    rig.log.are(1).await;
    let line = rig.log.last();
    assert_eq!((line["status"].as_u64(), line["code"].as_str()), (Some(200), Some("H14")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_in_line_no_longer_than_its_client() {
    let dyno = Dyno::start().await;
    let rig =
        Rig::start_with(&[&dyno], "http2 = true", "queue = { max_wait = '1m', standing_wait = '1m' }").await;
    let client = Http2::connect(rig.address).await;
    let (busy, _) = client.send(request("GET", "/?held=1", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    let reply = client.ask(request("POST", "/late", &[GRPC, ("grpc-timeout", "50m")])).await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("grpc-status")), (200, "4"));
    assert!(dyno.is_working(), "it was the client's time that ran out");
    dyno.let_go();
    assert_eq!(read(busy).await.unwrap().head.status, 200);
    assert_eq!(dyno.asked(), 1);
    rig.at_rest().await;
}
