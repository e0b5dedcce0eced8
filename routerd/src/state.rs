//! The state file: what has to survive a restart, written whole or not at all, and never guessed at when it is read.
//!
//! The file is one line: `{"format":"routerd-state","version":1,"sha256":"...","body":...}`; the checksum is that of
//! the body's bytes as they stand there. A new one is written beside it (`NAME.tmp`), brought to the disk and renamed,
//! so whoever reads sees the old or the new one. `NAME.lock` keeps a second process away.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::durable::{Held, Lock, beside, folder, sha256, sync_folder};

/// A state file may have this many bytes.
pub const STATE_MAX: usize = 16 << 20;

const FORMAT: &str = "routerd-state";
const VERSION: u64 = 1;

/// A state file, open for one writer. All calls block: from a task go through `spawn_blocking`.
#[derive(Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    lock: Held<Lock>,
    _body: PhantomData<fn(T) -> T>,
}

/// Why there is no state, or why it could not be saved. Each names the file and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum StateError {
    /// Another process has the file.
    Locked(PathBuf),
    /// The file was handed over to another process.
    HandedOver(PathBuf),
    /// The folder cannot be written to.
    Folder(PathBuf, io::Error),
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The state cannot be saved: the file is the one before, or the new one; never a part of it.
    Write(PathBuf, io::Error),
    /// The file ends too early, or is damaged so that it cannot be read.
    Torn(PathBuf),
    /// The body is not the one that was written.
    Checksum(PathBuf),
    /// The file is of a version that this one does not know.
    Version(PathBuf, u64),
    /// The file is something else.
    NotOurs(PathBuf),
    /// The file is larger than [`STATE_MAX`].
    TooLarge(PathBuf),
    /// The body is whole, and not what this version understands.
    Body(PathBuf, serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: String,
    version: u64,
    sha256: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// What is looked at before anything else: a newer version may have other keys beside these.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

impl<T: Serialize + DeserializeOwned> StateFile<T> {
    /// Takes the right to write the file, and makes sure that it can be written. What a writer that died has left
    /// half done is taken away.
    ///
    /// # Errors
    /// [`StateError::Locked`] and [`StateError::Folder`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let file = Self::of_another(path);
        file.take()?;
        Ok(file)
    }

    /// A file that another process writes until it is [`taken`](Self::take).
    pub fn of_another(path: &Path) -> Self {
        // A link stays one: what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self { path, lock: Held::away(), _body: PhantomData }
    }

    /// Takes the right to write it, as [`open`](Self::open) does. If that fails, saving tries it again.
    ///
    /// # Errors
    /// As there.
    pub fn take(&self) -> Result<(), StateError> {
        self.lock.take(|| self.locked())
    }

    /// Lets another process have the file, until it is [`taken`](Self::take) again.
    pub fn let_go(&self) {
        self.lock.let_go();
    }

    fn locked(&self) -> Result<Lock, StateError> {
        let path = &self.path;
        let no_folder = |error| StateError::Folder(folder(path).to_owned(), error);
        let lock = Lock::take(path).map_err(no_folder)?.ok_or_else(|| StateError::Locked(path.clone()))?;
        let temporary = beside(path, "tmp");
        remove(&temporary).map_err(no_folder)?;
        create(&temporary).and_then(|_| remove(&temporary)).map_err(no_folder)?;
        Ok(lock)
    }

    /// The state as it was saved last; `None` if there is no such file. Needs no lock.
    ///
    /// # Errors
    /// Why the file is not taken for what was saved.
    pub fn load(path: &Path) -> Result<Option<T>, StateError> {
        let Some(bytes) = read(path)? else { return Ok(None) };
        let torn = || StateError::Torn(path.to_owned());
        let head = serde_json::from_slice(&bytes);
        let Head { format, version } = head.map_err(|_| match looks_like_ours(&bytes) {
            true => torn(),
            false => StateError::NotOurs(path.to_owned()),
        })?;
        if format != FORMAT {
            return Err(StateError::NotOurs(path.to_owned()));
        }
        if version != VERSION {
            return Err(StateError::Version(path.to_owned(), version));
        }
        let envelope: Envelope<'_> = serde_json::from_slice(&bytes).map_err(|_| torn())?;
        let body = envelope.body.get();
        if sha256(body.as_bytes()) != envelope.sha256 {
            return Err(StateError::Checksum(path.to_owned()));
        }
        serde_json::from_str(body).map(Some).map_err(|error| StateError::Body(path.to_owned(), error))
    }

    /// Saves the state: when this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`StateError::Write`], also for a state of more than [`STATE_MAX`] bytes; [`StateError::HandedOver`].
    pub fn save(&self, state: &T) -> Result<(), StateError> {
        let failed = |error| StateError::Write(self.path.clone(), error);
        let body = to_raw_value(state).map_err(|error| failed(error.into()))?;
        let sha256 = sha256(body.get().as_bytes());
        let envelope = Envelope { format: FORMAT.to_owned(), version: VERSION, sha256, body: &body };
        let mut bytes = serde_json::to_vec(&envelope).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        if bytes.len() > STATE_MAX {
            let error = format!("the state has {} bytes, and may have {STATE_MAX}", bytes.len());
            return Err(failed(io::Error::new(ErrorKind::FileTooLarge, error)));
        }
        let saved = self.lock.with(|| self.locked(), |_| self.replace(&bytes).map_err(failed));
        saved.unwrap_or_else(|| Err(StateError::HandedOver(self.path.clone())))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let temporary = beside(&self.path, "tmp");
        // One that is left is of a save that failed.
        remove(&temporary)?;
        let mut file = create(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&temporary, &self.path));
        if renamed.is_err() {
            // Best effort: the error that is told is the first one.
            let _ = remove(&temporary);
        }
        renamed.and_then(|()| sync_folder(&self.path))
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Removes a file; that it is not there is well too.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |error| StateError::Read(path.to_owned(), error);
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        // A pipe could keep us waiting for ever.
        Ok(meta) if !meta.is_file() => return Err(StateError::NotOurs(path.to_owned())),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(STATE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() > STATE_MAX {
        true => Err(StateError::TooLarge(path.to_owned())),
        false => Ok(Some(bytes)),
    }
}

/// Whether what cannot be read begins as our files do, as far as it goes.
fn looks_like_ours(bytes: &[u8]) -> bool {
    let start = format!("{{\"format\":\"{FORMAT}\"");
    let both = start.len().min(bytes.len());
    bytes[..both] == start.as_bytes()[..both]
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const START_ANEW: &str = "put a good copy in its place, or move it away to start with what the \
            configuration file says";
        let file = |path: &Path| format!("the state file {}", path.display());
        match self {
            Self::Locked(path) => {
                let file = file(path);
                write!(f, "{file} is another process's: end that one, or give this one another `state.file`")
            }
            Self::HandedOver(path) => {
                write!(f, "{} was handed over to the process that has taken over", file(path))
            }
            Self::Folder(folder, error) => {
                let folder = folder.display();
                write!(f, "the folder {folder} of the state file must be writable: {error}")
            }
            Self::Read(path, error) => write!(f, "{} cannot be read: {error}", file(path)),
            Self::Write(path, error) => {
                write!(f, "{} cannot be written, it is whole as it was: {error}", file(path))
            }
            Self::Torn(path) => {
                write!(
                    f,
                    "{} is torn: it was not written to its end, or is damaged; {START_ANEW}",
                    file(path)
                )
            }
            Self::Checksum(path) => {
                write!(f, "{} was changed: its checksum is wrong; {START_ANEW}", file(path))
            }
            Self::Version(path, version) => write!(
                f,
                "{} has version {version}, and this routerd knows {VERSION}: run the routerd that wrote it, \
                 or {START_ANEW}",
                file(path)
            ),
            Self::NotOurs(path) => {
                write!(f, "{} is not one of routerd: give another `state.file`, or move it away", file(path))
            }
            Self::TooLarge(path) => {
                write!(f, "{} has more than 16 MiB; {START_ANEW}", file(path))
            }
            Self::Body(path, error) => write!(
                f,
                "{} is whole, and this routerd does not understand it: {error}; run the routerd that wrote it, \
                 or {START_ANEW}",
                file(path)
            ),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Folder(_, error) | Self::Read(_, error) | Self::Write(_, error) => Some(error),
            Self::Body(_, error) => Some(error),
            Self::Locked(_)
            | Self::HandedOver(_)
            | Self::Torn(_)
            | Self::Checksum(_)
            | Self::Version(..)
            | Self::NotOurs(_)
            | Self::TooLarge(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
