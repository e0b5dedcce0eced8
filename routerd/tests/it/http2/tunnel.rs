//! WebSockets over HTTP/2 (RFC 8441): the dyno sees the handshake of HTTP/1.1, and a stream is as much a WebSocket as a
//! connection is.

use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use router_core::change::Change;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::h2c::H2c;
use crate::support::http2::{Http2, read, request};
use crate::support::{DEADLINE, Rig, until};
use crate::websocket::leaving::goes_away;
use crate::websocket::peer::{End, WsDyno, text};

async fn rig(dynos: &[WsDyno], app: &str) -> Rig {
    let list: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let list = list.join(", ");
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\nshutdown_timeout = '2s'\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = [{list}]\n{app}"
    ))
    .await
}

fn connect(path: &str, to: Option<&'static str>) -> Request<()> {
    let mut wish = request("CONNECT", path, &[("sec-websocket-version", "13")]);
    if let Some(to) = to {
        wish.extensions_mut().insert(Protocol::from_static(to));
    }
    wish
}

async fn ask(client: &Http2, path: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (answer, send) = client.send(connect(path, Some("websocket")), false).await;
    (timeout(DEADLINE, answer).await.expect("an answer").unwrap(), send)
}

/// A WebSocket that is open, on a stream of its own.
async fn open(client: &Http2, path: &str) -> End<DuplexStream> {
    let (answer, send) = ask(client, path).await;
    assert_eq!(answer.status(), 200);
    for none in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
        assert!(!answer.headers().contains_key(none), "{answer:?}");
    }
    let (ours, theirs) = duplex(64 << 10);
    let (mut from, mut to) = tokio::io::split(theirs);
    let (mut recv, mut send) = (answer.into_body(), send);
    tokio::spawn(async move {
        while let Some(Ok(data)) = recv.data().await {
            let _ = recv.flow_control().release_capacity(data.len());
            if to.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    tokio::spawn(async move {
        let mut part = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut part).await {
            send_all(&mut send, Bytes::copy_from_slice(&part[..length])).await;
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    End { stream: ours, masks: true }
}

async fn send_all(send: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        let part = data.split_to(room.min(data.len()));
        if send.send_data(part, false).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_and_requests_share_a_connection_and_no_dyno_does_two_things() {
    let dynos = WsDyno::several(3, 0).await;
    let rig = rig(&dynos, "queue = { max_wait = '20s' }").await;
    let client = Http2::connect(rig.address).await;
    assert_eq!(client.get("/").await.unwrap().head.status, 200);
    assert!(client.may_connect(), "SETTINGS_ENABLE_CONNECT_PROTOCOL");
    let client = std::sync::Arc::new(client);
    let mut users = JoinSet::new();
    for number in 0..12 {
        let client = std::sync::Arc::clone(&client);
        users.spawn(async move {
            for round in 0..3 {
                let mut end = open(&client, "/").await;
                end.echoes(&format!("{number} {round}")).await;
                end.echoes("still there").await;
                end.close(1000).await;
                assert_eq!(client.get("/").await.unwrap().head.status, 200);
            }
        });
    }
    while let Some(user) = timeout(DEADLINE, users.join_next()).await.expect("they end") {
        user.unwrap();
    }
    drop(client);
    assert!(dynos.iter().all(|dyno| dyno.most_open() <= 1));
    let lines = rig.settled().await;
    let upgraded: Vec<_> = lines.iter().filter(|line| line["method"] == "CONNECT").collect();
    assert_eq!((lines.len(), upgraded.len()), (1 + 12 * 3 * 2, 36));
    let is_whole = |line: &&serde_json::Value| {
        line["status"] == 200
            && line["protocol"] == "http2.0"
            && line["end"] == "dyno"
            && line["received"].as_u64() > Some(20)
            && line["bytes"].as_u64() > Some(15)
    };
    assert!(upgraded.iter().all(is_whole), "{:?}", upgraded[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_comes_back_whole_and_who_does_not_read_holds_up_nobody_else() {
    let dynos = WsDyno::several(2, 10).await;
    let rig = rig(&dynos, "streams = 10").await;
    // One stream that is not read takes its own window, not that of the connection.
    let mut builder = h2::client::Builder::new();
    let client = Http2::connect_with(rig.address, builder.initial_connection_window_size(4 << 20)).await;
    let (stuck, mut send) = ask(&client, "/").await;
    // Nothing is taken of what comes back.
    // More than all the buffers on the way have room for.
    let flood = text("x".repeat(1 << 20)).bytes(true).repeat(48);
    let flood = tokio::spawn(async move { send_all(&mut send, flood.into()).await });
    let mut end = open(&client, "/").await;
    let large = text("y".repeat(1 << 20));
    let (mut reader, mut writer) = tokio::io::split(end.stream);
    let bytes = large.bytes(true);
    let sent = tokio::spawn(async move { writer.write_all(&bytes).await.map(|()| writer) });
    let mut back = vec![0; large.bytes(false).len()];
    timeout(DEADLINE, reader.read_exact(&mut back)).await.expect("all of it").unwrap();
    assert!(back == large.bytes(false), "what came back is not what was sent");
    end = End { stream: reader.unsplit(sent.await.unwrap().unwrap()), masks: true };
    end.close(1000).await;
    assert!(!flood.is_finished(), "more was taken than there is room for");
    drop(stuck);
    flood.abort();
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_does_not_consent_is_no_tunnel() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let client = Http2::connect(rig.address).await;
    // It answers 200, which in HTTP/2 would be consent; and it has misheard the key.
    for path in ["/refuse", "/misheard"] {
        let (answer, _send) = ask(&client, path).await;
        let code = answer.headers()["x-router-fault"].to_str().unwrap();
        assert_eq!((answer.status().as_u16(), code), (503, "H17"), "{path}");
        rig.at_rest().await;
    }
    rig.log.are(2).await;
    assert_eq!(rig.log.codes(), ["H17", "H17"]);
    assert_eq!(rig.log.last()["status"], 503);
    // What is no consent at all goes to the client as it is.
    let (answer, _send) = ask(&client, "/forbidden").await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-router-fault")), (403, None));
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_and_dynos_of_http2_are_not_connected_to() {
    let dynos = WsDyno::several(1, 0).await;
    let grpc = H2c::start().await;
    let app = format!("[apps.grpc]\nhosts = ['grpc.test']\ndynos = ['{}']\nprotocol = 'h2c'", grpc.address);
    let rig = rig(&dynos, &app).await;
    let client = Http2::connect(rig.address).await;
    for to in ["connect-udp", "connect-ip"] {
        let (answer, _send) = client.send(connect("/", Some(to)), false).await;
        let reply = read(answer).await.unwrap();
        assert_eq!((reply.head.status.as_u16(), reply.header("x-router-fault")), (501, "H26"), "{to}");
    }
    let mut to_h2c = connect("/", Some("websocket"));
    *to_h2c.uri_mut() = "http://grpc.test/".parse().unwrap();
    let (answer, _send) = client.send(to_h2c, false).await;
    assert_eq!(read(answer).await.unwrap().head.status, 501);
    rig.log.are(3).await;
    assert_eq!(rig.log.codes(), ["H26"; 3]);
    assert_eq!(rig.log.last()["method"], "CONNECT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_and_a_connection_that_dies_end_what_they_carried() {
    let dynos = WsDyno::several(2, 0).await;
    let rig = rig(&dynos, "").await;
    let client = Http2::connect(rig.address).await;
    let (_answer, mut send) = ask(&client, "/").await;
    let (_other, _keep) = ask(&client, "/").await;
    until("both are open", || dynos.iter().all(|dyno| dyno.open() == 1)).await;
    send.send_reset(Reason::CANCEL);
    until("one has ended", || dynos.iter().map(WsDyno::open).sum::<usize>() == 1).await;
    drop((_other, _keep, _answer, send));
    client.cut().await;
    until("both have ended", || dynos.iter().map(WsDyno::open).sum::<usize>() == 0).await;
    rig.at_rest().await;
    rig.log.are(2).await;
    assert!(rig.log.all().iter().all(|line| line["end"] == "client"), "{:?}", rig.log.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_hear_that_the_dyno_or_the_router_leaves() {
    let dynos = WsDyno::several(2, 0).await;
    let mut rig = rig(&dynos, "deploy = { drain_timeout = '1s' }").await;
    let client = Http2::connect(rig.address).await;
    let (one, two) = (open(&client, "/").await, open(&client, "/").await);
    let mut ends = JoinSet::new();
    ends.spawn(goes_away(one));
    ends.spawn(goes_away(two));
    let router = rig.daemon.as_ref().unwrap().router().clone();
    router.apply(&[Change::RemoveDyno("shop".into(), dynos[0].address)]).unwrap();
    timeout(DEADLINE, ends.join_next()).await.expect("that dyno's").unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(ends.len(), 1, "the other dyno stays");
    rig.stop(Duration::from_secs(2)).await;
    timeout(DEADLINE, ends.join_next()).await.expect("the router's").unwrap().unwrap();
    let _ = timeout(DEADLINE, client.over()).await.expect("the connection ends");
    assert_eq!(dynos.iter().flat_map(WsDyno::closes).collect::<Vec<_>>(), [1001, 1001]);
}
