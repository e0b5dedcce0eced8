//! End-to-end tests of the daemon.

mod aborts;
mod config;
mod deaths;
mod dns;
mod drain;
mod limits;
mod servers;
mod slow;
mod support;
mod up;
