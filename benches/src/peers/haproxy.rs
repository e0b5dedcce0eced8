//! HAProxy's configuration: the strongest form of "one queue, one request a server" that it has.
//!
//! `roundrobin` skips servers that are full, so that all waiting is in the backend's one queue, which every server that
//! comes free takes from. Each request is logged to standard output, which is a file.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use super::Setup;

pub(super) fn args(config: &Path) -> Vec<OsString> {
    vec!["-db".into(), "-f".into(), config.into()]
}

pub(super) fn config(setup: &Setup<'_>) -> String {
    let mut text = format!(
        "global
    nbthread {}
    maxconn {}
    log stdout format raw local0 info

defaults
    mode http
    log global
    option httplog
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 55s
    timeout server 55s
    timeout queue 30s
    timeout http-request 60s
    timeout http-keep-alive 60s

frontend clients
    bind {}
    default_backend dynos

backend dynos
    balance roundrobin
",
        setup.threads, setup.connections, setup.listen
    );
    let bound = if setup.plain { "" } else { " maxconn 1" };
    for (index, dyno) in setup.dynos.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    server d{index} {dyno}{bound}");
    }
    text
}
