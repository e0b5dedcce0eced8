//! The daemon as a library.

pub mod discover;
