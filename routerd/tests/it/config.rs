//! The configuration as people meet it: each key is live, each mistake is named where it stands.

use std::path::Path;

use router_core::dns::Families;
use router_core::limits::Limits;
use routerd::config::{self, AdminListen, Config, ConfigError, DynoSource, file, reference};
use serde_json::{Map, Value, json};

use crate::support::program::routerd;

mod broken;
mod trail;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "shop.toml")
}

/// What is wrong, as `line:column message`.
fn wrong(text: &str) -> Vec<String> {
    let error = parse(text).expect_err(text);
    error.problems().iter().map(|p| format!("{}:{} {}", p.line, p.column, p.message)).collect()
}

#[test]
fn the_documented_example_is_valid_and_means_what_it_says() {
    let config = parse(reference::example()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.summary(), "2 apps, 2 listeners, 2 dynos, 1 name to look up");
    assert_eq!(config.admin.unwrap().listen, AdminListen::Unix("/run/routerd.sock".into()));
    let api = &config.apps[0];
    assert_eq!(api.spec.id.as_str(), "api");
    assert_eq!(api.dynos, [DynoSource::Dns { name: "api.shop.internal".to_owned(), port: 3000 }]);
    assert_eq!(api.spec.limits.queue_max_requests_per_dyno, 20);
    assert_eq!(api.spec.limits.first_byte.as_secs(), 10);
}

#[test]
fn the_smallest_configuration_has_the_defaults_of_the_core() {
    let config = parse("[apps.shop]").unwrap();
    assert_eq!(config.apps[0].spec.limits, Limits::default());
    assert_eq!((config.apps[0].concurrency, config.apps[0].spec.release.as_str()), (1, "v1"));
    assert_eq!(config.apps[0].spec.hosts, ["*"]);
    assert_eq!(config.server, config::Server::default());
    assert_eq!(
        (config.admin, config.log, config.dns),
        (None, config::Log::default(), config::Dns::default())
    );
}

#[test]
fn an_app_keeps_the_defaults_of_the_keys_that_it_does_not_have() {
    let text = r#"
        [defaults]
        concurrency = 3
        queue = { max_wait = "9s", max_bytes = "1MiB" }
        [apps.shop]
        hosts = ["*"]
        queue.max_wait = "4s"
        [apps.api]
        hosts = ["api.test"]
        concurrency = 1
    "#;
    let apps = parse(text).unwrap().apps;
    let of = |at: usize| {
        let limits: &Limits = &apps[at].spec.limits;
        (apps[at].concurrency, limits.queue_max_wait.as_secs(), limits.queue_max_bytes)
    };
    assert_eq!((of(0), of(1)), ((1, 9, 1 << 20), (3, 4, 1 << 20)));
}

#[test]
fn a_default_gives_way_to_a_shorter_bound_that_is_written() {
    let text = "[apps.shop]\nqueue = { max_wait = '1s' }\nretry = { quarantine_max = '2s' }\n[dns]\nmax_ttl = '500ms'";
    let config = parse(text).unwrap();
    assert_eq!(config.apps[0].spec.limits.standing_wait.as_secs(), 1);
    assert_eq!(config.apps[0].spec.limits.quarantine.as_secs(), 2);
    assert_eq!(config.dns.min_ttl, config.dns.max_ttl);
}

#[test]
fn the_family_of_addresses_is_that_of_the_core() {
    assert_eq!(parse("[apps.shop]").unwrap().dns.family, Families::PreferV4);
    for (word, family) in
        [("prefer-v4", Families::PreferV4), ("prefer-v6", Families::PreferV6), ("both", Families::Both)]
    {
        let config = parse(&format!("[apps.shop]\n[dns]\nfamily = '{word}'")).unwrap();
        assert_eq!(config.dns.family, family, "{word}");
    }
}

/// The key's path and schema, for every key of the file that is no table.
fn keys(schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, Value)>) {
    let any = schema.get("additionalProperties").filter(|any| any.is_object()).map(|any| ("shop", any));
    let named =
        schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| (name.as_str(), schema));
    for (name, schema) in named.chain(any) {
        let path = [path, &[name.to_owned()]].concat();
        match schema["type"] == "object" {
            true => keys(schema, &path, found),
            false => found.push((path, schema.clone())),
        }
    }
}

fn all_keys() -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    keys(&file::schema().to_value(), &[], &mut found);
    // Two files that are needed together have no default; `control/daemon.rs` tries them.
    found.retain(|(_, schema)| schema["x-unit"] != "file");
    // What needs a certificate, or an address with TLS, is tried in `tls.rs` and `acme.rs`.
    found.retain(|(path, _)| !path.iter().any(|name| ["tls", "https", "acme"].contains(&name.as_str())));
    found
}

fn with(path: &[String], value: Value) -> String {
    let mut root = json!({ "admin": {}, "audit": {}, "state": {}, "apps": { "shop": {} } });
    let pointer = path[..path.len() - 1].iter().fold(&mut root, |table, name| &mut table[name]);
    pointer[path.last().expect("no path is empty")] = value;
    toml::to_string(&root).expect("it is a table")
}

/// A legal value that is not the default one.
fn another(path: &str, schema: &Value) -> Value {
    match path {
        "server.listen" => return json!(["127.0.0.1:0"]),
        "server.handover" => return json!("unix:/run/y.sock"),
        "admin.listen" => return json!("unix:/run/x.sock"),
        "audit.file" | "state.file" => return json!("other"),
        "webhooks" => return json!([{ "url": "http://chat.test/" }]),
        "admin.tokens" => {
            let hash = format!("sha256:{}", "0".repeat(64));
            return json!([{ "name": "ci", "hash": hash, "role": "read" }]);
        }
        "dns.servers" => return json!(["::1"]),
        "apps.shop.hosts" => return json!(["shop.test"]),
        "apps.shop.release" => return json!("v2"),
        "apps.shop.dynos" => return json!(["srv:_http._tcp.shop.internal"]),
        _ if path.ends_with(".ready_when") => return json!("80%"),
        _ if path.ends_with(".pace") => return json!("1 every 10s"),
        _ if path.ends_with("_proxies") || path.ends_with(".allow") || path.ends_with(".deny") => {
            return json!(["10.0.0.0/8"]);
        }
        _ if path.ends_with(".error_pages") => {
            // Any text is a page.
            return json!([{ "on": ["5xx"], "html": concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml") }]);
        }
        _ if path.ends_with(".redirects") => return json!([{ "from": "/old", "to": "/new" }]),
        _ if path.ends_with(".compression") => return json!(["br", "gzip"]),
        _ if path.ends_with(".compression_types") => return json!(["text/*"]),
        _ if path.ends_with("sticky.cookie") => return json!("dyno"),
        _ if path.ends_with("basic_auth.users") => return json!([USER]),
        _ if path.ends_with("basic_auth.realm") => return json!("tests"),
        "server.user" | "server.group" => return json!("nobody"),
        "server.spool_dir" => return json!("other"),
        _ if path.ends_with("rate_limit.per") => return json!("app"),
        _ if path.ends_with("rate_limit.rate") => return json!("10/s"),
        _ if path.ends_with("health.path") => return json!("/up"),
        _ if path.ends_with("health.host") => return json!("up.test"),
        _ if path.ends_with("health.status") => return json!("204"),
        _ => {}
    }
    let default = &schema["default"];
    let words = schema["oneOf"].as_array().or_else(|| schema["enum"].as_array());
    if let Some(words) = words {
        let word = |one: &Value| one.get("const").unwrap_or(one).clone();
        return words.iter().map(word).find(|word| word != default).expect("there are two words");
    }
    match default {
        Value::Bool(value) => json!(!value),
        Value::Number(number) if number.is_f64() => json!(number.as_f64().expect("it is one") / 2.0),
        Value::Number(number) => json!(number.as_u64().expect("it is one") + 1),
        Value::String(_) => schema["x-ceiling"].clone(),
        Value::Null | Value::Array(_) | Value::Object(_) => panic!("{path}: say what else is legal"),
    }
}

const USER: &str = "ops:$2b$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";
const BESIDE_USER: &str =
    "apps.shop.basic_auth.users = ['ops:$2b$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234']";
const BESIDE_DEFAULT_USER: &str =
    "defaults.basic_auth.users = ['ops:$2b$04$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234']";

#[test]
fn each_key_is_live() {
    let base = parse("[admin]\n[audit]\n[state]\n[apps.shop]").unwrap();
    let keys = all_keys();
    assert!(keys.len() > 60, "{}", keys.len());
    for (path, schema) in keys {
        let name = path.join(".");
        let mut text = with(&path, another(&name, &schema));
        // What must not be more than another key is tried together with that key at its ceiling.
        for (short, long) in [
            ("queue.standing_wait", "queue.max_wait"),
            ("retry.quarantine", "retry.quarantine_max"),
            ("health.timeout", "health.interval"),
        ] {
            if name.ends_with(short) {
                text = with(&path, json!("1s"));
                assert!(parse(&with(&path, json!("1h"))).is_err(), "{name} above {long}");
            }
        }
        if name.ends_with("_line_max") {
            text = with(&path, json!("9KiB"));
        }
        if name == "dns.min_ttl" {
            text = with(&path, json!("2s"));
        }
        // What says nothing alone is tried beside what it belongs to.
        let beside = match &*name {
            "server.group" => Some("server.user = 'nobody'"),
            "server.proxy_protocol" => Some("server.trusted_proxies = ['10.0.0.0/8']"),
            "apps.shop.rate_limit.per" | "apps.shop.rate_limit.burst" => {
                Some("apps.shop.rate_limit.rate = '9/s'")
            }
            "defaults.rate_limit.per" | "defaults.rate_limit.burst" => {
                Some("defaults.rate_limit.rate = '9/s'")
            }
            "apps.shop.basic_auth.realm" => Some(BESIDE_USER),
            "defaults.basic_auth.realm" => Some(BESIDE_DEFAULT_USER),
            "apps.shop.sticky.wait" => Some("apps.shop.sticky.cookie = 'dyno'"),
            "defaults.sticky.wait" => Some("defaults.sticky.cookie = 'dyno'"),
            _ => None,
        };
        let dotted = |path: &[String], value: &Value| format!("{} = {value}\n", path.join("."));
        let mut base = base.clone();
        if let Some(beside) = beside {
            text = format!("{beside}\n{}apps.shop.release = 'v1'", dotted(&path, &another(&name, &schema)));
            base = parse(&format!("{beside}\napps.shop.release = 'v1'")).unwrap();
        }
        let config = parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(config, base, "{name} changes nothing");
    }
}

#[test]
fn each_documented_default_is_the_one_that_holds() {
    let base = parse("[admin]\n[audit]\n[state]\n[apps.shop]").unwrap();
    for (path, schema) in all_keys() {
        // Not to write it is something of its own: nobody is believed, and nothing dropped.
        if path.last().is_some_and(|name| name == "trusted_proxies") {
            continue;
        }
        let default =
            schema.get("default").unwrap_or_else(|| panic!("{} has no default", path.join("."))).clone();
        let config =
            parse(&with(&path, default)).unwrap_or_else(|error| panic!("{}: {error}", path.join(".")));
        assert_eq!(config, base, "{}", path.join("."));
    }
}

#[test]
fn each_number_time_and_size_is_refused_outside_its_bounds_and_named_with_its_key() {
    let mut bounded = 0;
    for (path, schema) in all_keys() {
        let name = path.join(".");
        let outside: Vec<Value> = match (&schema["default"], schema["x-unit"].as_str()) {
            (Value::Number(_), _) => {
                let floor = schema["minimum"].as_i64().unwrap_or_else(|| panic!("{name} has no floor"));
                let ceiling = schema["maximum"].as_i64().unwrap_or_else(|| panic!("{name} has no ceiling"));
                vec![json!(floor - 1), json!(ceiling + 1), json!("5"), json!(1e300)]
            }
            (_, Some("duration")) => {
                let zero = (schema["x-floor"] != "0s").then(|| json!("0s"));
                assert!(schema["x-ceiling"].is_string(), "{name} has no ceiling");
                [json!("25h"), json!("5"), json!(5), json!("")].into_iter().chain(zero).collect()
            }
            (_, Some("size")) => vec![json!("100000GiB"), json!("5"), json!(5), json!("-1B")],
            _ => continue,
        };
        bounded += 1;
        for value in outside {
            let problems = wrong(&with(&path, value.clone()));
            assert!(problems[0].contains(&format!("{name}: ")), "{name} = {value}: {problems:?}");
        }
    }
    assert!(bounded > 45, "{bounded}");
}

#[test]
fn the_reference_is_in_step_with_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configure.md");
    let now = reference::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let then = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        then == now,
        "docs/configure.md is not in step: run UPDATE_DOCS=1 cargo test -p routerd reference"
    );
}

#[test]
fn the_schema_allows_no_unknown_key_and_describes_each_one() {
    let output = routerd(&["schema"]);
    assert!(output.status.success());
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    fn tables(table: &Map<String, Value>, path: &str) {
        let named = table.get("properties").and_then(Value::as_object);
        if named.is_some() {
            assert_eq!(table["additionalProperties"], json!(false), "{path}");
        }
        for (name, key) in named.into_iter().flatten() {
            let text =
                key["description"].as_str().unwrap_or_else(|| panic!("{path}.{name} has no description"));
            assert!(text.len() > 10, "{path}.{name}: {text}");
            if key["items"]["type"] == "object" {
                tables(key["items"].as_object().expect("it is one"), &format!("{path}.{name}"));
            }
            if key["type"] == "object" {
                tables(key.as_object().expect("it is one"), &format!("{path}.{name}"));
            }
        }
    }
    tables(schema.as_object().unwrap(), "");
}

#[test]
fn check_says_in_one_line_that_a_file_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    std::fs::write(&path, reference::example()).unwrap();
    let path = path.to_str().unwrap();
    let output = routerd(&["check", "--config", path]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{path} is valid: 2 apps, 2 listeners, 2 dynos, 1 name to look up\n"));
    assert_eq!(output.stderr, b"");
}

#[test]
fn what_fails_ends_with_1_and_wrong_use_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    for (text, says) in [(&b"[apps.shop]\nhost = 1"[..], "did you mean `hosts`?"), (b"\xff", "no UTF-8 text")]
    {
        std::fs::write(&path, text).unwrap();
        for command in ["check", "run"] {
            let output = routerd(&[command, "--config", path.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(says) && !said.contains('\u{1b}'), "{said}");
            assert_eq!(output.stdout, b"");
        }
    }
    assert_eq!(routerd(&["check", "--config", "/nonexistent/shop.toml"]).status.code(), Some(1));
    assert_eq!(routerd(&["check", "--config", folder.path().to_str().unwrap()]).status.code(), Some(1));
    for args in [&["check"][..], &["chek"], &["up", "--formation", "web"], &["--nonsense"], &[]] {
        assert_eq!(routerd(args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--version"][..], &["--help"], &["run", "--help"]] {
        assert_eq!(routerd(args).status.code(), Some(0), "{args:?}");
    }
}
