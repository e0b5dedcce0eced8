//! WebSockets: whole both ways, one thing at a time for each dyno, kept over what does not concern them, ended gently.

pub(crate) mod leaving;
pub(crate) mod peer;
mod programs;

use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{DEADLINE, Rig, until};
use peer::{End, WsDyno, close, open, text};

/// A daemon in front of those dynos.
async fn rig(dynos: &[WsDyno], app: &str) -> Rig {
    Rig::from_toml(&config(dynos, app, "")).await
}

fn config(dynos: &[WsDyno], app: &str, more: &str) -> String {
    let list: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let list = list.join(", ");
    format!(
        "[server]\nlisten = ['127.0.0.1:0']\nshutdown_timeout = '2s'\n\
         [apps.shop]\nhosts = ['shop.test']\ndynos = [{list}]\n{app}\n{more}"
    )
}

async fn several(rig: &Rig, count: usize) -> Vec<End> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        opening.spawn(open(rig.address, "/"));
    }
    opening.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_takes_up_its_dyno_until_it_ends_and_nothing_overlaps() {
    let dynos = WsDyno::several(3, 0).await;
    let rig = rig(&dynos, "queue = { max_wait = '20s' }").await;
    let mut clients = JoinSet::new();
    for number in 0..12 {
        let address = rig.address;
        clients.spawn(async move {
            for _ in 0..4 {
                let mut end = open(address, "/").await;
                for word in 0..3 {
                    end.echoes(&format!("{number} {word}")).await;
                }
                end.close(1000).await;
            }
        });
        let plain = rig.client().await;
        clients.spawn(async move {
            let mut plain = plain;
            for path in ["/", "/refuse", "/"] {
                assert!(plain.get(path).await.is_ok());
            }
        });
    }
    clients.join_all().await;
    rig.at_rest().await;
    assert!(dynos.iter().all(|dyno| dyno.most_open() <= 1));
    assert_eq!(rig.log.faults(), [""; 0]);
    let lines = rig.settled().await;
    let upgraded: Vec<_> = lines.iter().filter(|line| line["status"] == 101).collect();
    assert_eq!((lines.len(), upgraded.len()), (12 * 3 + 12 * 4, 48));
    // Three echoes of three or four letters with two bytes before each, and a close frame of four.
    let bytes = |line: &&serde_json::Value| line["bytes"].as_u64().unwrap();
    assert!(
        upgraded.iter().all(|line| (19..=25).contains(&bytes(line)) && line["received"].as_u64() > Some(30))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_megabyte_come_back_as_they_were() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let mut end = open(rig.address, "/").await;
    for round in 0..4_u8 {
        let data: Vec<u8> =
            (0..1 << 20).map(|at: u32| (at as u8).wrapping_mul(31).wrapping_add(round)).collect();
        let message = text(data);
        end.send(&message).await;
        assert!(end.next().await == Some(message), "round {round}");
    }
    end.close(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_the_dyno_back_and_loses_nothing() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let End { stream, .. } = open(rig.address, "/").await;
    let (mut reads, mut writes) = stream.into_split();
    let message = text("x".repeat(60_000)).bytes(true);
    let mut sent = 0;
    // The dyno echoes, so once nothing is read nothing is taken.
    while let Ok(done) = timeout(Duration::from_millis(500), writes.write_all(&message)).await {
        done.unwrap();
        sent += 1;
        assert!(sent < 2000, "120 MB are somewhere between two sockets that hold a few");
    }
    let back = text("x".repeat(60_000)).bytes(false);
    let mut read = vec![0; back.len()];
    for round in 0..sent {
        timeout(DEADLINE, reads.read_exact(&mut read)).await.expect("all of it comes").unwrap();
        assert!(read == back, "message {round} of {sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_for_too_long_is_idle() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "timeouts = { stream_idle = '600ms' }").await;
    let mut end = open(rig.address, "/").await;
    let message = text("x".repeat(60_000)).bytes(true);
    while matches!(timeout(Duration::from_millis(5000), end.stream.write_all(&message)).await, Ok(Ok(()))) {}
    until("it is logged", || rig.log.count() == 1).await;
    let line = rig.log.last();
    assert_eq!((&line["code"], &line["status"], &line["end"]), (&"H28".into(), &101.into(), &"idle".into()));
    drop(end);
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_codes_and_words_pass_as_they_are() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let mut end = open(rig.address, "/closes").await;
    assert_eq!(end.next().await, Some(close(3003, "enough")));
    end.send(&close(4001, "thanks")).await;
    assert_eq!(end.next().await, None);
    until("the dyno has heard it", || dynos[0].closes() == [4001]).await;
    rig.at_rest().await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_or_a_dyno_that_dies_ends_it_and_the_dyno_is_free() {
    let dynos = WsDyno::several(1, 0).await;
    let rig = rig(&dynos, "").await;
    let end = open(rig.address, "/").await;
    rig.are(1, DynoState::Busy).await;
    // With a reset, as from a process that was killed with something unread.
    end.stream.set_zero_linger().unwrap();
    drop(end);
    rig.at_rest().await;
    until("it is logged", || rig.log.count() == 1).await;
    assert_eq!((&rig.log.last()["code"], &rig.log.last()["end"]), (&"H27".into(), &"client".into()));
    let mut end = open(rig.address, "/").await;
    end.echoes("still here").await;
    dynos[0].kill();
    assert_eq!(end.next().await, None);
    rig.at_rest().await;
    until("it is logged", || rig.log.count() == 2).await;
    assert_eq!(rig.log.last()["end"], "dyno");
    assert_eq!(rig.log.last()["status"], 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_streams_a_dyno_serves_requests_beside_its_websockets_and_what_is_more_takes_its_slot() {
    let dynos = WsDyno::several(1, 2).await;
    let rig = rig(&dynos, "streams = 2").await;
    let mut two = several(&rig, 2).await;
    assert_eq!(rig.app().dynos[0].upgraded, 2);
    for _ in 0..3 {
        assert!(rig.get("/").await.is_ok(), "there is room for a request beside them");
        two[0].echoes("and they go on").await;
    }
    let third = open(rig.address, "/").await;
    rig.are(1, DynoState::Busy).await;
    let waits = rig.spawn_get("/");
    rig.waiting(1).await;
    // When one of the two ends, the third is beside the requests.
    two.remove(0).close(1000).await;
    assert!(waits.await.unwrap().is_ok());
    assert_eq!(rig.app().dynos[0].upgraded, 2);
    third.close(1000).await;
    two.remove(0).close(1000).await;
    rig.at_rest().await;
    assert_eq!(dynos[0].most_open(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_websockets_and_requests_at_once_never_exceed_what_a_dyno_takes() {
    let dynos = WsDyno::several(3, 4).await;
    let rig = rig(&dynos, "streams = 4\nqueue = { max_wait = '20s' }").await;
    let mut clients = JoinSet::new();
    for number in 0..24_u64 {
        let address = rig.address;
        clients.spawn(async move {
            for round in 0..6 {
                let mut end = open(address, "/").await;
                end.echoes("x").await;
                tokio::time::sleep(Duration::from_millis((number * 7 + round * 3) % 20)).await;
                end.close(1000).await;
            }
        });
        let mut plain = rig.client().await;
        clients.spawn(async move {
            for _ in 0..20 {
                assert!(plain.get("/").await.is_ok());
            }
        });
    }
    clients.join_all().await;
    rig.at_rest().await;
    let most: Vec<_> = dynos.iter().map(WsDyno::most_open).collect();
    assert!(most.iter().all(|most| (2..=5).contains(most)), "{most:?}");
}

/// T16 of the bugs of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_websockets_stay_open_over_reloads_that_do_not_concern_them() {
    let dynos = WsDyno::several(10, 100).await;
    let other = |round: usize| {
        let release = round % 3;
        let wait = 1 + round;
        config(
            &dynos,
            &format!("streams = 100\ntimeouts = {{ idle = '{}s' }}", 30 + round),
            &format!(
                "[apps.zoo]\nhosts = ['zoo.test']\nrelease = 'v{release}'\nqueue = {{ max_wait = '{wait}s' }}\n\
                 dynos = ['127.0.0.1:{}']\n[log]\nqueue = {}\n",
                9 + round,
                5000 + round
            ),
        )
    };
    let rig = Rig::from_toml(&other(0)).await;
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(several(&rig, 100).await);
    }
    assert_eq!(dynos.iter().map(WsDyno::open).sum::<usize>(), 1000);
    for round in 1..=20 {
        let config = Config::parse(&other(round), "test.toml").unwrap();
        let diff = rig.daemon.as_ref().unwrap().reload(config).await.unwrap();
        assert!(!diff.is_empty(), "{diff:?}");
    }
    for (number, end) in all.iter_mut().enumerate() {
        end.echoes(&number.to_string()).await;
    }
    assert_eq!(rig.log.count(), 0, "{:?}", rig.log.codes());
    assert!(rig.get("/").await.is_ok());
    let closing: JoinSet<()> = all.into_iter().map(|end| end.close(1000)).collect();
    closing.join_all().await;
    rig.at_rest().await;
}
