//! gRPC, as far as a proxy has to know it: which requests are gRPC, how long they wait, and faults as it tells them.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, Version};

use crate::fault::Fault;

static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

/// What a gRPC request says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// How long its client waits for the answer, from the start.
    pub(crate) timeout: Option<Duration>,
}

/// The call that a request is. gRPC needs HTTP/2; what gRPC-Web sends over HTTP/1.1 is a request as any other.
pub(crate) fn call(head: &Parts) -> Option<Call> {
    let kind = head.headers.get(header::CONTENT_TYPE)?.as_bytes();
    let rest = kind.strip_prefix(b"application/grpc")?;
    let grpc = head.version == Version::HTTP_2 && matches!(rest.first(), None | Some(b'+' | b';'));
    grpc.then(|| Call { timeout: timeout(&head.headers) })
}

/// One to eight digits and a unit. What is no timeout is for the dyno to complain of.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(&TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// A fault as gRPC tells it: status 200 and everything else in the head, which is the end of the answer too.
/// `overdue`: the client's own timeout is what ended the request.
pub(crate) fn trailers_only(fault: Fault, overdue: bool) -> Response<()> {
    let status = if overdue { DEADLINE_EXCEEDED } else { status(fault) };
    let mut answer = Response::new(());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(message(fault)) {
        headers.insert("grpc-message", message);
    }
    headers.insert("x-router-fault", HeaderValue::from_static(fault.code()));
    answer
}

/// The mapping of gRPC's own document for statuses of HTTP.
fn status(fault: Fault) -> u8 {
    match fault.status() {
        400 | 431 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The code and what it means, with what is not printable ASCII, and `%`, in percent form.
fn message(fault: Fault) -> String {
    let mut text = String::new();
    for byte in format!("{}: {fault}", fault.code()).bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // A String takes whatever is written to it.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::fault::{Backlog, BadRequest};

    fn of(version: Version, lines: &[(&str, &str)]) -> Option<Call> {
        let mut request = Request::post("/shop.Cart/Add").version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        call(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn grpc_is_known_by_its_content_type_and_version() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(of(Version::HTTP_2, &[("content-type", kind)]).is_some(), grpc, "{kind}");
        }
        assert_eq!(of(Version::HTTP_11, &[("content-type", "application/grpc")]), None);
        assert_eq!(of(Version::HTTP_2, &[]), None);
    }

    #[test]
    fn a_timeout_is_one_to_eight_digits_and_a_unit() {
        let timeout = |text| {
            of(Version::HTTP_2, &[("content-type", "application/grpc"), ("grpc-timeout", text)])
                .unwrap()
                .timeout
        };
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout("1S"), Some(Duration::from_secs(1)));
        assert_eq!(timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(timeout("5u"), Some(Duration::from_micros(5)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", " 1S", "1 S"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_fault_is_told_in_the_head_of_a_good_answer() {
        let answer = trailers_only(Fault::Backlog(Backlog::MaxWait), false);
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["grpc-status"].to_str().unwrap()),
            (200, "14")
        );
        assert!(answer.headers()["grpc-message"].to_str().unwrap().starts_with("H11: "), "{answer:?}");
        assert_eq!(answer.headers()["x-router-fault"], "H11");
        assert_eq!(trailers_only(Fault::Backlog(Backlog::MaxWait), true).headers()["grpc-status"], "4");
        assert_eq!(
            trailers_only(Fault::BadRequest(BadRequest::Header), false).headers()["grpc-status"],
            "13"
        );
        for fault in Fault::ALL {
            assert!(trailers_only(*fault, false).headers().contains_key("grpc-message"), "{fault}");
        }
    }
}
