//! End-to-end tests of the daemon.

mod aborts;
mod config;
mod deaths;
mod slow;
mod support;
mod up;
