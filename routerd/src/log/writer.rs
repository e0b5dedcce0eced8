//! The one writer of the access log: takes records out of a bounded queue and writes their lines, many with one call.
//!
//! *Shared:* the queue, three counters, and the flag `asleep`.
//! *Wakes:* while there is traffic the writer looks into the queue every [`NAP`] and nobody wakes it. After
//! [`NAPS_BEFORE_SLEEP`] looks in vain it raises `asleep` and sleeps; the next record lowers the flag and wakes it.
//! Both sides have a full fence between their own write and their look at the other's, so no record is left behind
//! with the writer asleep.
//! *Bounds:* the capacity in records. A record shares the buffer its request was read into; as that may be much
//! larger than what is logged, records above [`SHARING_MAX`] are copied out of it, and the copies are bounded by
//! [`COPIED_BYTES_MAX`].
//! *Never:* a request waits for the log, however long the output stands still
//! (`a_blocked_output_loses_lines_and_holds_up_nobody`).

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use http::HeaderValue;
use http::uri::PathAndQuery;
use router_core::clock::Clock;
use router_core::proxy::Record;
use tokio::sync::watch;

use super::line::{Format, LINE_MAX, format_line, room};

/// How many records may wait for the writer unless the configuration says otherwise.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// The most bytes handed to one write: what a pipe holds.
const BATCH_MAX: usize = 64 * 1024;
/// How long the writer lets records gather.
const NAP: Duration = Duration::from_millis(10);
/// How many looks in vain until the writer sleeps: 200 ms without a request.
const NAPS_BEFORE_SLEEP: u32 = 20;
/// How long it sleeps at most; with something to report, one second.
const SLEEP: Duration = Duration::from_secs(10);
/// How often lost lines and write errors are reported at most.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Up to here a waiting record shares its request's buffer. More do not wait unless the output stands still.
const SHARING_MAX: usize = 1024;
/// The most bytes that records beyond [`SHARING_MAX`] may hold.
const COPIED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The access log. Clones write to the same log; when the last one is gone, the writer writes what is left and ends.
#[derive(Clone)]
pub struct AccessLog(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    writer: Thread,
    done: watch::Receiver<bool>,
}

struct Shared {
    queue: ArrayQueue<Entry>,
    asleep: AtomicBool,
    closing: AtomicBool,
    closed: AtomicBool,
    copied_bytes: AtomicUsize,
    lost: AtomicU64,
    errors: AtomicU64,
    wakes: AtomicU64,
}

struct Entry {
    record: Box<Record>,
    /// What a record that was copied out of its request's buffer holds; 0 for one that was not.
    copied: usize,
}

impl AccessLog {
    /// Starts a log that goes to standard output. `capacity` is how many records may wait for the writer; 0 is 1.
    ///
    /// # Errors
    ///
    /// When standard output is closed, or the writer's thread cannot be started.
    pub fn to_stdout(format: Format, capacity: usize) -> io::Result<Self> {
        // Its own descriptor, so that a blocked log holds neither the lock nor the buffer of `std::io::stdout`.
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Self::start(format, capacity, out)
    }

    /// Starts a log that goes to `out`, which should not buffer. A write to it may block.
    ///
    /// # Errors
    ///
    /// When the writer's thread cannot be started.
    pub fn start(format: Format, capacity: usize, out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(capacity.max(1)),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            copied_bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
        });
        let (set_done, done) = watch::channel(false);
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            format,
            out,
            lines: Vec::with_capacity(BATCH_MAX),
            torn: false,
            report: Report { clock: Clock::system(), last: None, lost: 0, errors: 0, error: None },
        };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            let _ = set_done.send(true); // nobody may be waiting for it
        })?;
        Ok(Self(Arc::new(Handle { shared, writer: thread.thread().clone(), done })))
    }

    /// Hands over the record of a request that is over. Never blocks; with a full queue the record is lost and
    /// counted.
    pub fn write(&self, record: Box<Record>) {
        let shared = &*self.0.shared;
        if !shared.push(record) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The record must be in the queue before the flag is read; see `Writer::sleep` for the other side.
        fence(Ordering::SeqCst);
        if shared.asleep.load(Ordering::Relaxed) && shared.asleep.swap(false, Ordering::AcqRel) {
            shared.wakes.fetch_add(1, Ordering::Relaxed);
            self.0.writer.unpark();
        }
    }

    /// Lines lost so far: the queue was full, or the output refused them.
    pub fn lost(&self) -> u64 {
        self.0.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes that failed so far.
    pub fn errors(&self) -> u64 {
        self.0.shared.errors.load(Ordering::Relaxed)
    }

    /// Writes what is in the queue and ends the log; `false` if that took longer than `within`. Records that come
    /// later are lost.
    ///
    /// # Cancel safety
    ///
    /// The log ends all the same; nobody hears when.
    pub async fn close(&self, within: Duration) -> bool {
        self.0.end();
        let mut done = self.0.done.clone();
        tokio::time::timeout(within, done.wait_for(|done| *done)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// How often a request had to wake the writer.
    #[cfg(test)]
    fn wakes(&self) -> u64 {
        self.0.shared.wakes.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.0.shared.queue.len();
        f.debug_struct("AccessLog").field("waiting", &waiting).field("lost", &self.lost()).finish()
    }
}

impl Handle {
    fn end(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.writer.unpark();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Puts a record into the queue; `false` if it is full or closed.
    fn push(&self, mut record: Box<Record>) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let mut copied = 0;
        if self.queue.len() >= SHARING_MAX {
            if self.queue.is_full() {
                return false;
            }
            copied = copy_out(&mut record);
            if self.copied_bytes.fetch_add(copied, Ordering::Relaxed) + copied > COPIED_BYTES_MAX {
                self.copied_bytes.fetch_sub(copied, Ordering::Relaxed);
                return false;
            }
        }
        let pushed = self.queue.push(Entry { record, copied }).is_ok();
        if !pushed && copied > 0 {
            self.copied_bytes.fetch_sub(copied, Ordering::Relaxed);
        }
        pushed
    }

    fn pop(&self) -> Option<Box<Record>> {
        let Entry { record, copied } = self.queue.pop()?;
        if copied > 0 {
            self.copied_bytes.fetch_sub(copied, Ordering::Relaxed);
        }
        Some(record)
    }
}

/// Copies what will be logged out of the request's buffer, so that the buffer can go. Returns the bytes copied.
fn copy_out(record: &mut Record) -> usize {
    let mut copied = 0;
    if let Some(path) = &mut record.path {
        // One byte more than there is room for, so that the line still shows that something was cut.
        let text = &path.as_str()[..path.as_str().floor_char_boundary(room::PATH + 4)];
        copied += text.len();
        // What was a path is one when it is cut; should that not be so, the path is left out.
        *path = PathAndQuery::try_from(text).unwrap_or_else(|_| PathAndQuery::from_static("/"));
    }
    let mut header = |value: &mut Option<HeaderValue>, room: usize| {
        if let Some(bytes) = value.as_ref().map(HeaderValue::as_bytes) {
            let bytes = &bytes[..bytes.len().min(room + 4)];
            copied += bytes.len();
            *value = HeaderValue::from_bytes(bytes).ok();
        }
    };
    header(&mut record.host, room::HOST);
    header(&mut record.request_id, room::REQUEST_ID);
    header(&mut record.forwarded_for, room::FORWARDED_FOR);
    copied
}

struct Writer<W> {
    shared: Arc<Shared>,
    format: Format,
    out: W,
    lines: Vec<u8>,
    /// The last write ended inside a line: the next one starts with a newline.
    torn: bool,
    report: Report,
}

impl<W: Write> Writer<W> {
    fn run(&mut self) {
        let mut in_vain = 0;
        loop {
            // Read before the queue: what was handed over before the log was closed is written.
            let closing = self.shared.closing.load(Ordering::Acquire);
            let wrote = self.write_batch();
            self.report();
            match (wrote, closing) {
                (true, _) if !self.shared.queue.is_empty() => in_vain = 0,
                (true, false) => {
                    in_vain = 0;
                    thread::park_timeout(NAP);
                }
                (false, false) if in_vain < NAPS_BEFORE_SLEEP => {
                    in_vain += 1;
                    thread::park_timeout(NAP);
                }
                (false, false) => {
                    in_vain = 0;
                    self.sleep();
                }
                (_, true) => break,
            }
        }
        self.shared.closed.store(true, Ordering::Release);
        while self.write_batch() {}
    }

    /// Sleeps until a record or the end comes.
    fn sleep(&self) {
        self.shared.asleep.store(true, Ordering::Relaxed);
        // The flag must be up before the queue is read; see `AccessLog::write` for the other side.
        fence(Ordering::SeqCst);
        if self.shared.queue.is_empty() && !self.shared.closing.load(Ordering::Acquire) {
            let something_to_say = self.report.behind(&self.shared);
            thread::park_timeout(if something_to_say { Duration::from_secs(1) } else { SLEEP });
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    /// Writes the lines of the next records with one call; `false` if there were none.
    fn write_batch(&mut self) -> bool {
        self.lines.clear();
        if self.torn {
            self.lines.push(b'\n');
        }
        let mut count = 0;
        while self.lines.len() + LINE_MAX <= BATCH_MAX {
            let Some(record) = self.shared.pop() else { break };
            format_line(self.format, &record, &mut self.lines);
            count += 1;
        }
        if count == 0 {
            return false;
        }
        match self.write_out() {
            Ok(()) => self.torn = false,
            Err((written, error)) => {
                // Lines that are whole in the output are not lost.
                let whole = self.lines[..written].iter().filter(|&&byte| byte == b'\n').count() as u64;
                let whole = whole.saturating_sub(u64::from(self.torn));
                self.torn = match written {
                    0 => self.torn,
                    _ => self.lines[written - 1] != b'\n',
                };
                self.shared.lost.fetch_add(count - whole.min(count), Ordering::Relaxed);
                self.shared.errors.fetch_add(1, Ordering::Relaxed);
                self.report.error = Some(error);
            }
        }
        true
    }

    /// Writes all of `lines`, or says how much was written and what stopped it.
    fn write_out(&mut self) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < self.lines.len() {
            match self.out.write(&self.lines[written..]) {
                Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares our output made it non-blocking: wait here, as a blocking write would.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NAP),
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        if let Some(text) = self.report.due(&self.shared) {
            tracing::warn!("{text}");
        }
    }
}

/// What has been said about lost lines, and when.
struct Report {
    clock: Clock,
    last: Option<Instant>,
    lost: u64,
    errors: u64,
    error: Option<io::Error>,
}

impl Report {
    /// Whether there is something that has not been said yet.
    fn behind(&self, shared: &Shared) -> bool {
        shared.lost.load(Ordering::Relaxed) != self.lost
            || shared.errors.load(Ordering::Relaxed) != self.errors
    }

    /// What to say now: nothing, if there is no news or the last word is not old enough.
    fn due(&mut self, shared: &Shared) -> Option<String> {
        if !self.behind(shared) {
            return None;
        }
        let now = self.clock.now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < REPORT_EVERY) {
            return None;
        }
        let lost = shared.lost.load(Ordering::Relaxed);
        let errors = shared.errors.load(Ordering::Relaxed);
        let news = lost - self.lost;
        (self.last, self.lost, self.errors) = (Some(now), lost, errors);
        Some(match self.error.take() {
            Some(error) => format!("log: {news} lines lost, the output cannot be written: {error}"),
            None => format!("log: {news} lines lost, the writer cannot keep up"),
        })
    }
}

#[cfg(test)]
mod tests;
