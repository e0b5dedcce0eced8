//! The words of discovery: where the dynos of an app come from, what an answer is, and the bounds on it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::Address;

/// Where dynos of an app come from, as it stands in the config.
///
/// ```
/// use router_core::policy::records::Source;
///
/// let source: Source = "dns:web.shop.internal:3000".parse()?;
/// assert_eq!(source, Source::Dns { host: "web.shop.internal".into(), port: 3000 });
/// assert_eq!("srv:_http._tcp.shop.internal".parse::<Source>()?.to_string(), "srv:_http._tcp.shop.internal");
/// assert!("dns:10.0.0.7:3000".parse::<Source>().is_err());
/// # Ok::<(), router_core::policy::records::SourceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// One dyno at a known address.
    Address(Address),
    /// A dyno at each address (A, AAAA) of the name.
    Dns {
        /// The name; a final dot keeps the system's search list off it.
        host: Arc<str>,
        /// The port of every dyno.
        port: u16,
    },
    /// A dyno at each address of each target of the service (SRV).
    Srv {
        /// The name of the service, for example `_http._tcp.shop.internal`.
        name: Arc<str>,
    },
}

impl Source {
    /// Whether a resolver has to be asked.
    pub fn is_asked(&self) -> bool {
        !matches!(self, Self::Address(_))
    }

    /// The name without its kind and port: the first half of the names of its dynos.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Dns { host: name, .. } | Self::Srv { name } => name.trim_end_matches('.').to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Dns { host, port } => write!(f, "dns:{host}:{port}"),
            Self::Srv { name } => write!(f, "srv:{name}"),
        }
    }
}

/// Why a text names no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceError {
    /// Neither an address with a port nor `dns:NAME:PORT` nor `srv:NAME`.
    BadAddress,
    /// The port is missing, not a number, or 0.
    BadPort,
    /// No dyno can be reached there: unspecified, multicast, broadcast or IPv4 written as IPv6.
    UnusableAddress,
    /// Not a host name: letters, digits, `-` and `_` in labels of 1 to 63, 253 characters in all.
    BadName,
    /// An address behind `dns:` or `srv:`.
    AddressAsName,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadAddress => "expected IP:PORT, dns:NAME:PORT or srv:NAME",
            Self::BadPort => "expected a port from 1 to 65535",
            Self::UnusableAddress => "no dyno can be reached at this address",
            Self::BadName => "expected a host name",
            Self::AddressAsName => "an address is written as IP:PORT, without a kind before it",
        })
    }
}

impl std::error::Error for SourceError {}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if let Some(rest) = text.strip_prefix("dns:") {
            if rest.parse::<IpAddr>().is_ok() || rest.parse::<Address>().is_ok() {
                return Err(SourceError::AddressAsName);
            }
            let (host, port) = rest.rsplit_once(':').ok_or(SourceError::BadPort)?;
            let port = port.parse().ok().filter(|port| *port != 0).ok_or(SourceError::BadPort)?;
            return Ok(Self::Dns { host: host_name(host)?, port });
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return Ok(Self::Srv { name: host_name(name)? });
        }
        let address: Address = text.parse().map_err(|_| SourceError::BadAddress)?;
        if address.port() == 0 {
            return Err(SourceError::BadPort);
        }
        if !is_usable(address.ip()) {
            return Err(SourceError::UnusableAddress);
        }
        Ok(Self::Address(address))
    }
}

/// Checks the name and writes it in lower case, so that one name is one source.
fn host_name(name: &str) -> Result<Arc<str>, SourceError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.parse::<IpAddr>().is_ok() {
        return Err(SourceError::AddressAsName);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if bare.len() > 253 || !bare.split('.').all(label) {
        return Err(SourceError::BadName);
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Whether a connection to this address can mean one dyno.
pub(super) fn is_usable(ip: IpAddr) -> bool {
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || mapped || broadcast)
}

/// Which addresses of a name that has A and AAAA records are dynos.
///
/// A host that has both is one process with two addresses, and two dynos would mean two requests at once for it.
/// So one family serves unless the operator says that the two name different processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 if the name has any, else IPv6.
    #[default]
    PreferV4,
    /// IPv6 if the name has any, else IPv4.
    PreferV6,
    /// All of them: no process has an address in both families.
    Both,
}

/// Bounds on what answers may do to an app.
///
/// | field | default | held within | at the limit |
/// |---|---|---|---|
/// | `min_ttl` | 1 s | 100 ms to 1 day | a shorter TTL counts as this |
/// | `max_ttl` | 5 min | `min_ttl` to 1 day | a longer TTL counts as this |
/// | `max_removal` | 0.5 | 0 to 1 | a larger removal waits for `confirm` answers |
/// | `confirm` | 3 | 1 and more | the removal is done |
/// | `max_addresses` | 1000 | 1 and more | the rest is left out and counted |
/// | `max_targets` | 100 | 1 and more | the rest is left out and counted |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The shortest time between two asks for a name.
    pub min_ttl: Duration,
    /// The longest time between two asks for a name.
    pub max_ttl: Duration,
    /// The share of a source's dynos that one answer may take away at once.
    pub max_removal: f64,
    /// How many answers in a row must leave a dyno out before it goes in a larger removal.
    pub confirm: u32,
    /// How many addresses a source may give.
    pub max_addresses: usize,
    /// How many targets of a service are asked for.
    pub max_targets: usize,
    /// What becomes of names with both kinds of address.
    pub families: Families,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            max_removal: 0.5,
            confirm: 3,
            max_addresses: 1000,
            max_targets: 100,
            families: Families::default(),
        }
    }
}

impl Bounds {
    /// The same bounds with every value inside its limits.
    #[must_use]
    pub fn clamped(self) -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        let min_ttl = self.min_ttl.clamp(Duration::from_millis(100), DAY);
        // NaN is no share; the default is the safe reading of it.
        let share = if self.max_removal.is_nan() { 0.5 } else { self.max_removal.clamp(0.0, 1.0) };
        Self {
            min_ttl,
            max_ttl: self.max_ttl.clamp(min_ttl, DAY),
            max_removal: share,
            confirm: self.confirm.max(1),
            max_addresses: self.max_addresses.max(1),
            max_targets: self.max_targets.max(1),
            families: self.families,
        }
    }
}

/// Why a name gave nothing to go by. None of them takes a dyno away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Failure {
    /// The name exists and has no such record.
    Empty,
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// The records that came cannot be dynos: see [`SourceStatus::unusable`](super::SourceStatus::unusable).
    Unusable,
    /// Not asked to the end, because the other family had answered and serves.
    NotNeeded,
    /// The resolver failed (SERVFAIL).
    ServerFailed,
    /// The resolver did not want to (REFUSED).
    Refused,
    /// The resolver answered with another error code, or what it answered cannot be read.
    BadAnswer,
    /// The answer did not fit and could not be had over TCP.
    Truncated,
    /// No answer in time.
    Timeout,
    /// No resolver can be reached, or none is configured.
    Unreachable,
    /// The name cannot be asked for.
    BadName,
    /// The asking ended without a result: a fault of the router.
    Lost,
}

impl Failure {
    /// The failure as a word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NoSuchName => "nxdomain",
            Self::Unusable => "unusable",
            Self::NotNeeded => "not_needed",
            Self::ServerFailed => "servfail",
            Self::Refused => "refused",
            Self::BadAnswer => "bad_answer",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::BadName => "bad_name",
            Self::Lost => "lost",
        }
    }

    /// Whether the resolver said that there is no such record, as opposed to saying nothing of use.
    pub(super) fn is_absence(self) -> bool {
        matches!(self, Self::Empty | Self::NoSuchName | Self::Unusable)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Records of one kind and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// The records, in any order, duplicates and all.
    pub records: Vec<T>,
    /// The shortest TTL among them and the aliases that led to them.
    pub ttl: Duration,
}

/// What came back for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAnswer {
    /// Its A records.
    pub v4: Result<Found<Ipv4Addr>, Failure>,
    /// Its AAAA records.
    pub v6: Result<Found<Ipv6Addr>, Failure>,
}

impl HostAnswer {
    /// The same failure for both families.
    pub fn failed(failure: Failure) -> Self {
        Self { v4: Err(failure), v6: Err(failure) }
    }
}

/// One SRV record. Ordered as it is to be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Groups of a lower number serve first.
    pub priority: u16,
    /// 0 beside targets of the same priority that have a weight: stands by. Otherwise without effect.
    pub weight: u16,
    /// The host, without its final dot, in lower case.
    pub host: Arc<str>,
    /// The port of the dynos there.
    pub port: u16,
}

/// What came back for a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// For a [`Source::Dns`].
    Host(HostAnswer),
    /// For a [`Source::Srv`]: its records, and what came back for each target that was asked for.
    Service(Result<Found<Target>, Failure>, Vec<(Arc<str>, HostAnswer)>),
    /// For either: no result at all.
    Failed(Failure),
}
