//! Connections that change their protocol: `vegur_bytepipe_SUITE` and the cases of upgrades in the other suites.

use crate::support::{Exchange, GET, OK, Stand};

const UPGRADE: &str = "Connection: Upgrade, Keep-Alive\r\nUpgrade: echo/1\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n";

/// A request that asks for the protocol `echo/1`.
fn asks(line: &str, more: &str) -> String {
    format!("{line}\r\nHost: a.test\r\n{UPGRADE}{more}\r\n")
}

async fn switched(stand: &Stand) -> Exchange {
    let both = stand.exchange(&asks("GET / HTTP/1.1", ""), SWITCH).await;
    assert_eq!(both.got.status(), 101);
    both
}

#[tokio::test]
async fn both_headers_of_the_wish_and_of_the_consent_pass_and_then_bytes_both_ways() {
    let stand = Stand::new().await;
    let answer = SWITCH.replace("\r\n\r\n", "\r\nSec-WebSocket-Accept: x\r\nContent-Length: 5\r\n\r\nfirst");
    let mut both = stand.exchange(&asks("GET / HTTP/1.1", "Sec-WebSocket-Key: y\r\n"), &answer).await;
    assert_eq!((both.seen.get("connection"), both.seen.get("upgrade")), (Some("upgrade"), Some("echo/1")));
    assert_eq!(both.seen.get("sec-websocket-key"), Some("y"));
    assert_eq!(both.got.line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!((both.got.get("connection"), both.got.get("upgrade")), (Some("upgrade"), Some("echo/1")));
    assert_eq!(both.got.get("sec-websocket-accept"), Some("x"));
    assert!(!both.got.has("content-length") && !both.got.has("transfer-encoding"), "{:?}", both.got);
    assert_eq!(both.client.text(5).await, "first");
    for word in ["ping", "GET / HTTP/1.1\r\n\r\n", "\0\u{7f}"] {
        both.client.send(word).await;
        assert_eq!(both.dyno.text(word.len()).await, word);
        both.dyno.send(word).await;
        assert_eq!(both.client.text(word.len()).await, word);
    }
}

#[tokio::test]
async fn what_is_sent_behind_the_request_reaches_the_dyno_as_it_is() {
    let stand = Stand::new().await;
    let mut client = stand.sent(asks("GET / HTTP/1.1", "") + "early" + GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.stays_silent().await;
    dyno.send(SWITCH).await;
    assert_eq!(dyno.text(5 + GET.len()).await, format!("early{GET}"));
    assert_eq!(client.head().await.status(), 101);
    stand.dyno_was_left_alone().await;
}

#[tokio::test]
async fn a_100_may_come_before_the_101_or_not() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", ""] {
        let stand = Stand::new().await;
        let request = asks("POST / HTTP/1.1", "Content-Length: 5\r\nExpect: 100-continue\r\n");
        let mut client = stand.sent(&request).await;
        // Ours, because the body is asked for (RFC 9110 section 7.8: first the 100, then the 101).
        assert_eq!(client.head().await.status(), 100);
        client.send("hello").await;
        let mut dyno = stand.dyno().await;
        dyno.head().await;
        assert_eq!(dyno.text(5).await, "hello");
        dyno.send(interim.to_owned() + SWITCH + "raw").await;
        let mut got = client.head().await;
        if !interim.is_empty() {
            assert_eq!(got.status(), 100);
            got = client.head().await;
        }
        assert_eq!(got.status(), 101);
        assert_eq!(client.text(3).await, "raw");
        client.send("back").await;
        assert_eq!(dyno.text(4).await, "back");
    }
}

#[tokio::test]
async fn a_switch_before_the_dyno_has_the_whole_request_is_a_fault() {
    let stand = Stand::app("request_buffer = \"0B\"").await;
    let request = asks("POST / HTTP/1.1", "Content-Length: 500000\r\n") + "first";
    let mut both = stand.exchange(&request, SWITCH).await;
    both.got.is(503, "H17");
    both.dyno.rest().await;
}

#[tokio::test]
async fn head_can_change_the_protocol_too() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(&asks("HEAD / HTTP/1.1", ""), SWITCH).await;
    assert_eq!(both.got.status(), 101);
    both.dyno.send("raw").await;
    assert_eq!(both.client.text(3).await, "raw");
}

#[tokio::test]
async fn a_dyno_that_refuses_answers_as_ever_and_both_connections_are_kept() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(&asks("GET / HTTP/1.1", ""), OK).await;
    assert!(both.seen.has("upgrade"));
    assert_eq!(both.got.status(), 200);
    assert_eq!(both.client.text(2).await, "ok");
    for request in [GET.to_owned(), asks("GET / HTTP/1.1", "")] {
        both.client.send(request).await;
        both.dyno.head().await;
        both.dyno.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(both.client.head().await.status(), 426);
    }
}

#[tokio::test]
async fn an_upgrade_after_other_requests_on_the_same_connections_works() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, OK).await;
    assert_eq!(both.client.text(2).await, "ok");
    both.client.send(asks("GET / HTTP/1.1", "")).await;
    both.dyno.head().await;
    both.dyno.send(SWITCH).await;
    assert_eq!(both.client.head().await.status(), 101);
    both.client.send("ping").await;
    assert_eq!(both.dyno.text(4).await, "ping");
}

#[tokio::test]
async fn what_is_no_wish_is_not_passed_on() {
    for request in [
        asks("GET / HTTP/1.0", ""),
        "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: echo/1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
            .to_owned(),
    ] {
        let stand = Stand::new().await;
        let mut both = stand.exchange(&request, SWITCH).await;
        assert!(!both.seen.has("upgrade") && !both.seen.has("connection"), "{:?}", both.seen);
        assert!(!both.seen.has("http2-settings"), "{:?}", both.seen);
        both.got.is(503, "H17");
        both.dyno.closes().await;
    }
}

#[tokio::test]
async fn a_switch_to_what_the_client_did_not_name_is_a_fault() {
    for upgrade in ["Upgrade: other\r\n", "Upgrade: echo/1, other\r\n", "Upgrade: \r\n", ""] {
        let stand = Stand::new().await;
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{upgrade}\r\nraw");
        let mut both = stand.exchange(&asks("GET / HTTP/1.1", ""), &answer).await;
        both.got.is(503, "H17");
        both.dyno.closes().await;
    }
}

#[tokio::test]
async fn when_the_dyno_closes_the_client_gets_all_of_it_and_is_closed() {
    let stand = Stand::new().await;
    let mut both = switched(&stand).await;
    let long = "x".repeat(300_000);
    both.dyno.send(&long).await;
    drop(both.dyno);
    assert_eq!(both.client.rest().await, long.as_bytes());
    let line = stand.logged(&["status=101", "bytes=300000", "received=0", "end=dyno"]).await;
    assert!(line.starts_with("at=info method=GET"), "{line}");
}

#[tokio::test]
async fn when_the_client_closes_the_dyno_gets_all_of_it_and_may_say_its_last_word() {
    let stand = Stand::new().await;
    let mut both = switched(&stand).await;
    let long = "x".repeat(300_000);
    let sends = async {
        both.client.send(&long).await;
        both.client.half_close().await;
    };
    let (rest, ()) = tokio::join!(both.dyno.rest(), sends);
    assert_eq!(rest, long.as_bytes());
    both.dyno.send("bye").await;
    drop(both.dyno);
    assert_eq!(both.client.rest().await, b"bye");
    stand.logged(&["at=info", "status=101", "bytes=3", "received=300000", "end=client"]).await;
}

#[tokio::test]
async fn silence_of_both_sides_ends_it_and_a_byte_of_either_begins_the_time_anew() {
    let stand =
        Stand::app("timeouts = { stream_idle = \"400ms\", idle = \"50ms\", first_byte = \"5s\" }").await;
    let mut both = switched(&stand).await;
    for round in 0..6 {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let (from, to) = if round % 2 == 0 {
            (&mut both.client, &mut both.dyno)
        } else {
            (&mut both.dyno, &mut both.client)
        };
        from.send("x").await;
        assert_eq!(to.text(1).await, "x");
    }
    both.client.closes().await;
    both.dyno.closes().await;
    stand.logged(&["at=error code=H15", "status=101", "bytes=3", "received=3", "end=idle"]).await;
}

#[tokio::test]
async fn the_next_request_waits_until_the_dyno_has_closed_its_side() {
    let stand = Stand::new().await;
    let both = switched(&stand).await;
    let mut next = stand.sent(GET).await;
    next.stays_silent().await;
    stand.dyno_was_left_alone().await;
    drop(both.client);
    // The dyno may still be at work for a client that is gone.
    next.stays_silent().await;
    stand.dyno_was_left_alone().await;
    drop(both.dyno);
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(next.head().await.status(), 200);
}
