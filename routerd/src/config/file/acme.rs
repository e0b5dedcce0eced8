//! The table about certificates by ACME, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;
use crate::config::units::Period;

/// `[acme]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// The directory of the CA, an `https://` URL. Let's Encrypt's for trials is
    /// `https://acme-staging-v02.api.letsencrypt.org/directory`.
    #[schemars(extend("default" = "https://acme-v02.api.letsencrypt.org/directory"))]
    pub directory: Key<String>,
    /// That you accept the CA's terms of service. `true` is needed.
    #[schemars(extend("default" = false))]
    pub accept_terms: Key<bool>,
    /// Where the CA may write to, about certificates that end and the like.
    pub email: Key<String>,
    /// The folder of the account and the certificates. It is made if it is not there, and nobody but this user may look
    /// into it (mode 0700). A relative path begins at the folder of the configuration file.
    #[schemars(extend("default" = "routerd-acme"))]
    pub storage: Key<String>,
    /// How a host is proven to be served here, the preferred way first: the first one that the CA offers is taken.
    /// `"tls-alpn-01"` needs `tls.listen` to be reached on port 443 of the host, `"http-01"` needs `server.listen` on
    /// port 80.
    #[schemars(extend("default" = ["tls-alpn-01", "http-01"], "minItems" = 1, "maxItems" = 2))]
    pub challenges: Key<Vec<Challenge>>,
    /// How long before its end a certificate is renewed. One that does not live that long is renewed as without this
    /// key: when two thirds of its life are over, or half of it if it lives for less than ten days. A CA that says
    /// itself when to renew (ARI, RFC 9773) is followed.
    #[schemars(extend("x-floor" = "1m", "x-ceiling" = "365d"))]
    pub renew_before: Key<Period>,
    /// Whether a host's first certificate is ordered when a client names the host in a handshake for the first time,
    /// and not as soon as the host is in the configuration. Until it has come, clients get one that nobody trusts.
    #[schemars(extend("default" = false))]
    pub on_demand: Key<bool>,
    /// A PEM file with the certificates of those who sign the CA's own HTTPS. Without this key whom the system trusts
    /// is trusted. Read at the start and at each reload.
    #[schemars(extend("x-unit" = "file"))]
    pub ca: Key<String>,
    /// External account binding, which some CAs want: what they call the key they gave you.
    pub eab_kid: Key<String>,
    /// The file with that key, in base64url as the CA gives it out. Needed with `eab_kid`.
    #[schemars(extend("x-unit" = "file"))]
    pub eab_key_file: Key<String>,
}

/// A way to prove that a host is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Challenge {
    /// A text below `/.well-known/acme-challenge/`, over HTTP (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate, in a TLS handshake (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Challenge {
    /// Its name in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}
