//! The daemon as a library: `main.rs` only reads the command line, so that tests start a [`daemon::Daemon`] in process.
//!
//! # The path of a request
//!
//! | step | where |
//! |---|---|
//! | 1 accept | `routerd/src/accept.rs`, `routerd/src/conn.rs` |
//! | spine | `router-core/src/proxy/request.rs` |
//! | 2 route | `router-core/src/policy/route.rs` |
//! | 3 queue | `router-core/src/policy/{shed,queue}.rs`, `router-core/src/router/ticket.rs` |
//! | 4 dispatch | `router-core/src/policy/dispatch.rs`, `router-core/src/router/shared.rs` |
//! | 5 forward | `router-core/src/proxy/forward.rs`, `router-core/src/proxy/flight.rs` |
//! | 6 check in | `router-core/src/router/lease.rs`, `router-core/src/policy/app.rs` |
//! | 7 log | `router-core/src/proxy/record.rs`, `routerd/src/log.rs` |

pub mod cli;

pub mod watch;

pub mod up;

pub mod daemon;

mod accept;

mod conn;

mod socket;

pub mod log;

pub mod admin;

pub mod discover;

pub mod metrics;

mod drain;

pub mod config;
