//! Lists with weights, as in `Accept` and `Accept-Encoding`: what a client would rather have.

use http::header::{HeaderMap, HeaderName};

/// The weight of what has none written: the greatest.
const WHOLE: u16 = 1000;

/// The names in a header's lines, in their order, without parameters, each with its weight in thousandths (RFC 9110
/// section 12.4.2). What cannot be read is left out, what has a weight that cannot be read counts as refused.
///
/// ```
/// use router_core::proxy::weighted;
///
/// let headers = http::HeaderMap::from_iter([("te".parse()?, "a;q=0.5, b;x=1, c;q=2".parse()?)]);
/// let found: Vec<_> = weighted(&headers, &http::header::TE).collect();
/// assert_eq!(found, [("a", 500), ("b", 1000), ("c", 0)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn weighted<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = (&'h str, u16)> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))
        });
        Some((name, weight.map_or(WHOLE, |weight| weight.unwrap_or(0))))
    })
}

/// A number from 0 to 1 with at most three digits behind the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = rest.len() <= 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let whole = match whole {
        "0" => 0,
        "1" => WHOLE,
        _ => return None,
    };
    let part = format!("{rest:0<3}").parse::<u16>().ok().filter(|_| digits)?;
    (whole + part <= WHOLE).then_some(whole + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_has_at_most_three_digits_and_is_at_most_one() {
        for (text, weight) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("1.", Some(1000)),
            ("1.000", Some(1000)),
            ("0.5", Some(500)),
            ("0.001", Some(1)),
            ("0.0005", None),
            ("1.001", None),
            ("2", None),
            ("", None),
            (".5", None),
            ("0.x", None),
            ("0.+5", None),
        ] {
            assert_eq!(thousandths(text), weight, "{text:?}");
        }
    }
}
