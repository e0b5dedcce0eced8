//! HTTP/2 in front: each stream is a request with a task of its own; a connection that is idle, dead or hostile ends.
//!
//! h2 and not hyper's server on top of it: hyper sends no interim answers, keeps an answer for ever for which the
//! client gives no window, and does not tell who resets how much. *Cancel:* the task of a stream ends when the client
//! resets it or the connection is over, and its request with it. *Never:* a stream that goes on after its connection.

mod stream;
mod tunnel;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use router_core::proxy::Client;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use self::stream::Ended;
use super::{Met, Terms};
use crate::config::{self, Config};
use crate::drain::{Phase, reached, too_late};
use crate::guard::Guard;
use crate::metrics::Meters;
use crate::socket::{Side, Socket};

/// What a client begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GOAWAY with PROTOCOL_ERROR, for who begins with something else.
const NO_PREFACE: &[u8; 17] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
/// What h2 keeps of one answer until the client takes it, in bytes.
const SEND_BUFFER: usize = 64 << 10;
/// The time in which `max_reset_streams` counts.
const RESETS_WITHIN: Duration = Duration::from_secs(10);
/// What a client may send without opening a stream, sending data or taking some, beside two heads and what its window
/// allows, in bytes.
const CONTROL_MAX: u64 = 256 << 10;
/// RFC 9113 section 6.9.1.
const WINDOW_MAX: u64 = (1 << 31) - 1;
/// How long a client may take to agree to the end of a connection on which nothing is under way.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Front {
    builder: Builder,
    config: config::Http2,
    /// The longest a connection may be without a request.
    idle: Duration,
    /// The longest head of a request, counted as HTTP/1.1 would write it.
    head_max: usize,
    /// How much may be read without any use, beside the window.
    control_max: u64,
    meters: Meters,
}

impl Front {
    pub(super) fn new(config: &Config, meters: Meters) -> Self {
        let server = &config.server;
        let http2 = &config.http2;
        // HTTP/2 counts 32 bytes more for each header. What is longer is answered by h2 itself, without a record.
        let list = server.head_max.saturating_add(server.headers_max.saturating_mul(32));
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(http2.max_streams)
            .max_pending_accept_reset_streams(http2.max_reset_streams as usize)
            .max_local_error_reset_streams(Some(http2.max_reset_streams as usize))
            .initial_window_size(http2.stream_window)
            .initial_connection_window_size(http2.connection_window)
            .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        Self {
            builder,
            config: http2.clone(),
            idle: server.header_timeout,
            head_max: server.head_max,
            control_max: CONTROL_MAX + 2 * list as u64,
            meters,
        }
    }

    /// Whether a client without TLS begins with the preface. `None`: it says nothing, or the drain has begun.
    pub(super) async fn is_asked_for(
        &self,
        stream: &TcpStream,
        drain: watch::Receiver<Phase>,
    ) -> Option<bool> {
        tokio::select! {
            biased;
            begin = timeout(self.idle, begins_with_preface(stream)) => begin.ok()?.ok(),
            () = too_late(drain) => None,
        }
    }

    fn count(&self, error: &h2::Error) {
        // What the client itself says of a connection is no trouble, and neither is its going away.
        if let Some(reason) =
            error.reason().filter(|reason| !error.is_remote() && *reason != Reason::NO_ERROR)
        {
            self.meters.http2_trouble(name(reason));
        }
    }
}

async fn begins_with_preface(stream: &TcpStream) -> std::io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    let mut pause = Duration::from_millis(1);
    loop {
        let read = stream.peek(&mut begin).await?;
        let begin = &begin[..read];
        if read == 0 || !PREFACE.starts_with(begin) || read == PREFACE.len() {
            return Ok(begin == PREFACE);
        }
        // There is no way to wait for more than is there already.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Serves a connection until it ends; during the drain, until the requests that are under way have ended.
pub(super) async fn serve(met: Met, terms: Arc<Terms>, mut drain: watch::Receiver<Phase>) {
    let front = &terms.http2;
    let client = met.client(&terms);
    let (socket, side) = Socket::new(met.stream, Guard::open());
    let gone = Arc::downgrade(&side);
    let client = client
        .with_upgrades(true)
        .with_gone(Arc::new(move || gone.upgrade().is_none_or(|side| side.is_gone())));
    let shaken = tokio::select! {
        biased;
        shaken = timeout(front.idle, front.builder.handshake(socket)) => shaken,
        () = too_late(drain.clone()) => return,
    };
    match shaken {
        Ok(Ok(connection)) => {
            let mut serving =
                Serving::new(connection, Arc::clone(&terms), client, Arc::clone(&side), drain.clone());
            let talks = serving.run().await;
            serving.over().await;
            if talks {
                tokio::select! {
                    () = reached(&mut drain, Phase::Cut) => {}
                    () = side.part(LAST_WORD) => {}
                }
            }
        }
        Ok(Err(error)) if !error.is_io() => {
            front.meters.http2_trouble("bad_preface");
            side.send(NO_PREFACE);
            side.part(LAST_WORD).await;
        }
        // It has said nothing, or is gone.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// A connection past its preface.
struct Serving {
    connection: Connection<Socket, Bytes>,
    terms: Arc<Terms>,
    client: Client,
    side: Arc<Side>,
    drain: watch::Receiver<Phase>,
    streams: JoinSet<Ended>,
    /// Runs out when nothing is under way for too long.
    idle: Pin<Box<Sleep>>,
    /// Streams so far.
    opened: u32,
    resets: Resets,
    /// Of the connection, in bytes.
    window: u32,
    /// No further stream is wanted.
    ends: bool,
    /// The client was told why it is not served any more.
    cut_off: bool,
}

/// Requests that the client broke off lately.
struct Resets {
    since: Instant,
    count: u32,
}

/// What a connection does next.
#[expect(clippy::large_enum_variant, reason = "taken apart at once")]
enum Event {
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    Flood,
    Over(Option<h2::Error>),
}

impl Serving {
    fn new(
        connection: Connection<Socket, Bytes>,
        terms: Arc<Terms>,
        client: Client,
        side: Arc<Side>,
        drain: watch::Receiver<Phase>,
    ) -> Self {
        let idle = Box::pin(sleep(terms.http2.idle));
        let resets = Resets { since: Instant::now(), count: 0 };
        let streams = JoinSet::new();
        let window = terms.http2.config.connection_window;
        let (opened, ends, cut_off) = (0, false, false);
        Self { connection, terms, client, side, drain, streams, idle, opened, resets, window, ends, cut_off }
    }

    /// Says whether the client may still read.
    async fn run(&mut self) -> bool {
        let terms = Arc::clone(&self.terms);
        let mut silent = pin!(silent(self.connection.ping_pong(), &terms.http2.config));
        let (now, mut first, mut second) = (self.drain.clone(), self.drain.clone(), self.drain.clone());
        let mut leaving = pin!(reached(&mut first, Phase::Leaving));
        let mut cut = pin!(reached(&mut second, Phase::Cut));
        let (mut listens, mut left) = (false, false);
        loop {
            let allowance = self.allowance();
            tokio::select! {
                biased;
                phase = poll_fn(|cx| {
                    // Once is enough, because a task's waker stays the same; each look takes a lock that all
                    // connections share.
                    if listens && *now.borrow() == Phase::Running {
                        return Poll::Pending;
                    }
                    listens = true;
                    if cut.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Phase::Cut);
                    }
                    if left { Poll::Pending } else { leaving.as_mut().poll(cx).map(|()| Phase::Leaving) }
                }) => match phase {
                    Phase::Cut => return false,
                    Phase::Leaving | Phase::Draining | Phase::Running => {
                        left = true;
                        self.end();
                    }
                },
                Some(ended) = self.streams.join_next() => self.ended(ended.unwrap_or(Ended::Failed)),
                event = next(&mut self.connection, &self.side, allowance) => match event {
                    Event::Stream(request, respond) => self.begin(request, respond),
                    Event::Flood => self.cut_off("control_flood"),
                    Event::Over(error) => {
                        error.iter().for_each(|error| terms.http2.count(error));
                        return !error.is_some_and(|error| error.is_io());
                    }
                },
                () = &mut silent => {
                    terms.http2.meters.http2_trouble("silent");
                    return false;
                }
                () = &mut self.idle, if self.streams.is_empty() => {
                    if self.ends {
                        return true;
                    }
                    self.end();
                }
            }
        }
    }

    /// How much more may be read without any use: bodies of requests that wait in line come as far as the window lets
    /// them, and nobody reads on.
    fn allowance(&self) -> u64 {
        if self.cut_off { u64::MAX } else { self.terms.http2.control_max + u64::from(self.window) }
    }

    /// Gives each stream room for what its own window allows, so that uploads that wait in line never hold up the one
    /// that has its dyno. Not while there is no memory: then they do, until others have ended.
    fn widen(&mut self) {
        let each = u64::from(self.terms.http2.config.stream_window);
        let needed = (each * self.streams.len() as u64).min(WINDOW_MAX);
        if needed > u64::from(self.window) && !self.terms.proxy.memory().is_full() {
            // In few and large steps: a client is told of each.
            self.window = needed.next_power_of_two().min(WINDOW_MAX) as u32;
            self.connection.set_target_window_size(self.window);
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.side.of_use();
        self.opened = self.opened.saturating_add(1);
        if self.terms.keepalive_requests != 0 && self.opened == self.terms.keepalive_requests {
            self.end();
        }
        let (terms, client, side) = (Arc::clone(&self.terms), self.client.clone(), Arc::clone(&self.side));
        let has_body = !request.body().is_end_stream();
        self.streams.spawn(stream::serve(terms, client, side, self.drain.clone(), request, respond));
        if has_body {
            self.widen();
        }
    }

    fn ended(&mut self, ended: Ended) {
        let front = &self.terms.http2;
        let patience = if self.ends { LAST_WORD } else { front.idle };
        self.idle.as_mut().reset(Instant::now() + patience);
        match ended {
            Ended::Answered | Ended::Failed => {}
            Ended::Stalled => front.meters.http2_trouble("stalled"),
            Ended::Reset => {
                if self.resets.one_more() > front.config.max_reset_streams {
                    self.cut_off("rapid_reset");
                }
            }
        }
    }

    /// Lets the connection end once nothing is under way (GOAWAY, NO_ERROR).
    fn end(&mut self) {
        self.ends = true;
        self.connection.graceful_shutdown();
        self.idle.as_mut().reset(Instant::now() + LAST_WORD);
    }

    /// Ends the connection and what is under way on it.
    fn cut_off(&mut self, kind: &'static str) {
        if !self.cut_off {
            self.terms.http2.meters.http2_trouble(kind);
            self.cut_off = true;
            self.ends = true;
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.idle.as_mut().reset(Instant::now() + LAST_WORD);
        }
    }

    /// The connection is over: each stream hears of it and ends, its request with it.
    async fn over(self) {
        let Self { connection, mut streams, .. } = self;
        drop(connection);
        while streams.join_next().await.is_some() {}
    }
}

impl Resets {
    /// Counts one, and says how many there were lately.
    fn one_more(&mut self) -> u32 {
        if self.since.elapsed() > RESETS_WITHIN {
            *self = Self { since: Instant::now(), count: 0 };
        }
        self.count += 1;
        self.count
    }
}

/// What comes next; `Flood` once more than `most` bytes were read without use.
async fn next(connection: &mut Connection<Socket, Bytes>, side: &Side, most: u64) -> Event {
    let mut accept = pin!(connection.accept());
    poll_fn(|cx| match accept.as_mut().poll(cx) {
        Poll::Ready(Some(Ok((request, respond)))) => Poll::Ready(Event::Stream(request, respond)),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Event::Over(Some(error))),
        Poll::Ready(None) => Poll::Ready(Event::Over(None)),
        Poll::Pending if side.useless() > most => Poll::Ready(Event::Flood),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Ready once the client has not answered a PING in time.
async fn silent(pings: Option<PingPong>, config: &config::Http2) {
    let Some(mut pings) = pings.filter(|_| !config.ping_interval.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        sleep(config.ping_interval).await;
        match timeout(config.ping_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over and says so itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A code of RFC 9113 section 7 as a word.
fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::PROTOCOL_ERROR => "protocol_error",
        Reason::FLOW_CONTROL_ERROR => "flow_control_error",
        Reason::SETTINGS_TIMEOUT => "settings_timeout",
        Reason::STREAM_CLOSED => "stream_closed",
        Reason::FRAME_SIZE_ERROR => "frame_size_error",
        Reason::REFUSED_STREAM => "refused_stream",
        Reason::CANCEL => "cancel",
        Reason::COMPRESSION_ERROR => "compression_error",
        Reason::CONNECT_ERROR => "connect_error",
        Reason::ENHANCE_YOUR_CALM => "enhance_your_calm",
        Reason::INADEQUATE_SECURITY => "inadequate_security",
        Reason::HTTP_1_1_REQUIRED => "http_1_1_required",
        _ => "internal_error",
    }
}
