//! Bodies on disk: slow clients hold no dyno, every byte comes as it was sent, and nothing is left behind.

mod press;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use router_core::snapshot::DynoState;
use routerd::config::Config;
use routerd::daemon::Daemon;
use tempfile::TempDir;
use tokio::time::Instant;

use self::press::{Press, pattern};
use crate::support::{Answer, Client, Dyno, Rig};
use crate::takeover::takes_over;

/// Clients that are slow at once.
const MANY: usize = 20;

/// A daemon whose bodies go to that folder.
async fn rig(dyno: std::net::SocketAddr, folder: &Path, server: &str, app: &str) -> Rig {
    Rig::from_toml(&format!(
        "[server]\nlisten = ['127.0.0.1:0']\nspool_dir = {:?}\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n\
         [apps.shop]\ndynos = ['{dyno}']\nqueue.max_wait = '20s'\n{app}\n",
        folder.to_str().unwrap()
    ))
    .await
}

/// Waits until no body is on disk.
async fn all_gone(rig: &Rig) {
    let end = Instant::now() + crate::support::DEADLINE;
    while rig.metric("routerd_disk_bytes ").await + rig.metric("routerd_disk_files ").await > 0 {
        assert!(Instant::now() < end, "something is left on disk");
    }
}

/// Waits until so many bytes of bodies are on disk.
async fn on_disk(rig: &Rig, bytes: u64) {
    let end = Instant::now() + crate::support::DEADLINE;
    while rig.metric("routerd_disk_bytes ").await < bytes {
        assert!(Instant::now() < end, "less than {bytes} bytes are on disk");
    }
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().unwrap().next().is_none()
}

/// Asks for so many bytes and reads the head alone.
async fn ask_small(rig: &Rig, length: usize) -> (Client, Answer) {
    let mut client = Client::small(rig.address).await;
    client.ask("GET", &format!("/{length}")).await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    (client, head)
}

async fn reads_all((mut client, mut answer): (Client, Answer), length: usize) {
    client.body(&mut answer).await;
    assert!(answer.whole && answer.body == pattern(length), "{} of {length}", answer.body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_long_answers_hold_no_dyno_and_get_every_byte() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let limits = "response_spool = '64KiB'\nresponse_disk = '32MiB'";
    let rig = rig(dyno.address, folder.path(), "", limits).await;
    let length = 8_000_000;
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(ask_small(&rig, length).await);
    }
    rig.at_rest().await;
    let stored = rig.metric("routerd_disk_bytes ").await;
    assert!((1..=(MANY * length) as u64).contains(&stored), "{stored}");
    assert_eq!(rig.metric("routerd_disk_files ").await, MANY as u64);
    assert!(is_empty(folder.path()), "no file has a name");
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(rig.get("/10").await.is_ok());
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    for client in slow {
        reads_all(client, length).await;
    }
    all_gone(&rig).await;
    assert_eq!(rig.log.faults(), [""; 0]);
    assert!(is_empty(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_uploads_hold_no_dyno_and_come_whole() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let rig = rig(dyno.address, folder.path(), "", "request_disk = '32MiB'\nqueue.max_bytes = '2MiB'").await;
    let body = pattern(4_000_000);
    let head = format!("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut slow = Vec::new();
    for _ in 0..MANY {
        let mut client = rig.client().await;
        client.send(&head).await;
        client.send(&body[..body.len() - 1]).await;
        slow.push(client);
    }
    let so_far = (MANY * (body.len() - (256 << 10))) as u64;
    let end = Instant::now() + crate::support::DEADLINE;
    while rig.metric("routerd_disk_bytes ").await < so_far {
        assert!(Instant::now() < end && rig.count(DynoState::Idle) == 1);
    }
    for _ in 0..50 {
        assert!(rig.get("/10").await.is_ok());
    }
    assert_eq!((rig.count(DynoState::Idle), dyno.bodies()), (1, 0));
    // Half of them leave.
    for _ in 0..MANY / 2 {
        drop(slow.pop());
    }
    for client in &mut slow {
        client.send(&body[body.len() - 1..]).await;
    }
    for client in &mut slow {
        assert_eq!(client.answer().await.text(), "same");
    }
    assert_eq!(dyno.bodies(), MANY / 2);
    all_gone(&rig).await;
    rig.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_disk_has_no_room_for_either_is_streamed_and_nothing_is_lost() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    for (app, reason) in [
        ("response_disk = '1MiB'\nrequest_disk = '1MiB'", None),
        ("response_disk = '1MiB'\nrequest_disk = '1MiB'\nresponse_spool = '0B'\nrequest_buffer = '0B'", None),
        ("response_disk = '99MiB'\nrequest_disk = '99MiB'", Some("server_full")),
    ] {
        let rig = rig(dyno.address, folder.path(), "disk_max = '2MiB'", app).await;
        let length = 30_000_000;
        let slow = ask_small(&rig, length).await;
        let next = rig.spawn_get("/10");
        rig.waiting(1).await;
        assert!(rig.count(DynoState::Busy) == 1 && !next.is_finished(), "{app}");
        reads_all(slow, length).await;
        assert!(next.await.unwrap().is_ok());
        let answer = rig.client().await.post("/", &pattern(10_000_000)).await;
        assert_eq!(answer.text(), "same", "{app}");
        all_gone(&rig).await;
        for name in ["app_full", "server_full", "no_space", "error"] {
            let told = rig.metric(&format!("routerd_disk_fallbacks_total{{reason=\"{name}\"}} ")).await;
            assert_eq!(told > 0, reason == Some(name), "{app}: {name} {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_whose_room_on_disk_is_taken_waits_for_its_clients_and_loses_nothing() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let limits = "response_spool = '64KiB'\nresponse_disk = '8MiB'\ndisk_max = '8MiB'";
    let rig = rig(dyno.address, folder.path(), "", limits).await;
    let length = 8_000_000;
    let first = ask_small(&rig, length).await;
    rig.at_rest().await;
    let second = ask_small(&rig, length).await;
    let full = "routerd_disk_fallbacks_total{reason=\"app_full\"} ";
    let end = Instant::now() + crate::support::DEADLINE;
    while rig.metric(full).await == 0 {
        assert!(Instant::now() < end);
    }
    assert_eq!(rig.count(DynoState::Busy), 1);
    reads_all(second, length).await;
    reads_all(first, length).await;
    rig.at_rest().await;
    all_gone(&rig).await;
    assert_eq!(rig.metric(full).await, 1, "told once an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_leaves_nothing_on_disk() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let limits = "response_spool = '64KiB'\nresponse_disk = '9MiB'\nrequest_disk = '9MiB'";
    let rig = rig(dyno.address, folder.path(), "", limits).await;
    for length in [8_000_000, 30_000_000] {
        let mut slow = ask_small(&rig, length).await;
        let mut part = [0; 1000];
        tokio::io::AsyncReadExt::read_exact(&mut slow.0.stream, &mut part).await.unwrap();
        on_disk(&rig, 1).await;
        drop(slow);
        all_gone(&rig).await;
        rig.at_rest().await;
    }
    let mut upload = rig.client().await;
    upload.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4000000\r\n\r\n").await;
    upload.send(&pattern(4_000_000)[..2_000_000]).await;
    on_disk(&rig, 1_500_000).await;
    drop(upload);
    all_gone(&rig).await;
    assert_eq!(dyno.bodies(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_a_stream_is_with_the_client_before_the_next_is_made() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let rig = rig(dyno.address, folder.path(), "", "response_spool = '1KiB'\nresponse_disk = '9MiB'").await;
    let mut client = rig.client().await;
    client.ask("GET", "/events").await;
    assert_eq!(client.head().await.status, 200);
    for number in 0..50 {
        // Longer than what is kept in memory, so that each is one that might have gone to disk.
        let event = format!("data: {number} {}\n\n", "e".repeat(3000));
        dyno.says(&event);
        let mut read = Vec::new();
        while read.len() < event.len() {
            client.chunk(&mut read).await.unwrap();
        }
        assert_eq!(read, event.as_bytes());
    }
    assert_eq!(rig.metric("routerd_disk_files ").await, 0);
    assert_eq!(rig.metric("routerd_disk_fallbacks_total{reason=\"error\"} ").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_on_disk_is_sent_again_where_that_is_safe() {
    let (dyno, folder) = (Dyno::start().await, tempfile::tempdir().unwrap());
    let rig = rig(dyno.address, folder.path(), "", "request_disk = '9MiB'").await;
    // The connection is dead when the next request comes on it.
    assert!(rig.get("/?next=close").await.is_ok());
    let mut client = rig.client().await;
    client.send("PUT / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3000000\r\n\r\n").await;
    client.send(pattern(3_000_000)).await;
    assert!(client.answer().await.is_ok());
    let puts: Vec<_> = dyno.seen().iter().filter(|seen| seen.method == "PUT").map(|seen| seen.body).collect();
    assert_eq!(puts, [0, 3_000_000]);
    all_gone(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_a_slow_client_have_its_answer_from_disk() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let limits = "response_spool = '64KiB'\nresponse_disk = '32MiB'";
    let mut rig = rig(dyno.address, folder.path(), "", limits).await;
    let length = 12_000_000;
    let slow = ask_small(&rig, length).await;
    rig.at_rest().await;
    assert!(rig.metric("routerd_disk_bytes ").await > 0);
    let reading = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        reads_all(slow, length).await;
    });
    assert_eq!(rig.stop(Duration::from_secs(15)).await, 0);
    reading.await.unwrap();
    assert!(is_empty(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_lets_a_slow_client_have_its_answer_from_disk() {
    let (dyno, folder, run) =
        (Press::start().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = format!(
        "[server]\nlisten = ['127.0.0.1:0']\nspool_dir = {:?}\n[apps.shop]\ndynos = ['{}']\n\
         response_spool = '64KiB'\nresponse_disk = '32MiB'\n",
        folder.path().to_str().unwrap(),
        dyno.address
    );
    let (rig, path) = (Rig::from_toml(&text).await, run.path().join("handover"));
    rig.daemon.as_ref().unwrap().offer(&path).await.unwrap();
    let length = 12_000_000;
    let slow = ask_small(&rig, length).await;
    rig.at_rest().await;
    let (new, ends) = takes_over(rig, &text, &path).await;
    assert!(new.get("/10").await.is_ok(), "the dyno is the new one's");
    reads_all(slow, length).await;
    let (cut, old) = ends.await.unwrap();
    assert_eq!((cut, old.log.codes()), (0, vec!["-".to_owned()]));
    assert!(is_empty(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_written_to_is_an_error_at_the_start_and_at_a_reload() {
    let (dyno, folder) = (Press::start().await, tempfile::tempdir().unwrap());
    let text = |folder: &str, app: &str| {
        let server = format!("[server]\nlisten = ['127.0.0.1:0']\nhandover = 'off'\nspool_dir = '{folder}'");
        format!("{server}\n[apps.shop]\ndynos = ['{}']\n{app}\n", dyno.address)
    };
    let config = |folder: &str, app: &str| Config::parse(&text(folder, app), "test.toml").unwrap();
    let wanted = "response_disk = '9MiB'";
    let error = Daemon::start(&config("/nowhere/at/all", wanted)).await.err().unwrap().to_string();
    let said =
        r#"cannot put bodies on disk (server.spool_dir = "/nowhere/at/all"): No such file or directory"#;
    assert!(error.starts_with(said), "{error}");
    // Nobody needs it.
    let rig = Rig::from_toml(&text("/nowhere/at/all", "")).await;
    let daemon = rig.daemon.as_ref().unwrap();
    let refused = daemon.reload(config("/nowhere/at/all", wanted)).await.err().unwrap().to_string();
    assert!(refused.starts_with(said), "{refused}");
    let diff = daemon.reload(config(folder.path().to_str().unwrap(), wanted)).await.unwrap().to_string();
    assert!(
        diff.contains("~ server.spool_dir: /nowhere/at/all -> ")
            && diff.contains("response_disk: 0B -> 9MiB")
    );
    let slow = ask_small(&rig, 8_000_000).await;
    rig.at_rest().await;
    reads_all(slow, 8_000_000).await;
}

/// A disk of 2 MiB.
struct Small(TempDir);

impl Small {
    /// `None`: nobody here may mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"];
        runs(&mount, folder.path()).then_some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        runs(&["umount", "--lazy"], self.0.path());
    }
}

fn runs(words: &[&str], place: &Path) -> bool {
    let mut command = Command::new(words[0]);
    let output = command.args(&words[1..]).arg(place).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_runs_full_loses_nothing() {
    let Some(disk) = Small::mount() else { return };
    let dyno = Press::start().await;
    let rig = rig(dyno.address, disk.0.path(), "", "response_disk = '32MiB'\nrequest_disk = '32MiB'").await;
    let slow = ask_small(&rig, 30_000_000).await;
    let end = Instant::now() + crate::support::DEADLINE;
    while rig.metric("routerd_disk_fallbacks_total{reason=\"no_space\"} ").await == 0 {
        assert!(Instant::now() < end);
    }
    reads_all(slow, 30_000_000).await;
    assert_eq!(rig.client().await.post("/", &pattern(10_000_000)).await.text(), "same");
    all_gone(&rig).await;
}
