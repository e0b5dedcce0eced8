//! Deploys end to end: a release changes under load and no request is lost, whatever becomes of the new one.

mod restarts;
mod soak;

use std::future::Future;
use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::config::{Config, Role, Scope};
use routerd::control::{Actor, DecidedBy, DeployView, Mode, Order, PlanOrder, Receipt, Refusal, RefusalKind};

use crate::support::{Client, Dyno, Load, Mood, Rig, until};

/// Shorter times than people need.
const QUICK: &str = "deploy = { boot_timeout = '400ms', probe_every = '5ms', bake_requests = 20 }";

fn texts(dynos: &[Dyno]) -> Vec<String> {
    dynos.iter().map(|dyno| dyno.address.to_string()).collect()
}

fn all(dynos: &[Dyno]) -> Vec<&Dyno> {
    dynos.iter().collect()
}

fn actor(name: &str) -> Actor {
    Actor { name: name.to_owned(), from: None, role: Role::Admin, apps: Scope::All }
}

fn deploy_of(release: &str, dynos: &[String]) -> Order {
    let (dynos, plan) = (dynos.to_vec(), Box::default());
    Order::Deploy { app: "shop".to_owned(), release: release.to_owned(), dynos, canary: None, plan }
}

fn with_plan(order: Order, change: impl FnOnce(&mut PlanOrder)) -> Order {
    let Order::Deploy { app, release, dynos, canary, mut plan } = order else { panic!("no deploy") };
    change(&mut plan);
    Order::Deploy { app, release, dynos, canary, plan }
}

fn back() -> Order {
    Order::RollBack { app: "shop".to_owned(), why: None }
}

impl Rig {
    fn order(&self, order: Order) -> impl Future<Output = Result<Receipt, Refusal>> + 'static {
        self.daemon.as_ref().unwrap().control().order(actor("ci"), order)
    }

    /// Gives an order that begins a deploy.
    async fn begin(&self, order: Order) -> u64 {
        self.order(order).await.unwrap().deploy.expect("it has begun")
    }

    fn deploy(&self, id: u64) -> DeployView {
        let all = self.daemon.as_ref().unwrap().control().deploys(Some("shop"));
        all.into_iter().find(|deploy| deploy.id == id).expect("it is on the list")
    }

    async fn reaches(&self, id: u64, state: &str) -> DeployView {
        let so = || self.deploy(id).state == state;
        until(&format!("deploy {id} is {state}: {:?}", self.deploy(id)), so).await;
        self.deploy(id)
    }

    /// The deploy is over and in that state.
    async fn ends(&self, id: u64, state: &str) -> DeployView {
        until(&format!("deploy {id} has ended: {:?}", self.deploy(id)), || self.deploy(id).ended.is_some())
            .await;
        let deploy = self.deploy(id);
        assert_eq!(deploy.state, state, "{deploy:?}");
        deploy
    }

    /// Who takes requests, as name of release and address.
    fn serving(&self) -> Vec<(String, String)> {
        let serves = |state| matches!(state, DynoState::Idle | DynoState::Busy);
        let dynos = self.app().dynos.into_iter().filter(|dyno| serves(dyno.state));
        dynos.map(|dyno| (dyno.release.to_string(), dyno.address.to_string())).collect()
    }

    fn serves(&self, release: &str, dynos: &[Dyno]) {
        let mut wanted: Vec<_> = texts(dynos).into_iter().map(|at| (release.to_owned(), at)).collect();
        let mut there = self.serving();
        wanted.sort();
        there.sort();
        assert_eq!(there, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_come_and_go_under_load_and_no_request_is_lost() {
    let (one, two) = (Dyno::several(4).await, Dyno::several(4).await);
    let rig = Rig::start(&all(&one), QUICK).await;
    let load = Load::start(rig.address, 8);
    load.more(50).await;
    for round in 0..6 {
        let (release, dynos) = if round % 2 == 0 { ("v2", &two) } else { ("v1", &one) };
        let plan = |plan: &mut PlanOrder| plan.pace = (round >= 2).then(|| "1 every 5ms".parse().unwrap());
        let id = rig.begin(with_plan(deploy_of(release, &texts(dynos)), plan)).await;
        let deploy = rig.ends(id, "done").await;
        assert_eq!((deploy.new_serving, deploy.old_left, deploy.cause), (4, 0, None));
        rig.serves(release, dynos);
        load.more(50).await;
    }
    let served = load.end().await;
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    rig.log.are(served).await;
    assert_eq!(rig.app().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_never_becomes_ready_is_not_noticed() {
    let (one, mut two) = (Dyno::several(2).await, Dyno::several(2).await);
    let dead = two.remove(1).address;
    let rig = Rig::start(&all(&one), QUICK).await;
    let load = Load::start(rig.address, 4);
    let id = rig.begin(deploy_of("v2", &[two[0].address.to_string(), dead.to_string()])).await;
    let deploy = rig.ends(id, "failed").await;
    let cause = deploy.cause.unwrap();
    assert!(cause.contains(&dead.to_string()) && cause.contains("refused"), "{cause}");
    rig.serves("v1", &one);
    assert_eq!(two[0].asked(), 0, "the one that was ready has served nobody");
    load.more(20).await;
    load.end().await;
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    assert_eq!(rig.daemon.as_ref().unwrap().control().releases("shop"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_answers_500_after_the_cut_over_is_rolled_back_by_itself() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let rig = Rig::start(&all(&one), QUICK).await;
    two.iter().for_each(|dyno| dyno.is_now(Mood::Sick));
    let plan = |plan: &mut PlanOrder| plan.bake_time = Some("20s".parse().unwrap());
    let id = rig.begin(with_plan(deploy_of("v2", &texts(&two)), plan)).await;
    let mut client = rig.client().await;
    until_ended(&rig, id, &mut client).await;
    let deploy = rig.ends(id, "rolled_back").await;
    let cause = deploy.cause.unwrap();
    assert!(cause.contains("of the new release failed (100.0%)"), "{cause}");
    rig.serves("v1", &one);
    assert!(client.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_whose_processes_die_after_the_cut_over_is_rolled_back_by_itself() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let rig = Rig::start(&all(&one), QUICK).await;
    let plan = |plan: &mut PlanOrder| plan.bake_time = Some("20s".parse().unwrap());
    let id = rig.begin(with_plan(deploy_of("v2", &texts(&two)), plan)).await;
    rig.reaches(id, "baking").await;
    for dyno in &two {
        dyno.kill().await;
    }
    // Far fewer requests than it takes to judge a release by them.
    let asked: Vec<_> = (0..4).map(|_| rig.spawn_get("/")).collect();
    let deploy = rig.ends(id, "rolled_back").await;
    let cause = deploy.cause.unwrap();
    assert!(cause.contains("does not accept connections since it serves"), "{cause}");
    rig.serves("v1", &one);
    for answer in asked {
        let answer = answer.await.unwrap();
        assert!(answer.is_ok(), "who waited is served by the release that came back: {answer:?}");
    }
}

/// Asks until a deploy has ended; every answer comes, good or bad.
async fn until_ended(rig: &Rig, id: u64, client: &mut Client) {
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while rig.deploy(id).ended.is_none() {
        assert!(tokio::time::Instant::now() < end, "{:?}", rig.deploy(id));
        let answer = client.get("/?ms=1").await;
        assert!(answer.whole && answer.fault() == "-", "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_is_instant_while_the_old_dynos_live_and_another_deploy_once_it_is_over() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let rig = Rig::start(&all(&one), QUICK).await;
    let load = Load::start(rig.address, 4);
    let plan = |plan: &mut PlanOrder| plan.bake_time = Some("20s".parse().unwrap());
    let id = rig.begin(with_plan(deploy_of("v2", &texts(&two)), plan)).await;
    rig.reaches(id, "baking").await;
    assert_eq!(rig.order(back()).await.unwrap().deploy, Some(id));
    let deploy = rig.ends(id, "rolled_back").await;
    assert_eq!(deploy.cause.unwrap(), "ci asked for it");
    rig.serves("v1", &one);

    let second = rig.begin(deploy_of("v2", &texts(&two))).await;
    rig.ends(second, "done").await;
    let third = rig.begin(back()).await;
    let deploy = rig.ends(third, "done").await;
    assert_eq!((deploy.old.as_str(), deploy.new.as_str()), ("v2", "v1"));
    rig.serves("v1", &one);
    load.end().await;
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    let releases = rig.daemon.as_ref().unwrap().control().releases("shop");
    let names: Vec<_> = releases.iter().map(|it| (it.release.as_str(), it.current)).collect();
    assert_eq!(names, [("v1", true), ("v2", false), ("v1", true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deploy_of_an_app_at_a_time_and_what_makes_no_sense_is_refused() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let dead = Dyno::start().await.address;
    let rig = Rig::start(&all(&one), "deploy = { boot_timeout = '20s' }").await;
    let refused = async |order| rig.order(order).await.unwrap_err();
    let same = refused(deploy_of("v2", &texts(&one))).await;
    assert_eq!(same.kind, RefusalKind::Invalid);
    assert!(same.text.contains("runs release v1: another release needs dynos of its own"), "{same}");
    let nowhere = refused(Order::RollBack { app: "blog".to_owned(), why: None }).await;
    assert_eq!((nowhere.kind, nowhere.text.as_str()), (RefusalKind::NotFound, "there is no app blog"));
    let nothing = refused(back()).await;
    assert_eq!(nothing.kind, RefusalKind::Conflict);
    assert!(nothing.text.contains("no other release"), "{nothing}");

    let id = rig.begin(deploy_of("v2", &[dead.to_string()])).await;
    let second = refused(deploy_of("v3", &texts(&two))).await;
    assert_eq!(second.kind, RefusalKind::Conflict);
    assert_eq!(second.text, format!("app shop is being deployed: deploy {id} of v2, by ci, is warming"));
    let canary = refused(Order::Promote { app: "shop".to_owned(), from: None }).await;
    assert_eq!(canary.kind, RefusalKind::Conflict);
    rig.order(back()).await.unwrap();
    rig.ends(id, "rolled_back").await;
    rig.serves("v1", &one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_serves_what_is_set_apart_for_it_until_it_is_promoted() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let rig = Rig::start(&all(&one), QUICK).await;
    let Order::Deploy { app, release, dynos, plan, .. } = deploy_of("v2", &texts(&two)) else { panic!() };
    let canary = Some("header:x-beta=1".parse().unwrap());
    let id = rig.begin(Order::Deploy { app: app.clone(), release, dynos, canary, plan }).await;
    rig.reaches(id, "canary").await;
    let asked = |dynos: &[Dyno]| dynos.iter().map(Dyno::asked).sum::<usize>();
    let mut client = rig.client().await;
    for _ in 0..10 {
        assert!(client.get("/").await.is_ok());
        client.send("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Beta: 1\r\n\r\n").await;
        assert!(client.answer().await.is_ok());
    }
    assert_eq!((asked(&one), asked(&two)), (10, 10));
    rig.order(Order::Canary { app: app.clone(), rule: "10%".parse().unwrap() }).await.unwrap();
    for _ in 0..100 {
        assert!(client.get("/").await.is_ok());
    }
    assert_eq!((asked(&one), asked(&two)), (100, 20));
    rig.order(Order::Promote { app, from: None }).await.unwrap();
    rig.ends(id, "done").await;
    rig.serves("v2", &two);
    assert!(client.get("/").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tested_is_what_is_promoted() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let list =
        |dynos: &[Dyno]| texts(dynos).iter().map(|at| format!("'{at}'")).collect::<Vec<_>>().join(", ");
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[defaults]\n{QUICK}\n[apps.shop]\nhosts = ['*']\ndynos = [{}]\n\
         [apps.staging]\nhosts = ['staging.test']\nrelease = 'v2'\ndynos = [{}]\n",
        list(&one),
        list(&two)
    ))
    .await;
    let load = Load::start(rig.address, 4);
    let promote = Order::Promote { app: "shop".to_owned(), from: Some("staging".to_owned()) };
    let id = rig.begin(promote).await;
    rig.ends(id, "done").await;
    rig.serves("v2", &two);
    load.more(20).await;
    load.end().await;
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    let control = rig.daemon.as_ref().unwrap().control();
    let facts: Vec<_> = control.facts().into_iter().map(|it| (it.app, it.source, it.file_release)).collect();
    let by_api = |app: &str, file: &str| (app.to_owned(), DecidedBy::Api, file.to_owned());
    assert_eq!(facts, [by_api("shop", "v1"), by_api("staging", "v2")]);
    let staging = rig.daemon.as_ref().unwrap().router().app(&"staging".into()).unwrap();
    assert_eq!(staging.snapshot().dynos.len(), 0, "a dyno has one app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_is_drained_by_hand_and_stays_so_until_it_is_let_in_again() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(&all(&dynos), QUICK).await;
    let (app, dyno) = ("shop".to_owned(), dynos[0].address.to_string());
    let busy = rig.spawn_get("/?held=1");
    rig.are(1, DynoState::Busy).await;
    rig.order(Order::Drain { app: app.clone(), dyno: dyno.clone() }).await.unwrap();
    dynos.iter().for_each(Dyno::let_go);
    assert!(busy.await.unwrap().is_ok());
    rig.serves("v1", &dynos[1..]);
    let text = format!(
        "[apps.shop]\ndynos = ['{}', '{}']\n{QUICK}\nconcurrency = 2",
        dynos[0].address, dynos[1].address
    );
    let config = Config::parse(&format!("[server]\nlisten = ['127.0.0.1:0']\n{text}"), "x").unwrap();
    rig.daemon.as_ref().unwrap().reload(config).await.unwrap();
    until("the reload is there", || rig.app().dynos.iter().any(|dyno| dyno.concurrency == 2)).await;
    rig.serves("v1", &dynos[1..]);
    assert_eq!(rig.daemon.as_ref().unwrap().control().facts()[0].drained, std::slice::from_ref(&dyno));
    rig.order(Order::Undrain { app: app.clone(), dyno: dyno.clone() }).await.unwrap();
    rig.are(2, DynoState::Idle).await;
    let twice = rig.order(Order::Undrain { app: app.clone(), dyno }).await.unwrap_err();
    assert_eq!(twice.kind, RefusalKind::Conflict);
    let unknown = rig.order(Order::Drain { app, dyno: "web.9".to_owned() }).await.unwrap_err();
    assert_eq!((unknown.kind, unknown.text.as_str()), (RefusalKind::NotFound, "app shop has no dyno web.9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_in_the_file_that_fails_is_tried_once_and_a_newer_word_is_heard() {
    let (one, two) = (Dyno::several(2).await, Dyno::several(2).await);
    let dead = Dyno::start().await.address;
    let text = |release: &str, dynos: &[String]| {
        let list: Vec<_> = dynos.iter().map(|at| format!("'{at}'")).collect();
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\nrelease = '{release}'\ndynos = [{}]\n{QUICK}\n",
            list.join(", ")
        )
    };
    let rig = Rig::from_toml(&text("v1", &texts(&one))).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let reload = async |release: &str, dynos: &[String]| {
        let config = Config::parse(&text(release, dynos), "x").unwrap();
        daemon.reload(config).await.unwrap()
    };
    let count = || daemon.control().deploys(None).len();
    let diff = reload("v2", &[dead.to_string()]).await;
    assert!(diff.to_string().contains("release: v1 -> v2"), "{diff}");
    let id = daemon.control().deploys(None)[0].id;
    let failed = rig.ends(id, "failed").await;
    assert_eq!(failed.by, "the configuration file");
    rig.serves("v1", &one);
    assert_eq!(daemon.control().facts()[0].source, DecidedBy::Api, "something else than the file decides");
    reload("v2", &[dead.to_string()]).await;
    assert_eq!(count(), 1, "it has been tried");
    reload("v3", &texts(&two)).await;
    rig.ends(daemon.control().deploys(None)[0].id, "done").await;
    rig.serves("v3", &two);
    assert_eq!(daemon.control().facts()[0].source, DecidedBy::File);
    // A second word while the first is being carried out.
    reload("v4", &[dead.to_string()]).await;
    until("the first is being carried out", || count() == 3).await;
    reload("v5", &texts(&one)).await;
    let all_new =
        |serving: &[(String, String)]| serving.len() == 2 && serving.iter().all(|(it, _)| it == "v5");
    until("the last word is in place", || all_new(&rig.serving())).await;
    rig.serves("v5", &one);
    assert_eq!(count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_requests_in_line_and_maintenance_refuses_them() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(&all(&dynos), QUICK).await;
    let app = || "shop".to_owned();
    let mode = || rig.daemon.as_ref().unwrap().control().facts()[0].mode;
    rig.order(Order::Pause { app: app(), at_most: None }).await.unwrap();
    assert_eq!(mode(), Mode::Paused);
    let held: Vec<_> = (0..5).map(|_| rig.spawn_get("/")).collect();
    rig.waiting(5).await;
    assert_eq!(dynos.iter().map(Dyno::asked).sum::<usize>(), 0);
    rig.order(Order::Resume { app: app(), over: Some(Duration::ZERO) }).await.unwrap();
    for answer in held {
        assert!(answer.await.unwrap().is_ok());
    }
    assert_eq!(mode(), Mode::Open);
    rig.order(Order::Maintenance { app: app(), on: true }).await.unwrap();
    assert_eq!((mode(), rig.get("/").await.fault()), (Mode::Maintenance, "H80"));
    rig.order(Order::Maintenance { app: app(), on: false }).await.unwrap();
    assert!(rig.get("/").await.is_ok());
}
