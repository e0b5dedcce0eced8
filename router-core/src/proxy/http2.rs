//! Step 2: a request that came over HTTP/2, put into the words of HTTP/1.1, which the rest of the way and most dynos
//! speak: Host, one Cookie line, one Content-Length, a path.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use crate::fault::{BadRequest, Fault};
use crate::proxy::wanted;

const BAD: Fault = Fault::BadRequest(BadRequest::Header);

/// Does nothing to a request that came over HTTP/1.
///
/// # Errors
/// [`Fault::BadRequest`]: the request is malformed (RFC 9113 section 8) in a way that its frames did not show.
pub(crate) fn plain(head: &mut Parts) -> Result<(), Fault> {
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let spaced = |value: &HeaderValue| {
        let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        edge(value.as_bytes().first()) || edge(value.as_bytes().last())
    };
    if head.headers.values().any(spaced) {
        return Err(BAD); // section 8.2.1
    }
    host(head)?;
    content_length(&mut head.headers)?;
    cookie(&mut head.headers);
    path(head)
}

/// `:authority` becomes Host; where there are both they have to agree (section 8.3.1).
fn host(head: &mut Parts) -> Result<(), Fault> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let Some(authority) = head.uri.authority() else {
        return if first.is_some() && second.is_none() { Ok(()) } else { Err(BAD) };
    };
    let authority = authority.as_str();
    let agrees = first.is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
        && second.is_none();
    if !agrees || authority.contains('@') {
        return Err(BAD);
    }
    let value = HeaderValue::from_str(authority).map_err(|_| BAD)?;
    head.headers.insert(header::HOST, value);
    Ok(())
}

/// Several that differ would frame the message in more than one way on the dyno's side.
fn content_length(headers: &mut HeaderMap) -> Result<(), Fault> {
    let Some(first) = headers.get(header::CONTENT_LENGTH).cloned() else { return Ok(()) };
    let good = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    if !good || headers.get_all(header::CONTENT_LENGTH).iter().any(|other| other != first) {
        return Err(BAD);
    }
    headers.insert(header::CONTENT_LENGTH, first);
    Ok(())
}

/// Clients send a cookie in crumbs, for the sake of compression; beyond HTTP/2 it is one line (section 8.2.3).
fn cookie(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    joined.into_iter().for_each(|line| {
        headers.insert(header::COOKIE, line);
    });
}

/// Leaves only the path of the target (section 8.3.1).
fn path(head: &mut Parts) -> Result<(), Fault> {
    if head.method == Method::CONNECT && !wanted::connects(head) {
        return Ok(()); // it is refused for what it is
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let whole = head.method == Method::OPTIONS && path.as_str() == "*";
    if !(whole || path.as_str().starts_with('/')) {
        return Err(BAD);
    }
    head.uri = Uri::from(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn plain_of(uri: &str, lines: &[(&str, &str)]) -> Result<Parts, Fault> {
        let mut request = Request::get(uri).version(Version::HTTP_2);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        plain(&mut head).map(|()| head)
    }

    #[test]
    fn host_and_authority_agree_or_the_request_is_refused() {
        let host = |uri, lines: &[_]| plain_of(uri, lines).map(|head| head.headers["host"].clone());
        assert_eq!(host("http://a.test:81/x", &[]).unwrap(), "a.test:81");
        assert_eq!(host("http://a.test/x", &[("host", "A.test")]).unwrap(), "a.test");
        assert_eq!(host("/x", &[("host", "a.test")]).unwrap(), "a.test");
        for (uri, lines) in [
            ("http://a.test/", &[("host", "b.test")][..]),
            ("http://a.test/", &[("host", "a.test:80")]),
            ("http://a.test/", &[("host", "a.test"), ("host", "a.test")]),
            ("http://user@a.test/", &[]),
            ("/", &[]),
            ("/", &[("host", "a.test"), ("host", "a.test")]),
        ] {
            assert_eq!(host(uri, lines), Err(BAD), "{uri} {lines:?}");
        }
    }

    #[test]
    fn crumbs_become_one_cookie_and_only_the_path_is_left_of_the_target() {
        let head =
            plain_of("http://a.test/x?y=1", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        let head = head.unwrap();
        assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert_eq!(head.uri, "/x?y=1");
        assert_eq!(plain_of("http://a.test/", &[("cookie", "a=1")]).unwrap().headers["cookie"], "a=1");
    }

    #[test]
    fn lengths_that_differ_and_values_with_space_around_them_are_refused() {
        let length = |lines: &[_]| plain_of("http://a.test/", lines);
        let twice = length(&[("content-length", "3"), ("content-length", "3")]).unwrap();
        assert_eq!(twice.headers.get_all("content-length").iter().count(), 1);
        for lines in [
            &[("content-length", "3"), ("content-length", "4")][..],
            &[("content-length", "3, 3")],
            &[("content-length", "+3")],
            &[("content-length", "")],
            &[("x", " v")],
            &[("x", "v\t")],
        ] {
            assert_eq!(length(lines).map(|_| ()), Err(BAD), "{lines:?}");
        }
    }
}
