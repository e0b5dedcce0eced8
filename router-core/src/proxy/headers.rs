//! Headers both ways: hop-by-hop away, request id, queue headers, Via.

use std::fmt::Write as _;
use std::time::Duration;

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::proxy::client::Client;
use crate::proxy::origin::{self, Origin};

/// How many headers a request gets on its way to a dyno.
const ADDED: usize = 10;

/// Our name in Via, after the version in which the message came (RFC 9110 section 7.6.3).
const VIA: &str = "1.1 routerd";
const VIA_2: &str = "2.0 routerd";

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
static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
static X_CLIENT_VERIFY: HeaderName = HeaderName::from_static("x-client-verify");
static X_QUEUE_WAIT: HeaderName = HeaderName::from_static("x-queue-wait");
static X_QUEUE_DEPTH: HeaderName = HeaderName::from_static("x-queue-depth");

/// Takes the headers of one connection out, including those that Connection names (RFC 9110 section 7.6.1).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // One look at what is there costs less than asking for each that may be.
    let mut there = [false; HOP_BY_HOP.len()];
    for name in headers.keys() {
        if let Some(place) = HOP_BY_HOP.iter().position(|known| known == name) {
            there[place] = true;
        }
    }
    if there[0] {
        remove_named(headers);
    }
    for (name, _) in HOP_BY_HOP.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
}

/// Takes the headers out that Connection names.
fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // The usual two name no header, or one that goes in any case.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| HeaderName::try_from(name).ok())
        // What frames the message, or says who it is for, is not the client's to strip.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The protocols that a request asks to change to, if it asks: `Connection: upgrade` names the header `Upgrade`, and
/// the client speaks HTTP/1.1 (RFC 9110 section 7.8). `h2c` is not among them: dynos speak HTTP/1.1.
pub(crate) fn upgrade(head: &http::request::Parts) -> Option<HeaderValue> {
    if head.version != Version::HTTP_11 || !asks_for_upgrade(&head.headers) {
        return None;
    }
    let mut protocols = String::new();
    for protocol in protocols_of(&head.headers).filter(|protocol| !protocol.eq_ignore_ascii_case("h2c")) {
        let comma = if protocols.is_empty() { "" } else { ", " };
        let _ = write!(protocols, "{comma}{protocol}");
    }
    if protocols.is_empty() { None } else { HeaderValue::try_from(protocols).ok() }
}

/// Whether Connection names Upgrade.
pub(crate) fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
}

fn protocols_of(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// Puts the wish for another protocol, or the consent to it, to the headers of the next hop.
pub(crate) fn put_upgrade(headers: &mut HeaderMap, protocols: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocols);
}

/// The protocols that a 101 names, if there are any and each was asked for.
pub(crate) fn consent(asked: &HeaderValue, answer: &HeaderMap) -> Option<HeaderValue> {
    let asked = asked.to_str().ok()?;
    let was_asked = |protocol: &str| asked.split(", ").any(|known| known.eq_ignore_ascii_case(protocol));
    let mut protocols = protocols_of(answer).peekable();
    protocols.peek()?;
    protocols.all(was_asked).then(|| answer.get(header::UPGRADE).cloned()).flatten()
}

/// The request's headers as any dyno gets them; what depends on the lease is added by [`dispatched`].
pub(crate) fn to_dyno(
    headers: &mut HeaderMap,
    client: &Client,
    received: Duration,
    version: Version,
    trusted_request_id: bool,
) -> Identity {
    remove_hop_by_hop(headers);
    headers.remove(header::EXPECT);
    // All that is added below and by `dispatched`, in one growth.
    headers.reserve(ADDED);
    let request_id = if trusted_request_id { request_id(headers) } else { new_request_id() };
    headers.insert(X_REQUEST_ID.clone(), request_id.clone());
    let origin = origin::tell(headers, client);
    // Nobody but us says whose certificate it is (RFC 9440 section 4).
    let forged: Vec<_> = headers.keys().filter(|name| is_of_certificates(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    if let Some(shown) = &client.certificate {
        let verify = if shown.is_some() { "SUCCESS" } else { "NONE" };
        headers.insert(X_CLIENT_VERIFY.clone(), HeaderValue::from_static(verify));
        shown.iter().for_each(|shown| drop(headers.insert(CLIENT_CERT.clone(), shown.clone())));
    }
    let millis = u64::try_from(received.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_REQUEST_START.clone(), HeaderValue::from(millis));
    append_via(headers, version);
    Identity { request_id, origin }
}

/// Whether a header says something of the client's certificate, or would for a server that takes `_` for `-` (CGI and
/// what came of it).
fn is_of_certificates(name: &HeaderName) -> bool {
    let same = |(a, b): (&u8, &u8)| a == b || (*a == b'_' && *b == b'-');
    [&CLIENT_CERT, &CLIENT_CERT_CHAIN, &X_CLIENT_VERIFY].iter().any(|ours| {
        let (name, ours) = (name.as_str().as_bytes(), ours.as_str().as_bytes());
        name.len() == ours.len() && name.iter().zip(ours).all(same)
    })
}

/// What the log knows a request by.
pub(crate) struct Identity {
    pub(crate) request_id: HeaderValue,
    pub(crate) origin: Origin,
}

/// What the dyno is told of the line: the wait in ms and the number of requests still in it.
pub(crate) fn dispatched(headers: &mut HeaderMap, wait: Duration, depth: u64) {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    headers.insert(X_QUEUE_WAIT.clone(), number(millis));
    headers.insert(X_QUEUE_DEPTH.clone(), number(depth));
}

/// A number as a value. Most are 0, which needs no memory.
fn number(number: u64) -> HeaderValue {
    if number == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(number) }
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
pub(crate) fn to_client(headers: &mut HeaderMap, version: Version) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // The chunks count (RFC 9112 section 6.3); a length beside them would frame the client's side wrongly.
        headers.remove(header::CONTENT_LENGTH);
    } else {
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        if let (Some(length), Some(_)) = (lengths.next(), lengths.next()) {
            // Several that agree become one.
            let length = length.clone();
            headers.insert(header::CONTENT_LENGTH, length);
        }
    }
    remove_hop_by_hop(headers);
    append_via(headers, version);
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

fn append_via(headers: &mut HeaderMap, version: Version) {
    let via = if version == Version::HTTP_2 { VIA_2 } else { VIA };
    let ours = HeaderValue::from_static(via);
    if !headers.contains_key(header::VIA) {
        headers.insert(header::VIA, ours);
        return;
    }
    let mut list = String::new();
    for value in headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok()) {
        let _ = write!(list, "{value}, ");
    }
    list.push_str(via);
    headers.insert(header::VIA, HeaderValue::try_from(list).unwrap_or(ours));
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
    fn an_upgrade_is_a_wish_that_both_headers_name_and_h2c_is_none() {
        let wish = |version, lines: &[(&'static str, &'static str)]| {
            let mut head = http::Request::new(()).into_parts().0;
            (head.version, head.headers) = (version, headers(lines));
            upgrade(&head).map(|protocols| protocols.to_str().unwrap().to_owned())
        };
        let (old, now) = (Version::HTTP_10, Version::HTTP_11);
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(wish(now, &both).as_deref(), Some("websocket"));
        assert_eq!(wish(old, &both), None);
        assert_eq!(wish(now, &both[1..]), None);
        assert_eq!(wish(now, &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]), None);
        let list = [("connection", "upgrade"), ("upgrade", "H2C,a/1 ,, b"), ("upgrade", "c")];
        assert_eq!(wish(now, &list).as_deref(), Some("a/1, b, c"));
        let asked = HeaderValue::from_static("a/1, b, c");
        for (answer, good) in [("b", true), ("A/1", true), ("d", false), ("b, d", false), ("", false)] {
            let answer = headers(&[("upgrade", answer)]);
            assert_eq!(consent(&asked, &answer).is_some(), good, "{answer:?}");
        }
        assert_eq!(consent(&asked, &HeaderMap::new()), None);
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
        let received = Duration::from_millis(1_700_000_000_123);
        to_dyno(&mut map, &client(), received, Version::HTTP_11, true);
        assert_eq!(map["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 203.0.113.9");
        assert_eq!(map.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-port"], "8080");
        assert_eq!(map["x-request-start"], "1700000000123");
        assert_eq!(map["via"], "1.0 other, 1.1 routerd");
        to_client(&mut map, Version::HTTP_2);
        assert_eq!(map["via"], "1.0 other, 1.1 routerd, 2.0 routerd");
    }

    #[test]
    fn what_a_client_says_of_its_certificate_is_never_believed() {
        let lines = [("client-cert", ":AA==:"), ("client-cert-chain", "x"), ("x-client-verify", "SUCCESS")];
        let others = [("client_cert", "y"), ("x_client-verify", "SUCCESS"), ("client-certs", "stays")];
        let told = |client: &Client| {
            let mut map = headers(&[&lines[..], &others[..]].concat());
            to_dyno(&mut map, client, Duration::ZERO, Version::HTTP_11, true);
            assert_eq!(others.map(|(name, _)| map.contains_key(name)), [false, false, true]);
            let told = |name: &str| map.get(name).map(|value| value.to_str().unwrap().to_owned());
            lines.map(|(name, _)| told(name))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(told(&client()), [None, None, None]);
        assert_eq!(told(&client().with_certificate(None)), [None, None, text("NONE")]);
        let shown = HeaderValue::from_static(":BB==:");
        assert_eq!(told(&client().with_certificate(Some(shown))), [text(":BB==:"), None, text("SUCCESS")]);
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
