//! The table about certificates by ACME, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;

/// `[acme]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// The directory of the CA. Let's Encrypt's for trials is `https://acme-staging-v02.api.letsencrypt.org/directory`.
    #[schemars(extend("default" = "https://acme-v02.api.letsencrypt.org/directory"))]
    pub directory: Key<String>,
    /// That you accept the CA's terms of service: without `true` nothing is ordered.
    #[schemars(extend("default" = false))]
    pub accept_terms: Key<bool>,
    /// Where the CA may write to, about certificates that end and the like.
    pub email: Key<String>,
    /// The folder of the account and the certificates, which this user alone may read (mode 0700, made if it is not
    /// there). A relative path begins at the folder of the configuration file.
    #[schemars(extend("default" = "routerd-acme"))]
    pub storage: Key<String>,
    /// How a host is proven to be served here, the preferred way first. `"tls-alpn-01"` needs `[tls]` to be reached on
    /// port 443, `"http-01"` needs `server.listen` to be reached on port 80.
    #[schemars(extend("default" = ["tls-alpn-01", "http-01"], "minItems" = 1, "maxItems" = 2))]
    pub challenges: Key<Vec<Challenge>>,
    /// When the first certificate of a host is ordered.
    #[schemars(extend("default" = "at_start"))]
    pub issue: Key<Issue>,
    /// A PEM file with the root certificate of the CA's own HTTPS, if this system does not know it.
    pub ca_file: Key<String>,
    /// External account binding, which some CAs want: the id of the key they gave you.
    pub eab_kid: Key<String>,
    /// The file with that key, in base64url as the CA gives it.
    pub eab_key_file: Key<String>,
}

/// A way to prove that a host is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Challenge {
    /// A file below `/.well-known/acme-challenge/`, over HTTP on port 80 (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate, in a TLS handshake on port 443 (RFC 8737).
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

/// When the first certificate of a host is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Issue {
    /// As soon as the host is in the configuration.
    #[default]
    AtStart,
    /// When a client asks for the host for the first time; until it has come, the client gets one that nobody trusts.
    OnDemand,
}

impl Issue {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtStart => "at_start",
            Self::OnDemand => "on_demand",
        }
    }
}
