//! End-to-end tests of the daemon.

mod config;
mod up;
