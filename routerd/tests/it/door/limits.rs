//! How many connections an address may have, and how often an app may be asked.

use std::time::Duration;

use routerd::config::Config;
use rustix::process::Signal;

use super::refused;
use crate::support::program::Program;
use crate::support::{Client, Dyno, Rig, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_with_enough_connections_gets_429_and_leaves_room_to_others() {
    let dyno = Dyno::start().await;
    let rig = Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nmax_connections_per_ip = 2\ntrusted_proxies = ['127.0.0.1']\n\
         proxy_protocol = 'optional'\n[admin]\nlisten = '127.0.0.1:0'\n[apps.shop]\ndynos = ['{}']\n",
        dyno.address
    ))
    .await;
    let open = async |from: &str| {
        let mut client = rig.client().await;
        client.send(format!("PROXY TCP4 {from} 198.51.100.1 4711 443\r\n")).await;
        let answer = client.get("/").await;
        (client, answer)
    };
    let (one, two) = (open("203.0.113.7").await, open("203.0.113.7").await);
    assert!(one.1.is_ok() && two.1.is_ok());
    let (mut third, answer) = open("203.0.113.7").await;
    assert_eq!((answer.status, answer.fault()), (429, "M12"));
    assert_eq!(answer.header("retry-after"), "1");
    assert!(third.rest().await.is_empty());
    assert_eq!(refused(&rig, "max_connections_per_ip").await, 1);
    assert!(open("203.0.113.8").await.1.is_ok(), "another address");
    // The trusted proxy's own connections are not counted.
    let mut own = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        assert!(client.get("/").await.is_ok());
        own.push(client);
    }
    drop(one);
    until("there is room again", || rig.daemon.as_ref().unwrap().connections() <= 5).await;
    assert!(open("203.0.113.7").await.1.is_ok());
    assert_eq!(rig.log.faults(), ["M12"]);
}

#[tokio::test]
async fn an_app_that_is_asked_too_often_says_when_to_come_again_before_it_reads_a_body() {
    let dyno = Dyno::start().await;
    let rig = Rig::start(&[&dyno], "rate_limit = { rate = '60/m', burst = 2 }").await;
    let mut client = rig.client().await;
    assert!(client.get("/").await.is_ok() && client.get("/").await.is_ok());
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\n").await;
    let limited = client.answer().await;
    assert_eq!((limited.status, limited.fault()), (429, "M10"));
    assert_eq!(limited.header("retry-after"), "1");
    rig.log.are(3).await;
    assert_eq!((rig.log.codes().pop().as_deref(), dyno.asked()), (Some("M10"), 2));
    assert_eq!(rig.log.last()["app"], rig.log.all()[0]["app"]);
}

#[tokio::test]
async fn rules_of_an_app_are_put_in_place_on_open_connections_and_what_was_counted_stays() {
    let dyno = Dyno::start().await;
    let text = |app: &str| {
        let dyno = dyno.address;
        format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{dyno}']\n{app}\n")
    };
    let rig = Rig::from_toml(&text("rate_limit = { rate = '1/h', per = 'app' }")).await;
    let mut client = rig.client().await;
    assert!(client.get("/").await.is_ok());
    let faults = async |client: &mut Client, app: &str| {
        let config = Config::parse(&text(app), "test.toml").unwrap();
        let diff = rig.daemon.as_ref().unwrap().reload(config).await.unwrap().to_string();
        let answer = client.get("/").await;
        (answer.status, answer.fault().to_owned(), diff)
    };
    let same = faults(&mut client, "rate_limit = { rate = '1/h', per = 'app' }\nconcurrency = 1").await;
    assert_eq!((same.0, &*same.1), (429, "M10"));
    let other = faults(&mut client, "rate_limit = { rate = '2/h', per = 'app' }").await;
    assert_eq!((other.0, &*other.1), (200, "-"));
    assert!(
        other.2.contains("rate_limit.rate: 1/h -> 2/h") && other.2.contains("rate_limit.burst: 1 -> 2"),
        "{}",
        other.2
    );
    let denied = faults(&mut client, "deny = ['127.0.0.0/8']").await;
    assert_eq!((denied.0, &*denied.1), (403, "M11"));
    let allowed = faults(&mut client, "allow = ['127.0.0.1']").await;
    assert_eq!((allowed.0, &*allowed.1), (200, "-"));
    assert!(
        allowed.2.contains("allow: + 127.0.0.1/32") && allowed.2.contains("deny: - 127.0.0.0/8"),
        "{}",
        allowed.2
    );
    let other = faults(&mut client, "allow = ['10.0.0.0/8', '::1']").await;
    assert_eq!((other.0, &*other.1), (403, "M11"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_clients_are_refused_at_once_and_served_again_later() {
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.toml");
    let dyno_at = dyno.address;
    std::fs::write(
        &file,
        format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = ['{dyno_at}']\n"),
    )
    .unwrap();
    let args = ["run", "--config", file.to_str().unwrap()];
    // As many as it has when nobody is there, and three more: less than what clients get at the least.
    let mut program = Program::start(&args);
    program.address().await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid().as_raw_nonzero())).unwrap().count();
    assert!(program.end(Signal::TERM).await.success());
    let mut program = Program::with_files(u32::try_from(open).unwrap() + 3, &args);
    let address = program.address().await;
    let mut clients = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let mut client = Client::connect(address).await;
        let answer = client.get("/").await;
        match (answer.status, answer.fault()) {
            (200, "-") => clients.push(client),
            (503, "H22") => refused += 1,
            // It may not have reached us before the connection was reset.
            (0, _) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0 && !clients.is_empty(), "{refused} refused, {} served", clients.len());
    drop(clients);
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !Client::connect(address).await.get("/").await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "{:#?}", program.lines());
    }
    let lines = program.lines();
    assert!(lines.iter().any(|line| line.contains("clients get ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("out of file descriptors")), "{lines:#?}");
    assert!(program.end(Signal::TERM).await.success());
}
