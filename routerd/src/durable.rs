//! What files that have to survive a power cut are written with: one owner, a synced folder, a checksum.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use router_core::sync::Mutex;

/// The right to write a file, for as long as this lives. It is held through a file of its own (`NAME.lock`), because
/// the file itself is replaced or renamed under way. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// The right to write the file at `path`; `None` if somebody else has it.
    ///
    /// # Errors
    /// When the file beside it cannot be made.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let lock = beside(path, "lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// What one process has at a time, such as a locked file: it is there, or let go of for another process, or to be had
/// again.
#[derive(Debug)]
pub(crate) struct Held<T>(Mutex<Hand<T>>);

#[derive(Debug)]
struct Hand<T> {
    it: Option<T>,
    away: bool,
}

impl<T> Held<T> {
    /// It is another process's until it is [`taken`](Self::take).
    pub(crate) fn away() -> Self {
        Self(Mutex::new(Hand { it: None, away: true }))
    }

    /// Makes it this process's. If that fails, it is tried again when it is used.
    pub(crate) fn take<E>(&self, take: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        let mut hand = self.0.lock();
        hand.away = false;
        if hand.it.is_none() {
            hand.it = Some(take()?);
        }
        Ok(())
    }

    /// From now on another process may have it.
    pub(crate) fn let_go(&self) {
        *self.0.lock() = Hand { it: None, away: true };
    }

    /// Uses it; `None`: it is another process's.
    pub(crate) fn with<R, E>(
        &self,
        take: impl FnOnce() -> Result<T, E>,
        with: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let mut hand = self.0.lock();
        let Hand { it, away: false } = &mut *hand else { return None };
        let it = match it {
            Some(it) => it,
            None => match take() {
                Ok(taken) => it.insert(taken),
                Err(error) => return Some(Err(error)),
            },
        };
        Some(with(it))
    }

    /// Looks at it, if it is here.
    pub(crate) fn here<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.lock().it.as_mut().map(look)
    }
}

/// `NAME.end` in the same folder.
pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    PathBuf::from(name)
}

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Makes sure that names in the folder of that file survive a power cut.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// SHA-256 as 64 characters.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// A time since 1970 as RFC 3339 with milliseconds, in UTC.
pub(crate) fn rfc3339(since_1970: Duration) -> String {
    // The form has four digits for the year.
    const YEAR_9999: Duration = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_1970.min(YEAR_9999)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_right_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = Lock::take(&path).unwrap().unwrap();
        assert!(Lock::take(&path).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&path).unwrap().is_some());
        assert_eq!(beside(&path, "lock"), folder.path().join("state.lock"));
    }

    #[test]
    fn what_was_let_go_is_not_used_and_what_failed_is_tried_again() {
        let held = Held::away();
        let use_it = |fails: bool| {
            held.with(|| if fails { Err("taken") } else { Ok(7) }, |it| Ok(std::mem::replace(it, *it + 1)))
        };
        assert_eq!(use_it(false), None);
        assert_eq!(held.take(|| Err("taken")), Err("taken"));
        assert_eq!(
            (use_it(true), use_it(false), use_it(true)),
            (Some(Err("taken")), Some(Ok(7)), Some(Ok(8)))
        );
        held.let_go();
        assert_eq!((use_it(false), held.here(|it| *it)), (None, None));
        held.take(|| Ok::<_, &str>(1)).unwrap();
        assert_eq!((use_it(true), held.here(|it| *it)), (Some(Ok(1)), Some(2)));
    }

    #[test]
    fn a_time_is_written_in_utc_whatever_the_clock_says() {
        assert_eq!(rfc3339(Duration::from_millis(1_790_000_000_007)), "2026-09-21T14:13:20.007Z");
        assert_eq!(rfc3339(Duration::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn a_file_without_a_folder_is_in_the_present_one() {
        assert_eq!(folder(Path::new("audit.jsonl")), Path::new("."));
        assert_eq!(folder(Path::new("/var/audit.jsonl")), Path::new("/var"));
    }
}
