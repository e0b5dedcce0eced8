//! Answers that break HTTP, or nearly: what the client gets, and that the next request gets its own answer.

use std::sync::Arc;

use router_core::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Answer, Rig};

/// A dyno that answers `/next` well and everything else with given bytes.
struct Raw {
    address: String,
    answer: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<u32>>,
}

impl Raw {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answer, connections) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<u32>>::default());
        let (bytes, count) = (Arc::clone(&answer), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock() += 1;
                tokio::spawn(serve(stream, Arc::clone(&bytes)));
            }
        });
        Self { address, answer, connections }
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Mutex<Vec<u8>>>) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            if !stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
        let next = read.windows(6).any(|part| part == b" /next");
        read.clear();
        let bytes = if next {
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext".to_vec()
        } else {
            answer.lock().clone()
        };
        let closes = !next && bytes.windows(17).any(|part| part.eq_ignore_ascii_case(b"connection: close"));
        if stream.write_all(&bytes).await.is_err() || closes {
            return;
        }
    }
}

/// What the client gets, or the fault.
enum Gets {
    /// A status and a body.
    This(u16, &'static str),
    Fault(u16, &'static str),
    /// A head, and then the connection is cut.
    Cut,
}
use Gets::{Cut, Fault, This};

/// Name · request · answer of the dyno · what the client gets · whether the dyno's connection is used again.
type Case = (&'static str, &'static str, &'static str, Gets, bool);

const CASES: &[Case] = &[
    ("good", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", This(200, "hi"), true),
    ("HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", This(200, "hi"), false),
    (
        "a length beside chunks",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        This(200, "hi"),
        false,
    ),
    (
        "two lengths",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        Fault(502, "H25"),
        false,
    ),
    (
        "a list of lengths",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        Fault(502, "H25"),
        false,
    ),
    (
        "a length with a sign",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        Fault(502, "H25"),
        false,
    ),
    ("an empty length", "GET", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi", Fault(502, "H25"), false),
    (
        "a folded length",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n 0\r\n\r\nhi",
        Fault(502, "H25"),
        false,
    ),
    (
        "gzip, chunked",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Fault(503, "H17"),
        false,
    ),
    (
        "chunked, gzip",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Fault(503, "H17"),
        false,
    ),
    (
        "chunks in HTTP/1.0",
        "GET",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Fault(503, "H17"),
        false,
    ),
    ("a bad chunk", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", Cut, false),
    (
        "folded",
        "GET",
        "HTTP/1.1 200 OK\r\nX-Fold: a\r\n \t b\r\nContent-Length: 2\r\n\r\nhi",
        This(200, "hi"),
        true,
    ),
    (
        "space before the colon",
        "GET",
        "HTTP/1.1 200 OK\r\nX-Fold : a b\r\nContent-Length : 2\r\n\r\nhi",
        This(200, "hi"),
        true,
    ),
    ("bare LF", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", This(200, "hi"), true),
    (
        "bare CR in a value",
        "GET",
        "HTTP/1.1 200 OK\r\nX: a\rb: c\r\nContent-Length: 2\r\n\r\nhi",
        Fault(503, "H17"),
        false,
    ),
    (
        "NUL in a value",
        "GET",
        "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nhi",
        Fault(503, "H17"),
        false,
    ),
    (
        "NUL in a name",
        "GET",
        "HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 2\r\n\r\nhi",
        Fault(503, "H17"),
        false,
    ),
    ("no name", "GET", "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nhi", Fault(503, "H17"), false),
    ("HTTP/0.9", "GET", "<html>hello</html>\r\n\r\n", Fault(503, "H17"), false),
    ("HTTP/2", "GET", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", Fault(503, "H17"), false),
    (
        "a status of two digits",
        "GET",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        Fault(503, "H17"),
        false,
    ),
    (
        "a status of four digits",
        "GET",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
        Fault(503, "H17"),
        false,
    ),
    ("status 099", "GET", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nhi", Fault(503, "H17"), false),
    (
        "a 101 nobody asked for",
        "GET",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        Fault(503, "H17"),
        false,
    ),
    (
        "a 204 with a body",
        "GET",
        "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
        This(204, ""),
        false,
    ),
    (
        "a 304 with a body",
        "GET",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
        This(304, ""),
        false,
    ),
    ("HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", This(200, ""), false),
    (
        "bytes behind the answer",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhievil",
        This(200, "hi"),
        false,
    ),
    (
        "an answer behind the answer",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        This(200, "hi"),
        false,
    ),
    (
        "an answer behind the last chunk",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        This(200, "hi"),
        false,
    ),
    (
        "an end before the body's",
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhi",
        Fault(503, "H18"),
        false,
    ),
];

async fn ask(rig: &Rig, method: &str, path: &str) -> Answer {
    let mut client = rig.client().await;
    client.ask(method, path).await;
    let mut answer = client.head().await;
    if answer.status != 0 && method != "HEAD" && !matches!(answer.status, 204 | 304) {
        client.body(&mut answer).await;
    }
    answer
}

async fn rig(dyno: &Raw) -> Rig {
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{}']\nhealth = {{ eject_after = 0 }}\n",
        dyno.address
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_one_answer_or_a_fault_and_never_part_of_the_next() {
    let dyno = Raw::start().await;
    let rig = rig(&dyno).await;
    let mut wrong = Vec::new();
    for (name, method, bytes, gets, again) in CASES {
        *dyno.answer.lock() = bytes.as_bytes().to_vec();
        assert_eq!(ask(&rig, "GET", "/next").await.text(), "next", "before {name}");
        let before = *dyno.connections.lock();
        let got = ask(&rig, method, "/x").await;
        let is = (got.status, got.text(), got.fault().to_owned(), got.whole);
        let good = match gets {
            This(status, body) => got.status == *status && got.text() == *body && got.fault() == "-",
            Fault(status, code) => got.status == *status && got.fault() == *code,
            Cut => got.status == 503 || !got.whole,
        };
        let fold = got.header("x-fold");
        if !good || !matches!(fold, "" | "a b") {
            wrong.push(format!("{name}: {is:?}, fold {fold:?}"));
        }
        rig.at_rest().await;
        let next = ask(&rig, "GET", "/next").await;
        let reused = *dyno.connections.lock() == before;
        if next.text() != "next" || reused != *again {
            wrong.push(format!("{name}: then {:?} {:?}, reused: {reused}", next.status, next.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_say_nothing_of_a_body_and_a_flood_of_them_passes_by() {
    let dyno = Raw::start().await;
    let rig = rig(&dyno).await;
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </s>\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\
                Connection: x-hop\r\nX-Hop: 1\r\n\r\n";
    *dyno.answer.lock() = format!("{hint}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").into_bytes();
    let mut client = rig.client().await;
    client.send("GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8(client.rest().await).unwrap().to_ascii_lowercase();
    let (first, last) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(first, "http/1.1 103 early hints\r\nlink: </s>");
    assert!(last.starts_with("http/1.1 200 ok\r\n") && last.ends_with("hi"), "{text}");
    let flood = hint.repeat(10_000) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    *dyno.answer.lock() = flood.into_bytes();
    assert_eq!(ask(&rig, "GET", "/x").await.text(), "hi");
    assert_eq!(ask(&rig, "GET", "/next").await.text(), "next");
}

/// A dyno that answers as soon as it has a head, and closes its connection with the rest of the request unread.
async fn hasty() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = [0; 1024];
            let _ = stream.read(&mut read).await;
            let no = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
            let _ = stream.write_all(no).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_half_a_request_reaches_the_client_though_the_dyno_has_closed_its_connection() {
    let text = "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\nhealth = { eject_after = 0 }\n";
    let rig = Rig::from_toml(&format!("{text}dynos = ['{}']\n", hasty().await)).await;
    for round in 0..10 {
        let stream = TcpStream::connect(rig.address).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let upload = tokio::spawn(async move {
            let head = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 20000000\r\n\r\n";
            let _ = to.write_all(head.as_bytes()).await;
            // It may be told to stop, and need not be.
            let _ = to.write_all(&vec![b'x'; 20_000_000]).await;
            to
        });
        let mut answer = vec![0; 12];
        from.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413", "round {round}");
        upload.abort();
        rig.at_rest().await;
    }
    rig.log.are(10).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}
