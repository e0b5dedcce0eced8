//! What names an app: an exact host, `*.suffix` or `*`, each with or without a path prefix; and host names as such.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Brings a host pattern into the one form it is compared in: lower case, A-labels, no dot and no slash at the end.
///
/// ```
/// use routerd::config::host::pattern;
///
/// assert_eq!(pattern("*.Bücher.test./shop/").as_deref(), Ok("*.xn--bcher-kva.test/shop"));
/// assert_eq!(pattern("shop.*"), Err("a * can only stand alone or as *. in front of a name".to_owned()));
/// ```
///
/// # Errors
/// Why the text is no host pattern.
pub fn pattern(text: &str) -> Result<String, String> {
    let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let host = match host {
        "*" => "*".to_owned(),
        host => match host.strip_prefix("*.") {
            Some(suffix) => format!("*.{}", suffix_of(suffix)?),
            None => exact(host)?,
        },
    };
    Ok(host + prefix(path)?)
}

fn suffix_of(suffix: &str) -> Result<String, String> {
    if suffix.parse::<Ipv4Addr>().is_ok() {
        return Err("an address has nothing below it".to_owned());
    }
    name(suffix)
}

fn exact(host: &str) -> Result<String, String> {
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        let address = address.map(|address| format!("[{address}]"));
        return address
            .ok_or_else(|| "this is no IPv6 address in brackets; a port cannot stand here".to_owned());
    }
    if host.contains(':') {
        return Err("a port cannot stand here: an app has its host on every port".to_owned());
    }
    name(host)
}

/// Brings a host name into lower case and A-labels, without a dot at the end.
///
/// # Errors
/// Why the text is no host name.
pub fn name(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err("a * can only stand alone or as *. in front of a name".to_owned());
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err("the host is empty".to_owned());
    }
    // A name has at most 253 characters; what is longer before conversion cannot get shorter than a quarter.
    if text.len() > 4 * 253 {
        return Err("a host has at most 253 characters".to_owned());
    }
    let ascii =
        idna::domain_to_ascii(text).map_err(|_| "this is no valid internationalised host".to_owned())?;
    if ascii.len() > 253 {
        return Err("a host has at most 253 characters".to_owned());
    }
    for label in ascii.split('.') {
        let stray = label.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'));
        if let Some(stray) = stray {
            return Err(format!("a host cannot have a {stray:?} in it"));
        }
        if label.is_empty() || label.len() > 63 {
            return Err("between the dots of a host stand 1 to 63 characters".to_owned());
        }
    }
    Ok(ascii)
}

/// The path prefix without its last slash; empty if there is none.
fn prefix(path: &str) -> Result<&str, String> {
    if path.len() > 1024 {
        return Err("a path prefix has at most 1024 characters".to_owned());
    }
    let stray = path.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*' | '\\' | '"'));
    if let Some(stray) = stray {
        return Err(format!("a path prefix cannot have a {stray:?} in it"));
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("a path prefix cannot have an empty segment, a . or a .. in it".to_owned());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_brought_into_one_form() {
        for (written, form) in [
            ("*", "*"),
            ("*/api", "*/api"),
            ("Shop.TEST", "shop.test"),
            ("shop.test.", "shop.test"),
            ("shop.test/", "shop.test"),
            ("shop.test/api/v2/", "shop.test/api/v2"),
            ("*.shop.test", "*.shop.test"),
            ("bücher.test", "xn--bcher-kva.test"),
            ("localhost", "localhost"),
            ("my_app.internal", "my_app.internal"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::0001]/x", "[::1]/x"),
        ] {
            assert_eq!(pattern(written).as_deref(), Ok(form), "{written}");
            assert_eq!(pattern(form).as_deref(), Ok(form), "{form} stays");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = format!("{}.test", "a".repeat(64));
        let longer = "a.".repeat(127) + "test";
        for written in [
            "",
            "/",
            "/api",
            ".",
            "..",
            "a..b",
            "*.",
            "*x",
            "a.*",
            "*.*.test",
            "**",
            "shop.test:80",
            "[::1]:80",
            "[::1",
            "::1",
            "a b",
            "a,b",
            "http://shop.test",
            "shop.test/a b",
            "shop.test/?x",
            "shop.test//",
            "shop.test/../x",
            "*.127.0.0.1",
            "xn--zzzzzz-.test",
            "a\0b",
            "a\u{200e}b",
            &long,
            &longer,
            &"é".repeat(100_000),
        ] {
            assert!(pattern(written).is_err(), "{written:?} became {:?}", pattern(written));
        }
    }
}
