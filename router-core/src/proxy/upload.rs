//! A request's body on its way to a dyno: read ahead up to a bound, the rest streamed while the dyno is held.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::clock::Clock;
use crate::fault::{BadRequest, Fault};
use crate::limits::Limits;
use crate::proxy::ahead::{Ahead, Kept, Lost, Replay};
use crate::proxy::disk::Share;
use crate::proxy::memory::Memory;
use crate::proxy::pace::{self, Pace};
use crate::sync::Mutex;

/// Any error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A client's body.
pub(crate) type ClientBody = UnsyncBoxBody<Bytes, BoxError>;

/// The body, which fails when it turns out to be longer than `most` bytes; 0: any length.
///
/// # Errors
/// [`BadRequest::BodyTooLarge`] if it says so beforehand.
fn bounded(body: ClientBody, most: u64) -> Result<ClientBody, Fault> {
    let length = body.size_hint();
    if most == 0 || length.exact().is_some_and(|length| length <= most) {
        return Ok(body);
    }
    if length.lower() > most {
        return Err(Fault::BadRequest(BadRequest::BodyTooLarge));
    }
    Ok(Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX)).boxed_unsync())
}

/// A request's body before a dyno is taken.
pub(crate) struct Upload {
    /// What has been read.
    ahead: Kept,
    trailers: Option<HeaderMap>,
    /// What has not, if the body is longer than what may be read ahead.
    rest: Option<ClientBody>,
    length: Option<u64>,
    /// What is to come of it in a second, in bytes, while a dyno waits for it; 0: any number.
    rate_min: u64,
}

impl Upload {
    /// No body.
    pub(crate) fn none() -> Self {
        Self { ahead: Kept::default(), trailers: None, rest: None, length: Some(0), rate_min: 0 }
    }

    /// Takes a request's body in before a dyno is taken. That of a `call` is sent on as it comes, at any pace: a call
    /// may wait for its answer before it says more.
    ///
    /// # Errors
    /// [`Fault::Memory`], [`BadRequest::BodyTooLarge`], and what [`read_ahead`](Self::read_ahead) says.
    pub(crate) async fn take_up(
        body: Option<ClientBody>,
        call: bool,
        limits: &Limits,
        memory: &Memory,
        share: Option<Share>,
    ) -> Result<Self, Fault> {
        let Some(body) = body else { return Ok(Self::none()) };
        if memory.is_full() {
            return Err(Fault::Memory);
        }
        let body = bounded(body, limits.body_max)?;
        if call {
            let length = body.size_hint().exact();
            return Ok(Self { rest: Some(body), length, ..Self::none() });
        }
        Self::read_ahead(body, limits, memory, share).await
    }

    /// Reads the body up to `request_buffer`, or until there is no memory for more, and then to disk as far as `share`
    /// has room there, waiting no longer than `idle` for each part and `body` for all of it, and what it
    /// needs at `body_rate_min`.
    ///
    /// # Errors
    /// [`Fault::ClientIdle`], [`Fault::ClientInterrupted`], or [`Fault::BadRequest`] for broken chunks and
    /// for more than it may have.
    async fn read_ahead(
        mut body: ClientBody,
        limits: &Limits,
        memory: &Memory,
        share: Option<Share>,
    ) -> Result<Self, Fault> {
        let end = tokio::time::Instant::now() + limits.body;
        let length = body.size_hint().exact();
        let mut ahead = Ahead::new(limits.request_buffer, memory, share);
        let (mut rest, mut trailers) = (None, None);
        loop {
            if !ahead.has_room() && !body.is_end_stream() {
                rest = Some(body);
                break;
            }
            let earned = pace::time_for(ahead.length(), limits.body_rate_min).unwrap_or_default();
            let most = (end + earned).min(tokio::time::Instant::now() + limits.idle);
            let Ok(frame) = tokio::time::timeout_at(most, body.frame()).await else {
                return Err(Fault::ClientIdle);
            };
            match frame {
                None => break,
                Some(Err(error)) => return Err(client_fault(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => ahead.push(data).await,
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        }
        let rate_min = limits.body_rate_min;
        Ok(Self { ahead: ahead.keep().await, trailers, rest, length, rate_min })
    }

    /// Bytes held in memory while the request waits.
    pub(crate) fn held(&self) -> u64 {
        self.ahead.in_memory()
    }

    /// Whether the whole body is here, so that it can be sent more than once.
    pub(crate) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// The body for one try. What cannot be sent twice is moved out; [`Upload::put_back`] brings it back if nothing
    /// of it was sent.
    pub(crate) fn next_try(&mut self, clock: &Clock) -> ToDyno {
        let rest = self.rest.take();
        // What is in memory alone is the dyno's as soon as it takes it.
        let lasts = rest.is_some() || self.ahead.is_stored();
        let progress = lasts.then(|| Arc::new(Progress::new(clock, self.rate_min)));
        let trailers = self.trailers.clone();
        ToDyno { ahead: self.ahead.replay(), trailers, rest, length: self.length, progress }
    }

    /// Takes the unsent body of a try back.
    pub(crate) fn put_back(&mut self, unsent: ToDyno) {
        self.rest = unsent.rest;
    }
}

/// A request's body as hyper sends it to the dyno.
pub(crate) struct ToDyno {
    ahead: Replay,
    trailers: Option<HeaderMap>,
    rest: Option<ClientBody>,
    /// Of the whole body, when it is known.
    length: Option<u64>,
    progress: Option<Arc<Progress>>,
}

impl ToDyno {
    /// How far a body is that is streamed or on disk; `None` when all of it was in memory from the start.
    pub(crate) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl ToDyno {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ahead.left() > 0 {
            return self.ahead.poll_next(cx).map(|data| Some(data.map(Frame::data).map_err(Into::into)));
        }
        if let (Some(rest), Some(progress)) = (&mut self.rest, &self.progress) {
            progress.waits_for_client();
            return Pin::new(rest).poll_frame(cx);
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for ToDyno {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.poll_part(cx));
        if let Some(progress) = &self.progress {
            // Whoever knows the length does not ask for the end.
            progress.moved(&frame, self.is_end_stream());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.left() == 0
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let known = match (&self.rest, &self.trailers) {
            (None, None) => Some(self.ahead.left()),
            (Some(_), _) => self.length,
            (None, Some(_)) => None,
        };
        known.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// How far an upload is that takes its time, for whoever watches that.
pub(crate) struct Progress {
    clock: Clock,
    state: Mutex<Stage>,
}

#[derive(Clone, Copy)]
struct Stage {
    touched: Instant,
    waits_for_client: bool,
    done: bool,
    fault: Option<Fault>,
    pace: Pace,
}

/// What a streamed upload waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waits {
    /// For the client to send more, since then.
    ForClient(Instant),
    /// For the dyno to take more, since then.
    ForDyno(Instant),
    /// For nothing: all of it was sent by then.
    Done(Instant),
}

impl Progress {
    fn new(clock: &Clock, rate_min: u64) -> Self {
        let pace = Pace::new(rate_min);
        let stage = Stage { touched: clock.now(), waits_for_client: false, done: false, fault: None, pace };
        Self { clock: clock.clone(), state: Mutex::new(stage) }
    }

    pub(crate) fn waits(&self) -> Waits {
        let stage = *self.state.lock();
        match stage {
            Stage { done: true, touched, .. } => Waits::Done(touched),
            Stage { waits_for_client: true, touched, .. } => Waits::ForClient(touched),
            Stage { touched, .. } => Waits::ForDyno(touched),
        }
    }

    /// How much longer the client may be waited for because of its pace; `None`: as long as it likes.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.state.lock().pace.left(self.clock.now())
    }

    /// Why the client's body broke off, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.state.lock().fault
    }

    fn waits_for_client(&self) {
        let mut stage = self.state.lock();
        stage.waits_for_client = true;
        stage.pace.waits(|| self.clock.now());
    }

    fn moved(&self, frame: &Option<Result<Frame<Bytes>, BoxError>>, over: bool) {
        let now = self.clock.now();
        let mut stage = self.state.lock();
        stage.touched = now;
        stage.waits_for_client = false;
        let sent = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        stage.pace.moved(now, sent.map_or(0, Bytes::len));
        match frame {
            None => stage.done = true,
            Some(Ok(frame)) => stage.done = over || frame.is_trailers(),
            Some(Err(error)) => stage.fault = Some(client_fault(error)),
        }
    }
}

/// What broke a client's body: its connection, its own chunks, its length, or our disk.
fn client_fault(error: &BoxError) -> Fault {
    if error.is::<LengthLimitError>() {
        return Fault::BadRequest(BadRequest::BodyTooLarge);
    }
    if error.is::<Lost>() {
        return Fault::Platform;
    }
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => Fault::ClientIdle,
        Some(error) if error.is_incomplete_message() || is_io(error) => Fault::ClientInterrupted,
        Some(_) => Fault::BadRequest(BadRequest::Chunk),
        None => Fault::ClientInterrupted,
    }
}

/// hyper has no `is_io`: the kernel's error is in the chain. A broken chunk is `InvalidInput` or `InvalidData`; a
/// connection that ends among chunks is `UnexpectedEof`.
fn is_io(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return !matches!(io.kind(), InvalidData | InvalidInput);
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::proxy::disk::Disk;

    /// A body in parts; once they are out nothing more comes, ever, if it is to hang.
    struct Parts(VecDeque<&'static str>, bool);

    impl Body for Parts {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.pop_front() {
                None if self.1 => Poll::Pending,
                part => Poll::Ready(part.map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))),
            }
        }
    }

    fn body(parts: &[&'static str], hangs: bool) -> ClientBody {
        Parts(parts.iter().copied().collect(), hangs).boxed_unsync()
    }

    async fn sent(upload: &mut Upload) -> Bytes {
        upload.next_try(&Clock::default()).collect().await.unwrap().to_bytes()
    }

    fn memory(most: u64) -> Memory {
        let memory = Memory::default();
        memory.set_most(most);
        memory
    }

    #[tokio::test]
    async fn parts_become_one_and_are_charged_until_they_are_dropped() {
        let memory = memory(1000);
        let body = body(&["a", "bc", "", "def"], false);
        let mut upload = Upload::read_ahead(body, &Limits::default(), &memory, None).await.unwrap();
        assert_eq!(
            (&sent(&mut upload).await[..], memory.held(), upload.is_whole()),
            (&b"abcdef"[..], 6, true)
        );
        drop(upload);
        assert_eq!(memory.held(), 0);
    }

    #[tokio::test]
    async fn without_memory_nothing_more_is_read_ahead() {
        let memory = memory(3);
        let body = body(&["a", "bc", "def"], false);
        let upload = Upload::read_ahead(body, &Limits::default(), &memory, None).await.unwrap();
        assert_eq!((upload.held(), memory.held(), upload.is_whole()), (3, 3, false));
    }

    #[tokio::test]
    async fn what_is_streamed_or_on_disk_is_known_to_be_sent_when_it_is() {
        let (disk, folder) = (Disk::default(), tempfile::tempdir().unwrap());
        disk.set(folder.path(), 0, 0);
        let limits = Limits::default().with_request_buffer(2);
        for (most, whole) in [(100, true), (2, false)] {
            let share = Share::new(&disk, &"shop".into(), most, 100);
            let body = body(&["ab", "cd", "ef"], false);
            let mut upload = Upload::read_ahead(body, &limits, &Memory::default(), share).await.unwrap();
            assert_eq!((upload.is_whole(), disk.held()), (whole, if whole { 4 } else { 2 }));
            let mut try_one = upload.next_try(&Clock::default());
            let progress = try_one.progress().unwrap();
            for part in if whole { &["ab", "cdef"][..] } else { &["ab", "cd", "ef"] } {
                assert!(matches!(progress.waits(), Waits::ForDyno(_)));
                let frame = try_one.frame().await.unwrap().unwrap();
                assert_eq!(frame.data_ref().unwrap(), part);
            }
            assert_eq!(try_one.is_end_stream(), whole);
            assert!(whole || try_one.frame().await.is_none());
            assert!(matches!(progress.waits(), Waits::Done(_)));
            if whole {
                assert_eq!(sent(&mut upload).await, "abcdef", "once more");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_for_ever_is_waited_for_no_longer_than_a_body_may_take() {
        let limits = Limits::default().with_body(Duration::from_secs(3));
        let begun = tokio::time::Instant::now();
        let upload = Upload::read_ahead(body(&["a"], true), &limits, &Memory::default(), None).await;
        assert_eq!((upload.err(), begun.elapsed().as_secs()), (Some(Fault::ClientIdle), 3));
    }
}
