//! The daemon as a library.

pub mod cli;

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
