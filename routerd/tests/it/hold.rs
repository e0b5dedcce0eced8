//! Apps that are paused, resumed, and in maintenance, over HTTP.

use std::time::Duration;

use router_core::change::{Change, Hold};
use router_core::snapshot::DynoState;
use tokio::time::Instant;

use crate::support::{Dyno, Rig, until};

fn hold(rig: &Rig, hold: Hold) {
    rig.daemon.as_ref().unwrap().router().apply(&[Change::Hold("shop".into(), hold)]).unwrap();
}

fn pause(rig: &Rig, at_most: u64) {
    hold(rig, Hold::Pause { at_most: Duration::from_millis(at_most), over: Duration::ZERO });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_in_a_pause_is_served_after_it_however_long_it_was() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "queue = { max_wait = '100ms' }").await;
    let running = rig.spawn_get("/running?held=1");
    rig.are(1, DynoState::Busy).await;
    let began = Instant::now();
    pause(&rig, 2000);
    let waiting: Vec<_> = (0..5).map(|_| rig.spawn_get("/")).collect();
    rig.waiting(5).await;
    dyno.let_go();
    assert!(running.await.unwrap().is_ok(), "what runs goes on");
    for get in waiting {
        let answer = get.await.unwrap();
        assert!(answer.is_ok() && began.elapsed() >= Duration::from_secs(2), "{answer:?}");
    }
    assert!(rig.app().held.is_none());
    rig.log.are(6).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_before_its_time_serves_at_once_and_the_longest_wait_begins_then() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "queue = { max_wait = '300ms' }").await;
    pause(&rig, 3_600_000);
    let long = rig.spawn_get("/?held=1");
    rig.waiting(1).await;
    let late = rig.spawn_get("/late");
    rig.waiting(2).await;
    hold(&rig, Hold::Resume { over: Duration::ZERO });
    let answer = late.await.unwrap();
    assert_eq!((answer.status, answer.fault()), (503, "H11"), "its dyno is busy for longer than it may wait");
    assert!(!long.is_finished());
    dyno.let_go();
    assert!(long.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t8_who_goes_away_in_a_pause_leaves_the_line() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    pause(&rig, 3_600_000);
    let mut gone = Vec::new();
    for _ in 0..20 {
        let mut client = rig.client().await;
        client.ask("GET", "/gone").await;
        gone.push(client);
    }
    rig.waiting(20).await;
    drop(gone);
    rig.waiting(0).await;
    hold(&rig, Hold::Resume { over: Duration::ZERO });
    assert!(rig.get("/").await.is_ok());
    assert_eq!(dyno.asked(), 1, "nobody who had gone was dispatched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t9_a_resume_is_paced() {
    let dynos = Dyno::several(5).await;
    let rig = Rig::start(&dynos.iter().collect::<Vec<_>>(), "").await;
    pause(&rig, 3_600_000);
    let gets: Vec<_> = (0..10).map(|_| rig.spawn_get("/?do=hang")).collect();
    rig.waiting(10).await;
    let resumed = Instant::now();
    hold(&rig, Hold::Resume { over: Duration::from_secs(2) });
    for busy in 2..=5 {
        until("so many are busy", || rig.count(DynoState::Busy) >= busy).await;
        let least = Duration::from_millis(500 * (busy as u64 - 1));
        assert!(resumed.elapsed() >= least, "{busy} after {:?}", resumed.elapsed());
    }
    gets.iter().for_each(|get| get.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_refuses_with_h80_and_lets_running_requests_end() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let running = rig.spawn_get("/?held=1");
    rig.are(1, DynoState::Busy).await;
    hold(&rig, Hold::Maintenance(true));
    let answer = rig.get("/").await;
    assert_eq!((answer.status, answer.fault()), (503, "H80"));
    assert!(!answer.header("retry-after").is_empty());
    dyno.let_go();
    assert!(running.await.unwrap().is_ok());
    rig.log.are(2).await;
    let line = rig.log.all().into_iter().find(|line| line["code"] == "H80").unwrap();
    assert_eq!((line["at"].as_str(), line["desc"].as_str()), (Some("info"), Some("Maintenance mode")));
    hold(&rig, Hold::Maintenance(false));
    assert!(rig.get("/").await.is_ok());
}
