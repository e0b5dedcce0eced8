//! `vegur_roundtrip_SUITE`, group large_body; and answers that come while the request is still being sent.

use crate::support::{GET, Head, OK, Stand, Wire};

const LARGE: usize = 300_000;

fn post(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LARGE}\r\n{lines}\r\n")
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|i| b'a' + (i % 23) as u8).collect()
}

/// Sends a large body and takes it off the dyno's end; both at once, because no buffer holds all of it.
async fn upload(stand: &Stand, lines: &str) -> (Wire, Wire) {
    let mut client = stand.sent(post(lines)).await;
    let body = large();
    let receive = async {
        let mut dyno = stand.dyno().await;
        assert_eq!(dyno.head().await.get("content-length"), Some(&*LARGE.to_string()));
        assert_eq!(dyno.take(LARGE).await, large());
        dyno
    };
    let ((), dyno) = tokio::join!(client.send(&body), receive);
    (client, dyno)
}

/// The dyno answers in the middle of the upload and closes; gives what the client got.
async fn interrupted(head: &str, chunked: bool, answer: String) -> (Wire, Head) {
    let stand = Stand::new().await;
    let mut client = stand.sent(head).await;
    let part =
        if chunked { format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000)) } else { "x".repeat(100_000) };
    client.send(part).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.take(1000).await;
    dyno.send(answer).await;
    // Closed for writing only: with unread data in its buffer the kernel would send a reset, which may overtake.
    dyno.half_close().await;
    let got = client.head().await;
    (client, got)
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_both_connections_are_kept() {
    let stand = Stand::new().await;
    let (mut client, mut dyno) = upload(&stand, "").await;
    let answer = large();
    dyno.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let (body, ()) = tokio::join!(
        async {
            assert_eq!(client.head().await.status(), 200);
            client.take(LARGE).await
        },
        dyno.send(&answer)
    );
    assert_eq!(body, answer);
    client.send(GET).await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_asks_for_close_is_closed_after_a_large_body() {
    let stand = Stand::new().await;
    let (mut client, mut dyno) = upload(&stand, "Connection: close\r\n").await;
    dyno.send(OK).await;
    let got = client.head().await;
    assert_eq!((got.status(), got.get("connection")), (200, Some("close")));
    assert_eq!(client.rest().await, b"ok");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_becomes_chunked_and_the_client_is_kept() {
    let stand = Stand::new().await;
    let (mut client, mut dyno) = upload(&stand, "").await;
    dyno.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    let got = client.head().await;
    assert_eq!(got.get("transfer-encoding"), Some("chunked"));
    drop(dyno);
    assert_eq!(client.chunks().await.0, b"to the end");
    client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_answer_in_the_middle_of_an_upload_reaches_the_client() {
    let answer = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n";
    assert_eq!(interrupted(&post(""), false, answer.to_owned()).await.1.status(), 304);
}

#[tokio::test]
async fn an_answer_in_the_middle_of_a_chunked_upload_reaches_the_client() {
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n";
    assert_eq!(interrupted(head, true, answer.to_owned()).await.1.status(), 304);
}

#[tokio::test]
async fn an_early_answer_that_ends_with_its_connection_reaches_the_client_whole() {
    for length in [30_000, 100_000] {
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "y".repeat(length));
        let (mut client, got) = interrupted(&post(""), false, answer).await;
        assert_eq!(got.status(), 200);
        assert_eq!(client.body(&got).await, vec![b'y'; length]);
    }
}

#[tokio::test]
async fn a_length_with_a_space_behind_it_is_the_length() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2 \r\n\r\nok").await;
    assert_eq!((both.got.status(), both.got.get("content-length")), (200, Some("2")));
    assert_eq!(both.client.text(2).await, "ok");
}

#[tokio::test]
async fn a_dyno_that_dies_in_a_short_answer_gives_a_clean_fault_and_in_a_long_one_a_cut() {
    let stand = Stand::new().await;
    let mut client = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    drop(dyno);
    client.head().await.is(503, "H18");

    let mut client = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf").await;
    let got = client.head().await;
    assert_eq!((got.status(), got.get("content-length")), (200, Some("100000")));
    drop(dyno);
    assert_eq!(client.rest().await, b"half");
}
