//! A connection that has changed its protocol, from the dyno's 101 to its end: bytes both ways, one timer, both sides
//! closed together, and a gentle end when the dyno or the router leaves.
//!
//! *Shared:* nothing; the client's task owns it. *Cancel:* an upgrade that is dropped is cut: its record closes, and
//! the dyno hears the end of its connection. *Never:* a dyno checked in while it may still work for a client that is
//! gone: as with any request it lingers until it has closed its side, at most `linger`, unless closing frees it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::fault::Fault;
use crate::limits::Limits;
use crate::policy::health::Outcome;
use crate::proxy::dial::Counted;
use crate::proxy::frames;
use crate::proxy::record::{End, Open, Upgraded};
use crate::proxy::splice::{Flow, Stop, read_to_end};
use crate::router::Lease;

/// How long one side gets to take its last bytes when the other has closed.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// The dyno's side of a connection that has changed its protocol.
pub(crate) struct Switched {
    leg: Leg,
    /// What the dyno has sent behind its 101.
    read: Bytes,
    websocket: bool,
}

impl Switched {
    pub(crate) fn new(
        mut lease: Lease,
        io: Counted,
        read: Bytes,
        limits: Arc<Limits>,
        protocols: &HeaderValue,
    ) -> Self {
        lease.upgrade();
        let websocket = protocols.as_bytes().eq_ignore_ascii_case(b"websocket");
        Self { leg: Leg { parts: Some((lease, io)), limits }, read, websocket }
    }
}

/// A connection that is to change its protocol: the dyno's side, and the request's record.
///
/// Get it with [`Body::take_upgrade`](crate::proxy::Body::take_upgrade), send the head of the 101, and
/// [`run`](Self::run) it with the client's side. Dropping it cuts the dyno's side.
pub struct Upgrade {
    leg: Leg,
    down: Flow,
    up: Flow,
    websocket: bool,
    /// `None` once it is closed.
    open: Option<Open>,
    began: Instant,
    /// When something last moved.
    moved: Instant,
}

/// What ends the state in which bytes go both ways.
enum Turn {
    Client(Stop),
    Dyno(Stop),
    Idle,
    /// One side of it is to leave: it has to end by then.
    Leave(Instant),
}

/// When it is told that it has to end.
#[derive(Clone, Copy)]
struct Leaving {
    at: Instant,
    by: Instant,
    /// The dyno leaves, which it may think better of; else it is the router.
    dyno: bool,
}

impl Leaving {
    /// In the first half of the time, so that not all who are told come back at once.
    fn within(time: Duration, dyno: bool) -> Self {
        let now = Instant::now();
        Self { at: now + time.mul_f64(fastrand::f64() / 2.0), by: now + time, dyno }
    }
}

impl Upgrade {
    pub(crate) fn new(switched: Switched, open: Open) -> Self {
        let Switched { leg, read, websocket } = switched;
        let (down, up) = (Flow::new(&read, websocket), Flow::default());
        let now = Instant::now();
        Self { leg, down, up, websocket, open: Some(open), began: now, moved: now }
    }

    /// Moves bytes between the client and the dyno until one of them closes; then both are closed. `read` is what was
    /// read of the client behind its request. `client` may be anything that carries bytes: a socket, or one stream of
    /// a connection with many.
    ///
    /// When `leaving` is ready the connection ends within the time it gives, at a moment of its own: both sides of a
    /// WebSocket get a close frame (1001) and the client's answer is waited for; any other protocol is cut.
    ///
    /// # Cancel safety
    /// Dropping the future cuts both sides. The record is closed.
    pub async fn run<C, L>(mut self, mut client: C, read: Bytes, leaving: L)
    where
        C: AsyncRead + AsyncWrite + Unpin,
        L: Future<Output = Duration>,
    {
        self.up = Flow::new(&read, self.websocket);
        // It may be a small part of a large buffer, and the connection may last for hours.
        drop(read);
        let turn = self.both_ways(&mut client, pin!(leaving)).await;
        let (end, fault) = match turn {
            Turn::Idle => (End::Idle, Some(self.silent())),
            Turn::Client(stop) => {
                let fault = (stop != Stop::Ended).then_some(Fault::ClientInterrupted);
                if stop == Stop::Ended {
                    self.last_bytes_of_dyno(&mut client).await;
                }
                (End::Client, fault)
            }
            Turn::Dyno(stop) => {
                if stop == Stop::To {
                    // It does not listen any more; what it has said before may still be here.
                    self.last_bytes_of_dyno(&mut client).await;
                }
                self.leg.done();
                let _ = timeout(LAST_BYTES, poll_fn(|cx| self.down.poll_write(cx, &mut client))).await;
                (End::Dyno, (stop != Stop::Ended).then_some(Fault::ServerInterrupted))
            }
            Turn::Leave(by) if self.websocket => {
                self.say_goodbye(&mut client, by).await;
                (End::Leaving, None)
            }
            Turn::Leave(_) => (End::Leaving, Some(Fault::ForcedClose)),
        };
        self.leg.linger();
        self.close(end, fault);
        // To close with something unread would take back what the client has not read yet.
        let _ = timeout(LAST_BYTES, async {
            if client.shutdown().await.is_ok() {
                read_to_end(&mut client).await;
            }
        })
        .await;
    }

    /// The dyno's consent is none, as whoever serves the client has found out: the client gets a fault of that status
    /// (H17) instead, and the dyno is let go.
    pub fn refuse(mut self) -> Fault {
        let fault = Fault::PoorlyFormatted;
        self.open.take().into_iter().for_each(|mut open| open.fault(fault));
        fault
    }

    /// Bytes both ways, until something ends it.
    async fn both_ways<C, L>(&mut self, client: &mut C, mut leaving: Pin<&mut L>) -> Turn
    where
        C: AsyncRead + AsyncWrite + Unpin,
        L: Future<Output = Duration>,
    {
        let idle = self.leg.limits.stream_idle;
        let mut timer = pin!(sleep_until(self.moved + idle));
        let (mut leaves, mut router_leaves) = (None::<Leaving>, false);
        poll_fn(|cx| {
            if let Poll::Ready(turn) = self.poll_flows(cx, client) {
                return Poll::Ready(turn);
            }
            if leaves.is_none() && self.leg.poll_leaves(cx).is_ready() {
                leaves = Some(Leaving::within(self.leg.limits.stream_drain, true));
            }
            if !router_leaves && let Poll::Ready(time) = leaving.as_mut().poll(cx) {
                router_leaves = true;
                let router = Leaving::within(time, false);
                leaves = leaves.filter(|dyno| dyno.at < router.at && dyno.by < router.by).or(Some(router));
            }
            if let Some(leaving) = leaves.filter(|leaving| leaving.at <= Instant::now()) {
                if !(leaving.dyno && self.leg.stays()) {
                    return Poll::Ready(Turn::Leave(leaving.by));
                }
                leaves = None;
                cx.waker().wake_by_ref();
            }
            let next = leaves.map_or(self.moved + idle, |leaving| leaving.at.min(self.moved + idle));
            self.poll_timer(cx, timer.as_mut(), next, idle)
        })
        .await
    }

    /// Ready when nothing has moved for too long; else something is done at `next`.
    fn poll_timer(
        &self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        next: Instant,
        idle: Duration,
    ) -> Poll<Turn> {
        // A timer that is too early costs less than one that is set anew with each byte.
        if next < timer.deadline() {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if self.moved + idle <= Instant::now() {
                return Poll::Ready(Turn::Idle);
            }
            if next <= Instant::now() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    fn poll_flows<C: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
    ) -> Poll<Turn> {
        let Some(dyno) = self.leg.io() else { return Poll::Ready(Turn::Dyno(Stop::Ended)) };
        let down = self.down.poll(cx, dyno, client);
        let up = self.up.poll(cx, client, dyno);
        if self.down.has_moved() | self.up.has_moved() {
            self.moved = Instant::now();
        }
        match (down, up) {
            (Poll::Ready(Stop::To), _) => Poll::Ready(Turn::Client(Stop::To)),
            (Poll::Ready(stop), _) => Poll::Ready(Turn::Dyno(stop)),
            (Poll::Pending, Poll::Ready(Stop::To)) => Poll::Ready(Turn::Dyno(Stop::To)),
            (Poll::Pending, Poll::Ready(stop)) => Poll::Ready(Turn::Client(stop)),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }

    /// Whose silence it was: a client that does not take what is there is silent too.
    fn silent(&self) -> Fault {
        if self.down.is_stuck() { Fault::ClientIdle } else { Fault::IdleConnection }
    }

    /// Nothing goes to the dyno any more. It hears of that and may say its last word.
    async fn last_bytes_of_dyno<C: AsyncRead + AsyncWrite + Unpin>(&mut self, client: &mut C) {
        let Some(dyno) = self.leg.io() else { return };
        let _ = timeout(LAST_BYTES, dyno.shutdown()).await;
        if let Ok(Stop::Ended | Stop::From) =
            timeout(LAST_BYTES, poll_fn(|cx| self.down.poll(cx, dyno, client))).await
        {
            self.leg.done();
        }
    }

    /// Both sides of a WebSocket are told. What the client still says reaches the dyno, its answer to the close frame
    /// included; what the dyno still says has nowhere to go.
    async fn say_goodbye<C: AsyncRead + AsyncWrite + Unpin>(&mut self, client: &mut C, by: Instant) {
        self.down.close(frames::close_for_client());
        // A client that does not answer does not keep the dyno from being told.
        let left = by.saturating_duration_since(Instant::now());
        let mut half = pin!(sleep(left / 2));
        let mut dyno_told = false;
        let end = poll_fn(|cx| {
            loop {
                if let Poll::Ready(turn) = self.poll_flows(cx, client) {
                    return Poll::Ready(Some(turn));
                }
                let said = self.down.is_closed() && !self.down.has_last_word();
                if said && self.up.is_closed() {
                    return Poll::Ready(None);
                }
                if dyno_told || half.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                dyno_told = true;
                self.up.close(frames::close_for_dyno());
            }
        });
        if let Ok(Some(Turn::Dyno(_))) = tokio::time::timeout_at(by, end).await {
            self.leg.done();
        }
    }

    fn close(&mut self, end: End, fault: Option<Fault>) {
        let Some(mut open) = self.open.take() else { return };
        let (lasted, received, bytes) = (self.began.elapsed(), self.up.bytes, self.down.bytes);
        open.note(|record| {
            record.bytes = bytes;
            record.upgraded = Some(Upgraded { lasted, received, end });
        });
        fault.into_iter().for_each(|fault| open.fault_after_answer(fault));
    }
}

impl Drop for Upgrade {
    fn drop(&mut self) {
        if let Some(fault) = self.open.as_ref().map(Open::interruption) {
            let end = if fault == Fault::ForcedClose { End::Cut } else { End::Client };
            self.close(end, Some(fault));
        }
    }
}

/// The lease and the dyno's connection; together until the dyno is really free.
struct Leg {
    parts: Option<(Lease, Counted)>,
    limits: Arc<Limits>,
}

impl Leg {
    fn io(&mut self) -> Option<&mut Counted> {
        self.parts.as_mut().map(|(_, io)| io)
    }

    fn poll_leaves(&self, cx: &Context<'_>) -> Poll<()> {
        self.parts.as_ref().map_or(Poll::Pending, |(lease, _)| lease.poll_leaves(cx))
    }

    fn stays(&self) -> bool {
        self.parts.as_ref().is_some_and(|(lease, _)| lease.stays())
    }

    /// The dyno has closed its side: it is free.
    fn done(&mut self) {
        if let Some((lease, io)) = self.parts.take() {
            // Closed before the dyno is given to the next request.
            drop(io);
            lease.check_in(Outcome::Served);
        }
    }

    /// Nobody speaks to the dyno any more. It is told, and is free when it has closed its side too.
    fn linger(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.done() };
        if self.limits.close_frees_dyno {
            return self.done();
        }
        let Some((mut lease, mut io)) = self.parts.take() else { return };
        lease.linger();
        let most = self.limits.linger;
        runtime.spawn(async move {
            let _ = timeout(most, async {
                if io.shutdown().await.is_ok() {
                    read_to_end(&mut io).await;
                }
            })
            .await;
            drop(io);
            lease.check_in(Outcome::Cut);
        });
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.linger();
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("websocket", &self.websocket).finish_non_exhaustive()
    }
}
