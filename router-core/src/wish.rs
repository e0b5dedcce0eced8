//! What a request would rather have: one given dyno. Plain data, ring 0.

use std::time::Duration;

use crate::ids::Address;

/// A request would rather be served by this dyno, and waits for it for a while.
///
/// It waits in the line as everybody does. While it wishes, only that dyno serves it, and nobody else waits for its
/// sake: every dyno goes to the first in line who would take it. Its wish is over when its time is, and at once if
/// that dyno does not serve (any more), or serves in another lane; then it is a request like any other, at the place
/// of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where the dyno listens.
    pub dyno: Address,
    /// How long to wait for it, at the most [`Limits::queue_max_wait`](crate::limits::Limits::queue_max_wait).
    pub wait: Duration,
}
