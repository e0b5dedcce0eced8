//! Bounds of a connection of HTTP/2: clients that stall, are idle, silent or in the way of an end.

use std::time::Duration;

use h2::Reason;
use h2::client::Builder;
use http::Request;
use router_core::snapshot::DynoState;
use routerd::admin::AdminAddress;

use crate::support::frames::{Frames, HEADERS, RST_STREAM, WHOLE, frame, get};
use crate::support::http2::{Http2, read, request};
use crate::support::{Dyno, Rig, until};

async fn rig(dyno: &Dyno, more: &str, app: &str) -> Rig {
    let server = format!("http2 = true\n{more}");
    Rig::start_with(&[dyno], &server, app).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_no_window_holds_no_dyno_and_loses_its_stream() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "[http2]\nsend_timeout = '400ms'", "timeouts = { idle = '100ms' }").await;
    let greedy = Http2::connect_with(rig.address, Builder::new().initial_window_size(0)).await;
    // One that fits into the spool, and one that does not.
    for length in [100_000, 3 << 20] {
        let (answer, _) = greedy.send(request("GET", &format!("/?body={length}"), &[]), true).await;
        let mut answer = answer.await.unwrap();
        rig.are(1, DynoState::Idle).await;
        let reset = answer.body_mut().data().await.unwrap().unwrap_err();
        assert_eq!(reset.reason(), Some(Reason::CANCEL), "{length}");
    }
    rig.log.are(2).await;
    assert_eq!(rig.log.faults(), ["H28"; 2]);
    assert_eq!(
        greedy.get("/").await.map(|reply| reply.head.status.as_u16()).ok(),
        None,
        "no window for this either"
    );
    let other = Http2::connect(rig.address).await;
    assert_eq!(other.get("/").await.unwrap().head.status, 200);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_request_ends_with_goaway() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "header_timeout = '200ms'", "").await;
    let client = Http2::connect(rig.address).await;
    assert_eq!(client.get("/?ms=400").await.unwrap().head.status, 200, "one that has a request does not");
    client.over().await.unwrap();
    // Who says nothing more is not waited for.
    let mut mute = Frames::connect(rig.address).await;
    mute.until(&["GOAWAY 0"]).await.unwrap();
    mute.until(&["END"]).await.unwrap();
    let mut nothing = Frames::silent(rig.address).await;
    nothing.until(&["END"]).await.unwrap();
    until("none is open", || rig.daemon.as_ref().unwrap().connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_answer_a_ping_is_gone() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "[http2]\nping_interval = '50ms'\nping_timeout = '3s'", "").await;
    let client = Http2::connect(rig.address).await;
    assert_eq!(client.get("/?ms=500").await.unwrap().head.status, 200, "one that answers stays");
    let mut mute = Frames::connect(rig.address).await;
    mute.until(&["frame 6"]).await.unwrap();
    mute.until(&["END"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_broken_off_one_by_one_are_counted_too() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "[http2]\nmax_reset_streams = 20", "queue = { max_wait = '1m' }").await;
    let mut client = Frames::connect(rig.address).await;
    let mut holder = rig.client().await;
    holder.ask("GET", "/?held=1").await;
    rig.are(1, DynoState::Busy).await;
    for number in 0..20 {
        client.send(&frame(HEADERS, WHOLE, number * 2 + 1, &get("/broken"))).await;
        rig.waiting(1).await;
        client.send(&frame(RST_STREAM, 0, number * 2 + 1, &[0, 0, 0, 8])).await;
        rig.waiting(0).await;
    }
    client.send(&frame(HEADERS, WHOLE, 41, &get("/broken"))).await;
    rig.waiting(1).await;
    client.send(&frame(RST_STREAM, 0, 41, &[0, 0, 0, 8])).await;
    client.until(&["GOAWAY 11"]).await.unwrap();
    dyno.let_go();
    assert!(holder.answer().await.is_ok());
    rig.log.are(22).await;
    assert_eq!(dyno.asked(), 1, "nothing that was broken off came to the dyno");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_request_of_a_connection_is_served_and_the_next_goes_elsewhere() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "keepalive_requests = 2", "").await;
    let client = Http2::connect(rig.address).await;
    assert_eq!(client.get("/").await.unwrap().head.status, 200);
    assert_eq!(client.get("/?ms=50").await.unwrap().head.status, 200);
    client.over().await.unwrap();
    rig.log.are(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_wait_in_line_up_to_their_windows_are_no_flood() {
    let dyno = Dyno::start().await;
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[http2]\nstream_window = '1MiB'\n\
         connection_window = '4MiB'\n[apps.shop]\ndynos = ['{}']\n\
         queue = {{ max_wait = '60s' }}\n",
        dyno.address
    );
    let rig = Rig::from_toml(&config).await;
    let client = Http2::connect(rig.address).await;
    let (first, _) = client.send(request("GET", "/?ms=700", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    let mut answers = vec![first];
    for number in 0..6 {
        let (answer, mut body) = client.send(request("POST", &format!("/?n={number}"), &[]), false).await;
        // What the windows have no room for waits at the client.
        body.send_data(vec![b'x'; 1_000_000].into(), true).unwrap();
        answers.push(answer);
    }
    for answer in answers {
        assert_eq!(read(answer).await.unwrap().head.status, 200);
    }
    assert_eq!(dyno.asked(), 7);
}

/// What they may send of their own windows is more than the connection's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_wait_in_line_do_not_hold_up_another_on_their_connection() {
    let (busy, free) = (Dyno::start().await, Dyno::start().await);
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = ['{}']\nqueue = {{ max_wait = '60s' }}\n\
         [apps.zoo]\nhosts = ['zoo.test']\ndynos = ['{}']\n",
        busy.address, free.address
    );
    let rig = Rig::from_toml(&config).await;
    let client = Http2::connect(rig.address).await;
    let mut answers = Vec::new();
    let (first, _) = client.send(request("GET", "/?do=hang", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    let post = |uri: &str| Request::post(uri).body(()).unwrap();
    for number in 0..4 {
        let (answer, mut body) = client.send(post(&format!("http://shop.test/?n={number}")), false).await;
        body.send_data(vec![b'x'; 1_000_000].into(), true).unwrap();
        answers.push((answer, body));
    }
    rig.waiting(4).await;
    let (answer, mut body) = client.send(post("http://zoo.test/"), false).await;
    body.send_data(vec![b'y'; 1_000_000].into(), true).unwrap();
    assert_eq!(read(answer).await.unwrap().head.status, 200);
    assert_eq!((busy.asked(), free.asked()), (1, 1));
    drop((first, answers));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_streams_end_and_cuts_those_that_do_not() {
    let dyno = Dyno::start().await;
    let mut rig = rig(&dyno, "", "").await;
    let idle = Http2::connect(rig.address).await;
    assert_eq!(idle.get("/").await.unwrap().head.status, 200);
    let client = Http2::connect(rig.address).await;
    let (answer, _) = client.send(request("GET", "/?held=1&body=200000", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    let answer = tokio::spawn(read(answer));
    let (cut, ()) = tokio::join!(rig.stop(Duration::from_secs(10)), async { dyno.let_go() });
    assert_eq!(cut, 0);
    assert_eq!(answer.await.unwrap().unwrap().body.len(), 200_000);
    client.over().await.unwrap();
    idle.over().await.unwrap();

    let dyno = Dyno::start().await;
    let mut rig = self::rig(&dyno, "", "").await;
    let client = Http2::connect(rig.address).await;
    let (answer, _) = client.send(request("GET", "/?do=hang", &[]), true).await;
    rig.are(1, DynoState::Busy).await;
    assert_eq!(rig.stop(Duration::from_millis(200)).await, 1);
    read(answer).await.unwrap_err();
    rig.log.are(1).await;
    assert_eq!(rig.log.codes(), ["H24"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_long_has_its_answer_and_its_record() {
    let dyno = Dyno::start().await;
    let rig = rig(&dyno, "head_max = '8KiB'\nheader_line_max = '8KiB'\nrequest_line_max = '8KiB'", "").await;
    let client = Http2::connect(rig.address).await;
    let (half, line) = ("v".repeat(4500), "v".repeat(8180));
    let long = request("GET", "/", &[("x", &half), ("y", &half)]);
    let reply = client.ask(long).await.unwrap();
    assert_eq!((reply.head.status.as_u16(), reply.header("x-router-fault")), (431, "H26"));
    assert_eq!(client.ask(request("GET", "/", &[("x", &line)])).await.unwrap().head.status, 431);
    rig.log.are(2).await;
    assert_eq!(rig.log.codes(), ["H26", "H26"]);
    assert_eq!(dyno.asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_did_wrong_is_counted_by_kind() {
    let dyno = Dyno::start().await;
    let config = format!(
        "[server]\nlisten = ['127.0.0.1:0']\nhttp2 = true\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\ndynos = ['{}']\n",
        dyno.address
    );
    let rig = Rig::from_toml(&config).await;
    let Some(AdminAddress::Tcp(admin)) = rig.daemon.as_ref().unwrap().admin_address() else { panic!() };
    let mut frames = Frames::connect(rig.address).await;
    frames.send(&frame(0, 0, 0, b"x")).await;
    frames.until(&["GOAWAY 1"]).await.unwrap();
    let wanted = "routerd_http2_trouble_total{kind=\"protocol_error\"} 1";
    let end = tokio::time::Instant::now() + crate::support::DEADLINE;
    while !crate::support::Client::connect(admin).await.local("/metrics").await.text().contains(wanted) {
        assert!(tokio::time::Instant::now() < end, "{wanted}");
    }
}
