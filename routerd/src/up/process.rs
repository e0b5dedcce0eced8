//! One child process: its shell, its environment, its process group, and its end.
//!
//! Each child leads a process group of its own. Ctrl-C in the terminal therefore reaches only routerd, which ends the
//! children in order, and a signal for a child reaches all that it has started. When a [`Process`] is dropped, its
//! group is killed; only if routerd itself is killed with SIGKILL do children stay (the parent-death signal of Linux
//! has to be set between fork and exec, which needs `unsafe`).

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// How long a group may take to vanish after SIGKILL before it is given up: a process can hang in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time from one look at a dying group to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A child and its process group.
pub(crate) struct Process {
    child: Child,
    group: Option<Pid>,
}

/// What a child prints.
pub(crate) struct Pipes {
    pub(crate) out: Option<ChildStdout>,
    pub(crate) err: Option<ChildStderr>,
}

impl Process {
    /// Starts a command of a Procfile through `sh -c`, with `PORT` and `DYNO` in its environment and no input.
    pub(crate) fn start(command: &str, directory: &Path, dyno: &str, port: u16) -> io::Result<(Self, Pipes)> {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(script(command))
            .current_dir(directory)
            .env("PORT", port.to_string())
            .env("DYNO", dyno)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pipes = Pipes { out: child.stdout.take(), err: child.stderr.take() };
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok((Self { child, group }, pipes))
    }

    /// Waits until the child itself has ended, and says how. Others of its group may live on.
    ///
    /// # Cancel safety
    /// Nothing is lost; ask again.
    pub(crate) async fn wait(&mut self) -> Ending {
        match self.child.wait().await {
            Ok(status) => Ending::of(status),
            Err(error) => Ending { well: false, how: format!("was lost: {error}") },
        }
    }

    /// Ends the child and its whole group: SIGTERM, then SIGKILL when `grace` is over or `at_once` comes.
    /// False if something of the group is still there after that.
    pub(crate) async fn end(&mut self, grace: Duration, at_once: impl Future<Output = ()>) -> bool {
        self.signal(Signal::TERM);
        let gone = tokio::select! {
            biased;
            () = at_once => false,
            done = timeout(grace, self.gone()) => done.is_ok(),
        };
        if gone {
            return true;
        }
        self.signal(Signal::KILL);
        timeout(KILL_TIMEOUT, self.gone()).await.is_ok()
    }

    /// Waits until nobody of the group is left.
    async fn gone(&mut self) {
        self.wait().await;
        while self.group.is_some_and(lives) {
            sleep(LOOK_EVERY).await;
        }
        // The number may soon mean another group: never use it again.
        self.group = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // A group that is gone is what we want.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What `sh -c` is given. A simple command replaces its shell, so that no shell stands between it and its signals;
/// anything else is left as it is, and its signals reach it through the group.
fn script(command: &str) -> String {
    const SHELL_WORDS: [&str; 29] = [
        ".", ":", "[", "alias", "break", "case", "cd", "command", "continue", "eval", "exec", "exit",
        "export", "for", "function", "if", "local", "read", "readonly", "return", "set", "shift", "source",
        "time", "trap", "ulimit", "umask", "until", "while",
    ];
    let first = command.split_whitespace().next().unwrap_or_default();
    if command.contains([';', '&', '|', '(', ')', '{', '}', '`', '\n', '!']) || SHELL_WORDS.contains(&first) {
        return command.to_owned();
    }
    match first.split_once('=') {
        Some((name, _)) if is_variable(name) => format!("exec env {command}"),
        _ => format!("exec {command}"),
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether anybody of the group is alive. One that has ended and that nobody waits for does not count: in a container
/// without an init it would stay for ever.
fn lives(group: Pid) -> bool {
    test_kill_process_group(group).is_ok() && !only_zombies(group)
}

fn only_zombies(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let mut seen = false;
    for process in processes.flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        seen = true;
        // "PID (NAME) STATE PARENT GROUP ...", and the name may hold anything.
        let Some((_, after_name)) = stat.rsplit_once(')') else { continue };
        let mut fields = after_name.split_ascii_whitespace();
        let (state, of) = (fields.next(), fields.nth(1).and_then(|of| of.parse::<i32>().ok()));
        if of == Some(group.as_raw_pid()) && !matches!(state, Some("Z" | "X")) {
            return false;
        }
    }
    seen
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// By itself, with exit code 0.
    pub(crate) well: bool,
    /// In words that follow the name: "ended with exit code 1".
    pub(crate) how: String,
}

impl Ending {
    fn of(status: ExitStatus) -> Self {
        let how = match (status.code(), status.signal()) {
            (Some(127), _) => "ended with exit code 127 (its command was not found)".to_owned(),
            (Some(126), _) => "ended with exit code 126 (its command cannot be run)".to_owned(),
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}{}", signal_name(signal)),
            (None, None) => "ended".to_owned(),
        };
        Self { well: status.success(), how }
    }
}

/// The names of the signals whose numbers are the same on every system.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ending(command: &str) -> String {
        let (mut process, _pipes) = Process::start(command, Path::new("/"), "web.1", 1).unwrap();
        timeout(Duration::from_secs(10), process.wait()).await.unwrap().how
    }

    #[test]
    fn a_simple_command_replaces_its_shell_and_others_stay_as_they_are() {
        assert_eq!(script("puma -p $PORT"), "exec puma -p $PORT");
        assert_eq!(script("A=1 B=\"x y\" puma"), "exec env A=1 B=\"x y\" puma");
        assert_eq!(script("./a=b"), "exec ./a=b");
        for as_it_is in ["cd app && puma", "exec puma", "if true; then puma; fi", "a | b", "cd x", "a 2>&1"] {
            assert_eq!(script(as_it_is), as_it_is);
        }
    }

    #[tokio::test]
    async fn an_ending_says_exit_code_or_signal() {
        assert_eq!(ending("exit 3").await, "ended with exit code 3");
        assert_eq!(ending("true").await, "ended with exit code 0");
        assert_eq!(ending("kill -9 $$; true").await, "was ended by signal 9 (SIGKILL)");
        assert_eq!(ending("A=1 sh -c 'exit $A'").await, "ended with exit code 1");
        assert_eq!(ending("/no/such/program").await, "ended with exit code 127 (its command was not found)");
    }

    #[tokio::test]
    async fn a_process_that_is_dropped_takes_its_group_with_it() {
        let (process, _pipes) = Process::start("sleep 600 & sleep 600", Path::new("/"), "web.1", 1).unwrap();
        let group = process.group.unwrap();
        assert!(lives(group));
        drop(process);
        let gone = async {
            while lives(group) {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }
}
