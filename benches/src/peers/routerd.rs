//! The configuration of this project's daemon, with the same bounds as the others get.

use std::fmt::Write;

use super::{Recipe, Setup};

/// The concurrency of a dyno in plain forwarding, where there shall be no queue.
const PLAIN: u32 = 1000;

pub(super) fn recipe(setup: &Setup<'_>) -> Recipe {
    Recipe {
        files: vec![("config", config(setup))],
        args: ["run", "--config", "config"].map(Into::into).into(),
        ..Recipe::default()
    }
}

fn config(setup: &Setup<'_>) -> String {
    let mut dynos = String::new();
    for dyno in setup.dynos {
        // Writing to a string cannot fail.
        let _ = write!(dynos, "\"{dyno}\", ");
    }
    let concurrency = if setup.plain { PLAIN } else { 1 };
    let http2 = if setup.http2 && setup.tls.is_none() { "http2 = true\n" } else { "" };
    // It has to have a listener without TLS: with TLS one that nobody uses.
    let plain =
        if setup.tls.is_none() { format!("\"{}\"", setup.listen) } else { "\"127.0.0.1:0\"".to_owned() };
    let tls = setup.tls.map_or_else(String::new, |files| {
        let (cert, key) = (files.cert.display(), files.key.display());
        let listen = setup.listen;
        format!(
            "[tls]\nlisten = [\"{listen}\"]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n\n"
        )
    });
    format!(
        "[server]
listen = [{}]
threads = {}
{http2}keepalive_requests = 1000000000
# HAProxy takes 101 and nginx no fixed number.
headers_max = 100

[log]
format = \"logfmt\"

{tls}[apps.bench]
hosts = [\"{}\"]
concurrency = {concurrency}
dynos = [{}]
queue = {{ max_wait = \"30s\", max_requests_per_dyno = 10000 }}
timeouts = {{ connect = \"5s\", first_byte = \"55s\", idle = \"55s\" }}
",
        plain,
        setup.threads,
        setup.host,
        dynos.trim_end_matches(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{dynos, files, setup};

    #[test]
    fn the_configuration_names_each_dyno_once() {
        let dynos = dynos(2);
        let plain = setup(&dynos, false);
        let text = config(&plain);
        assert!(text.contains("dynos = [\"127.0.0.1:4100\", \"127.0.0.1:4101\"]"), "{text}");
        assert!(text.contains("concurrency = 1\n"), "{text}");
        assert!(config(&setup(&dynos, true)).contains("concurrency = 1000\n"));
        assert!(text.contains("listen = [\"127.0.0.1:8080\"]") && !text.contains("[tls]"), "{text}");
        let text = config(&Setup { tls: Some(&files()), ..plain });
        assert!(text.contains("[tls]\nlisten = [\"127.0.0.1:8080\"]\n"), "{text}");
        assert!(config(&Setup { http2: true, ..plain }).contains("\nhttp2 = true\n"));
    }
}
