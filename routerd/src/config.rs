//! The checked configuration, as types: what holds a [`Config`] holds one in which every value is legal.
//!
//! The way to one: text → [`file::File`] as written (parsed by `toml`, held against the schema by `walk`, so that
//! all mistakes of a file are reported at once) → `check` → `Config`.

pub mod access;
pub mod acme;
pub mod auth;
pub mod cert;
mod check;
pub mod compression;
pub mod deploy;
pub mod diff;
pub mod door;
pub mod dyno;
pub mod edge;
pub mod error;
pub mod event;
pub mod file;
pub mod health;
pub mod host;
pub mod http2;
pub mod key;
pub mod plan;
pub mod reference;
mod spool;
mod trail;
pub mod tls;
pub mod token;
pub mod pages;
pub mod redirects;
pub mod sticky;
pub mod units;
mod upstream;
mod walk;
pub mod web;

use std::fmt;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use router_core::change::AppSpec;
use router_core::dns::Families;
use router_core::ids::AppId;
use router_core::policy::deploy::Plan;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

pub use self::access::{Role, Scope};
pub use self::acme::Acme;
pub use self::door::{Admission, Networks, ProxyProtocol};
pub use self::dyno::DynoSource;
pub use self::edge::Edge;
pub use self::error::{ConfigError, Problem};
pub use self::file::{LogFormat, LogLevel, LogOutput};
pub use self::health::Health;
pub use self::http2::Http2;
pub use self::tls::Tls;
pub use self::token::Token;
pub use self::trail::{Audit, Secret, State, Webhook};
pub use self::web::Web;

/// A configuration file may have this many bytes.
pub const FILE_MAX: usize = 16 << 20;

/// A configuration in which every value is legal.
///
/// ```
/// use routerd::config::Config;
///
/// let config = Config::parse("[apps.shop]\ndynos = ['127.0.0.1:3001']\n", "shop.toml")?;
/// assert_eq!(config.apps[0].spec.hosts, ["*"]);
///
/// let error = Config::parse("[apps.shop]\ndyno = ['127.0.0.1:3001']\n", "shop.toml").unwrap_err();
/// assert!(error.to_string().starts_with("shop.toml:2:1: unknown key `dyno` in [apps.shop] (did you mean `dynos`?"));
/// # Ok::<(), routerd::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The listeners, and what a client may send.
    pub server: Server,
    /// HTTP/2 in front.
    pub http2: Http2,
    /// TLS in front, if there is to be any.
    pub tls: Option<Edge>,
    /// Where certificates come from that are in no file, if they are to come.
    pub acme: Option<Arc<Acme>>,
    /// The admin listener, if there is to be one.
    pub admin: Option<Admin>,
    /// The access log and the daemon's own messages.
    pub log: Log,
    /// How names of dynos are looked up.
    pub dns: Dns,
    /// Where changes are written down, if they are to be.
    pub audit: Option<Audit>,
    /// Where the state is kept over a restart, if it is to be.
    pub state: Option<State>,
    /// Who is told of events, in the order of the file.
    pub webhooks: Vec<Webhook>,
    /// The apps, ordered by name; at least one.
    pub apps: Vec<App>,
}

/// The listeners, and what a client may send. The keys are described in [`file::Server`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    pub handover: Handover,
    pub shutdown_timeout: Duration,
    pub max_connections: usize,
    pub header_timeout: Duration,
    pub send_timeout: Duration,
    pub request_line_max: usize,
    pub header_line_max: usize,
    pub headers_max: usize,
    pub head_max: usize,
    pub keepalive_requests: u32,
    /// Threads that serve requests; 0 is one for every two cores.
    pub threads: usize,
    pub trusted_request_id: bool,
    pub http2: bool,
    /// `None`: none is named.
    pub trusted_proxies: Option<Networks>,
    pub proxy_protocol: ProxyProtocol,
    /// 0: any number.
    pub max_connections_per_ip: u32,
    /// In bytes; 0: any number.
    pub memory_max: u64,
    /// Where bodies on disk are.
    pub spool_dir: PathBuf,
    /// In bytes; 0: any number.
    pub disk_max: u64,
    /// Whom root becomes; `None`: it stays root.
    pub user: Option<String>,
    /// `None`: the user's own.
    pub group: Option<String>,
}

/// The admin interface. The keys are described in [`file::Admin`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Admin {
    /// Where it listens. Other machines reach it only if there are tokens and TLS.
    pub listen: AdminListen,
    /// Who may ask; empty: whoever reaches it.
    pub tokens: Vec<Token>,
    /// Its certificate, if it speaks TLS.
    pub tls: Option<Tls>,
}

/// Where another process can take over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// Where the program chooses: see [`default_socket`](crate::handover::default_socket).
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// At a socket in the file system.
    At(PathBuf),
}

/// Where the admin interface listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// On an address.
    Tcp(SocketAddr),
    /// On a socket in the file system.
    Unix(PathBuf),
}

/// The access log and the daemon's own messages. The keys are described in [`file::Log`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Log {
    pub format: LogFormat,
    pub output: LogOutput,
    pub level: LogLevel,
    pub queue: usize,
}

/// How names of dynos are looked up. The keys are described in [`file::Dns`].
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is the key of the same name, described there")]
#[non_exhaustive]
pub struct Dns {
    /// Name servers; empty: the system's.
    pub servers: Vec<SocketAddr>,
    pub family: Families,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    pub timeout: Duration,
    pub attempts: usize,
    pub max_removal: f64,
    pub max_removal_confirm: u32,
}

/// An app and where its dynos come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct App {
    /// Name, hosts (in one form: lower case, A-labels), release and limits.
    pub spec: AppSpec,
    /// Requests that one dyno serves at once.
    pub concurrency: u32,
    /// How dynos are probed.
    pub health: Health,
    /// Where the dynos come from; no address or name is in two apps, or twice in one.
    pub dynos: Vec<DynoSource>,
    /// How a new release replaces the present one.
    pub plan: Plan,
    /// Who is let in, and how often.
    pub admission: Admission,
    /// What it shows the world.
    pub web: Web,
}

impl Config {
    /// The app of that name.
    pub fn app(&self, id: &AppId) -> Option<&App> {
        // Ordered by name.
        let at = self.apps.binary_search_by(|app| app.spec.id.cmp(id)).ok()?;
        self.apps.get(at)
    }

    /// Reads and checks a configuration. `file_name` is what the messages call it; relative paths in it begin at the
    /// folder in that name. Secrets are read from the files and variables that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        Self::parse_in(text, file_name, folder_of(Path::new(file_name)))
    }

    fn parse_in(text: &str, file_name: &str, base: &Path) -> Result<Self, ConfigError> {
        let failed = |problems| ConfigError::new(file_name, text, problems);
        if text.len() > FILE_MAX {
            return Err(ConfigError::new(file_name, "", vec![too_big()]));
        }
        let mut root = match DeTable::parse(text) {
            Ok(root) => root,
            // Of a large file the first one is enough: millions of them would take gigabytes.
            Err(first) if text.len() > 1 << 20 => return Err(failed(vec![syntax(&first)])),
            Err(_) => return Err(failed(DeTable::parse_recoverable(text).1.iter().map(syntax).collect())),
        };
        let mut problems = Vec::new();
        walk::table(&SCHEMA, root.get_mut(), "", &mut problems);
        give_defaults(root.get_mut());
        let whole = problems.is_empty();
        let file = match file::File::deserialize(toml::Deserializer::from(root)) {
            Ok(file) => file,
            Err(error) => {
                problems.push(syntax(&error));
                return Err(failed(problems));
            }
        };
        let config = check::Checker::new(&mut problems, whole, base).config(&file);
        if problems.is_empty() { Ok(config) } else { Err(failed(problems)) }
    }

    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// Why the file cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let failed = |problem| ConfigError::new(&name, "", vec![problem]);
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| failed(Problem::of_file(format!("the file cannot be read: {error}"))))?;
        if bytes.len() > FILE_MAX {
            return Err(failed(too_big()));
        }
        Self::parse_bytes_in(&bytes, &name, folder_of(path))
    }

    /// Like [`parse`](Self::parse), for bytes that may be no text.
    ///
    /// # Errors
    /// Where the bytes stop being UTF-8, or everything that is wrong with the text.
    pub fn parse_bytes(bytes: &[u8], file_name: &str) -> Result<Self, ConfigError> {
        Self::parse_bytes_in(bytes, file_name, folder_of(Path::new(file_name)))
    }

    fn parse_bytes_in(bytes: &[u8], file_name: &str, base: &Path) -> Result<Self, ConfigError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse_in(text, file_name, base),
            Err(error) => {
                let at = error.valid_up_to();
                // The replacement character, which takes the byte's place, has three bytes.
                let problem = Problem::new(at..at + 3, "the file is no UTF-8 text").found("this byte");
                let text = String::from_utf8_lossy(bytes);
                Err(ConfigError::new(file_name, &text, vec![problem]))
            }
        }
    }

    /// The configuration in a few words: `2 apps, 3 listeners, 4 dynos, 1 name to look up`.
    pub fn summary(&self) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let sources = || self.apps.iter().flat_map(|app| &app.dynos);
        let dynos = sources().filter(|source| matches!(source, DynoSource::Address(_))).count();
        let secure = self.tls.as_ref().map_or(0, |tls| tls.listen.len());
        let listeners = self.server.listen.len() + secure + usize::from(self.admin.is_some());
        let mut parts =
            vec![count(self.apps.len(), "app"), count(listeners, "listener"), count(dynos, "dyno")];
        match sources().count() - dynos {
            0 => {}
            1 => parts.push("1 name to look up".to_owned()),
            names => parts.push(format!("{names} names to look up")),
        }
        parts.join(", ")
    }
}

/// The schema of the file, made once.
static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| file::schema().to_value());

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or_else(|| Path::new(""))
}

fn too_big() -> Problem {
    Problem::of_file("the file is larger than 16 MiB")
}

/// What `toml` found wrong.
fn syntax(error: &toml::de::Error) -> Problem {
    let message = error.message().replace('\n', ", ");
    match error.span() {
        Some(span) => Problem::new(span, message),
        None => Problem::of_file(message),
    }
}

/// Gives each app the keys of `[defaults]` that it does not have itself.
fn give_defaults(root: &mut DeTable<'_>) {
    let Some(defaults) = root.get("defaults").cloned() else { return };
    let (DeValue::Table(defaults), Some(apps)) = (defaults.get_ref(), root.get_mut("apps")) else { return };
    let DeValue::Table(apps) = apps.get_mut() else { return };
    for (_, app) in apps.iter_mut() {
        if let DeValue::Table(app) = app.get_mut() {
            fill(app, defaults);
        }
    }
}

fn fill<'i>(own: &mut DeTable<'i>, defaults: &DeTable<'i>) {
    for (key, default) in defaults.iter() {
        match (own.get_mut(key.get_ref().as_ref()).map(|value| value.get_mut()), default.get_ref()) {
            (None, _) => {
                own.insert(key.clone(), default.clone());
            }
            (Some(DeValue::Table(own)), DeValue::Table(defaults)) => fill(own, defaults),
            (Some(_), _) => {}
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            handover: Handover::default(),
            shutdown_timeout: Duration::from_secs(30),
            max_connections: 100_000,
            header_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            request_line_max: 8 << 10,
            header_line_max: 8 << 10,
            headers_max: 1000,
            head_max: 64 << 10,
            keepalive_requests: 10_000,
            threads: 0,
            trusted_request_id: true,
            http2: false,
            trusted_proxies: None,
            proxy_protocol: ProxyProtocol::Off,
            max_connections_per_ip: 0,
            memory_max: 0,
            spool_dir: spool::folder(),
            disk_max: 0,
            user: None,
            group: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            output: LogOutput::default(),
            level: LogLevel::default(),
            queue: 65_536,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            family: Families::default(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            attempts: 2,
            max_removal: 0.5,
            max_removal_confirm: 3,
        }
    }
}

impl Default for AdminListen {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)))
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::At(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for AdminListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
