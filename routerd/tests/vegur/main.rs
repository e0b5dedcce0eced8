//! The cases of vegur's test suite, told anew: a raw client, a raw dyno, and the daemon between them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so")]

mod backend;
mod body_less;
mod chunked;
mod client;
mod continue_;
mod document;
mod headers;
mod http_1_0;
mod large_body;
mod proxy;
mod request;
mod support;
mod upgrade;
