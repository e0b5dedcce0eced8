//! The program as people start it: its lines, its signals, its exit code.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use router_core::sync::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{DEADLINE, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_routerd");

/// Runs it to its end.
pub(crate) fn routerd(args: &[impl AsRef<OsStr>]) -> Output {
    std::process::Command::new(PROGRAM).args(args).output().expect("routerd starts")
}

/// The program while it runs. It is told to end when this is dropped, so that it can end what it has started.
pub(crate) struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    pub(crate) fn start(args: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(args);
        Self::run(command)
    }

    /// The same with no more than so many open files.
    pub(crate) fn with_files(most: u32, args: &[impl AsRef<OsStr>]) -> Self {
        Self::after(&format!("ulimit -n {most}"), args)
    }

    /// The same in the place of a shell that has carried out a command.
    pub(crate) fn after(first: &str, args: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{first}; exec \"$0\" \"$@\""), PROGRAM]).args(args);
        Self::run(command)
    }

    fn run(mut command: Command) -> Self {
        let mut child = command
            // Its hand-over socket, unless the configuration says where.
            .env("XDG_RUNTIME_DIR", std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = Arc::default();
        listen(child.stdout.take().unwrap(), &lines);
        listen(child.stderr.take().unwrap(), &lines);
        Self { child, lines }
    }

    /// What it has printed so far, on both outputs.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// Waits until so many of its lines have these words, and gives the last of them.
    pub(crate) async fn says(&self, words: &str, times: usize) -> String {
        let mut found = Vec::new();
        let all = || self.lines().into_iter().filter(|line| line.contains(words)).collect::<Vec<_>>();
        until(&format!("{times} times {words:?}: {:#?}", self.lines()), || {
            found = all();
            found.len() >= times
        })
        .await;
        found.swap_remove(times - 1)
    }

    /// Where it says that it listens.
    pub(crate) async fn address(&self) -> SocketAddr {
        let line = self.says("http://", 1).await;
        let (_, address) = line.split_once("http://").unwrap();
        address.split(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends the signal and waits for the end.
    pub(crate) async fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ended().await
    }

    /// Waits for the end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(DEADLINE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it has not ended: {:#?}", self.lines())).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A second signal is an order to be quick. What does not end within 5 s is killed.
        for _ in 0..50 {
            if !self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
                return;
            }
            let _ = kill_process(self.pid(), Signal::TERM);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn listen(output: impl AsyncRead + Send + Unpin + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = Arc::clone(lines);
    let mut output = BufReader::new(output).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = output.next_line().await {
            lines.lock().push(line);
        }
    });
}
