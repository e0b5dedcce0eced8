//! Who may do what: roles, and the apps that somebody has a say over.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What somebody may ask of a daemon. Each role may what those before it may.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything, change nothing.
    Read,
    /// And change one app: deploys, rollbacks, pauses, drains.
    Deploy,
    /// And change the daemon: reloads, upgrades, checks of the audit trail.
    Admin,
}

impl Role {
    /// Every role, in the order above.
    pub const ALL: [Self; 3] = [Self::Read, Self::Deploy, Self::Admin];

    /// The role as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The apps that somebody has a say over.
///
/// ```
/// use routerd::config::Scope;
///
/// let scope = Scope::parse(["shop", "team-*"]).unwrap();
/// assert!(scope.covers("shop") && scope.covers("team-a"));
/// assert!(!scope.covers("shop2") && !scope.covers("team"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them, those that come later too, and what belongs to no app.
    All,
    /// Those with one of these names; a `*` at the end stands for anything.
    Only(Vec<String>),
}

impl Scope {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = r#"the name of an app, or its beginning and "*", as in "team-*""#;

    /// Reads a list of names; `"*"` is all apps.
    ///
    /// # Errors
    /// The first text that names no app.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut only = Vec::new();
        for name in names {
            let fixed = name.strip_suffix('*').unwrap_or(name);
            if name.is_empty() || !(fixed.is_empty() || is_name(fixed)) {
                return Err(name.to_owned());
            }
            only.push(name.to_owned());
        }
        let all = only.iter().any(|name| name == "*");
        Ok(if all { Self::All } else { Self::Only(only) })
    }

    /// Whether the app is one of them.
    pub fn covers(&self, app: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| match name.strip_suffix('*') {
                Some(beginning) => app.starts_with(beginning),
                None => app == name,
            }),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(names) => f.write_str(&names.join(", ")),
        }
    }
}

/// Names of apps, releases and tokens stand in logs, metrics and paths as they are: letters, digits, `-`, `_` and
/// `.`, at most 100 characters.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=100).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_the_end_only_and_alone_it_is_all_apps() {
        assert_eq!(Scope::parse(["shop", "*"]), Ok(Scope::All));
        assert_eq!(Scope::parse([]), Ok(Scope::Only(Vec::new())));
        assert!(!Scope::parse([]).unwrap().covers("shop"));
        for name in ["", "*-a", "a*b", "a b", "a/b*", "**"] {
            assert_eq!(Scope::parse(["shop", name]), Err(name.to_owned()));
        }
    }
}
