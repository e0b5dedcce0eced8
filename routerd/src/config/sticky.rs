//! How an app binds clients to dynos.

use std::time::Duration;

use super::Secret;

/// How an app binds clients to dynos. The keys are described in [`super::file::Sticky`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sticky {
    /// What the cookie is called: a token.
    pub cookie: String,
    /// The longest a request waits for its dyno alone.
    pub wait: Duration,
    /// What the cookie's key is made of; `None`: of chance, as long as this process.
    pub secret: Option<Secret>,
    /// Tells one secret from the next.
    pub mark: Option<String>,
}
