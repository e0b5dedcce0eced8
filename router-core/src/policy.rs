//! Ring 1, in the order a request meets it: what is decided, and nothing else.
//!
//! Everything here is `&mut self` with `now` as an argument. What is deliberately absent: clocks, locks, I/O,
//! randomness that is not seeded, maps with an order that changes from run to run, and knowledge of HTTP. So the
//! same inputs give the same decisions, and a model, a seed or a fuzzer can drive it without starting anything.

pub mod route;

pub(crate) mod app;

pub(crate) mod shed;

pub(crate) mod queue;

pub(crate) mod dispatch;

pub(crate) mod dyno;

pub(crate) mod health;

pub mod deploy;

pub mod records;
