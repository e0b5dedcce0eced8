//! The audit trail: who changed what, when, and how it came out, as lines of JSON that are chained by their hashes.
//!
//! Each change gives two lines: one before anything is done, so that a full disk refuses the change, and one with how
//! it came out, which names the first (`of`). A line is one `write` and is on the disk (`fdatasync`) before the call
//! returns.
//!
//! *Chain:* a line ends with its hash: `,"hash":"` and 64 hexadecimal digits and `"}`. The hash is SHA-256 over the
//! line's own bytes without `,"hash":"..."` and without the newline; these bytes hold the hash of the line before it
//! (`prev`; 64 zeros in the very first line), so each hash stands for everything before it. `docs/audit.md` says how
//! to verify it with `jq` and `sha256sum`, and what a chain cannot show.
//! *Files:* `NAME` is written; when it is full it becomes `NAME.1`, what was `NAME.1` becomes `NAME.2`, and so on. The
//! numbers give the order and nothing else. The chain goes on across files.
//! *Lock:* one process writes (`NAME.lock`), one thread at a time. Readers take no lock.
//! *After a power cut:* a last line without its newline is moved to `NAME.torn`, and the chain goes on from the last
//! whole line with one that says so. A last line that is whole and wrong is an error: nothing is guessed.
//! *Never:* a change begins that is not on the disk (`a_full_disk_refuses_the_change_and_leaves_whole_lines`).

mod files;
mod line;
mod read;
mod verify;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use router_core::clock;
use router_core::sync::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::files::Files;
use self::line::{Draft, Link};
use crate::durable::{Held, rfc3339};

pub use self::line::{FIRST, Line, Mark};
pub use self::read::{Filter, tail};
pub use self::verify::{Broken, Verified, verify};

/// A line may have this many bytes.
pub const LINE_MAX: usize = 16 << 20;

/// Who the lines that the trail writes about itself are from.
const SELF: &str = "routerd";
/// What these lines are.
const NOTE: &str = "note";

/// How much of the trail is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// A file gets no further line that would make it longer than this, in bytes. A line that is longer has a file
    /// of its own.
    pub max_size: u64,
    /// Older files that are kept beside the present one; 0 counts as 1.
    pub files: u32,
}

/// A change that somebody wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// The name of a token, `signal SIGHUP`, `file changed`, `unix uid 0`.
    pub who: String,
    /// The address they came from, if they came over a network.
    pub from: Option<String>,
    /// The verb, for example `deploy`.
    pub what: String,
    /// The app it is about, if it is about one.
    pub app: Option<String>,
    /// What was before, if there is something to tell.
    pub before: Option<Value>,
    /// What is to be.
    pub after: Option<Value>,
}

/// The number of a change that has begun. It is spent when the change [`ends`](Audit::end). As plain data it can be
/// saved, so that a change can end in another process than the one it began in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seq {
    number: u64,
    what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app: Option<String>,
}

/// How a change came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In one word.
    pub result: Ended,
    /// Why, where it is not done.
    pub cause: Option<String>,
}

/// How a change came out, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It is in place.
    Done,
    /// It was begun and could not be done.
    Failed,
    /// It was not begun.
    Refused,
}

/// Why there is no line.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuditError {
    /// Another process writes the file.
    Locked(PathBuf),
    /// The file was handed over to another process.
    HandedOver(PathBuf),
    /// The system did not do what it was asked: what, with which file.
    Io(&'static str, PathBuf, io::Error),
    /// The file is not what this module wrote.
    Broken(Broken),
    /// The line would have this many bytes.
    TooLong(usize),
}

/// The audit trail, open for writing. All calls block: from a task go through `spawn_blocking`.
pub struct Audit {
    path: PathBuf,
    keep: Mutex<Keep>,
    writer: Held<Writer>,
    wall: Wall,
}

/// Tells the time since 1970.
type Wall = fn() -> Duration;

struct Writer {
    files: Files,
    last: Link,
    /// What is to be told of the trail itself before the next line.
    note: Option<String>,
    wall: Wall,
}

impl Seq {
    /// The number of the line that the change began with.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Outcome {
    /// It is in place.
    pub fn done() -> Self {
        Self { result: Ended::Done, cause: None }
    }

    /// It was begun and could not be done.
    pub fn failed(cause: impl Into<String>) -> Self {
        Self { result: Ended::Failed, cause: Some(cause.into()) }
    }

    /// It was not begun.
    pub fn refused(cause: impl Into<String>) -> Self {
        Self { result: Ended::Refused, cause: Some(cause.into()) }
    }
}

impl Audit {
    /// Opens the trail, or begins one; goes on from its last whole line.
    ///
    /// # Errors
    /// [`AuditError::Locked`] if another process writes it, [`AuditError::Broken`] if its last line is not one of
    /// ours, [`AuditError::Io`] if the folder or the file cannot be used.
    pub fn open(path: &Path, keep: Keep) -> Result<Self, AuditError> {
        Self::open_with(path, keep, clock::wall)
    }

    fn open_with(path: &Path, keep: Keep, wall: Wall) -> Result<Self, AuditError> {
        let audit = Self { wall, ..Self::of_another(path, keep) };
        audit.take()?;
        Ok(audit)
    }

    /// A trail that another process writes until it is [`taken`](Self::take).
    pub fn of_another(path: &Path, keep: Keep) -> Self {
        Self { path: path.to_owned(), keep: Mutex::new(keep), writer: Held::away(), wall: clock::wall }
    }

    /// Takes the right to write it, as [`open`](Self::open) does. If that fails, the next line tries it again.
    ///
    /// # Errors
    /// As there.
    pub fn take(&self) -> Result<(), AuditError> {
        self.writer.take(|| self.opened())
    }

    /// Lets another process write it, until it is [`taken`](Self::take) again. Lines are refused from now on.
    pub fn let_go(&self) {
        self.writer.let_go();
    }

    fn opened(&self) -> Result<Writer, AuditError> {
        let mut files = Files::lock(&self.path, *self.keep.lock())?;
        let (last, note) = files.take_up()?;
        let mut writer = Writer { files, last, note, wall: self.wall };
        // A full disk refuses changes, not the start: what is to be told waits for the first of them.
        if let Err(error) = writer.write_note() {
            tracing::warn!("{error}");
        }
        Ok(writer)
    }

    fn write<'a>(&self, fill: impl FnOnce(Draft<'a>) -> Draft<'a>) -> Result<Mark, AuditError> {
        let written = self.writer.with(|| self.opened(), |writer| writer.write(fill));
        written.unwrap_or_else(|| Err(AuditError::HandedOver(self.path.clone())))
    }

    /// Writes down that a change is about to begin. The change must not begin if this fails.
    ///
    /// # Errors
    /// Why the line is not on the disk. The trail is as it was.
    pub fn begin(&self, asked: &Asked) -> Result<Seq, AuditError> {
        let Asked { who, from, what, app, before, after } = asked;
        let mark = self.write(|draft| Draft {
            who: Some(who),
            from: from.as_deref(),
            what,
            app: app.as_deref(),
            before: before.as_ref(),
            after: after.as_ref(),
            ..draft
        })?;
        Ok(Seq { number: mark.seq, what: what.clone(), app: app.clone() })
    }

    /// Writes down how a change came out. The mark that it gives back stands for the whole trail up to here: whoever
    /// keeps it elsewhere can later show that nothing before it was taken away.
    ///
    /// # Errors
    /// Why the line is not on the disk. The trail is as it was.
    pub fn end(&self, of: Seq, outcome: &Outcome) -> Result<Mark, AuditError> {
        let Seq { number, what, app } = of;
        self.write(|draft| Draft {
            of: Some(number),
            what: &what,
            app: app.as_deref(),
            outcome: Some(outcome.result),
            cause: outcome.cause.as_deref(),
            ..draft
        })
    }

    /// Keeps more or less from now on.
    pub fn keep(&self, keep: Keep) {
        *self.keep.lock() = keep;
        self.writer.here(|writer| writer.files.keep = keep);
    }
}

impl Writer {
    fn write<'a>(&mut self, fill: impl FnOnce(Draft<'a>) -> Draft<'a>) -> Result<Mark, AuditError> {
        if !self.files.is_open() {
            // Nobody knows what of the last line is in the file: it is looked at as at the start.
            let (last, note) = self.files.take_up()?;
            if last.seq == self.last.seq + 1 {
                self.last = last;
            }
            self.note = self.note.take().or(note);
        } else if let Some(why) = self.files.not_as_left()? {
            self.note = Some(why);
        }
        self.write_note()?;
        self.append(fill(Draft::default()))
    }

    fn write_note(&mut self) -> Result<(), AuditError> {
        if let Some(note) = self.note.clone() {
            tracing::warn!("audit: {note}");
            self.append(Draft { who: Some(SELF), what: NOTE, cause: Some(&note), ..Draft::default() })?;
            self.note = None;
        }
        Ok(())
    }

    fn append(&mut self, draft: Draft<'_>) -> Result<Mark, AuditError> {
        let (seq, time) = (self.last.seq + 1, rfc3339((self.wall)()));
        let draft = Draft { seq, time: &time, prev: &self.last.hash, ..draft };
        let (line, hash) = draft.seal()?;
        self.files.append(&line)?;
        self.last = Link { seq, hash: hash.clone() };
        Ok(Mark { seq, time, hash })
    }
}

impl AuditError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io(doing, path.to_owned(), error)
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(path) => {
                write!(f, "the audit file {} is written by another process: end that one, ", path.display())?;
                f.write_str("or give this one another `audit.file`")
            }
            Self::HandedOver(path) => {
                let path = path.display();
                write!(f, "the audit file {path} was handed over to the process that has taken over")
            }
            Self::Io(doing, path, error) => write!(f, "the audit file {} {doing}: {error}", path.display()),
            Self::Broken(broken) => write!(f, "the audit trail is broken: {broken}"),
            Self::TooLong(bytes) => {
                write!(f, "the line for the audit file would have {bytes} bytes; {LINE_MAX} are allowed")
            }
        }
    }
}

impl std::error::Error for AuditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, _, error) => Some(error),
            Self::Broken(broken) => Some(broken),
            Self::Locked(_) | Self::HandedOver(_) | Self::TooLong(_) => None,
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.writer.here(|writer| writer.last.seq);
        f.debug_struct("Audit").field("file", &self.path).field("last", &last).finish()
    }
}

#[cfg(test)]
mod tests;
