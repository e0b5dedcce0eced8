//! Answers that are compressed on their way to the client.

use std::process::Command;
use std::time::Duration;

use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::{BrotliDecoder, DecodeV2, GzipDecoder, ZstdDecoder};
use router_core::snapshot::DynoState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{reload, wrong};
use crate::support::dyno::text;
use crate::support::http2::{Http2, request};
use crate::support::{Answer, Client, Dyno, Rig, installed, until};

const ALL: &str = "compression = ['zstd', 'br', 'gzip']";
const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// Reads bytes in a coding as they come.
struct Decoder(Box<dyn DecodeV2 + Send>);

impl Decoder {
    fn new(coding: &str) -> Self {
        Self(match coding {
            "gzip" => Box::new(GzipDecoder::new()),
            "br" => Box::new(BrotliDecoder::new()),
            "zstd" => Box::new(ZstdDecoder::new()),
            other => panic!("{other}"),
        })
    }

    /// What these bytes tell, and whether they are the last.
    fn read(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if bytes.is_empty() {
            return (Vec::new(), false);
        }
        let (mut input, mut text, mut room) = (PartialBuffer::new(bytes), Vec::new(), vec![0; 64 << 10]);
        loop {
            let mut out = WriteBuffer::new_initialized(&mut room);
            let ended = self.0.decode(&mut input, &mut out).unwrap();
            text.extend_from_slice(out.written());
            if ended || (input.unwritten().is_empty() && !out.has_no_spare_space()) {
                assert!(input.unwritten().is_empty(), "nothing comes behind the end");
                return (text, ended);
            }
        }
    }
}

fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let (text, ended) = Decoder::new(coding).read(bytes);
    assert!(ended, "the coding has its end");
    text
}

async fn get(client: &mut Client, path: &str, accept: &str) -> Answer {
    super::get(client, path, &format!("Host: shop.test\r\nAccept-Encoding: {accept}")).await
}

fn path(length: usize, more: &str) -> String {
    format!("/?kind=text/html&body={length}{more}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_comes_out_as_it_went_in_over_http1_and_http2() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", ALL).await;
    let (mut http1, http2) = (rig.client().await, Http2::connect(rig.address).await);
    let mut lines = 0;
    for length in [0, 1 << 10, 1 << 20, 20 << 20] {
        let body = text(length);
        for coding in CODINGS {
            // A dyno's empty chunk would be its last.
            let chunked = if length == 0 { "&length=0" } else { "&length=0&parts=7" };
            for more in ["", chunked] {
                let one = get(&mut http1, &path(length, more), coding).await;
                let asked = request("GET", &path(length, more), &[("accept-encoding", coding)]);
                let two = http2.ask(asked).await.unwrap();
                assert!(one.is_ok() && two.head.status == 200);
                let codings = (one.header("content-encoding"), two.header("content-encoding"));
                if length == 0 {
                    assert_eq!((codings, one.body.len(), two.body.len()), (("", ""), 0, 0));
                } else {
                    assert_eq!(codings, (coding, coding), "{length} {more}");
                    assert!(decoded(coding, &one.body) == body && decoded(coding, &two.body) == body);
                    assert_eq!(
                        (one.header("vary"), two.header("vary")),
                        ("Accept-Encoding", "Accept-Encoding")
                    );
                    assert_eq!((one.header("content-length"), two.header("content-length")), ("", ""));
                    assert!(one.body.len() < length * 3 / 4, "{coding}: {} of {length}", one.body.len());
                }
                lines += 2;
                rig.log.are(lines).await;
                let log = rig.log.all();
                let bytes: Vec<_> =
                    log[lines - 2..].iter().map(|line| line["bytes"].as_u64().unwrap()).collect();
                assert_eq!(bytes, [one.body.len() as u64, two.body.len() as u64], "what went to the client");
                if length == 20 << 20 {
                    break;
                }
            }
        }
    }
    assert!(rig.log.faults().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_reads_what_is_compressed() {
    let dyno = Dyno::start().await;
    let rig = Rig::start_with(&[&dyno], "http2 = true", ALL).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        if !installed("curl", &[version, "--compressed", "--version"]) {
            continue;
        }
        for coding in CODINGS {
            let url = format!("http://{}{}", rig.address, path(3 << 20, ""));
            let accept = format!("Accept-Encoding: {coding}");
            let output = tokio::task::spawn_blocking(move || {
                Command::new("curl")
                    .args(["-sS", "--compressed", version, "-H", &accept, &url])
                    .output()
                    .unwrap()
            });
            let output = output.await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == text(3 << 20), "{version} {coding}");
        }
    }
    assert!(rig.log.all().iter().all(|line| line["bytes"].as_u64().unwrap() < 2 << 20));
}

#[tokio::test]
async fn only_who_asks_for_it_and_only_what_may_be() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], ALL).await;
    let mut client = rig.client().await;
    for (path, accept, coding, vary) in [
        (path(5000, ""), "br;q=0.5, gzip", "gzip", "Accept-Encoding"),
        (path(5000, ""), "*", "zstd", "Accept-Encoding"),
        (path(5000, ""), "gzip;q=0", "", "Accept-Encoding"),
        (path(5000, ""), "deflate", "", "Accept-Encoding"),
        (path(1023, ""), "gzip", "", ""),
        ("/?kind=image/png&body=5000".to_owned(), "gzip", "", ""),
        ("/?kind=text/event-stream&body=5000&length=0".to_owned(), "gzip", "", ""),
        ("/?body=5000".to_owned(), "gzip", "", ""),
    ] {
        let answer = get(&mut client, &path, accept).await;
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            (coding, vary),
            "{path} {accept}"
        );
        let body = if coding.is_empty() { answer.body } else { decoded(coding, &answer.body) };
        assert_eq!(body.len(), path.split("body=").nth(1).unwrap()[..4].parse::<usize>().unwrap());
    }
    // A client of HTTP/1.0 cannot tell the end of it from a break.
    client
        .send(format!("GET {} HTTP/1.0\r\nHost: shop.test\r\nAccept-Encoding: gzip\r\n\r\n", path(5000, "")))
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.header("content-encoding"), answer.body.len()), ("", 5000));
}

/// A dyno that answers one request with what it is told, when it is told.
async fn told(listener: TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut head).await.unwrap();
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn what_the_dyno_has_sent_arrives_before_it_sends_more() {
    for coding in CODINGS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{address}']\n{ALL}\n");
        let rig = Rig::from_toml(&text).await;
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.1\r\nHost: shop.test\r\nAccept-Encoding: {coding}\r\n\r\n")).await;
        let mut dyno = told(listener).await;
        assert_eq!(client.head().await.header("content-encoding"), coding);
        let mut decoder = Decoder::new(coding);
        for word in ["one", "two", "three"] {
            dyno.write_all(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes()).await.unwrap();
            let (mut arrived, mut all) = (Vec::new(), 0);
            // It fails by the client's own deadline.
            while arrived != word.as_bytes() {
                let mut bytes = Vec::new();
                client.chunk(&mut bytes).await.unwrap();
                let (read, ended) = decoder.read(&bytes);
                arrived.extend(read);
                all += bytes.len();
                assert!(!ended && all < 100, "{coding}: {all} bytes for {word}");
            }
        }
        // It breaks off: the client does not take it for the whole.
        drop(dyno);
        let mut bytes = Vec::new();
        while client.chunk(&mut bytes).await.is_some_and(|length| length > 0) {}
        assert!(client.rest().await.is_empty() && !decoder.read(&bytes).1);
        rig.log.are(1).await;
        assert!(!rig.log.faults().is_empty());
    }
}

#[tokio::test]
async fn a_client_that_leaves_and_one_that_does_not_read_hold_no_dyno() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], &format!("{ALL}\nresponse_spool = '64MiB'")).await;
    // It takes nothing of an answer that is longer than what sockets hold.
    let mut slow = Client::small(rig.address).await;
    let ask =
        format!("GET {} HTTP/1.1\r\nHost: shop.test\r\nAccept-Encoding: gzip\r\n\r\n", path(20 << 20, ""));
    slow.send(&ask).await;
    until("the dyno has answered", || dyno.answered() == 1).await;
    rig.are(1, DynoState::Idle).await;
    assert_eq!(rig.log.count(), 0, "the client has not had all of it");
    drop(slow);
    rig.log.are(1).await;
    let line = rig.log.last();
    assert_eq!((line["code"].as_str(), line["status"].as_u64()), (Some("H27"), Some(499)), "{line}");
    assert!(line["bytes"].as_u64().unwrap() < 10 << 20);
    assert!(get(&mut rig.client().await, &path(5000, ""), "br").await.is_ok());
}

#[tokio::test]
async fn a_reload_turns_it_on_and_off() {
    let dyno = Dyno::start().await;
    let config = |app: &str| {
        let address = dyno.address;
        format!("[server]\nlisten = ['127.0.0.1:0']\n[defaults]\n{app}\n[apps.shop]\ndynos = ['{address}']\n")
    };
    let rig = Rig::from_toml(&config("")).await;
    let mut client = rig.client().await;
    assert_eq!(get(&mut client, &path(5000, ""), "gzip, br").await.header("vary"), "");
    for (app, says, coding) in [
        ("compression = ['br', 'gzip']", "compression: none -> br, gzip", "br"),
        ("compression = ['gzip']", "compression: br, gzip -> gzip", "gzip"),
        ("compression = ['gzip']\ncompression_min = '6KiB'", "compression_min: 1KiB -> 6KiB", ""),
        ("compression = ['gzip']\ncompression_types = ['text/css']", "compression_types: ", ""),
        ("", "compression: gzip -> none", ""),
    ] {
        let diff = reload(&rig, &config(app)).await;
        assert!(diff.contains(says), "{diff}");
        let answer = get(&mut client, &path(5000, ""), "gzip, br").await;
        assert_eq!(answer.header("content-encoding"), coding, "{app}");
    }
    assert!(tokio::time::timeout(Duration::from_secs(20), rig.at_rest()).await.is_ok());
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    for (app, says) in [
        ("compression = ['deflate']", "3:16 compression: this is no coding that is known here"),
        ("compression = ['br', 'br']", "3:22 compression: this is there twice"),
        ("compression_types = ['html']", "3:22 compression_types: this is no media type"),
        (
            "compression_types = ['text/event-stream']",
            "3:22 compression_types: answers of this kind are streams and are never compressed",
        ),
        ("compression_min = '2GiB'", "3:19 apps.shop.compression_min: the value is above the ceiling"),
    ] {
        assert_eq!(wrong(folder.path(), app), [says], "{app}");
    }
}
