//! An answer between a dyno and a slower client: kept up to a bound, so that the dyno is free at its last byte.
//!
//! *Shared:* one [`Spool`] between the task that reads the dyno and the client's connection. *Lock:* its own, for a
//! push or a pop. *Wakes:* the reader when there is something, the writer when there is room again or nobody reads
//! any more; both after unlocking. *Cancel:* a dropped [`Reader`] tells the writer. *Never:* more than the bound and
//! one frame in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::fault::Fault;
use crate::proxy::memory::Memory;
use crate::proxy::record::Open;
use crate::sync::Mutex;

/// Makes a spool for up to `most` bytes, and for one frame while there is no memory for more.
pub(crate) fn spool(most: usize, memory: Memory) -> (Writer, Reader) {
    let frames = VecDeque::new();
    let state = State { frames, bytes: 0, end: None, open: None, reader: None, writer: None, gone: false };
    let shared = Arc::new(Mutex::new(state));
    (Writer { shared: Arc::clone(&shared), most: most.max(1), memory }, Reader { shared })
}

struct State {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    end: Option<End>,
    /// The client has everything; the record waits for the dyno's end.
    open: Option<Open>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gone: bool,
}

/// How the dyno's part of an answer ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// How long the dyno had the request.
    pub(crate) service: Duration,
    pub(crate) fault: Option<Fault>,
}

/// The dyno's side.
pub(crate) struct Writer {
    shared: Arc<Mutex<State>>,
    most: usize,
    memory: Memory,
}

/// The client's side.
pub(crate) struct Reader {
    shared: Arc<Mutex<State>>,
}

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl Writer {
    /// Ready when a frame may be pushed, or when nobody reads any more.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.shared.lock();
        if state.gone {
            return Poll::Ready(Err(Gone));
        }
        // With something in it, whoever reads that will wake us: memory that others free need not.
        if state.bytes == 0 || (state.bytes < self.most && !self.memory.is_full()) {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nobody reads any more; if somebody does, `cx` is woken when that changes.
    pub(crate) fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if state.gone {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn push(&self, frame: Frame<Bytes>) {
        let waker = {
            let mut state = self.shared.lock();
            state.bytes += frame.data_ref().map_or(0, Bytes::len);
            state.frames.push_back(frame);
            state.reader.take()
        };
        wake(waker);
    }

    pub(crate) fn end(self, end: End) {
        let (waker, open) = {
            let mut state = self.shared.lock();
            state.end = Some(end);
            (state.reader.take(), state.open.take())
        };
        if let Some(mut open) = open {
            open.note(|record| record.service = end.service);
        }
        wake(waker);
    }
}

impl Reader {
    /// The next frame, or how the answer ended.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Result<Frame<Bytes>, End>> {
        let (frame, waker) = {
            let mut state = self.shared.lock();
            match state.frames.pop_front() {
                Some(frame) => {
                    state.bytes -= frame.data_ref().map_or(0, Bytes::len);
                    (frame, state.writer.take())
                }
                None => {
                    if let Some(end) = state.end {
                        return Poll::Ready(Err(end));
                    }
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        wake(waker);
        Poll::Ready(Ok(frame))
    }
}

impl Reader {
    /// The client has got the whole answer: its record closes as soon as it is known how long the dyno took, which is
    /// now or in a moment.
    pub(crate) fn complete(&self, mut open: Open) {
        let end = {
            let mut state = self.shared.lock();
            let Some(end) = state.end else {
                state.open = Some(open);
                return;
            };
            end
        };
        open.note(|record| record.service = end.service);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (waker, frames) = {
            let mut state = self.shared.lock();
            state.gone = true;
            (state.writer.take(), std::mem::take(&mut state.frames))
        };
        drop(frames);
        wake(waker);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![b'x'; n]))
    }

    #[test]
    fn a_full_spool_has_room_again_once_the_client_reads() {
        let cx = Context::from_waker(Waker::noop());
        let (writer, reader) = spool(10, Memory::default());
        assert_eq!(writer.poll_room(&cx), Poll::Ready(Ok(())));
        writer.push(data(12));
        assert!(writer.poll_room(&cx).is_pending());
        assert!(matches!(reader.poll_next(&cx), Poll::Ready(Ok(_))));
        assert_eq!(writer.poll_room(&cx), Poll::Ready(Ok(())));
    }

    #[test]
    fn without_memory_one_frame_at_a_time_is_kept() {
        let cx = Context::from_waker(Waker::noop());
        let memory = Memory::default();
        memory.set_most(1);
        let (writer, reader) = spool(1000, memory.clone());
        writer.push(data(1));
        assert_eq!(writer.poll_room(&cx), Poll::Ready(Ok(())));
        let held = memory.hold(Bytes::from_static(b"elsewhere"));
        assert!(writer.poll_room(&cx).is_pending());
        assert!(matches!(reader.poll_next(&cx), Poll::Ready(Ok(_))));
        assert_eq!(writer.poll_room(&cx), Poll::Ready(Ok(())));
        drop(held);
    }

    #[test]
    fn what_was_pushed_before_the_end_is_read_before_the_end() {
        let cx = Context::from_waker(Waker::noop());
        let (writer, reader) = spool(10, Memory::default());
        writer.push(data(1));
        writer.end(End { service: Duration::ZERO, fault: Some(Fault::ServerInterrupted) });
        assert!(matches!(reader.poll_next(&cx), Poll::Ready(Ok(_))));
        assert!(matches!(reader.poll_next(&cx), Poll::Ready(Err(End { fault: Some(_), .. }))));
    }

    #[test]
    fn the_writer_is_told_when_nobody_reads_any_more() {
        let cx = Context::from_waker(Waker::noop());
        let (writer, reader) = spool(10, Memory::default());
        assert!(writer.poll_gone(&cx).is_pending());
        drop(reader);
        assert_eq!(writer.poll_room(&cx), Poll::Ready(Err(Gone)));
    }
}
