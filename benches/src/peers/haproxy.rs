//! HAProxy's configuration: the strongest form of "one queue, one request a server" that it has.
//!
//! `roundrobin` skips servers that are full, so that all waiting is in the backend's one queue, which every server that
//! comes free takes from. Each request is logged to standard output, which is a file.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Recipe, Setup};

/// How many requests a server may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// One, and others wait.
    One,
    /// As many as come, in turn.
    None,
    /// As many as come, and any server is drawn for each.
    Random,
}

/// One process; `own` is where it listens besides, when there are several on one port.
pub(super) fn recipe(setup: &Setup<'_>, bound: Bound, own: Option<SocketAddr>) -> Recipe {
    Recipe {
        files: vec![("config", config(setup, bound, own))],
        args: ["-db", "-f", "config"].map(Into::into).into(),
        own,
        ..Recipe::default()
    }
}

fn config(setup: &Setup<'_>, bound: Bound, own: Option<SocketAddr>) -> String {
    let listen = own.map_or_else(|| setup.listen.to_string(), |own| format!("{},{own}", setup.listen));
    let front = match setup.tls {
        // The client's order of ciphers, as all others go by.
        Some(files) => format!(" ssl crt {} alpn h2,http/1.1 prefer-client-ciphers", files.both.display()),
        None if setup.http2 => " proto h2".to_owned(),
        None => String::new(),
    };
    let balance = if bound == Bound::Random { "random(1)" } else { "roundrobin" };
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
    bind {listen}{front}
    default_backend dynos

backend dynos
    balance {balance}
",
        setup.threads, setup.connections
    );
    let bound = if bound == Bound::One { " maxconn 1" } else { "" };
    for (index, dyno) in setup.dynos.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    server d{index} {dyno}{bound}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{dynos, files, setup};

    #[test]
    fn the_bound_stands_at_each_dyno_and_the_queue_is_the_backends() {
        let dynos = dynos(2);
        let text = config(&setup(&dynos, false), Bound::One, None);
        assert!(text.contains("    balance roundrobin\n    server d0 127.0.0.1:4100 maxconn 1\n"), "{text}");
        assert!(text.contains("    server d1 127.0.0.1:4101 maxconn 1\n"), "{text}");
        assert!(text.contains("    bind 127.0.0.1:8080\n") && text.contains("timeout queue 30s"), "{text}");
        let plain = config(&setup(&dynos, true), Bound::None, None);
        assert!(plain.contains("server d0 127.0.0.1:4100\n") && !plain.contains("maxconn 1\n"), "{plain}");
    }

    #[test]
    fn drawing_any_dyno_has_no_bound_and_each_of_two_processes_an_address_of_its_own() {
        let dynos = dynos(2);
        let random = config(&setup(&dynos, false), Bound::Random, None);
        assert!(random.contains("balance random(1)\n    server d0 127.0.0.1:4100\n"), "{random}");
        let own = "127.0.0.1:9000".parse().unwrap();
        let two = config(&setup(&dynos, false), Bound::One, Some(own));
        assert!(two.contains("bind 127.0.0.1:8080,127.0.0.1:9000\n"), "{two}");
    }

    #[test]
    fn tls_is_spoken_with_the_certificate_and_http2_by_alpn_or_from_the_first_byte() {
        let (dynos, files) = (dynos(1), files());
        let plain = setup(&dynos, false);
        let text = config(&Setup { tls: Some(&files), http2: true, ..plain }, Bound::One, None);
        assert!(text.contains("bind 127.0.0.1:8080 ssl crt /dir/both.pem alpn h2,http/1.1 "), "{text}");
        let text = config(&Setup { http2: true, ..plain }, Bound::One, None);
        assert!(text.contains("bind 127.0.0.1:8080 proto h2\n"), "{text}");
    }
}
