//! A program that is started in a process group of its own, and ends with all that it has started itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use router_core::clock::Clock;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

/// How long it may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// A program that runs. When this is dropped it is asked to end, waited for, and killed if that takes too long.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    asked: bool,
    /// How long it may take to end after it was asked to.
    patience: Duration,
}

impl Group {
    /// Starts it. One whose standard input is a pipe is asked to end by the end of that, any other by SIGTERM.
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        // So that Ctrl-C is for this program alone, and nothing is left when the first process ends.
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            io::Error::new(error.kind(), format!("{program} does not start: {error}"))
        })?;
        Ok(Self { child, asked: false, patience: PATIENCE })
    }

    /// The number of its first process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the first process ended, if it did; then the others are ended too.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // Until it is waited for in earnest, the number is its own and its group's.
        if let Ok(Some(_)) = waitid(WaitId::Pid(self.pid()), how) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
        }
        self.child.try_wait()
    }

    /// Asks it to end, and does not wait for that.
    pub(crate) fn ask(&mut self) {
        if self.asked || !matches!(self.ended(), Ok(None)) {
            return;
        }
        self.asked = true;
        if self.child.stdin.take().is_none() {
            let _ = kill_process(self.pid(), Signal::TERM);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.ask();
        if !until(self.patience, || !matches!(self.ended(), Ok(None))) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits until something is so; gives whether it is.
pub(crate) fn until(longest: Duration, mut so: impl FnMut() -> bool) -> bool {
    let clock = Clock::system();
    let deadline = clock.now() + longest;
    loop {
        if so() {
            return true;
        }
        if clock.now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    /// A shell that runs this, and the first word that it writes.
    fn shell(script: &str) -> (Group, String) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut group = Group::start(command).unwrap();
        let mut word = String::new();
        BufReader::new(group.child.stdout.take().unwrap()).read_line(&mut word).unwrap();
        (group, word.trim().to_owned())
    }

    fn gone(pid: &str) -> bool {
        let process = procfs::process::Process::new(pid.parse().unwrap());
        until(PATIENCE, || process.as_ref().map_or(true, |p| p.stat().map_or(true, |stat| stat.state == 'Z')))
    }

    #[test]
    fn what_a_program_has_started_ends_with_it() {
        // Asked to end, the shell does and leaves the other behind.
        let (group, other) = shell("trap 'exit 0' TERM; sleep 600 & echo $!; wait");
        drop(group);
        assert!(gone(&other));
        // It has ended by itself.
        let (mut group, other) = shell("sleep 600 & echo $!; exit 3");
        assert!(until(PATIENCE, || group.ended().unwrap().is_some()));
        assert_eq!(group.ended().unwrap().unwrap().code(), Some(3));
        assert!(gone(&other));
    }

    #[test]
    fn who_does_not_listen_is_killed_with_all_that_it_has_started() {
        let (mut group, other) = shell("trap '' TERM; (trap '' TERM; sleep 600) & echo $!; wait; sleep 600");
        let alone = group.pid();
        assert_eq!(rustix::process::getpgid(Some(alone)).unwrap(), alone, "Ctrl-C is not for it");
        group.patience = Duration::from_millis(50);
        let first = group.id().to_string();
        drop(group);
        assert!(gone(&other) && gone(&first));
    }

    #[test]
    fn the_end_of_standard_input_asks_for_the_end() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line; exit 7"]).stdin(Stdio::piped());
        let mut group = Group::start(command).unwrap();
        assert!(group.ended().unwrap().is_none());
        group.ask();
        assert!(until(PATIENCE, || group.ended().unwrap().is_some()));
        assert_eq!(group.ended().unwrap().unwrap().code(), Some(7));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = Group::start(Command::new("/nowhere/at-all")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at-all does not start: "), "{error}");
    }
}
