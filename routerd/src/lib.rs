//! The daemon as a library.

pub mod log;

pub mod metrics;
