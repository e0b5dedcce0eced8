//! Webhooks against a real HTTP server that checks what it gets and answers badly on demand.

mod server;

use std::time::Duration;

use tokio::time::Instant;

use routerd::config::Config;
use routerd::config::Webhook;
use routerd::config::event::EventKind;
use routerd::webhooks::{Account, Event, Terms, Webhooks};

use self::server::{Reply, SECRET, Target};
use crate::support::until;

/// Short waits, so that tries follow each other.
fn quick() -> Terms {
    Terms { first_wait: Duration::from_millis(2), ..Terms::default() }
}

/// Targets at these URLs with the secret of the server.
fn configs(urls: &[&str]) -> Vec<Webhook> {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let secret = secret.display();
    let hook = |url: &&str| format!("[[webhooks]]\nurl = '{url}'\nsecret_file = '{secret}'\n");
    let text = format!("[apps.shop]\n{}", urls.iter().map(hook).collect::<String>());
    Config::parse(&text, "test.toml").unwrap().webhooks
}

fn event(text: &str) -> Event {
    let mut event = Event::new(EventKind::DeployDone, text);
    event.app = Some("shop".to_owned());
    event
}

async fn account(webhooks: &Webhooks, delivered: u64, failed: u64, dropped: u64) {
    let wanted = Account { delivered, failed, dropped };
    until(&format!("{wanted:?}, it is {:?}", webhooks.account()), || webhooks.account() == wanted).await;
}

#[tokio::test]
async fn an_event_is_signed_and_tried_again_until_it_is_taken() {
    let target =
        Target::start(&[Reply::Status(500), Reply::Status(429), Reply::Close, Reply::Status(503)]).await;
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/hooks/deploys?x=1")]), quick());
    webhooks.tell(&Event {
        release: Some("v43".to_owned()),
        by: Some("ci".to_owned()),
        deploy: Some(7),
        audit: Some("03de".to_owned()),
        ..event("shop: deploy of v43 is done: 4 dynos serve (by ci)")
    });
    webhooks.tell(&event("second"));
    account(&webhooks, 2, 0, 0).await;

    let seen = target.seen();
    assert_eq!(seen.len(), 6, "four tries in vain, then both in order");
    let ids: Vec<_> = seen.iter().map(|post| post.header("x-routerd-delivery")).collect();
    assert!(ids[..5].iter().all(|id| *id == ids[0]) && ids[5] != ids[0], "{ids:?}");
    assert!(seen[..5].iter().all(|post| post.body == seen[0].body));
    let first = &seen[4];
    first.check_signature();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/hooks/deploys?x=1"));
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("x-routerd-event"), "deploy.done");
    let body = first.json();
    for (key, value) in [
        ("text", "shop: deploy of v43 is done: 4 dynos serve (by ci)"),
        ("event", "deploy.done"),
        ("app", "shop"),
        ("release", "v43"),
        ("by", "ci"),
        ("audit", "03de"),
        ("id", ids[0]),
    ] {
        assert_eq!(body[key], value, "{key}");
    }
    assert_eq!(body["deploy"], 7);
    assert!(body["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    assert_eq!(seen[5].json()["text"], "second");
    webhooks.stop().await;
}

#[tokio::test]
async fn what_no_try_can_change_is_given_up_at_once_and_redirects_lead_nowhere() {
    let elsewhere = Target::start(&[]).await;
    let replies =
        [Reply::Status(404), Reply::Redirect(elsewhere.url("/")), Reply::Status(400), Reply::Status(304)];
    let target = Target::start(&replies).await;
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/")]), quick());
    (0..5).for_each(|n| webhooks.tell(&event(&n.to_string())));
    account(&webhooks, 1, 4, 0).await;
    assert_eq!(target.texts(), ["0", "1", "2", "3", "4"]);
    assert_eq!(elsewhere.seen().len(), 0);
}

#[tokio::test]
async fn a_target_that_never_takes_it_gets_its_tries_and_no_more() {
    let target = Target::start(&vec![Reply::Status(502); 8]).await;
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/")]), Terms { tries: 8, ..quick() });
    webhooks.tell(&event("lost"));
    webhooks.tell(&event("next"));
    account(&webhooks, 1, 1, 0).await;
    assert_eq!(target.texts(), [vec!["lost"; 8], vec!["next"]].concat());
}

#[tokio::test]
async fn waits_double_from_try_to_try() {
    let target = Target::start(&vec![Reply::Status(500); 4]).await;
    let terms = Terms { first_wait: Duration::from_millis(40), ..Terms::default() };
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/")]), terms);
    webhooks.tell(&event("x"));
    account(&webhooks, 1, 0, 0).await;
    let seen = target.seen();
    for (try_number, pair) in seen.windows(2).enumerate() {
        let least = Duration::from_millis(30) * 2_u32.pow(u32::try_from(try_number).unwrap());
        let waited = pair[1].at.duration_since(pair[0].at);
        assert!(waited >= least, "{waited:?} after try {try_number}");
    }
}

#[tokio::test]
async fn a_target_that_hangs_holds_up_nobody_else() {
    let hanging = Target::start(&vec![Reply::Hang; 100]).await;
    let well = Target::start(&[]).await;
    let (_bound, nobody) = server::nobody();
    let urls = [&hanging.url("/"), &well.url("/"), &format!("http://{nobody}/")];
    let terms = Terms { timeout: Duration::from_secs(60), queue: 5, ..Terms::default() };
    let webhooks = Webhooks::start_with(&configs(&urls.map(String::as_str)), terms);
    webhooks.tell(&event("first"));
    until("it hangs", || hanging.seen().len() == 1).await;
    let began = Instant::now();
    for n in 0..100 {
        webhooks.tell(&event(&n.to_string()));
        until("the well one gets it", || well.seen().len() == n + 2).await;
    }
    assert!(began.elapsed() < Duration::from_secs(20));
    // Of 101 each of the two others holds one in hand and five in its queue.
    account(&webhooks, 101, 0, 2 * 95).await;
    assert_eq!(well.texts().len(), 101);
    drop(webhooks);
}

#[tokio::test]
async fn a_full_queue_loses_its_oldest() {
    let target = Target::start(&[Reply::Hang]).await;
    let terms = Terms { timeout: Duration::from_secs(2), queue: 5, ..quick() };
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/")]), terms);
    webhooks.tell(&event("in hand"));
    until("it is in hand", || target.seen().len() == 1).await;
    (0..20).for_each(|n| webhooks.tell(&event(&n.to_string())));
    assert_eq!(webhooks.account().dropped, 15);
    account(&webhooks, 6, 0, 15).await;
    assert_eq!(target.texts(), ["in hand", "in hand", "15", "16", "17", "18", "19"]);
}

#[tokio::test]
async fn the_end_sends_what_is_queued_without_waiting_and_waits_no_longer_than_it_may() {
    let target = Target::start(&[Reply::Status(500)]).await;
    let terms = Terms { first_wait: Duration::from_secs(3600), ..Terms::default() };
    let webhooks = Webhooks::start_with(&configs(&[&target.url("/")]), terms);
    (0..3).for_each(|n| webhooks.tell(&event(&n.to_string())));
    until("the first try was in vain", || target.seen().len() == 1).await;
    webhooks.stop().await;
    assert_eq!(webhooks.account(), Account { delivered: 3, failed: 0, dropped: 0 });
    assert_eq!(target.texts(), ["0", "0", "1", "2"]);
    webhooks.tell(&event("too late"));

    let hanging = Target::start(&vec![Reply::Hang; 9]).await;
    let terms = Terms { last_words: Duration::from_millis(100), ..Terms::default() };
    let webhooks = Webhooks::start_with(&configs(&[&hanging.url("/")]), terms);
    (0..3).for_each(|n| webhooks.tell(&event(&n.to_string())));
    let began = Instant::now();
    webhooks.stop().await;
    assert!((Duration::from_millis(100)..Duration::from_secs(9)).contains(&began.elapsed()));
    assert_eq!(webhooks.account(), Account { delivered: 0, failed: 0, dropped: 3 });
}

#[tokio::test]
async fn other_targets_take_over_and_one_that_stays_keeps_its_queue() {
    let (stays, goes, comes) =
        (Target::start(&[Reply::Status(500)]).await, Target::start(&[]).await, Target::start(&[]).await);
    let terms = Terms { first_wait: Duration::from_millis(200), ..Terms::default() };
    let webhooks = Webhooks::start_with(&configs(&[&stays.url("/"), &goes.url("/")]), terms);
    webhooks.tell(&event("before"));
    until("one has it, the other waits", || goes.seen().len() == 1 && stays.seen().len() == 1).await;
    webhooks.set(&configs(&[&comes.url("/"), &stays.url("/")]));
    webhooks.tell(&event("after"));
    account(&webhooks, 4, 0, 0).await;
    assert_eq!(
        (stays.texts(), goes.texts()),
        (["before", "before", "after"].map(str::to_owned).to_vec(), vec!["before".to_owned()])
    );
    assert_eq!(comes.texts(), ["after"]);
    assert!(
        stays.seen()[1].at.duration_since(stays.seen()[0].at) >= Duration::from_millis(150),
        "it went on waiting"
    );
}

#[tokio::test]
async fn only_events_that_are_wanted_are_told_and_without_a_secret_nothing_is_signed() {
    let target = Target::start(&[]).await;
    let text = format!("[apps.shop]\n[[webhooks]]\nurl = '{}'\nevents = ['deploy.*']", target.url("/"));
    let webhooks = Webhooks::start(&Config::parse(&text, "test.toml").unwrap().webhooks);
    webhooks.tell(&Event::new(EventKind::ReloadDone, "a reload"));
    webhooks.tell(&event("a deploy"));
    account(&webhooks, 1, 0, 0).await;
    assert_eq!(target.texts(), ["a deploy"]);
    assert_eq!(target.seen()[0].header("x-routerd-signature"), "");
}

#[tokio::test]
async fn https_needs_a_certificate_that_is_trusted() {
    let (target, authority) = Target::start_tls(&[]).await;
    let urls = configs(&[&target.url("/")]);
    let trusting = Webhooks::start_with(&urls, Terms { authorities: vec![authority], ..quick() });
    trusting.tell(&event("over tls"));
    account(&trusting, 1, 0, 0).await;
    target.seen()[0].check_signature();

    let strange = Webhooks::start_with(&urls, Terms { tries: 2, ..quick() });
    strange.tell(&event("to a stranger"));
    account(&strange, 0, 1, 0).await;
    assert_eq!(target.texts(), ["over tls"]);
}

#[test]
fn the_recipe_of_the_page_makes_the_same_signature() {
    if !crate::support::installed("openssl", &["version"]) {
        return;
    }
    let page = include_str!("../../docs/webhooks.md");
    let script = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let body = "{\"text\":\"a \\\"quoted\\\" %s \\\\\"}";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .envs([("timestamp", "1790000000"), ("body", body), ("secret", SECRET)])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim_end(), server::signature("1790000000", body.as_bytes()));
}
