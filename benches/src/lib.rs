//! Benchmarks and the load generator of the project.
//!
//! `dyno-bench` measures what a proxy does to a fleet of one-at-a-time servers: it is the servers and the clients, on
//! one clock, and needs no more of the proxy than its address.

// dyno-bench, top down
pub mod compare;

pub mod memory;

pub mod peers;

pub mod engine;

pub mod load;

pub mod dyno;

pub mod report;

pub mod cpu;

pub mod oracle;

pub mod reactor;

pub mod records;

pub mod service;

pub mod wire;
