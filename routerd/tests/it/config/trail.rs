//! The tables about changes: paths begin at the file's folder, secrets are read when it is loaded and never shown.

use std::fs;
use std::path::Path;

use routerd::config::Config;
use routerd::config::diff::Diff;
use routerd::config::event::EventKind;

use super::{parse, wrong};

const HOOK: &str = "[apps.shop]\n[[webhooks]]\nurl = 'https://chat.test:8443/hooks/T0KEN?key=K3Y'\n";

#[test]
fn relative_paths_begin_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.toml");
    fs::write(folder.path().join("secret"), "from the file\r\n").unwrap();
    let text = format!("[audit]\n[state]\nfile = '/var/lib/state.json'\n{HOOK}secret_file = 'secret'\n");
    fs::write(&path, &text).unwrap();
    for config in [Config::load(&path).unwrap(), Config::parse(&text, path.to_str().unwrap()).unwrap()] {
        let audit = config.audit.unwrap();
        assert_eq!(
            (audit.file, audit.max_size, audit.files),
            (folder.path().join("routerd-audit.jsonl"), 64 << 20, 10)
        );
        assert_eq!(config.state.unwrap().file, Path::new("/var/lib/state.json"));
        assert_eq!(config.webhooks[0].secret.as_ref().unwrap().expose(), b"from the file");
    }
    assert_eq!(parse("[audit]\n[apps.shop]").unwrap().audit.unwrap().file, Path::new("routerd-audit.jsonl"));
}

#[test]
fn without_the_tables_nothing_is_recorded_kept_or_told() {
    let config = parse("[apps.shop]").unwrap();
    assert_eq!((config.audit, config.state, config.webhooks), (None, None, vec![]));
}

#[test]
fn a_webhook_is_told_of_what_it_names() {
    let config = parse(&format!("{HOOK}events = ['deploy.*', 'reload.failed']")).unwrap();
    let wanted: Vec<_> = EventKind::ALL.iter().filter(|event| config.webhooks[0].wants(**event)).collect();
    assert_eq!(wanted.len(), 7, "{wanted:?}");
    let all = parse(HOOK).unwrap();
    assert!(EventKind::ALL.iter().all(|event| all.webhooks[0].wants(*event)));
    assert_eq!(all.webhooks[0].secret, None);
}

#[test]
fn each_mistake_has_one_message_with_its_place() {
    let base = "[apps.shop]\n";
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (empty, large) = (file("empty", b"\n"), file("large", &[b'x'; 4097]));
    let hook = |lines: &str| format!("{base}[[webhooks]]\nurl = 'http://a.test/'\n{lines}");
    let url = |url: &str| format!("{base}[[webhooks]]\nurl = '{url}'");
    for (text, says) in [
        (format!("{base}[audit]\nfile = ''"), "3:8 audit.file: this is no path of a file"),
        (format!("{base}[audit]\nfile = 'audit/..'"), "3:8 audit.file: this is no path of a file"),
        (format!("{base}[audit]\nfiles = 0"), "3:9 audit.files: the value is below the floor"),
        (format!("{base}[audit]\nmax_size = '1KiB'"), "3:12 audit.max_size: the value is below the floor"),
        (
            format!("{base}[audit]\nfile = 'x'\n[state]\nfile = 'x'"),
            "5:8 state.file and audit.file are the same file",
        ),
        (format!("{base}[state]\nfil = 'x'"), "3:1 unknown key `fil` in [state]"),
        (format!("{base}[webhooks]\nurl = 'http://a.test/'"), "2:1 webhooks: this is not a list of tables"),
        (format!("webhooks = ['http://a.test/']\n{base}"), "1:13 webhooks: this is not a table"),
        (format!("{base}[[webhooks]]\n"), "2:1 webhooks: url is missing"),
        (url("chat.test/hooks"), "3:7 webhooks.url: this is no URL"),
        (url("/hooks"), "3:7 webhooks.url: it must begin with http:// or https://"),
        (url("ftp://a.test/"), "3:7 webhooks.url: it must begin with http:// or https://"),
        (url("http:///hooks"), "3:7 webhooks.url: this is no URL"),
        (
            url("http://me:secret@a.test/"),
            "3:7 webhooks.url: a user and a password in front of the host are not sent",
        ),
        (url("http://a.test:0/"), "3:7 webhooks.url: a port is a number from 1 to 65535"),
        (url("http://a.test/#x"), "3:7 webhooks.url: a # and what follows it are never sent: leave them out"),
        (
            url(&format!("http://a.test/{}", "x".repeat(2048))),
            "3:7 webhooks.url: this is longer than 2048 bytes",
        ),
        (hook("urk = 1"), "4:1 unknown key `urk` in [webhooks]"),
        (hook("events = ['deploys.*']"), "4:11 webhooks.events: no event has this name"),
        (hook("events = []"), "4:10 webhooks.events must have 1 to 64 entries"),
        (hook("secret_env = 'NOT SET'"), "4:14 webhooks.secret_env: the environment has no such variable"),
        (hook("secret_env = 'A=B'"), "4:14 webhooks.secret_env: the environment has no such variable"),
        (
            hook("secret_env = 'PATH'\nsecret_file = 'x'"),
            "4:14 webhooks: secret_file and secret_env; one of them is enough",
        ),
        (
            hook("secret_file = '/nonexistent/secret'"),
            "4:15 webhooks.secret_file: the file /nonexistent/secret cannot be read: No such file or directory \
             (os error 2)",
        ),
        (hook("secret_file = '/dev/zero'"), "4:15 webhooks.secret_file: /dev/zero is no regular file"),
        (hook(&format!("secret_file = '{empty}'")), "4:15 webhooks.secret_file: the secret is empty"),
        (
            hook(&format!("secret_file = '{large}'")),
            "4:15 webhooks.secret_file: the secret has more than 4096 bytes",
        ),
    ] {
        assert_eq!(wrong(&text), [says], "{text}");
    }
    assert!(wrong(&hook("").repeat(17))[0].contains("duplicate key"));
    let many = format!("{base}{}", "[[webhooks]]\nurl = 'http://a.test/'\n".repeat(17));
    assert_eq!(wrong(&many), ["2:1 webhooks must have 0 to 16 entries"]);
}

#[test]
fn secrets_are_never_shown_and_yet_a_change_of_them_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let load = |secret: &str, url: &str| {
        fs::write(&path, secret).unwrap();
        let text = HOOK.replace("T0KEN", url);
        parse(&format!("{text}secret_file = '{}'\n", path.display())).unwrap()
    };
    let (one, other, elsewhere) =
        (load("S3CRET", "T0KEN"), load("S3CRET2", "T0KEN"), load("S3CRET", "T0KEN2"));
    assert_eq!(Diff::between(&one, &load("S3CRET", "T0KEN")).to_string(), "nothing changes\n");
    for new in [&other, &elsewhere] {
        let diff = Diff::between(&one, new);
        assert!(diff.has("webhooks"));
        assert_eq!(
            diff.to_string(),
            "~ webhooks: - https://chat.test:8443 (*), + https://chat.test:8443 (*), with another path or secret\n\
             1 app stays as it is; no connection is closed\n"
        );
        for shown in [format!("{diff} {diff:?}"), format!("{new:?} {new:#?}")] {
            for secret in ["S3CRET", "T0KEN", "K3Y"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }
    // A mistake elsewhere in the table does not tell either, except in the lines of the file that are shown for it.
    let error = parse(&format!("{HOOK}urls = 1")).unwrap_err().to_string();
    assert!(!error.contains("T0KEN") && !error.contains("K3Y"), "{error}");
}

#[test]
fn a_reload_says_what_waits_for_the_next_start() {
    let old = parse("[audit]\n[apps.shop]").unwrap();
    let new = parse("[audit]\nfile = 'x'\nmax_size = '1MiB'\n[state]\n[apps.shop]").unwrap();
    let expected = "\
~ audit.file: routerd-audit.jsonl -> x  (at the next start)
~ audit.max_size: 64MiB -> 1MiB
~ state.file: none -> routerd-state.json  (at the next start)
1 app stays as it is; no connection is closed
";
    assert_eq!(Diff::between(&old, &new).to_string(), expected);
}
