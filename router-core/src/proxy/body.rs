//! The body of an answer on its way to the client; the request's record goes with it and closes at its end.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::fault::Fault;
use crate::proxy::coded::Coded;
use crate::proxy::record::Open;
use crate::proxy::spool::{End, Reader};
use crate::proxy::upgrade::Upgrade;

/// The body of an answer, of whatever kind.
///
/// # Errors
/// [`BrokenOff`] when the dyno failed in the middle of its answer: the connection to the client is to be cut, so that
/// the client does not take the part for the whole.
pub struct Body {
    kind: Kind,
    open: Option<Open>,
}

enum Kind {
    /// All of it is here.
    Whole { frames: VecDeque<Frame<Bytes>>, left: u64 },
    /// It comes from the dyno while the client reads. `left`: what is still to come, if that is known.
    Spooled { reader: Reader, left: Option<u64> },
    /// Either of them, in another coding: how long it becomes is not known.
    Coded(Box<Coded>),
    /// There is none: the connection changes its protocol.
    Upgraded(Option<Box<Upgrade>>),
}

/// The dyno's answer broke off.
#[derive(Clone, Copy, Debug)]
pub struct BrokenOff(pub Fault);

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer broke off: {}", self.0)
    }
}

impl std::error::Error for BrokenOff {}

impl Body {
    pub(crate) fn whole(frames: VecDeque<Frame<Bytes>>, open: Open) -> Self {
        let left = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        Self { kind: Kind::Whole { frames, left }, open: Some(open) }
    }

    pub(crate) fn parts(parts: Vec<Bytes>, open: Open) -> Self {
        Self::whole(parts.into_iter().filter(|part| !part.is_empty()).map(Frame::data).collect(), open)
    }

    pub(crate) fn spooled(reader: Reader, length: Option<u64>, open: Open) -> Self {
        Self { kind: Kind::Spooled { reader, left: length }, open: Some(open) }
    }

    pub(crate) fn coded(coded: Box<Coded>, open: Open) -> Self {
        Self { kind: Kind::Coded(coded), open: Some(open) }
    }

    pub(crate) fn upgraded(upgrade: Upgrade) -> Self {
        Self { kind: Kind::Upgraded(Some(Box::new(upgrade))), open: None }
    }

    /// With a 101: what is to be done with the connection once the head of this answer has been sent. If nobody takes
    /// it, the dyno's side is closed.
    pub fn take_upgrade(&mut self) -> Option<Box<Upgrade>> {
        match &mut self.kind {
            Kind::Upgraded(upgrade) => upgrade.take(),
            Kind::Whole { .. } | Kind::Spooled { .. } | Kind::Coded(_) => None,
        }
    }

    fn count(&mut self, frame: &Frame<Bytes>) {
        if let (Some(data), Some(open)) = (frame.data_ref(), &mut self.open) {
            let bytes = data.len() as u64;
            open.note(|record| record.bytes += bytes);
        }
    }

    /// The dyno's part is over, well or not.
    fn ended(&mut self, End { service, fault }: End) -> Option<Result<Frame<Bytes>, BrokenOff>> {
        if let Some(open) = &mut self.open {
            open.served(service);
            fault.into_iter().for_each(|fault| open.fault(fault));
        }
        self.close();
        fault.map(|fault| Err(BrokenOff(fault)))
    }

    /// The request is over: its record closes now, not when the connection gets round to dropping this.
    fn close(&mut self) {
        self.open = None;
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
        match &mut this.kind {
            Kind::Upgraded(_) => Poll::Ready(None),
            Kind::Whole { frames, left } => {
                let frame = frames.pop_front();
                if let Some(frame) = &frame {
                    *left -= frame.data_ref().map_or(0, |data| data.len() as u64);
                    let last = frames.is_empty();
                    this.count(frame);
                    if last {
                        this.close();
                    }
                } else {
                    this.close();
                }
                Poll::Ready(frame.map(Ok))
            }
            Kind::Spooled { reader, left } => match ready!(reader.poll_next(cx)) {
                Ok(frame) => {
                    let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                    if let Some(open) = &mut this.open {
                        open.note(|record| record.bytes += size);
                    }
                    if let Some(left) = left {
                        *left = left.saturating_sub(size);
                        if *left == 0
                            && let Some(open) = this.open.take()
                        {
                            // hyper counts too, and does not ask for the end of a body whose length it knows.
                            reader.complete(open);
                        }
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Err(end) => Poll::Ready(this.ended(end)),
            },
            Kind::Coded(coded) => match ready!(coded.poll_next(cx)) {
                Ok(frame) => {
                    this.count(&frame);
                    Poll::Ready(Some(Ok(frame)))
                }
                Err(Some(end)) => Poll::Ready(this.ended(end)),
                Err(None) => {
                    this.close();
                    Poll::Ready(None)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { frames, .. } => frames.is_empty(),
            Kind::Spooled { left, .. } => *left == Some(0),
            Kind::Coded(_) => false,
            Kind::Upgraded(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { frames, left } if frames.iter().all(Frame::is_data) => SizeHint::with_exact(*left),
            Kind::Spooled { left: Some(left), .. } => SizeHint::with_exact(*left),
            Kind::Upgraded(_) => SizeHint::with_exact(0),
            Kind::Whole { .. } | Kind::Spooled { left: None, .. } | Kind::Coded(_) => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let unread = match &self.kind {
            Kind::Whole { frames, .. } => !frames.is_empty(),
            Kind::Spooled { .. } | Kind::Coded(_) => true,
            Kind::Upgraded(_) => false,
        };
        if let Some(open) = self.open.as_mut().filter(|_| unread) {
            open.interrupted();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}
