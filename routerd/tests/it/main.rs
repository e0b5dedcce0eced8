//! End-to-end tests of the daemon.

mod config;
mod deaths;
mod support;
mod up;
