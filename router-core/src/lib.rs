//! One line per app, one request per dyno.
//!
//! The map of this crate is written when the rings stand.

// ring 3: input and output
#[cfg(feature = "proxy")]
pub mod proxy;

#[cfg(feature = "dns")]
pub mod dns;

// ring 1: pure decisions
pub mod policy;

// ring 0: words, plain data
pub mod change;

pub mod snapshot;

pub mod fault;

pub mod limits;

pub mod ids;

pub mod clock;

mod sync;
