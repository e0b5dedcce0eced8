//! Certificates that change on the disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rcgen::{KeyPair, date_time_ymd};
use tokio::task::JoinSet;

use super::{config, start, text};
use crate::support::tls::{Authority, TlsClient};
use crate::support::{Dyno, until};

/// Clients that ask once on each connection; every handshake and every answer has to be good.
pub(crate) struct Newcomers {
    over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Newcomers {
    pub(crate) fn start(authority: &Authority, to: SocketAddr, clients: usize) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut all = Self { over, served, clients: JoinSet::new() };
        for _ in 0..clients {
            let (over, served, client) = (Arc::clone(&all.over), Arc::clone(&all.served), authority.client());
            all.clients.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let answer = client.get(to, "shop.test", "/").await;
                    assert!(answer.as_ref().is_ok_and(|it| it.starts_with("HTTP/1.1 200")), "{answer:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        all
    }

    pub(crate) async fn more(&self, wanted: usize) {
        let before = self.served.load(Ordering::SeqCst);
        until("newcomers are served", || self.served.load(Ordering::SeqCst) >= before + wanted).await;
    }

    pub(crate) async fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        while let Some(end) = self.clients.join_next().await {
            end.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_configurations_change_under_newcomers_and_no_handshake_fails() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "").await;
    let daemon = rig.daemon.as_ref().unwrap();
    // NEWCOMERS=2000 for the figure in the issue.
    let all: usize = std::env::var("NEWCOMERS").map_or(120, |all| all.parse().unwrap());
    let clients = Newcomers::start(&authority, secure, 4);
    for round in 0..6 {
        let before = daemon.tls().certificates[0].certificate.mark.clone();
        let new = authority.issue("shop", &["shop.test"]);
        if round % 2 == 0 {
            // By itself.
            until("the new one is served", || daemon.tls().certificates[0].certificate.mark != before).await;
        } else {
            let tls = format!("handshakes = {}", 500 + round);
            daemon.reload(config(&text(&dyno, &[&issued], &tls, ""))).await.unwrap();
        }
        assert_eq!(TlsClient::credulous().shown(secure, "shop.test").await, new.der);
        clients.more(all.div_ceil(6)).await;
    }
    clients.end().await;
    let account = daemon.tls();
    eprintln!("{:?}", account.handshakes);
    let failed = account.handshakes.iter().filter(|(end, _)| !matches!(*end, "full" | "resumed"));
    assert_eq!(failed.map(|(_, count)| count).sum::<u64>(), 0, "{:?}", account.handshakes);
}

#[tokio::test]
async fn what_cannot_be_served_leaves_the_one_before_and_is_told() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue("shop", &["shop.test"]);
    let (rig, secure) = start(&dyno, &[&issued], "").await;
    let daemon = rig.daemon.as_ref().unwrap();
    let failed = || daemon.tls().certificates[0].failed.clone();
    let good = std::fs::read(&issued.cert).unwrap();
    let client = TlsClient::credulous();
    for (bad, why) in [
        (&b"no PEM at all"[..], "no certificate in the file"),
        (&std::fs::read(authority.ca()).unwrap(), "the key of another certificate"),
    ] {
        std::fs::write(&issued.cert, bad).unwrap();
        until(why, || failed().is_some_and(|failed| failed.contains(why))).await;
        assert_eq!(client.shown(secure, "shop.test").await, issued.der);
    }
    std::fs::write(&issued.cert, good).unwrap();
    until("all is well again", || failed().is_none()).await;
    let mut key = Some(KeyPair::generate().unwrap());
    let past = authority.issue_with("shop", &["shop.test"], key.take().unwrap(), |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    until("one that has expired is served", || {
        daemon.tls().certificates[0].certificate.expires == 1_609_459_200
    })
    .await;
    assert_eq!(client.shown(secure, "shop.test").await, past.der);
    assert_eq!(failed(), None);
}

#[tokio::test]
async fn metrics_tell_of_certificates_and_handshakes() {
    let (authority, dyno) = (Authority::new(), Dyno::start().await);
    let issued = authority.issue_with("shop", &["shop.test"], KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2035, 1, 1);
    });
    let text = text(&dyno, &[&issued], "", "") + "[admin]\nlisten = '127.0.0.1:0'\n";
    let rig = crate::support::Rig::from_toml(&text).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let secure = daemon.secure_addresses()[0];
    authority.client().get(secure, "shop.test", "/").await.unwrap();
    let Some(routerd::admin::AdminAddress::Tcp(admin)) = daemon.admin_address() else { panic!("no admin") };
    let page = crate::support::Client::connect(admin).await.local("/metrics").await.text();
    let status = crate::support::Client::connect(admin).await.local("/v1/status").await.text();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let told = &status["certificates"][0];
    assert_eq!((&told["names"][0], &told["error"]), (&"shop.test".into(), &serde_json::Value::Null));
    assert_eq!(told["expires"], "2035-01-01T00:00:00Z");
    let label = format!("{{name=\"shop.test\",cert=\"{}\"}}", issued.cert.display());
    for line in [
        format!("routerd_certificate_expiry_timestamp_seconds{label} 2051222400"),
        format!("routerd_certificate_refused{label} 0"),
        "routerd_tls_handshakes_total{result=\"full\"} 1".to_owned(),
        "routerd_tls_handshakes_total{result=\"timeout\"} 0".to_owned(),
    ] {
        assert!(page.lines().any(|it| it == line), "{line}\n{page}");
    }
}
