//! `vegur_roundtrip_SUITE`, group http_1_0.

use crate::support::{OK, Stand};

const GET_1_0: &str = "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n";
const KEEP: &str = "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n";

#[tokio::test]
async fn a_1_0_client_is_answered_in_its_own_version_and_closed() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET_1_0, OK).await;
    assert_eq!(both.got.line, "HTTP/1.0 200 OK");
    assert_eq!(both.client.rest().await, b"ok");
    assert!(both.seen.line.ends_with("HTTP/1.1"), "{:?}", both.seen);
}

#[tokio::test]
async fn a_1_0_client_that_asks_for_it_is_kept() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(KEEP, OK).await;
    for _ in 0..2 {
        assert_eq!(both.got.get("connection"), Some("keep-alive"));
        assert_eq!(both.client.text(2).await, "ok");
        both.client.send(KEEP).await;
        both.dyno.head().await;
        both.dyno.send(OK).await;
        both.got = both.client.head().await;
    }
}

#[tokio::test]
async fn chunks_are_undone_for_a_1_0_client_and_end_with_the_connection() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for request in [GET_1_0, KEEP] {
        let stand = Stand::new().await;
        let mut both = stand.exchange(request, answer).await;
        assert!(!both.got.has("transfer-encoding"), "{:?}", both.got);
        match both.got.get("content-length") {
            Some(length) => {
                assert_eq!(length, "5");
                assert_eq!(both.client.text(5).await, "abcde");
            }
            None => assert_eq!(both.client.rest().await, b"abcde"),
        }
    }
}
