//! kamal-proxy's command lines: it is started without targets, and gets the dynos as one deploy.
//!
//! It has no bound for a target and no queue: targets are taken in turn. A deploy is in force when each target's health
//! check was answered, and dynos answer nothing before the load begins; so the checks go to the proxy's own page of
//! metrics, on the same host. No probe ever meets a dyno.

use std::ffi::OsString;
use std::net::SocketAddr;

use super::{Ready, Recipe, Setup};

/// Its socket for orders, in its directory.
const SOCKET: &str = "kamal-proxy.sock";

/// It always listens twice, without TLS and with it, and for its metrics: `other` are the addresses for what clients
/// do not use. Of all it takes the ports; it listens on all addresses of the machine and has no option for that.
pub(super) fn recipe(setup: &Setup<'_>, other: [SocketAddr; 2]) -> Recipe {
    let [front, metrics] = other;
    let (http, https) = if setup.tls.is_some() { (front, setup.listen) } else { (setup.listen, front) };
    let ports = [("http", http), ("https", https), ("metrics", metrics)];
    let ports = ports.map(|(name, address)| format!("--{name}-port={}", address.port()).into());
    Recipe {
        args: std::iter::once("run".into()).chain(ports).collect(),
        env: vec![
            ("GOMAXPROCS", setup.threads.to_string().into()),
            ("KAMAL_PROXY_SOCKET", setup.dir.join(SOCKET).into()),
        ],
        ready: Ready::Commands(SOCKET),
        order: deploy(setup, metrics),
        ..Recipe::default()
    }
}

fn deploy(setup: &Setup<'_>, metrics: SocketAddr) -> Vec<OsString> {
    let mut order = vec!["deploy".into(), "dynos".into(), format!("--host={}", setup.host).into()];
    order.push(format!("--health-check-port={}", metrics.port()).into());
    order.extend(["--health-check-path=/metrics", "--health-check-interval=1h"].map(Into::into));
    order.extend(["--target-timeout=55s", "--deploy-timeout=10s"].map(Into::into));
    if let Some(files) = setup.tls {
        order.extend(["--tls".into(), "--tls-certificate-path".into(), (&files.cert).into()]);
        order.extend(["--tls-private-key-path".into(), (&files.key).into()]);
    }
    order.extend(setup.dynos.iter().map(|dyno| format!("--target={dyno}").into()));
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::{dynos, files, setup};

    #[test]
    fn all_dynos_are_targets_of_one_deploy_on_the_port_that_is_used() {
        let (dynos, files) = (dynos(2), files());
        let other = ["127.0.0.1:9000", "127.0.0.1:9001"].map(|address| address.parse().unwrap());
        let plain = recipe(&setup(&dynos, false), other);
        assert_eq!(plain.args, ["run", "--http-port=8080", "--https-port=9000", "--metrics-port=9001"]);
        let targets = ["--target=127.0.0.1:4100", "--target=127.0.0.1:4101"].map(OsString::from);
        assert!(plain.order.ends_with(&targets), "{:?}", plain.order);
        assert!(plain.order.iter().any(|given| given == "--health-check-port=9001"), "{:?}", plain.order);
        let tls = recipe(&Setup { tls: Some(&files), ..setup(&dynos, false) }, other);
        assert_eq!(tls.args, ["run", "--http-port=9000", "--https-port=8080", "--metrics-port=9001"]);
        assert!(tls.order.iter().any(|given| given == "/dir/key.pem"), "{:?}", tls.order);
    }
}
