//! Is this a request that may go on: limits of the head, Host, method, Expect; and where it wants to go.

use std::borrow::Cow;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Version};

use crate::fault::{BadRequest, Fault};
use crate::proxy::headers;

/// What the head of a request may look like.
///
/// # Defaults
/// Those of the Heroku router: 8192 bytes for the request line and for each header line, 1000 headers,
/// request ids kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The longest request line in bytes, without its end. Beyond: 414.
    pub request_line_max: usize,
    /// The longest header line in bytes, name, colon and one space included. Beyond: 431.
    pub header_line_max: usize,
    /// The most headers. Beyond: 431.
    pub headers_max: usize,
    /// Whether a client's own `X-Request-Id` is kept, if it is one (20 to 200 characters of `[A-Za-z0-9+/=-]`).
    pub trusted_request_id: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { request_line_max: 8192, header_line_max: 8192, headers_max: 1000, trusted_request_id: true }
    }
}

/// The longest header name in bytes.
const NAME_MAX: usize = 1000;

/// Where a request wants to go.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: Box<str>,
    pub(crate) path: PathAndQuery,
}

/// Checks the head and finds its target. An absolute-form target replaces Host (RFC 9112 section 3.2.2).
pub(crate) fn inspect(head: &mut Parts, rules: &Rules) -> Result<Target, Fault> {
    let bad = |cause| Err(Fault::BadRequest(cause));
    let line = head.method.as_str().len() + uri_len(head) + " ".len() * 2 + "HTTP/1.1".len();
    if line > rules.request_line_max {
        return bad(BadRequest::RequestLine);
    }
    if head.headers.len() > rules.headers_max {
        return bad(BadRequest::HeaderTooLarge);
    }
    let too_long = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() > NAME_MAX || name.as_str().len() + 2 + value.len() > rules.header_line_max
    };
    if head.headers.iter().any(too_long) {
        return bad(BadRequest::HeaderTooLarge);
    }
    if head.method == Method::CONNECT {
        return bad(BadRequest::Method);
    }
    if !headers::is_only_chunked(&head.headers) {
        return bad(BadRequest::Header);
    }
    check_expect(head)?;
    check_upgrade(head)?;
    target(head)
}

fn uri_len(head: &Parts) -> usize {
    let uri = &head.uri;
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    scheme + authority + uri.path_and_query().map_or(0, |path| path.as_str().len())
}

/// `Expect: 100-continue` is answered by the server side; nothing else is expected here (RFC 9110 section 10.1.1).
fn check_expect(head: &Parts) -> Result<(), Fault> {
    for value in head.headers.get_all(header::EXPECT) {
        let known = value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !known {
            return Err(Fault::BadRequest(BadRequest::Expect));
        }
    }
    Ok(())
}

/// `Connection: upgrade` names a header that has to be there (RFC 9110 section 7.8).
fn check_upgrade(head: &Parts) -> Result<(), Fault> {
    if headers::asks_for_upgrade(&head.headers) && !head.headers.contains_key(header::UPGRADE) {
        return Err(Fault::BadRequest(BadRequest::Header));
    }
    Ok(())
}

fn target(head: &mut Parts) -> Result<Target, Fault> {
    const BAD: Fault = Fault::BadRequest(BadRequest::Header);
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    // One Host, even where there are two that agree (RFC 9112 section 3.2).
    if second.is_some() || (first.is_none() && head.version >= Version::HTTP_11) {
        return Err(BAD);
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if let Some(authority) = head.uri.authority() {
        let host: Box<str> = authority.as_str().rsplit('@').next().unwrap_or_default().into();
        let value = HeaderValue::from_str(&host).map_err(|_| BAD)?;
        head.headers.insert(header::HOST, value);
        return Ok(Target { host, path });
    }
    let host = first.ok_or(BAD)?.as_bytes();
    let host = String::from_utf8_lossy(host);
    match host {
        Cow::Borrowed(host) => Ok(Target { host: host.into(), path }),
        Cow::Owned(_) => Err(BAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn check(request: http::request::Builder) -> Result<Target, Fault> {
        let mut head = request.body(()).unwrap().into_parts().0;
        inspect(&mut head, &Rules::default())
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::get(uri).header("host", "a.test")
    }

    #[test]
    fn the_limits_are_those_of_the_contract_to_the_byte() {
        let path = |n: usize| format!("/{}", "p".repeat(n - 1));
        let line = "GET  HTTP/1.1".len();
        assert!(check(get(&path(8192 - line))).is_ok());
        let long = check(get(&path(8193 - line))).unwrap_err();
        assert_eq!(long, Fault::BadRequest(BadRequest::RequestLine));
        let value = |n: usize| "v".repeat(n - "x: ".len());
        assert!(check(get("/").header("x", value(8192))).is_ok());
        let long = check(get("/").header("x", value(8193))).unwrap_err();
        assert_eq!(long, Fault::BadRequest(BadRequest::HeaderTooLarge));
        assert!(check(get("/").header("n".repeat(1000), "")).is_ok());
        assert!(check(get("/").header("n".repeat(1001), "")).is_err());
        let many = |n: usize| (1..n).fold(get("/"), |request, i| request.header(format!("h{i}"), ""));
        assert!(check(many(1000)).is_ok());
        assert!(check(many(1001)).is_err());
    }

    #[test]
    fn host_is_there_once_and_an_absolute_target_comes_before_it() {
        assert!(check(Request::get("/")).is_err());
        assert!(check(get("/").header("host", "a.test")).is_err());
        assert!(check(Request::get("/").version(Version::HTTP_10)).is_err());
        let target = check(get("http://user@b.test:81/x?y")).unwrap();
        assert_eq!((&*target.host, target.path.as_str()), ("b.test:81", "/x?y"));
    }

    #[test]
    fn what_is_not_served_here_has_its_own_status() {
        for (request, status) in [
            (get("/").header("expect", "a miracle"), 417),
            (get("/").header("expect", "100 continue"), 417),
            (get("/").header("connection", "upgrade"), 400),
            (Request::builder().method("CONNECT").uri("a.test:443").header("host", "a.test"), 501),
        ] {
            assert_eq!(check(request).unwrap_err().status(), status);
        }
        assert!(check(get("/").header("expect", "")).is_ok());
        assert!(check(get("/").header("expect", "100-Continue")).is_ok());
    }
}
