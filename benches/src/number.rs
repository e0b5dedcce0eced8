//! Numbers of things in words: one dyno, two dynos.

use std::fmt::Display;

/// A number and what is counted, given in the singular.
///
/// ```
/// use router_bench::number::count;
///
/// assert_eq!([count(0, "dyno"), count(1, "dyno"), count(1.5, "dyno")], ["0 dynos", "1 dyno", "1.5 dynos"]);
/// assert_eq!(count(2, "process"), "2 processes");
/// ```
pub fn count(number: impl Display, what: &str) -> String {
    let number = number.to_string();
    match number.as_str() {
        "1" => format!("1 {what}"),
        _ if what.ends_with('s') => format!("{number} {what}es"),
        _ => format!("{number} {what}s"),
    }
}

/// "was" of one, "were" of any other number.
pub fn were(number: u64) -> &'static str {
    if number == 1 { "was" } else { "were" }
}
