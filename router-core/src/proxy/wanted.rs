//! What a client would have its connection, or its stream, become: the protocols of Upgrade (RFC 9110 section 7.8), or
//! extended CONNECT (RFC 8441) in the words of Upgrade, which is what dynos know.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use hyper::ext::Protocol;

use crate::proxy::headers;

/// Another protocol.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// As the dyno hears of them.
    pub(crate) protocols: HeaderValue,
    /// It is a stream of HTTP/2: nothing but the other protocol will do, and 200 means that it is spoken.
    pub(crate) connects: bool,
}

impl Wanted {
    /// What a request asks for, if it does. Extended CONNECT for a WebSocket becomes GET; for anything else it stays
    /// what it is, and is refused for it.
    pub(crate) fn of(head: &mut Parts) -> Option<Self> {
        if !connects(head) {
            let protocols = headers::upgrade(head)?;
            return Some(Self { protocols, connects: false });
        }
        head.method = Method::GET;
        Some(Self { protocols: HeaderValue::from_static("websocket"), connects: true })
    }

    /// Whether this is no answer to it: to CONNECT each 2xx says that the other protocol begins.
    pub(crate) fn is_missed_by(&self, status: StatusCode) -> bool {
        self.connects && status.is_success()
    }

    /// Tells the client that it has come true.
    pub(crate) fn comes_true(
        &self,
        status: &mut StatusCode,
        headers: &mut HeaderMap,
        protocols: HeaderValue,
    ) {
        if self.connects {
            *status = StatusCode::OK;
        } else {
            headers::put_upgrade(headers, protocols);
        }
    }
}

/// Whether it is extended CONNECT, for a protocol that has a form in HTTP/1.1 that is known here.
pub(crate) fn connects(head: &Parts) -> bool {
    head.version == Version::HTTP_2
        && head.method == Method::CONNECT
        && head.extensions.get::<Protocol>().is_some_and(|to| to.as_str().eq_ignore_ascii_case("websocket"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: Method, version: Version, to: Option<&'static str>) -> Parts {
        let mut request = Request::builder().method(method).uri("http://a.test/x").version(version);
        if let Some(to) = to {
            request = request.extension(Protocol::from_static(to));
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn extended_connect_for_a_websocket_becomes_get_and_nothing_else_does() {
        let mut good = head(Method::CONNECT, Version::HTTP_2, Some("websocket"));
        let wanted = Wanted::of(&mut good).unwrap();
        assert!(wanted.connects && wanted.protocols == "websocket" && good.method == Method::GET);
        assert!(wanted.is_missed_by(StatusCode::NO_CONTENT) && !wanted.is_missed_by(StatusCode::FORBIDDEN));
        for (method, version, to) in [
            (Method::CONNECT, Version::HTTP_2, None),
            (Method::CONNECT, Version::HTTP_2, Some("connect-udp")),
            (Method::CONNECT, Version::HTTP_11, Some("websocket")),
            (Method::GET, Version::HTTP_2, Some("websocket")),
        ] {
            let mut other = head(method.clone(), version, to);
            assert!(
                Wanted::of(&mut other).is_none() && other.method == method,
                "{method} {version:?} {to:?}"
            );
        }
    }
}
