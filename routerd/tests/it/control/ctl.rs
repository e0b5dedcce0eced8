//! `routerd ctl` as people and scripts use it: what it prints, where, and how it ends.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::timeout;

use super::fake::{Desk, ctl, ctl_starts, free, said, token, view};
use crate::support::{DEADLINE, until};
use routerd::audit::{Asked, Audit, Keep, Outcome};
use routerd::control::Order;

const DEPLOY: [&str; 6] = ["deploy", "shop", "--release", "v43", "--dyno", "127.0.0.1:3003"];

#[tokio::test]
async fn a_deploy_is_followed_to_its_end() {
    let desk = Desk::open().await;
    let mut cut = view(5, "shop", "cutting_over");
    cut.new_serving = 3;
    let mut more = view(5, "shop", "warming");
    more.new_ready = 3;
    let warming = view(5, "shop", "warming");
    desk.fake.plays(&[warming.clone(), warming, more, cut, view(5, "shop", "done")]);
    let (out, progress, code) = said(&desk.ctl(&DEPLOY).await);
    assert_eq!((out.as_str(), code), ("shop: v43 serves, with 4 of 4 dynos\n", Some(0)), "{progress}");
    let lines: Vec<_> = progress.lines().collect();
    let expected = [
        "warming: 2 of 4 ready (web.3: status 503: migrating), 41 s left",
        "warming: 3 of 4 ready (web.3: status 503: migrating), 41 s left",
        "cutting over: 3 of 4 serve, 4 old ones still do, 41 s left",
        "done",
    ];
    assert_eq!(lines, expected, "a line for each change");
    let (_, order) = desk.fake.given().pop().unwrap();
    assert_eq!(order.body()["dynos"], serde_json::json!(["127.0.0.1:3003"]));
    desk.stop().await;
}

#[tokio::test]
async fn a_deploy_that_fails_ends_with_1_and_the_cause() {
    let desk = Desk::open().await;
    desk.fake.plays(&[view(5, "shop", "warming"), view(5, "shop", "failed")]);
    let (out, progress, code) = said(&desk.ctl(&DEPLOY).await);
    assert_eq!((out.as_str(), code), ("", Some(1)));
    let last = progress.lines().last().unwrap();
    assert_eq!(
        last,
        "routerd: shop: the deploy of v43 failed: web.3 was not ready within 1m: status 503: migrating"
    );
    // The same for machines: what the daemon says, whole, and the same exit code.
    desk.fake.plays(&[view(6, "shop", "warming"), view(6, "shop", "rolled_back")]);
    let (out, _, code) = said(&desk.ctl(&[&DEPLOY[..], &["--json"]].concat()).await);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (answer["state"].as_str(), answer["id"].as_u64(), code),
        (Some("rolled_back"), Some(6), Some(1))
    );
    desk.stop().await;
}

#[tokio::test]
async fn what_is_a_good_end_depends_on_what_was_asked() {
    let desk = Desk::open().await;
    let code = async |args: &[&str]| said(&desk.ctl(args).await).2;
    // A canary is there: the rest is up to whoever looks at it.
    desk.fake.plays(&[view(5, "shop", "warming"), view(5, "shop", "canary")]);
    let (out, _, ended) = said(&desk.ctl(&[&DEPLOY[..], &["--canary", "10%"]].concat()).await);
    assert_eq!(ended, Some(0));
    assert!(out.contains("v43 serves its canary") && out.contains("routerd ctl promote shop"), "{out}");
    desk.fake.plays(&[view(5, "shop", "canary"), view(5, "shop", "baking"), view(5, "shop", "done")]);
    assert_eq!(code(&["promote", "shop"]).await, Some(0));
    // A running deploy is taken back: that the old release serves again is what was wanted.
    desk.fake.plays(&[
        view(5, "shop", "baking"),
        view(5, "shop", "rolling_back"),
        view(5, "shop", "rolled_back"),
    ]);
    assert_eq!(code(&["rollback", "shop", "--why", "too slow"]).await, Some(0));
    assert_eq!(
        desk.fake.given().pop().unwrap().1,
        Order::RollBack { app: "shop".to_owned(), why: Some("too slow".to_owned()) }
    );
    // None runs: the release before is deployed again, and that one must not be taken back.
    desk.fake.plays(&[view(5, "shop", "done"), view(5, "shop", "rolled_back")]);
    assert_eq!(code(&["rollback", "shop"]).await, Some(1));
    // Nobody waits.
    desk.fake.plays(&[view(5, "shop", "warming")]);
    let (out, progress, ended) = said(&desk.ctl(&[&DEPLOY[..], &["--no-wait"]].concat()).await);
    assert_eq!((out.as_str(), progress.as_str(), ended), ("did deploy\n", "", Some(0)));
    desk.stop().await;
}

#[tokio::test]
async fn ctrl_c_ends_the_waiting_and_not_the_deploy() {
    let desk = Desk::open().await;
    desk.fake.plays(&[view(5, "shop", "warming")]);
    let child = ctl_starts(&desk.address.to_string(), &DEPLOY, None);
    until("the order is given", || !desk.fake.given().is_empty()).await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    // It listens for the signal once it follows the deploy; until then the signal ends it without a word.
    let output = tokio::spawn(async move { child.wait_with_output().await.unwrap() });
    until("it follows", || desk.fake.looked() > 1).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = timeout(DEADLINE, output).await.unwrap().unwrap();
    let (_, progress, code) = said(&output);
    assert_eq!(code, Some(1), "{progress}");
    assert!(
        progress.contains("deploy 5 goes on") && progress.contains("routerd ctl rollback shop"),
        "{progress}"
    );
    assert_eq!(desk.fake.given().len(), 1);
    desk.stop().await;
}

#[tokio::test]
async fn each_verb_shows_a_table_or_the_json_of_the_daemon() {
    let desk = Desk::open().await;
    for (args, says) in [
        (&["status"][..], "APP   RELEASE  BY"),
        (&["apps"], "shop  v1       api   paused"),
        (&["dynos"], "blog  web.1  127.0.0.1:3001"),
        (&["dynos", "shop"], "web.1  127.0.0.1:3002"),
        (&["releases", "shop"], "v1       serves  2026-11-22T00:00:00Z"),
        (&["deploys"], "1   blog  v42   v43  done"),
        (&["deploys", "shop"], "none"),
        (&["audit", "--app", "shop", "--limit", "3"], "7    ci   pause  shop"),
        (&["canary", "shop", "20%"], "did canary"),
        (&["pause", "shop", "--for", "30s"], "did pause"),
        (&["resume", "shop", "--over", "0s"], "did resume"),
        (&["maintenance", "shop", "on"], "did maintenance"),
        (&["drain", "shop", "[::1]:3001"], "did drain"),
        (&["undrain", "shop", "web.1"], "did undrain"),
        (&["restart", "shop"], "did restart"),
        (&["reload"], "did reload"),
        (&["upgrade"], "did upgrade"),
    ] {
        let (out, error, code) = said(&desk.ctl(args).await);
        assert_eq!(code, Some(0), "{args:?}: {error}");
        assert!(out.contains(says), "{args:?}:\n{out}");
        let (out, error, code) = said(&desk.ctl(&[args, &["--json"]].concat()).await);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{args:?}");
        let json: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"));
        assert!(json.is_object() || json.is_array(), "{args:?}");
    }
    let drained =
        desk.fake.given().into_iter().find(|(_, order)| matches!(order, Order::Drain { .. })).unwrap();
    assert_eq!(drained.1, Order::Drain { app: "shop".to_owned(), dyno: "[::1]:3001".to_owned() });
    // The trail was tampered with.
    let (_, error, code) = said(&desk.ctl(&["audit", "--verify"]).await);
    assert_eq!((error.as_str(), code), ("routerd: line 3 was changed\n", Some(1)));
    desk.stop().await;
}

#[tokio::test]
async fn a_trail_is_checked_without_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let keep = Keep { max_size: 1 << 20, files: 2 };
    let trail = Audit::open(&file, keep).unwrap();
    let asked = Asked { who: "ci".to_owned(), what: "pause".to_owned(), ..Asked::default() };
    let begun = trail.begin(&asked).unwrap();
    trail.end(begun, &Outcome::done()).unwrap();
    let nobody = free().to_string();
    let args = ["audit", "--verify", "--file", file.to_str().unwrap()];
    let (out, error, code) = said(&ctl(&nobody, &args).await);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("2 lines in 1 file, from number 1"), "{out}");
    let (out, _, _) = said(&ctl(&nobody, &[&args[..], &["--json"]].concat()).await);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((found["lines"].as_u64(), found["last"]["seq"].as_u64()), (Some(2), Some(2)));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("pause", "pausE", 1)).unwrap();
    let (out, error, code) = said(&ctl(&nobody, &args).await);
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert!(error.contains("audit.log line 1: "), "{error}");
    assert_eq!(said(&ctl(&nobody, &["audit", "--file", "x"]).await).2, Some(2), "it belongs to --verify");
}

#[tokio::test]
async fn what_goes_wrong_is_said_in_words_that_help() {
    let nobody = free().to_string();
    let (_, error, code) = said(&ctl(&nobody, &["status"]).await);
    assert_eq!(code, Some(1));
    assert!(
        error.contains(&nobody) && error.contains("is it running") && error.contains("--admin"),
        "{error}"
    );
    let (_, error, code) = said(&ctl("unix:/nonexistent/a.sock", &["status"]).await);
    assert_eq!(code, Some(1), "{error}");
    let desk = Desk::start("127.0.0.1:0", &token("reader", "rtd_read", "read", "")).await;
    let (_, error, code) = said(&desk.ctl(&["status"]).await);
    assert_eq!(code, Some(1));
    assert!(error.contains("a token is needed") && error.contains("--token-file"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    for (written, verb, says) in [
        ("rtd_wrong\n", "reload", "this token is not known here"),
        ("rtd_read\n", "reload", "this needs the role admin, and reader has the role read"),
        ("rtd\u{7}_x", "status", "cannot stand in a request"),
    ] {
        std::fs::write(&file, written).unwrap();
        let (_, error, code) = said(&desk.ctl(&[verb, "--token-file", file.to_str().unwrap()]).await);
        assert_eq!(code, Some(1));
        assert!(error.contains(says) && !error.contains("rtd_wrong"), "{error}");
    }
    let shown = ctl_starts(&desk.address.to_string(), &["apps"], Some("rtd_read"));
    assert!(timeout(DEADLINE, shown.wait_with_output()).await.unwrap().unwrap().status.success());
    let (_, error, code) = said(&desk.ctl(&["apps", "--token-file", "/nonexistent"]).await);
    assert!(code == Some(1) && error.contains("/nonexistent: cannot be read"), "{error}");
    // A token does not leave this machine in clear text.
    std::fs::write(&file, "rtd_read").unwrap();
    let (_, error, code) =
        said(&ctl("192.0.2.1:9900", &["apps", "--token-file", file.to_str().unwrap()]).await);
    assert!(code == Some(1) && error.contains("use https://192.0.2.1:9900"), "{error}");
    desk.stop().await;
}

#[tokio::test]
async fn wrong_use_ends_with_2_and_the_help_teaches() {
    for args in [
        &[][..],
        &["deploi"],
        &["deploy", "shop", "--dyno", "127.0.0.1:1"],
        &["deploy", "shop", "--release", "v43", "--dyno", "127.0.0.1:1", "--pace", "fast"],
        &["canary", "shop", "ten"],
        &["maintenance", "shop", "maybe"],
        &["pause", "shop", "--for", "30"],
        &["status", "--admin", "ftp://a"],
        &["audit", "--verify", "--app", "shop"],
    ] {
        assert_eq!(said(&ctl("127.0.0.1:1", args).await).2, Some(2), "{args:?}");
    }
    let (help, _, code) = said(&ctl("127.0.0.1:1", &["--help"]).await);
    assert!(code == Some(0) && help.contains("routerd ctl rollback shop"), "{help}");
    let (help, _, code) = said(&ctl("127.0.0.1:1", &["deploy", "--help"]).await);
    assert!(code == Some(0) && help.contains("--pace '1 every 10s'"), "{help}");
}
