//! `vegur_roundtrip_SUITE`, group continue; and the other interim answers.

use crate::support::{GET, OK, Stand};

const EXPECTS: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn the_client_is_told_to_go_on_by_us_and_the_dyno_sees_no_expect() {
    let stand = Stand::new().await;
    let mut client = stand.sent(EXPECTS).await;
    assert_eq!(client.head().await.line, "HTTP/1.1 100 Continue");
    stand.dyno_was_left_alone().await;
    client.send("hello").await;
    let mut dyno = stand.dyno().await;
    assert!(!dyno.head().await.has("expect"));
    assert_eq!(dyno.text(5).await, "hello");
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.text(2).await, "ok");
    client.send(GET).await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_the_100_is_served() {
    let stand = Stand::new().await;
    let mut client = stand.sent(EXPECTS.to_owned() + "hello").await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    assert_eq!(dyno.text(5).await, "hello");
    dyno.send(OK).await;
    let mut got = client.head().await;
    if got.status() == 100 {
        got = client.head().await;
    }
    assert_eq!(got.status(), 200);
}

#[tokio::test]
async fn interim_answers_pass_to_a_1_1_client_as_often_as_they_come() {
    let stand = Stand::new().await;
    let mut client = stand.sent(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    for (line, header) in [
        ("102 Processing", "x-step: 1"),
        ("103 Early Hints", "link: </a.css>; rel=preload"),
        ("103 Early Hints", "link: </b.css>; rel=preload"),
    ] {
        dyno.send(format!("HTTP/1.1 {line}\r\n{header}\r\n\r\n")).await;
        let got = client.head().await;
        let (name, value) = header.split_once(": ").unwrap();
        assert_eq!((&*got.line, got.get(name)), (&*format!("HTTP/1.1 {line}"), Some(value)));
    }
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn an_interim_answer_in_one_packet_with_the_final_one_is_not_lost() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, &format!("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n{OK}")).await;
    assert_eq!(both.got.status(), 103);
    assert_eq!(both.client.head().await.status(), 200);
}

#[tokio::test]
async fn a_1_0_client_gets_no_interim_answer() {
    let stand = Stand::new().await;
    let answer = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n{OK}");
    let mut both = stand.exchange("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", &answer).await;
    assert_eq!(both.got.status(), 200);
    assert_eq!(both.client.rest().await, b"ok");
}

#[tokio::test]
async fn a_100_of_the_dyno_passes_once_or_twice_and_the_answer_follows() {
    for number in 1..=2 {
        let stand = Stand::new().await;
        let mut client =
            stand.sent("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello").await;
        let mut dyno = stand.dyno().await;
        dyno.head().await;
        dyno.send("HTTP/1.1 100 Continue\r\n\r\n".repeat(number) + OK).await;
        let mut got = client.head().await;
        for _ in 0..number {
            assert_eq!(got.status(), 100);
            got = client.head().await;
        }
        assert_eq!(got.status(), 200);
        assert_eq!(client.text(2).await, "ok");
    }
}

#[tokio::test]
async fn other_expectations_fail() {
    for value in ["a-miracle", "100 continue", "200-ok"] {
        let stand = Stand::new().await;
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: {value}\r\n\r\nhello");
        stand.refused(request).await.is(417, "H26");
        stand.logged(&["code=H26", "unsupported expect header value"]).await;
    }
}

#[tokio::test]
async fn a_final_answer_before_the_body_reaches_a_client_that_still_sends() {
    let stand = Stand::app("request_buffer = \"0B\"").await;
    let mut client =
        stand.sent("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 500000\r\n\r\nfirst").await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    let got = client.head().await;
    assert_eq!(got.status(), 401);
    assert_eq!(client.text(2).await, "no");
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_a_fault() {
    let stand = Stand::new().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nraw";
    let mut both = stand.exchange(GET, answer).await;
    both.got.is(503, "H17");
    both.dyno.closes().await;
}
