//! Probes of dynos that serve, and dynos that are taken out. Every dyno here fails its test when it is asked to do two
//! things at once, or gets a second connection.

use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::admin::AdminAddress;
use routerd::config::Config;
use tokio::time::{Instant, sleep};

use crate::support::{Client, DEADLINE, Dyno, Mood, Rig, until};

/// The configuration of an app with those dynos, with an admin listener.
fn toml(dynos: &[&Dyno], app: &str) -> String {
    let dynos: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let dynos = dynos.join(", ");
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = [{dynos}]\n{app}\n"
    )
}

async fn rig(dynos: &[&Dyno], app: &str) -> Rig {
    Rig::from_toml(&toml(dynos, app)).await
}

async fn admin(rig: &Rig, path: &str) -> String {
    let Some(AdminAddress::Tcp(address)) = rig.daemon.as_ref().unwrap().admin_address() else { panic!() };
    Client::connect(address).await.local(path).await.text()
}

/// How many probes there were with that result.
async fn probes(rig: &Rig, result: &str) -> u64 {
    let name = format!("routerd_probes_total{{app=\"shop\",result=\"{result}\"}} ");
    let text = admin(rig, "/metrics").await;
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn asked(dyno: &Dyno, path: &str) -> usize {
    dyno.seen().iter().filter(|seen| seen.path.starts_with(path)).count()
}

async fn is(rig: &Rig, dyno: &Dyno, state: DynoState) {
    let now = || rig.app().dynos.iter().find(|it| it.address == dyno.address).unwrap().state;
    until(&format!("{} is {state:?}, it is {:?}", dyno.address, now()), || now() == state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_never_overlaps_with_a_request() {
    let dynos = Dyno::several(3).await;
    let health = "health = { probe = 'http', path = '/up?ms=5', interval = '100ms', timeout = '100ms' }";
    let rig = rig(&dynos.iter().collect::<Vec<_>>(), health).await;
    let end = Instant::now() + Duration::from_secs(2);
    let clients = (0..4).map(|_| {
        let address = rig.address;
        tokio::spawn(async move {
            let mut sent = 0;
            while Instant::now() < end {
                let answer = Client::connect(address).await.get("/work?ms=7").await;
                assert!(answer.is_ok(), "{answer:?}");
                sent += 1;
                sleep(Duration::from_millis(fastrand::u64(..120))).await;
            }
            sent
        })
    });
    let mut sent = 0;
    for client in clients.collect::<Vec<_>>() {
        sent += client.await.unwrap();
    }
    let probed: usize = dynos.iter().map(|dyno| asked(dyno, "/up")).sum();
    assert!(probed > 5, "{probed}");
    assert_eq!(dynos.iter().map(|dyno| asked(dyno, "/work")).sum::<usize>(), sent);
    rig.log.are(sent).await;
    assert_eq!(rig.app().dispatched as usize, sent, "probes are not counted among requests");
    let probe = dynos.iter().flat_map(Dyno::seen).find(|seen| seen.path == "/up?ms=5").unwrap();
    assert!(probe.head.contains("host: shop.test\r\n"), "{}", probe.head);
    assert!(dynos.iter().all(|dyno| dyno.connections() == 1), "probes and requests share one connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_an_app_that_is_well_sees_no_probe() {
    let dyno = Dyno::start().await;
    let rig = rig(&[&dyno], "health.interval = '100ms'").await;
    let end = Instant::now() + Duration::from_millis(600);
    let mut sent = 0;
    while Instant::now() < end {
        assert!(rig.get("/").await.is_ok());
        sent += 1;
    }
    assert_eq!((probes(&rig, "good").await, probes(&rig, "bad").await), (0, 0), "it is busy answering");
    // Idle with a warm connection: that it is open is the answer.
    let end = Instant::now() + DEADLINE;
    while probes(&rig, "good").await < 3 {
        assert!(Instant::now() < end, "no probe in {DEADLINE:?}");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.get("/").await.is_ok());
    assert_eq!((dyno.asked(), dyno.connections(), dyno.open_connections()), (sent + 1, 1, 1));
    assert_eq!(probes(&rig, "bad").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_a_busy_dyno_is_not_probed_and_not_taken_out() {
    let dynos = Dyno::several(2).await;
    let health = "health = { probe = 'http', path = '/up', interval = '100ms', fall = 1, eject_max = 100 }";
    let rig = rig(&[&dynos[0], &dynos[1]], health).await;
    let long = [rig.spawn_get("/long?held=1"), rig.spawn_get("/long?held=1")];
    rig.are(2, DynoState::Busy).await;
    // A probe is over before its dyno is taken, but a dyno reads a request only some time after it is sent.
    until("both have theirs", || dynos.iter().all(Dyno::is_working)).await;
    let before: usize = dynos.iter().map(Dyno::asked).sum();
    // Twenty probes' time.
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(dynos.iter().map(Dyno::asked).sum::<usize>(), before, "nobody asks who is busy");
        assert_eq!(rig.count(DynoState::Unhealthy), 0);
        sleep(Duration::from_millis(10)).await;
    }
    dynos.iter().for_each(Dyno::let_go);
    for long in long {
        assert!(long.await.unwrap().is_ok());
    }
    assert_eq!(probes(&rig, "bad").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_fails_fast_is_ejected_and_comes_back() {
    let dynos = Dyno::several(3).await;
    let app = "health.probe = 'none'\nretry = { quarantine = '3s', quarantine_max = '3s' }";
    let rig = rig(&dynos.iter().collect::<Vec<_>>(), app).await;
    for _ in 0..9 {
        assert!(rig.get("/?ms=10").await.is_ok());
    }
    let bad = dynos.iter().max_by_key(|dyno| dyno.asked()).unwrap();
    bad.is_now(Mood::Sick);
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(rig.get("/?ms=10").await.status == 500);
    }
    assert_eq!(failed, 5, "it would have drawn all of them");
    is(&rig, bad, DynoState::Quarantined).await;
    let seen = rig.app();
    let it = seen.dynos.iter().find(|dyno| dyno.address == bad.address).unwrap();
    assert!(it.ejected && seen.ejected == 1);
    assert!(admin(&rig, "/metrics").await.contains("routerd_ejected_total{app=\"shop\"} 1\n"));
    assert!(admin(&rig, "/v1/status").await.contains("\"ejected\": true"));
    bad.is_now(Mood::Well);
    is(&rig, bad, DynoState::Idle).await;
    let gets: Vec<_> = (0..3).map(|_| rig.spawn_get("/?held=1")).collect();
    until("all three are at work", || dynos.iter().all(Dyno::is_working)).await;
    dynos.iter().for_each(Dyno::let_go);
    for get in gets {
        assert!(get.await.unwrap().is_ok());
    }
    assert_eq!(
        rig.app().dynos.iter().filter(|dyno| dyno.ejected).count(),
        0,
        "its good answer ends the doubt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_whose_every_dyno_is_ill_goes_on_answering() {
    let dynos = Dyno::several(2).await;
    let health = "health = { probe = 'http', interval = '100ms', fall = 1 }";
    let rig = rig(&[&dynos[0], &dynos[1]], health).await;
    dynos.iter().for_each(|dyno| dyno.is_now(Mood::Sick));
    is_one_out(&rig).await;
    let end = Instant::now() + Duration::from_millis(600);
    while Instant::now() < end {
        let answer = rig.get("/").await;
        assert_eq!((answer.status, answer.fault(), answer.text().as_str()), (500, "-", "sick"));
        assert_eq!(rig.count(DynoState::Unhealthy) + rig.count(DynoState::Quarantined), 1, "never both");
    }
}

async fn is_one_out(rig: &Rig) {
    until("one is out", || rig.count(DynoState::Unhealthy) + rig.count(DynoState::Quarantined) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wedged_dyno_is_taken_out_and_comes_back() {
    let dynos = Dyno::several(2).await;
    let health = "health = { probe = 'http', path = '/up', interval = '100ms', timeout = '50ms', fall = 3 }";
    let rig = rig(&[&dynos[0], &dynos[1]], health).await;
    dynos[0].is_now(Mood::Wedged);
    is(&rig, &dynos[0], DynoState::Unhealthy).await;
    assert_eq!(asked(&dynos[0], "/up"), 1, "it has one probe to answer, and gets no second one");
    assert!(probes(&rig, "bad").await >= 3);
    for _ in 0..20 {
        assert!(rig.get("/").await.is_ok());
    }
    assert_eq!(asked(&dynos[0], "/up"), dynos[0].asked(), "no request goes there");
    assert!(admin(&rig, "/v1/status").await.contains("\"state\": \"unhealthy\""));
    dynos[0].is_now(Mood::Well);
    is(&rig, &dynos[0], DynoState::Idle).await;
    let gets = [rig.spawn_get("/?held=1"), rig.spawn_get("/?held=1")];
    until("both are at work", || dynos.iter().all(Dyno::is_working)).await;
    dynos.iter().for_each(Dyno::let_go);
    for get in gets {
        assert!(get.await.unwrap().is_ok());
    }
    assert!(dynos[0].asked() > asked(&dynos[0], "/up"), "and it serves again");
    assert!(dynos.iter().all(|dyno| dyno.connections() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_dyno_that_dies_is_found_by_its_connection_and_so_is_its_return() {
    let dynos = Dyno::several(2).await;
    let rig = rig(&[&dynos[0], &dynos[1]], "health = { interval = '100ms', fall = 2, rise = 2 }").await;
    dynos[1].kill().await;
    is(&rig, &dynos[1], DynoState::Unhealthy).await;
    for _ in 0..5 {
        assert!(rig.get("/").await.is_ok(), "nobody finds out by a request");
    }
    dynos[1].restart();
    is(&rig, &dynos[1], DynoState::Idle).await;
    assert!(probes(&rig, "good").await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_probes_in_place_and_without_any_nobody_stays_out() {
    let dynos = Dyno::several(2).await;
    let both = [&dynos[0], &dynos[1]];
    let rig = rig(&both, "health.interval = '1h'").await;
    dynos[1].kill().await;
    let reload = async |app: &str| {
        let config = Config::parse(&toml(&both, app), "test.toml").unwrap();
        rig.daemon.as_ref().unwrap().reload(config).await.unwrap();
    };
    reload("health = { interval = '100ms', fall = 1 }").await;
    is(&rig, &dynos[1], DynoState::Unhealthy).await;
    reload("health = { probe = 'none', interval = '100ms' }").await;
    is(&rig, &dynos[1], DynoState::Idle).await;
}
