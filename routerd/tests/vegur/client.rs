//! `vegur_client_SUITE`: what an answer of a dyno may look like, and how long it may take.

use crate::support::{GET, Stand};

async fn line(line: &str) -> String {
    let stand = Stand::new().await;
    stand.exchange(GET, &format!("{line}\r\nContent-Length: 0\r\n\r\n")).await.got.line
}

#[tokio::test]
async fn a_reason_phrase_passes_and_a_missing_one_is_made_up_or_left_out() {
    assert_eq!(line("HTTP/1.1 421 Misdirected Request").await, "HTTP/1.1 421 Misdirected Request");
    assert_eq!(line("HTTP/1.1 200 Very Fine").await, "HTTP/1.1 200 Very Fine");
    for missing in ["HTTP/1.1 421", "HTTP/1.1 421 "] {
        assert!(line(missing).await.starts_with("HTTP/1.1 421"));
    }
}

#[tokio::test]
async fn a_dyno_that_says_nothing_in_time_is_a_request_timeout() {
    let stand = Stand::app("timeouts = { first_byte = \"100ms\" }").await;
    let mut client = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    client.head().await.is(503, "H12");
    stand.logged(&["code=H12", "status=503"]).await;
}

#[tokio::test]
async fn a_dyno_that_falls_silent_after_its_head_is_an_idle_connection() {
    let stand = Stand::app("timeouts = { idle = \"100ms\" }").await;
    // A short answer is read whole first, so it can still be a fault.
    let both = stand.exchange(GET, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    both.got.is(503, "H15");
    let stand = Stand::app("timeouts = { idle = \"100ms\" }").await;
    let mut both = stand.exchange(GET, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf").await;
    assert_eq!(both.got.status(), 200);
    assert_eq!(both.client.rest().await, b"half");
    stand.logged(&["code=H15"]).await;
}

#[tokio::test]
async fn a_dyno_that_closes_without_a_word_is_a_fault() {
    let stand = Stand::new().await;
    let mut client = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    drop(dyno);
    client.head().await.is(503, "H13");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_poorly_formatted() {
    for text in [
        "hello\r\n\r\n",
        "HTTP/1.1 xyz Odd\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
    ] {
        let stand = Stand::new().await;
        let both = stand.exchange(GET, text).await;
        both.got.is(503, "H17");
    }
}
