//! The daemon as a library.

pub mod daemon;

mod accept;

mod conn;

mod socket;

pub mod log;

pub mod admin;

pub mod discover;

pub mod metrics;

pub mod up;

mod drain;

pub mod cli;

pub mod config;
