//! Notices that a file has been written anew: by an editor, by an atomic rename, or by a symbolic link that points
//! elsewhere, as Kubernetes does.
//!
//! It looks at the file's metadata, through links, instead of asking the kernel to be told: that also sees changes on
//! network file systems and in folders that are replaced whole. A look costs one system call.

use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often the file is looked at. A change counts once two looks have seen the same, so that a file that is being
/// written is not read half.
pub const LOOK: Duration = Duration::from_millis(500);

/// A file under watch.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    known: Option<Mark>,
    /// At the last look.
    before: Option<Mark>,
    look: Duration,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Same,
    /// A change that may not be over, or no file.
    Moving,
    /// A change that is over.
    Changed,
}

/// What tells one state of a file from another: file system, file, length, time of the last change of content and of
/// anything.
type Mark = (u64, u64, u64, (i64, i64), (i64, i64));

impl Watched {
    /// Watches a file from its present state on.
    pub fn new(path: &Path) -> Self {
        let known = mark(path);
        Self { path: path.to_owned(), known, before: known, look: LOOK }
    }

    /// Waits until the file is there, has changed since the last time, and has stopped changing.
    ///
    /// # Cancel safety
    /// A change that was not told yet is told the next time.
    pub async fn changed(&mut self) {
        let mut ticks = interval(self.look);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.look() == Look::Changed {
                return;
            }
        }
    }

    /// Looks at the file once. For whoever looks every [`LOOK`].
    pub fn look(&mut self) -> Look {
        let now = mark(&self.path);
        let before = std::mem::replace(&mut self.before, now);
        if now.is_none() || now != before {
            return Look::Moving;
        }
        if now == self.known {
            return Look::Same;
        }
        self.known = now;
        Look::Changed
    }
}

/// `None`: there is no such file now.
fn mark(path: &Path) -> Option<Mark> {
    let file = metadata(path).ok()?;
    let (content, any) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    Some((file.dev(), file.ino(), file.len(), content, any))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, create_dir, remove_file, rename, write};
    use std::os::unix::fs::symlink;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn watch(path: &Path) -> Watched {
        Watched { look: Duration::from_millis(5), ..Watched::new(path) }
    }

    async fn notices(watched: &mut Watched) {
        tokio::time::timeout(DEADLINE, watched.changed()).await.expect("the change was not noticed");
    }

    async fn is_silent(watched: &mut Watched) {
        let silent = tokio::time::timeout(Duration::from_millis(50), watched.changed()).await;
        assert!(silent.is_err(), "there was no change");
    }

    #[tokio::test]
    async fn a_file_that_is_written_renamed_over_or_comes_back_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routerd.toml");
        write(&path, "one").unwrap();
        let mut watched = watch(&path);
        is_silent(&mut watched).await;
        write(&path, "two!").unwrap();
        notices(&mut watched).await;
        is_silent(&mut watched).await;
        let other = dir.path().join("new");
        write(&other, "tre!").unwrap();
        rename(&other, &path).unwrap();
        notices(&mut watched).await;
        remove_file(&path).unwrap();
        is_silent(&mut watched).await;
        write(&path, "four").unwrap();
        notices(&mut watched).await;
    }

    #[tokio::test]
    async fn a_folder_that_is_swapped_by_its_link_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (folder, text) in [("v1", "same"), ("v2", "same")] {
            create_dir(at(folder)).unwrap();
            write(at(folder).join("routerd.toml"), text).unwrap();
        }
        symlink("v1", at("data")).unwrap();
        symlink("data/routerd.toml", at("routerd.toml")).unwrap();
        let mut watched = watch(&at("routerd.toml"));
        is_silent(&mut watched).await;
        symlink("v2", at("data-new")).unwrap();
        rename(at("data-new"), at("data")).unwrap();
        notices(&mut watched).await;
        assert_eq!(fs::read_to_string(at("routerd.toml")).unwrap(), "same");
    }
}
