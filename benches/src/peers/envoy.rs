//! Envoy's configuration: as near to one request a dyno as it comes.
//!
//! Circuit breakers know one bound for a host: its connections (`per_host_thresholds`), and over HTTP/1.1 a connection
//! has one request. Requests beyond wait in a queue of that host, so each is bound to its dyno when it comes: the
//! choice of the host is by the fewest requests, of all hosts (`FULL_SCAN`). Each worker thread has connections and
//! queues of its own and may always have one connection to a host, whatever the bound: so there is one worker.

use serde_json::{Value, json};

use super::{Recipe, Setup};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn recipe(setup: &Setup<'_>) -> Recipe {
    let workers = if setup.plain { setup.threads } else { 1 };
    let fixed = ["-c", "config.yaml", "--disable-hot-restart", "--log-level", "warning", "--concurrency"];
    Recipe {
        // JSON is YAML.
        files: vec![("config.yaml", config(setup).to_string())],
        args: fixed.into_iter().map(Into::into).chain([workers.to_string().into()]).collect(),
        ..Recipe::default()
    }
}

fn config(setup: &Setup<'_>) -> Value {
    // Whether it is HTTP/1.1 or 2 it sees by itself.
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connections(setup),
    }] });
    if let Some(files) = setup.tls {
        chain["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": { "filename": files.cert },
                    "private_key": { "filename": files.key },
                }],
            },
        } });
    }
    json!({ "static_resources": {
        "listeners": [{
            "name": "clients",
            "address": address(setup.listen),
            "filter_chains": [chain],
        }],
        "clusters": [dynos(setup)],
    } })
}

fn connections(setup: &Setup<'_>) -> Value {
    json!({
        "@type": format!(
            "{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "clients",
        "access_log": [{ "name": "envoy.access_loggers.file", "typed_config": {
            "@type": format!("{EXTENSIONS}.access_loggers.file.v3.FileAccessLog"),
            "path": setup.dir.join("access"),
        } }],
        "route_config": { "virtual_hosts": [{
            "name": "dynos",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "dynos", "timeout": "55s" } }],
        }] },
        "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
            "@type": format!("{EXTENSIONS}.filters.http.router.v3.Router"),
        } }],
    })
}

fn dynos(setup: &Setup<'_>) -> Value {
    let hosts: Vec<Value> =
        setup.dynos.iter().map(|dyno| json!({ "endpoint": { "address": address(*dyno) } })).collect();
    let mut breakers = json!({ "thresholds": [
        { "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 }
    ] });
    if !setup.plain {
        breakers["per_host_thresholds"] = json!([{ "max_connections": 1 }]);
    }
    json!({
        "name": "dynos",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_balancing_policy": { "policies": [{ "typed_extension_config": {
            "name": "envoy.load_balancing_policies.least_request",
            "typed_config": {
                "@type": format!("{EXTENSIONS}.load_balancing_policies.least_request.v3.LeastRequest"),
                "selection_method": "FULL_SCAN",
            },
        } }] },
        "circuit_breakers": breakers,
        "load_assignment": { "cluster_name": "dynos", "endpoints": [{ "lb_endpoints": hosts }] },
    })
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    #[test]
    fn a_host_has_one_connection_and_there_is_one_worker() {
        let dynos = peers::tests::dynos(2);
        let setup = peers::tests::setup(&dynos, false);
        let config = config(&setup);
        let cluster = &config["static_resources"]["clusters"][0];
        assert_eq!(cluster["circuit_breakers"]["per_host_thresholds"][0]["max_connections"], 1);
        let hosts = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"];
        assert_eq!(hosts[1]["endpoint"]["address"]["socket_address"]["port_value"], 4101);
        assert_eq!(recipe(&setup).args.last().unwrap(), "1");
    }

    #[test]
    fn plain_forwarding_has_no_bound_and_all_workers() {
        let dynos = peers::tests::dynos(2);
        let setup = peers::tests::setup(&dynos, true);
        let cluster = &config(&setup)["static_resources"]["clusters"][0];
        assert!(cluster["circuit_breakers"]["per_host_thresholds"].is_null());
        assert_eq!(recipe(&setup).args.last().unwrap(), "2");
    }

    #[test]
    fn tls_is_a_transport_socket() {
        let dynos = peers::tests::dynos(1);
        let chain =
            |setup: &Setup<'_>| config(setup)["static_resources"]["listeners"][0]["filter_chains"][0].clone();
        let setup = peers::tests::setup(&dynos, false);
        assert!(chain(&setup)["transport_socket"].is_null());
        let files = peers::tests::files();
        let chain = chain(&Setup { tls: Some(&files), ..setup });
        let context = &chain["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(context["tls_certificates"][0]["private_key"]["filename"], "/dir/key.pem");
        assert_eq!(context["alpn_protocols"][0], "h2");
    }
}
