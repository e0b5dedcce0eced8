//! One line of the Common or Combined Log Format, with whatever stands behind it.

use super::{Line, stamp};

/// `host ident user [time] "METHOD path PROTOCOL" status bytes ...`
pub(super) fn line(text: &str) -> Result<Line, &'static str> {
    let (_, rest) = text.split_once('[').ok_or("no time in brackets")?;
    let (time, rest) = rest.split_once(']').ok_or("no time in brackets")?;
    let start = stamp::clf(time).ok_or("the time is not like 10/Oct/2000:13:55:36 -0700")?;
    let rest = rest.trim_start().strip_prefix('"').ok_or("no request in quotes")?;
    let end = closing(rest).ok_or("the quotes of the request do not end")?;
    let status = rest[end + 1..].split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    let status: u16 = status.filter(|status| (100..1000).contains(status)).ok_or("no status")?;
    let mut words = rest[..end].split_ascii_whitespace();
    let (method, path) = (words.next(), words.next());
    let (method, path) = (method.map(str::to_owned), path.map(str::to_owned));
    Ok(Line { start, status: Some(status), method, path, ..Line::default() })
}

/// Where a quoted value ends; a backslash takes the next sign with it.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}
