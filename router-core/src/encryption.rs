//! What an app wants of encryption: in front of it, and on the way to its dynos. Plain data, ring 0.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What an app wants of encryption.
///
/// # Defaults
/// Nothing: requests are served as they come, and dynos are spoken to in the clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encryption {
    /// The port of HTTPS to which requests without encryption are sent (308). `None`: they are served.
    pub redirect: Option<u16>,
    /// The `Strict-Transport-Security` of answers under encryption (RFC 6797).
    pub hsts: Option<Box<str>>,
    /// How dynos are spoken to under encryption. `None`: in the clear.
    pub dynos: Option<Secured>,
}

impl Encryption {
    /// Sets [`redirect`](Self::redirect).
    #[must_use]
    pub fn with_redirect(mut self, port: Option<u16>) -> Self {
        self.redirect = port;
        self
    }

    /// Sets [`hsts`](Self::hsts).
    #[must_use]
    pub fn with_hsts(mut self, value: Option<Box<str>>) -> Self {
        self.hsts = value;
        self
    }

    /// Sets [`dynos`](Self::dynos).
    #[must_use]
    pub fn with_dynos(mut self, secured: Option<Secured>) -> Self {
        self.dynos = secured;
        self
    }
}

/// What makes connections to dynos secure. Ring 3 knows what it is; all others know that two with the same mark do the
/// same.
#[derive(Clone)]
pub struct Secured {
    mark: Box<str>,
    connector: Arc<dyn Any + Send + Sync>,
}

impl Secured {
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "ring 3 makes them"))]
    pub(crate) fn new(mark: &str, connector: Arc<dyn Any + Send + Sync>) -> Self {
        Self { mark: mark.into(), connector }
    }

    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "ring 3 uses them"))]
    pub(crate) fn connector<T: 'static>(&self) -> Option<&T> {
        self.connector.downcast_ref()
    }

    /// What tells it from others.
    pub fn mark(&self) -> &str {
        &self.mark
    }
}

impl PartialEq for Secured {
    fn eq(&self, other: &Self) -> bool {
        self.mark == other.mark
    }
}

impl Eq for Secured {}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("mark", &self.mark).finish_non_exhaustive()
    }
}
