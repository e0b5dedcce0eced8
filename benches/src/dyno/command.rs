//! Real servers as dynos: a command for each, with a port of its own in `PORT`.
//!
//! Each is started by a *keeper*, a process of `dyno-bench` in the same process group, which ends the whole group when
//! its standard input ends: so nothing outlives the bench, however that ends and whatever the command has started.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_core::clock::Clock;
use rustix::process::Signal;

use super::process::last_words;
use crate::group::{Group, until};

/// The hidden command of `dyno-bench` that calls [`keep`].
const KEEPER: &str = "keep-a-dyno";
/// How long a command may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Which real servers to start.
#[derive(Clone, Debug)]
pub struct Commands {
    /// The `dyno-bench` that keeps them.
    pub program: PathBuf,
    /// The command, for `sh`: it listens on the loopback address, on the port in its environment variable `PORT`.
    pub command: String,
    /// How long it may take until it accepts connections.
    pub patience: Duration,
    /// Set to give up while they start.
    pub interrupt: Arc<AtomicBool>,
}

/// Real servers that run. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Servers(Vec<Running>);

impl Servers {
    /// Where they listen.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|running| running.address).collect()
    }

    /// Which of them have ended by now.
    pub(super) fn notes(&mut self) -> Vec<String> {
        self.0.iter_mut().filter_map(Running::ended).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // All at once; each is then waited for when it is dropped.
        self.0.iter_mut().for_each(|running| running.keeper.ask());
    }
}

/// A real server that runs.
#[derive(Debug)]
struct Running {
    keeper: Group,
    output: File,
    command: String,
    address: SocketAddr,
}

impl Commands {
    /// Starts so many and waits until all accept connections.
    pub(super) fn start(&self, count: u16) -> io::Result<Servers> {
        // All are held until all are chosen, so that none is chosen twice.
        let held = (0..count)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = held.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        drop(held);
        let start = |address| Running::start(&self.program, &self.command, address);
        let mut all = Servers(Vec::new());
        for address in addresses {
            all.0.push(start(address)?);
        }
        let clock = Clock::system();
        let deadline = clock.now() + self.patience;
        for running in &mut all.0 {
            while !running.accepts()? {
                if clock.now() > deadline {
                    let patience = humantime::format_duration(self.patience);
                    return Err(running.failed(&format!("did not listen within {patience}")));
                }
                if self.interrupt.load(Ordering::Relaxed) {
                    return Err(io::Error::other("interrupted while the dynos were starting"));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(all)
    }
}

impl Running {
    fn start(program: &Path, command: &str, address: SocketAddr) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        let mut keeper = Command::new(program);
        keeper.args([KEEPER, command]).env("PORT", address.port().to_string());
        keeper.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        Ok(Self { keeper: Group::start(keeper)?, output, command: command.to_owned(), address })
    }

    /// Whether it accepts connections by now.
    fn accepts(&mut self) -> io::Result<bool> {
        if let Some(status) = self.keeper.ended()? {
            return Err(self.failed(&format!("ended at once ({status})")));
        }
        Ok(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok())
    }

    /// It has not done what it should.
    fn failed(&mut self, what: &str) -> io::Error {
        io::Error::other(self.says(what))
    }

    fn says(&mut self, what: &str) -> String {
        let (port, command) = (self.address.port(), &self.command);
        format!("the dyno `{command}` with PORT={port} {what}: {}", last_words(&mut self.output))
    }

    /// What to say if it has ended by now.
    fn ended(&mut self) -> Option<String> {
        let status = self.keeper.ended().ok()??;
        Some(self.says(&format!("ended in the middle of the run ({status})")))
    }
}

/// The keeper of one command: runs it, and ends its process group when standard input ends. To be called by a program
/// that is given to [`Commands`], for the arguments `keep-a-dyno COMMAND`.
///
/// # Errors
/// When `sh` cannot be started.
pub fn keep(command: &str) -> io::Result<ExitStatus> {
    // It is in the group that it ends.
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
    let mut child = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).spawn()?;
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        // Nothing is ever written to it: this is its end.
        let _ = io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let mut ended = None;
    while ended.is_none() && !over.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        ended = child.try_wait()?;
    }
    let group = rustix::process::getpgid(None)?;
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    if let Some(status) = ended {
        return Ok(status);
    }
    until(PATIENCE, || matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
    // Whatever is left of it, and this process too.
    rustix::process::kill_process_group(group, Signal::KILL)?;
    child.wait()
}
