//! Step 3: whether a request carries what makes it the canary's: a header, or a cookie read by the rules of RFC 6265.

use http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::canary::Canary;

/// Whether a request with these headers carries what the canary asks for. A share asks for nothing that a request
/// could carry. What cannot be read is not carried.
pub(crate) fn carries(canary: &Canary, headers: &HeaderMap) -> bool {
    match canary {
        Canary::Share(_) => false,
        Canary::Header { name, value } => headers.get_all(name.as_str()).iter().any(|has| has == value),
        Canary::Cookie { name, value } => {
            let pairs = headers.get_all(COOKIE).iter().flat_map(pairs);
            pairs.into_iter().any(|(has, with)| has == name.as_bytes() && unquoted(with, value.as_bytes()))
        }
    }
}

/// The values of the cookies of that name, in the order in which they came, without the quotes that they may stand in.
pub fn cookies<'h, 'n: 'h>(headers: &'h HeaderMap, name: &'n [u8]) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(pairs);
    pairs.filter(move |(has, _)| *has == name).map(|(_, with)| {
        let bare = || with.strip_prefix(b"\"")?.strip_suffix(b"\"");
        bare().unwrap_or(with)
    })
}

/// The cookies of one header line (RFC 6265 section 4.2.1): pairs between semicolons, with space around them that
/// does not count. A pair without `=` is none.
fn pairs(line: &HeaderValue) -> impl Iterator<Item = (&[u8], &[u8])> {
    line.as_bytes().split(|byte| *byte == b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
    })
}

/// Whether a cookie's value is the one that is asked for, with or without the quotes that it may stand in (RFC 6265
/// section 4.1.1).
fn unquoted(has: &[u8], asked: &[u8]) -> bool {
    let bare = || has.strip_prefix(b"\"")?.strip_suffix(b"\"");
    has == asked || bare() == Some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_header_counts_by_its_name_in_any_case_and_its_value_to_the_byte() {
        let canary = Canary::Header { name: "X-Beta".into(), value: "yes".into() };
        for (value, counts) in [("yes", true), ("Yes", false), ("yes, no", false), ("", false)] {
            assert_eq!(carries(&canary, &headers(&[("x-beta", value.as_bytes())])), counts, "{value:?}");
        }
        assert!(carries(&canary, &headers(&[("x-beta", b"no"), ("x-beta", b"yes")])), "any of its lines");
        assert!(!carries(&canary, &headers(&[])));
        let nonsense = Canary::Header { name: "no such: name\n".into(), value: "yes".into() };
        assert!(!carries(&nonsense, &headers(&[("x-beta", b"yes")])));
    }

    #[test]
    fn a_cookie_is_found_among_others_and_what_is_malformed_is_none() {
        let canary = Canary::Cookie { name: "beta".into(), value: "1".into() };
        let asked = |line: &[u8]| carries(&canary, &headers(&[("cookie", line)]));
        let good: [&[u8]; 9] = [
            b"beta=1",
            b"a=2; beta=1",
            b"beta=1; a=2",
            b"a=2;beta=1;c=3",
            b" beta = 1 ",
            b"beta=\"1\"",
            b"beta=0; beta=1",
            b"broken; =; ;;; beta=1",
            b"a=\xFF; beta=1",
        ];
        for line in good {
            assert!(asked(line), "{:?}", String::from_utf8_lossy(line));
        }
        let bad: [&[u8]; 11] = [
            b"",
            b"beta",
            b"beta=",
            b"Beta=1",
            b"beta=10",
            b"beta=1=1",
            b"xbeta=1",
            b"a=beta=1",
            b"beta=\"1",
            b"\"beta=1\"",
            b"a=1, beta=1",
        ];
        for line in bad {
            assert!(!asked(line), "{:?}", String::from_utf8_lossy(line));
        }
        assert!(carries(&canary, &headers(&[("cookie", b"a=2"), ("cookie", b"beta=1")])), "in any line");
        let equals = Canary::Cookie { name: "t".into(), value: "a=b".into() };
        assert!(carries(&equals, &headers(&[("cookie", b"t=a=b")])), "a value may have an equals sign");
    }

    #[test]
    fn a_share_is_not_carried() {
        assert!(!carries(&Canary::Share(100), &headers(&[])));
    }
}
