//! A Pingora proxy in front of dynos that do one request at a time: `pingora-front [OPTIONS] LISTEN DYNO...`
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

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::background::background_service;
use pingora_proxy::http_proxy_service;
use router_core::Router;
use router_core::change::{AppSpec, Change, ChangeError, DynoSpec};
use router_core::limits::Limits;

use front::{Front, Timekeeper};

/// A Pingora proxy in front of dynos that do one request at a time
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to listen, such as 127.0.0.1:8080
    listen: SocketAddr,
    /// The dynos, such as 127.0.0.1:3001 127.0.0.1:3002
    #[arg(required = true)]
    dynos: Vec<SocketAddr>,
    /// Speak TLS with this certificate (a chain, PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<String>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<String>,
    /// Speak HTTP/2 too: with TLS by ALPN, else to clients that begin with it
    #[arg(long)]
    http2: bool,
    /// How many threads serve
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How long a request waits for a dyno, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    max_wait: u64,
    /// How many requests may wait for each dyno
    #[arg(long, value_name = "N", default_value_t = 50)]
    max_requests_per_dyno: u32,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("pingora-front: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Infallible, Box<dyn Error>> {
    let limits = Limits::default()
        .with_queue_max_wait(Duration::from_secs(args.max_wait))
        .with_queue_max_requests_per_dyno(args.max_requests_per_dyno);
    let router = router(&args.dynos, limits)?;
    let settings = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some(tls(cert, key, args.http2)?),
        (None, _) | (_, None) => None,
    };

    let mut conf = configuration(args.dynos.len());
    conf.threads = args.threads.into();
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut front = http_proxy_service(&server.configuration, Front::new(router.clone()));
    let address = args.listen.to_string();
    match settings {
        Some(settings) => front.add_tls_with_settings(&address, None, settings),
        None => front.add_tcp(&address),
    }
    if let Some(app) = front.app_logic_mut() {
        let mut options = HttpServerOptions::default();
        options.h2c = args.http2;
        app.server_options = Some(options);
    }
    server.add_service(front);
    server.add_service(background_service("timekeeper", Timekeeper::new(router)));
    server.run_forever()
}

/// TLS with this certificate. Pingora reads the files later and panics if it cannot, so they are looked at here.
fn tls(cert: &str, key: &str, http2: bool) -> Result<TlsSettings, Box<dyn Error>> {
    let mut settings = TlsSettings::intermediate(cert, key)?;
    settings.set_certificate_chain_file(cert).map_err(|error| format!("{cert}: {error}"))?;
    settings.set_private_key_file(key).map_err(|error| format!("{key}: {error}"))?;
    if http2 {
        settings.enable_h2();
    }
    Ok(settings)
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
