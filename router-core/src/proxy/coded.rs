//! The body of an answer on its way through an encoder: on the client's side of the spool, so that it holds no dyno.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use crate::fault::Fault;
use crate::proxy::spool::{End, Reader};

/// What an encoder is given at once, in bytes. After each such piece other tasks of the thread have their turn.
const PIECE: usize = 16 << 10;

/// Puts bytes into another coding. Each call appends what is ready to `out`.
pub trait Encoder: Send {
    /// Takes a piece of at most 16 KiB, and may keep it for later.
    ///
    /// # Errors
    /// The answer breaks off.
    fn encode(&mut self, piece: &[u8], out: &mut Vec<u8>) -> io::Result<()>;

    /// Gives out all that was taken, so that the client can read it: the dyno has sent no more for now.
    ///
    /// # Errors
    /// The answer breaks off.
    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()>;

    /// Gives out all that was taken and ends. It is called once, at the dyno's good end: an answer that breaks off has
    /// no end in its coding either.
    ///
    /// # Errors
    /// The answer breaks off.
    fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()>;
}

/// Where the bytes come from.
pub(crate) enum Source {
    Whole(VecDeque<Frame<Bytes>>),
    Spooled(Reader),
}

/// A body that is encoded while its client reads.
pub(crate) struct Coded {
    source: Source,
    /// `None`: it has ended.
    encoder: Option<Box<dyn Encoder>>,
    /// What the encoder has not been given yet.
    input: Bytes,
    /// The encoder may hold something back.
    holds: bool,
    /// Since the last pause, in bytes.
    worked: usize,
    trailers: Option<Frame<Bytes>>,
    end: Option<End>,
}

impl Coded {
    pub(crate) fn new(source: Source, encoder: Box<dyn Encoder>) -> Self {
        let (encoder, input) = (Some(encoder), Bytes::new());
        Self { source, encoder, input, holds: false, worked: 0, trailers: None, end: None }
    }

    /// The next frame, or the end; what the dyno said of it is known if the body was spooled.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, Option<End>>> {
        loop {
            let Some(encoder) = &mut self.encoder else {
                return Poll::Ready(self.trailers.take().ok_or(self.end));
            };
            if self.worked >= PIECE {
                self.worked = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut out = Vec::new();
            let done = if self.input.is_empty() {
                match self.source.poll_next(cx) {
                    Poll::Pending if mem::take(&mut self.holds) => encoder.flush(&mut out),
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(frame)) => {
                        match frame.into_data() {
                            Ok(data) => self.input = data,
                            Err(frame) => self.trailers = Some(frame),
                        }
                        continue;
                    }
                    Poll::Ready(Err(end)) if end.is_some_and(|end| end.fault.is_some()) => {
                        return Poll::Ready(Err(end));
                    }
                    Poll::Ready(Err(end)) => {
                        self.end = end;
                        let done = encoder.finish(&mut out);
                        self.encoder = None;
                        done
                    }
                }
            } else {
                let piece = self.input.split_to(PIECE.min(self.input.len()));
                (self.holds, self.worked) = (true, self.worked + piece.len());
                encoder.encode(&piece, &mut out)
            };
            if let Err(error) = done {
                tracing::error!("an answer cannot be encoded: {error}");
                return Poll::Ready(Err(Some(End { service: Duration::ZERO, fault: Some(Fault::Platform) })));
            }
            if !out.is_empty() {
                return Poll::Ready(Ok(Frame::data(out.into())));
            }
        }
    }
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, Option<End>>> {
        match self {
            Self::Whole(frames) => Poll::Ready(frames.pop_front().ok_or(None)),
            Self::Spooled(reader) => reader.poll_next(cx).map_err(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;
    use crate::proxy::memory::Memory;
    use crate::proxy::spool::spool;

    /// Holds everything back until it has to give it out.
    #[derive(Default)]
    struct Miser(Vec<u8>);

    impl Encoder for Miser {
        fn encode(&mut self, piece: &[u8], _out: &mut Vec<u8>) -> io::Result<()> {
            assert!(!piece.is_empty() && piece.len() <= PIECE);
            self.0.extend(piece);
            Ok(())
        }

        fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
            out.append(&mut self.0);
            Ok(())
        }

        fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
            out.append(&mut self.0);
            out.push(b'.');
            Ok(())
        }
    }

    fn data(frame: Result<Frame<Bytes>, Option<End>>) -> Bytes {
        frame.unwrap_or_else(|_| panic!("no end yet")).into_data().unwrap()
    }

    #[tokio::test]
    async fn what_the_dyno_has_sent_is_not_held_back_and_a_bad_end_is_no_end() {
        for fault in [None, Some(Fault::ServerInterrupted)] {
            let (mut writer, reader) = spool(1 << 20, Memory::default(), None);
            let mut coded = Coded::new(Source::Spooled(reader), Box::<Miser>::default());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(coded.poll_next(&mut cx).is_pending());
            for word in ["one", "two"] {
                writer.push(Frame::data(word.into()));
                assert_eq!(data(poll_fn(|cx| coded.poll_next(cx)).await), word);
                assert!(coded.poll_next(&mut cx).is_pending(), "it was flushed once");
            }
            writer.push(Frame::data("three".into()));
            writer.push(Frame::trailers(http::HeaderMap::new()));
            writer.end(End { service: Duration::from_secs(7), fault }).await;
            if fault.is_none() {
                assert_eq!(data(poll_fn(|cx| coded.poll_next(cx)).await), "three.");
                assert!(poll_fn(|cx| coded.poll_next(cx)).await.is_ok_and(|frame| frame.is_trailers()));
            }
            let end = poll_fn(|cx| coded.poll_next(cx)).await.err().flatten().unwrap();
            assert_eq!((end.service.as_secs(), end.fault), (7, fault));
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_after_each_piece() {
        let body = Bytes::from(vec![b'x'; 5 * PIECE]);
        let mut coded = Coded::new(Source::Whole([Frame::data(body)].into()), Box::<Miser>::default());
        let mut pauses = 0;
        let all = poll_fn(|cx| {
            let polled = coded.poll_next(cx);
            pauses += usize::from(polled.is_pending());
            polled
        });
        assert_eq!(data(all.await).len(), 5 * PIECE + 1);
        assert_eq!(pauses, 5);
    }
}
