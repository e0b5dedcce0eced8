//! What files that have to survive a power cut are written with: one owner, a synced folder, a checksum.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

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
