//! Host and path to app: a table of patterns against a linear scan, for any patterns, hosts and paths.
//!
//! The input is text, one item a line: `+PATTERN` adds a pattern, any other line is a host and, after a space, a path.

use router_core::policy::route::{Pattern, RouteTable, normalise};

/// Adds the patterns and looks the hosts up.
///
/// # Panics
/// When the table finds what the rules at the head of `policy/route.rs` do not say.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut table = RouteTable::default();
    let mut patterns: Vec<(Pattern, usize)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(pattern) = line.strip_prefix('+') {
            add(&mut table, &mut patterns, pattern, number);
            continue;
        }
        let (host, path) = line.split_once(' ').unwrap_or((line, "/"));
        let found = table.find(host, path).map(|found| found.copied());
        match normalise(host) {
            Err(fault) => assert_eq!(found, Err(fault), "a host that cannot be one leads nowhere"),
            Ok(name) => {
                let again = normalise(&name).map(|again| again.into_owned());
                assert_eq!(again, Ok(name.to_string()), "what is normal stays as it is");
                assert_eq!(found, Ok(scan(&patterns, &name, path)), "{host:?} {path:?} of {patterns:?}");
            }
        }
    }
}

fn add(table: &mut RouteTable<usize>, patterns: &mut Vec<(Pattern, usize)>, text: &str, number: usize) {
    let read = Pattern::parse(text);
    let added = table.add(text, number);
    match (read, added) {
        (Err(why), added) => assert_eq!(added, Err(why), "a pattern that cannot be read is not added"),
        (Ok(pattern), added) => {
            assert_eq!(
                Pattern::parse(&pattern.to_string()).as_ref(),
                Ok(&pattern),
                "a pattern is read as written"
            );
            let old = patterns.iter().position(|(other, _)| *other == pattern);
            let old = old.map(|at| patterns.swap_remove(at).1);
            assert_eq!(added, Ok(old), "a pattern replaces its like");
            patterns.push((pattern, number));
        }
    }
}

/// The most specific pattern that matches: exact before the longest wildcard before all; then the longest prefix.
fn scan(patterns: &[(Pattern, usize)], name: &str, path: &str) -> Option<usize> {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let matching = patterns.iter().filter_map(|(pattern, number)| {
        let rank = match pattern.host.strip_prefix('*') {
            None if pattern.host == name => usize::MAX,
            None => return None,
            Some(suffix) if name.ends_with(suffix) && name.len() > suffix.len() => suffix.len(),
            Some(_) => return None,
        };
        let rest = path.strip_prefix(pattern.prefix.as_str())?;
        let whole = pattern.prefix.is_empty() || rest.is_empty() || rest.starts_with('/');
        whole.then_some((rank, pattern.prefix.len(), *number))
    });
    matching.max().map(|(_, _, number)| number)
}
