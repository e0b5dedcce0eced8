//! The table about TLS in front, as written.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::TlsFiles;
use crate::config::key::{Key, Text};
use crate::config::units::Period;

/// `[tls]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// Addresses to listen on for HTTPS. Port 0 takes a free port, which the log names.
    #[schemars(extend("default" = ["127.0.0.1:8443"], "minItems" = 1, "maxItems" = 64, "x-unit" = "address"))]
    pub listen: Key<Vec<Text>>,
    /// The certificates, each with its key. A certificate is served for the names in it (subjectAltName), an exact name
    /// before `*.`, which stands for one label; several may have the same name with keys of different kinds, and a
    /// client gets the one it can use, ECDSA first. The files are looked at twice a second: a changed pair serves new
    /// connections, and one that is no good is reported and the old one goes on. At least one is needed
    /// unless there is `[acme]`.
    #[schemars(with = "Vec<TlsFiles>", extend("default" = [], "maxItems" = 1000))]
    pub certificates: Vec<Spanned<TlsFiles>>,
    /// What a client gets that names no host, or one that no certificate has.
    #[schemars(extend("default" = "first"))]
    pub default: Key<Unnamed>,
    /// The oldest version of TLS that is spoken.
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Key<MinVersion>,
    /// The longest a handshake may take, from the connection to its end. Then the connection is closed.
    #[schemars(extend("default" = "10s", "x-floor" = "10ms", "x-ceiling" = "5m"))]
    pub handshake_timeout: Key<Period>,
    /// Handshakes that may wait for their turn, over all listeners: the step that costs is done for few at once, so
    /// that many of them leave other work alone. What comes then is closed. 0 is 100 for every core.
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 1_000_000))]
    pub handshakes: Key<u32>,
    /// Whether clients show a certificate, signed by `client_ca`. A dyno gets it as `Client-Cert` (RFC 9440) and, as
    /// soon as clients may have one, `X-Client-Verify` with `SUCCESS` or `NONE`; what a client sends under these names
    /// is always taken away.
    #[schemars(extend("default" = "off"))]
    pub client_auth: Key<ClientAuth>,
    /// A PEM file with the certificates of those who sign the certificates of clients. Needed unless `client_auth` is
    /// off. Read at the start and at each reload.
    #[schemars(extend("x-unit" = "file"))]
    pub client_ca: Key<String>,
}

/// What a client gets that names no host, or one that no certificate has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unnamed {
    /// The first certificate of the list; without a list, the first one by ACME.
    #[default]
    First,
    /// No connection: the handshake ends with the alert `unrecognized_name`. A client that names no host gets the
    /// certificate for the address it has connected to, if there is one.
    Strict,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3 alone.
    #[serde(rename = "1.3")]
    V13,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; who has none is served too, and one that is not good ends the handshake.
    Optional,
    /// Who has none is not served.
    Required,
}

/// `https = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Https {
    /// Whether requests that come without encryption are sent to `https://` (308), with their host, path and query.
    #[schemars(extend("default" = false))]
    pub redirect: Key<bool>,
    /// The port to which they are sent. Without this key, that of the first address in `tls.listen`.
    #[schemars(extend("minimum" = 1, "maximum" = 65_535))]
    pub port: Key<u16>,
    /// For how long browsers are told to ask for the app's hosts over HTTPS alone (`Strict-Transport-Security`), with
    /// each answer under encryption; what a dyno says of it itself stays. `"0s"` takes it back. Without this key
    /// nothing is said.
    #[schemars(extend("x-floor" = "0s", "x-ceiling" = "3650d"))]
    pub hsts: Key<Period>,
    /// Whether that holds for all hosts below those of the app too.
    #[schemars(extend("default" = false))]
    pub hsts_subdomains: Key<bool>,
}

/// `tls = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToDynos {
    /// Whether dynos are spoken to with TLS, by requests and probes. A dyno whose certificate is not good is one that
    /// does not accept connections; there is no way not to look at it.
    #[schemars(extend("default" = false))]
    pub to_dyno: Key<bool>,
    /// With `to_dyno`: the name that the certificate of each dyno must have, such as `"shop.internal"`. Without this
    /// key it must have the dyno's address.
    #[schemars(extend("x-unit" = "name"))]
    pub name: Key<String>,
    /// With `to_dyno`: a PEM file with the certificates of those who sign the dynos' certificates. Without this key
    /// whom the system trusts is trusted. Read at the start and at each reload.
    #[schemars(extend("x-unit" = "file"))]
    pub ca: Key<String>,
}
