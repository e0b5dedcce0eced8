//! What goes over besides sockets and dynos: what orders have decided, the files, and who writes down what.

use std::path::{Path, PathBuf};

use router_core::snapshot::DynoState;
use routerd::audit::verify;
use routerd::config::{Config, Role, Scope};
use routerd::control::{Actor, Mode, Order, PlanOrder, Receipt, Refusal, RefusalKind};
use routerd::daemon::Daemon;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::steps::{Fake, alone_because};
use super::{LONG, has_all, shop, takes_over};
use crate::support::{Dyno, Load, Rig, until};

fn actor() -> Actor {
    Actor { name: "ci".to_owned(), from: None, role: Role::Admin, apps: Scope::All }
}

fn deploy(release: &str, dynos: &[Dyno]) -> Order {
    let dynos = dynos.iter().map(|dyno| dyno.address.to_string()).collect();
    let (app, release, plan) = ("shop".to_owned(), release.to_owned(), Box::<PlanOrder>::default());
    Order::Deploy { app, release, dynos, canary: None, plan }
}

impl Rig {
    async fn does(&self, order: Order) -> Result<Receipt, Refusal> {
        self.daemon.as_ref().unwrap().control().order(actor(), order).await
    }

    /// Deploys, and waits for the end.
    async fn deploys(&self, release: &str, dynos: &[Dyno]) {
        self.does(deploy(release, dynos)).await.unwrap();
        self.runs(release).await;
    }

    async fn runs(&self, release: &str) {
        let control = self.daemon.as_ref().unwrap().control();
        let now = || control.releases("shop").into_iter().find(|it| it.current);
        until(&format!("{release} runs"), || {
            let over = control.deploys(None).iter().all(|deploy| deploy.ended.is_some());
            over && now().is_some_and(|now| now.release == release)
        })
        .await;
    }
}

/// A folder for the files of one daemon after the other.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The two tables, as text.
    fn tables(&self) -> String {
        let (audit, state) = (self.file("audit.jsonl"), self.file("state.json"));
        format!("[audit]\nfile = '{}'\n[state]\nfile = '{}'\n", audit.display(), state.display())
    }

    async fn offers(&self, text: &str) -> Rig {
        let rig = Rig::from_toml(text).await;
        rig.daemon.as_ref().unwrap().offer(&self.file("handover")).await.unwrap();
        rig
    }

    /// Who began what in the trail, and how that came out; the whole of it verifies.
    fn trail(&self) -> Vec<(String, String, Option<String>)> {
        verify(&self.file("audit.jsonl")).unwrap();
        let text = std::fs::read_to_string(self.file("audit.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let begun = lines.iter().filter(|line| line["who"].is_string());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        begun
            .map(|line| {
                let end = lines.iter().find(|end| end["of"] == line["seq"]);
                let outcome = end.and_then(|end| text(&end["outcome"]));
                (text(&line["who"]).unwrap(), text(&line["what"]).unwrap(), outcome)
            })
            .collect()
    }
}

fn entry(who: &str, what: &str, outcome: &str) -> (String, String, Option<String>) {
    (who.to_owned(), what.to_owned(), Some(outcome.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_orders_have_decided_goes_over_with_the_files() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(3).await);
    let folder = Folder::new();
    let text = folder.tables() + &shop(&one, "");
    let rig = folder.offers(&text).await;
    rig.deploys("v2", &two).await;
    let drained = two[2].address.to_string();
    rig.does(Order::Drain { app: "shop".to_owned(), dyno: drained.clone() }).await.unwrap();
    let load = Load::start(rig.address, 4);
    load.more(20).await;
    let (new, ends) = takes_over(rig, &text, &folder.file("handover")).await;
    load.more(20).await;
    assert_eq!(ends.await.unwrap().0, 0);
    has_all(&new).await;
    load.end().await;

    let control = new.daemon.as_ref().unwrap().control();
    let facts = control.facts().remove(0);
    assert_eq!(facts.drained, std::slice::from_ref(&drained));
    let releases: Vec<_> = control.releases("shop").into_iter().map(|it| (it.release, it.current)).collect();
    assert_eq!(releases, [("v2".to_owned(), true), ("v1".to_owned(), false)], "it remembers them");
    let mut serving: Vec<_> = new.app().dynos.iter().map(|dyno| dyno.address).collect();
    serving.sort();
    let mut wanted: Vec<_> = two[..2].iter().map(|dyno| dyno.address).collect();
    wanted.sort();
    assert_eq!(serving, wanted);
    // The files are its own: it writes them, and a restart finds what it wrote.
    new.does(Order::Undrain { app: "shop".to_owned(), dyno: drained }).await.unwrap();
    let mut new = new;
    new.stop(LONG).await;
    let after = Rig::from_toml(&text).await;
    assert!(after.daemon.as_ref().unwrap().control().facts()[0].drained.is_empty());
    let who = format!("process {}", std::process::id());
    assert_eq!(
        folder.trail(),
        [
            entry("ci", "deploy", "done"),
            entry("ci", "drain", "done"),
            entry(&who, "upgrade", "done"),
            entry("ci", "undrain", "done")
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_over_without_files_too_and_another_release_in_the_file_is_deployed() {
    let (one, two, three) = (Dyno::several(2).await, Dyno::several(2).await, Dyno::several(2).await);
    let folder = Folder::new();
    let rig = folder.offers(&shop(&one, "")).await;
    rig.deploys("v2", &two).await;
    rig.does(Order::Maintenance { app: "shop".to_owned(), on: true }).await.unwrap();
    let (new, ends) = takes_over(rig, &shop(&one, ""), &folder.file("handover")).await;
    assert_eq!(new.get("/").await.fault(), "H80");
    new.does(Order::Maintenance { app: "shop".to_owned(), on: false }).await.unwrap();
    ends.await.unwrap();
    has_all(&new).await;
    new.runs("v2").await;
    let load = Load::start(new.address, 4);
    load.more(20).await;
    assert!(one.iter().all(|dyno| dyno.asked() == 0), "the file's release had its time");

    // The file says something new: what runs goes on, and gives way to it as in any deploy.
    let (newest, ends) = takes_over(new, &shop(&three, "release = 'v3'"), &folder.file("handover")).await;
    newest.runs("v3").await;
    load.more(20).await;
    ends.await.unwrap();
    load.end().await;
    assert!(three.iter().all(|dyno| dyno.asked() > 0));
    let deploys = newest.daemon.as_ref().unwrap().control().deploys(Some("shop"));
    assert_eq!((deploys[0].old.as_str(), deploys[0].new.as_str()), ("v2", "v3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_back_when_nobody_takes_over() {
    let (one, two) = (Dyno::several(1).await, Dyno::several(1).await);
    let folder = Folder::new();
    let mut rig = folder.offers(&(folder.tables() + &shop(&one, ""))).await;
    let mut fake = Fake::connect(&folder.file("handover")).await;
    fake.goes_until(2).await;
    // It has committed: the files are the other one's, and an order waits for what becomes of that.
    let control = rig.daemon.as_ref().unwrap().control();
    let order = tokio::spawn(control.order(actor(), deploy("v2", &two)));
    tokio::task::yield_now().await;
    assert!(!order.is_finished());
    drop(fake);
    alone_because(&rig, "has ended").await;
    order.await.unwrap().unwrap();
    rig.runs("v2").await;
    rig.stop(LONG).await;
    let who = format!("process {}", std::process::id());
    assert_eq!(folder.trail(), [entry(&who, "upgrade", "failed"), entry("ci", "deploy", "done")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_waits_for_a_hand_over_is_told_to_ask_the_other_one() {
    let one = Dyno::several(1).await;
    let folder = Folder::new();
    let mut rig = folder.offers(&(folder.tables() + &shop(&one, ""))).await;
    let mut fake = Fake::connect(&folder.file("handover")).await;
    fake.goes_until(2).await;
    let control = rig.daemon.as_ref().unwrap().control();
    let order = tokio::spawn(control.order(actor(), Order::Maintenance { app: "shop".to_owned(), on: true }));
    fake.say(json!({ "say": "serving" })).await;
    let refusal = order.await.unwrap().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(refusal.text.contains("ask again"), "{refusal}");
    drop(fake);
    rig.stop(LONG).await;
    // The end of the upgrade is for the other one to write.
    let who = format!("process {}", std::process::id());
    assert_eq!(folder.trail(), [(who, "upgrade".to_owned(), None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_handed_over_while_an_app_is_paused() {
    let one = Dyno::several(1).await;
    let folder = Folder::new();
    let rig = folder.offers(&shop(&one, "")).await;
    rig.does(Order::Pause { app: "shop".to_owned(), at_most: None }).await.unwrap();
    let waiting = rig.spawn_get("/");
    rig.waiting(1).await;
    let mut fake = Fake::connect(&folder.file("handover")).await;
    fake.say(json!({ "say": "hello", "version": 1 })).await;
    let refused = fake.hears().await.unwrap();
    assert!(refused["why"].as_str().unwrap().contains("app shop is paused"), "{refused}");
    let control = rig.daemon.as_ref().unwrap().control();
    assert_eq!(control.facts()[0].mode, Mode::Paused);
    rig.does(Order::Resume { app: "shop".to_owned(), over: Some(std::time::Duration::ZERO) }).await.unwrap();
    assert!(waiting.await.unwrap().is_ok());
    until("it is open", || control.facts()[0].mode == Mode::Open).await;
    let (new, ends) = takes_over(rig, &shop(&one, ""), &folder.file("handover")).await;
    assert_eq!(ends.await.unwrap().0, 0);
    // That the old one is gone is known to the new one a little later.
    has_all(&new).await;
    assert_eq!(new.count(DynoState::Lent), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_had_leave_the_old_one_in_place() {
    let one = Dyno::several(1).await;
    let folder = Folder::new();
    let rig = folder.offers(&shop(&one, "")).await;
    // Another daemon has them.
    let other = Rig::from_toml(&(folder.tables() + &shop(&[], ""))).await;
    let config = Config::parse(&(folder.tables() + &shop(&one, "")), "test.toml").unwrap();
    let error = Daemon::take_over_with_log(&config, &folder.file("handover"), None).await.unwrap_err();
    assert!(error.to_string().contains("is written by another process"), "{error}");
    alone_because(&rig, "is written by another process").await;
    assert!(rig.get("/").await.is_ok());
    drop(other);
    let text = folder.tables() + &shop(&one, "");
    let (new, ends) = takes_over(rig, &text, &folder.file("handover")).await;
    assert_eq!(ends.await.unwrap().0, 0);
    assert!(folder.file("state.json").exists(), "what had no file before has one");
    has_all(&new).await;
}

/// Says hello as an old daemon of another kind would, and gives what the new one says then.
fn odd(path: &Path, estate: Value) -> tokio::task::JoinHandle<String> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let said = json!({ "say": "sockets", "sockets": [], "dynos": [], "estate": estate });
        stream.write_all(format!("{said}\n").as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_that_are_not_understood_are_not_dropped() {
    let folder = Folder::new();
    let path = folder.file("handover");
    let old = odd(&path, json!({ "book": { "last_id": 1, "apps": {}, "more": 1 }, "running": {} }));
    let config = Config::parse(&shop(&[], ""), "test.toml").unwrap();
    let error = Daemon::take_over_with_log(&config, &path, None).await.unwrap_err().to_string();
    assert!(error.contains("is not understood here: unknown field `more`"), "{error}");
    let heard = old.await.unwrap();
    assert!(heard.contains("failed") && heard.contains("unknown field"), "{heard}");
}
