//! HTTP/2 in front: each stream is a request as any other, with its own ticket, record and fault.

pub(crate) mod attacks;
mod bounds;
mod grpc;
mod h2c;
mod programs;
mod tunnel;

use bytes::Bytes;
use h2::Reason;
use router_core::snapshot::DynoState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::frames::{END_HEADERS, Frames, HEADERS, frame, head};
use crate::support::http2::{Http2, read, reason, request};
use crate::support::{Dyno, Rig};

const PLAIN: &str = "http2 = true";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_comes_to_the_dyno_in_the_words_of_http1() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], PLAIN, "").await;
    let client = Http2::connect(rig.address).await;
    let headers = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("x-own", "yes")];
    let reply = client.ask(request("GET", "/cart?x=1", &headers)).await.unwrap();
    assert_eq!(reply.head.status, 200);
    assert_eq!(reply.header("via"), "1.1 routerd", "the dyno answered over HTTP/1.1");
    assert!(!reply.header("date").is_empty());
    assert!(!reply.header("content-length").is_empty());
    let seen = dyno.seen().remove(0);
    let has =
        |line: &str| assert!(seen.head.lines().any(|has| has.eq_ignore_ascii_case(line)), "{line}: {seen:?}");
    has("GET /cart?x=1 HTTP/1.1");
    has("host: shop.test");
    has("cookie: a=1; b=2");
    has("via: 2.0 routerd");
    has("x-own: yes");
    assert!(!seen.head.to_lowercase().contains("\r\nte:"), "{seen:?}");
    rig.log.are(1).await;
    let line = rig.log.last();
    assert_eq!((line["protocol"].as_str(), line["host"].as_str()), (Some("http2.0"), Some("shop.test")));
    assert_eq!((line["path"].as_str(), line["status"].as_u64()), (Some("/cart?x=1"), Some(200)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_streams_of_a_connection_stand_in_line_one_by_one() {
    let dynos = Dyno::several(3).await;
    let dynos: Vec<&Dyno> = dynos.iter().collect();
    let rig = Rig::start_with(&dynos, PLAIN, "").await;
    let client = Http2::connect(rig.address).await;
    let mut answers = Vec::new();
    for number in 0..60 {
        let (answer, _) = client.send(request("GET", &format!("/?ms=5&n={number}"), &[]), true).await;
        answers.push(answer);
    }
    for answer in answers {
        assert_eq!(read(answer).await.unwrap().head.status, 200);
    }
    rig.log.are(60).await;
    assert_eq!(dynos.iter().map(|dyno| dyno.asked()).sum::<usize>(), 60);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_reset_leaves_the_line_and_the_others_stay() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], PLAIN, "").await;
    let client = Http2::connect(rig.address).await;
    let (first, _) = client.send(request("GET", "/first?held=1", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    let (second, mut gone) = client.send(request("GET", "/second", &[]), true).await;
    rig.waiting(1).await;
    let (third, _) = client.send(request("GET", "/third", &[]), true).await;
    rig.waiting(2).await;
    gone.send_reset(Reason::CANCEL);
    rig.waiting(1).await;
    drop(second);
    dyno.let_go();
    assert_eq!(read(first).await.unwrap().head.status, 200);
    assert_eq!(read(third).await.unwrap().head.status, 200);
    rig.log.are(3).await;
    assert_eq!(rig.log.faults(), ["H27"]);
    assert_eq!(dyno.seen().iter().map(|seen| &seen.path[..3]).collect::<Vec<_>>(), ["/fi", "/th"]);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_go_both_ways_whatever_their_length() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], PLAIN, "").await;
    let client = Http2::connect(rig.address).await;
    for length in [0, 1, 70_000, 3 << 20] {
        for known in [true, false] {
            let path = format!("/?body={length}");
            let text = length.to_string();
            let headers = [("content-length", &*text)];
            let (answer, mut body) =
                client.send(request("POST", &path, &headers[..usize::from(known)]), false).await;
            let sending = tokio::spawn(async move {
                let mut left = Bytes::from(vec![b'x'; length]);
                while !left.is_empty() {
                    body.reserve_capacity(left.len());
                    let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
                    body.send_data(left.split_to(room.min(left.len())), false).unwrap();
                }
                body.send_data(Bytes::new(), true).unwrap();
            });
            let reply = read(answer).await.unwrap();
            sending.await.unwrap();
            assert_eq!((reply.head.status.as_u16(), reply.body.len()), (200, length), "{length} {known}");
            // The dyno counts chunks with their frames.
            let seen = dyno.seen().last().unwrap().body;
            assert!(seen == length || seen > length && !known, "{length} {known} {seen}");
        }
    }
    assert_eq!(dyno.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_answers_of_their_stream() {
    let dyno = Dyno::start().await;
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[apps.shop]\nhosts = ['shop.test']\ndynos = ['{}']\n",
        dyno.address
    );
    let rig = Rig::from_toml(&config).await;
    let client = Http2::connect(rig.address).await;
    let mut elsewhere = request("GET", "/", &[]);
    *elsewhere.uri_mut() = "http://other.test/".parse().unwrap();
    let reply = client.ask(elsewhere).await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("content-type")), (404, "application/json"));
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    let reply = client.ask(request("HEAD", "/?body=100", &[])).await.unwrap();
    assert_eq!(
        (reply.head.status.as_u16(), reply.header("content-length"), reply.body.len()),
        (200, "100", 0)
    );
    let reply = client.get("/?do=close").await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("x-router-fault")), (503, "H13"));
    // What has begun cannot become a fault: the client must not take the part for the whole.
    let reply = client.get("/?body=3000000&parts=2&gap=50&do=cut").await;
    assert_eq!(reason(reply), Reason::INTERNAL_ERROR);
    assert_eq!(client.get("/").await.unwrap().head.status, 200);
    rig.log.are(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_expects_100_gets_it_before_sending_anything() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], PLAIN, "").await;
    let mut frames = Frames::connect(rig.address).await;
    let expect = [("expect", "100-continue"), ("content-length", "3")];
    frames.send(&frame(HEADERS, END_HEADERS, 1, &head("POST", "/", &expect))).await;
    let interim = frames.until(&["100"]).await.unwrap();
    assert_eq!((interim.stream, interim.flags), (1, END_HEADERS));
    assert_eq!(dyno.asked(), 0);
    frames.send(&frame(0, 1, 1, b"abc")).await;
    frames.until(&["200"]).await.unwrap();
    assert_eq!(dyno.seen()[0].body, 3);
}

/// A dyno that answers one request with these bytes.
async fn one_answer(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_buf(&mut head).await;
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_and_trailers_of_a_dyno_come_through() {
    let address = one_answer(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
         Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
    )
    .await;
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[apps.shop]\ndynos = ['{address}']"
    ))
    .await;
    let client = Http2::connect(rig.address).await;
    let (mut answer, _) = client.send(request("GET", "/", &[]), true).await;
    let interim = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), interim.headers()["link"].to_str().unwrap()), (103, "</a.css>"));
    let reply = read(answer).await.unwrap();
    assert_eq!(
        (&reply.body[..], &reply.trailers.as_ref().unwrap()["x-sum"]),
        (&b"abc"[..], &"6".parse().unwrap())
    );
    for name in ["connection", "x-hop", "transfer-encoding"] {
        assert_eq!(reply.header(name), "", "{name}");
    }
}
