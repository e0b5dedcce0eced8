//! The keys outside of apps, each with its value.

use std::path::{Path, PathBuf};

use router_core::dns::Families;

use super::{Keys, Shown, many, one, or_none};
use crate::config::acme::Acme;
use crate::config::edge::{ClientAuth, Edge, MinVersion, Unnamed};
use crate::config::units::{Period, Size};
use crate::config::{
    Admin, Audit, Config, Dns, Http2, Log, LogFormat, LogLevel, LogOutput, ProxyProtocol, Server, State,
};

pub(super) fn settings(config: &Config) -> Keys {
    let mut keys = server(&config.server);
    keys.extend(http2(&config.http2));
    keys.extend(edge(config.tls.as_ref()));
    keys.extend(acme(config.acme.as_deref()));
    keys.extend(admin(config.admin.as_ref()));
    keys.extend(log(&config.log));
    keys.extend(dns(&config.dns));
    keys.extend(trail(config.audit.as_ref(), config.state.as_ref()));
    keys.push(("webhooks", many(&config.webhooks)));
    keys
}

// The structs are taken apart without `..`, so that a key that is added cannot be forgotten here.

fn server(server: &Server) -> Keys {
    let Server {
        listen,
        handover,
        shutdown_timeout,
        max_connections,
        header_timeout,
        send_timeout,
        request_line_max,
        header_line_max,
        headers_max,
        head_max,
        keepalive_requests,
        threads,
        trusted_request_id,
        http2,
        trusted_proxies,
        proxy_protocol,
        max_connections_per_ip,
        memory_max,
        spool_dir,
        disk_max,
        user,
        group,
    } = server;
    let name = |name: &Option<String>| one(name.as_deref().unwrap_or("none"));
    let header = match proxy_protocol {
        ProxyProtocol::Off => "off",
        ProxyProtocol::Optional => "optional",
        ProxyProtocol::Required => "required",
    };
    vec![
        ("server.listen", many(listen)),
        ("server.handover", one(handover)),
        ("server.shutdown_timeout", one(Period(*shutdown_timeout))),
        ("server.max_connections", one(max_connections)),
        ("server.header_timeout", one(Period(*header_timeout))),
        ("server.send_timeout", one(Period(*send_timeout))),
        ("server.request_line_max", one(Size(*request_line_max as u64))),
        ("server.header_line_max", one(Size(*header_line_max as u64))),
        ("server.headers_max", one(headers_max)),
        ("server.head_max", one(Size(*head_max as u64))),
        ("server.keepalive_requests", one(keepalive_requests)),
        ("server.threads", one(threads)),
        ("server.trusted_request_id", one(trusted_request_id)),
        (
            "server.trusted_proxies",
            trusted_proxies.as_ref().map_or_else(|| one("none"), |nets| many(nets.as_slice())),
        ),
        ("server.proxy_protocol", one(header)),
        ("server.max_connections_per_ip", one(max_connections_per_ip)),
        ("server.memory_max", one(Size(*memory_max))),
        ("server.spool_dir", one(spool_dir.display())),
        ("server.disk_max", one(Size(*disk_max))),
        ("server.user", name(user)),
        ("server.group", name(group)),
        ("server.http2", one(http2)),
    ]
}

fn http2(http2: &Http2) -> Keys {
    let Http2 {
        max_streams,
        max_reset_streams,
        stream_window,
        connection_window,
        ping_interval,
        ping_timeout,
        send_timeout,
    } = http2;
    vec![
        ("http2.max_streams", one(max_streams)),
        ("http2.max_reset_streams", one(max_reset_streams)),
        ("http2.stream_window", one(Size(u64::from(*stream_window)))),
        ("http2.connection_window", one(Size(u64::from(*connection_window)))),
        ("http2.ping_interval", one(Period(*ping_interval))),
        ("http2.ping_timeout", one(Period(*ping_timeout))),
        ("http2.send_timeout", one(Period(*send_timeout))),
    ]
}

fn edge(edge: Option<&Edge>) -> Keys {
    let Some(edge) = edge else {
        let none = || Shown::Many(Vec::new());
        let keys = ["tls.default", "tls.min_version", "tls.handshake_timeout", "tls.handshakes"];
        let auth = ["tls.client_auth", "tls.client_ca"];
        let rest = keys.into_iter().chain(auth).map(|key| (key, one("none")));
        return [("tls.listen", none()), ("tls.certificates", none())].into_iter().chain(rest).collect();
    };
    let Edge { listen, certificates, default, min_version, handshake_timeout, handshakes, .. } = edge;
    let Edge { client_auth, client_ca, .. } = edge;
    let default = match default {
        Unnamed::First => "first",
        Unnamed::Strict => "strict",
    };
    let min_version = match min_version {
        MinVersion::V12 => "1.2",
        MinVersion::V13 => "1.3",
    };
    let auth = match client_auth {
        ClientAuth::Off => "off",
        ClientAuth::Optional => "optional",
        ClientAuth::Required => "required",
    };
    vec![
        ("tls.listen", many(listen)),
        ("tls.certificates", many(certificates)),
        ("tls.default", one(default)),
        ("tls.min_version", one(min_version)),
        ("tls.handshake_timeout", one(Period(*handshake_timeout))),
        ("tls.handshakes", one(handshakes)),
        ("tls.client_auth", one(auth)),
        ("tls.client_ca", or_none(client_ca.as_ref())),
    ]
}

fn acme(acme: Option<&Acme>) -> Keys {
    let Some(acme) = acme else {
        let keys = ["acme.directory", "acme.accept_terms", "acme.email", "acme.storage", "acme.challenges"];
        let more = ["acme.renew_before", "acme.on_demand", "acme.ca", "acme.eab_kid", "acme.eab_key_file"];
        return keys.into_iter().chain(more).map(|key| (key, one("none"))).collect();
    };
    // The hosts follow from the apps.
    let Acme { directory, email, storage, challenges, renew_before, on_demand, ca, eab, hosts: _ } = acme;
    let challenges: Vec<_> = challenges.iter().map(|way| way.as_str()).collect();
    vec![
        ("acme.directory", one(directory)),
        // Without it there is no such table.
        ("acme.accept_terms", one(true)),
        ("acme.email", or_none(email.as_ref())),
        ("acme.storage", one(storage.display())),
        ("acme.challenges", many(&challenges)),
        ("acme.renew_before", or_none(renew_before.map(Period))),
        ("acme.on_demand", one(on_demand)),
        ("acme.ca", or_none(ca.as_ref())),
        ("acme.eab_kid", or_none(eab.as_ref().map(|eab| &eab.kid))),
        ("acme.eab_key_file", or_none(eab.as_ref().map(|eab| eab.file.display()))),
    ]
}

fn admin(admin: Option<&Admin>) -> Keys {
    let (listen, tokens, tls) = match admin {
        Some(Admin { listen, tokens, tls }) => (listen.to_string(), &tokens[..], tls.as_ref()),
        None => ("none".to_owned(), &[][..], None),
    };
    let file = |path: &Path, mark: &str| format!("{}{mark}", path.display());
    // Two certificates in one file are told apart by their marks.
    let cert = tls.map(|tls| file(&tls.cert, &format!(" (certificate {})", tls.mark)));
    let key = tls.map(|tls| file(&tls.key, ""));
    vec![
        ("admin.listen", one(listen)),
        ("admin.tls.cert", or_none(cert)),
        ("admin.tls.key", or_none(key)),
        ("admin.tokens", many(tokens)),
    ]
}

fn log(log: &Log) -> Keys {
    let Log { format, output, level, queue } = log;
    let format = match format {
        LogFormat::Logfmt => "logfmt",
        LogFormat::Json => "json",
    };
    let output = match output {
        LogOutput::Stdout => "stdout",
        LogOutput::Stderr => "stderr",
        LogOutput::Off => "off",
    };
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    vec![
        ("log.format", one(format)),
        ("log.output", one(output)),
        ("log.level", one(level)),
        ("log.queue", one(queue)),
    ]
}

fn dns(dns: &Dns) -> Keys {
    let Dns { servers, family, min_ttl, max_ttl, timeout, attempts, max_removal, max_removal_confirm } = dns;
    let family_word = match family {
        Families::PreferV4 => "prefer-v4",
        Families::PreferV6 => "prefer-v6",
        Families::Both => "both",
    };
    vec![
        ("dns.servers", many(servers)),
        ("dns.family", one(family_word)),
        ("dns.min_ttl", one(Period(*min_ttl))),
        ("dns.max_ttl", one(Period(*max_ttl))),
        ("dns.timeout", one(Period(*timeout))),
        ("dns.attempts", one(attempts)),
        ("dns.max_removal", one(max_removal)),
        ("dns.max_removal_confirm", one(max_removal_confirm)),
    ]
}

fn trail(audit: Option<&Audit>, state: Option<&State>) -> Keys {
    let path =
        |path: Option<&PathBuf>| one(path.map_or_else(|| "none".into(), |path| path.to_string_lossy()));
    let (file, max_size, files) = match audit {
        Some(Audit { file, max_size, files }) => (Some(file), *max_size, *files),
        None => (None, Audit::MAX_SIZE, Audit::FILES),
    };
    vec![
        ("audit.file", path(file)),
        ("audit.max_size", one(Size(max_size))),
        ("audit.files", one(files)),
        ("state.file", path(state.map(|State { file }| file))),
    ]
}
