//! What a difference says, and that no key can be forgotten.

use router_core::Router;
use serde_json::Value;

use super::*;
use crate::config::SCHEMA;

fn config(text: &str) -> Config {
    Config::parse(text, "test").unwrap_or_else(|error| panic!("{error}"))
}

const SHOP: &str = "[apps.shop]\nhosts = ['shop.test']\ndynos = ['127.0.0.1:3001']\n";

/// The keys below a table of the schema, with their paths.
fn paths(schema: &Value, table: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    let target = table.pointer("/$ref").and_then(Value::as_str);
    let table = target.and_then(|name| schema.pointer(&name[1..])).unwrap_or(table);
    for (name, below) in table["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let reference = below.pointer("/$ref").and_then(Value::as_str);
        let whole = reference.and_then(|name| schema.pointer(&name[1..])).unwrap_or(below);
        if whole.get("properties").is_some() {
            paths(schema, whole, &path, into);
        } else {
            into.insert(path);
        }
    }
}

#[test]
fn every_key_of_the_schema_is_compared() {
    let mut written = BTreeSet::new();
    paths(&SCHEMA, &SCHEMA, "", &mut written);
    assert!(written.len() > 40, "{written:?}");
    let config = config(SHOP);
    let outside = settings(&config).into_iter().map(|(key, _)| key.to_owned());
    let defaults = keys(&config.apps[0]).into_iter().map(|(key, _)| format!("defaults.{key}"));
    let compared: BTreeSet<_> = outside.chain(defaults).collect();
    // These two belong to one app, so they have no default, and `apps` holds the apps themselves.
    let own = ["defaults.hosts", "defaults.dynos", "defaults.release", "apps"].map(str::to_owned);
    let missing: Vec<_> = written.difference(&compared).filter(|key| !own.contains(key)).collect();
    let unknown: Vec<_> = compared.difference(&written).filter(|key| !own.contains(key)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not compared: {missing:?}; no keys: {unknown:?}");
}

#[test]
fn each_value_that_changes_is_named_and_nothing_else() {
    let cases = [
        ("queue = { max_wait = '4s' }", "queue.max_wait: 5s -> 4s"),
        ("queue = { standing_wait = '1s' }", "queue.standing_wait: 2s 500ms -> 1s"),
        ("timeouts = { first_byte = '10s' }", "timeouts.first_byte: 30s -> 10s"),
        ("retry = { max_tries = 3 }", "retry.max_tries: 10 -> 3"),
        ("body_max = '1MiB'", "body_max: 0B -> 1MiB"),
        ("request_buffer = '1MiB'", "request_buffer: 64KiB -> 1MiB"),
        ("order = 'random'", "order: lifo -> random"),
        ("close_frees_dyno = true", "close_frees_dyno: false -> true"),
        ("concurrency = 2", "concurrency: 1 -> 2"),
        ("release = 'v2'", "release: v1 -> v2"),
    ];
    for (line, expected) in cases {
        let diff = Diff::between(&config(SHOP), &config(&format!("{SHOP}{line}\n")));
        assert_eq!(
            diff.to_string(),
            format!("~ app shop\n    {expected}\n0 apps stay as they are; no connection is closed\n")
        );
    }
}

#[test]
fn people_read_what_comes_goes_and_changes() {
    let old = config(
        "[server]\nlisten = ['127.0.0.1:8080', '127.0.0.1:8081']\nthreads = 2\n\
         [apps.blog]\nhosts = ['blog.test']\n[apps.old]\nhosts = ['old.test']\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = ['127.0.0.1:3001', '127.0.0.1:3002']\n",
    );
    let new = config(
        "[server]\nlisten = ['127.0.0.1:8082', '127.0.0.1:8080']\nthreads = 4\n[admin]\n[log]\nlevel = 'debug'\n\
         [apps.blog]\nhosts = ['blog.test']\n[apps.api]\nhosts = ['api.test']\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = ['127.0.0.1:3002', '127.0.0.1:3003']\n",
    );
    let text = Diff::between(&old, &new).to_string();
    let expected = "\
~ server.listen: - 127.0.0.1:8081, + 127.0.0.1:8082
~ server.threads: 2 -> 4  (at the next start)
~ admin.listen: none -> 127.0.0.1:9900
~ log.level: info -> debug
+ app api
- app old: who waits in its line is refused, who is served is served
~ app shop
    dynos: - 127.0.0.1:3001, + 127.0.0.1:3003
1 app stays as it is; no connection is closed
";
    assert_eq!(text, expected);
    assert_eq!(Diff::between(&new, &new).to_string(), "nothing changes\n");
    assert!(Diff::between(&old, &old).is_empty());
}

#[test]
fn the_router_hears_only_of_apps_that_differ() {
    let apps = |dyno_of_37: &str| {
        let mut text = String::new();
        for n in 0..100 {
            let dyno = if n == 37 { dyno_of_37.to_owned() } else { format!("127.0.0.1:{}", 3000 + n) };
            text += &format!("[apps.app-{n:02}]\nhosts = ['{n}.test']\ndynos = ['{dyno}']\n");
        }
        config(&text)
    };
    let (old, new) = (apps("127.0.0.1:3037"), apps("127.0.0.1:4037"));
    let diff = Diff::between(&old, &new);
    assert_eq!((diff.apps.len(), diff.untouched), (1, 99));
    assert_eq!(diff.changes(&new), [Change::PutApp(new.apps[37].spec.clone())]);
}

#[test]
fn apps_may_swap_their_hosts_and_take_those_of_an_app_that_goes() {
    let old = config(
        "[apps.a]\nhosts = ['one.test']\n[apps.b]\nhosts = ['two.test']\n[apps.c]\nhosts = ['three.test']\n",
    );
    let new = config("[apps.a]\nhosts = ['two.test', 'three.test']\n[apps.b]\nhosts = ['one.test']\n");
    let router = Router::new();
    let first: Vec<_> = old.apps.iter().map(|app| Change::PutApp(app.spec.clone())).collect();
    router.apply(&first).unwrap();
    router.apply(&Diff::between(&old, &new).changes(&new)).unwrap();
    let app = |host: &str| router.route(host, "/").map(|app| app.id().to_string()).unwrap();
    assert_eq!([app("one.test"), app("two.test"), app("three.test")], ["b", "a", "a"]);
    assert!(router.app(&"c".into()).is_none());
}
