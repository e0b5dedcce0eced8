//! A flood of handshakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::start;
use crate::support::tls::Authority;
use crate::support::{Client, Dyno};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn established_traffic_goes_on_and_what_cannot_wait_is_closed() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "handshakes = 1").await;
    let mut client = Client::connect(rig.address).await;
    assert!(client.get("/").await.is_ok());
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (over, done, client) = (Arc::clone(&over), Arc::clone(&done), authority.client());
        flood.spawn(async move {
            let mut client = client;
            client.config.resumption = rustls::client::Resumption::disabled();
            while !over.load(Ordering::SeqCst) {
                let _ = client.connect(secure, "shop.test").await;
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while done.load(Ordering::SeqCst) < 300 {
        let asked = Instant::now();
        assert!(client.get("/").await.is_ok());
        slowest = slowest.max(asked.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20), "{} handshakes", done.load(Ordering::SeqCst));
    }
    over.store(true, Ordering::SeqCst);
    while flood.join_next().await.is_some() {}
    let counts = rig.daemon.as_ref().unwrap().tls().handshakes;
    let of = |name: &str| counts.iter().find(|(end, _)| *end == name).unwrap().1;
    assert!(of("full") > 0 && of("crowded") > 0, "{counts:?}");
    assert!(slowest < Duration::from_secs(2), "the slowest answer took {slowest:?}");
}
