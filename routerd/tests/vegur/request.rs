//! `vegur_request_SUITE`: limits of a request's head, and requests that find no dyno.

use std::time::Duration;

use crate::support::{GET, OK, Stand};
use tokio::net::TcpListener;

fn with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")
}

/// The dyno gets the request and the client its answer.
async fn passes(request: &str) {
    let stand = Stand::new().await;
    assert_eq!(stand.exchange(request, OK).await.got.status(), 200);
}

async fn refused(request: &str, status: u16) {
    let stand = Stand::new().await;
    let got = stand.refused(request).await;
    assert_eq!(got.status(), status, "{got:?}");
    stand.logged(&["code=H26", &format!("status={status}")]).await;
}

#[tokio::test]
async fn a_request_without_host_is_refused() {
    refused("GET / HTTP/1.1\r\n\r\n", 400).await;
    refused("GET / HTTP/1.0\r\n\r\n", 400).await;
}

#[tokio::test]
async fn an_empty_host_is_refused() {
    for host in ["", " "] {
        let stand = Stand::new().await;
        let got = stand.refused(format!("GET / HTTP/1.1\r\nHost:{host}\r\n\r\n")).await;
        assert_eq!(got.status(), 400, "{got:?}");
    }
}

#[tokio::test]
async fn an_empty_expect_is_no_expectation() {
    passes(&with("Expect:\r\n")).await;
}

#[tokio::test]
async fn a_request_line_of_8192_bytes_passes_and_one_byte_more_is_refused() {
    let line = |length: usize| {
        let path = "p".repeat(length - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
    };
    passes(&line(8192)).await;
    for length in [8193, 10_000] {
        refused(&line(length), 414).await;
    }
}

#[tokio::test]
async fn a_header_line_of_8192_bytes_and_a_name_of_1000_pass_and_more_is_refused() {
    let value = |line: usize| with(&format!("x: {}\r\n", "v".repeat(line - 3)));
    let name = |length: usize| with(&format!("{}: v\r\n", "n".repeat(length)));
    passes(&value(8192)).await;
    passes(&name(1000)).await;
    for request in [value(8193), value(9100), name(1001), name(2100)] {
        refused(&request, 431).await;
    }
}

#[tokio::test]
async fn a_thousand_headers_pass_and_more_are_refused() {
    let many = |number: usize| with(&(1..number).map(|i| format!("h{i}: v\r\n")).collect::<String>());
    passes(&many(1000)).await;
    for number in [1001, 1100] {
        refused(&many(number), 431).await;
    }
}

#[tokio::test]
async fn connect_is_not_implemented() {
    refused("CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", 501).await;
}

#[tokio::test]
async fn a_target_of_no_form_is_refused() {
    for target in ["CONNECT http://a.test/", "GET nowhere at all", "GET  /", "GET http://"] {
        let stand = Stand::new().await;
        let got = stand.refused(format!("{target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert!(matches!(got.status(), 400 | 501), "{target}: {got:?}");
    }
}

#[tokio::test]
async fn an_absolute_target_comes_before_host() {
    let stand = Stand::new().await;
    let both = stand.exchange("GET http://a.test/x?y HTTP/1.1\r\nHost: b.test\r\n\r\n", OK).await;
    assert_eq!((&*both.seen.line, both.seen.get("host")), ("GET /x?y HTTP/1.1", Some("a.test")));
}

#[tokio::test]
async fn connection_upgrade_without_upgrade_is_refused() {
    refused(&with("Connection: upgrade\r\n"), 400).await;
}

#[tokio::test]
async fn a_name_that_no_app_has_is_not_found() {
    let stand = Stand::new().await;
    stand.refused("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await.is(404, "M01");
    stand.logged(&["code=M01", "status=404"]).await;
}

#[tokio::test]
async fn an_app_without_dynos_is_unavailable() {
    let spare = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stand = Stand::with_dynos(spare, "", "").await;
    stand.refused(GET).await.is(503, "H14");
}

#[tokio::test]
async fn a_line_that_is_full_refuses_at_the_door() {
    let stand = Stand::app("queue = { max_requests_per_dyno = 0 }").await;
    let _busy = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    let got = stand.refused(GET).await;
    got.is(503, "H11");
    assert!(got.has("retry-after"));
}

#[tokio::test]
async fn a_wait_that_is_too_long_ends_in_the_line() {
    let stand = Stand::app("queue = { max_wait = \"100ms\" }").await;
    let _busy = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    stand.refused(GET).await.is(503, "H11");
    stand.logged(&["code=H11", "status=503"]).await;
}

#[tokio::test]
async fn above_the_connection_limit_a_client_is_turned_away() {
    let stand = Stand::with("max_connections = 1", "").await;
    let both = stand.exchange(GET, OK).await;
    stand.sent(GET).await.head().await.is(503, "H22");
    drop(both);
}

#[tokio::test]
async fn dynos_that_refuse_are_tried_and_quarantined() {
    let spare = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let keys = format!("dynos = [\"{closed}\"]\nqueue = {{ max_wait = \"300ms\" }}");
    let stand = Stand::with_dynos(spare, "", &keys).await;
    let mut codes = Vec::new();
    for _ in 0..2 {
        let got = stand.refused(GET).await;
        assert_eq!(got.status(), 503, "{got:?}");
        codes.push(got.fault().unwrap().to_owned());
    }
    assert!(codes.iter().all(|code| matches!(code.as_str(), "H21" | "H34")), "{codes:?}");
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_refused() {
    let stand = Stand::with("header_timeout = \"100ms\"", "").await;
    let mut client = stand.sent("GET / HTTP/1.1\r\nHost: a").await;
    let waited = tokio::time::timeout(Duration::from_secs(5), client.head()).await.unwrap();
    assert_eq!(waited.status(), 408);
    client.closes().await;
}
