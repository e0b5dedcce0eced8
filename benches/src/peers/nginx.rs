//! nginx's configuration for plain forwarding: warm connections to the dynos, every request logged through a buffer.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use super::Setup;

pub(super) fn args(config: &Path) -> Vec<OsString> {
    vec!["-c".into(), config.into()]
}

pub(super) fn config(setup: &Setup<'_>) -> String {
    let dir = setup.dir.display();
    let mut servers = String::new();
    for dyno in setup.dynos {
        // Writing to a string cannot fail.
        let _ = writeln!(servers, "        server {dyno};");
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
{servers}        keepalive 1000;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen};
        location / {{
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
