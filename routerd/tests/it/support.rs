//! What the end-to-end tests stand on: a daemon in this process, dynos that notice overlap, and raw clients.

pub(crate) mod client;
pub(crate) mod dyno;
pub(crate) mod frames;
pub(crate) mod h2c;
pub(crate) mod http2;
mod load;
pub(crate) mod program;
pub(crate) mod tls;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use router_core::snapshot::{AppSnapshot, DynoState};
use router_core::sync::Mutex;
use routerd::config::Config;
use routerd::daemon::Daemon;
use routerd::log::{AccessLog, Format};
use serde_json::Value;
use tokio::time::Instant;

pub(crate) use client::{Answer, Client};
pub(crate) use dyno::{Dyno, Mood};
pub(crate) use load::Load;

/// No test waits longer for one thing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < end, "not in {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether what is not installed fails a test instead of being left out.
fn peers_required() -> bool {
    std::env::var("PEERS").is_ok_and(|value| value == "required")
}

/// Whether the program is there. If not, says so and the test leaves it out, unless `PEERS=required`.
pub(crate) fn installed(program: &str, asks: &[&str]) -> bool {
    let quiet = std::process::Stdio::null;
    let status = std::process::Command::new(program)
        .args(asks)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .status();
    let there = status.is_ok_and(|status| status.success());
    assert!(there || !peers_required(), "PEERS=required, and {program} {asks:?} does not work");
    if !there {
        let _ = writeln!(io::stderr(), "left out: {program} {asks:?} does not work here");
    }
    there
}

/// The lines of the access log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().iter().filter(|byte| **byte == b'\n').count()
    }

    /// All of them, read.
    pub(crate) fn all(&self) -> Vec<Value> {
        let bytes = self.0.lock();
        let whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        whole.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// The last one.
    pub(crate) fn last(&self) -> Value {
        let bytes = self.0.lock();
        let line = bytes.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
        serde_json::from_slice(line).unwrap()
    }

    /// The fault codes, in order; "-" where there was none.
    pub(crate) fn codes(&self) -> Vec<String> {
        self.all().iter().map(|line| line["code"].as_str().unwrap_or("-").to_owned()).collect()
    }

    /// The fault codes of those that had one, in order.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.codes().into_iter().filter(|code| code != "-").collect()
    }

    /// Waits until there are this many, and is sure that there are not more.
    pub(crate) async fn are(&self, wanted: usize) {
        until(&format!("{wanted} lines in the log, there are {}", self.count()), || self.count() >= wanted)
            .await;
        assert_eq!(self.count(), wanted, "{:?}", self.codes());
    }
}

/// A daemon with one app, in this process.
pub(crate) struct Rig {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) address: SocketAddr,
    pub(crate) log: Lines,
}

impl Rig {
    /// A daemon in front of those dynos. `app` are lines of `[apps.shop]`.
    pub(crate) async fn start(dynos: &[&Dyno], app: &str) -> Self {
        Self::start_with(dynos, "", app).await
    }

    /// The same with lines of `[server]`.
    pub(crate) async fn start_with(dynos: &[&Dyno], server: &str, app: &str) -> Self {
        let dynos: Vec<String> = dynos.iter().map(|dyno| format!("{:?}", dyno.address.to_string())).collect();
        let dynos = dynos.join(", ");
        Self::from_toml(&format!(
            "[server]\nlisten = ['127.0.0.1:0']\n{server}\n[apps.shop]\ndynos = [{dynos}]\n{app}\n"
        ))
        .await
    }

    /// A daemon with the whole configuration given.
    pub(crate) async fn from_toml(text: &str) -> Self {
        let config = Config::parse(text, "test.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let log = Lines::default();
        let access = AccessLog::start(Format::Json, 1 << 16, log.clone()).unwrap();
        let daemon = Daemon::start_with_log(&config, Some(access)).await.unwrap();
        let address = daemon.addresses()[0];
        Self { daemon: Some(daemon), address, log }
    }

    /// A new connection.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// GET on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client().await.get(path).await
    }

    /// GET on a connection of its own, in a task.
    pub(crate) fn spawn_get(&self, path: &str) -> tokio::task::JoinHandle<Answer> {
        let (address, path) = (self.address, path.to_owned());
        tokio::spawn(async move { Client::connect(address).await.get(&path).await })
    }

    /// The app as it is now.
    pub(crate) fn app(&self) -> AppSnapshot {
        self.daemon.as_ref().unwrap().router().snapshot().apps.remove(0)
    }

    /// The value of the series whose line begins so.
    pub(crate) async fn metric(&self, begins: &str) -> u64 {
        let admin = self.daemon.as_ref().unwrap().admin_address().unwrap().to_string();
        let admin: SocketAddr = admin.trim_start_matches("http://").parse().unwrap();
        let page = Client::connect(admin).await.local("/metrics").await.text();
        page.lines().find_map(|line| line.strip_prefix(begins)).unwrap().parse().unwrap()
    }

    /// How many dynos are in that state.
    pub(crate) fn count(&self, state: DynoState) -> usize {
        self.app().count(state)
    }

    /// Waits until so many requests are in line.
    pub(crate) async fn waiting(&self, wanted: usize) {
        until(&format!("{wanted} in line"), || self.app().waiting == wanted).await;
    }

    /// Waits until so many dynos are in that state.
    pub(crate) async fn are(&self, wanted: usize, state: DynoState) {
        until(&format!("{wanted} dynos {state:?}: {:?}", self.app()), || self.count(state) == wanted).await;
    }

    /// Waits until nothing is in line and every dyno is idle.
    pub(crate) async fn at_rest(&self) {
        until("nothing in line, every dyno idle", || {
            let app = self.app();
            app.waiting == 0 && app.waiting_bytes == 0 && app.count(DynoState::Idle) == app.dynos.len()
        })
        .await;
    }

    /// Waits until every connection so far has ended, and gives the lines that the log has then.
    pub(crate) async fn settled(&self) -> Vec<Value> {
        let sentinel = || format!("/sentinel/{}", fastrand::u64(..));
        // Connections are taken in order: when this one is, all before it are counted.
        assert!(self.get(&sentinel()).await.is_ok());
        until("every connection has ended", || self.daemon.as_ref().unwrap().connections() == 0).await;
        // The log is written in order: with this line all before it are there.
        let last = sentinel();
        assert!(self.get(&last).await.is_ok());
        until("the log is written", || self.log.count() > 0 && self.log.last()["path"] == last).await;
        let is_sentinel =
            |line: &Value| line["path"].as_str().is_some_and(|path| path.contains("/sentinel/"));
        self.log.all().into_iter().filter(|line| !is_sentinel(line)).collect()
    }

    /// The orderly end. Says how many connections were cut.
    pub(crate) async fn stop(&mut self, within: Duration) -> usize {
        self.daemon.take().unwrap().stop(within).await
    }
}
