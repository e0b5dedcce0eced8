//! A Pingora proxy in front of dynos that do one request at a time: `pingora-front LISTEN DYNO...`
//!
//! Try it with two servers that can do only one thing at once:
//!
//! ```text
//! php -S 127.0.0.1:3001 & php -S 127.0.0.1:3002 &
//! cargo run -p pingora-front -- 127.0.0.1:8080 127.0.0.1:3001 127.0.0.1:3002
//! ```
//!
//! The example is about `front.rs`, where Pingora's hooks meet the line. Only the core is used of router-core: the
//! line, without its own HTTP.

mod front;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;

use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::background::background_service;
use pingora_proxy::http_proxy_service;
use router_core::Router;
use router_core::change::{AppSpec, Change, ChangeError, DynoSpec};
use router_core::limits::Limits;

use front::{Front, Timekeeper};

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("pingora-front: {error}\nusage: pingora-front LISTEN DYNO...");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().ok_or("where to listen is missing")?;
    let _: SocketAddr = listen.parse().map_err(|_| format!("{listen:?} is no address with a port"))?;
    let dynos = arguments
        .map(|dyno| dyno.parse().map_err(|_| format!("{dyno:?} is no address with a port")))
        .collect::<Result<Vec<_>, _>>()?;
    let router = router(&dynos, Limits::default())?;

    let mut server = Server::new_with_opt_and_conf(None, configuration(dynos.len()));
    server.bootstrap();
    let mut front = http_proxy_service(&server.configuration, Front::new(router.clone()));
    front.add_tcp(&listen);
    server.add_service(front);
    server.add_service(background_service("timekeeper", Timekeeper::new(router)));
    server.run_forever()
}

/// A router with one app for every host.
fn router(dynos: &[SocketAddr], limits: Limits) -> Result<Router, ChangeError> {
    let app = AppSpec { id: "app".into(), hosts: vec!["*".into()], release: "v1".into(), limits };
    let add = |dyno: &SocketAddr| Change::AddDyno(app.id.clone(), DynoSpec::new(*dyno));
    let mut changes = vec![Change::PutApp(app.clone())];
    changes.extend(dynos.iter().map(add));
    let router = Router::new();
    router.apply(&changes)?;
    Ok(router)
}

/// What of Pingora's own settings matters here.
fn configuration(dynos: usize) -> ServerConf {
    ServerConf {
        // One idle connection for each dyno.
        upstream_keepalive_pool_size: dynos.max(1),
        // `Limits::max_tries` is what ends the tries (its ceiling is 100): the router's bound, not a second one.
        max_retries: 100,
        ..ServerConf::default()
    }
}
