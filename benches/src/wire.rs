//! The little HTTP/1.1 that the generator and its dynos speak: heads by `httparse`, bodies by length or in chunks.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};

use crate::printable::printable;

/// The number of a request, as the generator counts.
pub const NUMBER: &str = "x-bench-request";
/// The service time that the generator drew for it, in nanoseconds.
pub const SERVICE: &str = "x-bench-service";
/// A head longer than this is no head.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// So much of a request's id is kept.
const MAX_ID: usize = 64;

/// What a look at the bytes gave.
#[derive(Debug)]
pub enum Parsed<T> {
    /// More bytes are needed.
    Partial,
    /// It is whole.
    Whole(T),
    /// It is not HTTP.
    Broken,
}

/// What a dyno reads from a request.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Bytes of the head.
    pub len: usize,
    /// Whose request it is; `None` if the generator did not send it.
    pub number: Option<u32>,
    /// The start of its `X-Request-Id`, which proxies send on or make.
    pub id: Option<Box<str>>,
    /// How long to work on it, in nanoseconds, if it says so.
    pub service: Option<u64>,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// Whether only the head of the answer is asked for.
    pub head_only: bool,
    /// How its body ends.
    pub body: Body,
}

/// Reads a request head.
pub fn request(input: &[u8]) -> Parsed<RequestHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let len = match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Parsed::Broken,
    };
    let mut found = RequestHead {
        len,
        number: None,
        id: None,
        service: None,
        close: head.version == Some(0),
        head_only: head.method == Some("HEAD"),
        body: Body::Length(0),
    };
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case(NUMBER) {
            found.number = number(header.value);
        } else if header.name.eq_ignore_ascii_case(SERVICE) {
            found.service = number(header.value);
        } else if header.name.eq_ignore_ascii_case("x-request-id") {
            let id = &header.value[..header.value.len().min(MAX_ID)];
            found.id = Some(text(id).into());
        } else if header.name.eq_ignore_ascii_case("content-length") && found.body == Body::Length(0) {
            let Some(length) = number(header.value) else { return Parsed::Broken };
            found.body = Body::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            found.body = Body::Chunk { left: 0 };
        } else if header.name.eq_ignore_ascii_case("connection") {
            found.close = closes(header.value, found.close);
        }
    }
    Parsed::Whole(found)
}

/// What a client reads from an answer's head.
#[derive(Debug)]
pub struct AnswerHead {
    /// Bytes of the head.
    pub len: usize,
    /// The status; 1xx heads come before the real one.
    pub status: u16,
    /// `X-Router-Fault`, if the proxy says why it answered itself.
    pub fault: Option<String>,
    /// How the body ends.
    pub body: Body,
    /// Whether the connection ends with the answer.
    pub close: bool,
}

/// Reads an answer's head.
pub fn answer(input: &[u8]) -> Parsed<AnswerHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let len = match head.parse(input) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Parsed::Broken,
    };
    let status = head.code.unwrap_or(0);
    let bare = status < 200 || status == 204 || status == 304;
    let body = if bare { Body::Length(0) } else { Body::UntilClose };
    let mut found = AnswerHead { len, status, fault: None, body, close: head.version == Some(0) };
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") && found.body == Body::UntilClose {
            let Some(length) = number(header.value) else { return Parsed::Broken };
            found.body = Body::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") && !bare {
            found.body = Body::Chunk { left: 0 };
        } else if header.name.eq_ignore_ascii_case("connection") {
            found.close = closes(header.value, found.close);
        } else if header.name.eq_ignore_ascii_case("x-router-fault") {
            found.fault = Some(text(header.value));
        }
    }
    found.close |= matches!(found.body, Body::UntilClose);
    Parsed::Whole(found)
}

/// How much of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body {
    /// This many bytes.
    Length(u64),
    /// This many bytes of a chunk and its line end, then the next chunk.
    Chunk {
        /// Bytes of the chunk at hand, with its line end.
        left: u64,
    },
    /// The lines after the last chunk.
    Trailers,
    /// Whatever comes before the connection closes.
    UntilClose,
}

impl Body {
    /// Takes what it can from the front of `input` and says whether the body is whole.
    pub fn take(&mut self, input: &mut Vec<u8>) -> Parsed<()> {
        let mut at = 0;
        let result = loop {
            let rest = &input[at..];
            match self {
                Self::UntilClose => {
                    at = input.len();
                    break Parsed::Partial;
                }
                Self::Length(left) => {
                    at += eat(left, rest);
                    break if *left == 0 { Parsed::Whole(()) } else { Parsed::Partial };
                }
                Self::Chunk { left } if *left > 0 => {
                    if rest.is_empty() {
                        break Parsed::Partial;
                    }
                    at += eat(left, rest);
                }
                Self::Chunk { .. } => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((len, size))) => {
                        at += len;
                        *self = if size == 0 {
                            Self::Trailers
                        } else {
                            Self::Chunk { left: size.saturating_add(2) }
                        };
                    }
                    Ok(httparse::Status::Partial) => break Parsed::Partial,
                    Err(_) => break Parsed::Broken,
                },
                Self::Trailers => match rest.windows(2).position(|pair| pair == b"\r\n") {
                    Some(0) => {
                        at += 2;
                        break Parsed::Whole(());
                    }
                    Some(line) => at += line + 2,
                    None => break Parsed::Partial,
                },
            }
        };
        input.drain(..at);
        result
    }
}

/// What one read gave.
#[derive(Debug, PartialEq)]
pub enum Fill {
    /// Bytes.
    Some,
    /// Nothing now.
    Nothing,
    /// The other side has closed.
    End,
}

/// Reads once from a socket that does not block and appends to `input`.
pub fn fill(mut stream: &TcpStream, scratch: &mut [u8], input: &mut Vec<u8>) -> io::Result<Fill> {
    match stream.read(scratch) {
        Ok(0) => Ok(Fill::End),
        Ok(len) => {
            input.extend_from_slice(&scratch[..len]);
            Ok(Fill::Some)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(Fill::Nothing)
        }
        Err(error) => Err(error),
    }
}

/// Begins to connect. The socket can be written when that is done.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

fn eat(left: &mut u64, rest: &[u8]) -> usize {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
    *left -= len as u64;
    len
}

/// The value of a header, which may be shown.
pub(crate) fn text(value: &[u8]) -> String {
    printable(&String::from_utf8_lossy(value)).into_owned()
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn closes(value: &[u8], default: bool) -> bool {
    let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if names.clone().any(|name| name.eq_ignore_ascii_case(b"close")) {
        return true;
    }
    default && !names.any(|name| name.eq_ignore_ascii_case(b"keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<T>(parsed: Parsed<T>) -> T {
        match parsed {
            Parsed::Whole(whole) => whole,
            Parsed::Partial => panic!("partial"),
            Parsed::Broken => panic!("broken"),
        }
    }

    #[test]
    fn a_request_head_carries_number_and_service_time() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\nX-Bench-Request: 17\r\nX-Bench-Service: 5000\r\n\r\nGET";
        let head = whole(request(text));
        assert_eq!(
            (head.len, head.number, head.service, head.close),
            (text.len() - 3, Some(17), Some(5000), false)
        );
        assert!(matches!(request(&text[..30]), Parsed::Partial));
        assert!(matches!(request(b"\0\0\0\0"), Parsed::Broken));
        assert!(whole(request(b"GET / HTTP/1.0\r\n\r\n")).close);
        assert!(!whole(request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")).close);
        assert!(!whole(request(b"GET / HTTP/1.1\r\nConnection: te\r\n\r\n")).close);
        assert!(whole(request(b"GET / HTTP/1.1\r\nConnection: te, Close\r\n\r\n")).close);
        let head = whole(request(b"HEAD / HTTP/1.1\r\nX-Request-Id: a-1\r\nContent-Length: 7\r\n\r\n"));
        assert_eq!((head.id.as_deref(), head.head_only, head.body), (Some("a-1"), true, Body::Length(7)));
        let head = whole(request(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert_eq!((head.number, head.service, head.body), (None, None, Body::Chunk { left: 0 }));
    }

    #[test]
    fn an_answer_head_carries_status_fault_and_length() {
        let head = whole(answer(
            b"HTTP/1.1 503 x\r\nX-Router-Fault: H11\r\nContent-Length: 4\r\nConnection: close\r\n\r\n",
        ));
        assert_eq!((head.status, head.fault.as_deref(), head.close), (503, Some("H11"), true));
        assert_eq!(head.body, Body::Length(4));
        assert_eq!(whole(answer(b"HTTP/1.1 204 x\r\n\r\n")).body, Body::Length(0));
        assert!(whole(answer(b"HTTP/1.1 200 x\r\n\r\n")).close);
        let old = whole(answer(b"HTTP/1.0 200 x\r\ncontent-length: 1\r\n\r\n"));
        assert_eq!((old.close, old.body), (true, Body::Length(1)));
        assert!(!whole(answer(b"HTTP/1.1 200 x\r\ncontent-length: 1\r\n\r\n")).close);
        for status in [100, 204, 304] {
            let bare =
                format!("HTTP/1.1 {status} x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n");
            assert_eq!(whole(answer(bare.as_bytes())).body, Body::Length(0), "{status}");
        }
    }

    #[test]
    fn chunks_count_before_a_length_in_whatever_order_they_are_named() {
        let headers = ["Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n"];
        for [first, second] in [headers, [headers[1], headers[0]]] {
            let text = format!("{first}{second}\r\n");
            let answered = whole(answer(format!("HTTP/1.1 200 x\r\n{text}").as_bytes()));
            let asked = whole(request(format!("PUT / HTTP/1.1\r\n{text}").as_bytes()));
            assert_eq!(
                (answered.body, asked.body),
                (Body::Chunk { left: 0 }, Body::Chunk { left: 0 }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_too_long_or_no_number_is_no_head() {
        let long = |len: usize| format!("GET / HTTP/1.1\r\nx-a: {}", "a".repeat(len));
        assert!(matches!(request(long(MAX_HEAD - 100).as_bytes()), Parsed::Partial));
        assert!(matches!(request(long(MAX_HEAD).as_bytes()), Parsed::Broken));
        assert!(matches!(answer(long(MAX_HEAD).replace("GET /", "HTTP/1.1 200").as_bytes()), Parsed::Broken));
        assert!(matches!(request(b"PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n"), Parsed::Broken));
        assert!(matches!(answer(b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n"), Parsed::Broken));
        let id = "i".repeat(MAX_ID + 1);
        let head = whole(request(format!("GET / HTTP/1.1\r\nX-Request-Id: {id}\r\n\r\n").as_bytes()));
        assert_eq!(head.id.map(|id| id.len()), Some(MAX_ID));
    }

    #[test]
    fn a_body_ends_where_its_length_says() {
        let mut body = Body::Length(3);
        let mut input = b"ab".to_vec();
        assert!(matches!(body.take(&mut input), Parsed::Partial) && input.is_empty());
        input.extend_from_slice(b"cHTTP");
        assert!(matches!(body.take(&mut input), Parsed::Whole(())));
        assert_eq!(input, b"HTTP");
        let mut body = Body::UntilClose;
        assert!(matches!(body.take(&mut input), Parsed::Partial) && input.is_empty());
        let mut broken = b"xyz\r\n".to_vec();
        assert!(matches!(Body::Chunk { left: 0 }.take(&mut broken), Parsed::Broken));
    }

    #[test]
    fn what_others_call_things_does_not_speak_to_a_terminal() {
        let head = whole(request("GET / HTTP/1.1\r\nX-Request-Id: a\u{9b}2J\r\n\r\n".as_bytes()));
        assert_eq!(head.id.as_deref(), Some(r"a\u{9b}2J"));
        let head = whole(answer("HTTP/1.1 503 x\r\nX-Router-Fault: \u{9b}2J\r\n\r\n".as_bytes()));
        assert_eq!(head.fault.as_deref(), Some(r"\u{9b}2J"));
    }

    #[test]
    fn a_chunked_body_ends_wherever_it_is_cut() {
        let text = b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nx-a: 1\r\n\r\nHTTP";
        for cut in 0..text.len() - 4 {
            let mut body = Body::Chunk { left: 0 };
            let mut input = text[..cut].to_vec();
            assert!(matches!(body.take(&mut input), Parsed::Partial), "cut at {cut}");
            input.extend_from_slice(&text[cut..]);
            assert!(matches!(body.take(&mut input), Parsed::Whole(())), "cut at {cut}");
            assert_eq!(input, b"HTTP");
        }
    }
}
