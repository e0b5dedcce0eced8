//! What a client of HTTP/2 may do wrong, on purpose or not: each has its answer, no dyno sees any of it, and whoever
//! else is connected is served.

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIO,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, block, frame, get, head, setting,
    string,
};
use crate::support::{Dyno, Rig, until};

/// What is sent behind preface and settings, and what may come back.
pub(crate) type Case = (&'static str, Vec<u8>, &'static [&'static str]);

const PROTOCOL: &[&str] = &["GOAWAY 1"];
const FLOW: &[&str] = &["GOAWAY 3", "GOAWAY 1"];
// h2 says for some of these only that the protocol is broken, which RFC 9113 section 5.4 allows.
const SIZE: &[&str] = &["GOAWAY 6", "GOAWAY 1"];
const COMPRESSION: &[&str] = &["GOAWAY 9", "GOAWAY 1"];
const CALM: &[&str] = &["GOAWAY 11"];
/// A malformed request (RFC 9113 section 8.1.1). What h2 sees while it decodes the block ends the connection.
const MALFORMED: &[&str] = &["RST 1", "GOAWAY 1"];
const REFUSED: &[&str] = &["400"];

/// A good request that takes a while, so that its stream is open.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", "/fine", &[("content-length", "5")]))
}

fn frames_of_no_stream() -> Vec<Case> {
    let five = [0_u8; 5];
    vec![
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("HEADERS on stream 0", frame(HEADERS, WHOLE, 0, &get("/attack")), PROTOCOL),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &five), PROTOCOL),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        ("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, b""), PROTOCOL),
        ("PUSH_PROMISE of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &five), SIZE),
        ("SETTINGS ACK with a setting", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("ENABLE_PUSH = 2", setting(2, 2), PROTOCOL),
        ("INITIAL_WINDOW_SIZE = 2^31", setting(4, 1 << 31), FLOW),
        ("MAX_FRAME_SIZE = 2^14 - 1", setting(5, (1 << 14) - 1), PROTOCOL),
        ("MAX_FRAME_SIZE = 2^24", setting(5, 1 << 24), PROTOCOL),
        ("PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        ("WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL),
        ("a window beyond 2^31 - 1", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), FLOW),
        ("a frame of 16385 bytes", frame(DATA, 0, 1, &[0; 16_385]), SIZE),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL),
        ("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), PROTOCOL),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), PROTOCOL),
        ("an even stream", frame(HEADERS, WHOLE, 2, &get("/attack")), PROTOCOL),
    ]
}

fn frames_of_a_stream() -> Vec<Case> {
    let (fine, attack) = (get("/fine?ms=50"), get("/attack"));
    let request = frame(HEADERS, WHOLE, 3, &fine);
    let with = |more: Vec<u8>| [request.clone(), more].concat();
    let opened = |more: Vec<u8>| [open(1), more].concat();
    let begun = frame(HEADERS, END_STREAM, 1, &attack);
    let after = |more: Vec<u8>| [begun.clone(), more].concat();
    let padded = [&[200][..], &attack].concat();
    let itself = [&[0, 0, 0, 1, 7][..], &attack].concat();
    vec![
        ("a stream below the last", with(frame(HEADERS, WHOLE, 1, &attack)), PROTOCOL),
        ("CONTINUATION of nothing", with(frame(CONTINUATION, END_HEADERS, 3, b"")), PROTOCOL),
        ("DATA within a head", after(frame(DATA, 0, 1, b"x")), PROTOCOL),
        ("PING within a head", after(frame(PING, 0, 0, &[0; 8])), PROTOCOL),
        ("CONTINUATION of another stream", after(frame(CONTINUATION, END_HEADERS, 3, b"")), PROTOCOL),
        ("HEADERS padded beyond their end", frame(HEADERS, WHOLE | PADDED, 1, &padded), PROTOCOL),
        ("DATA padded beyond its end", opened(frame(DATA, PADDED, 1, &[9, b'x'])), PROTOCOL),
        ("RST_STREAM of 3 bytes", opened(frame(RST_STREAM, 0, 1, &[0; 3])), SIZE),
        ("PRIORITY of 4 bytes", opened(frame(PRIORITY, 0, 1, &[0; 4])), &["RST 6", "GOAWAY 6", "GOAWAY 1"]),
        (
            "HEADERS that depend on themselves",
            frame(HEADERS, WHOLE | PRIO, 1, &itself),
            &["RST 1", "GOAWAY 1"],
        ),
        (
            "PRIORITY of a stream to itself",
            opened(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 7])),
            &["RST 1", "GOAWAY 1"],
        ),
        (
            "WINDOW_UPDATE by 0 on a stream",
            opened(frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
            &["RST 1", "GOAWAY 1"],
        ),
        (
            "a window beyond 2^31 - 1 on a stream",
            opened(frame(WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes())),
            &["RST 3", "GOAWAY 3"],
        ),
        ("DATA after the end", with(frame(DATA, 0, 3, b"x")), &["RST 5", "GOAWAY 5", "GOAWAY 1"]),
        (
            "HEADERS after the end",
            with(frame(HEADERS, WHOLE, 3, &attack)),
            &["RST 5", "GOAWAY 5", "GOAWAY 1"],
        ),
        (
            "more data than the window",
            opened(frame(DATA, 0, 1, &[0; 16_384]).repeat(20)),
            &["GOAWAY 3", "RST 1"],
        ),
        (
            "trailers that end nothing",
            opened(frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")]))),
            MALFORMED,
        ),
        (
            "a pseudo header in trailers",
            opened(frame(HEADERS, WHOLE, 1, &block(&[(":path", "/attack")]))),
            MALFORMED,
        ),
    ]
}

fn heads() -> Vec<Case> {
    let of = |lines: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &block(lines));
    let with = |more: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &head("GET", "/attack", more));
    let (method, scheme) = ((":method", "GET"), (":scheme", "http"));
    let (authority, path) = ((":authority", "shop.test"), (":path", "/attack"));
    vec![
        ("no :method", of(&[scheme, authority, path]), MALFORMED),
        ("no :scheme", of(&[method, authority, path]), MALFORMED),
        ("no :path", of(&[method, scheme, authority]), &["RST 1", "400"]),
        ("an empty :path", of(&[method, scheme, authority, (":path", "")]), MALFORMED),
        ("a :path without a slash", of(&[method, scheme, authority, (":path", "attack")]), &["RST 1", "400"]),
        ("two :method", of(&[method, method, scheme, authority, path]), MALFORMED),
        ("two :path", of(&[method, scheme, authority, path, path]), MALFORMED),
        ("two :scheme", of(&[method, scheme, scheme, authority, path]), MALFORMED),
        ("two :authority", of(&[method, scheme, authority, authority, path]), MALFORMED),
        ("a pseudo header behind others", of(&[method, scheme, authority, ("x", "y"), path]), MALFORMED),
        ("a pseudo header nobody knows", of(&[method, scheme, authority, path, (":x", "y")]), MALFORMED),
        (":status in a request", of(&[method, scheme, authority, path, (":status", "200")]), MALFORMED),
        ("a name in upper case", with(&[("X-Upper", "y")]), MALFORMED),
        ("a name with a space", with(&[("x y", "z")]), MALFORMED),
        ("a name with a colon", with(&[("x:y", "z")]), MALFORMED),
        ("an empty name", with(&[("", "z")]), MALFORMED),
        ("a value with a line end", with(&[("x", "a\r\nhost: b")]), MALFORMED),
        ("a value with NUL", with(&[("x", "a\0b")]), MALFORMED),
        ("a value that begins with a space", with(&[("x", " a")]), REFUSED),
        ("Connection", with(&[("connection", "close")]), MALFORMED),
        ("Keep-Alive", with(&[("keep-alive", "5")]), MALFORMED),
        ("Proxy-Connection", with(&[("proxy-connection", "close")]), MALFORMED),
        ("Transfer-Encoding", with(&[("transfer-encoding", "chunked")]), MALFORMED),
        ("Upgrade", with(&[("upgrade", "websocket")]), MALFORMED),
        ("TE other than trailers", with(&[("te", "gzip")]), MALFORMED),
        ("Host that disagrees", with(&[("host", "other.test")]), REFUSED),
        ("two Hosts", with(&[("host", "shop.test"), ("host", "shop.test")]), REFUSED),
        ("neither :authority nor Host", of(&[method, scheme, path]), REFUSED),
        ("a user in :authority", of(&[method, scheme, (":authority", "a@shop.test"), path]), REFUSED),
        (
            "two lengths that differ",
            with(&[("content-length", "0"), ("content-length", "5")]),
            &["RST 1", "400"],
        ),
        ("a length that is none", with(&[("content-length", "+0")]), &["RST 1", "400"]),
        ("a length and no body", with(&[("content-length", "5")]), MALFORMED),
        ("CONNECT", of(&[(":method", "CONNECT"), authority]), &["501"]),
        (
            "CONNECT with a :protocol of no name",
            of(&[(":method", "CONNECT"), (":protocol", "x"), scheme, authority, path]),
            &["501"],
        ),
        (
            "CONNECT with :protocol and no path",
            of(&[(":method", "CONNECT"), (":protocol", "websocket"), scheme, authority]),
            MALFORMED,
        ),
        (
            "CONNECT with :protocol and no scheme",
            of(&[(":method", "CONNECT"), (":protocol", "websocket"), path, authority]),
            MALFORMED,
        ),
        (
            "GET with :protocol",
            of(&[(":method", "GET"), (":protocol", "websocket"), scheme, authority, path]),
            MALFORMED,
        ),
        ("Expect that nobody meets", with(&[("expect", "a miracle")]), &["417"]),
    ]
}

fn bodies_and_blocks() -> Vec<Case> {
    let post = |length: &str| {
        frame(HEADERS, END_HEADERS, 1, &head("POST", "/attack", &[("content-length", length)]))
    };
    let data = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let raw = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, bytes);
    let mut large = get("/attack");
    for number in 0..20 {
        large.extend(block(&[(&format!("x{number}"), &"v".repeat(7000))]));
    }
    let large: Vec<u8> = {
        let mut parts = large.chunks(16_000);
        let mut frames = frame(HEADERS, END_STREAM, 1, parts.next().unwrap());
        parts.for_each(|part| frames.extend(frame(CONTINUATION, 0, 1, part)));
        frames.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
        frames
    };
    // One header of 4000 bytes goes into the table, and is then named 10,000 times with one byte each.
    let mut bomb = get("/attack");
    bomb.push(0x40);
    string(&mut bomb, b"x");
    string(&mut bomb, &[b'v'; 4000]);
    bomb.extend([0xbe; 10_000]);
    vec![
        ("a body that is too short", [post("5"), data(b"1234")].concat(), MALFORMED),
        ("a body that is too long", [post("5"), data(b"123456")].concat(), MALFORMED),
        ("an index beyond the table", raw(&[0xff, 0x80, 0x01]), COMPRESSION),
        ("index 0", raw(&[0x80]), COMPRESSION),
        ("a string beyond its block", raw(&[0, 20, b'x']), COMPRESSION),
        ("Huffman's code with a wrong end", raw(&[0, 0x81, 0x00, 0]), COMPRESSION),
        (
            "a table larger than allowed",
            raw(&[&[0x3f, 0xe1, 0xff, 0x03][..], &get("/attack")].concat()),
            COMPRESSION,
        ),
        ("a head of 140 KB", large, &["431", "GOAWAY 11"]),
        ("a head that grows by HPACK", raw(&bomb), &["431", "GOAWAY 11"]),
    ]
}

/// What is sent without an end. What arrives in one go with the head of a request, at most about a megabyte, counts as
/// part of it.
fn floods() -> Vec<Case> {
    let pair =
        |stream: u32| [frame(HEADERS, WHOLE, stream, &get("/fine")), frame(RST_STREAM, 0, stream, &[0; 4])];
    let resets = (0..2000).flat_map(|n| pair(n * 2 + 1)).flatten().collect();
    let empty = [open(1), frame(DATA, 0, 1, b"").repeat(330_000)].concat();
    vec![
        ("rapid reset", resets, CALM),
        (
            "CONTINUATION",
            [frame(HEADERS, END_STREAM, 1, &get("/attack")), frame(CONTINUATION, 0, 1, b"").repeat(9)]
                .concat(),
            CALM,
        ),
        ("PING", frame(PING, 0, 0, &[0; 8]).repeat(110_000), CALM),
        ("SETTINGS", setting(4, 70_000).repeat(120_000), CALM),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]).repeat(130_000), CALM),
        (
            "WINDOW_UPDATE",
            [open(1), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(230_000)].concat(),
            CALM,
        ),
        ("empty DATA", empty, CALM),
        ("frames nobody knows", frame(0xee, 0, 0, &[0; 100]).repeat(17_000), CALM),
    ]
}

/// All of them, by what they have in common.
pub(crate) fn groups() -> [(&'static str, Vec<Case>); 5] {
    [
        ("frames of no stream", frames_of_no_stream()),
        ("frames of a stream", frames_of_a_stream()),
        ("heads", heads()),
        ("bodies and blocks", bodies_and_blocks()),
        ("floods", floods()),
    ]
}

/// The address of a server that is attacked, and somebody who is connected all the time.
async fn each(cases: Vec<Case>) {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", "timeouts = { idle = '2s' }").await;
    let mut bystander = rig.client().await;
    let mut wrong = Vec::new();
    for (name, bytes, wanted) in cases {
        let mut frames = Frames::connect(rig.address).await;
        // In a task of its own: the router may have stopped reading before all of it is written.
        let writing = frames.write_all(bytes);
        if let Err(seen) = frames.until(wanted).await {
            wrong.push(format!("{name}: {wanted:?} wanted, {seen:?} came"));
        }
        writing.abort();
        assert!(bystander.get("/bystander").await.is_ok(), "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop(bystander);
    until("every connection has ended", || rig.daemon.as_ref().unwrap().connections() == 0).await;
    rig.at_rest().await;
    let seen: Vec<_> = dyno.seen().into_iter().filter(|seen| seen.path.contains("attack")).collect();
    assert!(seen.is_empty(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_in_the_wrong_place_or_of_the_wrong_size_end_the_connection() {
    each(frames_of_no_stream()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_a_stream_does_not_allow_end_it_or_the_connection() {
    each(frames_of_a_stream()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_head_is_refused() {
    each(heads()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_another_length_and_bad_compression_are_refused() {
    each(bodies_and_blocks()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_connection() {
    each(floods()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_almost_the_preface_is_http1_that_cannot_be_read() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", "").await;
    let mut client = rig.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 505);
    // Byte by byte, the preface is one too.
    let mut frames = Frames::silent(rig.address).await;
    for byte in [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, WHOLE, 1, &get("/slow"))].concat() {
        frames.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    frames.until(&["200"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_bound_are_refused_and_the_others_served() {
    let dynos = Dyno::several(2).await;
    let dynos: Vec<&Dyno> = dynos.iter().collect();
    let rig = Rig::start_with(&dynos, "http2 = true\n[http2]\nmax_streams = 3", "").await;
    let mut frames = Frames::connect(rig.address).await;
    frames.until(&["frame 4"]).await.unwrap();
    let requests: Vec<u8> = (0..4).flat_map(|n| frame(HEADERS, WHOLE, n * 2 + 1, &get("/?held=1"))).collect();
    frames.send(&requests).await;
    let refused = frames.until(&["RST 7"]).await.unwrap();
    assert_eq!(refused.stream, 7);
    // One of them has two to answer.
    dynos.iter().chain(&dynos).for_each(|dyno| dyno.let_go());
    rig.at_rest().await;
    rig.log.are(3).await;
    assert!(rig.log.all().iter().all(|line| line["status"] == 200));
}
