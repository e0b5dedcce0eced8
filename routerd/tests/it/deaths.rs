//! Dynos that die: between requests, within one, all of them; and how the line finds them again.

use std::time::Duration;

use router_core::snapshot::DynoState;

use tokio::time::Instant;

use crate::support::{Dyno, Rig, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_closes_its_connection_between_requests_costs_no_get_a_fault() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let mut client = rig.client().await;
    for round in 0..300 {
        // Three ways: closed before the next request comes, at any moment about it, and when it has been sent.
        match round % 3 {
            0 => assert!(client.get("/?keep=0").await.is_ok()),
            1 => {
                client.ask("GET", "/?ms=0").await;
                assert!(client.answer().await.is_ok(), "{round}");
                dyno.close_connections();
            }
            _ => {
                assert!(client.get("/?next=close").await.is_ok());
                assert!(client.get("/").await.is_ok(), "{round}");
            }
        }
    }
    rig.log.are(400).await;
    assert_eq!(rig.log.faults(), [""; 0]);
    rig.at_rest().await;
}

#[tokio::test]
async fn a_dyno_that_closes_without_an_answer_is_h13_and_one_that_closes_within_it_is_h18_or_a_cut() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let closed = rig.get("/?do=close").await;
    assert_eq!((closed.status, closed.fault()), (503, "H13"));
    // Short answers are read whole before the client gets a byte: a clean fault.
    let short = rig.get("/?do=cut&body=100&parts=2").await;
    assert_eq!((short.status, short.fault(), short.whole), (503, "H18", true));
    // Of a long one the client has a part: the only honest sign is a cut.
    let long = rig.get("/?do=cut&body=300000&parts=2").await;
    assert_eq!((long.status, long.whole), (200, false));
    let chunks = rig.get("/?do=cut&body=1000&parts=2&length=0").await;
    assert!(chunks.fault() == "H18" || !chunks.whole, "{chunks:?}");
    let garbage = rig.get("/?do=garbage").await;
    assert_eq!((garbage.status, garbage.fault()), (503, "H17"));
    assert!(rig.get("/").await.is_ok());
    rig.log.are(6).await;
    assert_eq!(rig.log.codes(), ["H13", "H18", "H18", "H18", "H17", "-"]);
    assert_eq!(dyno.asked(), 6, "a request whose connection was new is never sent twice");
    rig.at_rest().await;
}

#[tokio::test]
async fn a_post_is_not_sent_twice_and_a_get_on_a_connection_that_died_is() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    let mut client = rig.client().await;
    assert!(client.get("/?next=close").await.is_ok());
    let post = client.post("/order", b"one").await;
    assert_eq!((post.status, post.fault()), (503, "H13"));
    let orders = |dyno: &Dyno| dyno.seen().iter().filter(|seen| seen.path == "/order").count();
    assert_eq!(orders(&dyno), 1);
    assert!(client.get("/?next=close").await.is_ok());
    assert!(client.get("/page").await.is_ok());
    let pages = dyno.seen().iter().filter(|seen| seen.path == "/page").count();
    assert_eq!(pages, 2, "once on the dead connection, once on a new one");
    assert_eq!(orders(&dyno), 1);
    // A PUT may be sent twice, and its body goes with it.
    assert!(client.get("/?next=close").await.is_ok());
    client.send("PUT /thing HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(client.answer().await.is_ok());
    let puts: Vec<_> =
        dyno.seen().into_iter().filter(|seen| seen.path == "/thing").map(|seen| seen.body).collect();
    assert_eq!(puts, [0, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_refuses_is_quarantined_and_its_requests_go_to_others() {
    let dynos = Dyno::several(3).await;
    let rig = Rig::start(&[&dynos[0], &dynos[1], &dynos[2]], "timeouts.keepalive = '0s'").await;
    dynos[1].kill().await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..30 {
        answers.spawn({
            let get = rig.spawn_get("/?ms=5");
            async move { get.await.unwrap() }
        });
    }
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(rig.count(DynoState::Quarantined), 1);
    assert_eq!((dynos[0].asked() + dynos[2].asked(), dynos[1].asked()), (30, 0));
    rig.log.are(30).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_dyno_gets_one_request_at_a_time_on_its_return() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(
        &[&dynos[0], &dynos[1]],
        "retry = { max_tries = 3, quarantine = '200ms', quarantine_max = '400ms' }",
    )
    .await;
    dynos[0].kill().await;
    dynos[1].kill().await;
    assert_eq!(rig.get("/").await.status, 503);
    dynos[0].restart();
    dynos[1].restart();
    until("both are asked again", || {
        let app = rig.app();
        app.count(DynoState::Quarantined) == 0
    })
    .await;
    let gets: Vec<_> = (0..20).map(|_| rig.spawn_get("/?ms=5")).collect();
    for get in gets {
        assert!(get.await.unwrap().is_ok());
    }
    assert!(dynos.iter().all(|dyno| dyno.asked() > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_dyno_that_restarts_serves_what_came_meanwhile_within_about_a_second() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "").await;
    assert!(rig.get("/").await.is_ok());
    dyno.kill().await;
    let gets: Vec<_> = (0..5).map(|_| rig.spawn_get("/")).collect();
    until("it was tried in vain", || rig.app().dynos[0].failures >= 2).await;
    dyno.restart();
    let restarted = Instant::now();
    for get in gets {
        let answer = get.await.unwrap();
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert!(restarted.elapsed() < Duration::from_secs(2), "{:?}", restarted.elapsed());
    rig.log.are(6).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

#[tokio::test]
async fn an_app_whose_dynos_are_all_down_says_so_and_when_to_come_again() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::start(&[&dynos[0], &dynos[1]], "retry.max_tries = 3").await;
    dynos[0].kill().await;
    dynos[1].kill().await;
    for _ in 0..4 {
        let answer = rig.get("/").await;
        assert_eq!(answer.status, 503);
        assert!(matches!(answer.fault(), "H21" | "H34"), "{answer:?}");
        let again: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=75).contains(&again), "{again}");
    }
    rig.log.are(4).await;
    assert!(rig.log.codes().iter().all(|code| code == "H21" || code == "H34"));
}

#[tokio::test]
async fn a_dyno_that_dies_within_a_request_frees_the_line_for_its_successor() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "retry = { quarantine = '100ms', quarantine_max = '200ms' }").await;
    let get = rig.spawn_get("/?ms=60000");
    until("it is at work", || dyno.is_working()).await;
    dyno.kill().await;
    let answer = get.await.unwrap();
    assert_eq!((answer.status, answer.fault()), (503, "H13"));
    dyno.restart();
    until("the dyno is idle", || rig.count(DynoState::Idle) == 1).await;
    assert!(rig.get("/").await.is_ok());
}
