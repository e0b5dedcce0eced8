//! The one writer of the access log: takes lines out of a bounded queue and writes many with one call.
//!
//! *Shared:* the queue, three counters, and the flag `asleep`.
//! *Wakes:* while there is traffic the writer looks into the queue every [`NAP`] and nobody wakes it. After
//! [`NAPS_BEFORE_SLEEP`] looks in vain it raises `asleep` and sleeps; the next record lowers the flag and wakes it.
//! Both sides have a full fence between their own write and their look at the other's, so no record is left behind
//! with the writer asleep.
//! *Bounds:* the capacity in lines, and [`BYTES_MAX`] for all of them. A line is made by the thread that served its
//! request: handing over the record instead kept the buffer that the request was read into from being used again, and
//! left its parts to be freed by another thread than the one that had made them.
//! *Never:* a request waits for the log, however long the output stands still
//! (`a_blocked_output_loses_lines_and_holds_up_nobody`).

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use router_core::clock::Clock;
use router_core::proxy::Record;
use tokio::sync::watch;

use super::line::{Format, LINE_MAX, format_line};

/// How many lines may wait for the writer unless the configuration says otherwise.
pub const DEFAULT_CAPACITY: usize = 65_536;

/// The most bytes handed to one write: what a pipe holds.
const BATCH_MAX: usize = 64 * 1024;
/// How long the writer lets lines gather.
const NAP: Duration = Duration::from_millis(10);
/// How many looks in vain until the writer sleeps: 200 ms without a request.
const NAPS_BEFORE_SLEEP: u32 = 20;
/// How long it sleeps at most; with something to report, one second.
const SLEEP: Duration = Duration::from_secs(10);
/// How often lost lines and write errors are reported at most.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// The most bytes that may wait for the writer.
const BYTES_MAX: usize = 64 * 1024 * 1024;

thread_local! {
    /// Where a thread makes its lines.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The access log. Clones write to the same log; when the last one is gone, the writer writes what is left and ends.
#[derive(Clone)]
pub struct AccessLog(Arc<Handle>);

struct Handle {
    format: Format,
    shared: Arc<Shared>,
    writer: Thread,
    done: watch::Receiver<bool>,
}

struct Shared {
    queue: ArrayQueue<Box<[u8]>>,
    /// The bytes of all lines in the queue.
    bytes: AtomicUsize,
    asleep: AtomicBool,
    closing: AtomicBool,
    closed: AtomicBool,
    lost: AtomicU64,
    errors: AtomicU64,
    wakes: AtomicU64,
}

impl AccessLog {
    /// Starts a log that goes to standard output. `capacity` is how many lines may wait for the writer; 0 is 1.
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
            bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
        });
        let (set_done, done) = watch::channel(false);
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            out,
            lines: Vec::with_capacity(BATCH_MAX),
            torn: false,
            report: Report { clock: Clock::system(), last: None, lost: 0, errors: 0, error: None },
        };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            writer.run();
            let _ = set_done.send(true); // nobody may be waiting for it
        })?;
        Ok(Self(Arc::new(Handle { format, shared, writer: thread.thread().clone(), done })))
    }

    /// Makes the line of a request that is over and hands it over. Never blocks; with a full queue the line is lost
    /// and counted.
    pub fn write(&self, record: &Record) {
        let shared = &*self.0.shared;
        if !shared.push(self.0.format, record) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The line must be in the queue before the flag is read; see `Writer::sleep` for the other side.
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
    /// Puts a line into the queue; `false` if it is full or closed.
    fn push(&self, format: Format, record: &Record) -> bool {
        if self.closed.load(Ordering::Acquire) || self.queue.is_full() {
            return false;
        }
        let line: Box<[u8]> = LINE.with_borrow_mut(|line| {
            line.clear();
            format_line(format, record, line);
            line.as_slice().into()
        });
        let len = line.len();
        let fits = self.bytes.fetch_add(len, Ordering::Relaxed) + len <= BYTES_MAX;
        let pushed = fits && self.queue.push(line).is_ok();
        if !pushed {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
        }
        pushed
    }

    fn pop(&self) -> Option<Box<[u8]>> {
        let line = self.queue.pop()?;
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        Some(line)
    }
}

struct Writer<W> {
    shared: Arc<Shared>,
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

    /// Sleeps until a line or the end comes.
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

    /// Writes the next lines with one call; `false` if there were none.
    fn write_batch(&mut self) -> bool {
        self.lines.clear();
        if self.torn {
            self.lines.push(b'\n');
        }
        let mut count = 0;
        while self.lines.len() + LINE_MAX <= BATCH_MAX {
            let Some(line) = self.shared.pop() else { break };
            self.lines.extend_from_slice(&line);
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
