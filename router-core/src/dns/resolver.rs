//! Asks a resolver for A, AAAA and SRV records, within a bounded time, and says in plain words what came back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{IntoName, Name, RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::policy::records::{
    Answer, Bounds, Failure, Families, Found, HostAnswer, Source, Target, hosts_to_ask,
};
use crate::sync::Mutex;

/// Lookups under way at the same time: each holds a socket, and sockets are what requests need.
const MAX_LOOKUPS: usize = 256;

/// How long the system's resolv.conf and hosts file are taken to be as they were read.
const SYSTEM_CONFIG_AGE: Duration = Duration::from_secs(30);

/// Whom to ask and how long to wait.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// Resolvers, asked over UDP and, when an answer does not fit, over TCP. None (default): the system's
    /// resolv.conf and hosts file, which are read again when they are older than 30 s.
    pub servers: Vec<SocketAddr>,
    /// The longest wait for one try; default 2 s, held within 10 ms to 1 min.
    pub timeout: Duration,
    /// How often a lookup is tried; default 2, held within 1 to 10.
    pub tries: u32,
    /// What answers may do.
    pub bounds: Bounds,
}

impl Default for Settings {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self { servers: Vec::new(), timeout: Duration::from_secs(2), tries: 2, bounds }
    }
}

impl Settings {
    /// The same settings with other [`servers`](Self::servers).
    #[must_use]
    pub fn with_servers(mut self, servers: Vec<SocketAddr>) -> Self {
        self.servers = servers;
        self
    }

    /// The same settings with another [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same settings with other [`tries`](Self::tries).
    #[must_use]
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// The same settings with other [`bounds`](Self::bounds).
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    fn clamped(mut self) -> Self {
        self.timeout = self.timeout.clamp(Duration::from_millis(10), Duration::from_secs(60));
        self.tries = self.tries.clamp(1, 10);
        self.bounds = self.bounds.clamped();
        self
    }
}

/// Asks for names. Clones share sockets, what is known of the servers, and the bound on lookups under way (256).
///
/// Without a cache of its own: each ask goes to a server, and the TTL that comes back is what is left of the record.
/// The sources are asked no more often than their TTL says anyway.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    settings: Settings,
    pool: Mutex<Option<(Pool, Instant)>>,
    lookups: Semaphore,
}

/// hickory's resolvers for one configuration.
#[derive(Clone)]
struct Pool {
    /// All servers, two at a time, the quick ones first.
    all: TokioResolver,
    /// Each server alone, if there are several. The pool takes an error such as SERVFAIL for the answer when it
    /// is the first to come; another server may know better.
    alone: Arc<[TokioResolver]>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.settings).finish()
    }
}

impl Resolver {
    /// A resolver that has asked for nothing yet. The system's configuration is read at the first ask; if it cannot
    /// be read then, the ask ends as [`Failure::Unreachable`].
    pub fn new(settings: Settings) -> Self {
        let (settings, lookups) = (settings.clamped(), Semaphore::new(MAX_LOOKUPS));
        Self(Arc::new(Inner { settings, pool: Mutex::new(None), lookups }))
    }

    /// The settings, held within their limits.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The longest that [`ask`](Self::ask) takes: a service is two lookups one after the other, each with its tries
    /// and one more time-out for what single servers say when the first to answer has failed.
    pub fn longest_ask(&self) -> Duration {
        self.longest_lookup() * 2
    }

    fn longest_lookup(&self) -> Duration {
        self.0.settings.timeout * (self.0.settings.tries + 1)
    }

    /// Asks for all that the source names. Ends within [`longest_ask`](Self::longest_ask).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends its lookups; nothing else changes.
    pub async fn ask(&self, source: &Source) -> Answer {
        match source {
            Source::Address(_) => Answer::Failed(Failure::BadName),
            Source::Dns { host, .. } => Answer::Host(self.host(host).await),
            Source::Srv { name } => self.service(name).await,
        }
    }

    async fn service(&self, name: &str) -> Answer {
        let found = match self.lookup(name, RecordType::SRV).await {
            Ok(lookup) => found(&lookup, target),
            Err(failure) => return Answer::Service(Err(failure), Vec::new()),
        };
        let mut asks = JoinSet::new();
        for host in hosts_to_ask(found.records.clone(), &self.0.settings.bounds) {
            let resolver = self.clone();
            asks.spawn(async move {
                // Absolute: the search list is for names that people type.
                let answer = resolver.host(&format!("{host}.")).await;
                (host, answer)
            });
        }
        let mut hosts = Vec::new();
        while let Some(joined) = asks.join_next().await {
            // A host whose task was lost counts as failed, since it has no answer.
            hosts.extend(joined.ok());
        }
        Answer::Service(Ok(found), hosts)
    }

    /// A and AAAA side by side. Where one family is preferred and has records, the other is not waited for.
    async fn host(&self, host: &str) -> HostAnswer {
        let mut v4 = std::pin::pin!(self.addresses(host, RecordType::A, ipv4));
        let mut v6 = std::pin::pin!(self.addresses(host, RecordType::AAAA, ipv6));
        let families = self.0.settings.bounds.families;
        tokio::select! {
            v4 = &mut v4 => {
                let enough = families == Families::PreferV4 && has_records(&v4);
                let v6 = if enough { Err(Failure::NotNeeded) } else { v6.await };
                HostAnswer { v4, v6 }
            }
            v6 = &mut v6 => {
                let enough = families == Families::PreferV6 && has_records(&v6);
                let v4 = if enough { Err(Failure::NotNeeded) } else { v4.await };
                HostAnswer { v4, v6 }
            }
        }
    }

    async fn addresses<T>(
        &self,
        host: &str,
        kind: RecordType,
        pick: fn(&RData) -> Option<T>,
    ) -> Result<Found<T>, Failure> {
        self.lookup(host, kind).await.map(|lookup| found(&lookup, pick))
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, Failure> {
        let name: Name = name.into_name().map_err(|_| Failure::BadName)?;
        let end = Instant::now() + self.longest_lookup();
        let looked_up = timeout_at(end, async {
            let _permit = self.0.lookups.acquire().await.map_err(|_| Failure::Lost)?;
            let pool = self.pool().await?;
            let tried =
                timeout(self.0.settings.timeout * self.0.settings.tries, pool.all.lookup(name.clone(), kind));
            let mut result =
                tried.await.unwrap_or(Err(NetError::Timeout)).map_err(|error| failure_of(&error));
            for server in &*pool.alone {
                if !matches!(result, Err(Failure::ServerFailed | Failure::Refused | Failure::BadAnswer)) {
                    break;
                }
                result = server.lookup(name.clone(), kind).await.map_err(|error| failure_of(&error));
            }
            result
        });
        looked_up.await.unwrap_or(Err(Failure::Timeout))
    }

    /// The pool that is there, or a new one if the system's configuration is to be read again.
    async fn pool(&self) -> Result<Pool, Failure> {
        let now = Instant::now();
        let from_system = self.0.settings.servers.is_empty();
        let fresh = |read: Instant| !from_system || now.duration_since(read) < SYSTEM_CONFIG_AGE;
        let there = self.0.pool.lock().clone();
        if let Some((pool, _)) = there.as_ref().filter(|(_, read)| fresh(*read)) {
            return Ok(pool.clone());
        }
        let settings = self.0.settings.clone();
        // Reads files, so not on this thread. Two asks at once build two pools; the later one stays.
        let built = tokio::task::spawn_blocking(move || build(&settings)).await.ok().and_then(Result::ok);
        match (built, there) {
            (Some(pool), _) => {
                *self.0.pool.lock() = Some((pool.clone(), now));
                Ok(pool)
            }
            (None, Some((pool, _))) => Ok(pool),
            (None, None) => Err(Failure::Unreachable),
        }
    }
}

fn build(settings: &Settings) -> Result<Pool, NetError> {
    let provider = TokioRuntimeProvider::default;
    let (config, mut options) = if settings.servers.is_empty() {
        hickory_resolver::system_conf::read_system_conf()?
    } else {
        let servers = settings.servers.iter().map(|server| {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            (udp.port, tcp.port) = (server.port(), server.port());
            NameServerConfig::new(server.ip(), true, vec![udp, tcp])
        });
        let mut options = ResolverOpts::default();
        // Who names servers wants them asked.
        options.use_hosts_file = ResolveHosts::Never;
        (ResolverConfig::from_name_servers(servers.collect()), options)
    };
    options.cache_size = 0;
    options.timeout = settings.timeout;
    // Keeps the aliases, whose TTL counts too.
    options.preserve_intermediates = true;
    let retries = settings.tries.saturating_sub(1) as usize;
    let with = |config: ResolverConfig, retries: usize| -> Result<TokioResolver, NetError> {
        let mut options = options.clone();
        options.attempts = retries;
        let builder: ResolverBuilder<TokioRuntimeProvider> =
            TokioResolver::builder_with_config(config, provider());
        builder.with_options(options).build()
    };
    let mut alone = Vec::new();
    if config.name_servers().len() > 1 {
        for server in config.name_servers() {
            let (domain, search, _) = config.clone().into_parts();
            alone.push(with(ResolverConfig::from_parts(domain, search, vec![server.clone()]), 0)?);
        }
    }
    Ok(Pool { all: with(config, retries)?, alone: alone.into() })
}

fn has_records<T>(answer: &Result<Found<T>, Failure>) -> bool {
    answer.as_ref().is_ok_and(|found| !found.records.is_empty())
}

fn ipv4(data: &RData) -> Option<Ipv4Addr> {
    if let RData::A(a) = data { Some(a.0) } else { None }
}

fn ipv6(data: &RData) -> Option<Ipv6Addr> {
    if let RData::AAAA(aaaa) = data { Some(aaaa.0) } else { None }
}

fn target(data: &RData) -> Option<Target> {
    let RData::SRV(srv) = data else { return None };
    let host = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase().into();
    Some(Target { priority: srv.priority, weight: srv.weight, host, port: srv.port })
}

/// The records of one kind, and the shortest TTL in the answer, aliases included.
fn found<T>(lookup: &Lookup, pick: impl Fn(&RData) -> Option<T>) -> Found<T> {
    let records = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
    let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Found { records, ttl: Duration::from_secs(u64::from(ttl)) }
}

fn failure_of(error: &NetError) -> Failure {
    let by_code = |code: ResponseCode| {
        if code == ResponseCode::NXDomain {
            Failure::NoSuchName
        } else if code == ResponseCode::ServFail {
            Failure::ServerFailed
        } else if code == ResponseCode::Refused {
            Failure::Refused
        } else if code == ResponseCode::NoError {
            Failure::Empty
        } else {
            Failure::BadAnswer
        }
    };
    if let NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code: code, .. })) = error {
        return by_code(*code);
    }
    if let NetError::Dns(DnsError::ResponseCode(code)) = error {
        return by_code(*code);
    }
    if matches!(error, NetError::Timeout) {
        Failure::Timeout
    } else if matches!(error, NetError::Truncated) {
        Failure::Truncated
    } else if matches!(error, NetError::Io(_) | NetError::NoConnections | NetError::Busy) {
        Failure::Unreachable
    } else {
        Failure::BadAnswer
    }
}
