//! The admin interface of a whole daemon: reloads that are asked for, tokens and certificates that change.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use super::fake::{certificate, ctl, said, token};
use crate::support::program::Program;
use crate::support::{Client, Dyno};
use routerd::config::Config;

/// A daemon started from a file that tests write anew.
struct Running {
    program: Program,
    file: std::path::PathBuf,
    dynos: Vec<Dyno>,
    folder: tempfile::TempDir,
}

impl Running {
    async fn start(admin: &str) -> Self {
        let (folder, dynos) = (tempfile::tempdir().unwrap(), Dyno::several(1).await);
        let file = folder.path().join("routerd.toml");
        let text = Self::text(&dynos, admin, "");
        std::fs::write(&file, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let program = Program::start(&["run", "--config", file.to_str().unwrap()]);
        Self { program, file, dynos, folder }
    }

    fn text(dynos: &[Dyno], admin: &str, app: &str) -> String {
        let dyno = dynos[0].address;
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[admin]\n{admin}\n[apps.shop]\ndynos = ['{dyno}']\n{app}\n"
        )
    }

    fn write(&self, admin: &str, app: &str) {
        let text = Self::text(&self.dynos, admin, app);
        std::fs::write(&self.file, text.replace("FOLDER", self.folder.path().to_str().unwrap())).unwrap();
    }

    async fn admin(&self) -> String {
        let line = self.program.says("admin on", 1).await;
        line.rsplit_once(' ').unwrap().1.to_owned()
    }
}

const LOCAL: &str = "listen = '127.0.0.1:0'";

#[tokio::test]
async fn a_reload_that_is_asked_for_is_the_one_that_a_signal_does() {
    let mut running = Running::start(LOCAL).await;
    let admin = running.admin().await;
    running.write(LOCAL, "release = 'v2'\n[log]\nlevel = 'debug'\n");
    let (out, error, code) = said(&ctl(&admin, &["reload"]).await);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("release: v1 -> v2"), "{out}");
    running.program.says("loopback at 127.0.0.1:", 1).await;
    running.program.says("reloaded: ", 1).await;
    let (out, _, _) = said(&ctl(&admin, &["apps", "--json"]).await);
    let apps: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&apps[0]["release"], &apps[0]["mode"]), (&"v2".into(), &"open".into()));
    let (out, _, _) = said(&ctl(&admin, &["releases", "shop"]).await);
    assert!(out.contains("v2") && out.contains(&running.dynos[0].address.to_string()), "{out}");
    // A file that is wrong changes nothing, and whoever asked is told all of it.
    running.write(LOCAL, "releas = 'v3'");
    let (_, error, code) = said(&ctl(&admin, &["reload"]).await);
    assert_eq!(code, Some(1));
    assert!(error.contains("nothing was changed") && error.contains("did you mean `release`?"), "{error}");
    // What this daemon cannot do is said to be so.
    let (_, error, code) = said(&ctl(&admin, &["restart", "shop"]).await);
    assert_eq!(code, Some(1));
    assert!(error.starts_with("routerd: the dynos of app shop are not started here"), "{error}");
    running.write(LOCAL, "release = 'v4'");
    rustix::process::kill_process(running.program.pid(), Signal::HUP).unwrap();
    running.program.says("release: v2 -> v4", 1).await;
    assert!(running.program.end(Signal::TERM).await.success());
}

#[tokio::test]
async fn tokens_change_with_a_reload_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    std::fs::write(&one, "rtd_one\n").unwrap();
    std::fs::write(&two, "rtd_two\n").unwrap();
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let running = Running::start(&format!("{LOCAL}\n{}", token("one", "rtd_one", "admin", ""))).await;
    let admin = running.admin().await;
    assert_eq!(said(&ctl(&admin, &["apps"]).await).2, Some(1));
    assert_eq!(said(&ctl(&admin, &["apps", "--token-file", one]).await).2, Some(0));
    assert_eq!(said(&ctl(&admin, &["apps", "--token-file", two]).await).2, Some(1));
    running.write(&format!("{LOCAL}\n{}", token("two", "rtd_two", "admin", "")), "");
    let (out, error, code) = said(&ctl(&admin, &["reload", "--token-file", one]).await);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("admin.tokens: - one (") && out.contains("+ two ("), "{out}");
    assert!(!out.contains("rtd_") && !out.contains("sha256:"), "{out}");
    assert_eq!(said(&ctl(&admin, &["apps", "--token-file", one]).await).2, Some(1));
    assert_eq!(said(&ctl(&admin, &["apps", "--token-file", two]).await).2, Some(0));
    let address = admin.parse().unwrap();
    assert_eq!(Client::connect(address).await.get("/readyz").await.status, 200, "for load balancers");
    assert_eq!(Client::connect(address).await.local("/metrics").await.status, 401);
    // Neither the tokens nor the hashes are in what it wrote.
    let secret = |line: &String| ["rtd_one", "rtd_two", "sha256:"].iter().any(|word| line.contains(word));
    assert!(!running.program.lines().iter().any(secret));
}

#[tokio::test]
async fn over_tls_the_certificate_is_checked_and_a_new_one_comes_with_a_reload() {
    let tls = "listen = '127.0.0.1:0'\ntls = { cert = 'admin.pem', key = 'admin.key' }";
    let folder = tempfile::tempdir().unwrap();
    let (old, _) = certificate(folder.path(), "old");
    let running = Running::start("listen = '127.0.0.1:0'").await;
    let place = |name: &str, from: &Path| {
        for end in ["pem", "key"] {
            std::fs::copy(from.with_extension(end), running.folder.path().join(name).with_extension(end))
                .unwrap();
        }
    };
    let admin = running.admin().await;
    let https = format!("https://{admin}");
    let ca = old.to_str().unwrap();
    // The files are not there yet: the reload says so, by their keys.
    running.write(tls, "");
    let (_, error, code) = said(&ctl(&admin, &["reload"]).await);
    assert!(code == Some(1) && error.contains("admin.tls.cert: the file cannot be read"), "{error}");
    place("admin", &old);
    assert_eq!(said(&ctl(&admin, &["reload"]).await).2, Some(0));
    // From now on it speaks nothing else.
    let (_, error, code) = said(&ctl(&admin, &["apps"]).await);
    assert!(code == Some(1) && error.contains(&admin), "{error}");
    let (_, error, code) = said(&ctl(&https, &["apps", "--ca", ca]).await);
    assert_eq!(code, Some(0), "{error}");
    let by_name = https.replace("127.0.0.1", "localhost");
    assert_eq!(said(&ctl(&by_name, &["apps", "--ca", ca]).await).2, Some(0));
    let (_, error, code) = said(&ctl(&https, &["apps"]).await);
    assert!(code == Some(1) && error.contains("certificate"), "{error}");
    // Another one in the same files, and the same configuration.
    let (new, _) = certificate(folder.path(), "new");
    place("admin", &new);
    let (out, error, code) = said(&ctl(&https, &["reload", "--ca", ca]).await);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("admin.tls.cert"), "{out}");
    let (_, error, code) = said(&ctl(&https, &["apps", "--ca", ca]).await);
    assert!(code == Some(1) && error.contains("certificate"), "{error}");
    assert_eq!(said(&ctl(&https, &["apps", "--ca", new.to_str().unwrap()]).await).2, Some(0));
    // A pair that does not belong together changes nothing.
    std::fs::copy(old.with_extension("key"), running.folder.path().join("admin.key")).unwrap();
    let (_, error, code) = said(&ctl(&https, &["reload", "--ca", new.to_str().unwrap()]).await);
    assert!(code == Some(1) && error.contains("this is the key of another certificate"), "{error}");
    assert_eq!(said(&ctl(&https, &["apps", "--ca", new.to_str().unwrap()]).await).2, Some(0));
}

/// What is wrong, as `line:column message`.
fn wrong(admin: &str, name: &str) -> Vec<String> {
    let error = Config::parse(&format!("[admin]\n{admin}\n[apps.shop]"), name).expect_err(admin);
    error.problems().iter().map(|it| format!("{}:{} {}", it.line, it.column, it.message)).collect()
}

#[tokio::test]
async fn an_address_that_others_reach_needs_tokens_and_tls() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("routerd.toml");
    let name = name.to_str().unwrap();
    certificate(folder.path(), "admin");
    let tls = "tls = { cert = 'admin.pem', key = 'admin.key' }\n";
    let tokens = token("ci", "rtd_ci", "deploy", "");
    for listen in ["10.0.0.1:9900", "0.0.0.0:9900", "[::]:9900", "[::ffff:10.0.0.1]:9900"] {
        let open = format!("listen = '{listen}'\n");
        for missing in ["".to_owned(), tls.to_owned(), tokens.clone()] {
            let problems = wrong(&format!("{open}{missing}"), name);
            assert!(problems[0].contains("needs tokens and tls"), "{listen} {missing}: {problems:?}");
        }
        let config = Config::parse(&format!("[admin]\n{open}{tls}{tokens}[apps.shop]"), name).unwrap();
        let admin = config.admin.unwrap();
        assert!(admin.tls.is_some() && admin.tokens.len() == 1);
        let printed = format!("{admin:?}");
        assert!(!printed.contains("PRIVATE") && !printed.contains("sha256"), "{printed}");
    }
    for listen in ["127.0.0.1:9900", "[::1]:9900", "[::ffff:127.0.0.1]:9900", "unix:/run/a.sock"] {
        assert!(
            Config::parse(&format!("[admin]\nlisten = '{listen}'\n[apps.shop]"), name).is_ok(),
            "{listen}"
        );
    }
}

#[tokio::test]
async fn each_mistake_in_a_token_or_a_certificate_is_named_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("routerd.toml");
    let name = name.to_str().unwrap();
    certificate(folder.path(), "a");
    certificate(folder.path(), "b");
    std::fs::write(folder.path().join("none.pem"), "no PEM\n").unwrap();
    let good = token("ci", "rtd_ci", "deploy", "");
    for (admin, expected) in [
        (
            "[[admin.tokens]]".to_owned(),
            vec!["admin.tokens: name is missing", "hash is missing", "role is missing"],
        ),
        (good.replace("'ci'", "'c i'"), vec!["3:8 admin.tokens.name: this is none"]),
        (good.replace("sha256", "md5"), vec!["4:8 admin.tokens.hash: this is none"]),
        (good.replace("'deploy'", "'root'"), vec!["5:8 admin.tokens.role: unknown value \"root\""]),
        (format!("{good}app = 1"), vec!["unknown key `app` in [admin.tokens]"]),
        (format!("{good}apps = ['a b']"), vec!["admin.tokens.apps: this names no app"]),
        (format!("{good}apps = []"), vec!["admin.tokens.apps must have 1 to 1000 entries"]),
        (format!("{good}expires = 'soon'"), vec!["admin.tokens.expires: this is no time"]),
        (format!("{good}{good}"), vec!["admin.tokens: two tokens with one name", "two tokens with one hash"]),
        ("tokens = ['rtd_x']".to_owned(), vec!["admin.tokens: this is not a table"]),
        ("tokens = 'rtd_x'".to_owned(), vec!["admin.tokens: this is not a list of tables"]),
        ("tls = { cert = 'a.pem' }".to_owned(), vec!["admin.tls: key is missing"]),
        ("tls = { key = 'a.key' }".to_owned(), vec!["admin.tls: cert is missing"]),
        (
            "tls = { cert = 'a.pem', key = 'b.key' }".to_owned(),
            vec!["2:31 admin.tls.key: this is the key of another"],
        ),
        (
            "tls = { cert = 'c.pem', key = 'a.key' }".to_owned(),
            vec!["2:16 admin.tls.cert: the file cannot be read"],
        ),
        ("tls = { cert = 'none.pem', key = 'a.key' }".to_owned(), vec!["admin.tls.cert: there is no"]),
        (
            "tls = { cert = 'a.pem', key = 'a.pem' }".to_owned(),
            vec!["admin.tls.key: there is nothing of the kind"],
        ),
        (
            "listen = 'unix:/run/a'\ntls = { cert = 'a.pem', key = 'a.key' }".to_owned(),
            vec!["admin.tls: a unix: socket has no TLS"],
        ),
    ] {
        let problems = wrong(&admin, name);
        assert_eq!(problems.len(), expected.len(), "{admin}: {problems:?}");
        for (problem, expected) in problems.iter().zip(&expected) {
            assert!(problem.contains(expected), "{admin}: {problem}");
        }
    }
    // What is written in the place of a hash may be the token itself.
    let error =
        Config::parse("[[admin.tokens]]\nname = 'ci'\nhash = 'rtd_secret'\nrole = 'read'\n[apps.shop]", name);
    let error = error.unwrap_err();
    assert!(!error.to_string().contains("rtd_secret"), "{error}");
}
