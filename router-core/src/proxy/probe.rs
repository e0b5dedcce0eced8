//! Probes: one GET, or one look at the connection. Of a dyno that serves it is one of its requests, over the lease's
//! connection; of one that does not serve yet it goes over a connection of its own, which is closed afterwards.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::encryption::Secured;
use crate::fault::Fault;
use crate::ids::Address;
use crate::limits::{Protocol, ProxyHeader};
use crate::policy::health::Outcome;
use crate::proxy::dial::Conn;
use crate::proxy::flight::{Flight, Trouble, broken};
use crate::proxy::forward::SHORT_ANSWER;
use crate::proxy::memory::Memory;
use crate::proxy::preamble;
use crate::proxy::upload::{ToDyno, Upload};
use crate::proxy::wire;
use crate::router::Lease;

/// How much of a body is kept, in bytes.
const BEGINNING: usize = 512;
/// How long a body may take to begin once its head is there.
const BODY_WITHIN: Duration = Duration::from_millis(500);

/// What a dyno answered to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: StatusCode,
    /// What has come of the body, 512 bytes of it at the most.
    pub beginning: Bytes,
}

/// Why there is no answer to a probe.
#[derive(Debug)]
pub enum Unanswered {
    /// The connection could not be opened.
    Connect(io::Error),
    /// The dyno was reached and did not answer as HTTP asks.
    Broken(Fault),
}

/// Asks a dyno that serves, as one of its requests: over its warm connection, which stays with it, or a new one.
///
/// # Errors
/// Why there is no answer.
///
/// # Cancel safety
/// Dropping the future means that nobody waits for the answer any more: the dyno lingers until it has answered.
pub async fn ask(mut lease: Lease, request: &Request<()>) -> Result<Answered, Unanswered> {
    let limits = lease.limits();
    let clock = lease.app().shared().clock().clone();
    let mut conn = Conn::warm(&mut lease, &limits);
    loop {
        let reused = conn.is_some();
        let conn_now = match conn.take() {
            Some(conn) => conn,
            // Why not in more words than a fault has is only known of connections of a probe's own.
            None => {
                let preamble = preamble::of_router(limits.proxy_protocol);
                Conn::open(&mut lease, &limits, &preamble).await.map_err(Unanswered::Broken)?
            }
        };
        let request = request.clone().map(|()| Upload::none().next_try(&clock));
        let mut flight = Flight::start(lease, conn_now, request, Arc::clone(&limits), Memory::default());
        match flight.head().await {
            Ok(head) => {
                let whole = flight.is_short(SHORT_ANSWER);
                let frames = flight.collect(whole).await.map_err(Unanswered::Broken)?.frames;
                let body = frames.into_iter().filter_map(|frame| frame.into_data().ok()).flatten();
                return Ok(Answered { status: head.status, beginning: body.take(BEGINNING).collect() });
            }
            Err(Trouble::Over(fault)) => return Err(Unanswered::Broken(fault)),
            // The dyno had closed it meanwhile, as any server may.
            Err(Trouble::Broken { lease: back, silent: true, .. }) if reused => lease = back,
            Err(Trouble::Broken { lease: back, fault, .. }) => {
                back.check_in(Outcome::Failed);
                return Err(Unanswered::Broken(fault));
            }
        }
    }
}

/// Whether a dyno that serves accepts connections. A warm one that is still open is a good answer, and nothing is sent
/// over it; else one is opened and closed.
///
/// # Errors
/// Why it cannot be opened.
///
/// # Cancel safety
/// Dropping the future ends the probe.
pub async fn touch(mut lease: Lease) -> Result<(), Unanswered> {
    let limits = lease.limits();
    let open = match limits.protocol {
        Protocol::Http1 => lease.take_parcel::<Conn>().filter(|conn| conn.is_as(&limits)),
        Protocol::H2c => Conn::warm(&mut lease, &limits),
    };
    if let Some(mut conn) = open
        && poll_fn(|cx| Poll::Ready(conn.is_reusable(cx))).await
    {
        conn.put_back(&mut lease);
        lease.check_in(Outcome::Served);
        return Ok(());
    }
    // Whatever was there has been closed: never two connections to one dyno.
    touch_fresh(lease.dyno().address, limits.secured(), limits.connect).await
}

/// Asks a dyno that does not serve yet, over a connection of its own, which begins with that header.
///
/// # Errors
/// Why there is no answer.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn ask_fresh(
    address: Address,
    (protocol, secured): (Protocol, Option<&Secured>),
    request: &Request<()>,
    within: Duration,
    header: ProxyHeader,
) -> Result<Answered, Unanswered> {
    let preamble = preamble::of_router(header);
    let stream = wire::connect(address, within, &preamble, secured).await.map_err(Unanswered::Connect)?;
    let mut conn = Conn::over(stream, protocol, secured).await.map_err(Unanswered::Broken)?;
    let request: Request<ToDyno> =
        request.clone().map(|()| Upload::none().next_try(&crate::clock::Clock::system()));
    let mut head = conn.send(request);
    let answer = poll_fn(|cx| conn.poll_for(cx, |cx| head.as_mut().poll(cx))).await;
    let answer = answer.map_err(|error| Unanswered::Broken(broken(error.error(), conn.heard() == 0)))?;
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut beginning = Vec::new();
    // A body that does not come, or breaks off, takes nothing from the status.
    let _ = tokio::time::timeout(BODY_WITHIN, read(&mut conn, &mut body, &mut beginning)).await;
    beginning.truncate(BEGINNING);
    Ok(Answered { status, beginning: beginning.into() })
}

/// Whether a dyno that does not serve yet accepts connections.
///
/// # Errors
/// Why the connection cannot be opened.
///
/// # Cancel safety
/// Dropping the future ends the probe.
pub async fn touch_fresh(
    address: Address,
    secured: Option<&Secured>,
    within: Duration,
) -> Result<(), Unanswered> {
    wire::connect(address, within, &[], secured).await.map(drop).map_err(Unanswered::Connect)
}

async fn read(conn: &mut Conn, body: &mut Incoming, beginning: &mut Vec<u8>) {
    while beginning.len() < BEGINNING {
        let frame = poll_fn(|cx| conn.poll_for(cx, |cx| Pin::new(&mut *body).poll_frame(cx)));
        let Some(Ok(frame)) = frame.await else { return };
        beginning.extend(frame.into_data().unwrap_or_default());
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What is wrong with a certificate, for example.
            Self::Connect(error) if error.kind() == io::ErrorKind::InvalidData => error.fmt(f),
            Self::Connect(error) => error.kind().fmt(f),
            Self::Broken(Fault::ClosedWithoutResponse) => {
                f.write_str("closed the connection without an answer")
            }
            Self::Broken(Fault::ServerInterrupted) => f.write_str("closed the connection in its answer"),
            Self::Broken(Fault::RequestTimeout | Fault::IdleConnection) => f.write_str("no answer in time"),
            Self::Broken(Fault::PoorlyFormatted | Fault::Restriction(_)) => {
                f.write_str("the answer is not HTTP")
            }
            Self::Broken(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Unanswered {}
