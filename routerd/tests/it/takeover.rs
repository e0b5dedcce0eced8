//! Another daemon takes over: no request is lost, and no dyno has requests of both at once.

mod estate;
mod programs;
mod steps;

use std::path::{Path, PathBuf};
use std::time::Duration;

use routerd::config::Config;
use routerd::daemon::Daemon;
use routerd::handover::Stage;
use routerd::log::{AccessLog, Format};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::{Client, Dyno, Lines, Load, Rig, until};

const LONG: Duration = Duration::from_secs(20);

/// One app, `shop`, in front of these dynos.
fn shop(dynos: &[Dyno], more: &str) -> String {
    let list: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = [{}]\n{more}\n", list.join(", "))
}

/// A daemon that offers to hand over.
async fn offers(dynos: &[Dyno], folder: &TempDir) -> (Rig, PathBuf) {
    let rig = Rig::from_toml(&shop(dynos, "")).await;
    let path = folder.path().join("handover");
    rig.daemon.as_ref().unwrap().offer(&path).await.unwrap();
    (rig, path)
}

/// Another daemon takes over and offers in turn. The old one is told to stop, as the program does it.
pub(crate) async fn takes_over(mut old: Rig, text: &str, path: &Path) -> (Rig, JoinHandle<(usize, Rig)>) {
    let config = Config::parse(text, "test.toml").unwrap();
    let log = Lines::default();
    let access = AccessLog::start(Format::Json, 1 << 16, log.clone()).unwrap();
    let daemon = Daemon::take_over_with_log(&config, path, Some(access)).await.unwrap();
    daemon.offer(path).await.unwrap();
    let address = daemon.addresses()[0];
    assert_eq!(address, old.address, "it has the very socket");
    old.daemon.as_ref().unwrap().handed_over().await;
    let ends = tokio::spawn(async move { (old.stop(LONG).await, old) });
    (Rig { daemon: Some(daemon), address, log }, ends)
}

/// It has every dyno.
pub(crate) async fn has_all(rig: &Rig) {
    let stage = rig.daemon.as_ref().unwrap().stage();
    until("it has every dyno", || *stage.borrow() == Stage::Alone(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_in_a_row_under_load_lose_no_request_and_never_overlap() {
    let dynos = Dyno::several(4).await;
    let folder = tempfile::tempdir().unwrap();
    let (mut rig, path) = offers(&dynos, &folder).await;
    let load = Load::start(rig.address, 12);
    let mut lines = 0;
    for _ in 0..5 {
        load.more(60).await;
        let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
        load.more(60).await;
        let (cut, old) = ends.await.unwrap();
        assert_eq!(cut, 0);
        assert_eq!(old.log.faults(), Vec::<String>::new());
        lines += old.log.count();
        has_all(&new).await;
        rig = new;
    }
    let served = load.end().await;
    rig.log.are(served - lines).await;
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    assert!(path.exists(), "the next one can take over");
    rig.stop(LONG).await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_served_or_waits_in_the_old_one_ends_there_and_comes_first() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let running = rig.spawn_get("/running?held=1");
    until("it runs", || dynos[0].is_working()).await;
    let waiting = rig.spawn_get("/waiting?ms=100");
    rig.waiting(1).await;
    let (new, ends) = takes_over(rig, &shop(&dynos, "timeouts = { boot = '1ms' }"), &path).await;
    assert!(!running.is_finished(), "nobody waits for the request that runs");
    let later = new.spawn_get("/later");
    new.waiting(1).await;
    dynos[0].let_go();
    let (running, waiting) = (running.await.unwrap(), waiting.await.unwrap());
    assert!(running.is_ok() && waiting.is_ok(), "{running:?} {waiting:?}");
    assert_eq!(running.header("connection"), "close");
    assert!(later.await.unwrap().is_ok());
    let (cut, old) = ends.await.unwrap();
    assert_eq!((cut, old.log.count(), old.log.faults()), (0, 2, Vec::new()));
    let order: Vec<_> = dynos[0].seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(order, ["/running?held=1", "/waiting?ms=100", "/later"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_keeps_its_dyno_and_the_others_serve_in_the_new_one() {
    let dynos = Dyno::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let long = rig.spawn_get("/long?held=1");
    until("it runs", || dynos.iter().any(Dyno::is_working)).await;
    let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
    for _ in 0..20 {
        assert!(new.get("/").await.is_ok());
    }
    assert!(!long.is_finished());
    dynos.iter().for_each(Dyno::let_go);
    assert!(long.await.unwrap().is_ok());
    assert_eq!(ends.await.unwrap().0, 0);
    has_all(&new).await;
    new.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_request_on_an_old_connection_gets_a_dyno_back() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let mut idle = rig.client().await;
    assert!(idle.get("/").await.is_ok());
    let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
    assert!(new.get("/new").await.is_ok(), "the dyno is the new one's");
    let busy = new.spawn_get("/busy?ms=1500");
    until("it runs", || dynos[0].is_working()).await;
    let behind = new.spawn_get("/behind");
    new.waiting(1).await;
    let late = idle.get("/late").await;
    assert!(late.is_ok(), "{late:?}");
    assert_eq!(late.header("connection"), "close");
    assert!(busy.await.unwrap().is_ok() && behind.await.unwrap().is_ok());
    assert_eq!(ends.await.unwrap().0, 0);
    let order: Vec<_> = dynos[0].seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(
        order,
        ["/", "/new", "/busy?ms=1500", "/late", "/behind"],
        "the late one was in line elsewhere"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_configuration_may_have_other_listeners_and_dynos() {
    let dynos = Dyno::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin");
    let admin = format!("[admin]\nlisten = 'unix:{}'\n", socket.display());
    let mut rig = Rig::from_toml(&(shop(&dynos[..2], "") + &admin)).await;
    let path = folder.path().join("handover");
    rig.daemon.as_ref().unwrap().offer(&path).await.unwrap();
    let address = rig.address;
    let running = rig.spawn_get("/running?held=1");
    until("it runs", || dynos[..2].iter().any(Dyno::is_working)).await;

    let text = shop(&dynos[1..], "").replace("'127.0.0.1:0'", "'127.0.0.1:0', '[::1]:0'") + &admin;
    let config = Config::parse(&text, "test.toml").unwrap();
    let new = Daemon::take_over_with_log(&config, &path, None).await.unwrap();
    assert_eq!((new.addresses()[0], new.addresses().len()), (address, 2));
    assert!(Client::connect(new.addresses()[1]).await.get("/").await.is_ok(), "one that only this one has");
    let readyz = async || {
        let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut answer).await.unwrap();
        answer
    };
    until("the old one is ready to end", || rig.daemon.as_ref().unwrap().stage().borrow().is_handed_over())
        .await;
    assert!(!running.is_finished());
    dynos.iter().for_each(Dyno::let_go);
    assert_eq!(rig.stop(LONG).await, 0);
    assert!(running.await.unwrap().is_ok());
    assert!(readyz().await.contains("200 OK"), "the old one has left the file of the socket");
    new.stop(LONG).await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_and_a_configuration_that_cannot_be_had_are_told() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let (rig, path) = offers(&dynos, &folder).await;
    let config = |text: &str| Config::parse(text, "test.toml").unwrap();
    let nobody = Daemon::take_over_with_log(&config(&shop(&dynos, "")), &folder.path().join("x"), None).await;
    assert!(nobody.unwrap_err().to_string().starts_with("cannot take over: nobody hands over at unix:"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = shop(&dynos, "").replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let error = Daemon::take_over_with_log(&config(&text), &path, None).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on"), "{error}");
    let stage = rig.daemon.as_ref().unwrap().stage();
    let knows = || matches!(&*stage.borrow(), Stage::Alone(Some(why)) if why.contains("cannot listen on"));
    until("the old one knows why", knows).await;
    assert!(rig.get("/").await.is_ok());
    // And once it can be had.
    let (new, ends) = takes_over(rig, &shop(&dynos, ""), &path).await;
    assert!(new.get("/").await.is_ok());
    assert_eq!(ends.await.unwrap().0, 0);
}
