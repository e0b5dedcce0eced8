//! `vegur_roundtrip_SUITE`, group body_less: answers that have no body, whatever their headers say.

use crate::support::{GET, OK, Stand};

const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Sends the request, answers with the head, and checks that the same client is served once more.
async fn once_more(request: &str, answer: &str) -> crate::support::Head {
    let stand = Stand::new().await;
    let mut both = stand.exchange(request, answer).await;
    both.client.stays_silent().await;
    both.client.send(GET).await;
    // After bytes that belong to nothing the dyno's connection is closed, else it is used again.
    let mut dyno = both.dyno;
    if dyno.head_or_end().await.is_none() {
        dyno = stand.dyno().await;
        dyno.head().await;
    }
    dyno.send(OK).await;
    assert_eq!(both.client.head().await.line, "HTTP/1.1 200 OK");
    assert_eq!(both.client.text(2).await, "ok");
    both.got
}

#[tokio::test]
async fn the_length_of_an_answer_to_head_passes_and_no_body_is_waited_for() {
    for length in ["0", "43", "430000"] {
        let got = once_more(HEAD, &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        assert_eq!(got.get("content-length"), Some(length));
    }
}

#[tokio::test]
async fn a_chunked_answer_to_head_has_no_chunks() {
    let got = once_more(HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(!got.has("content-length"), "{got:?}");
}

#[tokio::test]
async fn an_answer_to_head_that_closes_the_dyno_gets_no_length_and_keeps_the_client() {
    let stand = Stand::new().await;
    let mut client = stand.sent(HEAD).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
    drop(dyno);
    let got = client.head().await;
    assert!(!got.has("content-length"), "{got:?}");
    assert_ne!(got.get("connection"), Some("close"));
    client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_sends_head_and_close_is_closed() {
    let stand = Stand::new().await;
    let request = "HEAD / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let mut both = stand.exchange(request, "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n").await;
    assert_eq!(both.got.get("connection"), Some("close"));
    both.client.closes().await;
}

#[tokio::test]
async fn a_misplaced_body_of_an_answer_without_one_is_dropped() {
    for (request, status) in [(GET, "204 No Content"), (GET, "304 Not Modified"), (HEAD, "200 OK")] {
        for close in ["", "Connection: close\r\n"] {
            let answer = format!("HTTP/1.1 {status}\r\n{close}Content-Length: 5\r\n\r\nHTTP/");
            let got = once_more(request, &answer).await;
            assert_eq!(got.line, format!("HTTP/1.1 {status}"));
            assert_ne!(got.get("connection"), Some("close"));
        }
    }
}

#[tokio::test]
async fn a_304_has_no_length() {
    let got = once_more(GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").await;
    assert!(!got.has("content-length"), "{got:?}");
}

#[tokio::test]
async fn a_204_has_neither_length_nor_coding() {
    for line in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let got = once_more(GET, &format!("HTTP/1.1 204 No Content\r\n{line}\r\n\r\n")).await;
        assert!(!got.has("content-length") && !got.has("transfer-encoding"), "{got:?}");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_close_is_closed_after_a_304() {
    let stand = Stand::new().await;
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let answer = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwrong";
    let mut both = stand.exchange(request, answer).await;
    assert_eq!(both.got.get("connection"), Some("close"));
    both.client.closes().await;
}

#[tokio::test]
async fn a_transfer_coding_that_is_none_is_refused() {
    for coding in [",", "gzip", "chunked, gzip", "xchunked", ""] {
        let stand = Stand::new().await;
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        assert_eq!(stand.refused(request).await.status(), 400, "{coding:?}");
    }
}

#[tokio::test]
async fn answers_without_bodies_follow_each_other_on_one_connection() {
    for (request, status) in [(GET, "204 No Content"), (GET, "304 Not Modified"), (HEAD, "200 OK")] {
        let stand = Stand::new().await;
        let answer = format!("HTTP/1.1 {status}\r\n\r\n");
        let mut both = stand.exchange(request, &answer).await;
        both.client.send(request).await;
        both.dyno.head().await;
        both.dyno.send(&answer).await;
        assert_eq!(both.client.head().await.line, format!("HTTP/1.1 {status}"));
        both.client.stays_silent().await;
    }
}
