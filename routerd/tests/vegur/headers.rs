//! `vegur_roundtrip_SUITE`, group headers.

use crate::support::Stand;

fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")
}

/// What the client gets when the dyno answers with this.
async fn answered(answer: &str, status: u16, fault: &str) -> Stand {
    let stand = Stand::new().await;
    let mut both = stand.exchange(crate::support::GET, answer).await;
    both.got.is(status, fault);
    both.dyno.closes().await;
    stand
}

#[tokio::test]
async fn different_lengths_of_a_request_are_refused() {
    let stand = Stand::new().await;
    let got = stand.refused(with("Content-Length: 5\r\nContent-Length: 10\r\n") + "0123456789").await;
    assert_eq!(got.status(), 400);
    stand.logged(&["code=H26", "status=400"]).await;
}

#[tokio::test]
async fn a_list_of_lengths_of_a_request_is_refused() {
    let stand = Stand::new().await;
    let got = stand.refused(with("Content-Length: 10,10\r\n") + "0123456789").await;
    assert_eq!(got.status(), 400);
    stand.logged(&["code=H26", "status=400"]).await;
}

#[tokio::test]
async fn two_lengths_of_a_request_are_refused_even_if_they_agree() {
    let stand = Stand::new().await;
    stand.refused(with("Content-Length: 10\r\nContent-Length: 10\r\n") + "0123456789").await.is(400, "H26");
    stand.logged(&["code=H26", "ambiguous body length", "status=400"]).await;
}

#[tokio::test]
async fn different_lengths_of_an_answer_are_a_bad_gateway() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc";
    let stand = answered(answer, 502, "H25").await;
    stand.logged(&["code=H25", "invalid content length"]).await;
}

#[tokio::test]
async fn a_list_of_lengths_of_an_answer_is_a_bad_gateway() {
    let stand = answered("HTTP/1.1 200 OK\r\nContent-Length: 2,2\r\n\r\nab", 502, "H25").await;
    stand.logged(&["code=H25", "invalid content length"]).await;
}

#[tokio::test]
async fn a_length_of_an_answer_that_is_no_number_is_a_bad_gateway() {
    for length in ["two", "-2", "+2", "0x2", "18446744073709551616"] {
        answered(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nab"), 502, "H25").await;
    }
}

#[tokio::test]
async fn bad_lengths_of_an_answer_to_head_are_a_bad_gateway_and_equal_ones_become_one() {
    let head = "HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for lines in
        ["Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: 2,2\r\n", "Content-Length: x\r\n"]
    {
        let stand = Stand::new().await;
        let both = stand.exchange(head, &format!("HTTP/1.1 200 OK\r\n{lines}\r\n")).await;
        both.got.is(502, "H25");
    }
    let stand = Stand::new().await;
    let both =
        stand.exchange(head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(both.got.all("content-length"), ["2"]);
}

#[tokio::test]
async fn a_length_beside_chunks_in_an_answer_does_not_reach_the_client() {
    let stand = Stand::new().await;
    let mut client = stand.sent(crate::support::GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    let got = client.head().await;
    assert_eq!((got.get("content-length"), got.get("transfer-encoding")), (None, Some("chunked")));
    dyno.send("0\r\n\r\n").await;
    assert_eq!(client.chunks().await.0, b"hi");
}

#[tokio::test]
async fn equal_lengths_of_an_answer_become_one() {
    let stand = Stand::new().await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab";
    let mut both = stand.exchange(crate::support::GET, answer).await;
    assert_eq!(both.got.all("content-length"), ["2"]);
    assert_eq!(both.client.text(2).await, "ab");
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_both_ways() {
    let lines = "TE: trailers\r\nKeep-Alive: 5\r\nProxy-Authorization: me\r\nX-Named: 1\r\n\
                 Connection: x-named\r\nProxy-Authentication: stays\r\nTrailer: x-sum\r\n";
    let stand = Stand::new().await;
    let answer = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n");
    let both = stand.exchange(&with(lines), &answer).await;
    for head in [&both.seen, &both.got] {
        for gone in ["te", "keep-alive", "proxy-authorization", "x-named"] {
            assert!(!head.has(gone), "{gone} in {head:?}");
        }
        assert_eq!((head.get("proxy-authentication"), head.get("trailer")), (Some("stays"), Some("x-sum")));
    }
}

#[tokio::test]
async fn a_cookie_line_of_8193_bytes_is_a_bad_gateway_and_one_of_8192_passes() {
    let cookie = |line: usize| "c".repeat(line - "set-cookie: ".len());
    let answer =
        |line| format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 0\r\n\r\n", cookie(line));
    let stand = Stand::new().await;
    let both = stand.exchange(crate::support::GET, &answer(8192)).await;
    assert_eq!(both.got.get("set-cookie"), Some(&*cookie(8192)));
    drop(both);
    let stand = Stand::new().await;
    let both = stand.exchange(crate::support::GET, &answer(8193)).await;
    both.got.is(502, "H25");
    stand.logged(&["code=H25", "oversized cookie"]).await;
}

#[tokio::test]
async fn a_header_of_1_mib_in_an_answer_is_a_bad_gateway() {
    let stand = Stand::new().await;
    let mut client = stand.sent(crate::support::GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.try_send(format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20))).await;
    client.head().await.is(502, "H25");
    stand.logged(&["code=H25", "oversized header"]).await;
}

#[tokio::test]
async fn a_status_line_of_1_mib_in_an_answer_is_a_bad_gateway() {
    let stand = Stand::new().await;
    let mut client = stand.sent(crate::support::GET).await;
    let mut dyno = stand.dyno().await;
    dyno.head().await;
    dyno.try_send(format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(1 << 20))).await;
    client.head().await.is(502, "H25");
}

#[tokio::test]
async fn via_is_added_both_ways_and_appended_to_what_is_there() {
    for (given, passed) in
        [("", "1.1 routerd"), ("Via: 1.0 one\r\nVia: 1.1 two\r\n", "1.0 one, 1.1 two, 1.1 routerd")]
    {
        let stand = Stand::new().await;
        let answer = format!("HTTP/1.1 200 OK\r\n{given}Content-Length: 0\r\n\r\n");
        let both = stand.exchange(&with(given), &answer).await;
        assert_eq!((both.seen.get("via"), both.got.get("via")), (Some(passed), Some(passed)));
    }
}

#[tokio::test]
async fn a_status_that_nobody_knows_passes_with_its_words() {
    let stand = Stand::new().await;
    let answer = "HTTP/1.1 666 THE NUMBER OF THE BEAST\r\nContent-Length: 0\r\n\r\n";
    let both = stand.exchange(crate::support::GET, answer).await;
    assert_eq!(both.got.line, "HTTP/1.1 666 THE NUMBER OF THE BEAST");
}

#[tokio::test]
async fn header_names_go_out_in_lower_case() {
    let stand = Stand::new().await;
    let answer = "HTTP/1.1 200 OK\r\nX-MiXed-Case: aB\r\nContent-Length: 0\r\n\r\n";
    let both = stand.exchange(&with("X-MiXed-Case: aB\r\n"), answer).await;
    for head in [&both.seen, &both.got] {
        assert_eq!(head.get("x-mixed-case"), Some("aB"));
        assert!(head.names().iter().all(|name| *name == name.to_ascii_lowercase()), "{head:?}");
    }
}

#[tokio::test]
async fn headers_of_one_name_keep_their_order() {
    let lines = "X-A: 3\r\nX-B: b\r\nX-A: 1\r\nX-A: 2\r\n";
    let stand = Stand::new().await;
    let both =
        stand.exchange(&with(lines), &format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n")).await;
    for head in [&both.seen, &both.got] {
        assert_eq!(head.all("x-a"), ["3", "1", "2"]);
    }
}

#[tokio::test]
async fn two_hosts_are_refused_even_if_they_agree() {
    for second in ["a.test", "b.test", ""] {
        let stand = Stand::new().await;
        stand.refused(with(&format!("Host: {second}\r\n"))).await.is(400, "H26");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_in_a_request_cannot_smuggle_another() {
    let stand = Stand::new().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let chunks = format!("0\r\n\r\n{smuggled}");
    let lines = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", chunks.len());
    let mut client = stand.sent(with(&lines) + &chunks).await;
    client.head().await.is(400, "H26");
    client.closes().await;
    stand.dyno_was_left_alone().await;
}

#[tokio::test]
async fn folded_lines_and_spaces_before_the_colon_are_refused() {
    for lines in ["X-A: 1\r\n folded\r\n", "X-A : 1\r\n", "Transfer-Encoding : chunked\r\n", " X-A: 1\r\n"] {
        let stand = Stand::new().await;
        assert_eq!(stand.refused(with(lines)).await.status(), 400, "{lines:?}");
    }
}
