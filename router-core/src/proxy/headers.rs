//! Headers both ways: hop-by-hop away, request id, queue headers, Via.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::proxy::origin::{self, Origin};
use crate::proxy::request::Client;

/// Our name in Via (RFC 9110 section 7.6.3).
const VIA: &str = "1.1 routerd";

/// Headers that belong to one connection (RFC 9110 section 7.6.1), besides those that Connection names.
/// Transfer-Encoding is among them: hyper frames each side anew.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
static X_QUEUE_WAIT: HeaderName = HeaderName::from_static("x-queue-wait");
static X_QUEUE_DEPTH: HeaderName = HeaderName::from_static("x-queue-depth");

/// Takes the headers of one connection out, including those that Connection names (RFC 9110 section 7.6.1).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            // What frames the message, or says who it is for, is not the client's to strip.
            .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The request's headers as any dyno gets them; what depends on the lease is added by [`dispatched`].
pub(crate) fn to_dyno(
    headers: &mut HeaderMap,
    client: &Client,
    received: Duration,
    trusted_request_id: bool,
) -> Identity {
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    let request_id = if trusted_request_id { request_id(headers) } else { new_request_id() };
    headers.insert(X_REQUEST_ID.clone(), request_id.clone());
    let origin = origin::tell(headers, client);
    let millis = u64::try_from(received.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_REQUEST_START.clone(), HeaderValue::from(millis));
    append_via(headers);
    Identity { request_id, origin }
}

/// What a request is known by.
pub(crate) struct Identity {
    pub(crate) request_id: HeaderValue,
    pub(crate) origin: Origin,
}

/// What the dyno is told of the line: the wait in ms and the number of requests still in it.
pub(crate) fn dispatched(headers: &mut HeaderMap, wait: Duration, depth: u64) {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_QUEUE_WAIT.clone(), HeaderValue::from(millis));
    headers.insert(X_QUEUE_DEPTH.clone(), HeaderValue::from(depth));
}

/// Whether a body comes as it is or in chunks and in no other coding: hyper undoes only chunks, and the name of what is
/// below them ends here with its header.
pub(crate) fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next();
    codings.next().is_none()
        && first.is_none_or(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// The answer's headers as the client gets them.
pub(crate) fn to_client(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The chunks count (RFC 9112 section 6.3); a length beside them would frame the client's side wrongly.
        headers.remove(header::CONTENT_LENGTH);
    } else if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        // Several that agree become one.
        headers.insert(header::CONTENT_LENGTH, length);
    }
    remove_hop_by_hop(headers);
    append_via(headers);
}

/// A client's id of 20 to 200 characters of `[A-Za-z0-9+/=-]` is kept; anything else gets a new one, a random UUID.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-');
    let mut given = headers.get_all(&X_REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(id), None) if (20..=200).contains(&id.len()) && id.as_bytes().iter().all(known) => id.clone(),
        _ => new_request_id(),
    }
}

/// A UUID of version 4 (RFC 9562 section 5.4).
fn new_request_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = (fastrand::u128(..) & !(0xF << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let mut text = [b'-'; 36];
    let mut at = 0;
    for nibble in 0..32 {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        text[at] = HEX[(bits >> (124 - nibble * 4)) as usize & 0xF];
        at += 1;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn append_via(headers: &mut HeaderMap) {
    static OURS: HeaderValue = HeaderValue::from_static(VIA);
    if !headers.contains_key(header::VIA) {
        headers.insert(header::VIA, OURS.clone());
        return;
    }
    let mut list = String::new();
    for value in headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok()) {
        let _ = write!(list, "{value}, ");
    }
    list.push_str(VIA);
    headers.insert(header::VIA, HeaderValue::try_from(list).unwrap_or_else(|_| OURS.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client::new(([203, 0, 113, 9], 4711).into(), 8080)
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn headers_that_connection_names_go_and_the_message_keeps_its_frame() {
        let mut map = headers(&[
            ("connection", "close, X-Secret , content-length"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("proxy-authenticate", "stays"),
        ]);
        remove_hop_by_hop(&mut map);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "proxy-authenticate", "trailer"]);
    }

    #[test]
    fn the_clients_address_is_appended_and_what_it_claims_of_itself_is_replaced() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-request-start", "1"),
            ("via", "1.0 other"),
        ]);
        to_dyno(&mut map, &client(), Duration::from_millis(1_700_000_000_123), true);
        assert_eq!(map["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 203.0.113.9");
        assert_eq!(map.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-port"], "8080");
        assert_eq!(map["x-request-start"], "1700000000123");
        assert_eq!(map["via"], "1.0 other, 1.1 routerd");
    }

    #[test]
    fn a_good_request_id_is_kept_and_any_other_is_replaced_by_a_uuid() {
        let good = "abcdefghij0123456789+/=-";
        assert_eq!(request_id(&headers(&[("x-request-id", good)])), good);
        for bad in ["short", "has spaces in it, quite some", ""] {
            let id = request_id(&headers(&[("x-request-id", bad)]));
            let id = id.to_str().unwrap();
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
        let twice = headers(&[("x-request-id", good), ("x-request-id", good)]);
        assert_ne!(request_id(&twice), good);
    }
}
