//! The daemon as a library.

pub mod log;

pub mod admin;

pub mod metrics;
