//! The same with real processes: signals, exit codes, sockets of systemd, and kills.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use routerd::audit::verify;
use routerd::config::{Role, Scope};
use routerd::control::{Actor, Order, RefusalKind};
use routerd::upgrade::Program as Upgrade;
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, test_kill_process,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::shop;
use crate::support::program::{Program, routerd};
use crate::support::{Client, DEADLINE, Dyno, Load, Rig, until};

/// A configuration file with a hand-over socket beside it.
struct Place {
    folder: TempDir,
    config: PathBuf,
}

impl Place {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("routerd.toml");
        let place = Self { folder, config };
        place.write(text);
        place
    }

    fn write(&self, text: &str) {
        let handover = format!("[server]\nhandover = 'unix:{}'\n", self.socket().display());
        std::fs::write(&self.config, text.replacen("[server]\n", &handover, 1)).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("handover")
    }

    fn run(&self, more: &[&str]) -> Program {
        let args = ["run".as_ref(), "--config".as_ref(), self.config.as_os_str()];
        let more = more.iter().map(|arg| OsStr::new(*arg));
        Program::start(&args.into_iter().chain(more).collect::<Vec<_>>())
    }
}

/// The process of a line: `process 17 has taken over`.
fn pid_in(line: &str) -> Pid {
    let number = line.split("process ").nth(1).unwrap().split(' ').next().unwrap();
    Pid::from_raw(number.parse().unwrap()).unwrap()
}

/// A process that another one has started: it is told to end when this is dropped.
struct Grandchild(OwnedFd);

impl Grandchild {
    fn of(pid: Pid) -> Self {
        Self(pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }
}

impl Drop for Grandchild {
    fn drop(&mut self) {
        // It may have ended.
        let _ = pidfd_send_signal(&self.0, Signal::TERM);
    }
}

async fn serves(address: SocketAddr) -> bool {
    Client::connect(address).await.get("/").await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_takes_over_from_another_under_load() {
    let dynos = Dyno::several(4).await;
    let place = Place::new(&shop(&dynos, ""));
    let mut old = place.run(&[]);
    let address = old.address().await;
    let load = Load::start(address, 12);
    load.more(100).await;
    let long = tokio::spawn(async move { Client::connect(address).await.get("/long?ms=2000").await });
    until("it runs", || dynos.iter().any(|dyno| dyno.seen().iter().any(|seen| seen.path.contains("long"))))
        .await;
    for _ in 0..3 {
        let new = place.run(&["--takeover"]);
        assert_eq!(new.address().await, address);
        load.more(100).await;
        assert_eq!(old.ended().await.code(), Some(0));
        assert!(old.lines().iter().any(|line| line.contains("has taken over")));
        old = new;
    }
    assert!(long.await.unwrap().is_ok(), "it ended in the first one");
    load.more(100).await;
    load.end().await;
    assert_eq!(old.end(Signal::TERM).await.code(), Some(0));
    assert!(!place.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigusr2_starts_the_program_anew_five_times_under_load() {
    let dynos = Dyno::several(3).await;
    let place = Place::new(&shop(&dynos, ""));
    let mut first = place.run(&[]);
    let address = first.address().await;
    let load = Load::start(address, 9);
    let mut pid = first.pid();
    let mut all = Vec::new();
    for round in 1..=5 {
        load.more(50).await;
        kill_process(pid, Signal::USR2).unwrap();
        // All of them print where the first one does.
        let new = pid_in(&first.says("has taken over", round).await);
        until("the old one has ended", || round == 1 || test_kill_process(pid).is_err()).await;
        all.push(Grandchild::of(new));
        pid = new;
        load.more(50).await;
    }
    assert_eq!(first.ended().await.code(), Some(0));
    load.end().await;
    kill_process(pid, Signal::TERM).unwrap();
    until("the last one has ended", || test_kill_process(pid).is_err()).await;
    assert!(!place.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_wrong_leaves_the_old_one_in_place() {
    let dynos = Dyno::several(2).await;
    let place = Place::new(&shop(&dynos, ""));
    let mut old = place.run(&[]);
    let address = old.address().await;
    let load = Load::start(address, 4);
    place.write(&shop(&dynos, "ordre = 'lifo'"));
    assert_eq!(place.run(&["--takeover"]).ended().await.code(), Some(1));
    old.signal(Signal::USR2);
    let said = old.says("this process goes on", 1).await;
    let told = old.lines().join("\n");
    assert!(
        told.contains("does not accept the configuration") && told.contains("did you mean `order`"),
        "{said}"
    );
    load.more(50).await;
    // One that only the start can find.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let two = format!("'127.0.0.1:0', '{}'", taken.local_addr().unwrap());
    place.write(&shop(&dynos, "").replace("'127.0.0.1:0'", &two));
    old.signal(Signal::USR2);
    let said = old.says("this process goes on", 2).await;
    assert!(said.contains("cannot listen on"), "{said}");
    load.more(50).await;
    load.end().await;
    assert_eq!(old.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_one_killed_at_any_moment_leaves_somebody_who_serves() {
    let dynos = Dyno::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let trail = folder.path().join("audit.jsonl");
    let state = folder.path().join("state.json");
    let files = format!("[audit]\nfile = '{}'\n[state]\nfile = '{}'\n", trail.display(), state.display());
    let place = Place::new(&(files + &shop(&dynos, "")));
    let mut old = place.run(&[]);
    let address = old.address().await;
    for step in 0..200 {
        let wait = Duration::from_millis(step * 2);
        let mut new = place.run(&["--takeover"]);
        tokio::time::sleep(wait).await;
        new.end(Signal::KILL).await;
        // What it had accepted went with it; the next request is served, unless it had become the one that serves.
        let over = || old.lines().iter().any(|line| line.contains("INFO process"));
        let decided = async {
            while !over() && !is_served(address).await {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, decided).await.unwrap_or_else(|_| panic!("{wait:?}: {:#?}", old.lines()));
        if over() {
            assert_eq!(old.ended().await.code(), Some(0));
            assert!(step > 0, "some were killed before");
            verify(&trail).unwrap();
            let mut again = place.run(&[]);
            assert!(serves(again.address().await).await, "its files are whole");
            assert_eq!(again.end(Signal::TERM).await.code(), Some(0));
            return;
        }
    }
    panic!("none of them lived for long enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctl_upgrade_says_what_came_of_it() {
    let dynos = Dyno::several(2).await;
    let folder = tempfile::tempdir().unwrap();
    let trail = folder.path().join("audit.jsonl");
    let admin = format!("unix:{}", folder.path().join("admin").display());
    let more = format!("[admin]\nlisten = '{admin}'\n[audit]\nfile = '{}'\n", trail.display());
    let place = Place::new(&(more.clone() + &shop(&dynos, "")));
    let mut old = place.run(&[]);
    let address = old.address().await;
    let ctl = async |verb: &'static str| {
        let args = ["ctl".to_owned(), "--admin".to_owned(), admin.clone(), verb.to_owned()];
        let output = tokio::task::spawn_blocking(move || routerd(&args)).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let load = Load::start(address, 6);
    load.more(50).await;
    place.write(&(more.clone() + &shop(&dynos, "ordre = 'lifo'")));
    let (code, said) = ctl("upgrade").await;
    assert!(code == Some(1) && said.contains("did you mean `order`"), "{code:?} {said}");
    place.write(&(more + &shop(&dynos, "")));
    let (code, said) = ctl("upgrade").await;
    assert!(
        code == Some(0) && said.contains("has taken over; this one finishes what it has"),
        "{code:?} {said}"
    );
    let new = pid_in(&said);
    let _ends = Grandchild::of(new);
    load.more(50).await;
    assert_eq!(old.ended().await.code(), Some(0));
    let (code, said) = ctl("status").await;
    assert!(code == Some(0) && said.contains("shop"), "the new one answers: {said}");
    load.end().await;
    let text = std::fs::read_to_string(&trail).unwrap();
    let outcomes: Vec<_> = text.lines().map(|line| line.split("\"outcome\":").nth(1).is_some()).collect();
    assert_eq!(outcomes, [false, true, false, true], "{text}");
    verify(&trail).unwrap();
    kill_process(new, Signal::TERM).unwrap();
    until("it has ended", || test_kill_process(new).is_err()).await;
}

/// Whether anybody answers.
async fn is_served(address: SocketAddr) -> bool {
    match TcpStream::connect(address).await {
        Ok(stream) => Client::over(stream).get("/").await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_one_killed_in_the_middle_leaves_all_dynos_to_the_new_one() {
    let dynos = Dyno::several(2).await;
    let place = Place::new(&shop(&dynos, ""));
    let mut old = place.run(&[]);
    let address = old.address().await;
    let hung = tokio::spawn(async move { Client::connect(address).await.get("/?do=reads").await });
    until("it runs", || dynos.iter().any(Dyno::is_working)).await;
    let mut new = place.run(&["--takeover"]);
    assert_eq!(new.address().await, address);
    assert!(serves(address).await);
    old.end(Signal::KILL).await;
    assert_eq!(hung.await.unwrap().status, 0, "it went with the old one");
    new.says("the process before has ended with 1 dynos", 1).await;
    // Both dynos, at once.
    let both =
        [(); 2].map(|()| tokio::spawn(async move { Client::connect(address).await.get("/?held=1").await }));
    until("both are at work", || dynos.iter().all(Dyno::is_working)).await;
    dynos.iter().for_each(Dyno::let_go);
    for answer in both {
        assert!(answer.await.unwrap().is_ok());
    }
    assert_eq!(new.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_one_killed_while_the_new_one_starts_is_replaced_all_the_same() {
    let dynos = Dyno::several(2).await;
    let hole = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // With a name that nobody answers for, the start takes seconds.
    let slow = format!(
        "[dns]\nservers = ['{}']\ntimeout = '60s'\n[apps.slow]\nhosts = ['slow.test']\ndynos = ['dns:x.test:80']\n",
        hole.local_addr().unwrap()
    );
    let place = Place::new(&shop(&dynos, "hosts = ['*']"));
    let mut old = place.run(&[]);
    let address = old.address().await;
    assert!(serves(address).await);
    place.write(&(shop(&dynos, "hosts = ['*']\n") + &slow));
    let mut new = place.run(&["--takeover"]);
    old.says("handing over to process", 1).await;
    old.end(Signal::KILL).await;
    // It waits in the kernel.
    assert!(serves(address).await);
    assert_eq!(new.address().await, address);
    assert_eq!(new.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_ended_by_shutdown_timeout_is_cut_and_its_dyno_handed_over() {
    let dynos = Dyno::several(1).await;
    let text = shop(&dynos, "").replace("[server]\n", "[server]\nshutdown_timeout = '2s'\n");
    let place = Place::new(&text);
    let mut old = place.run(&[]);
    let address = old.address().await;
    let hung = tokio::spawn(async move { Client::connect(address).await.get("/?do=reads").await });
    until("it runs", || dynos[0].is_working()).await;
    let new = place.run(&["--takeover"]);
    assert_eq!(new.address().await, address);
    let later = tokio::spawn(async move { Client::connect(address).await.get("/later").await });
    assert_eq!(old.ended().await.code(), Some(0));
    assert_eq!(hung.await.unwrap().status, 0);
    assert!(later.await.unwrap().is_ok(), "it waited for the only dyno");
}

/// Runs it as systemd would: these two sockets are descriptors 3 and 4.
fn activated(config: &Path, first: TcpListener, second: TcpListener, notify: &Path) -> tokio::process::Child {
    let script = r#"exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec "$@""#;
    Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_routerd"), "run", "--config"])
        .arg(config)
        .env("NOTIFY_SOCKET", notify)
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .stdin(Stdio::from(OwnedFd::from(first)))
        .stdout(Stdio::from(OwnedFd::from(second)))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_systemd_are_used_others_are_closed_and_systemd_is_told() {
    let dynos = Dyno::several(1).await;
    let [listen, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, unused) = (listen.local_addr().unwrap(), other.local_addr().unwrap());
    let place = Place::new(&shop(&dynos, "").replace("127.0.0.1:0", &address.to_string()));
    let path = place.folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut space = [0; 1000];
        // A child that ends interrupts it.
        let length = loop {
            match notify.recv(&mut space) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8_lossy(&space[..length]).trim().to_owned()
    };
    let mut child = activated(&place.config, listen, other, &path);
    // A client is taken before anybody accepts: the socket was open all the time.
    let early = tokio::spawn(async move { serves(address).await });
    assert_eq!(told(), "READY=1");
    assert!(early.await.unwrap());
    until("the other socket is closed", || std::net::TcpStream::connect(unused).is_err()).await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    kill_process(pid, Signal::USR2).unwrap();
    // The new one says so as soon as it serves, the old one names it.
    let both = [told(), told()];
    assert!(both.contains(&"READY=1".to_owned()), "{both:?}");
    let main = both.iter().find_map(|said| said.strip_prefix("MAINPID=")).unwrap();
    let main = Pid::from_raw(main.parse().unwrap()).unwrap();
    let _ends = Grandchild::of(main);
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(serves(address).await);
    kill_process(main, Signal::TERM).unwrap();
    assert_eq!(told(), "STOPPING=1");
    until("it has ended", || test_kill_process(main).is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_to_upgrade_starts_the_program_and_says_what_came_of_it() {
    let dynos = Dyno::several(2).await;
    let mut rig = Rig::from_toml(&shop(&dynos, "")).await;
    // What it prints would go between the lines of the tests.
    let quiet = format!("[log]\noutput = 'off'\nlevel = 'error'\n{}", shop(&dynos, ""));
    let text = quiet.replace("127.0.0.1:0", &rig.address.to_string());
    let place = Place::new(&text);
    let daemon = rig.daemon.as_ref().unwrap();
    daemon.offer(&place.socket()).await.unwrap();
    let upgrade = || {
        let actor = Actor { name: "ci".to_owned(), from: None, role: Role::Admin, apps: Scope::All };
        daemon.control().order(actor, Order::Upgrade)
    };
    let refused = upgrade().await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unsupported, "{refused}");
    let args = vec!["run".into(), "--config".into(), place.config.clone().into()];
    daemon.set_program(Upgrade::new(env!("CARGO_BIN_EXE_routerd").into(), args, place.config.clone()));
    place.write(&shop(&dynos, "").replace("127.0.0.1:0", "nowhere"));
    let refused = upgrade().await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Conflict);
    assert!(refused.text.contains("server.listen"), "{refused}");
    assert!(rig.get("/").await.is_ok());

    place.write(&text);
    let load = Load::start(rig.address, 4);
    load.more(30).await;
    let receipt = upgrade().await.unwrap();
    let pid = pid_in(&receipt.text);
    let _ends = Grandchild::of(pid);
    assert_eq!(daemon.handed_over().await, Some(pid.as_raw_pid()));
    assert_eq!(rig.stop(DEADLINE).await, 0);
    load.more(30).await;
    load.end().await;
}
