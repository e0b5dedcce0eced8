//! The files of the audit trail: which there are, how a line gets to the disk, and how a full file makes room.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::line::{Link, unseal};
use super::read::Backwards;
use super::verify::Broken;
use super::{AuditError, Keep};
use crate::durable::{Lock, beside, folder, sync_folder};

/// How often, and how long in between, a reader waits for a writer who is in the middle of it.
pub(super) const LOOKS: u32 = 20;
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
/// Said where the trail cannot go on.
const WHAT_TO_DO: &str =
    "move the files of the trail to another folder and keep them, then a new trail begins";

/// The files, open for one writer.
pub(super) struct Files {
    pub(super) path: PathBuf,
    pub(super) keep: Keep,
    /// `None` after a write that failed and could not be undone.
    current: Option<Current>,
    _lock: Lock,
}

/// The file that is written, as it was left.
struct Current {
    file: File,
    /// Bytes in whole lines.
    len: u64,
    /// Device and inode.
    id: (u64, u64),
}

impl Files {
    /// Takes the right to write them.
    pub(super) fn lock(path: &Path, keep: Keep) -> Result<Self, AuditError> {
        let failed = AuditError::io("cannot be locked", path);
        let lock = Lock::take(path).map_err(failed)?.ok_or_else(|| AuditError::Locked(path.to_owned()))?;
        Ok(Self { path: path.to_owned(), keep, current: None, _lock: lock })
    }

    pub(super) fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Opens the present file, or begins one. Gives the last whole line of the trail, and what is to be told of it.
    pub(super) fn take_up(&mut self) -> Result<(Link, Option<String>), AuditError> {
        let file = self.open()?;
        let meta = file.metadata().map_err(AuditError::io("cannot be read", &self.path))?;
        if !meta.is_file() {
            let error = io::Error::from(ErrorKind::InvalidInput);
            return Err(AuditError::Io("is no regular file", self.path.clone(), error));
        }
        let torn = self.torn_tail(&file)?;
        let note = if torn.is_empty() { None } else { Some(self.set_aside(&file, &torn, meta.len())?) };
        let last = self.last_whole_line()?;
        sync_folder(&self.path)
            .map_err(AuditError::io("cannot be made to stay in its folder", &self.path))?;
        self.current = Some(Current { file, len: meta.len() - torn.len() as u64, id: id(&meta) });
        Ok((last, note))
    }

    fn open(&self) -> Result<File, AuditError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        options.open(&self.path).map_err(AuditError::io("cannot be opened", &self.path))
    }

    /// What stands after the last newline.
    fn torn_tail(&self, file: &File) -> Result<Vec<u8>, AuditError> {
        let cannot = || AuditError::io("cannot be read", &self.path);
        let file = file.try_clone().map_err(cannot())?;
        let mut lines = Backwards::new(file).map_err(cannot())?;
        Ok(lines.next().map_err(cannot())?.unwrap_or_default())
    }

    /// Moves half a line out of the file; first it is safe elsewhere, then it is gone here.
    fn set_aside(&self, file: &File, torn: &[u8], len: u64) -> Result<String, AuditError> {
        let aside = beside(&self.path, "torn");
        let failed = || AuditError::io("cannot be written", &aside);
        let mut to =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&aside).map_err(failed())?;
        to.write_all(torn).and_then(|()| to.write_all(b"\n")).map_err(failed())?;
        to.sync_all().and_then(|()| sync_folder(&aside)).map_err(failed())?;
        let whole = file.set_len(len - torn.len() as u64).and_then(|()| file.sync_data());
        whole.map_err(AuditError::io("cannot be shortened to its last whole line", &self.path))?;
        Ok(format!("the last line was torn: its {} bytes are in {} now", torn.len(), aside.display()))
    }

    /// The last line of the newest file that has one.
    fn last_whole_line(&self) -> Result<Link, AuditError> {
        for path in all(&self.path)?.into_iter().rev() {
            let cannot = || AuditError::io("cannot be read", &path);
            let mut lines = Backwards::new(File::open(&path).map_err(cannot())?).map_err(cannot())?;
            let broken = |why: &str| {
                Err(AuditError::Broken(Broken {
                    file: path.clone(),
                    line: 0,
                    why: format!("its last line: {why}; {WHAT_TO_DO}"),
                }))
            };
            if lines.next().map_err(cannot())?.is_some_and(|torn| !torn.is_empty()) {
                return broken("it is torn, and there is a newer file");
            }
            if let Some(line) = lines.next().map_err(cannot())? {
                return match unseal(&line) {
                    Ok((ties, hash)) => Ok(Link { seq: ties.seq, hash }),
                    Err(why) => broken(why),
                };
            }
        }
        Ok(Link::before_all())
    }

    /// Whether somebody else has taken or changed the file since the last line: says so, sets what is there aside
    /// among the older files, and begins a new one.
    pub(super) fn not_as_left(&mut self) -> Result<Option<String>, AuditError> {
        let Some(current) = &self.current else { return Ok(None) };
        let why = match fs::metadata(&self.path) {
            Ok(meta) if id(&meta) != current.id => "was replaced by another file".to_owned(),
            Ok(meta) if meta.len() != current.len => {
                format!("had {} bytes where {} had been written", meta.len(), current.len)
            }
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => "was gone".to_owned(),
            Err(error) => return Err(AuditError::io("cannot be read", &self.path)(error)),
        };
        self.begin_file()?;
        Ok(Some(format!("{} {why}; a new file begins here", self.path.display())))
    }

    /// Puts a whole line on the disk. If that fails, the file is as it was.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), AuditError> {
        let full = |len: u64| len > 0 && len + line.len() as u64 > self.keep.max_size;
        if self.current.as_ref().is_some_and(|current| full(current.len)) {
            self.begin_file()?;
        }
        let Some(current) = &mut self.current else {
            return Err(AuditError::io("is not open", &self.path)(ErrorKind::NotFound.into()));
        };
        let written = write_once(&current.file, line).and_then(|()| current.file.sync_data());
        let Err(error) = written else {
            current.len += line.len() as u64;
            return Ok(());
        };
        if current.file.set_len(current.len).and_then(|()| current.file.sync_data()).is_err() {
            self.current = None;
        }
        Err(AuditError::io("cannot be written", &self.path)(error))
    }

    /// Moves the present file, if there is one, and all older ones by one number, and begins a new one.
    fn begin_file(&mut self) -> Result<(), AuditError> {
        self.current = None;
        for (number, path) in numbered(&self.path)?.into_iter().rev() {
            let moved = match number >= u64::from(self.keep.files.max(1)) {
                true => fs::remove_file(&path),
                false => fs::rename(&path, beside(&self.path, &(number + 1).to_string())),
            };
            moved.map_err(AuditError::io("cannot make room", &path))?;
        }
        match fs::rename(&self.path, beside(&self.path, "1")) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(AuditError::io("cannot make room", &self.path)(error));
            }
            _ => {}
        }
        let file = self.open()?;
        let cannot = || AuditError::io("cannot be begun", &self.path);
        sync_folder(&self.path).map_err(cannot())?;
        let id = id(&file.metadata().map_err(cannot())?);
        self.current = Some(Current { file, len: 0, id });
        Ok(())
    }
}

/// One write of all bytes.
fn write_once(mut file: &File, line: &[u8]) -> io::Result<()> {
    loop {
        return match file.write(line) {
            Ok(count) if count == line.len() => Ok(()),
            Ok(count) => {
                let why = format!("only {count} of {} bytes could be written: no space left?", line.len());
                Err(io::Error::new(ErrorKind::WriteZero, why))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Device and inode: what a file is, whatever it is called.
pub(super) fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// The files of a trail that there are, the oldest first.
pub(super) fn all(path: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut paths: Vec<_> = numbered(path)?.into_iter().rev().map(|(_, path)| path).collect();
    if path.exists() {
        paths.push(path.to_owned());
    }
    Ok(paths)
}

/// The same, open, as they stood at one moment: a writer who makes room renames them, and who opens one after the other
/// meanwhile misses one. Looked for again until they stand still.
pub(super) fn open_all(path: &Path) -> Result<Vec<(PathBuf, File)>, AuditError> {
    let mut looks = LOOKS;
    loop {
        let open = |path: PathBuf| File::open(&path).map(|file| (path, file));
        let files: io::Result<Vec<_>> = all(path)?.into_iter().map(open).collect();
        let error = match files {
            Ok(files) if still_there(path, &files) => return Ok(files),
            Ok(_) => io::Error::other("its files do not stand still"),
            Err(error) => error,
        };
        if looks == 0 {
            return Err(AuditError::io("cannot be opened", path)(error));
        }
        looks -= 1;
        thread::sleep(BETWEEN_LOOKS);
    }
}

fn still_there(path: &Path, files: &[(PathBuf, File)]) -> bool {
    let same = |(path, file): &(PathBuf, File)| match (fs::metadata(path), file.metadata()) {
        (Ok(now), Ok(then)) => id(&now) == id(&then),
        _ => false,
    };
    all(path).is_ok_and(|now| now.len() == files.len()) && files.iter().all(same)
}

/// The older files with their numbers, the newest first.
fn numbered(path: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let cannot = || AuditError::io("cannot be looked for in its folder", path);
    let start = beside(path, "");
    let start = start.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder(path)).map_err(cannot())? {
        let name = entry.map_err(cannot())?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(&start));
        // As this module writes them: `.07` is not one of ours.
        let number = digits.filter(|digits| !digits.starts_with('0')).and_then(|digits| digits.parse().ok());
        found.extend(number.map(|number: u64| (number, beside(path, &number.to_string()))));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
