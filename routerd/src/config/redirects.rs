//! Redirects of an app: what is sent where, by which rule, and whether rules lead in a circle.

use std::fmt;

use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::host;

/// What a client may write in a path and a URL must not have (RFC 3986 section 2).
const STRAY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// After so many redirects in a row clients give up.
const STEPS_MAX: usize = 20;

/// One redirect. The keys are described in [`super::file::Redirect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    from: From,
    to: To,
    status: StatusCode,
}

/// What is sent elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// In one form: lower case, A-labels. `None`: on all hosts of the app.
    host: Option<String>,
    /// Without the `*`.
    path: String,
    /// All below it.
    open: bool,
}

/// Where something is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// `https://shop.test`; empty: the same host.
    origin: String,
    /// Its host, in one form.
    host: Option<String>,
    /// Without the `*`.
    path: String,
    /// What the `*` of `from` stood for comes behind it.
    open: bool,
}

impl Redirect {
    /// A redirect from there to there.
    ///
    /// # Errors
    /// Why the two do not go together.
    pub fn new(from: From, to: To, status: StatusCode) -> Result<Self, &'static str> {
        match to.open && !from.open {
            true => Err("`to` has a * at its end, and `from` has none"),
            false => Ok(Self { from, to, status }),
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Where a request is sent, if it is meant. `host` is called at most once: it gives the host in one form.
    pub fn place(&self, host: impl FnOnce() -> String, asked: &PathAndQuery) -> Option<HeaderValue> {
        let rest = self.from.rest(asked.path())?;
        if self.from.host.as_ref().is_some_and(|wanted| *wanted != host()) {
            return None;
        }
        let path = self.to.path_for(rest);
        let query = asked.query().map(|query| format!("?{query}")).unwrap_or_default();
        let tail = format!("{path}{query}");
        let place = format!("{}{}", self.to.origin, utf8_percent_encode(&tail, STRAY));
        HeaderValue::try_from(place).ok()
    }

    /// The host that it is for, if it is for one.
    pub fn host(&self) -> Option<&str> {
        self.from.host.as_deref()
    }
}

impl From {
    /// Reads what is written.
    ///
    /// # Errors
    /// Why it is nothing that can be sent elsewhere.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let host = match host {
            "" => None,
            host if host.contains('*') => return Err("a * can only stand at the end, behind a /".to_owned()),
            host => Some(host::pattern(host)?),
        };
        if text.is_empty() {
            return Err("this is neither a path nor a host".to_owned());
        }
        let (path, open) = path_of(if path.is_empty() { "/*" } else { path })?;
        Ok(Self { host, path, open })
    }

    /// What stands for the `*`, if the path is meant.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&*self.path).filter(|rest| self.open || rest.is_empty())
    }
}

impl To {
    /// Reads what is written.
    ///
    /// # Errors
    /// Why nobody can be sent there.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            let (path, open) = path_of(text)?;
            return Ok(Self { origin: String::new(), host: None, path, open });
        }
        let scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme));
        let scheme = scheme.ok_or("this is neither a path nor begins with http:// or https://")?;
        let rest = &text[scheme.len()..];
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let url: Uri = format!("{scheme}{authority}").parse().map_err(|_| "this is no URL".to_owned())?;
        let named = url.authority().filter(|_| !authority.contains(['@', '*']));
        let named = named.ok_or("it names no host, or more than a host")?;
        if named.port().is_some() && named.port_u16().is_none_or(|port| port == 0) {
            return Err("a port is a number from 1 to 65535".to_owned());
        }
        let host = host::pattern(named.host())?;
        let port = named.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        let (path, open) = path_of(if path.is_empty() { "/" } else { path })?;
        Ok(Self { origin: format!("{scheme}{host}{port}"), host: Some(host), path, open })
    }

    fn path_for(&self, rest: &str) -> String {
        let rest = if self.open { rest } else { "" };
        // Two slashes at the beginning would name a host, and browsers take a backslash for a slash.
        let rest = if self.path == "/" { rest.trim_start_matches(['/', '\\']) } else { rest };
        format!("{}{rest}", self.path)
    }
}

/// A path without the `*` at its end, and whether it has one.
fn path_of(text: &str) -> Result<(String, bool), String> {
    let path = text.strip_suffix('*').unwrap_or(text);
    let stray = path.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*' | '\\' | '"'));
    match stray {
        Some('*') => return Err("a * can only stand at the end, behind a /".to_owned()),
        Some(stray) => return Err(format!("a path cannot have a {stray:?} in it")),
        None => {}
    }
    if path.len() > 1024 {
        return Err("a path has at most 1024 characters".to_owned());
    }
    let open = path.len() < text.len();
    if open && !path.ends_with('/') {
        return Err("a * can only stand at the end, behind a /".to_owned());
    }
    if path.starts_with("//") {
        return Err("two slashes at the beginning would be a host".to_owned());
    }
    path.parse::<PathAndQuery>().map_err(|_| "this is no path".to_owned())?;
    Ok((path.to_owned(), open))
}

/// Whether whoever is sent somewhere by the rule at `first` is sent on for ever by these rules, as far as they show
/// it: `own` says which hosts are the app's for sure.
pub fn leads_in_a_circle(rules: &[Redirect], first: usize, own: impl Fn(&str) -> bool) -> bool {
    let Some(rule) = rules.get(first) else { return false };
    // Something that no rule has in it, so that `*` stands for anything.
    let mut host = rule.from.host.clone();
    let mut path = format!("{}{}", rule.from.path, if rule.from.open { "\u{1}" } else { "" });
    for _ in 0..=rules.len().min(STEPS_MAX) {
        let on = |rule: &&Redirect| {
            let same = rule.from.host.is_none() || rule.from.host == host;
            same && rule.from.rest(&path).is_some()
        };
        let Some(rule) = rules.iter().find(on) else { return false };
        let rest = rule.from.rest(&path).unwrap_or_default();
        path = rule.to.path_for(rest);
        match &rule.to.host {
            Some(there) if !own(there) => return false,
            Some(there) => host = Some(there.clone()),
            None => {}
        }
    }
    true
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.open { "*" } else { "" };
        write!(f, "{}{}{star}", self.host.as_deref().unwrap_or_default(), self.path)
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, status } = self;
        let star = if to.open { "*" } else { "" };
        write!(f, "{from} -> {}{}{star} ({})", to.origin, to.path, status.as_u16())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(from: &str, to: &str) -> Redirect {
        let (from, to) = (From::parse(from).unwrap(), To::parse(to).unwrap());
        Redirect::new(from, to, StatusCode::PERMANENT_REDIRECT).unwrap()
    }

    fn place(rule: &Redirect, asked: &str) -> Option<String> {
        let (host, path) = asked.split_at(asked.find('/').unwrap());
        let place = rule.place(|| host.to_owned(), &path.parse().unwrap())?;
        Some(place.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_rule_sends_what_it_names_and_takes_the_rest_and_the_query_along() {
        for (from, to, asked, sent) in [
            ("/old", "/new", "a.test/old", Some("/new")),
            ("/old", "/new", "a.test/old?x=1", Some("/new?x=1")),
            ("/old", "/new", "a.test/old/", None),
            ("/old", "/new", "a.test/older", None),
            ("/old/*", "/new/*", "a.test/old/a/b?c", Some("/new/a/b?c")),
            ("/old/*", "/new/*", "a.test/old/", Some("/new/")),
            ("/old/*", "/new/*", "a.test/old", None),
            ("/old/*", "/gone", "a.test/old/x", Some("/gone")),
            ("www.a.test", "https://a.test/*", "www.a.test/x?y", Some("https://a.test/x?y")),
            ("WWW.a.test/*", "https://A.test:8443/*", "www.a.test/", Some("https://a.test:8443/")),
            ("www.a.test", "https://a.test", "a.test/x", None),
            ("www.a.test", "https://a.test", "www.a.test/x", Some("https://a.test/")),
        ] {
            assert_eq!(place(&rule(from, to), asked).as_deref(), sent, "{from} -> {to}: {asked}");
        }
    }

    #[test]
    fn nobody_is_sent_to_another_host_by_what_they_ask_for() {
        let home = rule("/old/*", "/*");
        for (asked, sent) in [
            ("a/old//evil.test", "/evil.test"),
            ("a/old////evil.test/x", "/evil.test/x"),
            ("a/old/%2f%2fevil.test", "/%2f%2fevil.test"),
            ("a/old/%0d%0aset-cookie:a=b", "/%0d%0aset-cookie:a=b"),
            ("a/old/a\\b?c=\\|", "/a%5Cb?c=%5C%7C"),
            ("a/old/\\evil.test", "/evil.test"),
            ("a/old//\\/evil.test", "/evil.test"),
            ("a/old/@evil.test", "/@evil.test"),
            ("a/old/http://evil.test", "/http://evil.test"),
        ] {
            assert_eq!(place(&home, asked).as_deref(), Some(sent), "{asked}");
        }
        let out = rule("/*", "https://shop.test/*");
        for asked in ["a//evil.test", "a/@evil.test", "a/.evil.test", "a/\\@evil.test"] {
            assert!(place(&out, asked).unwrap().starts_with("https://shop.test/"), "{asked}");
        }
    }

    proptest! {
        #[test]
        fn a_place_on_the_same_host_is_a_path_and_nothing_else(rest in "[!-~\u{e9}]{0,12}") {
            let asked: Result<PathAndQuery, _> = format!("/old/{rest}").parse();
            prop_assume!(asked.is_ok());
            let sent = rule("/old/*", "/*").place(String::new, &asked.unwrap()).unwrap();
            let sent = sent.to_str().unwrap();
            prop_assert!(sent.starts_with('/') && !sent.starts_with("//") && !sent.contains('\\'), "{sent}");
        }
    }

    #[test]
    fn what_is_no_redirect_is_refused() {
        for from in ["", "*", "*.a.test", "/a*", "/a*/b", "/a?b", "/a#b", "a b/", "//a", "/a\\b", "a:80/x"] {
            assert!(From::parse(from).is_err(), "{from:?}");
        }
        for to in [
            "",
            "shop.test",
            "//shop.test",
            "/a*",
            "ftp://a.test",
            "https://",
            "https:///x",
            "https://a@b.test",
            "https://a.test*",
            "https://*.a.test/",
            "https://a.test:0/",
            "https://a.test/x?y",
            "https://a.test/#x",
        ] {
            assert!(To::parse(to).is_err(), "{to:?}");
        }
        let (from, to) = (From::parse("/a").unwrap(), To::parse("/b/*").unwrap());
        assert!(Redirect::new(from, to, StatusCode::FOUND).is_err());
    }

    #[test]
    fn rules_that_lead_in_a_circle_are_found() {
        let own = |host: &str| host.ends_with("a.test");
        for (rules, circle) in [
            (&[("/a", "/a")][..], true),
            (&[("/*", "/new/*")], true),
            (&[("/old/*", "/new/*")], false),
            (&[("/a", "/b"), ("/b", "/a")], true),
            (&[("/a", "/b"), ("/b", "/c")], false),
            (&[("/a/*", "/b/*"), ("/b/*", "/a/*")], true),
            (&[("www.a.test", "https://a.test/*")], false),
            (&[("www.a.test", "https://a.test/*"), ("a.test", "https://www.a.test/*")], true),
            (&[("/*", "https://a.test/*")], true),
            (&[("/*", "https://b.test/*")], false),
        ] {
            let rules: Vec<_> = rules.iter().map(|(from, to)| rule(from, to)).collect();
            let found = (0..rules.len()).any(|first| leads_in_a_circle(&rules, first, own));
            assert_eq!(found, circle, "{rules:?}");
        }
    }
}
