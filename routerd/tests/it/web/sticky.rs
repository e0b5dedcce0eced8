//! Clients that come back to the dyno that served them.

use std::fs;
use std::time::Duration;

use router_core::snapshot::DynoState;

use super::{get, reload, wrong};
use crate::support::{Answer, Dyno, Rig, until};

/// The cookie that an answer sets, as the client sends it back.
fn cookie(answer: &Answer) -> String {
    let line = answer.header("set-cookie");
    let (pair, rest) = line.split_once(';').unwrap_or_else(|| panic!("no cookie: {}", answer.head));
    assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax");
    pair.to_owned()
}

fn with(cookie: &str) -> String {
    format!("Host: shop.test\r\nCookie: other=1; {cookie}")
}

async fn ask(rig: &Rig, cookie: &str) -> Answer {
    get(&mut rig.client().await, "/", &with(cookie)).await
}

fn config(dynos: &[Dyno], app: &str) -> String {
    let dynos: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let dynos = dynos.join(", ");
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n[apps.shop]\ndynos = [{dynos}]\n{app}\n"
    )
}

#[tokio::test]
async fn a_client_comes_back_to_its_dyno_and_gets_no_second_cookie() {
    let dynos = Dyno::several(4).await;
    let rig = Rig::from_toml(&config(&dynos, "order = 'least-recently-used'\nsticky.cookie = 'dyno'")).await;
    let first = rig.get("/").await;
    let own = cookie(&first);
    assert!(!own.contains("127.0.0.1"));
    let at = dynos.iter().position(|dyno| dyno.asked() == 1).unwrap();
    for round in 2..8 {
        let answer = ask(&rig, &own).await;
        assert!(answer.is_ok() && answer.header("set-cookie").is_empty());
        assert_eq!(dynos[at].asked(), round);
        // Others go on around.
        rig.get("/").await;
    }
    let head = &dynos[at].seen()[1].head;
    assert!(head.contains("other=1"), "the app's own cookies arrive: {head}");
    // What nobody has made is no cookie of ours.
    for wrong in ["dyno=", "dyno=abc", &own.replace("dyno=", "dyno=A"), &format!("{own}A")] {
        assert_ne!(cookie(&ask(&rig, wrong).await), *wrong);
    }
    assert_eq!(crate::door::metric(&rig, "routerd_sticky_total{app=\"shop\",result=\"hit\"} ").await, 6);
    assert_eq!(crate::door::metric(&rig, "routerd_sticky_total{app=\"shop\",result=\"spill\"} ").await, 0);
}

#[tokio::test]
async fn a_request_waits_for_its_busy_dyno_and_then_takes_another() {
    let dynos = Dyno::several(2).await;
    let long = "sticky = { cookie = 'dyno', wait = '1m' }\nqueue.max_wait = '2m'";
    let rig = Rig::from_toml(&config(&dynos, long)).await;
    let own = cookie(&rig.get("/").await);
    let (at, other) = if dynos[0].asked() == 1 { (0, 1) } else { (1, 0) };
    let mut busy = rig.client().await;
    busy.send(format!("GET /?held=1 HTTP/1.1\r\n{}\r\n\r\n", with(&own))).await;
    rig.are(1, DynoState::Busy).await;
    let mut waits = rig.client().await;
    waits.send(format!("GET / HTTP/1.1\r\n{}\r\n\r\n", with(&own))).await;
    rig.waiting(1).await;
    assert!(rig.get("/").await.is_ok(), "the other dyno serves who takes any");
    assert_eq!((dynos[other].asked(), rig.app().waiting), (1, 1));
    dynos[at].let_go();
    assert!(busy.answer().await.is_ok() && waits.answer().await.is_ok());
    assert_eq!(dynos[at].asked(), 3);

    // A reload shortens the wait: then it spills, and the client is the other dyno's.
    let short = long.replace("1m", "10ms");
    let diff = reload(&rig, &config(&dynos, &short)).await;
    assert!(diff.contains("sticky.wait: 1m -> 10ms"), "{diff}");
    busy.send(format!("GET /?held=1 HTTP/1.1\r\n{}\r\n\r\n", with(&own))).await;
    rig.are(1, DynoState::Busy).await;
    let spilled = ask(&rig, &own).await;
    let next = cookie(&spilled);
    assert_ne!(next, own);
    assert_eq!(dynos[other].asked(), 2);
    assert!(ask(&rig, &next).await.header("set-cookie").is_empty());
    dynos[at].let_go();
    assert!(busy.answer().await.is_ok());
    assert_eq!(crate::door::metric(&rig, "routerd_sticky_total{app=\"shop\",result=\"spill\"} ").await, 1);
}

#[tokio::test]
async fn a_dyno_that_is_gone_or_refuses_costs_its_clients_no_wait() {
    let dynos = Dyno::several(2).await;
    let app = "sticky = { cookie = 'dyno', wait = '1m' }\nqueue.max_wait = '2m'\ndeploy.drain_timeout = '1m'";
    let rig = Rig::from_toml(&config(&dynos, app)).await;
    let own = cookie(&rig.get("/").await);
    let at = usize::from(dynos[1].asked() == 1);
    dynos[at].kill().await;
    let begun = tokio::time::Instant::now();
    let next = cookie(&ask(&rig, &own).await);
    assert_ne!(next, own);
    // It is in quarantine now: nobody waits for it.
    assert_eq!(cookie(&ask(&rig, &own).await), next);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_cookie_is_good_for_as_long_as_its_secret() {
    let dynos = Dyno::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789abcdef\n").unwrap();
    let app = format!("sticky = {{ cookie = 'dyno', secret_file = '{}' }}", secret.display());
    let one = config(&dynos, &app);
    let rig = Rig::from_toml(&one).await;
    let own = cookie(&rig.get("/").await);
    reload(&rig, &one).await;
    assert!(ask(&rig, &own).await.header("set-cookie").is_empty());
    drop(rig);
    until("its connections are closed", || dynos.iter().all(|dyno| dyno.open_connections() == 0)).await;
    // Another router, or this one after a restart.
    let rig = Rig::from_toml(&one).await;
    assert!(ask(&rig, &own).await.header("set-cookie").is_empty());
    fs::write(&secret, "fedcba9876543210").unwrap();
    let diff = reload(&rig, &one).await;
    assert!(diff.contains("sticky.secret_file: ") && !diff.contains("fedcba"), "{diff}");
    assert_ne!(cookie(&ask(&rig, &own).await), own);
}

#[test]
fn what_the_keys_do_not_allow_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("short"), "short").unwrap();
    for (keys, says) in [
        ("cookie = 'a b'", "3:21 sticky.cookie: this cannot be the name of a cookie"),
        ("cookie = 'a', wait = '2m'", "3:33 apps.shop.sticky.wait: the value is above the ceiling"),
        ("cookie = 'a', secret_file = 'none'", "3:40 sticky.secret_file: the file "),
        ("cookie = 'a', secret_file = 'short'", "3:40 sticky.secret_file: the secret has less than 16 bytes"),
    ] {
        let found = wrong(folder.path(), &format!("sticky = {{ {keys} }}"));
        assert!(found.iter().any(|line| line.starts_with(says)), "{keys}\nexpected {says}\nfound {found:#?}");
    }
}
