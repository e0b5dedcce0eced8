//! The new one dies, or talks nonsense, at each step: the old one goes on as before.

use std::path::Path;
use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::config::units::Period;
use routerd::config::{Config, Role, Scope};
use routerd::control::{Actor, Order, PlanOrder};
use routerd::handover::Stage;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{LONG, offers, shop, takes_over};
use crate::support::{DEADLINE, Dyno, Load, Rig, until};

/// A new one that says what the test wants.
pub(super) struct Fake(BufReader<UnixStream>);

impl Fake {
    pub(super) async fn connect(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    pub(super) async fn say(&mut self, word: Value) {
        self.0.get_mut().write_all(format!("{word}\n").as_bytes()).await.unwrap();
    }

    /// The next word, if it says one more.
    pub(super) async fn hears(&mut self) -> Option<Value> {
        let mut line = String::new();
        timeout(DEADLINE, self.0.read_line(&mut line)).await.unwrap().unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Says so many words and hears what is answered.
    pub(super) async fn goes_until(&mut self, words: usize) {
        let dialogue = [("hello", "sockets"), ("ready", "commit"), ("serving", "committed")];
        for (say, hear) in &dialogue[..words] {
            self.say(json!({ "say": say, "version": 1 })).await;
            assert_eq!(self.hears().await.unwrap()["say"], *hear);
        }
    }
}

pub(super) async fn alone_because(rig: &Rig, words: &str) {
    let stage = rig.daemon.as_ref().unwrap().stage();
    let so = || matches!(&*stage.borrow(), Stage::Alone(Some(why)) if why.contains(words));
    until(&format!("{words}: {:?}", *stage.borrow()), so).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_one_that_dies_before_it_serves_changes_nothing() {
    let dynos = Dyno::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let load = Load::start(rig.address, 6);
    for words in [0, 1, 2, 0, 1, 2] {
        let mut fake = Fake::connect(&path).await;
        fake.goes_until(words).await;
        drop(fake);
        alone_because(&rig, "has ended").await;
        load.more(30).await;
        // It listens on, and discovery passes again.
        assert!(rig.get("/").await.is_ok());
        let text = shop(&dynos, &format!("queue = {{ max_wait = '{}s' }}", words + 6));
        let config = Config::parse(&text, "test.toml").unwrap();
        rig.daemon.as_ref().unwrap().reload(config).await.unwrap();
    }
    assert_eq!(rig.count(DynoState::Lent), 0);
    let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
    load.more(30).await;
    load.end().await;
    assert_eq!(ends.await.unwrap().0, 0);
    assert_eq!(new.log.faults(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_and_nonsense_are_refused_and_said() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let mut fake = Fake::connect(&path).await;
    fake.say(json!({ "say": "hello", "version": 2, "more": true })).await;
    let refused = fake.hears().await.unwrap();
    assert_eq!((&refused["say"], fake.hears().await), (&json!("refused"), None));
    assert!(refused["why"].as_str().unwrap().contains("speaks version 2"), "{refused}");
    for (words, nonsense) in
        [(0, json!({ "say": "ready" })), (1, json!({ "say": "yours", "dyno": "[::1]:1" })), (0, json!(7))]
    {
        let mut fake = Fake::connect(&path).await;
        fake.goes_until(words).await;
        fake.say(nonsense).await;
        assert_eq!(fake.hears().await, None);
        alone_because(&rig, "makes no sense").await;
    }
    let mut fake = Fake::connect(&path).await;
    fake.goes_until(1).await;
    fake.say(json!({ "say": "failed", "why": "no disk" })).await;
    alone_because(&rig, "cannot start: no disk").await;
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_one_that_dies_once_it_serves_leaves_the_dynos_to_the_last_requests_of_the_old_one() {
    let dynos = Dyno::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let (mut rig, path) = offers(&dynos, &folder).await;
    let mut idle = rig.client().await;
    assert!(idle.get("/").await.is_ok());
    let mut fake = Fake::connect(&path).await;
    fake.goes_until(3).await;
    let mut given: Vec<_> = Vec::new();
    for _ in 0..2 {
        let word = fake.hears().await.unwrap();
        assert_eq!(word["say"], "yours");
        given.push(word["dyno"].as_str().unwrap().to_owned());
    }
    given.sort();
    let mut all: Vec<_> = dynos.iter().map(|dyno| dyno.address.to_string()).collect();
    all.sort();
    assert_eq!(given, all, "idle dynos go at once");
    assert!(dynos.iter().all(|dyno| dyno.open_connections() == 0), "and without a connection");
    idle.ask("GET", "/late").await;
    let word = fake.hears().await.unwrap();
    assert_eq!((&word["say"], word["dynos"].as_array().unwrap().len()), (&json!("want"), 2));
    drop(fake);
    let late = idle.answer().await;
    assert!(late.is_ok(), "{late:?}");
    assert_eq!(rig.stop(LONG).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_still_takes_over_hands_nothing_over() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let running = rig.spawn_get("/running?held=1");
    until("it runs", || dynos[0].is_working()).await;
    let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
    let mut fake = Fake::connect(&path).await;
    fake.say(json!({ "say": "hello", "version": 1 })).await;
    let refused = fake.hears().await.unwrap();
    assert!(refused["why"].as_str().unwrap().contains("still taking over"), "{refused}");
    assert_eq!(*new.daemon.as_ref().unwrap().stage().borrow(), Stage::Taking);
    dynos[0].let_go();
    assert!(running.await.unwrap().is_ok());
    assert_eq!(ends.await.unwrap().0, 0);
    super::has_all(&new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_in_the_middle_of_a_hand_over_it_stops() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (mut rig, path) = offers(&dynos, &folder).await;
    let mut fake = Fake::connect(&path).await;
    fake.goes_until(1).await;
    assert_eq!(timeout(Duration::from_secs(5), rig.stop(LONG)).await.unwrap(), 0);
    let refused = fake.hears().await.unwrap();
    assert_eq!(refused, json!({ "say": "refused", "why": "it is ending" }));
    assert_eq!(fake.hears().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_while_a_deploy_is_under_way() {
    let one = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&one, &folder).await;
    let control = rig.daemon.as_ref().unwrap().control();
    let actor = Actor { name: "ci".to_owned(), from: None, role: Role::Admin, apps: Scope::All };
    // Nobody ever answers there.
    let dynos = vec!["127.0.0.1:1".to_owned()];
    let plan = Box::new(PlanOrder { boot_timeout: Some(Period(LONG)), ..PlanOrder::default() });
    let deploy =
        Order::Deploy { app: "shop".to_owned(), release: "v2".to_owned(), dynos, canary: None, plan };
    assert!(control.order(actor, deploy).await.unwrap().deploy.is_some());
    let mut fake = Fake::connect(&path).await;
    fake.say(json!({ "say": "hello", "version": 1 })).await;
    let refused = fake.hears().await.unwrap();
    assert!(refused["why"].as_str().unwrap().contains("a deploy of app shop is under way"), "{refused}");
    assert!(rig.get("/").await.is_ok());
}
