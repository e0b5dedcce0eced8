//! A dyno to try things with: an HTTP/1.1 server on purpose without threads, so it does one request at a time.
//!
//! A request takes 10 ms; `GET /?ms=200` takes 200. The answer says which dyno gave it, how long it worked, and how
//! long the router says the request had waited in line. It listens on 127.0.0.1:`$PORT`, is called `$DYNO`, keeps
//! connections alive (and then, like many real servers of its kind, sees to nobody else), and ends on SIGTERM.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

/// The work of a request that does not ask for another.
const WORK: Duration = Duration::from_millis(10);
/// The most work that a request may ask for.
const WORK_MAX: Duration = Duration::from_secs(60);
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(60);
/// The most bytes of a request's head.
const HEAD_MAX: u64 = 64 * 1024;
/// The most bytes of a request's body, which is read and thrown away.
const BODY_MAX: u64 = 64 * 1024 * 1024;

fn main() -> ExitCode {
    let name = env::var("DYNO").unwrap_or_else(|_| "hello-dyno".to_owned());
    let written = env::var("PORT").unwrap_or_else(|_| "5000".to_owned());
    let Ok(port) = written.parse::<u16>() else {
        eprintln!("PORT={written} is not a port: a number from 0 to 65535");
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(("127.0.0.1", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("127.0.0.1:{port} cannot be listened on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let port = listener.local_addr().map_or(port, |address| address.port());
    eprintln!("{name} listens on 127.0.0.1:{port} and does one request at a time");
    let mut dyno = Dyno { name, served: 0 };
    loop {
        match listener.accept() {
            // A connection that breaks is its client's loss; the next one is served.
            Ok((stream, _)) => drop(dyno.serve(&stream)),
            // Out of file descriptors, say: it may pass, but not by asking again at once.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

struct Dyno {
    name: String,
    served: u64,
}

impl Dyno {
    /// One connection, one request after the other, until either side has had enough.
    fn serve(&mut self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(IDLE))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(read) = read_head(&mut reader)? {
            let (answer, keep) = match read.and_then(|head| Request::parse(&head)) {
                Ok(request) => {
                    if request.expects && request.body > 0 {
                        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                    }
                    let sent = io::copy(&mut reader.by_ref().take(request.body), &mut io::sink())?;
                    if sent < request.body {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    (self.answer(&request), request.keep_alive)
                }
                Err(refusal) => (refusal.answer(), false),
            };
            (&*stream).write_all(answer.as_bytes())?;
            if !keep {
                return close(stream, reader);
            }
        }
        Ok(())
    }

    /// Does the work and says so.
    fn answer(&mut self, request: &Request) -> String {
        let worked = work(request.work);
        self.served += 1;
        let waited = match &request.queue_wait {
            Some(wait) => format!("{wait} ms in line (X-Queue-Wait)"),
            None => "unknown: there was no X-Queue-Wait, so no router".to_owned(),
        };
        let body = format!(
            "Hello from {}, request {} of this dyno.\n\nworked      {} ms\nwaited      {waited}\nrequest id  {}\n",
            self.name,
            self.served,
            worked.as_millis(),
            request.request_id.as_deref().unwrap_or("none: there was no X-Request-Id"),
        );
        let connection = if request.keep_alive { "keep-alive" } else { "close" };
        answer("200 OK", connection, &body, request.head_only)
    }
}

fn answer(status: &str, connection: &str, body: &str, head_only: bool) -> String {
    let length = body.len();
    let body = if head_only { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
}

/// Closes after an answer. What the client has said beyond it is read first, in bounds: closing on unread bytes would
/// reset the connection, and the client might lose the answer.
fn close(stream: &TcpStream, reader: impl Read) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    io::copy(&mut reader.take(1024 * 1024), &mut io::sink()).map(drop)
}

/// Stands for the work of a real app: nothing else is done meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "std alone: this server must build in a moment on a fresh clone"
)]
fn work(time: Duration) -> Duration {
    let begun = Instant::now();
    thread::sleep(time);
    begun.elapsed()
}

/// A request as far as this server cares.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    head_only: bool,
    work: Duration,
    keep_alive: bool,
    expects: bool,
    body: u64,
    queue_wait: Option<String>,
    request_id: Option<String>,
}

/// A request that is not served, with status and reason.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(&'static str, &'static str);

impl Refusal {
    fn answer(&self) -> String {
        answer(self.0, "close", &format!("{}\n", self.1), false)
    }
}

const BAD: &str = "400 Bad Request";

/// The lines of the next head, nothing when the client has closed, or why the head is refused.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Result<Vec<String>, Refusal>>> {
    let mut reader = reader.take(HEAD_MAX);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            let too_long = Refusal("431 Request Header Fields Too Large", "the head is longer than 64 KiB");
            return match (reader.limit(), read) {
                (0, _) => Ok(Some(Err(too_long))),
                (_, 0) if lines.is_empty() => Ok(None),
                _ => Err(ErrorKind::UnexpectedEof.into()),
            };
        }
        let Ok(line) = String::from_utf8(line) else {
            return Ok(Some(Err(Refusal(BAD, "the head is not UTF-8"))));
        };
        match line.trim_end_matches(['\r', '\n']) {
            // Some clients end a body with an empty line too many.
            "" if lines.is_empty() => {}
            "" => return Ok(Some(Ok(lines))),
            line => lines.push(line.to_owned()),
        }
    }
}

impl Request {
    fn parse(head: &[String]) -> Result<Self, Refusal> {
        let mut lines = head.iter();
        let mut words = lines.next().map_or("", String::as_str).split(' ');
        let (method, target, version) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(method), Some(target), Some(version), None) if !method.is_empty() => {
                (method, target, version)
            }
            _ => return Err(Refusal(BAD, "the first line is not METHOD TARGET VERSION")),
        };
        let keep_alive = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => {
                return Err(Refusal(
                    "505 HTTP Version Not Supported",
                    "this server speaks HTTP/1.0 and HTTP/1.1",
                ));
            }
        };
        let mut request = Self {
            head_only: method == "HEAD",
            work: asked_work(target)?,
            keep_alive,
            expects: false,
            body: 0,
            queue_wait: None,
            request_id: None,
        };
        let mut length = None;
        for line in lines {
            match line.split_once(':') {
                Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                    request.header(name, value.trim(), &mut length)?;
                }
                _ => return Err(Refusal(BAD, "a header line is not NAME: VALUE")),
            }
        }
        request.body = length.unwrap_or(0);
        Ok(request)
    }

    fn header(&mut self, name: &str, value: &str, length: &mut Option<u64>) -> Result<(), Refusal> {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let bytes = value.parse::<u64>().ok().filter(|_| digits);
                let bytes = bytes.ok_or(Refusal(BAD, "Content-Length is not a number"))?;
                if bytes > BODY_MAX {
                    return Err(Refusal("413 Content Too Large", "the body is longer than 64 MiB"));
                }
                if length.replace(bytes).is_some_and(|before| before != bytes) {
                    return Err(Refusal(BAD, "there are two different Content-Length"));
                }
            }
            "transfer-encoding" => {
                return Err(Refusal(
                    "411 Length Required",
                    "this server takes a body with Content-Length only",
                ));
            }
            "connection" if has_word(value, "close") => self.keep_alive = false,
            "connection" if has_word(value, "keep-alive") => self.keep_alive = true,
            "expect" => self.expects = value.eq_ignore_ascii_case("100-continue"),
            "x-queue-wait" => self.queue_wait = Some(shown(value)),
            "x-request-id" => self.request_id = Some(shown(value)),
            _ => {}
        }
        Ok(())
    }
}

fn has_word(list: &str, word: &str) -> bool {
    list.split(',').any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// The `ms` of the query, at most a minute.
fn asked_work(target: &str) -> Result<Duration, Refusal> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let Some(ms) = query.split('&').find_map(|pair| pair.strip_prefix("ms=")) else {
        return Ok(WORK);
    };
    let ms = ms.parse().map_err(|_| Refusal(BAD, "ms is not a number of milliseconds, as in /?ms=200"))?;
    Ok(Duration::from_millis(ms).min(WORK_MAX))
}

/// What came from outside, short enough to be shown and without control characters.
fn shown(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, Refusal> {
        read_head(&mut text.as_bytes()).unwrap().unwrap().and_then(|head| Request::parse(&head))
    }

    fn status(text: &str) -> &'static str {
        parse(text).unwrap_err().0
    }

    #[test]
    fn a_request_says_how_long_it_works_and_how_it_goes_on() {
        let request = parse("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((request.work, request.keep_alive, request.body), (WORK, true, 0));
        let request = parse("HEAD /x?a=b&ms=200 HTTP/1.0\r\nCONTENT-LENGTH: 3\r\n\r\n").unwrap();
        assert_eq!((request.work, request.keep_alive, request.body), (Duration::from_millis(200), false, 3));
        assert!(request.head_only);
        assert!(parse("GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n").unwrap().keep_alive);
        assert!(
            !parse("GET / HTTP/1.1\nConnection: close\n\n").unwrap().keep_alive,
            "bare line feeds do as well"
        );
    }

    #[test]
    fn what_the_router_says_is_kept_short_and_without_control_characters() {
        let long = format!(
            "GET / HTTP/1.1\r\nX-Queue-Wait: 12\r\nX-Request-Id: a\u{1b}[2J{}\r\n\r\n",
            "b".repeat(500)
        );
        let request = parse(&long).unwrap();
        assert_eq!(request.queue_wait.as_deref(), Some("12"));
        assert_eq!(request.request_id, Some(format!("a[2J{}", "b".repeat(196))));
    }

    #[test]
    fn asked_work_is_bounded() {
        assert_eq!(asked_work("/?ms=0"), Ok(Duration::ZERO));
        assert_eq!(asked_work("/?ms=18446744073709551615"), Ok(WORK_MAX));
        assert!(
            asked_work("/?ms=-1").is_err() && asked_work("/?ms=").is_err() && asked_work("/?ms=1e9").is_err()
        );
        assert_eq!(asked_work("/ms=5?xms=7"), Ok(WORK));
    }

    #[test]
    fn bad_input_is_refused_with_a_reason() {
        for bad in [
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nspace : x\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        ] {
            assert_eq!(status(bad), BAD, "{bad:?}");
        }
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), "505 HTTP Version Not Supported");
        assert_eq!(status("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), "411 Length Required");
        assert_eq!(status("PUT / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"), "413 Content Too Large");
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000));
        assert_eq!(status(&endless), "431 Request Header Fields Too Large");
        let refused = read_head(&mut &b"GET /\xff HTTP/1.1\r\n\r\n"[..]).unwrap().unwrap();
        assert_eq!(refused.unwrap_err().0, BAD);
    }

    #[test]
    fn a_client_that_closes_between_requests_is_done_and_within_one_is_an_error() {
        assert!(read_head(&mut &b""[..]).unwrap().is_none());
        assert!(read_head(&mut &b"\r\n"[..]).unwrap().is_none());
        assert!(read_head(&mut &b"GET / HT"[..]).is_err());
        assert!(read_head(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
    }

    /// What a client gets that sends these bytes and then listens.
    fn told(bytes: &[u8]) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let _ = Dyno { name: "web.7".to_owned(), served: 0 }.serve(&stream);
        drop(stream);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn one_connection_serves_requests_in_turn() {
        let text = told(
            b"POST /?ms=1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /?ms=2 HTTP/1.1\r\nX-Queue-Wait: 31\r\n\r\n\
              HEAD /?ms=0 HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        );
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
        assert_eq!(text.matches("Hello from web.7").count(), 2, "HEAD has no body: {text}");
        assert!(text.contains("request 2 of this dyno") && text.contains("31 ms in line"), "{text}");
    }

    #[test]
    fn a_refused_client_hears_why_even_if_it_has_said_more() {
        let mut bytes = b"nonsense\r\n\r\n".to_vec();
        bytes.resize(200_000, b'x');
        assert!(told(&bytes).starts_with("HTTP/1.1 400 Bad Request\r\n"));
    }
}
