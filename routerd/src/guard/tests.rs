//! What the guard lets pass and what it does not, however it is cut.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 16;

fn verdict(pieces: &[&[u8]]) -> Result<Guard, BadRequest> {
    let mut guard = Guard::new(MAX);
    for piece in pieces {
        let passed = guard.pass(piece);
        match guard.refusal() {
            Some(refusal) => return Err(refusal.cause),
            None => assert!(passed == piece.len() || guard.is_asked(), "{passed} of {}", piece.len()),
        }
    }
    Ok(guard)
}

fn whole(text: &str) -> Result<Guard, BadRequest> {
    verdict(&[text.as_bytes()])
}

/// A head with these lines, and what follows it.
fn post(lines: &str, rest: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n{rest}")
}

#[test]
fn requests_as_they_should_be_pass_to_their_end() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a.test:80\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "GET http://a.test:81/x?y HTTP/1.1\r\nhost:a.test\r\n\r\n",
        "GET HTTPS://[::1]:443?y HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.test:\r\n\r\n",
        "PROPFIND /a|b{c}\"d HTTP/1.1\r\nHOST:\t a.test \t\r\nX: caf\u{e9}\r\nY:\r\n\r\n",
        &post("Content-Length: 0\r\n", ""),
        &post("Content-Length:  3\t\r\n", "\n\r\0"),
        &post(
            "Transfer-Encoding: Chunked\r\n",
            "5\r\nhello\r\n00A ; a=b;c = \"q\\\"\u{e9}\" \t;d\r\n0123456789\r\n0\r\n\r\n",
        ),
        &post("Transfer-Encoding: chunked\r\n", "0\r\nX-Sum: 7\r\nX-Two: \t8\r\n\r\n"),
        &(post("Content-Length: 5\r\n", "hello") + &post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    ] {
        let guard = whole(text).unwrap_or_else(|cause| panic!("{}: {text:?}", cause.as_str()));
        assert!(guard.is_between(), "{text:?}: {guard:?}");
    }
}

const LINES: &[&str] = &[
    "GET /",
    "GET / ",
    "GET  / HTTP/1.1",
    "GET /  HTTP/1.1",
    "GET / HTTP/1.1 ",
    " GET / HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "GET / http/1.1",
    "GET / HTTP/1",
    "GET / HTTP/1.10",
    "GET / HTTP/+1.1",
    "G(T / HTTP/1.1",
    "GET x HTTP/1.1",
    "GET * HTTP/1.1",
    "GET /#f HTTP/1.1",
    "GET /\u{e9} HTTP/1.1",
    "GET /\x7f HTTP/1.1",
    "GET /\0 HTTP/1.1",
    "GET ftp://a/ HTTP/1.1",
    "GET http:///x HTTP/1.1",
    "GET http://u@a.test/ HTTP/1.1",
    "GET http://a,b/ HTTP/1.1",
    "GET a.test:80 HTTP/1.1",
    "CONNECT / HTTP/1.1",
    "CONNECT a.test HTTP/1.1",
    "GET /\rx HTTP/1.1",
];

const VERSIONS: &[&str] = &["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"];

const HEADS: &[&str] = &[
    "",
    "Host:\r\n",
    "Host: a\r\nHost: a\r\n",
    "Host: a b\r\n",
    "Host: a,b\r\n",
    "Host: u@a\r\n",
    "Host: a:x\r\n",
    "Host: a:65536\r\n",
    "Host: a:-1\r\n",
    "Host: :80\r\n",
    "Host: [::1\r\n",
    "Host: [::1]x\r\n",
    "Host: [a]\r\n",
    "Host: a/b\r\n",
    "Host: a%zz\r\n",
    "Host: a:1:2\r\n",
    "Host: http://a\r\n",
    "Host : a\r\n",
    "Host\r\n",
    "Host: a\r\n X: 1\r\n",
    "Host: a\r\n: 1\r\n",
    "Host: a\r\nX Y: 1\r\n",
    "Host: a\r\nX: 1\rY: 2\r\n",
    "Host: a\r\nX: \0\r\n",
    "Host: a\r\nX: \x1b\r\n",
    "Host: a\r\nX\u{e9}: 1\r\n",
    "Host: a\nX: 1\r\n",
    "Host: a\r\nX: 1\r\r\n",
    "Host: a\r\nX: \x7f\r\n",
    "Host: a\r\nX-Y\x0b: 1\r\n",
    "Host: a\r\nContent_Length: 1\r\n",
    "Host: a\r\nTRANSFER_ENCODING: chunked\r\n",
];

const LENGTHS: &[&str] = &[
    "",
    "+5",
    "-5",
    "0x5",
    "5, 5",
    "5,5",
    "5 5",
    "1_0",
    "5.0",
    "\u{b2}",
    "18446744073709551616",
    "9223372036854775808",
    "5;",
    "\"5\"",
];

const CODINGS: &[&str] = &[
    "",
    ",",
    "identity",
    "gzip",
    "gzip, chunked",
    "chunked, chunked",
    "chunked, gzip",
    "xchunked",
    "chunked;q=1",
    "\"chunked\"",
    "chunked,",
];

const FRAMES: &[&str] = &[
    "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
];

const CHUNKS: &[&str] = &[
    "\r\n",
    "+5\r\n",
    "-1\r\n",
    " 5\r\n",
    "5 \r\n",
    "0x5\r\n",
    "5_0\r\n",
    "g\r\n",
    "5\n",
    "10000000000000000\r\n",
    "8000000000000000\r\n",
    "5;\r\n",
    "5;=b\r\n",
    "5;a=\r\n",
    "5;a=\"b\r\n",
    "5;a\nb\r\n",
    "5;a\rb\r\n",
    "5\x0b\r\n",
    "1\r\nxx",
    "1\r\nx\r\r",
    "1\r\nx\n",
    "0\r\nX\r\n",
    "0\r\n X: 1\r\n",
    "0\r\nX : 1\r\n",
    "0\r\nX: 1\n",
    "0\r\n\n",
    "0\r\nContent-Length: 1\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n",
    "0\r\nHost: b.test\r\n",
    "0\r\nConnection: close\r\n",
    "0\r\nTrailer: x\r\n",
    "0\r\nTE: x\r\n",
];

/// Whole and byte by byte.
fn refused(texts: impl IntoIterator<Item = String>, cause: BadRequest) {
    for text in texts {
        let got = whole(&text).map(|guard| format!("{guard:?}"));
        assert_eq!(got.as_ref().err(), Some(&cause), "{text:?}: {got:?}");
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(verdict(&bytes).err(), Some(cause), "{text:?} byte by byte");
    }
}

#[test]
fn request_lines_that_could_be_read_in_two_ways_are_refused() {
    let line = |line: &&str| format!("{line}\r\nHost: a.test\r\n\r\n");
    refused(LINES.iter().map(line), BadRequest::Header);
    refused(["\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned()], BadRequest::Header);
    refused(VERSIONS.iter().map(|version| line(&&*format!("GET / {version}"))), BadRequest::Version);
    refused(["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()], BadRequest::Version);
    refused([line(&"CONNECT a.test:443 HTTP/1.1")], BadRequest::Method);
}

#[test]
fn headers_that_could_be_read_in_two_ways_are_refused() {
    refused(HEADS.iter().map(|lines| format!("GET / HTTP/1.1\r\n{lines}\r\n")), BadRequest::Header);
}

#[test]
fn bodies_whose_end_could_be_read_in_two_ways_are_refused() {
    let length = |length: &&str| post(&format!("Content-Length: {length}\r\n"), "");
    let coding = |coding: &&str| post(&format!("Transfer-Encoding: {coding}\r\n"), "");
    refused(LENGTHS.iter().map(length), BadRequest::Framing);
    refused(CODINGS.iter().map(coding), BadRequest::Framing);
    refused([coding(&"\x0bchunked")], BadRequest::Header);
    refused(FRAMES.iter().map(|lines| post(lines, "")), BadRequest::Framing);
    refused(["POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()], BadRequest::Framing);
}

#[test]
fn chunks_and_trailers_that_could_be_read_in_two_ways_are_refused() {
    let chunks = |chunks: &&str| post("Transfer-Encoding: chunked\r\n", chunks);
    refused(CHUNKS.iter().map(chunks), BadRequest::Chunk);
}

#[test]
fn heads_chunks_and_trailers_have_their_bounds() {
    let of = |text: &str, max: usize| {
        let mut guard = Guard::new(max);
        guard.pass(text.as_bytes());
        guard.refusal().map(|refusal| refusal.cause)
    };
    let line = "GET /234567 HTTP/1.1\r\n";
    let head = format!("{line}Host: a.test\r\n\r\n");
    assert_eq!(of(&head, head.len()), None);
    assert_eq!(of(&head, head.len() - 1), Some(BadRequest::HeaderTooLarge));
    assert_eq!(of(&head, line.len() - 1), Some(BadRequest::RequestLine));
    assert_eq!(of(&"G".repeat(101), 100), Some(BadRequest::RequestLine));
    assert_eq!(of(&(line.to_owned() + &"X".repeat(100)), 100), Some(BadRequest::HeaderTooLarge));
    // Each request begins anew.
    assert_eq!(of(&head.repeat(100), head.len()), None);
    let chunked = |chunks: &str| post("Transfer-Encoding: chunked\r\n", chunks);
    assert_eq!(of(&chunked(&format!("1;{}", "x".repeat(CHUNK_LINE_MAX))), MAX), Some(BadRequest::Chunk));
    assert_eq!(
        of(&chunked(&format!("0\r\n{}", "x: y\r\n".repeat(MAX / 6 + 1))), MAX),
        Some(BadRequest::Chunk)
    );
}

#[test]
fn behind_a_request_for_another_protocol_everything_waits_for_the_answer() {
    let ask =
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let more = [ask, "\0\n"].concat();
    for (switched, left) in [(true, 2), (false, 0)] {
        let mut guard = Guard::new(MAX);
        assert_eq!(guard.pass(more.as_bytes()), ask.len());
        assert!(guard.is_asked() && guard.refusal().is_none());
        guard.decided(switched);
        assert_eq!((guard.pass(b"\0\n"), guard.refusal().is_none()), (left, switched));
    }
    // Only the answer to the request that asked decides.
    let mut guard = Guard::new(MAX);
    let all = [get, ask, "\0"].concat();
    assert_eq!(guard.pass(all.as_bytes()), all.len() - 1);
    guard.decided(false);
    assert!(guard.is_asked());
    guard.decided(true);
    assert_eq!(guard.pass(b"\0"), 1);
    // HTTP/1.0 has no such thing, and a name alone asks for nothing.
    for text in [ask.replace("/1.1", "/1.0"), ask.replace(", Upgrade", ""), ask.replace("Upgrade: ", "X: ")] {
        assert!(whole(&text).is_ok_and(|guard| guard.is_between()), "{text:?}");
    }
}

/// Bytes that are often requests, or nearly.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("GET / HTTP/1.1\r\nHost: a\r\n".to_owned()),
        Just("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned()),
        Just(post("Transfer-Encoding: chunked\r\n", "3;x=\"y\"\r\nabc\r\n0\r\nA: b\r\n\r\n")),
        Just("\r\n".to_owned()),
        Just("\n".to_owned()),
        Just("X: y\r\n".to_owned()),
        Just("Content-Length: 2\r\n\r\n12".to_owned()),
        "[ -~\r\n\t\0]{0,6}",
    ];
    vec(part, 0..8).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_verdict_is_the_same_however_the_bytes_are_cut(bytes in stream(), cuts in vec(0usize..400, 0..6)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
        let (one, many) = (verdict(&[&bytes]), verdict(&pieces));
        prop_assert_eq!(one.map(|guard| guard.at), many.map(|guard| guard.at));
    }

    #[test]
    fn strict_requests_pass_whole(
        method in "[A-Z]{1,9}",
        path in "/[!-\"$-~]{0,20}",
        headers in vec(("x-[a-z0-9!#$%&'*+.^_`|~-]{0,10}", "[!-~\u{a1}-\u{ff}]([ -~\t]{0,20}[!-~])?"), 0..5),
        body in vec(any::<u8>(), 0..40),
        chunks in proptest::option::of(1usize..7),
        cut in 0usize..200,
    ) {
        prop_assume!(method != "CONNECT");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{lines}").into_bytes();
        if let Some(size) = chunks {
            text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(size) {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
        } else {
            text.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            text.extend_from_slice(&body);
        }
        let (one, two) = text.split_at(cut.min(text.len()));
        let guard = verdict(&[one, two]);
        prop_assert!(guard.is_ok_and(|guard| guard.is_between()), "{}", String::from_utf8_lossy(&text));
    }
}
