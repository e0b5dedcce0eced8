//! `vegur_roundtrip_SUITE`, groups backend_close and backend_keepalive: whose wish decides over which connection.

use crate::support::{GET, OK, Stand};

fn get(wish: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", connection(wish))
}

fn ok(wish: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", connection(wish))
}

fn connection(wish: &str) -> String {
    if wish.is_empty() { String::new() } else { format!("Connection: {wish}\r\n") }
}

#[tokio::test]
async fn the_wish_of_the_client_decides_over_its_connection_alone() {
    for dyno in ["close", "keep-alive", ""] {
        let stand = Stand::new().await;
        let mut both = stand.exchange(&get("close"), &ok(dyno)).await;
        assert_eq!(both.got.get("connection"), Some("close"));
        assert_eq!(both.client.rest().await, b"ok");
        for client in ["keep-alive", ""] {
            let stand = Stand::new().await;
            let mut both = stand.exchange(&get(client), &ok(dyno)).await;
            assert_ne!(both.got.get("connection"), Some("close"));
            assert_eq!(both.client.text(2).await, "ok");
            both.client.stays_silent().await;
        }
    }
}

#[tokio::test]
async fn the_connection_to_the_dyno_is_kept_whatever_the_client_wishes() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(&get("close"), OK).await;
    assert!(!both.seen.has("connection"), "{:?}", both.seen);
    let mut next = stand.sent(GET).await;
    both.dyno.head().await;
    both.dyno.send(OK).await;
    assert_eq!(next.head().await.status(), 200);
}

#[tokio::test]
async fn two_requests_of_a_client_use_the_same_connection_to_the_dyno() {
    for wish in ["keep-alive", ""] {
        let stand = Stand::new().await;
        let mut both = stand.exchange(&get(wish), &ok(wish)).await;
        both.client.text(2).await;
        both.client.send(get(wish)).await;
        both.dyno.head().await;
        both.dyno.send(ok(wish)).await;
        assert_eq!(both.client.head().await.status(), 200);
    }
}

#[tokio::test]
async fn a_dyno_that_closes_gets_a_new_connection_and_the_client_keeps_its_own() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, &ok("close")).await;
    assert_eq!(both.client.text(2).await, "ok");
    both.dyno.closes().await;
    both.client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(both.client.head().await.status(), 200);
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_and_the_request_served() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, OK).await;
    assert_eq!(both.client.text(2).await, "ok");
    drop(both.dyno);
    both.client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(both.client.head().await.status(), 200);
}

#[tokio::test]
async fn without_keepalive_each_request_opens_its_own_connection_to_the_dyno() {
    let stand = Stand::app("timeouts = { keepalive = \"0s\" }").await;
    let mut both = stand.exchange(GET, OK).await;
    both.client.text(2).await;
    both.dyno.closes().await;
    both.client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(both.client.head().await.status(), 200);
}

#[tokio::test]
async fn chunked_requests_and_answers_follow_each_other_on_the_same_connections() {
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let stand = Stand::new().await;
    let mut client = stand.sent(request).await;
    let mut dyno = stand.dyno().await;
    for round in 0..2 {
        let head = dyno.head().await;
        assert_eq!(dyno.body(&head).await, b"hi");
        dyno.send(answer).await;
        let got = client.head().await;
        assert_eq!(client.body(&got).await, b"hi");
        if round == 0 {
            client.send(request).await;
        }
    }
}

#[tokio::test]
async fn two_requests_in_one_packet_are_answered_one_after_the_other() {
    let stand = Stand::new().await;
    let second = "GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut client = stand.sent(GET.to_owned() + second).await;
    let mut dyno = stand.dyno().await;
    assert_eq!(dyno.head().await.line, "GET / HTTP/1.1");
    dyno.stays_silent().await;
    dyno.send(ok("")).await;
    assert_eq!(dyno.head().await.line, "GET /second HTTP/1.1");
    dyno.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.text(2).await, "ok");
    assert_eq!(client.head().await.status(), 201);
}
