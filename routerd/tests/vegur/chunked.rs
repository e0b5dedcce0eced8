//! `vegur_roundtrip_SUITE`, group chunked, and what `vegur_chunked_SUITE` asks of a decoder, from outside.

use crate::support::{GET, OK, Stand, Wire};

const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What the dyno got, by chunks or by length.
async fn body(dyno: &mut Wire) -> Vec<u8> {
    let head = dyno.head().await;
    dyno.body(&head).await
}

/// Sends a chunked answer in these parts and gives what the client read to the end of the connection.
async fn cut(parts: &[&str], fault: &str) -> Vec<u8> {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, CHUNKED).await;
    assert_eq!(both.got.status(), 200);
    for part in parts {
        both.dyno.try_send(part).await;
        tokio::task::yield_now().await;
    }
    let rest = both.client.rest().await;
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "a broken answer looks whole: {:?}",
        String::from_utf8_lossy(&rest)
    );
    both.dyno.closes().await;
    stand.logged(&[fault]).await;
    rest
}

/// What a client gets for a chunked body that is wrong.
async fn bad(chunks: &str) {
    let stand = Stand::new().await;
    stand.refused(POST.to_owned() + chunks).await.is(400, "H26");
    stand.logged(&["code=H26", "bad chunk", "status=400"]).await;
}

#[tokio::test]
async fn chunks_pass_both_ways() {
    let stand = Stand::new().await;
    let mut client = stand.sent(POST.to_owned() + "5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\n\r\n").await;
    let mut dyno = stand.dyno().await;
    assert_eq!(body(&mut dyno).await, b"hello!");
    dyno.send(CHUNKED.to_owned() + "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n").await;
    // All of it is here at once: it gets a length.
    let got = client.head().await;
    assert_eq!(got.get("content-length"), Some("13"));
    assert_eq!(client.body(&got).await, b"abc0123456789");
    client.send(GET).await;
    dyno.head().await;
    dyno.send(CHUNKED.to_owned() + "3\r\nabc\r\n").await;
    let got = client.head().await;
    assert_eq!(got.get("transfer-encoding"), Some("chunked"));
    dyno.send("1\r\nd\r\n0\r\n\r\n").await;
    assert_eq!(client.body(&got).await, b"abcd");
}

#[tokio::test]
async fn a_body_without_its_last_line_end_is_waited_for() {
    let stand = Stand::new().await;
    let mut client = stand.sent(POST.to_owned() + "2\r\nhi\r\n0\r\n").await;
    client.stays_silent().await;
    stand.dyno_was_left_alone().await;
    client.send("\r\n").await;
    assert_eq!(body(&mut stand.dyno().await).await, b"hi");
}

#[tokio::test]
async fn what_follows_the_last_chunk_is_the_next_request_and_a_bad_one() {
    let stand = Stand::new().await;
    let mut client = stand.sent(POST.to_owned() + "2\r\nhi\r\n0\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let mut dyno = stand.dyno().await;
    assert_eq!(body(&mut dyno).await, b"hi");
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.text(2).await, "ok");
    assert_eq!(client.head().await.status(), 400);
    client.rest().await;
    dyno.stays_silent().await;
}

#[tokio::test]
async fn data_in_the_place_of_the_last_line_end_is_a_bad_chunk() {
    for split in [false, true] {
        let stand = Stand::new().await;
        let mut client = stand.sent(POST.to_owned() + "2\r\nhi\r\n0\r\n").await;
        if split {
            client.stays_silent().await;
        }
        client.send("abc\r\n0\r\n\r\n").await;
        client.head().await.is(400, "H26");
        stand.dyno_was_left_alone().await;
    }
}

#[tokio::test]
async fn what_follows_the_last_chunk_of_an_answer_is_not_passed_on() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, &format!("{CHUNKED}2\r\nhi\r\n0\r\n\r\n{OK}")).await;
    assert_eq!(both.client.body(&both.got).await, b"hi");
    both.client.stays_silent().await;
    both.dyno.closes().await;
    both.client.send(GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(both.client.head().await.status(), 201);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_leaves_the_dyno_alone_or_cuts_it() {
    let stand = Stand::new().await;
    drop(stand.sent(POST.to_owned() + "5\r\nhel").await);
    stand.logged(&["code=H27", "status=499"]).await;
    stand.dyno_was_left_alone().await;
    // Beyond what is read ahead the dyno has the beginning, and loses its connection.
    let stand = Stand::app("request_buffer = \"0B\"").await;
    let client = stand.sent(POST.to_owned() + "5\r\nhello\r\n").await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    drop(client);
    let rest = dyno.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "half a request looks whole");
    stand.logged(&["code=H27", "status=499"]).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_between_chunks_is_cut() {
    let stand = Stand::new().await;
    let mut both = stand.exchange(GET, &format!("{CHUNKED}3\r\nabc\r\n")).await;
    drop(both.dyno);
    let rest = both.client.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    stand.logged(&["code=H18"]).await;
}

#[tokio::test]
async fn a_bad_chunk_of_an_answer_cuts_the_connection() {
    for part in
        ["zz\r\nabc\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "-1\r\n", "c\r\r\n", "\r\n", "fffffffffffffffff\r\n"]
    {
        cut(&["2\r\nok\r\n", part], "code=H1").await;
    }
}

#[tokio::test]
async fn a_bad_trailer_of_an_answer_cuts_the_connection() {
    cut(&["2\r\nok\r\n0\r\n", "no colon here\r\n\r\n"], "code=H1").await;
}

#[tokio::test]
async fn a_bad_chunk_of_a_client_is_refused() {
    for chunks in
        ["zz\r\nabc\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "-1\r\n", "c\r\r\n", "\r\n", "fffffffffffffffff\r\n"]
    {
        bad(chunks).await;
    }
}

#[tokio::test]
async fn a_bad_trailer_of_a_client_is_refused() {
    bad("2\r\nhi\r\n0\r\nno colon here\r\n\r\n").await;
}

#[tokio::test]
async fn a_bad_chunk_of_a_client_after_the_dyno_was_taken_cuts_the_dyno_and_is_refused() {
    let stand = Stand::app("request_buffer = \"0B\"").await;
    let mut client = stand.sent(POST.to_owned() + "5\r\nhello\r\n").await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    client.send("zz\r\n").await;
    client.head().await.is(400, "H26");
    assert!(!dyno.rest().await.ends_with(b"0\r\n\r\n"), "half a request looks whole");
}

#[tokio::test]
async fn announced_trailers_reach_the_dyno() {
    let stand = Stand::new().await;
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    let _client = stand.sent(head.to_owned() + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    let mut dyno = stand.dyno().await;
    assert_eq!(dyno.head().await.get("transfer-encoding"), Some("chunked"));
    assert_eq!(dyno.chunks().await, (b"hi".to_vec(), vec!["x-sum: 7".to_owned()]));
}

#[tokio::test]
async fn announced_trailers_reach_a_client_that_asked_for_them_and_no_other() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                  2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
    for (lines, trailers) in [
        ("TE: trailers\r\nConnection: te\r\n", &["x-sum: 7"][..]),
        ("TE: trailers\r\nConnection: te, close\r\n", &["x-sum: 7"]),
        ("", &[]),
    ] {
        let stand = Stand::new().await;
        let mut both =
            stand.exchange(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"), answer).await;
        let (data, got) = both.client.chunks().await;
        assert_eq!(
            (&*data, got.iter().map(String::as_str).collect::<Vec<_>>()),
            (&b"hi"[..], trailers.to_vec())
        );
    }
}

#[tokio::test]
async fn trailers_that_nobody_announced_are_dropped_and_the_client_is_kept() {
    let stand = Stand::new().await;
    let mut client = stand.sent(POST.to_owned() + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    assert_eq!(dyno.chunks().await, (b"hi".to_vec(), vec![]));
    dyno.send(CHUNKED.to_owned() + "2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.chunks().await, (b"hi".to_vec(), vec![]));
    client.send(GET).await;
    dyno.head().await;
    dyno.send(OK).await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_chunked_request_may_be_split_anywhere() {
    let stand = Stand::new().await;
    let text = POST.to_owned() + "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n";
    let mut client = stand.client().await;
    let mut dyno = None;
    for at in 1..text.len() {
        client.send(&text[..at]).await;
        // The daemon runs in this thread: it has read the first part when this comes back.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        client.send(&text[at..]).await;
        let mut wire = match dyno.take() {
            Some(wire) => wire,
            None => stand.dyno().await,
        };
        assert_eq!(body(&mut wire).await, b"hello0123456789", "split at {at}");
        wire.send(OK).await;
        assert_eq!(client.head().await.status(), 200, "split at {at}");
        client.text(2).await;
        dyno = Some(wire);
    }
}

#[tokio::test]
async fn a_chunked_answer_may_be_split_anywhere() {
    let stand = Stand::new().await;
    let text = CHUNKED.to_owned() + "5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n";
    let mut client = stand.client().await;
    let mut dyno = None;
    for at in 1..text.len() {
        client.send(GET).await;
        let mut wire = match dyno.take() {
            Some(wire) => wire,
            None => stand.dyno().await,
        };
        wire.head().await;
        wire.send(&text[..at]).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        wire.send(&text[at..]).await;
        let got = client.head().await;
        assert_eq!(got.status(), 200, "split at {at}");
        assert_eq!(client.body(&got).await, b"hello0123456789", "split at {at}");
        dyno = Some(wire);
    }
}

#[tokio::test]
async fn a_chunked_request_may_come_byte_by_byte() {
    let stand = Stand::new().await;
    let mut client = stand.client().await;
    for byte in (POST.to_owned() + "5\r\nhello\r\n0\r\n\r\n").bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(body(&mut stand.dyno().await).await, b"hello");
}

#[tokio::test]
async fn chunks_with_line_ends_in_their_data_pass() {
    let data = "a\r\nb\rc\nd\r\n0\r\n\r\n";
    let chunks = format!("{:x}\r\n{data}\r\n0\r\n\r\n", data.len());
    let stand = Stand::new().await;
    let mut client = stand.sent(POST.to_owned() + &chunks).await;
    let mut dyno = stand.dyno().await;
    assert_eq!(body(&mut dyno).await, data.as_bytes());
    dyno.send(CHUNKED.to_owned() + &chunks).await;
    let got = client.head().await;
    assert_eq!(client.body(&got).await, data.as_bytes());
}

#[tokio::test]
async fn a_chunked_request_may_be_split_at_any_two_places() {
    let stand = Stand::new().await;
    let text = POST.to_owned() + "5\r\nhello\r\n2\r\n, \r\n0\r\n\r\n";
    let mut client = stand.client().await;
    let mut dyno = None;
    for first in POST.len() - 1..text.len() {
        for second in first + 1..text.len() {
            for part in [&text[..first], &text[first..second], &text[second..]] {
                client.send(part).await;
                tokio::task::yield_now().await;
            }
            let mut wire = match dyno.take() {
                Some(wire) => wire,
                None => stand.dyno().await,
            };
            assert_eq!(body(&mut wire).await, b"hello, ", "split at {first} and {second}");
            wire.send(OK).await;
            assert_eq!(client.head().await.status(), 200, "split at {first} and {second}");
            client.text(2).await;
            dyno = Some(wire);
        }
    }
}

#[tokio::test]
async fn a_body_in_another_coding_below_the_chunks_does_not_pass_without_its_name() {
    for coding in ["gzip, chunked", "chunked\r\nTransfer-Encoding: chunked"] {
        let stand = Stand::new().await;
        let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: {coding}\r\n\r\n");
        assert_eq!(stand.refused(head + "2\r\nhi\r\n0\r\n\r\n").await.status(), 400, "{coding:?}");
        let stand = Stand::new().await;
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
        stand.exchange(GET, &answer).await.got.is(503, "H17");
    }
}
