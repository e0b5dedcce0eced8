//! Starts this program anew, so that the new process takes over from this one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::handover::Stage;

/// How long the new process may take until it serves.
const READY: Duration = Duration::from_secs(60);
/// How long its check of the configuration may take.
const CHECK: Duration = Duration::from_secs(30);
/// How long why a hand-over failed may come after the end of the process.
const WHY: Duration = Duration::from_millis(500);
/// Of what it prints, so much is passed on.
const SAID_MAX: usize = 4096;
/// Tells the new process to take over.
const TAKE_OVER: &str = "--takeover";

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    config: PathBuf,
}

/// Why no new process has taken over. The old one goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The new program does not accept the configuration, or does not run; what it printed.
    Check(String),
    /// It cannot be started.
    Start(io::Error),
    /// It has ended, or failed, before it served: why.
    Failed(String),
    /// It did not serve in time, and was ended.
    Late(Duration),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(said) => write!(f, "the new program does not accept the configuration: {said}"),
            Self::Start(error) => write!(f, "the new program cannot be started: {error}"),
            Self::Failed(why) => write!(f, "the new process has not taken over: {why}"),
            Self::Late(bound) => write!(f, "the new process did not serve within {bound:?}, and was ended"),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl Program {
    /// This program with its arguments, which runs that configuration file. The file of the program is looked for
    /// again at each start: another program may stand there by then.
    pub fn this(config: &Path) -> Self {
        let mut args = std::env::args_os();
        let path = PathBuf::from(args.next().unwrap_or_else(|| OsString::from("routerd")));
        // A bare name is looked for in PATH again.
        let bare = path.parent().is_some_and(|parent| parent.as_os_str().is_empty());
        let path = if bare { path } else { std::path::absolute(&path).unwrap_or(path) };
        Self { path, args: args.collect(), config: config.into() }
    }

    /// Another program, with arguments that lead to `run` with that configuration file.
    pub fn new(path: PathBuf, args: Vec<OsString>, config: PathBuf) -> Self {
        Self { path, args, config }
    }

    /// Lets the program itself say whether it accepts the configuration.
    async fn check(&self) -> Result<(), UpgradeError> {
        let mut check = self.command();
        check.args([OsStr::new("check"), OsStr::new("--config"), self.config.as_os_str()]);
        check.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let late = || UpgradeError::Check(format!("no answer in {CHECK:?}"));
        let out = timeout(CHECK, check.output()).await.map_err(|_| late())?.map_err(UpgradeError::Start)?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr[..out.stderr.len().min(SAID_MAX)]);
        let said = if said.trim().is_empty() { out.status.to_string() } else { said.trim().to_owned() };
        Err(UpgradeError::Check(said))
    }

    fn start(&self) -> Result<Child, UpgradeError> {
        let mut command = self.command();
        command.args(&self.args);
        if !self.args.iter().any(|arg| arg == TAKE_OVER) {
            command.arg(TAKE_OVER);
        }
        // It prints where this process prints, and goes on when this one has ended.
        command.spawn().map_err(UpgradeError::Start)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.stdin(Stdio::null());
        command
    }
}

/// Starts the program with `--takeover` and waits until it has taken over from this process, whose stage of handing
/// over is `stage`. Gives the number of the new process.
///
/// # Errors
/// Says why it has not taken over; then it has ended, and this process goes on.
///
/// # Cancel safety
/// A dropped future leaves the new process running, and it takes over if it can.
pub async fn start_new(program: &Program, mut stage: watch::Receiver<Stage>) -> Result<u32, UpgradeError> {
    program.check().await?;
    stage.borrow_and_update();
    let mut child = program.start()?;
    let pid = child.id().unwrap_or_default();
    let mut why = None;
    let taken = async {
        loop {
            tokio::select! {
                changed = stage.changed() => {
                    match &*stage.borrow_and_update() {
                        Stage::HandedOver { .. } => return Ok(pid),
                        Stage::Alone(failed) => why = failed.clone(),
                        Stage::Taking | Stage::Talking => {}
                    }
                    if changed.is_err() {
                        return Err(UpgradeError::Failed("this process ends".to_owned()));
                    }
                }
                ended = child.wait() => {
                    let ended = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                    let where_to = "its messages stand beside those of this process";
                    return Err(UpgradeError::Failed(format!("{ended}; {where_to}")));
                }
            }
        }
    };
    let result = timeout(READY, taken).await.unwrap_or(Err(UpgradeError::Late(READY)));
    match result {
        Ok(pid) => Ok(pid),
        Err(UpgradeError::Failed(ended)) => {
            if why.is_none()
                && timeout(WHY, stage.changed()).await.is_ok_and(|changed| changed.is_ok())
                && let Stage::Alone(failed) = &*stage.borrow()
            {
                why = failed.clone();
            }
            Err(UpgradeError::Failed(why.unwrap_or(ended)))
        }
        // In the last moment.
        Err(UpgradeError::Late(_)) if stage.borrow().is_handed_over() => Ok(pid),
        Err(error) => {
            // It was started here, and must not take over later.
            let _ = child.start_kill();
            let _ = timeout(WHY, child.wait()).await;
            Err(error)
        }
    }
}
