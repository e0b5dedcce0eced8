//! What is read of a request's body before a dyno is taken: memory first, then disk, and how it is sent.
//!
//! *Shared:* what is kept, between the tries of a request. *Cancel:* what a request that is dropped has kept goes with
//! it, from memory and from disk.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use crate::proxy::disk::{Fallback, Scratch, Share};
use crate::proxy::memory::{Charge, Memory};

/// As much is gathered in memory before it is written to disk, in bytes: slow uploads are many.
const GATHERED: usize = 64 << 10;

/// What has been read of a body so far. One part is kept as it came; of more, the bytes are: a client that sends them
/// one by one must not cost a buffer for each.
pub(crate) struct Ahead {
    first: Bytes,
    all: BytesMut,
    read: usize,
    /// How much of it may be in memory, but for what goes to disk.
    most: usize,
    charge: Option<Charge>,
    memory: Memory,
    beyond: Option<Beyond>,
}

/// The part that goes to disk.
struct Beyond {
    share: Share,
    file: Option<Arc<Scratch>>,
    written: u64,
    gathered: Box<Ahead>,
    /// There is no room for what is gathered.
    full: bool,
}

impl Ahead {
    pub(crate) fn new(most: usize, memory: &Memory, share: Option<Share>) -> Self {
        let beyond = share.map(|share| {
            let gathered = Box::new(Self::new(GATHERED, memory, None));
            Beyond { share, file: None, written: 0, gathered, full: false }
        });
        let (charge, memory) = (memory.charge(), memory.clone());
        Self { first: Bytes::new(), all: BytesMut::new(), read: 0, most, charge, memory, beyond }
    }

    /// So much has come.
    pub(crate) fn length(&self) -> u64 {
        self.read as u64 + self.beyond.as_ref().map_or(0, Beyond::length)
    }

    /// Whether more may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.has_memory() || self.beyond.as_ref().is_some_and(Beyond::has_room)
    }

    fn has_memory(&self) -> bool {
        self.read < self.most && !self.memory.is_full()
    }

    pub(crate) async fn push(&mut self, data: Bytes) {
        match &self.beyond {
            // Once something is on disk, all else is behind it.
            Some(beyond) if beyond.length() > 0 || !self.has_memory() => {}
            Some(_) | None => return self.add(data),
        }
        if let Some(beyond) = &mut self.beyond {
            beyond.gathered.add(data);
            if beyond.gathered.read >= GATHERED {
                beyond.write(&self.memory).await;
            }
        }
    }

    fn add(&mut self, data: Bytes) {
        if let Some(charge) = &mut self.charge {
            charge.add(data.len());
        }
        if self.read == 0 {
            self.first = data;
            self.read = self.first.len();
            return;
        }
        self.read += data.len();
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn join(self) -> Bytes {
        let bytes = if self.all.is_empty() { self.first } else { self.all.freeze() };
        match self.charge {
            Some(charge) if !bytes.is_empty() => charge.on(bytes),
            _ => bytes,
        }
    }

    /// No more is read ahead.
    pub(crate) async fn keep(mut self) -> Kept {
        let Some(mut beyond) = self.beyond.take() else {
            return Kept { first: self.join(), ..Kept::default() };
        };
        beyond.write(&self.memory).await;
        let Beyond { share, file, written, gathered, .. } = beyond;
        let stored = file.map(|file| Arc::new(Stored { file, length: written, _share: share }));
        Kept { first: self.join(), stored, last: gathered.join() }
    }
}

impl Beyond {
    fn length(&self) -> u64 {
        self.written + self.gathered.read as u64
    }

    fn has_room(&self) -> bool {
        !self.full && self.length() < self.share.most()
    }

    /// Writes what is gathered. If that cannot be, it stays where it is, and nothing more is read.
    async fn write(&mut self, memory: &Memory) {
        if self.full || self.gathered.read == 0 {
            return;
        }
        let length = self.length();
        if let Err(why) = self.share.reach(length) {
            self.full = true;
            return self.share.disk().falls_back(why, None);
        }
        let gathered = std::mem::replace(&mut *self.gathered, Ahead::new(GATHERED, memory, None)).join();
        let task = Scratch::write(self.file.clone(), self.share.disk(), self.written, vec![gathered.clone()]);
        match task.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(file) => (self.file, self.written) = (Some(file), length),
            Err(error) => {
                self.full = true;
                self.share.disk().falls_back(Fallback::of(&error), Some(&error));
                (self.gathered.read, self.gathered.first) = (gathered.len(), gathered);
            }
        }
    }
}

/// What was read of a body, in this order: it can be sent as often as need be.
#[derive(Default)]
pub(crate) struct Kept {
    first: Bytes,
    stored: Option<Arc<Stored>>,
    /// What the disk had no room for.
    last: Bytes,
}

struct Stored {
    file: Arc<Scratch>,
    length: u64,
    _share: Share,
}

impl Kept {
    pub(crate) fn in_memory(&self) -> u64 {
        (self.first.len() + self.last.len()) as u64
    }

    /// Whether some of it is on disk.
    pub(crate) fn is_stored(&self) -> bool {
        self.stored.is_some()
    }

    /// All of it, from the start.
    pub(crate) fn replay(&self) -> Replay {
        let stored = self.stored.clone();
        Replay { first: self.first.clone(), stored, at: 0, reading: None, last: self.last.clone() }
    }
}

/// What was read of a body, as it is sent.
pub(crate) struct Replay {
    first: Bytes,
    stored: Option<Arc<Stored>>,
    /// So much of what is stored was sent.
    at: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    last: Bytes,
}

impl Replay {
    /// Bytes that are still to be sent.
    pub(crate) fn left(&self) -> u64 {
        let stored = self.stored.as_ref().map_or(0, |stored| stored.length - self.at);
        self.first.len() as u64 + stored + self.last.len() as u64
    }

    /// The next part, while something is left.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Lost>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.first)));
        }
        let Some(stored) = self.stored.as_ref().filter(|stored| self.at < stored.length) else {
            return Poll::Ready(Ok(std::mem::take(&mut self.last)));
        };
        let reading =
            self.reading.get_or_insert_with(|| stored.file.read(self.at, stored.length - self.at).1);
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Ok(bytes) = &read {
            self.at += bytes.len() as u64;
        }
        Poll::Ready(read.map_err(Lost))
    }
}

/// A body cannot be read back from disk.
#[derive(Debug)]
pub(crate) struct Lost(io::Error);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a body cannot be read back from disk: {}", self.0)
    }
}

impl std::error::Error for Lost {}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::proxy::disk::Disk;
    use crate::proxy::disk::tests::full;

    fn part(n: u8) -> Bytes {
        Bytes::from(vec![n; 30_000])
    }

    async fn all(kept: &Kept) -> Vec<u8> {
        let (mut replay, mut sent) = (kept.replay(), Vec::new());
        while replay.left() > 0 {
            sent.extend_from_slice(&poll_fn(|cx| replay.poll_next(cx)).await.unwrap());
        }
        sent
    }

    /// Reads up to ten parts ahead, as far as there is room.
    async fn read(mut ahead: Ahead) -> (Kept, Vec<u8>) {
        let mut read = Vec::new();
        for n in 0..10 {
            if ahead.has_room() {
                ahead.push(part(n)).await;
                read.extend_from_slice(&part(n));
            }
        }
        (ahead.keep().await, read)
    }

    #[tokio::test]
    async fn memory_first_then_disk_and_it_can_be_sent_more_than_once() {
        let (disk, folder, memory) = (Disk::default(), tempfile::tempdir().unwrap(), Memory::default());
        disk.set(folder.path(), 0, 0);
        memory.set_most(1 << 30);
        for (most, app_most, length, stored, fallbacks) in [
            (1 << 20, 1 << 20, 300_000, 240_000, 0),
            // As far as it may, by parts.
            (100_000, 1 << 20, 180_000, 120_000, 0),
            // What there is no room for stays in memory, and is the last.
            (1 << 20, 100_000, 240_000, 90_000, 1),
            (1 << 20, 10, 150_000, 0, 1),
        ] {
            let share = Share::new(&disk, &"shop".into(), most, app_most);
            let (kept, read) = read(Ahead::new(50_000, &memory, share)).await;
            assert_eq!((read.len(), disk.held(), kept.is_stored()), (length, stored, stored > 0));
            assert_eq!((kept.in_memory(), memory.held()), (length as u64 - stored, length as u64 - stored));
            assert!(all(&kept).await == read && all(&kept).await == read);
            drop(kept);
            assert_eq!((disk.held(), memory.held(), disk.files()), (0, 0, 0));
            let told: u64 = disk.fallbacks().iter().map(|(_, count)| count).sum();
            assert_eq!(told, fallbacks * (1 + u64::from(stored == 0)));
        }
    }

    #[tokio::test]
    async fn a_disk_that_fails_leaves_all_of_it_in_memory() {
        let (disk, memory) = (Disk::default(), Memory::default());
        memory.set_most(1 << 30);
        let mut ahead = Ahead::new(50_000, &memory, Share::new(&disk, &"shop".into(), 1 << 20, 1 << 20));
        ahead.beyond.as_mut().unwrap().file = Some(full(&disk));
        let (kept, read) = read(ahead).await;
        assert_eq!((read.len(), kept.in_memory(), memory.held()), (150_000, 150_000, 150_000));
        assert!(all(&kept).await == read);
        assert_eq!(disk.fallbacks()[3], ("no_space", 1));
    }
}
