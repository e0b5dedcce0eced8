//! Which answers go to their clients in another coding: whoever embeds the proxy decides, and brings the encoder.

use std::sync::Arc;

use http::response::Parts;
use http_body::Frame;

use crate::proxy::coded::{Coded, Encoder, Source};
use crate::proxy::forward::{Reply, Rest};
use crate::proxy::guard::Asking;

/// Asked for each request that is let in, before it takes a place in line; `None`: its answer stays as it is. It is not
/// asked for gRPC. It must not block.
pub type Codings = Arc<dyn Fn(&Asking<'_>) -> Option<Coder> + Send + Sync>;

/// Asked once the head of the dyno's answer is there, with the length of its body in bytes, if that is known. It makes
/// the head fit, and gives the encoder that the body goes through, or `None`: the body stays as it is. It is not asked
/// for an answer that changes the protocol, nor for faults. It must not block.
pub type Coder = Box<dyn FnOnce(&mut Parts, Option<u64>) -> Option<Box<dyn Encoder>> + Send>;

/// Who looks at the answer to a request.
pub(crate) fn coder(codings: Option<&Codings>, asking: &Asking<'_>, is_call: bool) -> Option<Coder> {
    codings.filter(|_| !is_call).and_then(|codings| codings(asking))
}

impl Reply {
    /// The answer as its client is to have it.
    pub(crate) fn coded(mut self, coder: Option<Coder>) -> Self {
        let Some(coder) = coder else { return self };
        let (source, length) = match self.rest {
            Rest::Whole(frames) => {
                let length = frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
                (Source::Whole(frames), Some(length))
            }
            Rest::Spooled(reader, length) => (Source::Spooled(reader), length),
            Rest::Upgraded(_) | Rest::Coded(_) => return self,
        };
        self.rest = match (coder(&mut self.head, length), source) {
            (Some(encoder), source) => Rest::Coded(Box::new(Coded::new(source, encoder))),
            (None, Source::Whole(frames)) => Rest::Whole(frames),
            (None, Source::Spooled(reader)) => Rest::Spooled(reader, length),
        };
        self
    }
}
