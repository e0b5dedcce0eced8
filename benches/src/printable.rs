//! Text of others as it may be shown: control characters are escaped, so that it cannot speak to a terminal.

use std::borrow::Cow;

/// The text with its control characters escaped, as Rust writes them.
///
/// ```
/// use router_bench::printable::printable;
///
/// assert_eq!(printable("routerd \u{fc}"), "routerd \u{fc}");
/// assert_eq!(printable("\x1b[2Ja\nb\u{9b}"), r"\u{1b}[2Ja\nb\u{9b}");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// The same for text of several lines, which stay lines.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}
