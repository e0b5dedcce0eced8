//! Standard output and standard error that nobody reads: the daemon goes on, and ends when it is told to.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, Dyno};

/// A pipe that is full: whoever writes to it waits until somebody reads.
fn full() -> (OwnedFd, OwnedFd) {
    let (reads, mut writes) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writes).unwrap();
    fcntl_setfl(&writes, flags | OFlags::NONBLOCK).unwrap();
    while writes.write(&[b'x'; 4096]).is_ok() {}
    while writes.write(b"x").is_ok() {}
    fcntl_setfl(&writes, flags).unwrap();
    (reads.into(), writes.into())
}

async fn ended(child: &mut Child) -> Option<i32> {
    timeout(DEADLINE, child.wait()).await.expect("it ends").unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_outputs_are_full_serves_reloads_and_ends() {
    let dyno = Dyno::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("routerd.toml");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for log in ["stdout", "stderr"] {
        // A file without descriptors to spare is warned of, before anything else.
        let text = format!(
            "[server]\nlisten = ['{address}']\nmax_connections = 10000000\nhandover = 'off'\n\
             [log]\noutput = '{log}'\n[apps.shop]\ndynos = ['{}']\n",
            dyno.address
        );
        std::fs::write(&config, text).unwrap();
        let (_reads, writes) = full();
        let mut child = Command::new(env!("CARGO_BIN_EXE_routerd"))
            .args(["run".as_ref(), "--config".as_ref(), config.as_os_str()])
            .stdout(Stdio::from(writes.try_clone().unwrap()))
            .stderr(Stdio::from(writes))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let up = async {
            while std::net::TcpStream::connect(address).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, up).await.expect("it starts");
        for _ in 0..3 {
            assert!(Client::connect(address).await.get("/").await.is_ok());
            kill_process(pid, Signal::HUP).unwrap();
        }
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(ended(&mut child).await, Some(0), "{log}");
    }
}

#[tokio::test]
async fn a_daemon_that_cannot_start_ends_though_it_cannot_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("routerd.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    std::fs::write(&config, format!("[server]\nlisten = ['{listen}']\n[apps.shop]\n")).unwrap();
    let (_reads, writes) = full();
    let mut child = Command::new(env!("CARGO_BIN_EXE_routerd"))
        .args(["run".as_ref(), "--config".as_ref(), config.as_os_str()])
        .stderr(Stdio::from(writes))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    assert_eq!(ended(&mut child).await, Some(1));
}
