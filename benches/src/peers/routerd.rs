//! The configuration of this project's daemon, with the same bounds as the others get.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use super::Setup;

/// The concurrency of a dyno in plain forwarding, where there shall be no queue.
const PLAIN: u32 = 1000;

pub(super) fn args(config: &Path) -> Vec<OsString> {
    vec!["run".into(), "--config".into(), config.into()]
}

pub(super) fn config(setup: &Setup<'_>) -> String {
    let mut dynos = String::new();
    for dyno in setup.dynos {
        // Writing to a string cannot fail.
        let _ = write!(dynos, "\"{dyno}\", ");
    }
    let concurrency = if setup.plain { PLAIN } else { 1 };
    format!(
        "[server]
listen = [\"{}\"]
threads = {}
keepalive_requests = 1000000000
# HAProxy takes 101 and nginx no fixed number.
headers_max = 100

[log]
format = \"logfmt\"

[apps.bench]
hosts = [\"{}\"]
concurrency = {concurrency}
dynos = [{}]
queue = {{ max_wait = \"30s\", max_requests_per_dyno = 10000 }}
timeouts = {{ connect = \"5s\", first_byte = \"55s\", idle = \"55s\" }}
",
        setup.listen,
        setup.threads,
        setup.host,
        dynos.trim_end_matches(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_each_dyno_once() {
        let dynos = ["127.0.0.1:4100".parse().unwrap(), "127.0.0.1:4101".parse().unwrap()];
        let listen = "127.0.0.1:8080".parse().unwrap();
        let setup = Setup {
            listen,
            dynos: &dynos,
            plain: false,
            host: "bench.test",
            connections: 100,
            threads: 2,
            dir: Path::new("."),
        };
        let text = config(&setup);
        assert!(text.contains("dynos = [\"127.0.0.1:4100\", \"127.0.0.1:4101\"]"), "{text}");
        assert!(text.contains("concurrency = 1\n"), "{text}");
        assert!(config(&Setup { plain: true, ..setup }).contains("concurrency = 1000\n"));
    }
}
