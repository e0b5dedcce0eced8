//! A client that writes frames of HTTP/2 by hand, good ones and others, and says what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::DEADLINE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIO: u8 = 0x20;
/// A whole request in one frame.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// One setting as a frame.
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A list of headers in HPACK, every one a literal that is not indexed.
pub(crate) fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

/// A string of HPACK without Huffman's code.
pub(crate) fn string(block: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text);
}

/// The head of a GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "shop.test"), (":path", path)])
}

/// The head of a request with these headers behind its pseudo headers.
pub(crate) fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut lines =
        vec![(":method", method), (":scheme", "http"), (":authority", "shop.test"), (":path", path)];
    lines.extend(more);
    block(&lines)
}

/// What has come back.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// In a word or two: `GOAWAY 1`, `RST 8`, `200`, `END`, or what kind of frame it is.
    pub(crate) fn word(&self) -> String {
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        match self.kind {
            GOAWAY => format!("GOAWAY {}", number(4)),
            RST_STREAM => format!("RST {}", number(0)),
            HEADERS => status(&self.payload),
            kind => format!("frame {kind}"),
        }
    }
}

/// The status at the beginning of the head of a connection's first answer.
fn status(block: &[u8]) -> String {
    // The encoder may say first how large its table is.
    let skip = block.iter().take_while(|byte| **byte >> 5 == 1).count();
    let block = &block[skip..];
    if let Some(at) = (0x88..=0x8e).position(|byte| block[0] == byte) {
        return ["200", "204", "206", "304", "400", "404", "500"][at].to_owned();
    }
    let (length, text) = (block[1] & 0x7f, &block[2..]);
    let text = &text[..length as usize];
    if block[1] & 0x80 == 0 { String::from_utf8(text.to_vec()).unwrap() } else { huffman_digits(text) }
}

/// Digits in Huffman's code of RFC 7541: five bits for 0 to 2, six for the others.
fn huffman_digits(text: &[u8]) -> String {
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |sum, bit| sum * 2 + bit);
    let (mut at, mut digits) = (0, String::new());
    while at + 5 <= bits.len() {
        let five = number(&bits[at..at + 5]);
        if five <= 2 {
            digits.push(char::from(b'0' + five));
            at += 5;
        } else if at + 6 <= bits.len() && (0b01_1001..=0b01_1111).contains(&number(&bits[at..at + 6])) {
            digits.push(char::from(b'3' + number(&bits[at..at + 6]) - 0b01_1001));
            at += 6;
        } else {
            break;
        }
    }
    digits
}

/// What comes back in words, one of each kind in a row, without what says nothing; and whether the connection ends.
pub(crate) async fn judge(frames: &mut Frames, silence: Duration) -> (Vec<String>, bool) {
    let mut words: Vec<String> = Vec::new();
    loop {
        let Ok(next) = timeout(silence, frames.read()).await else { return (words, false) };
        let Some(frame) = next else { return (words, true) };
        let word = frame.word();
        if !word.starts_with("frame ") && words.last() != Some(&word) {
            words.push(word);
        }
    }
}

/// A connection on which frames are written.
pub(crate) struct Frames {
    reader: OwnedReadHalf,
    writer: Option<OwnedWriteHalf>,
}

impl Frames {
    /// Sends the preface and settings that change nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address).await;
        frames.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        frames
    }

    /// Sends nothing.
    pub(crate) async fn silent(address: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        Self { reader, writer: Some(writer) }
    }

    /// Writes bytes; that the other side is gone is seen by reading.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let writer = self.writer.as_mut().unwrap();
        let _ = timeout(DEADLINE, writer.write_all(bytes)).await.expect("it takes the bytes");
    }

    /// Writes the bytes in a task of its own, and then leaves the connection open until the task is aborted.
    pub(crate) fn write_all(&mut self, bytes: Vec<u8>) -> AbortHandle {
        let mut writer = self.writer.take().unwrap();
        let writing = tokio::spawn(async move {
            let _ = writer.write_all(&bytes).await;
            std::future::pending::<()>().await;
        });
        writing.abort_handle()
    }

    /// The next frame; `None` at the end.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.reader.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.reader.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until one of these words comes; what came instead, if the connection ends or falls silent.
    pub(crate) async fn until(&mut self, wanted: &[&str]) -> Result<Frame, Vec<String>> {
        let mut seen = Vec::new();
        loop {
            let Ok(next) = timeout(DEADLINE, self.read()).await else {
                seen.push("silence".to_owned());
                return Err(seen);
            };
            let Some(frame) = next else { break };
            let word = frame.word();
            if wanted.contains(&word.as_str()) {
                return Ok(frame);
            }
            seen.push(word);
        }
        if wanted.contains(&"END") {
            return Ok(Frame { kind: GOAWAY, flags: 0, stream: 0, payload: vec![0; 8] });
        }
        Err(seen)
    }
}
