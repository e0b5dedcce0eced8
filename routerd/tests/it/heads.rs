//! Connections that end within a head, behind one, or between two: one record for what had begun, none for nothing.

use std::time::Duration;

use socket2::SockRef;

use crate::support::{Client, Dyno, Rig};

const WHOLE: &str = "GET /whole HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// How a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Close,
    Reset,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Close, Self::Reset];

    fn end(self, client: Client) {
        if self == Self::Reset {
            SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
    }
}

/// A daemon and a dyno of its own.
async fn rig(app: &str) -> (Rig, Dyno) {
    let dyno = Dyno::start().await;
    (Rig::start(&[&dyno], app).await, dyno)
}

/// The fault codes of what the ended connections have left in the log.
async fn codes(rig: &Rig) -> Vec<String> {
    rig.settled().await.iter().map(|line| line["code"].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_head_leaves_one_record_even_if_its_client_is_gone_at_once() {
    for way in Way::BOTH {
        let (rig, _dyno) = rig("").await;
        for _ in 0..200 {
            let mut client = rig.client().await;
            client.send(WHOLE).await;
            way.end(client);
        }
        let lines = rig.settled().await;
        assert_eq!(lines.len(), 200, "{way:?}");
        assert!(lines.iter().all(|line| line["path"] == "/whole"), "{way:?}: {lines:?}");
        rig.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_within_a_head_leaves_one_record() {
    let parts = [
        "G",
        "GET / HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: shop.test\r\nX: y",
        &WHOLE[..WHOLE.len() - 1],
    ];
    for way in Way::BOTH {
        for part in parts {
            let (rig, _dyno) = rig("").await;
            let mut client = rig.client().await;
            client.send(part).await;
            way.end(client);
            let lines = rig.settled().await;
            assert_eq!(lines.len(), 1, "{way:?} after {part:?}: {lines:?}");
            let line = &lines[0];
            assert!(line["code"] == "H27" && line["status"] == 499, "{way:?} after {part:?}: {line}");
            assert!(line["method"].is_null() && line["path"].is_null() && line["dyno"].is_null(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_of_a_second_head_has_a_record_of_its_own() {
    for way in Way::BOTH {
        for apart in [true, false] {
            let (rig, _dyno) = rig("").await;
            let mut client = rig.client().await;
            let part = "GET / HTTP/1.1\r\nHo";
            // Pipelined, the part is there before the first answer is.
            client.send(if apart { WHOLE.to_owned() } else { format!("{WHOLE}{part}") }).await;
            assert!(client.answer().await.is_ok());
            if apart {
                client.send(part).await;
            }
            way.end(client);
            assert_eq!(codes(&rig).await, ["-", "H27"], "{way:?}, apart: {apart}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_without_a_byte_of_a_head_leaves_no_record() {
    for way in Way::BOTH {
        // An empty line in front of a request is nothing yet (RFC 9112 section 2.2).
        for nothing in ["", "\r\n"] {
            let (rig, _dyno) = rig("").await;
            let mut client = rig.client().await;
            client.send(nothing).await;
            way.end(client);
            assert_eq!(codes(&rig).await, [""; 0], "{way:?} after {nothing:?}");

            let mut client = rig.client().await;
            assert!(client.get("/whole").await.is_ok());
            client.send(nothing).await;
            way.end(client);
            assert_eq!(codes(&rig).await, ["-"], "{way:?} after an answer and {nothing:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_request_that_has_its_record_is_no_second_one() {
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\n";
    let bad_chunk = format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nfew");
    let upload = format!("{post}Content-Length: 900000\r\n\r\n{}", "u".repeat(5000));
    let unknown = upload.replace("shop.test", "nobody.test");
    let pipelined = format!("GET /?ms=100 HTTP/1.1\r\nHost: shop.test\r\n\r\n{WHOLE}");
    for way in Way::BOTH {
        for (sent, records) in [(&bad_chunk, 1), (&upload, 1), (&unknown, 1), (&pipelined, 2)] {
            let (rig, _dyno) = rig("hosts = ['shop.test']").await;
            let mut client = rig.client().await;
            client.send(sent).await;
            way.end(client);
            let lines = rig.settled().await;
            assert!((1..=records).contains(&lines.len()), "{way:?} after {sent:.80?}: {lines:?}");
            assert!(lines.iter().all(|line| !line["path"].is_null()), "{way:?} after {sent:.80?}: {lines:?}");
            rig.at_rest().await;
        }
    }
}
