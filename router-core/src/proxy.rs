//! Ring 3: the side towards dynos, over HTTP/1.1 or HTTP/2: one request from its Host to the last byte of its answer.
//!
//! [`Proxy::serve`] is the door; `proxy/request.rs` is the spine that calls everything else in order. A request runs
//! in the task that called `serve`, the dyno's connection included: no second task, no channel. A task of its own
//! exists only for what outlives the caller's interest: an answer that is longer than what came at once, so that a
//! slow client holds no dyno, and an answer that nobody waits for any more, so that a busy dyno counts as busy.
//!
//! What is deliberately absent: a connection pool (a dyno has one connection, and it travels in the lease),
//! timers that decide who is served (the policy does, from the clock), and retries that might run a request twice.

mod ahead;
mod answer;
mod body;
mod canary;
mod client;
mod coded;
mod coding;
mod dial;
mod disk;
mod flight;
mod forward;
mod frames;
mod grpc;
mod guard;
mod headers;
mod http2;
mod https;
mod inspect;
mod link;
mod memory;
mod origin;
mod own;
mod pace;
mod preamble;
pub mod probe;
mod record;
mod request;
mod splice;
mod spool;
mod sticky;
mod turn;
mod upgrade;
mod upload;
mod wanted;
mod weights;
mod wire;

pub use answer::{Failing, Pages, Taste, fault_page};
pub use body::{Body, BrokenOff};
pub use canary::cookies;
pub use client::{Client, Interim, Serves};
pub use coded::Encoder;
pub use coding::{Coder, Codings};
pub use disk::Disk;
pub use guard::{Asking, Guard, Refusal, Verdict};
pub use inspect::Rules;
pub use memory::Memory;
pub use origin::Trust;
pub use own::Known;
pub use preamble::SIGNATURE as PROXY_SIGNATURE;
pub use record::{End, Record, Stalled, Upgraded};
pub use request::{Aborted, Proxy};
pub use sticky::Sticky;
pub use upgrade::Upgrade;
pub use weights::weighted;
pub use wire::{Carrier, Connecting, Connector, secured};
