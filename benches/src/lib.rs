//! Benchmarks and the load generator of the project.
//!
//! `dyno-bench` measures what a proxy does to a fleet of one-at-a-time servers: it is the servers and the clients, on
//! one clock, and needs no more of the proxy than its address. [`sim`] says without any socket what a fleet would do.

// dyno-bench, top down
pub mod page;

pub mod sweep;

pub mod contrast;

pub mod results;

pub mod comparison;

pub mod compare;

pub mod course;

pub mod memory;

pub mod peers;

pub mod engine;

pub mod arrivals;

pub mod load;

pub mod link;

mod mux;

pub mod dyno;

pub mod figures;

pub mod report;

pub mod curves;

pub mod fairness;

pub mod trust;

pub mod advise;

pub mod logs;

pub mod cpu;

mod group;

pub mod number;

mod tell;

pub mod sim;

pub mod oracle;

pub mod erlang;

pub mod reactor;

pub mod records;

pub mod service;

pub mod wire;

pub mod printable;
