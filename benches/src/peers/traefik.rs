//! Traefik's configuration: the least loaded dyno for each request.
//!
//! It has no bound for a server. `inFlightReq` bounds a router and refuses what is more, and a server still gets two;
//! so nothing is bounded here, and the choice is by `leasttime`: the fewest requests weighted by response time, over
//! all servers (`p2c` looks at two).

use serde_json::{Value, json};

use super::{Ready, Recipe, Setup};

/// Answered by Traefik itself, once the file with the dynos is read.
const READY: &str = "/dyno-bench-ready";

pub(super) fn recipe(setup: &Setup<'_>) -> Recipe {
    let mut args = vec![
        format!("--entryPoints.clients.address={}", setup.listen),
        "--providers.file.filename=dynos.yaml".to_owned(),
        "--accesslog.filepath=access".to_owned(),
        "--accesslog.bufferingsize=1000".to_owned(),
        "--log.level=WARN".to_owned(),
        "--global.checkNewVersion=false".to_owned(),
        "--global.sendAnonymousUsage=false".to_owned(),
        "--serversTransport.maxIdleConnsPerHost=1000".to_owned(),
    ];
    if setup.tls.is_some() {
        args.push("--entryPoints.clients.http.tls=true".to_owned());
    }
    Recipe {
        // JSON is YAML.
        files: vec![("dynos.yaml", dynos(setup).to_string())],
        args: args.into_iter().map(Into::into).collect(),
        env: vec![("GOMAXPROCS", setup.threads.to_string().into())],
        ready: Ready::Answers(READY),
        ..Recipe::default()
    }
}

fn dynos(setup: &Setup<'_>) -> Value {
    let servers: Vec<Value> =
        setup.dynos.iter().map(|dyno| json!({ "url": format!("http://{dyno}") })).collect();
    let mut file = json!({ "http": {
        "routers": {
            "dynos": { "rule": "PathPrefix(`/`)", "service": "dynos", "priority": 1 },
            "ready": {
                "rule": format!("Path(`{READY}`)"),
                "service": "noop@internal",
                "middlewares": ["ready"],
                "priority": 2,
            },
        },
        "middlewares": { "ready": { "redirectRegex": { "regex": ".*", "replacement": "/" } } },
        "services": { "dynos": { "loadBalancer": { "strategy": "leasttime", "servers": servers } } },
    } });
    if let Some(files) = setup.tls {
        let certificate = json!({ "certFile": files.cert, "keyFile": files.key });
        file["tls"] = json!({ "stores": { "default": { "defaultCertificate": certificate } } });
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    #[test]
    fn each_dyno_is_a_server_and_nothing_is_sent_home() {
        let dynos = peers::tests::dynos(2);
        let recipe = recipe(&peers::tests::setup(&dynos, false));
        let file: Value = serde_json::from_str(&recipe.files[0].1).unwrap();
        let servers = &file["http"]["services"]["dynos"]["loadBalancer"]["servers"];
        assert_eq!(*servers, json!([{ "url": "http://127.0.0.1:4100" }, { "url": "http://127.0.0.1:4101" }]));
        for argument in ["--entryPoints.clients.address=127.0.0.1:8080", "--global.sendAnonymousUsage=false"]
        {
            assert!(recipe.args.iter().any(|given| given == argument), "{:?}", recipe.args);
        }
    }

    #[test]
    fn with_tls_the_entry_point_has_it_and_the_file_has_the_certificate() {
        let (dynos, files) = (peers::tests::dynos(1), peers::tests::files());
        let recipe = recipe(&Setup { tls: Some(&files), ..peers::tests::setup(&dynos, false) });
        assert!(recipe.args.iter().any(|given| given == "--entryPoints.clients.http.tls=true"));
        let file: Value = serde_json::from_str(&recipe.files[0].1).unwrap();
        let certificate = &file["tls"]["stores"]["default"]["defaultCertificate"];
        assert_eq!(*certificate, json!({ "certFile": "/dir/cert.pem", "keyFile": "/dir/key.pem" }));
    }
}
