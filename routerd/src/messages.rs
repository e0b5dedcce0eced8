//! The daemon's own messages on standard error, written by one thread beside all others.
//!
//! Who reads standard error may stop (a pager, a collector of logs that hangs). A write to it then waits until they go
//! on, and so would every thread that has something to say, with all requests that are its.
//!
//! *Shared:* the queue, and a counter. *Bounds:* 1,024 messages; one that finds no room is lost, and the next one
//! that is written says how many were. *Never:* anybody but the writer waits for standard error, except
//! [`Messages::flush`], and that for a bounded time.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use router_core::sync::Mutex;

/// How many messages may wait for the writer.
const QUEUE: usize = 1024;
/// How long the writer waits when somebody who shares the output has made it non-blocking.
const NAP: Duration = Duration::from_millis(10);

enum Item {
    Text(Vec<u8>),
    /// All before it is written: whoever waits for that is to hear of it.
    Flush(SyncSender<()>),
}

/// The messages. Clones are the same.
#[derive(Clone)]
pub struct Messages(Arc<Shared>);

struct Shared {
    queue: SyncSender<Item>,
    /// The writer's end of the queue, until there is a writer.
    unread: Mutex<Option<Receiver<Item>>>,
    lost: AtomicU64,
}

impl Default for Messages {
    fn default() -> Self {
        let (queue, unread) = sync_channel(QUEUE);
        Self(Arc::new(Shared { queue, unread: Mutex::new(Some(unread)), lost: AtomicU64::new(0) }))
    }
}

impl Messages {
    /// Begins to write to standard error. Until then all is kept: a process that gives up its rights has one thread.
    pub fn begin(&self) {
        // A descriptor of its own, so that a blocked writer does not hold the lock of `std::io::stderr`.
        match io::stderr().as_fd().try_clone_to_owned() {
            Ok(fd) => self.begin_on(File::from(fd)),
            Err(_) => self.begin_on(io::stderr()),
        }
    }

    fn begin_on(&self, out: impl Write + Send + 'static) {
        let Some(unread) = self.0.unread.lock().take() else { return };
        let shared = Arc::downgrade(&self.0);
        let lost = move || shared.upgrade().map_or(0, |shared| shared.lost.swap(0, Ordering::Relaxed));
        // Without a writer each thread writes for itself.
        let _ = thread::Builder::new().name("messages".to_owned()).spawn(move || write(&unread, lost, out));
    }

    /// Hands a message over. Never waits.
    pub fn say(&self, text: &[u8]) {
        match self.0.queue.try_send(Item::Text(text.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.0.lost.fetch_add(1, Ordering::Relaxed);
            }
            // If that is gone too, there is nobody to tell.
            Err(TrySendError::Disconnected(_)) => drop(io::stderr().write_all(text)),
        }
    }

    /// Waits until all is written, and no longer than that. Says whether it is.
    pub fn flush(&self, within: Duration) -> bool {
        self.begin();
        let (done, is_done) = sync_channel(1);
        // A queue that is full has a writer that stands still.
        self.0.queue.try_send(Item::Flush(done)).is_ok() && is_done.recv_timeout(within).is_ok()
    }
}

impl Write for Messages {
    /// Takes a message, whole.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.say(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes until nobody has messages any more.
fn write(queue: &Receiver<Item>, lost: impl Fn() -> u64, mut out: impl Write) {
    for item in queue {
        match item {
            Item::Text(text) => write_all(&mut out, &text),
            // Whoever has waited may have gone.
            Item::Flush(done) => drop(done.try_send(())),
        }
        let lost = lost();
        if lost > 0 {
            let text = format!("routerd: {lost} messages were lost, because standard error was not read\n");
            write_all(&mut out, text.as_bytes());
        }
    }
}

fn write_all(out: &mut impl Write, mut text: &[u8]) {
    while !text.is_empty() {
        match out.write(text) {
            Ok(written) if written > 0 => text = &text[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NAP),
            // There is nobody to tell.
            Ok(_) | Err(_) => return,
        }
    }
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("lost", &self.0.lost.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn rest(mut pipe: PipeReader) -> String {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_was_said_before_there_is_a_writer_is_written_first() {
        let (reads, writes) = pipe().unwrap();
        let messages = Messages::default();
        messages.say(b"one\n");
        messages.begin_on(writes);
        messages.clone().write_all(b"two\n").unwrap();
        assert!(messages.flush(LONG));
        drop(messages);
        assert_eq!(rest(reads), "one\ntwo\n");
    }

    #[test]
    fn nobody_waits_for_an_output_that_nobody_reads_and_what_is_lost_is_counted() {
        let (reads, writes) = pipe().unwrap();
        let messages = Messages::default();
        messages.begin_on(writes);
        // More than pipe and queue can hold.
        for _ in 0..4000 {
            messages.say(&[b'x'; 100]);
        }
        assert!(!messages.flush(Duration::ZERO));
        let all = thread::spawn(move || rest(reads));
        // Until it has caught up.
        while !messages.flush(LONG) {
            thread::yield_now();
        }
        drop(messages);
        let all = all.join().unwrap();
        // What is lost is told whenever the writer has its turn.
        let lost = |told: &str| told.split(' ').next().unwrap().parse::<usize>().unwrap();
        let lost: usize = all.split("routerd: ").skip(1).map(lost).sum();
        assert!(lost > 0);
        assert_eq!(all.matches('x').count(), (4000 - lost) * 100);
    }
}
