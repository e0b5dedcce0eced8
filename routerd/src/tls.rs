//! TLS in front: handshakes, how much they may take from other work, and what has become of them.
//!
//! A handshake has one step that costs: what follows the client's first message, with the signature and the key
//! exchange. These steps take turns, and between two of them everything else that waits for a thread comes first. So a
//! flood of handshakes is served by what time there is left, and as many as may wait do; the others are closed.

mod challenge;
mod files;
mod last_word;
mod store;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use http::HeaderValue;
use router_core::sync::Mutex;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCertUsingSni};
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use self::challenge::Challenges;
use self::files::Files;
pub use self::files::Held;
use self::last_word::Broken;
pub(crate) use self::store::Ordered;
use self::store::Store;
use crate::config;
use crate::config::cert::Certificate;
use crate::config::edge::{ClientAuth, Unnamed};

/// Handshakes that may wait for their turn, for every core.
const WAITING: usize = 100;
/// Hosts without a certificate that clients have named and nobody has looked at yet.
const ASKED_MAX: usize = 1024;

/// The protocols that are offered above TLS (RFC 7301), the preferred one first.
pub(crate) fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

/// What TLS in front has for as long as the daemon runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Lasting>);

struct Lasting {
    store: Store,
    challenges: Challenges,
    /// Is told of hosts whose certificates are still to come when clients name them.
    asked: mpsc::Sender<String>,
    files: Files,
    counts: Counts,
    tickets: Mutex<Option<Tickets>>,
    /// Who may compute.
    turns: Semaphore,
    /// Handshakes that compute or wait for it.
    waiting: AtomicUsize,
}

/// Keys of tickets, for whom they may be.
struct Tickets {
    admission: String,
    producer: Arc<dyn ProducesTickets>,
}

impl Edge {
    /// Made within the runtime that serves. With it comes who is asked for and has no certificate yet.
    pub(crate) fn new() -> (Self, mpsc::Receiver<String>) {
        // At least half of the threads always serve requests, where there are two.
        let turns = Semaphore::new((Handle::current().metrics().num_workers() / 2).max(1));
        let (store, files, counts) = (Store::default(), Files::default(), Counts::default());
        let (tickets, waiting) = (Mutex::new(None), AtomicUsize::new(0));
        let (challenges, (asked, asks)) = (Challenges::default(), mpsc::channel(ASKED_MAX));
        let lasting = Lasting { store, challenges, asked, files, counts, tickets, turns, waiting };
        (Self(Arc::new(lasting)), asks)
    }

    /// Handshakes from now on have these certificates, whose files are watched.
    pub(crate) fn set(&self, config: Option<&config::Edge>) {
        let certificates = config.map_or(&[][..], |config| &config.certificates);
        self.0.store.set_files(certificates);
        let lasting = Arc::downgrade(&self.0);
        self.0.files.set(certificates, move |now| {
            if let Some(lasting) = lasting.upgrade() {
                lasting.store.set_files(now);
            }
        });
    }

    /// Handshakes from now on have these beside those of files; hosts whose certificates are still to come a stand-in.
    pub(crate) fn set_ordered(&self, ordered: Ordered) {
        self.0.store.set_ordered(ordered);
    }

    /// The certificate of a host has come.
    pub(crate) fn come(&self, host: &str, certificate: &Arc<Certificate>) {
        self.0.store.come(host, certificate);
    }

    /// A CA that looks for the host finds that proof in a handshake (tls-alpn-01).
    pub(crate) fn prove(&self, host: &str, proof: &[u8]) -> Result<(), String> {
        self.0.challenges.set(host, Some(challenge::answer(host, proof)?));
        Ok(())
    }

    /// It finds it no longer.
    pub(crate) fn proven(&self, host: &str) {
        self.0.challenges.set(host, None);
    }

    /// What handshakes are made with under a configuration.
    pub(crate) fn terms(&self, config: &config::Edge) -> Result<Terms, rustls::Error> {
        // Each handshake gets a certificate of its own.
        let mut server = config.server()?.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        server.alpn_protocols = alpn();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = self.tickets(config.admission())?;
        let waiting = match config.handshakes {
            0 => WAITING * std::thread::available_parallelism().map_or(1, usize::from),
            most => most,
        };
        Ok(Terms {
            edge: self.clone(),
            server: Arc::new(server),
            timeout: config.handshake_timeout,
            waiting,
            unnamed: config.default,
            asks: config.client_auth != ClientAuth::Off,
        })
    }

    /// All listeners have the same keys, over reloads too, unless other clients are admitted: who has a ticket is not
    /// asked for a certificate again.
    fn tickets(&self, admission: String) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let mut tickets = self.0.tickets.lock();
        if let Some(tickets) = tickets.as_ref().filter(|tickets| tickets.admission == admission) {
            return Ok(Arc::clone(&tickets.producer));
        }
        let producer = Ticketer::new()?;
        *tickets = Some(Tickets { admission, producer: Arc::clone(&producer) });
        Ok(producer)
    }

    /// The certificates, and how handshakes have gone.
    pub(crate) fn account(&self) -> Account {
        let mut certificates = self.0.files.held();
        certificates.extend(self.0.store.ordered().iter().map(Held::new));
        Account { certificates, handshakes: self.0.counts.all() }
    }
}

/// How TLS in front is doing.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The certificates: those of files in the order of the configuration, then those that were ordered.
    pub certificates: Vec<Held>,
    /// Handshakes by what has become of them.
    pub handshakes: Vec<(&'static str, u64)>,
}

/// What handshakes are made with, for connections that come under one configuration.
#[derive(Clone)]
pub(crate) struct Terms {
    edge: Edge,
    server: Arc<ServerConfig>,
    timeout: Duration,
    waiting: usize,
    unnamed: Unnamed,
    /// Clients are asked for certificates.
    asks: bool,
}

/// A connection past its handshake.
pub(crate) struct Secured {
    pub(crate) stream: TlsStream<TcpStream>,
    /// The host that the client named, in lower case.
    pub(crate) name: Option<Box<str>>,
    /// What it was shown.
    pub(crate) certificate: Arc<Certificate>,
    /// The certificate of the client, if it was asked for one, as the value of `Client-Cert`.
    pub(crate) shown: Option<Option<HeaderValue>>,
}

impl Terms {
    /// The handshake of one connection. What fails is counted.
    pub(crate) async fn shake(&self, stream: TcpStream) -> Option<Secured> {
        let result = timeout(self.timeout, self.try_shake(stream)).await;
        match result.unwrap_or_else(|_| Err(Failed::new(End::Timeout, None))) {
            Ok(secured) => {
                let resumed = secured.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                self.edge.0.counts.add(if resumed { End::Resumed } else { End::Full });
                Some(secured)
            }
            Err(Failed { end, why, stream }) => {
                tracing::debug!("a TLS handshake has failed: {} {why}", end.as_str());
                self.edge.0.counts.add(end);
                if let Some(stream) = stream {
                    last_word::linger(stream).await;
                }
                None
            }
        }
    }

    /// What a handshake is made with that shows this certificate.
    fn with(&self, certificate: &Certificate, name: Option<&str>) -> Arc<ServerConfig> {
        // Who names a host again is heard again.
        if let Some(name) = name.filter(|name| self.edge.0.store.lacks(name)) {
            let _ = self.edge.0.asked.try_send(name.to_owned());
        }
        let mut server = ServerConfig::clone(&self.server);
        server.cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(certificate.signed())));
        Arc::new(server)
    }

    async fn try_shake(&self, mut stream: TcpStream) -> Result<Secured, Failed> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(Failed::new(End::Gone, None));
        }
        if first[0].is_ascii_uppercase() {
            last_word::answer_plain(&mut stream).await?;
            return Err(Failed::new(End::Plain, Some(stream)));
        }
        let address = stream.local_addr()?.ip().to_canonical();
        let start = last_word::hello(stream).await?;
        let hello = start.client_hello();
        let name = hello.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str());
        let challenge = self.edge.0.challenges.find(&hello, name.as_deref());
        let found = self.edge.0.store.find(&hello, name.as_deref(), address, self.unnamed);
        let server = match (&challenge, &found) {
            (Some(answer), _) => Arc::clone(answer),
            (None, Some(certificate)) => self.with(certificate, name.as_deref()),
            (None, None) => {
                let (why, mut stream) = (name.as_deref().unwrap_or("(no name)").to_owned(), start.io);
                last_word::unrecognized_name(&mut stream).await?;
                return Err(Failed { why, ..Failed::new(End::UnknownName, Some(stream)) });
            }
        };
        let accept = {
            let Some(_waits) = Waits::enter(&self.edge.0.waiting, self.waiting) else {
                return Err(Failed::new(End::Crowded, None));
            };
            // It is never closed; were it, there would be no bound.
            let _turn = self.edge.0.turns.acquire().await;
            let accept = start.into_stream(server);
            yield_now().await;
            accept
        };
        let mut stream = last_word::handshake(accept).await?;
        let Some(certificate) = found.filter(|_| challenge.is_none()) else {
            // Nothing is said in this protocol.
            stream.shutdown().await?;
            return Err(Failed::new(End::Challenge, None));
        };
        let chain = stream.get_ref().1.peer_certificates();
        let shown = self.asks.then(|| chain.and_then(|chain| chain.first()).and_then(client_cert));
        Ok(Secured { stream, name, certificate, shown })
    }
}

/// A byte sequence as structured fields have it (RFC 9440 section 2.1).
fn client_cert(der: &CertificateDer<'_>) -> Option<HeaderValue> {
    HeaderValue::try_from(format!(":{}:", BASE64.encode(der))).ok()
}

/// One of those that compute or wait for it.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waits = Self(count);
        (before < most).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no connection.
struct Failed {
    end: End,
    why: String,
    /// The client may not have read the last word yet.
    stream: Option<TcpStream>,
}

impl Failed {
    fn new(end: End, stream: Option<TcpStream>) -> Self {
        Self { end, why: String::new(), stream }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        (error, None).into()
    }
}

impl From<Broken> for Failed {
    fn from((error, stream): Broken) -> Self {
        use rustls::Error;
        let end = match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            None => End::Gone,
            Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => End::ClientCertificate,
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => End::Incompatible,
            Some(Error::AlertReceived(_)) => End::Refused,
            Some(_) => End::Protocol,
        };
        Self { end, why: error.to_string(), stream }
    }
}

/// What has become of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Full,
    Resumed,
    /// A CA has got its answer.
    Challenge,
    /// The client is gone.
    Gone,
    Timeout,
    /// Too many others.
    Crowded,
    /// The client has begun with HTTP.
    Plain,
    UnknownName,
    /// It has none that is good.
    ClientCertificate,
    /// There is no version, cipher or protocol that both have.
    Incompatible,
    /// By the client: it does not trust the certificate, for example.
    Refused,
    /// What the client has sent is no TLS.
    Protocol,
}

impl End {
    const ALL: [Self; 12] = [
        Self::Full,
        Self::Resumed,
        Self::Challenge,
        Self::Gone,
        Self::Timeout,
        Self::Crowded,
        Self::Plain,
        Self::UnknownName,
        Self::ClientCertificate,
        Self::Incompatible,
        Self::Refused,
        Self::Protocol,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Challenge => "challenge",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::Plain => "plain_http",
            Self::UnknownName => "unknown_name",
            Self::ClientCertificate => "client_certificate",
            Self::Incompatible => "incompatible",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }
}

#[derive(Default)]
struct Counts([AtomicU64; End::ALL.len()]);

impl Counts {
    fn add(&self, end: End) {
        self.0[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        End::ALL.iter().map(|end| (end.as_str(), self.0[*end as usize].load(Ordering::Relaxed))).collect()
    }
}
