//! nginx's configuration: warm connections to the dynos, every request logged through a buffer.
//!
//! With a bound, `max_conns=1` stands at each dyno and the counts in a zone that all workers share. A request that
//! finds no dyno free is answered with 502: `queue` is for those who pay.

use std::fmt::Write;

use super::{Recipe, Setup};

pub(super) fn recipe(setup: &Setup<'_>, bounded: bool) -> Recipe {
    Recipe {
        files: vec![("config", config(setup, bounded))],
        args: vec!["-p".into(), setup.dir.into(), "-c".into(), setup.dir.join("config").into()],
        ..Recipe::default()
    }
}

fn config(setup: &Setup<'_>, bounded: bool) -> String {
    let bound = if bounded { " max_conns=1 max_fails=0" } else { "" };
    let zone = if bounded { "        zone dynos 4m;\n" } else { "" };
    let dir = setup.dir.display();
    // "http2 on" is for 1.25 and newer, and Debian has older ones.
    let http2 = if setup.http2 { " http2" } else { "" };
    let tls = setup.tls.map_or_else(String::new, |files| {
        let (cert, key) = (files.cert.display(), files.key.display());
        format!(
            "        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
"
        )
    });
    let ssl = if setup.tls.is_some() { " ssl" } else { "" };
    let mut servers = String::new();
    for dyno in setup.dynos {
        // Writing to a string cannot fail.
        let _ = writeln!(servers, "        server {dyno}{bound};");
    }
    format!(
        "daemon off;
worker_processes {threads};
pid {dir}/pid;
error_log {dir}/errors warn;
events {{ worker_connections {connections}; }}
http {{
    access_log {dir}/access combined buffer=64k flush=1s;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    keepalive_requests 1000000000;
    upstream dynos {{
{zone}{servers}        keepalive 1000;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen}{ssl}{http2};
{tls}        location / {{
            proxy_pass http://dynos;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_connect_timeout 5s;
            proxy_read_timeout 55s;
        }}
    }}
}}
",
        connections = setup.connections,
        threads = setup.threads,
        listen = setup.listen
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{dynos, files, setup};

    #[test]
    fn the_bound_stands_at_each_dyno_and_in_a_zone_that_the_workers_share() {
        let dynos = dynos(2);
        let text = config(&setup(&dynos, false), true);
        assert!(
            text.contains("zone dynos 4m;\n        server 127.0.0.1:4100 max_conns=1 max_fails=0;\n"),
            "{text}"
        );
        assert!(text.contains("server 127.0.0.1:4101 max_conns=1"), "{text}");
        let unlimited = config(&setup(&dynos, false), false);
        assert!(unlimited.contains("server 127.0.0.1:4100;") && !unlimited.contains("zone"), "{unlimited}");
    }

    #[test]
    fn tls_and_http2_stand_at_the_listener() {
        let (dynos, files) = (dynos(1), files());
        let plain = setup(&dynos, false);
        let text = config(&Setup { tls: Some(&files), http2: true, ..plain }, true);
        assert!(
            text.contains("listen 127.0.0.1:8080 ssl http2;\n        ssl_certificate /dir/cert.pem;\n"),
            "{text}"
        );
        assert!(text.contains("ssl_certificate_key /dir/key.pem;\n        ssl_protocols"), "{text}");
        let text = config(&Setup { tls: Some(&files), ..plain }, true);
        assert!(text.contains("listen 127.0.0.1:8080 ssl;\n"), "{text}");
        assert!(config(&Setup { http2: true, ..plain }, true).contains("listen 127.0.0.1:8080 http2;\n"));
    }
}
