//! What a probe says of servers that do everything wrong.

use router_core::limits::ProxyHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn http(expect: &str) -> Probe {
    let (path, host) = ("/up?deep=1".to_owned(), Some("shop.test".to_owned()));
    let kind = ProbeKind::Http { path, host, expect: expect.parse().unwrap() };
    Probe { kind, timeout: Duration::from_secs(5), header: ProxyHeader::Off }
}

fn quick(mut probe: Probe) -> Probe {
    probe.timeout = Duration::from_millis(200);
    probe
}

/// A server that reads a head, answers with that, and then closes, or waits for ever. Gives the head it got.
async fn server(answer: &'static [u8], closes: bool) -> (Address, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0; 1];
            if stream.read(&mut byte).await.unwrap() == 0 {
                return String::new();
            }
            head.push(byte[0]);
        }
        let _ = stream.write_all(answer).await;
        if !closes {
            // Until the other side closes.
            let _ = stream.read(&mut [0; 1]).await;
        }
        String::from_utf8(head).unwrap()
    });
    (address, task)
}

async fn says(answer: &'static [u8], closes: bool, with: Probe) -> Result<(), String> {
    let (address, _task) = server(answer, closes).await;
    probe(&with, (Protocol::Http1, None), address).await
}

#[tokio::test]
async fn a_good_answer_is_one_with_the_right_status() {
    let (address, task) = server(b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
    assert_eq!(probe(&http("200-399"), (Protocol::Http1, None), address).await, Ok(()));
    let head = task.await.unwrap();
    assert!(
        head.starts_with("GET /up?deep=1 HTTP/1.1\r\n") && head.contains("host: shop.test\r\n"),
        "{head}"
    );
    let moved = b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(says(moved, false, http("200-299")).await, Err("status 302".to_owned()));
}

#[tokio::test]
async fn a_bad_answer_is_quoted_on_one_line_and_bounded() {
    let bad = b"HTTP/1.1 503 Nope\r\ncontent-length: 25\r\n\r\nmigrating\r\n\tthe \x1b[31mdata";
    assert_eq!(says(bad, false, http("200")).await, Err("status 503: migrating the [31mdata".to_owned()));
    let endless: &'static [u8] =
        Vec::leak([b"HTTP/1.1 500 x\r\n\r\n".to_vec(), vec![b'e'; 1 << 20]].concat());
    let text = says(endless, false, http("200")).await.unwrap_err();
    assert_eq!(text, format!("status 500: {}", "e".repeat(100)));
}

#[tokio::test]
async fn what_is_no_answer_is_named() {
    let closed = Err("closed the connection without an answer".to_owned());
    assert_eq!(says(b"", true, http("200")).await, closed);
    assert_eq!(
        says(b"SSH-2.0-OpenSSH\r\n", false, http("200")).await,
        Err("the answer is not HTTP".to_owned())
    );
    assert_eq!(says(b"", false, quick(http("200"))).await, Err("no answer within 200ms".to_owned()));
    assert_eq!(
        says(b"HTTP/1.1 200", false, quick(http("200"))).await,
        Err("no answer within 200ms".to_owned())
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    for kind in [ProbeKind::Tcp, http("200").kind] {
        let with = Probe { kind, timeout: Duration::from_secs(5), header: ProxyHeader::Off };
        assert_eq!(probe(&with, (Protocol::Http1, None), nobody).await, Err("connection refused".to_owned()));
    }
}

#[tokio::test]
async fn tcp_asks_for_a_connection_and_none_for_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tcp = Probe { kind: ProbeKind::Tcp, timeout: Duration::from_secs(5), header: ProxyHeader::Off };
    assert_eq!(probe(&tcp, (Protocol::Http1, None), address).await, Ok(()));
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "it is closed, and nothing was sent");
    drop(listener);
    assert_eq!(
        probe(&Probe { kind: ProbeKind::None, ..tcp }, (Protocol::Http1, None), address).await,
        Ok(())
    );
}
