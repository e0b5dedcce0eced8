//! Reload: what changes, changes; what does not is not touched; what is wrong changes nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::config::Config;
use routerd::daemon::{ReloadError, StartError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::support::{Client, DEADLINE, Dyno, Load, Rig, until};

fn config(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// One app, `shop`, in front of these dynos.
fn shop(dynos: &[Dyno], more: &str) -> String {
    let list: Vec<_> = dynos.iter().map(|dyno| format!("'{}'", dyno.address)).collect();
    format!("[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\ndynos = [{}]\n{more}\n", list.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_no_request() {
    let dynos = Dyno::several(6).await;
    let rig = Rig::from_toml(&shop(&dynos, "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let load = Load::start(rig.address, 12);
    for round in 0..30 {
        let (some, limits) = match round % 3 {
            0 => (&dynos[..3], "queue = { max_wait = '9s' }"),
            1 => (&dynos[2..], "order = 'least-recently-used'"),
            _ => (&dynos[..], "release = 'v2'"),
        };
        let diff = daemon.reload(config(&shop(some, limits))).await.unwrap();
        assert_eq!((diff.apps.len(), diff.untouched), (1, 0));
        load.more(20).await;
        let present = || rig.app().dynos.iter().filter(|dyno| dyno.state != DynoState::Draining).count();
        until("the app has its dynos", || present() == some.len()).await;
    }
    let served = load.end().await;
    assert!(served >= 600);
    assert_eq!(rig.log.faults(), Vec::<String>::new());
    rig.log.are(served).await;
}

#[tokio::test]
async fn what_stands_in_both_keeps_its_line_its_requests_and_its_connections() {
    let dynos = Dyno::several(2).await;
    let text = |blog: &str| {
        format!(
            "[server]\nlisten = ['127.0.0.1:0']\n[apps.shop]\nhosts = ['*']\ndynos = ['{}']\n\
             [apps.blog]\nhosts = ['blog.test']\ndynos = ['{}']\n{blog}",
            dynos[0].address, dynos[1].address
        )
    };
    let rig = Rig::from_toml(&text("")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let shop = || daemon.router().snapshot().apps.remove(1);
    let mut kept = rig.client().await;
    assert!(kept.get("/").await.is_ok());
    let at_dyno = rig.spawn_get("/slow?held=1");
    until("one is at the dyno", || shop().count(DynoState::Busy) == 1).await;
    let in_line = rig.spawn_get("/next");
    until("one is in line", || shop().waiting == 1).await;
    let before = shop();
    daemon.reload(config(&text("queue = { max_wait = '1s' }\n"))).await.unwrap();
    let after = shop();
    assert_eq!((before.dispatched, before.waiting), (after.dispatched, after.waiting));
    assert_eq!(daemon.router().app(&"blog".into()).unwrap().limits().queue_max_wait.as_secs(), 1);
    dynos[0].let_go();
    assert!(at_dyno.await.unwrap().is_ok() && in_line.await.unwrap().is_ok());
    assert!(kept.get("/").await.is_ok(), "on the connection from before");
    assert_eq!(dynos[0].connections(), 1, "the dyno kept its one connection");
}

#[tokio::test]
async fn listeners_and_the_admin_address_come_and_go_and_leave_connections_alone() {
    let dynos = Dyno::several(1).await;
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (one, two, admin) = (free(), free(), free());
    let text = |listen: &str, more: &str| shop(&dynos, "").replace("'127.0.0.1:0'", listen) + more;
    let rig = Rig::from_toml(&text(&format!("'{one}'"), "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let mut kept = Client::connect(one).await;
    assert!(kept.get("/").await.is_ok());
    let both = text(&format!("'{one}', '{two}'"), &format!("[admin]\nlisten = '{admin}'\n"));
    daemon.reload(config(&both)).await.unwrap();
    assert!(Client::connect(two).await.get("/").await.is_ok());
    assert!(Client::connect(admin).await.get("/readyz").await.is_ok());
    assert_eq!(daemon.addresses(), [one, two]);
    let diff = daemon.reload(config(&text(&format!("'{two}'"), ""))).await.unwrap();
    assert_eq!(
        diff.to_string(),
        format!(
            "~ server.listen: - {one}\n~ admin.listen: {admin} -> none\n1 app stays as it is; no connection is closed\n"
        )
    );
    assert!(kept.get("/").await.is_ok(), "it came through a listener that is gone");
    assert!(Client::connect(two).await.get("/").await.is_ok());
    // Closed in a task of their own.
    for gone in [one, admin] {
        until("nobody listens there", || std::net::TcpStream::connect(gone).is_err()).await;
    }
}

#[tokio::test]
async fn what_cannot_be_had_changes_nothing() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::from_toml(&shop(&dynos[..1], "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (address, taken)).unwrap();
    let new = shop(&dynos, "queue = { max_wait = '1s' }\n[apps.blog]\nhosts = ['blog.test']\n")
        .replace("'127.0.0.1:0'", &format!("'127.0.0.1:0', '{}'", taken.0))
        .replace("[apps.shop]\n", "[apps.shop]\nhosts = ['*']\n");
    let error = daemon.reload(config(&new)).await.unwrap_err();
    assert!(matches!(error, StartError::Listen(address, _) if address == taken.0), "{error}");
    assert_eq!((rig.app().dynos.len(), daemon.addresses().len()), (1, 1));
    assert_eq!(daemon.router().snapshot().apps.len(), 1);
    assert_eq!(daemon.router().app(&"shop".into()).unwrap().limits().queue_max_wait.as_secs(), 5);
    // Once it can be had, the same configuration is put in place.
    drop(taken);
    daemon.reload(config(&new)).await.unwrap();
    assert_eq!(daemon.router().snapshot().apps.len(), 2);
    assert!(rig.get("/").await.is_ok());
}

#[tokio::test]
async fn an_app_that_comes_has_dynos_at_its_first_request_and_one_that_goes_finishes_its_requests() {
    let dynos = Dyno::several(2).await;
    let app = |name: &str, dyno: &Dyno| {
        format!("[apps.{name}]\nhosts = ['{name}.test']\ndynos = ['{}']\n", dyno.address)
    };
    let server = "[server]\nlisten = ['127.0.0.1:0']\n";
    let rig = Rig::from_toml(&format!("{server}{}", app("old", &dynos[0]))).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let address = rig.address;
    let ask = async move |host: &str, path: &str| {
        let mut client = Client::connect(address).await;
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        client.answer().await
    };
    let running = tokio::spawn(async move { ask("old.test", "/?held=1").await });
    until("it is at the dyno", || dynos[0].asked() == 1).await;
    let swap = daemon.reload(config(&format!("{server}{}", app("new", &dynos[1]))));
    let new = async {
        // Until its hosts are in place nobody has them; from then on no request is refused.
        loop {
            match ask("new.test", "/").await {
                answer if answer.status == 404 => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    };
    let (diff, first) = timeout(DEADLINE, async { tokio::join!(swap, new) }).await.unwrap();
    assert_eq!(diff.unwrap().apps.len(), 2);
    assert!(first.is_ok(), "{first:?}");
    dynos[0].let_go();
    assert!(running.await.unwrap().is_ok());
    assert_eq!(ask("old.test", "/").await.status, 404);
}

#[tokio::test]
async fn an_app_with_another_name_has_its_dynos_at_its_first_request() {
    let dynos = Dyno::several(2).await;
    let rig = Rig::from_toml(&shop(&dynos, "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    assert!(rig.get("/").await.is_ok());
    let mut running = rig.spawn_get("/?held=1");
    until("it is at a dyno", || rig.count(DynoState::Busy) == 1).await;
    for name in ["store", "shop", "store"] {
        daemon.reload(config(&shop(&dynos, "").replace("apps.shop", &format!("apps.{name}")))).await.unwrap();
        let first = rig.get("/").await;
        assert!(first.is_ok(), "{name}: {first:?}");
    }
    assert!(timeout(Duration::from_millis(1), &mut running).await.is_err(), "it was cut");
    dynos.iter().for_each(Dyno::let_go);
    assert!(running.await.unwrap().is_ok());
    until("it has both", || daemon.router().snapshot().apps.iter().any(|app| app.dynos.len() == 2)).await;
    assert_eq!(rig.log.faults(), [""; 0]);
}

/// The real program and what it says.
struct Program {
    child: Child,
    messages: Lines<BufReader<ChildStderr>>,
}

impl Program {
    fn run(config: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_routerd"))
            .args(["run", "--config"])
            .arg(config)
            .args(more)
            .env("XDG_RUNTIME_DIR", std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let messages = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, messages }
    }

    /// Reads on until it says this.
    async fn says(&mut self, what: &str) -> String {
        let found = timeout(DEADLINE, async {
            loop {
                let line = self.messages.next_line().await.unwrap().expect("it goes on");
                if line.contains(what) {
                    return line;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("it never said {what:?}"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

fn port(line: &str) -> SocketAddr {
    line.rsplit_once("http://").unwrap().1.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_under_load_and_bad_configurations_change_nothing() {
    let dynos = Dyno::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routerd.toml");
    let good = |wait: usize| shop(&dynos, &format!("queue = {{ max_wait = '{wait}s' }}\n"));
    std::fs::write(&path, good(9)).unwrap();
    let mut program = Program::run(&path, &[]);
    let address = port(&program.says("listening on").await);
    let load = Load::start(address, 6);
    for round in 0..10 {
        std::fs::write(&path, good(10 + round)).unwrap();
        program.signal(Signal::HUP);
        let said = program.says("max_wait").await;
        assert!(said.contains(&format!("queue.max_wait: {}s -> {}s", 9 + round, 10 + round)), "{said}");
        load.more(10).await;
        std::fs::write(&path, good(10 + round).replace("max_wait", "max_weight")).unwrap();
        program.signal(Signal::HUP);
        let said = program.says("max_weight").await;
        assert!(said.contains("routerd.toml:5:11") && said.contains("did you mean `max_wait`"), "{said}");
        program.says("nothing was changed").await;
        load.more(10).await;
    }
    assert!(load.end().await >= 200);
    program.signal(Signal::TERM);
    assert_eq!(timeout(DEADLINE, program.child.wait()).await.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_watched_file_is_reloaded_when_it_is_renamed_over_and_the_status_tells_of_it() {
    let dynos = Dyno::several(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routerd.toml");
    let text = |more: &str| format!("[admin]\nlisten = '127.0.0.1:0'\n{}", shop(&dynos, more));
    std::fs::write(&path, text("")).unwrap();
    let mut program = Program::run(&path, &["--watch"]);
    let admin = program.says("admin on").await;
    let admin: SocketAddr = admin.rsplit_once(' ').unwrap().1.trim().parse().unwrap();
    let put = |more: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text(more)).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let status = async || {
        let answer = Client::connect(admin).await.local("/v1/status").await;
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()["config"].clone()
    };
    assert_eq!((status().await["reloads"].as_u64(), status().await["error"].as_str()), (Some(0), None));
    put("release = 'v2'\n");
    program.says("release: v1 -> v2").await;
    put("release = 2\n");
    program.says("nothing was changed").await;
    let now = status().await;
    assert_eq!((now["reloads"].as_u64(), now["failed"].as_u64()), (Some(1), Some(1)));
    assert!(now["error"].as_str().unwrap().contains("release"), "{now}");
    put("release = 'v3'\n[log]\nlevel = 'warn'\n");
    let reloaded = async {
        while status().await["reloads"].as_u64() != Some(2) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, reloaded).await.unwrap();
    assert!(status().await["error"].is_null(), "the last one was good");
    let metrics = Client::connect(admin).await.local("/metrics").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("routerd_config_reloads_total{result=\"failed\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_file_that_is_gone_or_wrong_is_told_of_and_counted() {
    let dynos = Dyno::several(1).await;
    let rig = Rig::from_toml(&shop(&dynos, "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routerd.toml");
    let error = daemon.reload_file(&path).await.unwrap_err();
    assert!(
        matches!(error, ReloadError::Config(_)) && error.to_string().contains("cannot be read"),
        "{error}"
    );
    std::fs::write(&path, shop(&dynos, "order = 'fifo'")).unwrap();
    let error = daemon.reload_file(&path).await.unwrap_err();
    assert!(error.to_string().contains("routerd.toml:5:9"), "{error}");
    std::fs::write(&path, shop(&dynos, "order = 'random'")).unwrap();
    let (_, diff) = daemon.reload_file(&path).await.unwrap();
    assert!(diff.to_string().contains("order: lifo -> random"), "{diff}");
}
