//! What is wrong with a file is said where it stands, all of it at once; nothing in a file can do more harm.

use std::fmt::Write as _;

use routerd::config::{Config, reference};

use super::{parse, wrong};

const WHOLE: &str = "[server]\nlisten = ['127.0.0.1:8080']\n[apps.shop]\nhosts = ['shop.test']\n";

#[test]
fn all_mistakes_of_a_file_are_reported_in_one_run() {
    let text = r#"
[server]
lisen = ["127.0.0.1:8080"]
threads = 4096
shutdown_timeout = 30

[log]
format = "jsn"

[apps.shop]
hosts = ["shop.test", "shop.*"]
max_wait = "5s"
queue = { max_wiat = "5s", max_bytes = "64MB" }
dynos = ["localhost:3001", "127.0.0.1:3001"]

[apps.api]
hosts = ["SHOP.test."]
dynos = ["127.0.0.1:3001", 7, true]
concurrency = 0
"#;
    let expected = [
        "3:1 unknown key `lisen` in [server]",
        "4:11 server.threads: the value is above the ceiling",
        "5:20 server.shutdown_timeout: this is not a duration",
        "8:10 log.format: unknown value \"jsn\"; did you mean \"json\"?",
        "11:23 apps.shop.hosts: a * can only stand alone or as *. in front of a name",
        "12:1 unknown key `max_wait` in [apps.shop]",
        "13:11 unknown key `max_wiat` in [apps.shop.queue]",
        "13:40 apps.shop.queue.max_bytes: the unit \"MB\" is none of B, KiB, MiB, GiB",
        "14:10 apps.shop.dynos: a name is looked up only if it is written \"dns:localhost:3001\"",
        "17:10 the host shop.test is in two apps, shop and api",
        "18:28 apps.api.dynos: this is not a text",
        "18:31 apps.api.dynos: this is not a text",
        "19:15 apps.api.concurrency: the value is below the floor",
    ];
    assert_eq!(wrong(text), expected);
}

#[test]
fn what_two_keys_say_together_is_checked_with_the_place() {
    for (text, says) in [
        ("", "0:0 no app: add [apps.NAME]"),
        ("[apps.a]\nhosts = ['a.test']\n[apps.b]\n", "3:7 apps.b has no hosts"),
        ("[apps.a]\nhosts = []", "2:9 apps.a.hosts must have 1 to 100000 entries"),
        ("[apps.a]\nhosts = ['a.test', 'A.test']", "2:20 the host a.test is twice in app a"),
        ("[apps.a]\ndynos = ['127.0.0.1:1', '127.0.0.1:1']", "2:25 the dyno 127.0.0.1:1 is twice in app a"),
        (
            "[apps.a]\ndynos = ['dns:A.test:1', 'dns:a.test:1']",
            "2:26 the dyno dns:a.test:1 is twice in app a",
        ),
        ("[apps.a]\ndynos = ['127.0.0.1:0']", "2:10 apps.a.dynos: a port is a number from 1 to 65535"),
        ("[apps.'a b']", "1:7 \"a b\" is no name for an app"),
        ("[apps.a]\nrelease = ''", "2:11 \"\" is no name for a release"),
        (
            "[apps.a]\nqueue = { max_wait = '1s', standing_wait = '2s' }",
            "2:44 queue.standing_wait is more than queue.max_wait",
        ),
        ("[apps.a]\nhealth.path = 'up'", "2:15 health.path: this is no path"),
        ("[apps.a]\nhealth.path = '/a b'", "2:15 health.path: this is no path"),
        ("[apps.a]\nhealth.host = 'a/b'", "2:15 health.host: this is no host"),
        ("[apps.a]\nhealth.status = '300-200'", "2:17 health.status: the first status is above the second"),
        ("[apps.a]\nhealth.status = '2xx'", "2:17 health.status: a status is a number from 100 to 599"),
        (
            "[apps.a]\nhealth = { interval = '1s', timeout = '2s' }",
            "2:39 health.timeout is more than health.interval",
        ),
        ("[apps.a]\nqueue.standing_wait = '6s'", "2:23 queue.standing_wait is more than queue.max_wait"),
        (
            "[apps.a]\nretry = { quarantine = '3s', quarantine_max = '1s' }",
            "2:24 retry.quarantine is more than retry.quarantine_max",
        ),
        ("[apps.a]\n[dns]\nmin_ttl = '10m'", "3:11 dns.min_ttl is more than dns.max_ttl"),
        ("[apps.a]\n[dns]\nservers = ['ns.test']", "3:12 dns.servers: this is no address"),
        ("[apps.a]\n[dns]\nmax_removal = nan", "3:15 dns.max_removal: the value is above the ceiling"),
        ("[apps.a]\n[server]\nhandover = '/run/x'", "3:12 server.handover: this is no socket"),
        (
            "[apps.a]\n[server]\nhandover = 'unix:'",
            "3:12 server.handover: the path of a socket has 1 to 107 bytes",
        ),
        ("[apps.a]\n[admin]\nlisten = 'unix:'", "3:10 admin.listen: the path of a socket has 1 to 107 bytes"),
        (
            "server = { listen = ['[::1]:80'] }\nadmin = { listen = '[::1]:80' }\n[apps.a]",
            "2:20 two listeners on [::1]:80",
        ),
        (
            "server = { listen = ['127.0.0.1:80'] }\n[apps.a]\ndynos = ['127.0.0.1:80']",
            "3:10 127.0.0.1:80 is routerd itself, not a dyno",
        ),
        (
            "server = { request_line_max = '65KiB' }\n[apps.a]",
            "1:31 server.request_line_max is more than server.head_max",
        ),
        ("[defaults]\nhosts = ['*']\n[apps.a]", "2:1 unknown key `hosts` in [defaults]"),
        (
            "[apps.a]\nconcurrency = 9999999999999999999999999999999999999999",
            "2:15 apps.a.concurrency: the value is above the ceiling",
        ),
        ("[apps.a]\nconcurrency = 1.5", "2:15 apps.a.concurrency: this is not a whole number"),
        ("[apps.a]\n[apps.a]", "2:7 duplicate key"),
        ("apps = 5", "1:8 apps: this is not a table"),
        ("[apps.a]\nhosts = ['é.test', 5]", "2:20 apps.a.hosts: this is not a text"),
    ] {
        let found = wrong(text);
        assert!(found.iter().any(|line| line == says), "{text}\nexpected {says}\nfound {found:#?}");
    }
}

#[test]
fn what_the_keys_of_the_door_do_not_allow_is_said_with_the_place() {
    for (text, says) in [
        ("[apps.a]\nallow = ['10.0.0.1/8']", "2:10 allow: this is an address in the network 10.0.0.0/8"),
        ("[apps.a]\n[server]\nuser = 'a b'", "3:8 server.user: this is no name"),
        ("[apps.a]\n[server]\ngroup = 'www'", "3:9 server.group says nothing without server.user"),
        ("[apps.a]\nrate_limit.rate = '10'", "2:19 rate_limit.rate: this is no rate"),
        ("[apps.a]\nrate_limit.rate = '0/s'", "2:19 rate_limit.rate: the number is none from 1 to 1000000"),
        ("[apps.a]\nrate_limit.per = 'cookie:a'", "2:18 rate_limit.per: this is nothing to count by"),
        ("[apps.a]\n[server]\ntrusted_proxies = ['ten']", "3:20 server.trusted_proxies: this is no network"),
        (
            "[apps.a]\n[server]\nproxy_protocol = 'required'",
            "3:18 server.proxy_protocol: nobody is trusted to send such headers",
        ),
        (
            "[apps.a]\nprotocol = 'h2c'\nproxy_protocol = 'v2'",
            "2:12 protocol = \"h2c\" shares a connection, and proxy_protocol says whose it is",
        ),
    ] {
        let found = wrong(text);
        assert!(found.iter().any(|line| line == says), "{text}\nexpected {says}\nfound {found:#?}");
    }
}

#[test]
fn a_mistake_in_the_defaults_is_reported_once() {
    let apps = "[apps.a]\nhosts = ['a']\n[apps.b]\nhosts = ['b']";
    let text = &format!("[defaults.queue]\nmax_wait = '1s'\nstanding_wait = '2s'\n{apps}");
    assert_eq!(wrong(text), ["3:17 queue.standing_wait is more than queue.max_wait"]);
}

#[test]
fn a_message_shows_the_line_with_a_caret_and_what_is_allowed() {
    let error = parse(&format!("{WHOLE}queue = {{ max_wiat = '5s' }}\n")).unwrap_err();
    let plain = error.render(false);
    assert!(plain.is_ascii(), "{plain}");
    for part in [
        "[shop.toml:5:11]",
        "unknown key `max_wiat` in [apps.shop.queue]",
        "queue = { max_wiat = '5s' }",
        "^^^^",
        "did you mean `max_wait`?",
        "standing_after",
    ] {
        assert!(plain.contains(part), "{part} is not in\n{plain}");
    }
    assert!(error.render(true).contains('\u{1b}'));
    let line = error.to_string();
    assert!(line.starts_with(
        "shop.toml:5:11: unknown key `max_wiat` in [apps.shop.queue] (did you mean `max_wait`?"
    ));
}

#[test]
fn a_family_of_addresses_that_does_not_exist_is_shown_with_those_that_do() {
    let error = parse(&format!("[dns]\nfamily = 'prefer-ipv6'\n{WHOLE}")).unwrap_err();
    let plain = error.render(false);
    for part in [
        "[shop.toml:2:10]",
        "dns.family: unknown value \"prefer-ipv6\"; did you mean \"prefer-v6\"?",
        "family = 'prefer-ipv6'",
        "^^^^^^",
        "allowed: \"prefer-v4\", \"prefer-v6\", \"both\"",
    ] {
        assert!(plain.contains(part), "{part} is not in\n{plain}");
    }
    assert_eq!(wrong(&format!("[dns]\nfamily = 4\n{WHOLE}")), ["2:10 dns.family: this is not a text"]);
}

#[test]
fn a_key_in_the_wrong_table_is_shown_its_place() {
    let error = parse(&format!("{WHOLE}max_wait = '5s'\n")).unwrap_err();
    assert!(error.to_string().contains("did you mean `queue.max_wait`?"), "{error}");
}

#[test]
fn a_file_cannot_steer_the_terminal_it_is_shown_on() {
    let text = "[apps.a]\n\"\\u001b[31m\" = 1\nrelease = \"\\u009b2J\"\norder = \"\\u0007\"\nx = '\u{1b}[2J\u{9b}'\n";
    for text in [text, &text.replace(['\u{1b}', '\u{9b}'], "")] {
        let error = parse(text).unwrap_err();
        let steers = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!steers(&error.render(false)), "{:?}", error.render(false));
        assert!(!steers(&error.to_string()), "{:?}", error.to_string());
    }
}

#[test]
fn the_depth_and_size_of_a_file_do_no_harm() {
    let deep = 200_000;
    let many = (0..10_001).fold(String::new(), |mut text, at| {
        let _ = writeln!(text, "[apps.a{at}]");
        text
    });
    for text in [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}1{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
        format!("a{} = 1", ".a".repeat(deep)),
        format!("[a{}]", ".a".repeat(deep)),
        format!("[apps.a]\n{}", "[[apps.a.x]]\n".repeat(10_000)),
        format!("[apps.a]\nrelease = '{}'", "x".repeat(1_000_000)),
        format!("[apps.{}]", "x".repeat(1_000_000)),
        format!("[apps.a]\norder = '{}'", "x".repeat(1_000_000)),
        format!("[apps.a]\n{} = 1", "x".repeat(1_000_000)),
        format!("[apps.a]\nconcurrency = {}", "9".repeat(1_000_000)),
        format!("[apps.a]\nhosts = [{}]", "'a.test',".repeat(100_000)),
        many,
        "#".repeat((16 << 20) + 1),
        "\0".repeat(100_000),
        "a b\n".repeat(1_000_000),
        "\u{feff}\u{feff}[apps.a]".to_owned(),
        "[apps.a]\rrelease = 'x'".to_owned(),
    ] {
        let error = Config::parse(&text, "shop.toml").expect_err(&text[..text.len().min(50)]);
        for said in [error.to_string(), error.render(false), error.render(true)] {
            assert!(!said.is_empty() && said.len() < 100_000, "{} bytes: {:.2000}", said.len(), said);
        }
    }
}

#[test]
fn no_bytes_whatever_make_it_panic() {
    let seed = 0x5eed;
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = reference::example().as_bytes();
    let pieces: [&[u8]; 12] = [
        b"\0",
        b"\xff",
        b"'",
        b"\"\"\"",
        b"[",
        b"]]",
        b"{",
        b"= 1e999",
        b"\r",
        b"\xc3\xa9",
        b"\xf0\x9f",
        b"0x",
    ];
    for _ in 0..5_000 {
        let mut bytes = whole.to_vec();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => drop(bytes.splice(at..at, random.choice(pieces).unwrap_or(b"").iter().copied())),
                2 => drop(bytes.drain(at..(at + random.usize(..20)).min(bytes.len()))),
                _ => {
                    let from = random.usize(..bytes.len());
                    let copy = bytes[from..(from + 30).min(bytes.len())].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
            }
        }
        if let Err(error) = Config::parse_bytes(&bytes, "shop.toml") {
            assert!(!error.problems().is_empty());
            assert!(!error.to_string().is_empty() && !error.render(false).is_empty());
        }
    }
}
