//! Why no certificate came, in one line, and what kind of trouble that is.

use std::error::Error as _;
use std::fmt;

use instant_acme::Error;

/// The longest text about it, in characters. The words are partly the CA's.
const WORDS_MAX: usize = 600;

/// Why no certificate came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) kind: Kind,
    pub(crate) why: String,
    /// The CA does not know the account.
    pub(crate) no_account: bool,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The CA gave no answer, or none that makes sense.
    Unreachable,
    /// The CA does not want to.
    Refused,
    /// The CA has had enough for now.
    RateLimited,
    /// The CA has not found the answer it looked for.
    Unproven,
    /// It took too long.
    Timeout,
    /// It is this machine.
    Local,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Unreachable, Self::Refused, Self::RateLimited, Self::Unproven, Self::Timeout, Self::Local];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::Unproven => "unproven",
            Self::Timeout => "timeout",
            Self::Local => "local",
        }
    }
}

impl Failed {
    pub(crate) fn new(kind: Kind, why: impl fmt::Display) -> Self {
        let clean = why.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let why = match clean.char_indices().nth(WORDS_MAX) {
            Some((end, _)) => format!("{}...", &clean[..end]),
            None => clean,
        };
        Self { kind, why, no_account: false }
    }

    pub(crate) fn local(what: &str, why: impl fmt::Display) -> Self {
        Self::new(Kind::Local, format_args!("{what}: {why}"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Unreachable => write!(f, "the CA cannot be reached: {}", self.why),
            Kind::Refused => write!(f, "the CA refuses: {}", self.why),
            Kind::RateLimited => write!(f, "the CA has had enough for now: {}", self.why),
            Kind::Unproven => write!(f, "the CA could not see that the host is served here: {}", self.why),
            Kind::Timeout | Kind::Local => f.write_str(&self.why),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let about = |problem: &instant_acme::Problem, what: &str| {
            problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(what))
        };
        if let Error::Api(problem) = &error {
            let limited = about(problem, ":rateLimited") || problem.status == Some(429);
            let kind = if limited { Kind::RateLimited } else { Kind::Refused };
            let no_account = about(problem, ":accountDoesNotExist");
            let text = problem.to_string();
            let why = text.strip_prefix("API error: ").unwrap_or(&text);
            return Self { no_account, ..Self::new(kind, why) };
        }
        if let Error::Timeout(_) = &error {
            return Self::new(Kind::Timeout, "the CA has not come to an end in time");
        }
        if let Error::Json(_) = &error {
            return Self::new(Kind::Unreachable, "what it answers is not ACME");
        }
        if matches!(error, Error::Crypto | Error::KeyRejected) {
            return Self::local("a key", &error);
        }
        // All others are about talking to the CA.
        Self::new(Kind::Unreachable, chain(&error))
    }
}

/// An error with everything that led to it.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_ca_are_one_line_of_bounded_length() {
        let failed = Failed::new(Kind::Refused, format!("no\r\nat=info {}", "x".repeat(10_000)));
        assert!(failed.why.starts_with("no  at=info xxx") && failed.why.len() < 700, "{failed}");
    }

    #[test]
    fn what_kind_it_is_stands_in_the_type_of_the_problem() {
        let failed = |kind: &str| {
            let problem =
                serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no" });
            Failed::from(Error::Api(serde_json::from_value(problem).unwrap()))
        };
        assert_eq!(failed("rateLimited").kind, Kind::RateLimited);
        assert_eq!(failed("rejectedIdentifier").kind, Kind::Refused);
        assert!(failed("accountDoesNotExist").no_account && !failed("malformed").no_account);
        let said = failed("malformed").to_string();
        assert_eq!(said, "the CA refuses: no (urn:ietf:params:acme:error:malformed)");
    }
}
