//! The encoders of the three codings, and the memory that all of them together may have.

use std::io;
use std::sync::Arc;

use compression_codecs::brotli::params::EncoderParams;
use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::zstd::params::CParameter;
use compression_codecs::{BrotliEncoder, EncodeV2, GzipEncoder, ZstdEncoder};
use router_core::proxy::Encoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::compression::Coding;

/// What all encoders together may have, in KiB.
const MEMORY: usize = 256 << 10;
/// How much room is made for what an encoder gives out at once, in bytes.
const STEP: usize = 16 << 10;
/// The window of zstd and brotli, as a power of two: 256 KiB. More of it helps few pages and costs memory with each.
const WINDOW: u8 = 18;

/// The memory of the encoders. Cheap to clone.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// An encoder with its part of the memory.
struct Measured {
    codec: Box<dyn EncodeV2 + Send>,
    _room: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY)))
    }

    /// An encoder, if there is room for one.
    pub(super) fn encoder(&self, coding: Coding) -> Option<Box<dyn Encoder>> {
        let room = Arc::clone(&self.0).try_acquire_many_owned(cost(coding)).ok()?;
        Some(Box::new(Measured { codec: codec(coding), _room: room }))
    }
}

/// What an encoder takes up while it works, in KiB, as measured.
fn cost(coding: Coding) -> u32 {
    match coding {
        Coding::Zstd => 1500,
        Coding::Br => 2500,
        Coding::Gzip => 400,
    }
}

/// The levels are what is usual for answers that are compressed anew each time.
fn codec(coding: Coding) -> Box<dyn EncodeV2 + Send> {
    match coding {
        Coding::Zstd => Box::new(ZstdEncoder::new_with_params(3, &[CParameter::window_log(WINDOW.into())])),
        Coding::Br => {
            let params = EncoderParams::default().quality(Level::Precise(4)).window_size(WINDOW.into());
            Box::new(BrotliEncoder::new(params))
        }
        Coding::Gzip => Box::new(GzipEncoder::new(flate2::Compression::new(5).into())),
    }
}

impl Measured {
    /// Asks the codec once, with room for what it gives out.
    fn once<T>(
        &mut self,
        out: &mut Vec<u8>,
        ask: impl FnOnce(&mut dyn EncodeV2, &mut WriteBuffer<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let at = out.len();
        out.resize(at + STEP, 0);
        let mut room = WriteBuffer::new_initialized(&mut out[at..]);
        let answer = ask(&mut *self.codec, &mut room);
        let written = room.written_len();
        out.truncate(at + written);
        answer
    }
}

impl Encoder for Measured {
    fn encode(&mut self, piece: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut input = PartialBuffer::new(piece);
        while !input.unwritten().is_empty() {
            self.once(out, |codec, out| codec.encode(&mut input, out))?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while !self.once(out, |codec, out| codec.flush(out))? {}
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while !self.once(out, |codec, out| codec.finish(out))? {}
        Ok(())
    }
}
