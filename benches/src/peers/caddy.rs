//! Caddy's configuration: one request a dyno, in two ways at once.
//!
//! `max_requests` leaves out dynos that have a request, and who finds none free looks again every few milliseconds, for
//! up to `try_duration`: there is no line, whoever looks first after a dyno comes free has it. Looking and counting
//! are two steps, so two may take one dyno; `max_conns_per_host` lets the second wait for the first's connection.

use serde_json::{Value, json};

use super::{Recipe, Setup};

pub(super) fn recipe(setup: &Setup<'_>) -> Recipe {
    Recipe {
        files: vec![("config.json", config(setup).to_string())],
        args: ["run", "--config", "config.json"].map(Into::into).into(),
        env: vec![
            ("GOMAXPROCS", setup.threads.to_string().into()),
            ("XDG_CONFIG_HOME", setup.dir.into()),
            ("XDG_DATA_HOME", setup.dir.into()),
        ],
        ..Recipe::default()
    }
}

fn config(setup: &Setup<'_>) -> Value {
    let mut server = json!({
        "listen": [setup.listen.to_string()],
        "automatic_https": { "disable": true },
        "protocols": if setup.tls.is_some() { json!(["h1", "h2"]) } else { json!(["h1", "h2c"]) },
        "logs": {},
        "routes": [{ "handle": [forward(setup)] }],
    });
    let mut apps = json!({});
    if let Some(files) = setup.tls {
        server["tls_connection_policies"] = json!([{}]);
        let pair = json!({ "certificate": files.cert, "key": files.key });
        apps["tls"] = json!({ "certificates": { "load_files": [pair] } });
    }
    apps["http"] = json!({ "servers": { "clients": server } });
    json!({
        "admin": { "disabled": true, "config": { "persist": false } },
        "logging": { "logs": { "default": {
            "level": "INFO",
            "writer": { "output": "file", "filename": setup.dir.join("errors"), "roll": false },
        } } },
        "apps": apps,
    })
}

fn forward(setup: &Setup<'_>) -> Value {
    let bound = u32::from(!setup.plain);
    let upstreams: Vec<Value> =
        setup.dynos.iter().map(|dyno| json!({ "dial": dyno.to_string(), "max_requests": bound })).collect();
    json!({
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "load_balancing": {
            "selection_policy": { "policy": "least_conn" },
            "try_duration": "30s",
            "try_interval": "5ms",
        },
        "transport": {
            "protocol": "http",
            "dial_timeout": "5s",
            "response_header_timeout": "55s",
            // 0 is no bound.
            "max_conns_per_host": bound,
            "keep_alive": { "max_idle_conns_per_host": 1000 },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    #[test]
    fn each_dyno_has_one_request_and_one_connection() {
        let dynos = peers::tests::dynos(2);
        let bounds = |plain| {
            let handler = forward(&peers::tests::setup(&dynos, plain));
            let upstream = handler["upstreams"][1].clone();
            assert_eq!(upstream["dial"], "127.0.0.1:4101");
            (upstream["max_requests"].clone(), handler["transport"]["max_conns_per_host"].clone())
        };
        assert_eq!(bounds(false), (json!(1), json!(1)));
        assert_eq!(bounds(true), (json!(0), json!(0)));
    }

    #[test]
    fn with_tls_it_loads_the_certificate() {
        let (dynos, files) = (peers::tests::dynos(1), peers::tests::files());
        let plain = peers::tests::setup(&dynos, false);
        let config = config(&Setup { tls: Some(&files), ..plain });
        let pair = &config["apps"]["tls"]["certificates"]["load_files"][0];
        assert_eq!(*pair, json!({ "certificate": "/dir/cert.pem", "key": "/dir/key.pem" }));
        assert!(config["apps"]["http"]["servers"]["clients"]["tls_connection_policies"].is_array());
        let config = super::config(&plain);
        assert!(config["apps"]["http"]["servers"]["clients"]["tls_connection_policies"].is_null());
    }
}
