//! What strangers may send where a TLS handshake is expected: each ends in an alert or the end of the connection, and
//! whoever else is connected is served.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::tls::Authority;
use crate::support::{DEADLINE, Dyno, Rig, until};

/// A name, what is sent, and the first word that may come back.
pub(super) type Case = (&'static str, Vec<u8>, &'static [&'static str]);

const HANDSHAKE: u8 = 22;
const UNEXPECTED: &[&str] = &["alert 10"];
const DECODE: &[&str] = &["alert 50"];
const ILLEGAL: &[&str] = &["alert 47"];
/// What is no record at all may be closed without a word.
const NO_RECORD: &[&str] = &["alert 10", "alert 50", "alert 70", "end"];

/// A record with that content.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &(content.len() as u16).to_be_bytes(), content].concat()
}

fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[kind][..], &(content.len() as u32).to_be_bytes()[1..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
}

/// With its length before it, in two bytes.
fn list(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

/// A ClientHello, and what is changed in it.
struct Hello {
    version: [u8; 2],
    suites: Vec<u8>,
    compression: Vec<u8>,
    extensions: Vec<u8>,
}

impl Hello {
    /// One of TLS 1.3 that is as it should be.
    fn good() -> Self {
        let mut hello = Self::old([3, 3]);
        hello.suites = vec![0x13, 0x01, 0x13, 0x02];
        hello.with(43, &[2, 3, 4]).with(51, &list(&[&[0, 29, 0, 32][..], &[9; 32]].concat()))
    }

    /// One without the extensions of TLS 1.3.
    fn old(version: [u8; 2]) -> Self {
        let suites = vec![0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13];
        let extensions = Vec::new();
        Self { version, suites, compression: vec![0], extensions }
            .with(0, &list(&[&[0][..], &list(b"shop.test")].concat()))
            .with(10, &list(&[0, 29, 0, 23]))
            .with(13, &list(&[4, 3, 8, 4, 4, 1]))
    }

    fn with(mut self, kind: u16, content: &[u8]) -> Self {
        self.extensions.extend(extension(kind, content));
        self
    }

    fn suites(mut self, suites: &[u8]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    fn body(&self) -> Vec<u8> {
        let compression = [&[self.compression.len() as u8][..], &self.compression].concat();
        [&self.version[..], &[7; 32], &[0], &list(&self.suites), &compression, &list(&self.extensions)]
            .concat()
    }

    fn bytes(&self) -> Vec<u8> {
        record(HANDSHAKE, &message(1, &self.body()))
    }
}

fn hello(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let mut hello = Hello::good();
    change(&mut hello);
    hello.bytes()
}

pub(super) fn cases() -> Vec<Case> {
    [no_handshakes(), wrong_messages(), wrong_hellos(), floods()].concat()
}

fn no_handshakes() -> Vec<Case> {
    let half = &Hello::good().bytes()[..60];
    let sslv2 = [&[0x80, 0x2e, 1, 3, 1, 0, 15, 0, 0, 0, 16][..], &[1; 37]].concat();
    vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_vec(), &["400"]),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &["400", "end"]),
        ("a hello of SSLv2", sslv2, NO_RECORD),
        ("zeros", vec![0; 4096], NO_RECORD),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), &["400", "alert 10", "alert 50", "alert 70", "end"]),
        ("a record of kind 99", record(99, &[0; 40]), NO_RECORD),
        ("application data", record(23, &[0; 40]), UNEXPECTED),
        ("a heartbeat", record(24, &[1, 0x40, 0]), NO_RECORD),
        ("half a hello, and silence", half.to_vec(), &["end"]),
        ("a record that is announced and does not come", vec![HANDSHAKE, 3, 1, 0x3f, 0xff], &["end"]),
        ("nothing", Vec::new(), &["end"]),
    ]
}

fn wrong_messages() -> Vec<Case> {
    let good = Hello::good();
    let too_long = [&[HANDSHAKE, 3, 1, 0x48, 0x01][..], &[1; 18_433]].concat();
    vec![
        ("a record of 18433 bytes", too_long, &["alert 22", "alert 50", "alert 10"]),
        ("a record without content", record(HANDSHAKE, &[]), &["alert 10", "alert 50", "end"]),
        ("a message nobody knows", record(HANDSHAKE, &message(77, &[0; 10])), &["alert 10", "alert 50"]),
        ("a ServerHello", record(HANDSHAKE, &message(2, &good.body())), &["alert 10", "alert 50"]),
        ("Finished", record(HANDSHAKE, &message(20, &[0; 32])), UNEXPECTED),
        ("a certificate", record(HANDSHAKE, &message(11, &[0; 7])), &["alert 10", "alert 50"]),
        (
            "a message of 16 MB",
            record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3]),
            &["alert 50", "alert 47", "alert 10", "end"],
        ),
        ("a fatal alert", record(21, &[2, 40]), &["end"]),
        ("a close_notify", record(21, &[1, 0]), &["end"]),
        ("an alert of three bytes", record(21, &[2, 40, 0]), &["alert 50", "alert 10", "end"]),
        ("ChangeCipherSpec", record(20, &[1]), UNEXPECTED),
        ("ChangeCipherSpec of 2", record(20, &[2]), &["alert 10", "alert 50", "alert 47"]),
    ]
}

fn wrong_hellos() -> Vec<Case> {
    const NO_VERSION: &[&str] = &["alert 70"];
    const NO_WAY: &[&str] = &["alert 40"];
    let twice = hello(|hello| {
        let again = hello.extensions.clone();
        hello.extensions.extend(again);
    });
    let beyond = hello(|hello| hello.extensions.extend([0xab, 0xcd, 0x40, 0, 1]));
    let sni = |name: &[u8]| {
        let mut hello = Hello::old([3, 3]);
        hello.extensions = extension(0, &list(&[&[0][..], &list(name)].concat()));
        hello.with(10, &list(&[0, 29, 0, 23])).with(13, &list(&[4, 3, 8, 4, 4, 1])).bytes()
    };
    vec![
        ("SSLv3", Hello::old([3, 0]).bytes(), NO_VERSION),
        ("TLS 1.0", Hello::old([3, 1]).bytes(), NO_VERSION),
        ("TLS 1.1", Hello::old([3, 2]).bytes(), NO_VERSION),
        ("versions nobody knows", Hello::old([3, 3]).with(43, &[2, 9, 9]).bytes(), NO_VERSION),
        ("a list of versions that is cut off", Hello::old([3, 3]).with(43, &[8, 3, 4]).bytes(), DECODE),
        ("RC4 and 3DES alone", Hello::old([3, 3]).suites(&[0, 5, 0, 10]).bytes(), NO_WAY),
        ("NULL ciphers alone", Hello::old([3, 3]).suites(&[0, 1, 0, 2, 0, 0x3b]).bytes(), NO_WAY),
        ("no cipher", Hello::old([3, 3]).suites(&[]).bytes(), &["alert 40", "alert 47", "alert 50"]),
        ("half a cipher", Hello::old([3, 3]).suites(&[0xc0]).bytes(), DECODE),
        ("compression alone", hello(|hello| hello.compression = vec![1]), &["alert 47", "alert 50"]),
        ("no compression method", hello(|hello| hello.compression = Vec::new()), &["alert 47", "alert 50"]),
        ("every extension twice", twice, &["alert 47", "alert 50"]),
        ("an extension beyond the hello", beyond, DECODE),
        ("a name with NUL", sni(b"shop.test\0.evil.test"), &["alert 50", "alert 47", "alert 112"]),
        ("a name of 300 letters", sni(&[b'a'; 300]), &["alert 50", "alert 47", "alert 112"]),
        ("an empty name", sni(b""), &["alert 50", "alert 47", "alert 112"]),
        ("a key share of 31 bytes", key_share(&[0, 29, 0, 31], &[9; 31]), ILLEGAL),
        ("a key share of zeros", key_share(&[0, 29, 0, 32], &[0; 32]), &["alert 47", "alert 40"]),
        ("ALPN of others alone", Hello::old([3, 3]).with(16, &list(b"\x04spdy")).bytes(), &["alert 120"]),
        ("ALPN with an empty name", Hello::good().with(16, &list(b"\0")).bytes(), DECODE),
        ("a PSK that is not the last", psk_in_the_middle(), &["alert 47", "alert 50"]),
        ("no way to sign", no_signatures(), &["alert 40", "alert 109", "alert 47"]),
    ]
}

fn key_share(head: &[u8], key: &[u8]) -> Vec<u8> {
    let mut hello = Hello::old([3, 3]);
    hello.suites = vec![0x13, 0x01];
    hello.with(43, &[2, 3, 4]).with(51, &list(&[head, key].concat())).bytes()
}

fn psk_in_the_middle() -> Vec<u8> {
    let identity = [&list(&[5; 40])[..], &[0; 4]].concat();
    let binder = [&[32][..], &[6; 32]].concat();
    let offer = [list(&identity), list(&binder)].concat();
    Hello::good().with(45, &[1, 1]).with(41, &offer).with(16, &list(b"\x08http/1.1")).bytes()
}

fn no_signatures() -> Vec<u8> {
    let mut hello = Hello::old([3, 3]);
    hello.suites = vec![0x13, 0x01];
    hello.extensions = extension(43, &[2, 3, 4]);
    hello.with(10, &list(&[0, 29])).with(51, &list(&[&[0, 29, 0, 32][..], &[9; 32]].concat())).bytes()
}

fn floods() -> Vec<Case> {
    let good = Hello::good().bytes();
    let pieces: Vec<u8> = good[5..].iter().flat_map(|byte| record(HANDSHAKE, &[*byte])).collect();
    vec![
        ("warnings without an end", record(21, &[1, 90]).repeat(20_000), &["alert 10", "alert 50", "end"]),
        (
            "empty records without an end",
            record(HANDSHAKE, &[]).repeat(20_000),
            &["alert 10", "alert 50", "end"],
        ),
        ("ChangeCipherSpec without an end", record(20, &[1]).repeat(20_000), UNEXPECTED),
        ("a good hello, byte by byte", pieces, &["hello"]),
        ("a good hello, and garbage under its keys", [good, record(23, &[3; 400])].concat(), &["hello"]),
    ]
}

/// What comes back first: an alert, a ServerHello, the status of an answer without TLS, or the end.
pub(super) async fn first_word(stream: &mut TcpStream, patience: Duration) -> String {
    let word = async {
        let mut head = [0; 5];
        if let Err(error) = stream.read_exact(&mut head).await {
            return if error.kind() == io::ErrorKind::UnexpectedEof { "end" } else { "reset" }.to_owned();
        }
        if &head == b"HTTP/" {
            let mut rest = [0; 7];
            let _ = stream.read_exact(&mut rest).await;
            return String::from_utf8_lossy(&rest[4..]).into_owned();
        }
        let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        let _ = stream.read_exact(&mut content).await;
        match (head[0], &content[..]) {
            (21, [_, alert]) => format!("alert {alert}"),
            (HANDSHAKE, [2, ..]) => "hello".to_owned(),
            other => format!("{} {:?}", other.0, &other.1[..other.1.len().min(8)]),
        }
    };
    timeout(patience, word).await.unwrap_or_else(|_| "silence".to_owned())
}

/// Sends the bytes, however many are taken, and leaves the connection open.
pub(super) async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap();
    // It may stop reading before all of it is written.
    let _ = timeout(Duration::from_millis(300), stream.write_all(bytes)).await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_no_handshake_ends_and_nobody_else_notices() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[tls]\nlisten = ['127.0.0.1:0']\nhandshake_timeout = '500ms'\n\
         certificates = [{}]\n[apps.shop]\nhosts = ['shop.test']\ndynos = ['{}']\n",
        issued.entry(),
        dyno.address
    ))
    .await;
    let secure = rig.daemon.as_ref().unwrap().secure_addresses()[0];
    let client = authority.client();
    let mut bystander = rig.client().await;
    let (mut wrong, cases) = (Vec::new(), cases());
    let number = cases.len();
    for (name, bytes, wanted) in cases {
        let mut stream = send(secure, &bytes).await;
        let word = first_word(&mut stream, DEADLINE).await;
        // To close with something unread resets; what was said before that has been read, or was nothing.
        let fine = wanted.contains(&&*word) || (word == "reset" && wanted.contains(&"end"));
        if !fine {
            wrong.push(format!("{name}: {wanted:?} wanted, {word} came"));
        }
        let mut rest = Vec::new();
        let ends = word == "hello" || timeout(DEADLINE, stream.read_to_end(&mut rest)).await.is_ok();
        assert!(ends, "{name}: the connection stays");
        assert!(bystander.get("/").await.is_ok(), "{name}");
        drop(stream);
    }
    assert!(wrong.is_empty(), "{} of {number}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(number >= 40, "{number} cases");
    assert!(client.get(secure, "shop.test", "/").await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(dyno.asked(), number + 1, "the dyno saw the bystander and nobody else");
    drop(bystander);
    until("every connection has ended", || rig.daemon.as_ref().unwrap().connections() == 0).await;
}
