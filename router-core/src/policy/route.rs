//! Host and path to app: exact names, wildcards, path prefixes, and a default. The most specific pattern wins.
//!
//! # Rules
//!
//! 1. A Host is normalised before it is looked up: port and one trailing dot away, lower case, a name in Unicode to
//!    its A-label form (UTS 46, RFC 5890). IPv6 addresses keep their brackets.
//! 2. An exact name comes before a wildcard, a longer wildcard before a shorter one, all before the default `*`.
//!    `*.shop.test` takes every name below `shop.test`, at any depth, and not `shop.test` itself.
//! 3. Within a name the longest path prefix wins. A prefix ends at a segment: `/api` takes `/api` and `/api/v1`,
//!    not `/apis`. A name whose prefixes do not match the path leaves the request to the next rule-2 candidate.
//! 4. Paths are compared as they were sent: no percent-decoding, no dot segments. Who routes by prefix for security
//!    lets the app refuse what it should not see.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::fault::{BadRequest, Fault};

/// The longest host name, without port (RFC 1035 section 2.3.4 has 255 bytes on the wire).
const HOST_MAX: usize = 255;

/// Patterns and what they lead to. Look-ups take O(labels x log n + segments x log m): n names, m prefixes of one.
///
/// ```
/// use router_core::policy::route::RouteTable;
///
/// let mut table = RouteTable::default();
/// table.add("shop.test", "shop").unwrap();
/// table.add("shop.test/api", "api").unwrap();
/// table.add("*.shop.test", "branches").unwrap();
/// assert_eq!(table.find("Shop.Test:8080", "/api/v1").unwrap(), Some(&"api"));
/// assert_eq!(table.find("shop.test.", "/apis").unwrap(), Some(&"shop"));
/// assert_eq!(table.find("a.b.shop.test", "/").unwrap(), Some(&"branches"));
/// assert_eq!(table.find("other.test", "/").unwrap(), None);
/// ```
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    exact: BTreeMap<Box<str>, Prefixes<T>>,
    /// By suffix, without the leading `*.`.
    wild: BTreeMap<Box<str>, Prefixes<T>>,
    default: Prefixes<T>,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), wild: BTreeMap::new(), default: Prefixes::default() }
    }
}

/// The path prefixes of one name.
#[derive(Clone, Debug)]
struct Prefixes<T> {
    whole: Option<T>,
    by_path: BTreeMap<Box<str>, T>,
    longest: usize,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { whole: None, by_path: BTreeMap::new(), longest: 0 }
    }
}

/// A pattern, read and normalised: the same text for patterns that mean the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// A name, `*.name`, or `*`.
    pub host: String,
    /// A path without a trailing slash; empty for all paths.
    pub prefix: String,
}

impl Pattern {
    /// Reads `name`, `*.name` or `*`, each with an optional `/prefix`.
    ///
    /// # Errors
    /// Says in words what is wrong with the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, prefix) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let prefix = prefix.trim_end_matches('/');
        if prefix.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b' ' | b'?' | b'#')) {
            return Err("the path prefix has a character that no path has");
        }
        let prefix = prefix.to_owned();
        if host == "*" {
            return Ok(Self { host: "*".into(), prefix });
        }
        let (star, name) = match host.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", host),
        };
        if name.contains('*') {
            return Err("a star stands for whole labels at the beginning: \"*.name\", or alone: \"*\"");
        }
        if has_port(name) {
            return Err("a host has no port here: the app answers on every listener");
        }
        let name = normalise(name).map_err(|_| "this is not a host name")?;
        if !star.is_empty() && name.starts_with('[') {
            return Err("an address has no names below it");
        }
        Ok(Self { host: format!("{star}{name}"), prefix })
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.host, self.prefix)
    }
}

impl<T> RouteTable<T> {
    /// Adds a pattern. Gives the target back that had the same pattern, which the new one has replaced.
    ///
    /// # Errors
    /// Says in words what is wrong with the pattern.
    pub fn add(&mut self, pattern: &str, target: T) -> Result<Option<T>, &'static str> {
        let Pattern { host, prefix } = Pattern::parse(pattern)?;
        let prefixes = if host == "*" {
            &mut self.default
        } else if let Some(suffix) = host.strip_prefix("*.") {
            self.wild.entry(suffix.into()).or_default()
        } else {
            self.exact.entry(host.into()).or_default()
        };
        Ok(prefixes.add(prefix, target))
    }

    /// Who serves this host and path. `Ok(None)`: nobody.
    ///
    /// # Errors
    /// [`Fault::BadRequest`] when the host cannot be one.
    pub fn find(&self, host: &str, path: &str) -> Result<Option<&T>, Fault> {
        let host = normalise(host)?;
        if let Some(found) = self.exact.get(&*host).and_then(|prefixes| prefixes.find(path)) {
            return Ok(Some(found));
        }
        if !self.wild.is_empty() {
            let mut rest: &str = &host;
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(found) = self.wild.get(suffix).and_then(|prefixes| prefixes.find(path)) {
                    return Ok(Some(found));
                }
                rest = suffix;
            }
        }
        Ok(self.default.find(path))
    }
}

impl<T> Prefixes<T> {
    fn add(&mut self, prefix: String, target: T) -> Option<T> {
        if prefix.is_empty() {
            return self.whole.replace(target);
        }
        self.longest = self.longest.max(prefix.len());
        self.by_path.insert(prefix.into(), target)
    }

    /// Cuts the path at each `/` from the right, no longer than the longest prefix there is.
    fn find(&self, path: &str) -> Option<&T> {
        if !self.by_path.is_empty() {
            let path = path.split(['?', '#']).next().unwrap_or(path).as_bytes();
            let mut end = path.len();
            loop {
                if end <= self.longest
                    && let Ok(prefix) = std::str::from_utf8(&path[..end])
                    && let Some(found) = self.by_path.get(prefix)
                {
                    return Some(found);
                }
                let within = end.min(self.longest + 1);
                match path[..within].iter().rposition(|byte| *byte == b'/') {
                    Some(at) if at > 0 => end = at,
                    _ => break,
                }
            }
        }
        self.whole.as_ref()
    }
}

/// Brings a Host into the form in which names are compared: rule 1 at the head of this file.
///
/// # Errors
/// [`Fault::BadRequest`] when the text cannot be a host: empty, too long, or with characters no host has.
pub fn normalise(host: &str) -> Result<Cow<'_, str>, Fault> {
    const BAD: Fault = Fault::BadRequest(BadRequest::Header);
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(BAD)?;
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| BAD)?;
        if !port.is_empty() && !has_port(port) {
            return Err(BAD);
        }
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return Err(BAD),
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > HOST_MAX {
        return Err(BAD);
    }
    if !name.is_ascii() {
        let ascii = idna::domain_to_ascii(name).map_err(|_| BAD)?;
        return if is_host(&ascii) { Ok(Cow::Owned(ascii)) } else { Err(BAD) };
    }
    if !is_host(name) {
        return Err(BAD);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// Letters, digits, hyphens, dots, and the underscore that real names have; no empty label.
fn is_host(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty()
        && name.len() <= HOST_MAX
        && name.bytes().all(known)
        && !name.split('.').any(str::is_empty)
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        && !text.ends_with(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(patterns: &[&'static str]) -> RouteTable<&'static str> {
        let mut table = RouteTable::default();
        for pattern in patterns {
            assert_eq!(table.add(pattern, *pattern), Ok(None));
        }
        table
    }

    #[test]
    fn the_most_specific_pattern_that_matches_wins() {
        let table =
            table(&["a.test", "a.test/x/y", "*.a.test", "*.b.a.test/only", "*.test/any", "*", "*/all"]);
        for (host, path, expected) in [
            ("a.test", "/", "a.test"),
            ("a.test", "/x/y", "a.test/x/y"),
            ("a.test", "/x/y/z?q=/x", "a.test/x/y"),
            ("a.test", "/x/yz", "a.test"),
            ("a.test", "/x", "a.test"),
            ("c.b.a.test", "/", "*.a.test"),
            ("c.b.a.test", "/only/this", "*.b.a.test/only"),
            ("b.a.test", "/only", "*.a.test"),
            ("z.test", "/any", "*.test/any"),
            ("z.test", "/", "*"),
            ("other", "/all?x", "*/all"),
        ] {
            assert_eq!(table.find(host, path), Ok(Some(&expected)), "{host}{path}");
        }
    }

    #[test]
    fn hosts_that_mean_the_same_lead_to_the_same_app() {
        let table = table(&["bücher.test", "[::1]", "10.0.0.1"]);
        for host in ["xn--bcher-kva.test", "BÜCHER.test", "Xn--Bcher-KVA.test.:80", "bücher.test:"] {
            assert_eq!(table.find(host, "/"), Ok(Some(&"bücher.test")), "{host}");
        }
        assert_eq!(table.find("[0:0::1]:8080", "/"), Ok(Some(&"[::1]")));
        assert_eq!(table.find("10.0.0.1:1", "/"), Ok(Some(&"10.0.0.1")));
    }

    #[test]
    fn what_cannot_be_a_host_is_a_bad_request() {
        let table = table(&["*"]);
        for host in
            ["", ".", ":80", "a..b", "a b", "a/b", "a:b", "[::1", "[::1]x", "[zz]", "a\u{0}b", "::1", "a@b"]
        {
            assert!(table.find(host, "/").is_err(), "{host:?}");
        }
        assert!(table.find(&"a".repeat(256), "/").is_err());
    }

    #[test]
    fn patterns_say_what_is_wrong_with_them() {
        for pattern in
            ["", "a.*.test", "*a.test", "a.test:80", "*.[::1]", "a test", "a.test/x y", "a.test/?q"]
        {
            assert!(Pattern::parse(pattern).is_err(), "{pattern:?}");
        }
        assert_eq!(Pattern::parse("Shop.Test/api/").map(|p| p.to_string()), Ok("shop.test/api".into()));
    }

    #[test]
    fn a_path_of_nothing_but_slashes_costs_no_more_than_the_longest_prefix() {
        let table = table(&["a.test/x/y/z", "a.test"]);
        let path = "/".repeat(60_000);
        assert_eq!(table.find("a.test", &path), Ok(Some(&"a.test")));
    }
}
