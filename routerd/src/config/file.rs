//! The configuration as written: every key with its meaning, default, floor and ceiling.
//!
//! These types are the one place where a key is described. From them come the JSON schema (`routerd schema`), the
//! reference (`docs/configure.md`), the bounds that `walk.rs` holds each value against, and what is
//! read. A key that is not written is empty here; `check.rs` fills in what the key's default says.

mod app;
mod door;
mod health;
mod http2;
mod tls;
mod trail;
mod web;

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use toml::Spanned;

use super::access::Role;
use super::key::{Key, Text};
use super::units::{Period, Size};

pub use self::app::{App, Order, Protocol, Queue, Retry, Timeouts};
pub use self::door::{ProxyProtocol, ProxyWord, RateLimit};
pub use self::health::{Health, ProbeWord};
pub use self::http2::Http2;
pub use self::tls::{ClientAuth, Edge, Https, MinVersion, ToDynos, Unnamed};
pub use self::trail::{Audit, State, Webhook};
pub use self::web::{BasicAuth, ErrorPage, Redirect, Sticky};

/// The keys of an app that make no sense as a default for all of them.
const OF_ONE_APP: [&str; 3] = ["hosts", "release", "dynos"];

/// How `routerd` is configured. Unknown keys are errors. Durations are written as `"5s"`, sizes as `"1MiB"`.
/// The file may have 16 MiB.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "routerd")]
pub struct File {
    /// Where clients connect, and what a client may send.
    pub server: Server,
    /// How clients are served that speak HTTP/2: over TLS those that choose it, on the listeners of `[server]` if
    /// `http2` says so there.
    pub http2: Http2,
    /// TLS in front: where clients connect for HTTPS. Without this table there is none.
    #[schemars(with = "Edge")]
    pub tls: Option<Spanned<Edge>>,
    /// Where the daemon is looked at and told what to do: `/metrics`, `/healthz`, `/readyz` and the interface below
    /// `/v1` that `routerd ctl` speaks to. Without this table there is no such listener.
    #[schemars(with = "Admin")]
    pub admin: Option<Admin>,
    /// The access log, one line a request, and the daemon's own messages on standard error.
    pub log: Log,
    /// How names of dynos are looked up.
    pub dns: Dns,
    /// The record of changes: who changed what, and how it came out. A change whose first line cannot be written is
    /// not begun. Without this table nothing is recorded.
    #[schemars(with = "Audit")]
    pub audit: Option<Audit>,
    /// What was changed through the API while the daemon ran, so that it is still so after a restart. Without this
    /// table such changes end with the daemon, and the next one starts with what the configuration file says.
    #[schemars(with = "State")]
    pub state: Option<State>,
    /// Who is told of deploys and other changes, each by a POST with a JSON body; `docs/webhooks.md` says more.
    /// Nothing ever waits for them.
    #[schemars(with = "Vec<Webhook>", extend("default" = [], "maxItems" = 16))]
    pub webhooks: Vec<Spanned<Webhook>>,
    /// Any key of an app except `hosts`, `release` and `dynos`. The app's own key wins, key by key: with
    /// `queue = { max_wait = "2s" }` an app keeps what stands here for `queue.max_bytes`.
    #[schemars(schema_with = "defaults")]
    pub defaults: App,
    /// The apps, each under its name: letters, digits, `-`, `_` and `.`, at most 100 characters. There must be
    /// one, and there may be 10,000.
    #[schemars(with = "BTreeMap<String, App>", extend("maxProperties" = 10_000))]
    pub apps: BTreeMap<Spanned<String>, App>,
}

/// `[server]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Addresses to listen on without TLS. Port 0 takes a free port, which the log names.
    #[schemars(extend("default" = ["127.0.0.1:8080"], "minItems" = 1, "maxItems" = 64, "x-unit" = "address"))]
    pub listen: Key<Vec<Text>>,
    /// The socket by which another `routerd` can take over from this one (`run --takeover`): `unix:` and its path,
    /// such as `"unix:/run/routerd/shop.handover"`, or `"off"`. Only the same user and root may. `"auto"` names it
    /// after the configuration file and puts it into `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR` or, for root, `/run`;
    /// without such a folder there is none.
    #[schemars(extend("default" = "auto"))]
    pub handover: Key<String>,
    /// How long running requests may go on after SIGTERM. What is left then is cut off.
    #[schemars(extend("default" = "30s", "x-floor" = "0s", "x-ceiling" = "1h"))]
    pub shutdown_timeout: Key<Period>,
    /// Client connections at once, over all listeners. Above it a connection is refused.
    #[schemars(extend("default" = 100_000, "minimum" = 1, "maximum" = 10_000_000))]
    pub max_connections: Key<u32>,
    /// The longest the whole head of a request may take to arrive, and the longest a keep-alive connection may
    /// be silent between two requests. Then the connection is closed.
    #[schemars(extend("default" = "60s", "x-floor" = "10ms", "x-ceiling" = "1h"))]
    pub header_timeout: Key<Period>,
    /// The longest request line: method, target and version. A longer one is answered with 414.
    #[schemars(extend("default" = "8KiB", "x-floor" = "256B", "x-ceiling" = "1MiB"))]
    pub request_line_max: Key<Size>,
    /// The longest single header line, name and value. A longer one is answered with 431.
    #[schemars(extend("default" = "8KiB", "x-floor" = "256B", "x-ceiling" = "1MiB"))]
    pub header_line_max: Key<Size>,
    /// The most header lines of a request. More are answered with 431. 100 is the cheapest: for any other number,
    /// room is made with each request.
    #[schemars(extend("default" = 1000, "minimum" = 1, "maximum" = 10_000))]
    pub headers_max: Key<u32>,
    /// The longest head of a request: its line and all its headers, and the longest trailers. A longer one is answered
    /// with 431, or 414 if its first line alone is longer. No single line can be longer than this.
    #[schemars(extend("default" = "64KiB", "x-floor" = "8KiB", "x-ceiling" = "16MiB"))]
    pub head_max: Key<Size>,
    /// Requests that one client connection may carry. The last one is answered with `Connection: close`.
    #[schemars(extend("default" = 10_000, "minimum" = 1, "maximum" = 1_000_000_000))]
    pub keepalive_requests: Key<u32>,
    /// Threads that serve requests; 0 is one for every two cores, at least one: the kernel's part of the work and
    /// dynos on the same machine need the others. More threads than there is work for cost more than they bring.
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 1024))]
    pub threads: Key<u32>,
    /// Whether a client's own `X-Request-Id` of 20 to 200 characters is kept. If not, each request gets a new one.
    #[schemars(extend("default" = true))]
    pub trusted_request_id: Key<bool>,
    /// Whether clients may speak HTTP/2 on these listeners too, from the first byte (prior knowledge).
    #[schemars(extend("default" = false))]
    pub http2: Key<bool>,
    /// Addresses and networks of the proxies in front of this daemon, such as `["10.0.0.0/8"]`. What they say of their
    /// clients is believed: X-Forwarded-For (the client is the right-most address that is no trusted proxy),
    /// X-Forwarded-Proto, -Port and -Host and Forwarded are passed on; anybody else's are replaced or dropped. The
    /// client's address stands in the log and is what limits count by. `[]` believes nobody. Without this key nobody
    /// is believed and nothing dropped, as at Heroku: the peer's address is appended to any X-Forwarded-For.
    #[schemars(extend("maxItems" = 1000, "x-unit" = "network"))]
    pub trusted_proxies: Key<Vec<Text>>,
    /// Whether connections begin with a header of the PROXY protocol, version 1 or 2, before TLS if there is TLS. It
    /// comes within `header_timeout`, and only from `trusted_proxies`; a connection that breaks this is closed and
    /// counted. The client that the header names is the peer from then on.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Key<ProxyProtocol>,
    /// Connections at once from one address, of IPv6 from one network of 64 bits; 0 is no limit. Above it a connection
    /// is answered with 429 (M12) and closed. Connections from `trusted_proxies` are not counted, unless a header of
    /// the PROXY protocol says whose they are.
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 10_000_000))]
    pub max_connections_per_ip: Key<u32>,
    /// How many bytes of bodies may be held, of all requests and answers together: in lines, in spools, and behind
    /// slow clients; 0B is no bound. While there are as many, a request with a body is refused (M13), bodies are read
    /// no further ahead, and of each answer one part at a time is kept: then slow clients hold dynos. Heads and the
    /// program itself come on top.
    #[schemars(extend("default" = "0B", "x-floor" = "0B", "x-ceiling" = "64GiB"))]
    pub memory_max: Key<Size>,
    /// The user that `routerd run` becomes when root has started it, once the listeners are open; empty: it stays
    /// root. Everything else is read and written by that user, at reloads too. Who is not root stays who they are.
    #[schemars(extend("default" = ""))]
    pub user: Key<String>,
    /// The group of that user's process; empty: the user's own. The user's further groups come with it.
    #[schemars(extend("default" = ""))]
    pub group: Key<String>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// An address, or `unix:` and the path of a socket, such as `"unix:/run/routerd.sock"`, whose mode (0660) says who
    /// may ask. On an address of this machine alone (`127.0.0.1`, `::1`) whoever reaches it may ask everything, unless
    /// there are tokens; browsers are refused. On any other address tokens and `tls` are needed.
    #[schemars(extend("default" = "127.0.0.1:9900"))]
    pub listen: Key<String>,
    /// The certificate, if the listener is to speak TLS (1.2 and 1.3).
    pub tls: TlsFiles,
    /// Who may ask, each table one token: `routerd token` makes them. As soon as there is one, each request over an
    /// address needs one (`Authorization: Bearer rtd_...`), except `/healthz` and `/readyz`. A reload puts changes in
    /// place at once.
    #[schemars(with = "Vec<Token>", extend("default" = [], "maxItems" = 1000))]
    pub tokens: Vec<Spanned<Token>>,
}

/// `tls = { ... }` of `[admin]`, and one of `tls.certificates`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsFiles {
    /// The certificate, and behind it those that sign it, in a PEM file; its path is relative to this file's folder.
    /// It is read at each reload, even if this file has not changed.
    #[schemars(extend("x-unit" = "file"))]
    pub cert: Key<String>,
    /// The certificate's private key in a PEM file. It is read together with the certificate.
    #[schemars(extend("x-unit" = "file"))]
    pub key: Key<String>,
}

/// `[[admin.tokens]]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Token {
    /// What logs and the audit trail call whoever shows the token: letters, digits, `-`, `_` and `.`, at most 100
    /// characters. Needed.
    pub name: Key<String>,
    /// The token's SHA-256, as `routerd token` prints it: `"sha256:..."`. The token itself is kept by whoever uses
    /// it. Needed.
    pub hash: Key<String>,
    /// What may be asked. Needed.
    pub role: Key<Role>,
    /// The apps that it has a say over and may see: names, or beginnings of names, as in `"team-*"`. Without this key
    /// it is all of them, and what concerns the daemon as a whole.
    #[schemars(extend("default" = ["*"], "minItems" = 1, "maxItems" = 1000, "x-unit" = "app"))]
    pub apps: Key<Vec<Text>>,
    /// Until when the token is good, in UTC, such as `"2027-01-31T00:00:00Z"`. Without this key, until it is taken out
    /// of the file.
    #[schemars(extend("x-unit" = "time"))]
    pub expires: Key<String>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How a line of the access log is written.
    #[schemars(extend("default" = "logfmt"))]
    pub format: Key<LogFormat>,
    /// Where the access log goes.
    #[schemars(extend("default" = "stdout"))]
    pub output: Key<LogOutput>,
    /// The least important of the daemon's own messages that is still written.
    #[schemars(extend("default" = "info"))]
    pub level: Key<LogLevel>,
    /// Lines that may wait for the writer. Above it a line is lost and counted; no request waits for its line.
    #[schemars(extend("default" = 65_536, "minimum" = 1, "maximum" = 1_048_576))]
    pub queue: Key<u32>,
}

/// How a line of the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `at=info method=GET path="/" host=shop.test status=200 ...`
    #[default]
    Logfmt,
    /// One JSON object a line, with the same names.
    Json,
}

/// Where the access log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Nowhere.
    Off,
}

/// Which of the daemon's own messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stops the daemon or a part of it.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happens now and then: start, stop, changes.
    #[default]
    Info,
    /// And what helps to find a fault.
    Debug,
}

/// `[dns]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers, as address or address and port (53 if none is written). Without any: the system's.
    #[schemars(extend("default" = [], "maxItems" = 16, "x-unit" = "address"))]
    pub servers: Key<Vec<Text>>,
    /// Which addresses of a name that has both A and AAAA records are dynos. One process with an address in each
    /// family must be one dyno: as two it would get two requests at once.
    #[schemars(extend("default" = "prefer-v4"))]
    pub family: Key<Family>,
    /// An answer is kept for at least this long, whatever its TTL says. It cannot be more than `max_ttl`; the
    /// default is `max_ttl` where that is less.
    #[schemars(extend("default" = "1s", "x-floor" = "100ms", "x-ceiling" = "1h"))]
    pub min_ttl: Key<Period>,
    /// An answer is asked for again after this long, whatever its TTL says.
    #[schemars(extend("default" = "5m", "x-floor" = "100ms", "x-ceiling" = "24h"))]
    pub max_ttl: Key<Period>,
    /// The longest one question to one server may take. Then the next attempt is made.
    #[schemars(extend("default" = "2s", "x-floor" = "10ms", "x-ceiling" = "1m"))]
    pub timeout: Key<Period>,
    /// How often a question is asked before the last good answer is kept for another while.
    #[schemars(extend("default" = 2, "minimum" = 1, "maximum" = 10))]
    pub attempts: Key<u32>,
    /// The share of an app's dynos that one answer may take away, from 0 to 1. An answer that takes more is
    /// believed once it has been seen `max_removal_confirm` times in a row.
    #[schemars(extend("default" = 0.5, "minimum" = 0, "maximum" = 1))]
    pub max_removal: Key<f64>,
    /// How often in a row an answer must be seen that takes away more than `max_removal`; 1 believes it at once.
    #[schemars(extend("default" = 3, "minimum" = 1, "maximum" = 100))]
    pub max_removal_confirm: Key<u32>,
}

/// Which addresses of a name that has both A and AAAA records are dynos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Those of the A records if there are any, else those of the AAAA records.
    #[default]
    PreferV4,
    /// Those of the AAAA records if there are any, else those of the A records.
    PreferV6,
    /// All of them, each a dyno of its own: only where no process has an address in both families.
    Both,
}

/// The keys of an app that may stand in `[defaults]`.
fn defaults(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = App::json_schema(generator);
    if let Some(properties) = schema.get_mut("properties").and_then(|value| value.as_object_mut()) {
        properties.retain(|key, _| !OF_ONE_APP.contains(&key.as_str()));
    }
    schema
}

/// The JSON schema of the file, without references: each table is described where it stands.
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<File>()
}
