//! Where the dynos of a configuration come from, and how they are probed.
//!
//! As those want it who look them up and watch over them; and what is found, as the router wants it.

use router_core::dns::{Bounds, Settings, Source};

use crate::config::{Config, DynoSource};
use crate::discover::AppSources;
use crate::health::Plan;

/// How names are looked up.
pub(super) fn settings(config: &Config) -> Settings {
    let dns = &config.dns;
    let bounds = Bounds {
        min_ttl: dns.min_ttl,
        max_ttl: dns.max_ttl,
        max_removal: dns.max_removal,
        confirm: dns.max_removal_confirm,
        families: dns.family,
        ..Bounds::default()
    };
    Settings::default()
        .with_servers(dns.servers.clone())
        .with_timeout(dns.timeout)
        .with_tries(u32::try_from(dns.attempts).unwrap_or(u32::MAX))
        .with_bounds(bounds)
}

/// The sources of every app.
pub(super) fn sources(config: &Config) -> Vec<AppSources> {
    config.apps.iter().map(sources_of).collect()
}

/// The sources of one app.
pub(super) fn sources_of(app: &crate::config::App) -> AppSources {
    AppSources {
        app: app.spec.id.clone(),
        sources: app.dynos.iter().map(source).collect(),
        concurrency: app.concurrency,
    }
}

/// How the dynos of every app are probed.
pub(super) fn health(config: &Config) -> Plan {
    config.apps.iter().map(|app| (app.spec.id.clone(), app.health.clone())).collect()
}

fn source(dyno: &DynoSource) -> Source {
    match dyno {
        DynoSource::Address(address) => Source::Address(*address),
        DynoSource::Dns { name, port } => Source::Dns { host: name.as_str().into(), port: *port },
        DynoSource::Srv { name } => Source::Srv { name: name.as_str().into() },
    }
}
