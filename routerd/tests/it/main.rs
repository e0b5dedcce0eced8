//! End-to-end tests of the daemon.

#![expect(clippy::unwrap_used, reason = "in the helpers of tests, too, a failed step ends the test")]

mod aborts;
mod acme;
mod answers;
mod audit;
mod buffers;
mod config;
mod control;
mod deaths;
mod deploys;
mod dns;
mod door;
mod drain;
mod heads;
mod health;
mod hold;
mod hostile;
mod http2;
mod limits;
mod outputs;
mod reload;
mod rest;
mod servers;
mod slow;
mod support;
mod takeover;
mod tls;
mod up;
mod web;
mod webhooks;
mod websocket;
