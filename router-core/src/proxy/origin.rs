//! Who a request comes from: its connection says it, or the proxies that are trusted to say it.
//!
//! Without a [`Trust`] nobody is believed and nothing is taken away, as at Heroku: the peer's address is appended to
//! whatever X-Forwarded-For came, and the rest is replaced. With one, what a trusted peer says is believed, and what
//! anybody else says of these things is dropped.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::proxy::client::Client;

/// Whether a proxy at that address is believed.
pub type Trust = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who a request comes from.
pub(crate) struct Origin {
    /// The client's address, as far as anybody who is believed knows it.
    pub(crate) address: IpAddr,
    /// What the log says of it.
    pub(crate) shown: HeaderValue,
}

/// Tells the dyno who the request comes from, and us.
pub(crate) fn tell(headers: &mut HeaderMap, client: &Client) -> Origin {
    let Some(trust) = &client.trust else {
        let list = appended(headers, &client.forwarded_for);
        put(headers, list.clone(), scheme(client.tls), client.port_shown.clone());
        return Origin { address: client.address(), shown: list };
    };
    if !trust(client.address()) {
        for name in [&header::FORWARDED, &X_FORWARDED_HOST] {
            headers.remove(name);
        }
        put(headers, client.forwarded_for.clone(), scheme(client.tls), client.port_shown.clone());
        return Origin { address: client.address(), shown: client.forwarded_for.clone() };
    }
    let address = right_most_stranger(headers, client.address(), trust);
    let list = appended(headers, &client.forwarded_for);
    let told = one(headers, &X_FORWARDED_PROTO).and_then(told_scheme);
    let port = one(headers, &X_FORWARDED_PORT).and_then(|text| text.parse().ok()).filter(|port| *port > 0);
    // A port of ours says nothing about a scheme that is spoken elsewhere.
    let usual = told.map_or(client.local_port, |scheme| if scheme == "https" { 443 } else { 80 });
    let port = HeaderValue::from(port.unwrap_or(usual));
    put(headers, list, told.unwrap_or_else(|| scheme(client.tls)), port);
    Origin { address, shown: as_value(address) }
}

/// An address as the value of a header.
pub(crate) fn as_value(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn put(headers: &mut HeaderMap, list: HeaderValue, scheme: &'static str, port: HeaderValue) {
    headers.insert(X_FORWARDED_FOR.clone(), list);
    headers.insert(X_FORWARDED_PROTO.clone(), HeaderValue::from_static(scheme));
    headers.insert(X_FORWARDED_PORT.clone(), port);
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn told_scheme(text: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// The value of a header that is there once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// The list that came with an address at its right end, as one line.
fn appended(headers: &HeaderMap, address: &HeaderValue) -> HeaderValue {
    if !headers.contains_key(&X_FORWARDED_FOR) {
        return address.clone();
    }
    let mut list = Vec::with_capacity(64);
    for value in headers.get_all(&X_FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(address.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or_else(|_| address.clone())
}

/// Each trusted proxy vouches for the address at its left; the first that is not trusted is the client. What is no
/// address ends the walk: then it is whoever wrote it.
fn right_most_stranger(headers: &HeaderMap, peer: IpAddr, trust: &Trust) -> IpAddr {
    let lines: Vec<&HeaderValue> = headers.get_all(&X_FORWARDED_FOR).iter().collect();
    let elements = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut address = peer;
    for element in elements {
        match element_address(element.trim_ascii()) {
            Some(found) => address = found,
            None => break,
        }
        if !trust(address) {
            break;
        }
    }
    address
}

/// An address, perhaps with a port, as proxies write it.
fn element_address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = text.parse().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip())).or_else(bare);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: [u8; 4], trusted: bool) -> Client {
        let client = Client::new((address, 4711).into(), 8080);
        let ours = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
        if trusted { client.with_trust(Arc::new(ours)) } else { client }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    const CLAIMS: [(&str, &str); 6] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-host", "evil.test"),
        ("forwarded", "for=1.1.1.1"),
    ];

    #[test]
    fn without_trusted_proxies_the_peer_is_appended_and_is_the_client() {
        let mut map = headers(&CLAIMS);
        let origin = tell(&mut map, &client([203, 0, 113, 9], false));
        assert_eq!(map["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 203.0.113.9");
        assert_eq!(map.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(
            (&map["x-forwarded-proto"], &map["x-forwarded-port"]),
            (&"http".parse().unwrap(), &8080.into())
        );
        assert!(map.contains_key("forwarded") && map.contains_key("x-forwarded-host"));
        assert_eq!(origin.address.to_string(), "203.0.113.9");
        assert_eq!(origin.shown, "1.1.1.1, 2.2.2.2, 203.0.113.9");
    }

    #[test]
    fn a_stranger_is_not_believed_in_anything() {
        let mut map = headers(&CLAIMS);
        let origin = tell(&mut map, &client([203, 0, 113, 9], true));
        assert_eq!(map["x-forwarded-for"], "203.0.113.9");
        assert_eq!(
            (&map["x-forwarded-proto"], &map["x-forwarded-port"]),
            (&"http".parse().unwrap(), &8080.into())
        );
        assert!(!map.contains_key("forwarded") && !map.contains_key("x-forwarded-host"));
        assert_eq!(
            (origin.address.to_string(), origin.shown),
            ("203.0.113.9".to_owned(), "203.0.113.9".parse().unwrap())
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        let mut map = headers(&CLAIMS);
        let origin = tell(&mut map, &client([10, 0, 0, 1], true));
        assert_eq!(map["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.1");
        assert_eq!(
            (&map["x-forwarded-proto"], &map["x-forwarded-port"]),
            (&"https".parse().unwrap(), &443.into())
        );
        assert!(map.contains_key("forwarded") && map.contains_key("x-forwarded-host"));
        assert_eq!(
            (origin.address.to_string(), origin.shown),
            ("2.2.2.2".to_owned(), "2.2.2.2".parse().unwrap())
        );
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_not_trusted() {
        for (list, found) in [
            ("", "10.0.0.1"),
            ("1.1.1.1", "1.1.1.1"),
            ("6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("1.1.1.1:99", "1.1.1.1"),
            ("[2001:db8::1]:99, 10.9.9.9", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("10.0.0.3,10.0.0.2", "10.0.0.3"),
            ("1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("1.1.1.1, ", "10.0.0.1"),
            ("\u{fc}", "10.0.0.1"),
        ] {
            let mut map = HeaderMap::new();
            map.insert("x-forwarded-for", HeaderValue::from_bytes(list.as_bytes()).unwrap());
            assert_eq!(tell(&mut map, &client([10, 0, 0, 1], true)).address.to_string(), found, "{list:?}");
        }
    }

    #[test]
    fn a_scheme_without_its_port_has_its_usual_one_and_what_is_no_scheme_is_not_passed() {
        for (told, scheme, port) in [("HTTPS", "https", 443), ("http", "http", 80), ("gopher", "http", 8080)]
        {
            let mut map = headers(&[("x-forwarded-proto", told), ("x-forwarded-port", "0")]);
            tell(&mut map, &client([10, 0, 0, 1], true));
            assert_eq!(map["x-forwarded-proto"], scheme);
            assert_eq!(map["x-forwarded-port"], HeaderValue::from(port));
        }
    }
}
