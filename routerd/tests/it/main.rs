//! End-to-end tests of the daemon.

mod aborts;
mod config;
mod deaths;
mod drain;
mod limits;
mod slow;
mod support;
mod up;
