//! `vegur_proxy_SUITE`: what the dyno is told, and what the log is told.

use crate::support::{GET, Head, OK, Stand};
use tokio::net::TcpListener;

/// What the dyno gets of a GET with these header lines.
async fn seen(lines: &str) -> Head {
    let stand = Stand::new().await;
    stand.exchange(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"), OK).await.seen
}

#[tokio::test]
async fn a_request_id_is_made_kept_or_replaced() {
    let id = |head: &Head| head.get("x-request-id").unwrap().to_owned();
    let (made, other) = (id(&seen("").await), id(&seen("").await));
    assert_eq!(made.len(), 36);
    assert_ne!(made, other);
    for good in ["a".repeat(20), "b".repeat(200), "abcDEF0123456789+/=-".to_owned()] {
        assert_eq!(id(&seen(&format!("X-Request-Id: {good}\r\n")).await), good);
    }
    for bad in ["a".repeat(19), "b".repeat(201), "not good, not good at all".to_owned(), String::new()] {
        let made = id(&seen(&format!("X-Request-Id: {bad}\r\n")).await);
        assert_eq!((made.len(), made != bad), (36, true), "{bad}");
    }
}

#[tokio::test]
async fn the_request_id_stands_in_the_log() {
    let stand = Stand::new().await;
    let both = stand.exchange(GET, OK).await;
    let id = both.seen.get("x-request-id").unwrap();
    stand.logged(&[&format!("request_id={id}"), "status=200", "bytes=2"]).await;
}

#[tokio::test]
async fn the_dyno_is_told_where_a_request_comes_from() {
    let stand = Stand::new().await;
    let lines = "X-Forwarded-For: 203.0.113.5\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let seen = stand.exchange(&request, OK).await.seen;
    assert_eq!(seen.get("x-forwarded-for"), Some("203.0.113.5, 127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.get("x-forwarded-port"), Some(&*stand.address().port().to_string()));
}

#[tokio::test]
async fn the_dyno_is_told_of_time_and_line_in_whole_numbers() {
    let seen = seen("X-Request-Start: soon\r\nX-Queue-Wait: none\r\n").await;
    for name in ["x-request-start", "x-queue-wait", "x-queue-depth"] {
        let value = seen.get(name).unwrap_or_else(|| panic!("no {name} in {seen:?}"));
        assert!(value.parse::<u64>().is_ok(), "{name}: {value}");
    }
    assert!(!seen.has("connect-time") && !seen.has("total-route-time"));
}

#[tokio::test]
async fn the_dyno_gets_host_as_the_client_sent_it() {
    let stand = Stand::new().await;
    let seen = stand.exchange("GET / HTTP/1.1\r\nHost: A.Test:8080\r\n\r\n", OK).await.seen;
    assert_eq!(seen.get("host"), Some("A.Test:8080"));
}

#[tokio::test]
async fn the_query_reaches_the_dyno_and_a_fragment_is_refused() {
    let stand = Stand::new().await;
    let seen = stand.exchange("GET /p?a=1&b=%20? HTTP/1.1\r\nHost: a.test\r\n\r\n", OK).await.seen;
    assert_eq!(seen.line, "GET /p?a=1&b=%20? HTTP/1.1");
    let stand = Stand::new().await;
    stand.refused("GET /p?a=1#frag HTTP/1.1\r\nHost: a.test\r\n\r\n").await.is(400, "H26");
}

#[tokio::test]
async fn a_length_reaches_the_dyno_and_a_get_without_one_stays_without() {
    assert!(!seen("").await.has("content-length"));
    let stand = Stand::new().await;
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(stand.exchange(request, OK).await.seen.get("content-length"), Some("4"));
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n";
    let stand = Stand::new().await;
    assert_eq!(stand.exchange(request, OK).await.seen.get("content-length"), Some("0"));
}

#[tokio::test]
async fn a_dyno_that_refuses_is_passed_over() {
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = good.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stand = Stand::with_dynos(good, "", &format!("dynos = [\"{closed}\", \"{address}\"]")).await;
    let mut first = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    // While the good one is busy only the other is left to try.
    let mut second = stand.sent(GET).await;
    second.stays_silent().await;
    dyno.send(OK).await;
    assert_eq!(first.head().await.status(), 200);
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(second.head().await.status(), 200);
}

#[tokio::test]
async fn the_log_counts_the_bytes_of_each_body_and_connects_once() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, OK).await;
    both.client.text(2).await;
    both.client.send("GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    both.dyno.head().await;
    both.dyno.send("HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(both.client.head().await.status(), 202);
    stand.logged(&["path=\"/\"", "status=200", "bytes=2"]).await;
    stand.logged(&["path=\"/second\"", "status=202", "bytes=5", "connect=0ms"]).await;
}
