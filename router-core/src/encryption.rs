//! What an app wants of encryption. Plain data, ring 0.

/// What an app wants of encryption in front of it.
///
/// # Defaults
/// Nothing: requests are served as they come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encryption {
    /// The port of HTTPS to which requests without encryption are sent (308). `None`: they are served.
    pub redirect: Option<u16>,
    /// The `Strict-Transport-Security` of answers under encryption (RFC 6797).
    pub hsts: Option<Box<str>>,
}

crate::limits::setters! {
    Encryption:
    with_redirect sets redirect: Option<u16>;
    with_hsts sets hsts: Option<Box<str>>;
}
