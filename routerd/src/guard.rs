//! A guard over the bytes of an HTTP/1.1 client: it follows the framing itself and lets nothing pass that two readers
//! could read in two ways.
//!
//! hyper, which parses what passes, is lenient in places (a bare LF ends a line, a Content-Length beside
//! Transfer-Encoding is dropped) and hides what it saw. The guard stands below it, does no I/O, and sees each byte
//! once: a line at a time of heads and chunks; bodies are only counted. So the verdict is the same however the bytes
//! are cut, and a line that comes whole is judged where it lies.
//!
//! *State:*
//!
//! | state | goes on with |
//! |---|---|
//! | `Between` | one empty line, or a request line → `Head` |
//! | `Head` | a header, or the empty line → `Data`, `Size`, or the end of the request |
//! | `Data` | the last byte → end |
//! | `Size` | the size of a chunk → `Chunk`, or of the last one → `Trailers` |
//! | `Chunk` | data and CRLF → `Size` |
//! | `Trailers` | the empty line → end |
//! | end | `Between`, or `Asked` if the request asks for another protocol |
//! | `Asked` | nothing passes until [`Guard::decided`] → `Between` or `Open` |
//! | `Open` | everything passes: the bytes are no HTTP any more |
//! | `Refused` | nothing passes |
//!
//! *Invariants:* the last byte of a head passes only if the whole head is good; the last byte of a chunked body only if
//! all its chunks are.

mod line;

use memchr::memchr;
use router_core::fault::BadRequest;

pub use line::is_host;

/// The longest line with the size of a chunk and its extensions, in bytes.
const CHUNK_LINE_MAX: usize = 4096;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub struct Guard {
    at: At,
    /// What has come of a line that is not whole.
    part: Vec<u8>,
    /// The longest head, in bytes.
    head_max: usize,
    /// What the present request has said of itself.
    head: Head,
    /// Requests whose heads have passed and that are not answered.
    unanswered: u32,
}

/// Where in the stream of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Between {
        empty_line: bool,
    },
    Head,
    Data {
        left: u64,
    },
    Size,
    Chunk {
        left: u64,
    },
    /// CR and LF behind the data of a chunk: which of them is next.
    ChunkEnd {
        next: u8,
    },
    Trailers,
    Asked,
    Open,
    Refused(Refusal),
}

/// Why nothing passes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub cause: BadRequest,
    /// It is wrong in the body of a request whose head has passed.
    pub in_body: bool,
}

/// What matters of a head for what follows it.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// Bytes of it, or of its trailers, so far.
    size: usize,
    http_1_1: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connection_upgrade: bool,
}

impl Guard {
    /// Takes the size of the longest head that may pass, in bytes: beyond it, 414 in the request line and 431 behind
    /// it. Trailers have the same bound.
    pub fn new(head_max: usize) -> Self {
        let (at, head) = (At::Between { empty_line: false }, Head::default());
        Self { at, part: Vec::new(), head_max, head, unanswered: 0 }
    }

    /// Lets everything pass: the bytes are no HTTP/1.1.
    pub fn open() -> Self {
        Self { at: At::Open, ..Self::new(0) }
    }

    /// How many of the next bytes may pass. If it is not all of them, the rest is refused ([`Guard::refusal`]) and the
    /// connection is to be closed, or waits for a decision ([`Guard::is_asked`]) and is to be given again.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            let step = match self.at {
                At::Open => Ok(rest.len()),
                At::Asked | At::Refused(_) => return passed,
                At::Data { left } => Ok(self.data(rest, left)),
                At::Chunk { left } => Ok(self.chunk(rest, left)),
                At::ChunkEnd { next } => self.chunk_end(rest[0], next),
                At::Between { .. } | At::Head | At::Size | At::Trailers => self.line(rest),
            };
            match step {
                Ok(step) => passed += step,
                Err(cause) => {
                    let in_body = !matches!(self.at, At::Between { .. } | At::Head);
                    self.at = At::Refused(Refusal { cause, in_body });
                    self.part = Vec::new();
                    return passed;
                }
            }
        }
        passed
    }

    /// Why nothing passes any more, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.at {
            At::Refused(refusal) => Some(refusal),
            At::Between { .. }
            | At::Head
            | At::Data { .. }
            | At::Size
            | At::Chunk { .. }
            | At::ChunkEnd { .. }
            | At::Trailers
            | At::Asked
            | At::Open => None,
        }
    }

    /// Whether a request has come that asks for another protocol: what follows it is not known before it is answered.
    pub fn is_asked(&self) -> bool {
        self.at == At::Asked
    }

    /// The first request that is not answered is answered. `switched`: its connection speaks another protocol from now
    /// on.
    pub fn decided(&mut self, switched: bool) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if switched {
            self.at = At::Open;
        } else if self.unanswered > 0 {
            // It was not the last one: what that one asks for is still open.
        } else if self.is_asked() {
            self.at = At::Between { empty_line: false };
        } else {
            // Answered before its body has come: its end is the end of a request like any other.
            self.head.upgrade = false;
        }
    }

    /// Whether the last request, and nothing behind it, has come to its end.
    pub fn is_between(&self) -> bool {
        self.at == At::Between { empty_line: false } && self.part.is_empty()
    }

    /// Whether every request is answered, and nothing has come behind the last.
    pub fn is_at_rest(&self) -> bool {
        self.unanswered == 0 && self.is_between()
    }

    /// Whether the body of the last request is refused and all requests are answered.
    pub fn is_over(&self) -> bool {
        self.unanswered == 0 && self.refusal().is_some_and(|refusal| refusal.in_body)
    }

    fn data(&mut self, rest: &[u8], left: u64) -> usize {
        let step = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        match left - step as u64 {
            0 => self.end(),
            left => self.at = At::Data { left },
        }
        step
    }

    fn chunk(&mut self, rest: &[u8], left: u64) -> usize {
        let step = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        self.at = match left - step as u64 {
            0 => At::ChunkEnd { next: b'\r' },
            left => At::Chunk { left },
        };
        step
    }

    fn chunk_end(&mut self, byte: u8, next: u8) -> Result<usize, BadRequest> {
        if byte != next {
            return Err(BadRequest::Chunk);
        }
        self.at = if byte == b'\r' { At::ChunkEnd { next: b'\n' } } else { At::Size };
        Ok(1)
    }

    /// Takes a line, or what has come of it.
    fn line(&mut self, rest: &[u8]) -> Result<usize, BadRequest> {
        let end = memchr(b'\n', rest);
        let step = end.map_or(rest.len(), |end| end + 1);
        self.fits(self.part.len() + step)?;
        if end.is_none() {
            self.part.extend_from_slice(rest);
        } else if self.part.is_empty() {
            self.whole_line(&rest[..step])?;
        } else {
            // Not kept for the next time: an idle connection holds nothing.
            let mut line = std::mem::take(&mut self.part);
            line.extend_from_slice(&rest[..step]);
            self.whole_line(&line)?;
        }
        Ok(step)
    }

    /// Whether a line may be that long.
    fn fits(&self, line: usize) -> Result<(), BadRequest> {
        let room = self.head_max.saturating_sub(self.head.size);
        match self.at {
            At::Between { .. } if line > room => Err(BadRequest::RequestLine),
            At::Head if line > room => Err(BadRequest::HeaderTooLarge),
            At::Trailers if line > room => Err(BadRequest::Chunk),
            At::Size if line > CHUNK_LINE_MAX => Err(BadRequest::Chunk),
            At::Between { .. }
            | At::Head
            | At::Trailers
            | At::Size
            | At::Data { .. }
            | At::Chunk { .. }
            | At::ChunkEnd { .. }
            | At::Asked
            | At::Open
            | At::Refused(_) => Ok(()),
        }
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        self.head.size += line.len();
        let in_head = matches!(self.at, At::Between { .. } | At::Head);
        let bad = if in_head { BadRequest::Header } else { BadRequest::Chunk };
        // A bare LF is no end of a line here (RFC 9112 section 2.2 allows, and does not ask, to take it for one).
        let line = line.strip_suffix(b"\r\n").ok_or(bad)?;
        match self.at {
            At::Between { empty_line } => self.begin(line, empty_line),
            At::Head => self.header(line),
            At::Size => {
                let left = line::chunk_size(line).ok_or(bad)?;
                self.head.size = 0;
                self.at = if left == 0 { At::Trailers } else { At::Chunk { left } };
                Ok(())
            }
            At::Trailers if line.is_empty() => {
                self.end();
                Ok(())
            }
            At::Trailers if line::is_trailer(line) => Ok(()),
            At::Trailers
            | At::Data { .. }
            | At::Chunk { .. }
            | At::ChunkEnd { .. }
            | At::Asked
            | At::Open
            | At::Refused(_) => Err(bad),
        }
    }

    fn begin(&mut self, line: &[u8], empty_line: bool) -> Result<(), BadRequest> {
        if line.is_empty() && !empty_line {
            // RFC 9112 section 2.2: "at least one".
            self.at = At::Between { empty_line: true };
            return Ok(());
        }
        self.head.http_1_1 = line::request_line(line)?;
        self.at = At::Head;
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), BadRequest> {
        if line.is_empty() {
            return self.head_ends();
        }
        let (name, value) = line::field(line).ok_or(BadRequest::Header)?;
        let head = &mut self.head;
        match line::known(name).ok_or(BadRequest::Header)? {
            line::Known::ContentLength => {
                let length = line::content_length(value).ok_or(BadRequest::Framing)?;
                if head.length.replace(length).is_some() {
                    return Err(BadRequest::Framing);
                }
            }
            line::Known::TransferEncoding => {
                // RFC 9112 section 6.1: there was none before HTTP/1.1.
                if head.chunked || !head.http_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadRequest::Framing);
                }
                head.chunked = true;
            }
            line::Known::Host => {
                if head.host || !is_host(value) {
                    return Err(BadRequest::Header);
                }
                head.host = true;
            }
            line::Known::Upgrade => head.upgrade = true,
            line::Known::Connection => {
                let mut names = value.split(|byte| *byte == b',');
                head.connection_upgrade |=
                    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
            }
            line::Known::Other => {}
        }
        Ok(())
    }

    fn head_ends(&mut self) -> Result<(), BadRequest> {
        let head = &mut self.head;
        if head.http_1_1 && !head.host {
            return Err(BadRequest::Header);
        }
        if head.chunked && head.length.is_some() {
            return Err(BadRequest::Framing);
        }
        head.upgrade &= head.http_1_1 && head.connection_upgrade;
        self.unanswered = self.unanswered.saturating_add(1);
        match head.length {
            _ if head.chunked => self.at = At::Size,
            Some(left) if left > 0 => self.at = At::Data { left },
            Some(_) | None => self.end(),
        }
        Ok(())
    }

    /// The end of a request.
    fn end(&mut self) {
        self.at = if self.head.upgrade { At::Asked } else { At::Between { empty_line: false } };
        self.head = Head::default();
    }
}

#[cfg(test)]
mod tests;
