//! An answer between a dyno and a slower client: kept up to a bound, so that the dyno is free at its last byte.
//!
//! What there is no room for in memory goes to disk, in the order in which it came, and is read back at the client's
//! pace. A client that keeps up gets each part from memory as soon as it is there: nothing is held back for more to
//! come, except behind what the client has not taken yet.
//!
//! *Shared:* one [`Spool`] between the task that reads the dyno and the client's connection. *Lock:* its own, for a
//! push or a pop. *Wakes:* the reader when there is something, the writer when there is room again or nobody reads
//! any more; both after unlocking. *Cancel:* a dropped [`Reader`] tells the writer, and takes what was kept with it.
//! *Never:* more than the bound, one frame and one batch for the disk in memory.

mod ring;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::task::JoinHandle;

use self::ring::Ring;
use crate::fault::Fault;
use crate::proxy::disk::{Fallback, Scratch, Share, WRITE};
use crate::proxy::memory::Memory;
use crate::proxy::record::Open;
use crate::sync::Mutex;

/// A frame is given to the client in parts of this length, in bytes, so that it shows how far it is.
const PART: usize = 64 << 10;

/// Makes a spool for up to `most` bytes in memory, and for one frame while there is no memory for more; the rest goes
/// to disk as far as `share` has room there.
pub(crate) fn spool(most: usize, memory: Memory, share: Option<Share>) -> (Writer, Reader) {
    let spill = share.is_some().then(Spill::default);
    let stored = share.map(|share| Stored { ring: Ring::new(share.most()), share, file: None });
    let shared = Arc::new(Mutex::new(State { stored, ..State::default() }));
    let writer = Writer { shared: Arc::clone(&shared), most: most.max(1), memory: memory.clone(), spill };
    (writer, Reader { shared, memory, reading: None })
}

#[derive(Default)]
struct State {
    parts: VecDeque<Part>,
    /// In memory.
    bytes: usize,
    /// Bytes that the client's connection has taken.
    taken: u64,
    /// What is on disk, if anything may be.
    stored: Option<Stored>,
    end: Option<End>,
    /// The client has everything; the record waits for the dyno's end.
    open: Option<Open>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    gone: bool,
}

/// A part of an answer.
enum Part {
    Memory(Frame<Bytes>),
    /// So many bytes at that place of the file.
    Disk(u64, u64),
}

struct Stored {
    share: Share,
    ring: Ring,
    /// There is one while there is something in it.
    file: Option<Arc<Scratch>>,
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
    spill: Option<Spill>,
}

/// What is on its way to disk. It stands behind all that is in the spool.
#[derive(Default)]
struct Spill {
    batch: Vec<Bytes>,
    bytes: usize,
    writing: Option<Writing>,
    /// There was no room: nothing more goes to disk until memory has room again.
    blocked: bool,
    /// It was said that there was none.
    told: bool,
}

struct Writing {
    task: JoinHandle<io::Result<Arc<Scratch>>>,
    place: (u64, u64),
    /// What is written, should that fail.
    parts: Vec<Bytes>,
}

/// The client's side.
pub(crate) struct Reader {
    shared: Arc<Mutex<State>>,
    memory: Memory,
    reading: Option<Reading>,
}

struct Reading {
    task: JoinHandle<io::Result<Bytes>>,
    place: (u64, u64),
}

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl State {
    fn push(&mut self, frame: Frame<Bytes>) {
        let last = match frame.into_data() {
            Ok(mut data) => {
                self.bytes += data.len();
                while data.len() > PART {
                    self.parts.push_back(Part::Memory(Frame::data(data.split_to(PART))));
                }
                Frame::data(data)
            }
            Err(frame) => frame,
        };
        self.parts.push_back(Part::Memory(last));
    }

    fn push_stored(&mut self, (at, length): (u64, u64)) {
        match self.parts.back_mut() {
            Some(Part::Disk(before, so_far)) if *before + *so_far == at => *so_far += length,
            Some(Part::Disk(..) | Part::Memory(_)) | None => self.parts.push_back(Part::Disk(at, length)),
        }
    }
}

impl Stored {
    /// If nothing is on disk any more, gives up the file.
    fn settle(&mut self) -> Option<Arc<Scratch>> {
        if self.ring.is_empty() {
            self.ring = Ring::new(self.share.most());
            self.share.clear();
            return self.file.take();
        }
        None
    }
}

impl Spill {
    fn add(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        self.batch.push(bytes);
    }

    /// Takes the first bytes of the batch.
    fn cut(&mut self, mut length: usize) -> Vec<Bytes> {
        self.bytes -= length;
        let mut parts = Vec::new();
        while length > 0 {
            let Some(part) = self.batch.get_mut(parts.len()) else { break };
            let cut = part.split_to(part.len().min(length));
            length -= cut.len();
            parts.push(cut);
        }
        self.batch.retain(|part| !part.is_empty());
        parts
    }

    /// Back to memory.
    fn unload(&mut self, state: &mut State) {
        self.bytes = 0;
        self.batch.drain(..).for_each(|part| state.push(Frame::data(part)));
    }
}

impl Writer {
    /// Ready when a frame may be pushed, or when nobody reads any more. [`is_writing`](Self::is_writing) says whether
    /// it is the disk that is waited for.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            let mut state = self.shared.lock();
            if state.gone {
                return Poll::Ready(Err(Gone));
            }
            if self.has_room(&state) {
                return Poll::Ready(Ok(()));
            }
            state.writer = Some(cx.waker().clone());
            drop(state);
            if !ready!(self.poll_write(cx)) {
                return Poll::Pending;
            }
        }
    }

    fn has_room(&self, state: &State) -> bool {
        // With something in it, whoever reads that will wake us: memory that others free need not.
        let in_memory = state.bytes == 0 || (state.bytes < self.most && !self.memory.is_full());
        let (Some(spill), Some(stored)) = (&self.spill, &state.stored) else { return in_memory };
        let on_disk = !spill.blocked && spill.bytes < WRITE && stored.ring.room().1 > spill.bytes as u64;
        spill.writing.is_none() && (on_disk || (in_memory && spill.batch.is_empty()))
    }

    /// Bytes that the client's connection has taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.shared.lock().taken
    }

    /// Whether the disk is waited for.
    pub(crate) fn is_writing(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.writing.is_some())
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

    /// Once [`poll_room`](Self::poll_room) has said that there is room.
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        let mut state = self.shared.lock();
        let in_memory = state.bytes == 0 || (state.bytes < self.most && !self.memory.is_full());
        let frame = match &mut self.spill {
            Some(spill) if in_memory && spill.batch.is_empty() => {
                spill.blocked = false;
                frame
            }
            Some(spill) if !spill.blocked => match frame.into_data() {
                Ok(data) => return spill.add(data),
                // Trailers, and what is before them: the last there is.
                Err(frame) => {
                    spill.unload(&mut state);
                    frame
                }
            },
            Some(_) | None => frame,
        };
        state.push(frame);
        let waker = state.reader.take();
        drop(state);
        wake(waker);
    }

    /// Nothing more comes for now: what waits for more goes to disk at once. Says whether something is under way or has
    /// changed; if not, there is no room until the client reads.
    pub(crate) fn flush(&mut self) -> bool {
        let Some(spill) = &mut self.spill else { return false };
        if spill.writing.is_some() || spill.batch.is_empty() {
            return spill.writing.is_some();
        }
        let mut state = self.shared.lock();
        // Without it nobody reads any more.
        while let Some(stored) = &mut state.stored {
            let (at, room) = stored.ring.room();
            let length = usize::try_from(room).map_or(spill.bytes, |room| room.min(spill.bytes));
            if length == 0 {
                return false;
            }
            let place = (at, length as u64);
            let Err(why) = stored.share.reach(at + place.1) else {
                stored.ring.take(place);
                let parts = spill.cut(length);
                let task = Scratch::write(stored.file.clone(), stored.share.disk(), at, parts.clone());
                spill.writing = Some(Writing { task, place, parts });
                return true;
            };
            if !std::mem::replace(&mut spill.told, true) {
                stored.share.disk().falls_back(why, None);
            }
            if stored.ring.is_empty() {
                spill.blocked = true;
                spill.unload(&mut state);
                let waker = state.reader.take();
                drop(state);
                wake(waker);
                return true;
            }
            // What it has may be used again.
            stored.ring.shorten(stored.share.length());
        }
        false
    }

    /// Writes the batch, or waits for what is being written. Ready with whether something has changed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(Spill { writing: Some(writing), .. }) = &mut self.spill else {
            return Poll::Ready(self.flush());
        };
        let written = ready!(Pin::new(&mut writing.task).poll(cx));
        if let Some(writing) = self.spill.as_mut().and_then(|spill| spill.writing.take()) {
            self.written(writing, written.unwrap_or_else(|error| Err(io::Error::other(error))));
        }
        Poll::Ready(true)
    }

    fn written(&mut self, Writing { place, parts, .. }: Writing, result: io::Result<Arc<Scratch>>) {
        let mut state = self.shared.lock();
        // Nobody reads any more.
        let Some(stored) = &mut state.stored else { return };
        let given_up = match result {
            Ok(file) => {
                stored.file = Some(file);
                state.push_stored(place);
                None
            }
            Err(error) => {
                stored.share.disk().falls_back(Fallback::of(&error), Some(&error));
                stored.ring.untake(place);
                let given_up = stored.settle();
                parts.into_iter().for_each(|part| state.push(Frame::data(part)));
                // What is there can still be read; nothing more is tried.
                self.spill.take().into_iter().for_each(|mut spill| spill.unload(&mut state));
                given_up
            }
        };
        let waker = state.reader.take();
        drop(state);
        drop(given_up);
        wake(waker);
    }

    /// The dyno's part has ended. What is on its way to disk gets there first.
    pub(crate) async fn end(mut self, end: End) {
        poll_fn(|cx| {
            while self.poll_gone(cx).is_pending() {
                if !ready!(self.poll_write(cx)) {
                    break;
                }
            }
            Poll::Ready(())
        })
        .await;
        let (waker, open) = {
            let mut state = self.shared.lock();
            // It waits for room on disk, and is the last there is.
            self.spill.take().into_iter().for_each(|mut spill| spill.unload(&mut state));
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
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, End>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(&mut reading.task).poll(cx));
                let place = reading.place;
                self.reading = None;
                return Poll::Ready(
                    self.read(place, read.unwrap_or_else(|error| Err(io::Error::other(error)))),
                );
            }
            let mut state = self.shared.lock();
            let file = state.stored.as_ref().and_then(|stored| stored.file.as_ref());
            if let (Some(Part::Disk(at, length)), Some(file)) = (state.parts.front(), file) {
                let (length, task) = file.read(*at, *length);
                self.reading = Some(Reading { task, place: (*at, length) });
                continue;
            }
            let Some(part) = state.parts.pop_front() else {
                if let Some(end) = state.end {
                    return Poll::Ready(Err(end));
                }
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let Part::Memory(frame) = part else { return Poll::Ready(Err(lost(&state))) };
            let length = frame.data_ref().map_or(0, Bytes::len);
            state.bytes -= length;
            state.taken += length as u64;
            let waker = state.writer.take();
            drop(state);
            wake(waker);
            return Poll::Ready(Ok(frame));
        }
    }

    /// What was read from disk is the client's, and its place is free.
    fn read(&self, place: (u64, u64), read: io::Result<Bytes>) -> Result<Frame<Bytes>, End> {
        let mut state = self.shared.lock();
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!("an answer cannot be read back from disk: {error}");
                return Err(lost(&state));
            }
        };
        match state.parts.front_mut() {
            Some(Part::Disk(at, length)) if *length > place.1 => {
                (*at, *length) = (*at + place.1, *length - place.1)
            }
            Some(Part::Disk(..) | Part::Memory(_)) | None => drop(state.parts.pop_front()),
        }
        state.taken += place.1;
        let given_up = state.stored.as_mut().and_then(|stored| {
            stored.ring.release(place);
            stored.settle()
        });
        let waker = state.writer.take();
        drop(state);
        drop(given_up);
        wake(waker);
        Ok(Frame::data(self.memory.hold(bytes)))
    }

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
        let (waker, parts, stored) = {
            let mut state = self.shared.lock();
            state.gone = true;
            (state.writer.take(), std::mem::take(&mut state.parts), state.stored.take())
        };
        drop((parts, stored));
        wake(waker);
    }
}

/// The rest of the answer cannot be had.
fn lost(state: &State) -> End {
    End { service: state.end.map_or(Duration::ZERO, |end| end.service), fault: Some(Fault::Platform) }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
