//! A request at its dyno: lease, connection and what is still to come of the answer, kept together until the dyno is
//! really free.
//!
//! *Shared:* nothing; one task owns it. *Cancel:* a flight that is dropped goes on by itself: nobody waits for the
//! answer any more, but the dyno works on it, so it is read to its end and thrown away, for no longer than
//! `linger` (invariant 4). *Never:* a dyno checked in while it may still work on a request, unless closing its
//! connection frees it or the wait has run out.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::fault::{Fault, Restriction};
use crate::limits::{Limits, ProxyHeader};
use crate::policy::health::Outcome;
use crate::proxy::dial::{Conn, Head, Unsent};
use crate::proxy::memory::Memory;
use crate::proxy::pace::GRACE;
use crate::proxy::spool::{End, Gone, Writer};
use crate::proxy::upgrade::Switched;
use crate::proxy::upload::{Progress, ToDyno, Waits};
use crate::router::Lease;

/// A request at its dyno.
pub(crate) struct Flight(Option<Parts>);

struct Parts {
    lease: Lease,
    conn: Box<Conn>,
    limits: Arc<Limits>,
    memory: Memory,
    progress: Option<Arc<Progress>>,
    heard_before: u64,
    sent: std::time::Instant,
    stage: Stage,
    /// What the answer says of the dyno, if it comes to its end.
    outcome: Outcome,
    /// Its end can be read in two ways: the connection is not used again.
    doubtful: bool,
}

enum Stage {
    /// The head of the answer is still to come.
    Head(Head),
    /// The body of the answer is still to come.
    Body(Incoming),
}

/// What has come of a body.
pub(crate) struct Collected {
    pub(crate) frames: VecDeque<Frame<Bytes>>,
    /// It is all there, and this is how long the dyno had the request: the dyno is checked in.
    pub(crate) ended: Option<Duration>,
}

/// Why there is no head of an answer.
pub(crate) enum Trouble {
    /// The connection failed. `unsent`: nothing of the request was sent. `silent`: not a byte of an answer came.
    Broken { lease: Lease, unsent: Option<Box<Request<ToDyno>>>, silent: bool, fault: Fault },
    /// It took too long, or the client's body failed. The flight has been taken care of.
    Over(Fault),
}

impl Flight {
    /// Sends the request.
    pub(crate) fn start(
        lease: Lease,
        mut conn: Box<Conn>,
        request: Request<ToDyno>,
        limits: Arc<Limits>,
        memory: Memory,
    ) -> Self {
        let progress = request.body().progress();
        let heard_before = conn.heard();
        let sent = lease.app().shared().now();
        let head = conn.send(request);
        let (stage, outcome) = (Stage::Head(head), Outcome::Served);
        let doubtful = false;
        Self(Some(Parts {
            lease,
            conn,
            limits,
            memory,
            progress,
            heard_before,
            sent,
            stage,
            outcome,
            doubtful,
        }))
    }

    /// Waits for the head of the answer: `first_byte` after the request has been sent, and no longer than `idle` for
    /// each part of a streamed request.
    pub(crate) async fn head(&mut self) -> Result<http::response::Parts, Trouble> {
        let Some(parts) = &mut self.0 else { return Err(Trouble::Over(Fault::Platform)) };
        let mut timer = pin!(sleep(parts.patience()));
        let result = poll_fn(|cx| parts.poll_head(cx, timer.as_mut())).await;
        match result {
            Ok(response) => {
                let (head, body) = response.into_parts();
                parts.answered(&head, body);
                Ok(head)
            }
            Err(None) => {
                let fault = parts.late();
                self.abandon();
                Err(Trouble::Over(fault))
            }
            Err(Some(mut error)) => {
                let Some(parts) = self.0.take() else { return Err(Trouble::Over(Fault::Platform)) };
                if let Some(fault) = parts.progress.as_ref().and_then(|progress| progress.fault()) {
                    // The client broke the request off; the dyno has half of it and loses its connection.
                    parts.fail(Outcome::Cut);
                    return Err(Trouble::Over(fault));
                }
                let silent = parts.conn.heard() == parts.heard_before && !was_reset(error.error());
                let unsent = error.take_message().map(Box::new);
                let fault = broken(error.error(), silent);
                Err(Trouble::Broken { lease: parts.lease, unsent, silent, fault })
            }
        }
    }

    /// Whether the answer is short enough to be read whole before the client gets a byte of it, so that a dyno that
    /// dies in the middle still gives a clean fault.
    pub(crate) fn is_short(&self, most: u64) -> bool {
        self.length().is_some_and(|length| length <= most)
    }

    /// Bytes of the body that are still to come, if that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body().and_then(|body| body.size_hint().exact())
    }

    /// What has come of the body. Waits for all of it if `whole`, else for nothing.
    ///
    /// # Errors
    /// The fault of a dyno that broke its answer off. The flight has been taken care of.
    pub(crate) async fn collect(&mut self, whole: bool) -> Result<Collected, Fault> {
        let Some(parts) = &mut self.0 else { return Err(Fault::Platform) };
        let mut frames = VecDeque::new();
        let mut spare = if parts.memory.is_full() { 0 } else { parts.limits.response_spool };
        let (mut timer, mut acknowledged) = (None, false);
        let result = poll_fn(|cx| {
            loop {
                match parts.poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        spare = spare.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                        frames.push_back(frame);
                        timer = None;
                        if !whole && spare == 0 {
                            return Poll::Ready(Ok(false));
                        }
                    }
                    Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(fault)),
                    Poll::Ready(None) => {
                        parts.park(cx);
                        return Poll::Ready(Ok(true));
                    }
                    Poll::Pending if !acknowledged => {
                        acknowledged = true;
                        parts.conn.expects_more();
                    }
                    Poll::Pending if !whole => return Poll::Ready(Ok(false)),
                    Poll::Pending => {
                        let timer = timer.get_or_insert_with(|| Box::pin(sleep(parts.limits.idle)));
                        let late = timer.as_mut().poll(cx).is_ready();
                        return if late { Poll::Ready(Err(Fault::IdleConnection)) } else { Poll::Pending };
                    }
                }
            }
        })
        .await;
        match result {
            Ok(true) => {
                let service = parts.service();
                self.served();
                Ok(Collected { frames, ended: Some(service) })
            }
            Ok(false) => Ok(Collected { frames, ended: None }),
            Err(Fault::IdleConnection) => {
                self.abandon();
                Err(Fault::IdleConnection)
            }
            Err(fault) => {
                self.fail();
                Err(fault)
            }
        }
    }

    /// Reads the rest of the answer into the spool, in a task of its own, so that the dyno is free at its last byte
    /// however slowly the client reads.
    pub(crate) fn pump(mut self, mut writer: Writer) {
        tokio::spawn(async move {
            let fault = self.pump_all(&mut writer).await;
            let service = self.0.as_ref().map(Parts::service).unwrap_or_default();
            match fault {
                None => self.served(),
                // Silent or unread: the dyno may still be at it.
                Some(Fault::IdleConnection | Fault::ClientIdle | Fault::ClientInterrupted) => self.abandon(),
                Some(_) => self.fail(),
            }
            writer.end(End { service, fault }).await;
        });
    }

    async fn pump_all(&mut self, writer: &mut Writer) -> Option<Fault> {
        let Some(parts) = &mut self.0 else { return Some(Fault::Platform) };
        let mut timer = pin!(sleep(parts.limits.idle));
        let mut taken = 0;
        poll_fn(|cx| {
            loop {
                match writer.poll_room(cx) {
                    Poll::Ready(Err(Gone)) => return Poll::Ready(Some(Fault::ClientInterrupted)),
                    // The disk is slow, not the client.
                    Poll::Pending if writer.is_writing() => return Poll::Pending,
                    Poll::Pending => {
                        let before = std::mem::replace(&mut taken, writer.taken());
                        if before < taken {
                            timer.as_mut().reset(Instant::now() + parts.limits.idle);
                        }
                        let late = timer.as_mut().poll(cx).is_ready();
                        return if late { Poll::Ready(Some(Fault::ClientIdle)) } else { Poll::Pending };
                    }
                    Poll::Ready(Ok(())) => {}
                }
                match parts.poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        timer.as_mut().reset(Instant::now() + parts.limits.idle);
                        writer.push(frame);
                    }
                    Poll::Ready(Some(Err(fault))) => return Poll::Ready(Some(fault)),
                    Poll::Ready(None) => {
                        parts.park(cx);
                        return Poll::Ready(None);
                    }
                    Poll::Pending if writer.flush() => {}
                    Poll::Pending => {
                        if writer.poll_gone(cx).is_ready() {
                            return Poll::Ready(Some(Fault::ClientInterrupted));
                        }
                        let late = timer.as_mut().poll(cx).is_ready();
                        return if late { Poll::Ready(Some(Fault::IdleConnection)) } else { Poll::Pending };
                    }
                }
            }
        })
        .await
    }

    /// The dyno has changed the protocol: its connection goes on as bytes both ways. Says too how long it took.
    ///
    /// # Errors
    /// [`Fault::PoorlyFormatted`]: it did so before it had the whole request.
    pub(crate) async fn switch(mut self, protocols: &HeaderValue) -> Result<(Switched, Duration), Fault> {
        let Some(mut parts) = self.0.take() else { return Err(Fault::Platform) };
        // hyper is through with the connection at once, unless it still sends the request.
        let _ = poll_fn(|cx| Poll::Ready(parts.conn.poll_drive(cx))).await;
        let service = parts.service();
        let Parts { lease, conn, limits, .. } = parts;
        match conn.into_io() {
            Some((io, read)) => Ok((Switched::new(lease, io, read, limits, protocols), service)),
            None => {
                lease.check_in(Outcome::Failed);
                Err(Fault::PoorlyFormatted)
            }
        }
    }

    /// The answer is not wanted: the dyno is freed as soon as it is done with it.
    pub(crate) fn abandon(&mut self) {
        if let Some(parts) = self.0.take() {
            parts.linger();
        }
    }

    /// What the dyno sent is unusable and its connection with it.
    pub(crate) fn fail(&mut self) {
        self.0.take().into_iter().for_each(|parts| parts.fail(Outcome::Failed));
    }

    fn served(&mut self) {
        if let Some(parts) = self.0.take() {
            let Parts { mut lease, conn, limits, outcome, stage, .. } = parts;
            drop(stage);
            match conn.parked {
                Some(_) => conn.stay(&mut lease, &limits),
                // Closed before the dyno is given to the next request.
                None => drop(conn),
            }
            lease.check_in(outcome);
        }
    }

    fn body(&self) -> Option<&Incoming> {
        match &self.0.as_ref()?.stage {
            Stage::Body(body) => Some(body),
            Stage::Head(_) => None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Parts {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Result<Response<Incoming>, Option<Unsent>>> {
        let Stage::Head(head) = &mut self.stage else { return Poll::Ready(Err(None)) };
        if let Poll::Ready(result) = self.conn.poll_for(cx, |cx| head.as_mut().poll(cx)) {
            return Poll::Ready(result.map_err(Some));
        }
        while timer.as_mut().poll(cx).is_ready() {
            let patience = self.patience();
            if patience.is_zero() {
                return Poll::Ready(Err(None));
            }
            timer.as_mut().reset(Instant::now() + patience);
        }
        Poll::Pending
    }

    fn answered(&mut self, head: &http::response::Parts, body: Incoming) {
        self.stage = Stage::Body(body);
        // RFC 9112 section 6.3: the chunks count, and somebody may have meant the length.
        self.doubtful =
            head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING);
        if head.status.is_server_error() {
            self.outcome = Outcome::Errored;
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Stage::Body(body) = &mut self.stage else { return Poll::Ready(Some(Err(Fault::Platform))) };
        let frame = self.conn.poll_for(cx, |cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = frame.map_err(|error| match error.is_parse() {
            true => Fault::PoorlyFormatted,
            false => Fault::ServerInterrupted,
        });
        frame.map_ok(|frame| frame.map_data(|data| self.memory.hold(data)))
    }

    /// The answer has ended: if the connection can be used again it is kept for the dyno's next request.
    fn park(&mut self, cx: &mut Context<'_>) {
        let bound = self.limits.proxy_protocol != ProxyHeader::Off;
        let kept = !bound && (!self.limits.keepalive.is_zero() || self.conn.is_shared());
        let keep = kept && !self.doubtful && (self.conn.is_idle() || self.conn.is_reusable(cx));
        self.conn.parked = keep.then(|| self.lease.app().shared().now());
    }

    /// When to look again whether to wait for the head; zero: no longer.
    fn patience(&self) -> Duration {
        let left = |since: std::time::Instant, most: Duration| {
            most.saturating_sub(self.lease.app().shared().now().duration_since(since))
        };
        match self.progress.as_ref().map(|progress| progress.waits()) {
            None => left(self.sent, self.limits.first_byte),
            Some(Waits::Done(at)) => left(at, self.limits.first_byte),
            Some(Waits::ForDyno(at)) => left(at, self.limits.idle).min(GRACE),
            Some(Waits::ForClient(at)) => {
                let pace = self.progress.as_ref().and_then(|progress| progress.patience());
                left(at, self.limits.idle).min(pace.unwrap_or(GRACE)).min(GRACE)
            }
        }
    }

    /// Whose fault it is that the head is late.
    fn late(&self) -> Fault {
        match self.progress.as_ref().map(|progress| progress.waits()) {
            Some(Waits::ForClient(_)) => Fault::ClientIdle,
            Some(Waits::Done(_) | Waits::ForDyno(_)) | None => Fault::RequestTimeout,
        }
    }

    fn service(&self) -> Duration {
        self.lease.app().shared().now().duration_since(self.lease.granted_at())
    }

    /// The connection is closed and with it the request.
    fn fail(self, outcome: Outcome) {
        let Self { lease, conn, stage, .. } = self;
        // Closed before the dyno is given to the next request: never two connections to one dyno. Of one that is shared
        // only this request's stream ends.
        drop(stage);
        drop(conn);
        lease.check_in(outcome);
    }

    fn linger(mut self) {
        let whole = self.progress.as_ref().is_none_or(|progress| matches!(progress.waits(), Waits::Done(_)));
        let runtime = tokio::runtime::Handle::try_current();
        let (Ok(runtime), true, false) = (runtime, whole, self.limits.close_frees_dyno) else {
            // Half a request never becomes an answer.
            self.fail(Outcome::Cut);
            return;
        };
        self.lease.linger();
        let most = self.limits.linger;
        runtime.spawn(async move {
            let end = tokio::time::timeout(most, poll_fn(|cx| self.poll_to_end(cx))).await;
            match end {
                Ok(true) => Flight(Some(self)).served(),
                Ok(false) => self.fail(Outcome::Failed),
                Err(_) => self.fail(Outcome::Cut),
            }
        });
    }

    /// Reads and throws away. Ready with whether the dyno answered to the end.
    fn poll_to_end(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if let Stage::Head(head) = &mut self.stage {
                match self.conn.poll_for(cx, |cx| head.as_mut().poll(cx)) {
                    Poll::Ready(Ok(response)) => {
                        let (head, body) = response.into_parts();
                        self.answered(&head, body);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => {
                    self.park(cx);
                    return Poll::Ready(true);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Whether the dyno broke off this one request of a connection that goes on, and not because it had no room for it: it
/// may have begun with it.
fn was_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| error.is_reset() && error.reason() != Some(h2::Reason::REFUSED_STREAM))
}

/// What a connection that failed before the head of the answer says of the dyno.
pub(crate) fn broken(error: &hyper::Error, silent: bool) -> Fault {
    if error.is_parse_too_large() {
        Fault::Restriction(Restriction::Header)
    } else if error.is_parse() {
        // hyper tells the kinds of bad heads apart only in words.
        let length = error.to_string().contains("content-length");
        if length { Fault::Restriction(Restriction::ContentLength) } else { Fault::PoorlyFormatted }
    } else if silent {
        Fault::ClosedWithoutResponse
    } else {
        Fault::ServerInterrupted
    }
}
