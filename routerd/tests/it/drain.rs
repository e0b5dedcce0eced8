//! The orderly end: what runs is finished, nothing new is taken, and what takes too long is cut and logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::program::{Program, routerd};
use crate::support::{Client, Dyno, Rig, until};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_finished_what_waits_is_served_and_nothing_new_is_taken() {
    let dyno = Dyno::start().await;
    let mut rig = Rig::start(&[&dyno], "").await;
    let mut idle = rig.client().await;
    assert!(idle.get("/").await.is_ok());
    let running = rig.spawn_get("/running?held=1");
    until("it runs", || dyno.is_working()).await;
    let waiting = rig.spawn_get("/waiting");
    rig.waiting(1).await;
    let (address, log) = (rig.address, rig.log.clone());
    let began = Instant::now();
    let stop = tokio::spawn(async move { rig.stop(LONG).await });
    // An idle connection need not be waited for.
    assert!(idle.rest().await.is_empty());
    assert!(!running.is_finished(), "the idle one was closed at once");
    until("new connections are refused", || std::net::TcpStream::connect(address).is_err()).await;
    dyno.let_go();
    let (running, waiting) = (running.await.unwrap(), waiting.await.unwrap());
    assert!(running.is_ok() && waiting.is_ok(), "{running:?} {waiting:?}");
    assert_eq!(running.header("connection"), "close");
    assert_eq!(stop.await.unwrap(), 0, "nothing was cut");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    log.are(3).await;
    assert_eq!(log.faults(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_ended_by_the_deadline_is_cut_and_logged_as_h24() {
    let dyno = Dyno::start().await;
    let mut rig = Rig::start(&[&dyno], "").await;
    let log = rig.log.clone();
    let hung = rig.spawn_get("/?do=hang");
    until("it runs", || dyno.is_working()).await;
    let waiting = rig.spawn_get("/waiting");
    rig.waiting(1).await;
    // A client in mid-answer is cut as well.
    let began = Instant::now();
    assert_eq!(rig.stop(Duration::from_millis(300)).await, 2);
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(3));
    assert_eq!((hung.await.unwrap().status, waiting.await.unwrap().status), (0, 0));
    log.are(2).await;
    assert_eq!(log.faults(), ["H24"; 2]);
    assert_eq!(dyno.asked(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_the_client_has_not_read_yet_is_waited_for() {
    let dyno = Dyno::start().await;
    let mut rig = Rig::start(&[&dyno], "").await;
    let mut client = rig.client().await;
    client.ask("GET", "/?body=20000000").await;
    let mut answer = client.head().await;
    let stop = tokio::spawn(async move { rig.stop(LONG).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body.len() == 20_000_000);
    assert_eq!(stop.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_ends_with_0_on_sigterm_under_load_and_no_request_fails() {
    let dynos = Dyno::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("routerd.toml");
    let list: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    let text = format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = [{}]\n", list.join(", "));
    std::fs::write(&config, text).unwrap();
    let mut program = Program::start(&["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    let (address, ended) = (program.address().await, Arc::new(AtomicBool::new(false)));
    let served = Arc::new(AtomicUsize::new(0));
    let mut load = JoinSet::new();
    for _ in 0..12 {
        let (ended, served) = (Arc::clone(&ended), Arc::clone(&served));
        load.spawn(async move {
            // A new connection for each: once it is taken, its request is to be served.
            while let Ok(stream) = TcpStream::connect(address).await {
                let mut client = Client::over(stream);
                let answer = client.get("/?ms=5").await;
                if answer.status == 0 && ended.load(Ordering::SeqCst) {
                    // It stood in the kernel's line of connections when the listener was closed.
                    return;
                }
                assert!(answer.is_ok(), "{answer:?}");
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    // One keep-alive client with a request at a dyno when the signal comes.
    until("there is load", || served.load(Ordering::SeqCst) > 200).await;
    let slow = tokio::spawn(async move { Client::connect(address).await.get("/slow?ms=400").await });
    until("it runs", || dynos.iter().any(|dyno| dyno.seen().iter().any(|seen| seen.path.contains("slow"))))
        .await;
    ended.store(true, Ordering::SeqCst);
    let status = program.end(Signal::TERM).await;
    assert_eq!(status.code(), Some(0));
    while let Some(end) = load.join_next().await {
        end.unwrap();
    }
    assert!(slow.await.unwrap().is_ok());
}

/// The program with one dyno.
fn program(dyno: &Dyno, folder: &tempfile::TempDir, server: &str) -> Program {
    let config = folder.path().join("routerd.toml");
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\n{server}\n[admin]\nlisten = 'unix:{}'\n[apps.shop]\ndynos = ['{}']\n",
        folder.path().join("admin").display(),
        dyno.address
    );
    std::fs::write(&config, text).unwrap();
    Program::start(&["run".as_ref(), "--config".as_ref(), config.as_os_str()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_there_when_the_drain_begins_have_their_first_request_served() {
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut program = program(&dyno, &folder, "shutdown_timeout = '9s'");
    let address = program.address().await;
    let mut running = Client::connect(address).await;
    running.ask("GET", "/running?held=1").await;
    until("it runs", || dyno.is_working()).await;
    let mut fresh = Client::connect(address).await;
    // Accepted; these wait in the kernel when it is told to end.
    assert!(fresh.is_open());
    program.signal(Signal::STOP);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(address).await;
        client.ask("GET", "/waiting").await;
        waiting.push(client);
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    program.says("draining", 1).await;
    fresh.ask("GET", "/fresh").await;
    until("new connections are refused", || std::net::TcpStream::connect(address).is_err()).await;
    dyno.let_go();
    for client in [running, fresh].iter_mut().chain(&mut waiting) {
        let answer = client.answer().await;
        assert!(answer.is_ok() && answer.header("connection") == "close", "{answer:?}");
    }
    assert_eq!(program.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_second_signal_cuts_is_logged_as_h24_too() {
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut program = program(&dyno, &folder, "");
    let address = program.address().await;
    let mut running = Client::connect(address).await;
    running.ask("GET", "/running?held=1").await;
    until("it runs", || dyno.is_working()).await;
    let mut waiting = Client::connect(address).await;
    waiting.ask("GET", "/waiting").await;
    program.signal(Signal::TERM);
    program.says("draining 2 connections", 1).await;
    let status = program.end(Signal::TERM).await;
    assert_eq!(status.code(), Some(0));
    for path in ["/running", "/waiting"] {
        let line = program.says(path, 1).await;
        assert!(line.contains("code=H24"), "{line}");
    }
    program.says("2 connections were cut", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_drains_takes_no_order_but_to_resume() {
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut program = program(&dyno, &folder, "");
    let mut running = Client::connect(program.address().await).await;
    running.ask("GET", "/running?held=1").await;
    until("it runs", || dyno.is_working()).await;
    let admin = format!("unix:{}", folder.path().join("admin").display());
    let ctl = |order: &str| {
        let args: Vec<&str> = ["ctl", "--admin", &admin].into_iter().chain(order.split(' ')).collect();
        let out = routerd(&args);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(ctl("pause shop").0, Some(0));
    program.signal(Signal::TERM);
    program.says("draining 1 connections", 1).await;
    for signal in [Signal::HUP, Signal::USR2] {
        program.signal(signal);
        program.says("this process is ending", if signal == Signal::HUP { 1 } else { 2 }).await;
    }
    let deploy = "deploy shop --release v2 --dynos 127.0.0.1:1";
    let orders = ["pause shop", "maintenance shop on", "reload", "upgrade", "restart shop", deploy];
    for order in orders {
        let (code, said) = ctl(order);
        assert!(code == Some(1) && said.contains("the daemon is ending"), "{order}: {said}");
    }
    assert_eq!(ctl("resume shop").0, Some(0));
    dyno.let_go();
    assert!(running.answer().await.is_ok());
    assert_eq!(program.ended().await.code(), Some(0));
}

#[test]
fn check_says_with_its_exit_code_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.toml"), folder.path().join("bad.toml"));
    std::fs::write(&good, "[apps.shop]\ndynos = ['127.0.0.1:3001']\n").unwrap();
    std::fs::write(&bad, "[apps.shop]\ndyno = 1\n").unwrap();
    let code = |args: &[&std::ffi::OsStr]| {
        let out = routerd(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        out.status.code()
    };
    assert_eq!(code(&["check".as_ref(), "--config".as_ref(), good.as_ref()]), Some(0));
    assert_eq!(code(&["check".as_ref(), "--config".as_ref(), bad.as_ref()]), Some(1));
    assert_eq!(code(&["check".as_ref(), "--config".as_ref(), "/nowhere.toml".as_ref()]), Some(1));
    assert_eq!(code(&["check".as_ref(), good.as_ref()]), Some(2));
    assert_eq!(code(&["chekc".as_ref()]), Some(2));
    assert_eq!(code(&["run".as_ref(), "--config".as_ref(), bad.as_ref()]), Some(1));
}
