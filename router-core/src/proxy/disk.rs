//! Bodies on disk: files without a name, how many bytes are in them, and how many may be.
//!
//! *Shared:* one [`Disk`] between all requests. *Lock:* its own, for a sum. *Never:* a file that is touched by a thread
//! of the runtime: opening, writing, reading and closing are left to tokio's threads for what may block. *Never:* a
//! file that is left behind: none has a name, so the kernel takes it back however the process ends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use crate::ids::AppId;
use crate::sync::Mutex;

/// As much is written at once, in bytes.
pub(crate) const WRITE: usize = 256 << 10;
/// As much is read at once, in bytes: it stays in memory until the other side has taken it.
const READ: u64 = 64 << 10;
/// The pause between two warnings about the same thing.
const QUIET: Duration = Duration::from_secs(60);

/// Where bodies go that memory has no room for, and the account of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: Mutex<PathBuf>,
    /// 0: there is no bound.
    most: AtomicU64,
    /// 0: there is no bound.
    files_most: AtomicU64,
    files: AtomicU64,
    held: Mutex<Held>,
    fallbacks: [AtomicU64; Fallback::ALL.len()],
    warned: Mutex<[Option<Instant>; Fallback::ALL.len()]>,
}

#[derive(Debug, Default)]
struct Held {
    all: u64,
    /// Those that have some.
    apps: BTreeMap<AppId, u64>,
}

/// Why a body is not kept on disk, though it might be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Its app has as many bytes there as it may.
    AppFull,
    /// All apps together have.
    AllFull,
    /// There are as many files as there may be.
    Files,
    /// The disk has no room, or a quota is used up.
    NoSpace,
    /// The disk fails.
    Failed,
}

impl Default for Disk {
    fn default() -> Self {
        Self(Arc::new(Shared {
            folder: Mutex::new(std::env::temp_dir()),
            most: AtomicU64::new(0),
            files_most: AtomicU64::new(0),
            files: AtomicU64::new(0),
            held: Mutex::default(),
            fallbacks: Default::default(),
            warned: Mutex::default(),
        }))
    }
}

impl Disk {
    /// In which folder files are made from now on (the default is that of [`std::env::temp_dir`]), how many bytes all
    /// of them together may have, and how many files there may be at once; 0 (the default) is no bound. Files that are
    /// there stay.
    pub fn set(&self, folder: impl Into<PathBuf>, most: u64, files_most: u64) {
        *self.0.folder.lock() = folder.into();
        self.0.most.store(most, Ordering::Relaxed);
        self.0.files_most.store(files_most, Ordering::Relaxed);
    }

    /// Tries whether a file can be made in a folder and written to. It may block.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(folder: &Path) -> io::Result<()> {
        create(folder)?.write_all_at(b"?", 0)
    }

    /// How many bytes there are.
    pub fn held(&self) -> u64 {
        self.0.held.lock().all
    }

    /// How many files there are; of one that was closed, the disk may need a moment to take its bytes back.
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// How many bodies were not kept on disk, or not further, though they might have been, by why.
    pub fn fallbacks(&self) -> Vec<(&'static str, u64)> {
        let count = |why: Fallback| (why.as_str(), self.0.fallbacks[why as usize].load(Ordering::Relaxed));
        Fallback::ALL.map(count).to_vec()
    }

    /// One body falls back to memory, and then to the pace of the slower side.
    pub(crate) fn falls_back(&self, why: Fallback, error: Option<&io::Error>) {
        self.0.fallbacks[why as usize].fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        {
            let told = &mut self.0.warned.lock()[why as usize];
            if told.is_some_and(|told| now.duration_since(told) < QUIET) {
                return;
            }
            *told = Some(now);
        }
        let error = error.map(|error| format!(": {error}")).unwrap_or_default();
        tracing::warn!("a body is not kept on disk ({}){error}; slow clients may hold dynos", why.as_str());
    }

    fn open(&self) -> io::Result<Scratch> {
        let folder = self.0.folder.lock().clone();
        let file = create(&folder)?;
        self.0.files.fetch_add(1, Ordering::Relaxed);
        Ok(Scratch { file: Some(file), disk: self.clone() })
    }
}

fn create(folder: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(folder)?;
    // Nobody has its name, but whoever may look at the process's descriptors finds it there.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

impl Fallback {
    pub(crate) const ALL: [Self; 5] =
        [Self::AppFull, Self::AllFull, Self::Files, Self::NoSpace, Self::Failed];

    pub(crate) fn of(error: &io::Error) -> Self {
        let no_space = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if no_space { Self::NoSpace } else { Self::Failed }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::AppFull => "app_full",
            Self::AllFull => "server_full",
            Self::Files => "files",
            Self::NoSpace => "no_space",
            Self::Failed => "error",
        }
    }
}

/// What one body has on disk, and what it may have.
pub(crate) struct Share {
    disk: Disk,
    app: AppId,
    /// Of this body, in bytes.
    most: u64,
    /// Of all bodies of the app.
    app_most: u64,
    /// The length of its file.
    bytes: u64,
}

impl Share {
    /// `None`: it may have nothing there.
    pub(crate) fn new(disk: &Disk, app: &AppId, most: u64, app_most: u64) -> Option<Self> {
        (most > 0).then(|| Self { disk: disk.clone(), app: app.clone(), most, app_most, bytes: 0 })
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    pub(crate) fn length(&self) -> u64 {
        self.bytes
    }

    /// Lets the file become that long.
    pub(crate) fn reach(&mut self, length: u64) -> Result<(), Fallback> {
        let more = length.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let most = self.disk.0.most.load(Ordering::Relaxed);
        let files_most = self.disk.0.files_most.load(Ordering::Relaxed);
        if self.bytes == 0 && files_most > 0 && self.disk.files() >= files_most {
            return Err(Fallback::Files);
        }
        let mut held = self.disk.0.held.lock();
        let of_app = held.apps.get(&self.app).copied().unwrap_or_default();
        if of_app.saturating_add(more) > self.app_most {
            return Err(Fallback::AppFull);
        }
        if most > 0 && held.all.saturating_add(more) > most {
            return Err(Fallback::AllFull);
        }
        held.all += more;
        *held.apps.entry(self.app.clone()).or_default() += more;
        self.bytes += more;
        Ok(())
    }

    /// The file is gone.
    pub(crate) fn clear(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes == 0 {
            return;
        }
        let mut held = self.disk.0.held.lock();
        held.all -= bytes;
        if let Entry::Occupied(mut of_app) = held.apps.entry(self.app.clone()) {
            *of_app.get_mut() -= bytes;
            if *of_app.get() == 0 {
                of_app.remove();
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The file of one body.
pub(crate) struct Scratch {
    /// `Some` until it is dropped.
    file: Option<File>,
    disk: Disk,
}

impl Scratch {
    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes parts one behind the other. Without a file one is made first.
    pub(crate) fn write(
        file: Option<Arc<Self>>,
        disk: &Disk,
        mut at: u64,
        parts: Vec<Bytes>,
    ) -> JoinHandle<io::Result<Arc<Self>>> {
        let disk = disk.clone();
        spawn_blocking(move || {
            let scratch = match file {
                Some(scratch) => scratch,
                None => Arc::new(disk.open()?),
            };
            for part in parts {
                scratch.file()?.write_all_at(&part, at)?;
                at += part.len() as u64;
            }
            Ok(scratch)
        })
    }

    /// Reads some of what is at that place, and no more than `most`.
    pub(crate) fn read(self: &Arc<Self>, at: u64, most: u64) -> (u64, JoinHandle<io::Result<Bytes>>) {
        let (scratch, length) = (Arc::clone(self), most.min(READ));
        let task = spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
            scratch.file()?.read_exact_at(&mut bytes, at)?;
            Ok(Bytes::from(bytes))
        });
        (length, task)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.disk.0.files.fetch_sub(1, Ordering::Relaxed);
        // To give a long file's blocks back takes a while.
        if let (Some(file), Ok(runtime)) = (self.file.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file that has no room for anything.
    pub(crate) fn full(disk: &Disk) -> Arc<Scratch> {
        let file = File::options().read(true).write(true).open("/dev/full").unwrap();
        disk.0.files.fetch_add(1, Ordering::Relaxed);
        Arc::new(Scratch { file: Some(file), disk: disk.clone() })
    }

    fn counted(disk: &Disk) -> Vec<u64> {
        disk.fallbacks().into_iter().map(|(_, count)| count).collect()
    }

    #[test]
    fn an_app_and_all_together_have_no_more_than_they_may_and_give_it_back() {
        let disk = Disk::default();
        disk.set("/nowhere", 30, 0);
        let share = |app: &str| Share::new(&disk, &app.into(), 100, 20).unwrap();
        let (mut one, mut two, mut other) = (share("a"), share("a"), share("b"));
        assert_eq!((one.reach(15), one.reach(10), disk.held()), (Ok(()), Ok(()), 15));
        assert_eq!((two.reach(6), two.reach(5)), (Err(Fallback::AppFull), Ok(())));
        assert_eq!((other.reach(11), other.reach(10), disk.held()), (Err(Fallback::AllFull), Ok(()), 30));
        one.clear();
        assert_eq!((disk.held(), two.reach(20), one.reach(1)), (15, Ok(()), Err(Fallback::AppFull)));
        drop((one, two, other));
        assert_eq!((disk.held(), disk.0.held.lock().apps.len()), (0, 0));
        assert!(Share::new(&disk, &"a".into(), 0, 20).is_none());
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_the_file_has_no_name() {
        let (disk, folder) = (Disk::default(), tempfile::tempdir().unwrap());
        disk.set(folder.path(), 0, 1);
        let parts = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let file = Scratch::write(None, &disk, 5, parts).await.unwrap().unwrap();
        let (length, task) = file.read(6, 4);
        assert_eq!((length, &task.await.unwrap().unwrap()[..]), (4, &b"netw"[..]));
        assert_eq!(file.file().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((folder.path().read_dir().unwrap().count(), disk.files()), (0, 1));
        let second = Share::new(&disk, &"shop".into(), 9, 9).unwrap().reach(1);
        assert_eq!(second, Err(Fallback::Files), "one file is all there may be");
        let beyond = file.read(9, 4).1.await.unwrap();
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        drop(file);
        assert_eq!(disk.files(), 0);
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_apart_and_counted() {
        let disk = Disk::default();
        disk.set("/nowhere/at/all", 0, 0);
        let nowhere = Scratch::write(None, &disk, 0, Vec::new()).await.unwrap().err().unwrap();
        let part = vec![Bytes::from_static(b"one")];
        let no_room = Scratch::write(Some(full(&disk)), &disk, 0, part).await.unwrap().err().unwrap();
        for error in [&nowhere, &no_room] {
            disk.falls_back(Fallback::of(error), Some(error));
        }
        assert_eq!(counted(&disk), [0, 0, 0, 1, 1]);
        assert!(Disk::probe(Path::new("/nowhere/at/all")).is_err());
        assert!(Disk::probe(&std::env::temp_dir()).is_ok());
    }
}
