//! Proxies that this tool starts itself: each with a configuration made for the dynos at hand, in a directory of its
//! own, ended with the run.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use router_core::clock::Clock;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

mod haproxy;
mod nginx;
mod routerd;

/// How long a proxy may take to accept, and to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// So many bytes of its log are shown when it does not start.
const SHOWN: i64 = 2_000;

/// A proxy that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// This project's daemon.
    Routerd,
    /// HAProxy: one backend queue, `maxconn 1` for each dyno.
    Haproxy,
    /// nginx: plain forwarding only, its free form has no queue.
    Nginx,
}

/// What a proxy is configured for.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Where it shall listen.
    pub listen: SocketAddr,
    /// The dynos.
    pub dynos: &'a [SocketAddr],
    /// Plain forwarding: a dyno takes as many requests as come.
    pub plain: bool,
    /// The `Host` of the requests.
    pub host: &'a str,
    /// How many connections the open-file limit leaves it on each side.
    pub connections: u64,
    /// How many threads or processes it shall use.
    pub threads: u32,
    /// Its own directory.
    pub dir: &'a Path,
}

/// What a proxy is started for, whichever it is.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Plain forwarding: a dyno takes as many requests as come.
    pub plain: bool,
    /// The `Host` of the requests.
    pub host: &'a str,
    /// How many threads or processes it shall use.
    pub threads: u32,
}

impl Peer {
    /// Its name, as on the command line and the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Routerd => "routerd",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Its program: beside this one for `routerd`, on the path or where systems keep daemons for the others.
    ///
    /// # Errors
    /// Says where it was looked for.
    pub fn program(self) -> Result<PathBuf, String> {
        if self == Self::Routerd {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            let beside = own.with_file_name("routerd");
            let here = beside.is_file().then(|| beside.clone());
            return here.ok_or_else(|| {
                format!(
                    "there is no {}: build it with `cargo build --release`, or give --routerd PATH",
                    beside.display()
                )
            });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from);
        let mut places = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(self.name()));
        places.find(|program| program.is_file()).ok_or_else(|| format!("{} is not installed", self.name()))
    }

    /// Starts it and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not, with the end of what it wrote.
    pub fn start(self, program: &Path, dynos: &[SocketAddr], load: &Load<'_>) -> io::Result<Started> {
        let dir = tempfile::Builder::new().prefix("dyno-bench-").tempdir()?;
        let setup = Setup {
            listen: free_address()?,
            dynos,
            plain: load.plain,
            host: load.host,
            connections: connections(),
            threads: load.threads,
            dir: dir.path(),
        };
        let config = dir.path().join("config");
        let (text, args) = match self {
            Self::Routerd => (routerd::config(&setup), routerd::args(&config)),
            Self::Haproxy => (haproxy::config(&setup), haproxy::args(&config)),
            Self::Nginx => (nginx::config(&setup), nginx::args(&config)),
        };
        std::fs::write(&config, text)?;
        let log = File::create(dir.path().join("log"))?;
        let errors = File::create(dir.path().join("errors"))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(dir.path()).stdin(Stdio::null()).stdout(log).stderr(errors);
        // A group of its own, so that its workers can be ended with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        let mut started = Started { child, address: setup.listen, dir };
        started.ready().map_err(|error| io::Error::other(format!("{}: {error}", self.name())))?;
        Ok(started)
    }
}

/// A proxy that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    dir: TempDir,
}

impl Started {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ready(&mut self) -> io::Result<()> {
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("ended at once ({status}): {}", self.last_words())));
            }
            if accepts(self.address) {
                return Ok(());
            }
            if clock.now() > deadline {
                return Err(io::Error::other(format!(
                    "did not listen on {}: {}",
                    self.address,
                    self.last_words()
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn last_words(&self) -> String {
        let words = ["errors", "log"].map(|name| tail(&self.dir.path().join(name)).unwrap_or_default());
        words.join("\n").trim().to_owned()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // Not yet waited for, so the number is still this process's.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && clock.now() < deadline {
            std::thread::sleep(LOOK);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Whether somebody accepts connections there.
pub fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Half of the files that a child may open, less what it needs besides; enough for any load of this tool.
fn connections() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (limit.unwrap_or(u64::MAX).saturating_sub(200) / 2).clamp(100, 20_000)
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len().cast_signed();
    file.seek(SeekFrom::Start((len - SHOWN).max(0).cast_unsigned()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
