//! Bytes both ways between a client and a dyno, in the task of whoever asks: one timer for both, one part of a stream
//! in memory for each, and nothing while both are silent.
//!
//! *Shared:* nothing. *Cancel:* nothing is lost by a poll that is not repeated. *Never:* more read from one side than
//! the other has taken, and one part beyond that; a frame of ours in the middle of another.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::frames::Frames;

/// The most that is read at once, in bytes.
const PART: usize = 16 << 10;

/// One direction.
#[derive(Default)]
pub(crate) struct Flow {
    /// Read and not taken by the other side yet.
    pending: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    unflushed: bool,
    /// Bytes that the other side has taken.
    pub(crate) bytes: u64,
    /// Something came or went since it was last asked.
    moved: bool,
    frames: Option<Frames>,
    /// What to say at the end of the present frame.
    last_word: Option<Vec<u8>>,
    /// What comes is thrown away.
    mute: bool,
}

/// Why nothing moves in a direction any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Whoever is read from has closed its side, and the other has all of it.
    Ended,
    /// Whoever is read from has broken.
    From,
    /// Whoever is written to has broken.
    To,
}

impl Flow {
    /// A direction of which that much has been read already.
    pub(crate) fn new(read: &Bytes, websocket: bool) -> Self {
        // What the head of the 101 has left may still have to be flushed.
        let mut flow = Self { frames: websocket.then(Frames::default), unflushed: true, ..Self::default() };
        flow.admit(read);
        flow
    }

    /// Whether something came or went since it was last asked.
    pub(crate) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether the other side does not take what is there.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the last word of a WebSocket has been said in this direction, and taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::is_closed) && !self.is_stuck()
    }

    /// The last word is said as soon as no frame is under way, and what comes afterwards is thrown away. Of a direction
    /// that has closed, or is no WebSocket, nothing is left to say.
    pub(crate) fn close(&mut self, word: Vec<u8>) {
        match &mut self.frames {
            Some(frames) if !frames.is_closed() && !self.mute => {
                if frames.is_between() {
                    self.say(&word);
                } else {
                    self.last_word = Some(word);
                }
            }
            Some(_) | None => self.mute = true,
        }
    }

    /// Whether a frame of ours waits for the end of another.
    pub(crate) fn has_last_word(&self) -> bool {
        self.last_word.is_some()
    }

    fn say(&mut self, word: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.read(word);
        }
        self.pending.extend_from_slice(word);
        self.mute = true;
    }

    /// Takes in what was read, as far as it is to go on.
    fn admit(&mut self, data: &[u8]) {
        if self.mute {
            return;
        }
        let Some(frames) = &mut self.frames else { return self.pending.extend_from_slice(data) };
        if self.last_word.is_none() {
            frames.read(data);
            return self.pending.extend_from_slice(data);
        }
        let end = frames.next_end(data);
        self.pending.extend_from_slice(&data[..end.unwrap_or(data.len())]);
        if let (Some(_), Some(word)) = (end, self.last_word.take_if(|_| end.is_some())) {
            self.say(&word);
        }
    }

    /// Moves what can be moved. Ready when nothing more will.
    pub(crate) fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Stop>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.poll_write(cx, to) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Stop::To),
                Poll::Pending => return Poll::Pending,
            }
            let mut space = [const { MaybeUninit::uninit() }; PART];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Stop::Ended),
                Poll::Ready(Ok(())) => {
                    self.moved = true;
                    self.admit(read.filled());
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Stop::From),
                Poll::Pending => return self.poll_flush(cx, to),
            }
        }
    }

    /// Writes what is there. Ready with whether the other side has taken it.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<bool> {
        while self.taken < self.pending.len() {
            match Pin::new(&mut *to).poll_write(cx, &self.pending[self.taken..]) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(written)) => {
                    self.taken += written;
                    self.bytes += written as u64;
                    (self.moved, self.unflushed) = (true, true);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        // A silent connection costs no memory.
        (self.pending, self.taken) = (Vec::new(), 0);
        Poll::Ready(true)
    }

    /// Pending, because there is nothing to read; or it is over.
    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Stop> {
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Stop::To),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

/// Reads and throws away, until the end.
pub(crate) async fn read_to_end<R: AsyncRead + Unpin>(from: &mut R) {
    let mut space = [const { MaybeUninit::uninit() }; 1024];
    std::future::poll_fn(|cx| {
        loop {
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
