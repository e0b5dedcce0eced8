//! The keys of an app, each with its value.

use router_core::limits::{Limits, Order, Protocol, ProxyHeader};

use super::{Keys, many, one, or_none};
use crate::config::door::RateLimit;
use crate::config::health::{Health, ProbeWord};
use crate::config::units::{Period, Size};
use crate::config::{Admission, App, Web, plan, upstream};

pub(super) fn keys(app: &App) -> Keys {
    let App { spec, concurrency, health, dynos, plan, admission, web } = app;
    let limits = &spec.limits;
    let mut keys = vec![
        ("hosts", many(&spec.hosts)),
        ("release", one(&spec.release)),
        ("dynos", many(dynos)),
        ("concurrency", one(concurrency)),
    ];
    keys.extend(to_dynos(limits));
    keys.extend(encryption(limits));
    keys.extend(door(admission));
    keys.extend(shown(web));
    keys.extend(bodies(limits));
    keys.extend(steps(limits));
    keys.extend(well(health, limits));
    keys.extend(plan::keys(plan));
    keys
}

fn to_dynos(limits: &Limits) -> Keys {
    let order = match limits.order {
        Order::LeastRecentlyUsed => "least-recently-used",
        Order::Random => "random",
        // `Order` may grow; the default stands for what this version cannot write.
        Order::Lifo | _ => "lifo",
    };
    let protocol = match limits.protocol {
        Protocol::H2c => "h2c",
        // As above.
        Protocol::Http1 | _ => "http1",
    };
    let header = match limits.proxy_protocol {
        ProxyHeader::Off => "off",
        ProxyHeader::V1 => "v1",
        ProxyHeader::V2 => "v2",
    };
    vec![
        ("streams", one(limits.streams)),
        ("protocol", one(protocol)),
        ("order", one(order)),
        ("close_frees_dyno", one(limits.close_frees_dyno)),
        ("proxy_protocol", one(header)),
    ]
}

fn encryption(limits: &Limits) -> Keys {
    let encryption = limits.encryption.as_deref();
    let (name, ca) = limits.secured().map(upstream::shown).unzip();
    let redirect = encryption.and_then(|encryption| encryption.redirect);
    let hsts = encryption.and_then(|encryption| encryption.hsts.as_ref());
    vec![
        ("https.redirect", one(redirect.is_some())),
        ("https.port", or_none(redirect)),
        ("https.hsts", or_none(hsts)),
        ("https.hsts_subdomains", one(hsts.is_some_and(|hsts| hsts.contains("Sub")))),
        ("tls.to_dyno", one(limits.secured().is_some())),
        ("tls.name", or_none(name)),
        ("tls.ca", or_none(ca)),
    ]
}

fn door(Admission { allow, deny, rate_limit }: &Admission) -> Keys {
    let rate =
        |key: &dyn Fn(&RateLimit) -> String| one(rate_limit.as_ref().map_or_else(|| "none".to_owned(), key));
    vec![
        ("allow", many(allow.as_slice())),
        ("deny", many(deny.as_slice())),
        ("rate_limit.per", rate(&|limit| limit.per.to_string())),
        ("rate_limit.rate", rate(&|limit| limit.rate.to_string())),
        ("rate_limit.burst", rate(&|limit| limit.burst.to_string())),
    ]
}

/// What the app shows the world.
fn shown(Web { pages, redirects, auth, sticky, compression }: &Web) -> Keys {
    let users = auth.as_ref().map_or(&[][..], |auth| &auth.users);
    let users_file = auth.as_ref().and_then(|auth| auth.users_file.as_ref());
    vec![
        ("error_pages", many(pages)),
        ("redirects", many(redirects)),
        ("basic_auth.users", many(users)),
        ("basic_auth.users_file", or_none(users_file.map(|file| file.display()))),
        ("basic_auth.realm", or_none(auth.as_ref().map(|auth| &auth.realm))),
        ("sticky.cookie", or_none(sticky.as_ref().map(|sticky| &sticky.cookie))),
        ("sticky.wait", or_none(sticky.as_ref().map(|sticky| Period(sticky.wait)))),
        ("sticky.secret_file", or_none(sticky.as_ref().and_then(|sticky| sticky.mark.as_ref()))),
        ("compression", or_none(compression.shown())),
        ("compression_min", one(Size(compression.min))),
        ("compression_types", many(&compression.kinds)),
    ]
}

fn bodies(limits: &Limits) -> Keys {
    vec![
        ("body_max", one(Size(limits.body_max))),
        ("body_rate_min", one(Size(limits.body_rate_min))),
        ("request_buffer", one(Size(limits.request_buffer as u64))),
        ("response_spool", one(Size(limits.response_spool as u64))),
        ("request_disk", one(Size(limits.request_disk))),
        ("response_disk", one(Size(limits.response_disk))),
        ("disk_max", one(Size(limits.disk_max))),
    ]
}

fn steps(limits: &Limits) -> Keys {
    vec![
        ("queue.max_wait", one(Period(limits.queue_max_wait))),
        ("queue.max_requests_per_dyno", one(limits.queue_max_requests_per_dyno)),
        ("queue.max_bytes", one(Size(limits.queue_max_bytes))),
        ("queue.standing_after", one(Period(limits.standing_after))),
        ("queue.standing_wait", one(Period(limits.standing_wait))),
        ("timeouts.connect", one(Period(limits.connect))),
        ("timeouts.first_byte", one(Period(limits.first_byte))),
        ("timeouts.idle", one(Period(limits.idle))),
        ("timeouts.stream_idle", one(Period(limits.stream_idle))),
        ("timeouts.body", one(Period(limits.body))),
        ("timeouts.linger", one(Period(limits.linger))),
        ("timeouts.boot", one(Period(limits.boot))),
        ("timeouts.keepalive", one(Period(limits.keepalive))),
        ("retry.max_tries", one(limits.max_tries)),
        ("retry.quarantine", one(Period(limits.quarantine))),
        ("retry.quarantine_max", one(Period(limits.quarantine_max))),
    ]
}

fn well(health: &Health, limits: &Limits) -> Keys {
    // What a probe begins with is what the app's connections begin with.
    let Health { probe, path, host, status, interval, timeout, header: _ } = health;
    let probe = match probe {
        ProbeWord::Tcp => "tcp",
        ProbeWord::Http => "http",
        ProbeWord::None => "none",
    };
    vec![
        ("health.probe", one(probe)),
        ("health.path", one(path)),
        ("health.host", one(host.as_deref().unwrap_or("the dyno's address"))),
        ("health.status", one(status)),
        ("health.interval", one(Period(*interval))),
        ("health.timeout", one(Period(*timeout))),
        ("health.rise", one(limits.health_rise)),
        ("health.fall", one(limits.health_fall)),
        ("health.eject_after", one(limits.eject_after)),
        ("health.eject_max", one(limits.eject_max)),
    ]
}
