//! When a dyno or the router leaves: a close frame between two frames, at a moment of each one's own, and a deadline.

use std::time::Duration;

use router_core::change::{Change, DynoSpec};
use router_core::snapshot::DynoState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::peer::{End, WsDyno, close, open, text};
use super::{config, rig, several};
use crate::support::{Rig, until};
use crate::takeover::takes_over;

const DRAIN_1S: &str = "streams = 50\ndeploy = { drain_timeout = '1s' }";

fn remove(rig: &Rig, dyno: &WsDyno) {
    let change = Change::RemoveDyno("shop".into(), dyno.address);
    rig.daemon.as_ref().unwrap().router().apply(&[change]).unwrap();
}

/// Waits for the close frame and answers it. Says when it came.
pub(crate) async fn goes_away<S: AsyncRead + AsyncWrite + Unpin>(mut end: End<S>) -> Instant {
    assert_eq!(end.next().await, Some(close(1001, "")));
    let when = Instant::now();
    end.send(&close(1001, "")).await;
    assert_eq!(end.next().await, None);
    when
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_leaves_says_goodbye_to_each_of_its_websockets_in_its_time() {
    let dynos = WsDyno::several(1, 50).await;
    let rig = rig(&dynos, DRAIN_1S).await;
    let all = several(&rig, 30).await;
    let began = Instant::now();
    remove(&rig, &dynos[0]);
    let ends: JoinSet<Instant> = all.into_iter().map(goes_away).collect();
    let mut times: Vec<_> = ends.join_all().await.into_iter().map(|at| at - began).collect();
    times.sort();
    // In the first half of the time, and not all at once.
    assert!(times[29] < Duration::from_millis(900), "{times:?}");
    assert!(times[29] - times[0] > Duration::from_millis(100), "{times:?}");
    until("the dyno is gone", || rig.app().dynos.is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(dynos[0].closes(), [1001; 30], "the dyno was told too");
    rig.log.are(30).await;
    assert!(rig.log.all().iter().all(|line| line["end"] == "leaving" && line["status"] == 101));
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_answer_is_cut_in_time_and_the_dyno_has_been_told() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, DRAIN_1S).await;
    let mut end = open(rig.address, "/").await;
    let began = Instant::now();
    remove(&rig, &dynos[0]);
    assert_eq!(end.next().await, Some(close(1001, "")));
    assert_eq!(end.next().await, None);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("the dyno is gone", || rig.app().dynos.is_empty()).await;
    assert_eq!(dynos[0].closes(), [1001]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_close_frame_never_stands_within_another_frame() {
    let dynos = WsDyno::several(2, 50).await;
    let rig = rig(&dynos, "streams = 50\ndeploy = { drain_timeout = '3s' }").await;
    // One dyno sends the rest of its frame in time, the other never.
    let mut whole = open(rig.address, "/half/whole").await;
    let mut half = open(rig.address, "/half").await;
    dynos.iter().for_each(|dyno| remove(&rig, dyno));
    assert_eq!(whole.next().await, Some(text("x".repeat(100))));
    let began = Instant::now();
    assert_eq!(whole.next().await, Some(close(1001, "")));
    whole.send(&close(1001, "")).await;
    assert_eq!(whole.next().await, None);
    let mut rest = Vec::new();
    let read = half.stream.read_to_end(&mut rest).await;
    assert!(read.is_ok(), "{read:?}");
    assert_eq!(rest, &text("x".repeat(100)).bytes(false)[..50]);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_comes_back_in_time_keeps_its_websockets() {
    let dynos = WsDyno::several(1, 50).await;
    let rig = rig(&dynos, DRAIN_1S).await;
    let mut all = several(&rig, 5).await;
    let back = || Change::AddDyno("shop".into(), DynoSpec::new(dynos[0].address));
    let router = rig.daemon.as_ref().unwrap().router().clone();
    let flap = [Change::RemoveDyno("shop".into(), dynos[0].address), back()];
    router.apply(&flap).unwrap();
    router.apply(&flap[..1]).unwrap();
    router.apply(&[back()]).unwrap();
    sleep(Duration::from_millis(1200)).await;
    for end in &mut all {
        end.echoes("still here").await;
    }
    // And it is told when it leaves after all.
    remove(&rig, &dynos[0]);
    let ends: JoinSet<Instant> = all.into_iter().map(goes_away).collect();
    ends.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_goes_takes_its_websockets_along_gently_and_a_reload_does_it() {
    let (old, new) = (WsDyno::several(1, 0).await, WsDyno::several(1, 0).await);
    let app = "deploy = { drain_timeout = '1s' }\ntimeouts = { stream_idle = '20s' }";
    let rig = Rig::from_toml(&config(&old, app, "")).await;
    let end = open(rig.address, "/").await;
    let next = config(&new, &format!("release = 'v2'\n{app}"), "");
    let next = routerd::config::Config::parse(&next, "test.toml").unwrap();
    rig.daemon.as_ref().unwrap().reload(next).await.unwrap();
    goes_away(end).await;
    until("the new dyno alone", || {
        let dynos = rig.app().dynos;
        dynos.len() == 1 && dynos[0].address == new[0].address && dynos[0].state == DynoState::Idle
    })
    .await;
    open(rig.address, "/").await.close(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_says_goodbye_and_cuts_what_is_no_websocket() {
    let dynos = WsDyno::several(1, 50).await;
    let mut rig = rig(&dynos, "streams = 50").await;
    let all = several(&rig, 10).await;
    let began = Instant::now();
    let ends: JoinSet<Instant> = all.into_iter().map(goes_away).collect();
    let log = rig.log.clone();
    assert_eq!(rig.stop(Duration::from_secs(2)).await, 0, "nothing had to be cut");
    ends.join_all().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    log.are(10).await;
    assert_eq!(log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_ended_when_the_daemon_does_is_cut_and_logged_as_h24() {
    let dynos = WsDyno::several(1, 50).await;
    let mut rig = rig(&dynos, "streams = 50").await;
    let all = several(&rig, 3).await;
    let log = rig.log.clone();
    assert_eq!(rig.stop(Duration::ZERO).await, 3);
    log.are(3).await;
    assert_eq!(log.faults(), ["H24"; 3]);
    assert!(log.all().iter().all(|line| line["status"] == 101 && line["end"] == "cut"));
    for mut end in all {
        assert_eq!(end.next().await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_another_process_takes_over_websockets_end_soon_and_it_gets_the_dyno() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    rig.daemon.as_ref().unwrap().offer(&path).await.unwrap();
    let end = open(rig.address, "/").await;
    let (new, ends) = takes_over(rig, &config(&dynos, "", ""), &path).await;
    let began = Instant::now();
    let next = new.spawn_get("/");
    goes_away(end).await;
    assert!(next.await.unwrap().is_ok(), "it has waited for the dyno");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let (cut, old) = ends.await.unwrap();
    assert_eq!((cut, old.log.count(), old.log.faults()), (0, 1, Vec::new()));
    open(new.address, "/").await.close(1000).await;
}
