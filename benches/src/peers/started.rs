//! A proxy's processes: started, asked until they are ready, and ended.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use router_core::clock::Clock;
use rustls::StreamOwned;
use tempfile::TempDir;

use super::{Ready, Recipe, accepts};
use crate::group::Group;
use crate::link::Tls;

/// How long a proxy may take to accept.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// So many bytes of its log are shown when it does not start.
const SHOWN: i64 = 2_000;

/// A proxy that runs. It ends when this is dropped.
#[derive(Debug)]
pub struct Started {
    pub(super) children: Vec<Group>,
    /// Where it listens.
    pub address: SocketAddr,
    pub(super) host: String,
    pub(super) tls: Option<Tls>,
    pub(super) dir: TempDir,
}

impl Started {
    /// Its processes, without their children.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Group::id).collect()
    }

    /// How a process of it ended, and the last it wrote, if one did.
    pub fn ended(&mut self) -> Option<String> {
        let ended = self.children.iter_mut().find_map(|child| child.ended().ok().flatten());
        ended.map(|status| format!("it ended ({status}): {}", self.last_words()))
    }

    /// Starts one process more, waits until it is ready, and gives it its order.
    pub(super) fn add(&mut self, program: &Path, recipe: &Recipe) -> io::Result<()> {
        self.launch(program, recipe)?;
        self.ready(recipe)?;
        self.order(program, recipe)
    }

    fn launch(&mut self, program: &Path, recipe: &Recipe) -> io::Result<()> {
        let dir = self.dir.path();
        // Its workers may be another user.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for (name, text) in &recipe.files {
            std::fs::write(dir.join(name), text)?;
        }
        let number = self.children.len();
        let log = File::create(dir.join(format!("log-{number}")))?;
        let errors = File::create(dir.join(format!("errors-{number}")))?;
        let mut command = self.command(program, recipe);
        command.args(&recipe.args).stdout(log).stderr(errors);
        self.children.push(Group::start(command)?);
        Ok(())
    }

    fn command(&self, program: &Path, recipe: &Recipe) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null()).env("HOME", dir).env("TMPDIR", dir);
        command.envs(recipe.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Gives the order that the recipe has, if any, and waits until it is carried out.
    fn order(&self, program: &Path, recipe: &Recipe) -> io::Result<()> {
        if recipe.order.is_empty() {
            return Ok(());
        }
        let output = self.command(program, recipe).args(&recipe.order).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Err(io::Error::other(format!("it did not take its order ({}): {}", output.status, said.trim())))
    }

    fn ready(&mut self, recipe: &Recipe) -> io::Result<()> {
        let clock = Clock::system();
        let deadline = clock.now() + PATIENCE;
        let address = recipe.own.unwrap_or(self.address);
        loop {
            if let Some(why) = self.ended() {
                return Err(io::Error::other(why));
            }
            let ready = match recipe.ready {
                Ready::Accepts => accepts(address),
                Ready::Answers(path) => self.found(path),
                Ready::Commands(socket) => {
                    accepts(address) && UnixStream::connect(self.dir.path().join(socket)).is_ok()
                }
            };
            if ready {
                return Ok(());
            }
            if clock.now() > deadline {
                let words = self.last_words();
                return Err(io::Error::other(format!("was not ready on {address} in time: {words}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether this path is answered, and not with 404.
    fn found(&self, path: &str) -> bool {
        let ask = || {
            let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            let Some(tls) = &self.tls else { return self.status(path, stream) };
            let session = tls.http1_session().map_err(io::Error::other)?;
            self.status(path, StreamOwned::new(session, stream))
        };
        ask().is_ok_and(|status| status.starts_with(b"HTTP/1.1 ") && !status.ends_with(b"404"))
    }

    /// The beginning of an answer, with its status.
    fn status(&self, path: &str, mut stream: impl Read + Write) -> io::Result<[u8; 12]> {
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.host)?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    }

    /// The end of what it wrote: to its standard output and error, and into its log.
    fn last_words(&self) -> String {
        let count = self.children.len();
        let names = (0..count).flat_map(|n| [format!("errors-{n}"), format!("log-{n}")]);
        let words: Vec<_> = names
            .chain(["errors".to_owned()])
            .filter_map(|name| tail(&self.dir.path().join(name)).ok())
            .collect();
        words.join("\n").trim().to_owned()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // All at once; each is then waited for when it is dropped.
        self.children.iter_mut().for_each(Group::ask);
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len().cast_signed();
    file.seek(SeekFrom::Start((len - SHOWN).max(0).cast_unsigned()))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_not_taken_is_told_with_what_was_said() {
        let (dir, address) = (tempfile::tempdir().unwrap(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let started = Started { children: Vec::new(), address, host: String::new(), tls: None, dir };
        let order = |text: &str| {
            let recipe = Recipe { order: ["-c", text].map(Into::into).into(), ..Recipe::default() };
            started.order(Path::new("/bin/sh"), &recipe)
        };
        assert!(order("test -O \"$HOME\"").is_ok(), "it has the directory of the run");
        let error = order("echo that host is taken >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("that host is taken"), "{error}");
    }
}
