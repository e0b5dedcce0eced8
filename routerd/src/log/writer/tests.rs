//! Tests of the writer, with outputs that stand still, fail, and come back.

use std::io::Read;
use std::sync::mpsc;

use super::*;

/// The longest any condition here may take.
const DEADLINE: Duration = Duration::from_secs(20);

fn record(path: &str) -> Box<Record> {
    let mut record = Box::<Record>::default();
    record.path = Some(path.parse().unwrap());
    record
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::system();
    let start = clock.now();
    while !is_so() {
        assert!(clock.now() - start < DEADLINE, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The paths of the lines, in the order written.
fn paths(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split('"').nth(1).expect("a path in each line")).collect()
}

/// An output that sends on what it is given, each call as one message.
struct Calls(mpsc::SyncSender<Vec<u8>>);

impl Write for Calls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_is_lost_below_capacity_and_each_producer_keeps_its_order() {
    const EACH: usize = 5_000;
    let (send, calls) = mpsc::sync_channel(1_000_000);
    let log = AccessLog::start(Format::Logfmt, 4 * EACH, Calls(send)).unwrap();
    thread::scope(|scope| {
        for producer in 0..4 {
            let log = &log;
            scope.spawn(move || (0..EACH).for_each(|i| log.write(&record(&format!("/{producer}/{i}")))));
        }
    });
    assert!(log.close(DEADLINE).await);
    assert_eq!((log.lost(), log.errors()), (0, 0));
    let calls: Vec<Vec<u8>> = calls.try_iter().collect();
    assert!(
        calls.iter().all(|call| call.len() <= BATCH_MAX && call.ends_with(b"\n")),
        "whole lines, bounded calls"
    );
    assert!(calls.len() < EACH, "many lines a call, not {} calls", calls.len());
    let text = String::from_utf8(calls.concat()).unwrap();
    let paths = paths(&text);
    assert_eq!(paths.len(), 4 * EACH);
    for producer in 0..4 {
        let prefix = format!("/{producer}/");
        let seen: Vec<usize> =
            paths.iter().filter_map(|path| path.strip_prefix(&prefix)?.parse().ok()).collect();
        assert!(seen.iter().copied().eq(0..EACH), "producer {producer} is out of order");
    }
}

#[tokio::test]
async fn a_blocked_output_loses_lines_and_holds_up_nobody() {
    const CAPACITY: usize = 4096;
    const SENT: usize = 20_000;
    let (mut reader, pipe) = io::pipe().unwrap();
    let log = AccessLog::start(Format::Logfmt, CAPACITY, pipe).unwrap();
    let (send, finished) = mpsc::channel();
    let producer = log.clone();
    thread::spawn(move || {
        (0..SENT).for_each(|i| producer.write(&record(&format!("/{i}"))));
        send.send(()).unwrap();
    });
    finished.recv_timeout(DEADLINE).expect("a producer waits for a pipe that nobody reads");
    let lost = log.lost() as usize;
    assert!(lost > 0 && lost <= SENT - CAPACITY, "{lost} lines lost");
    assert!(!log.close(Duration::from_millis(50)).await, "a blocked pipe cannot be flushed");

    // Once somebody reads, everything that was not counted as lost is there, and the log ends.
    let text = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert!(log.close(DEADLINE).await);
    drop(log);
    let text = text.join().unwrap().unwrap();
    assert_eq!(paths(&text).len(), SENT - lost);
}

#[test]
fn waiting_lines_are_bounded_in_bytes() {
    let shared = Shared {
        queue: ArrayQueue::new(1_000_000),
        bytes: AtomicUsize::new(0),
        asleep: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        lost: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        wakes: AtomicU64::new(0),
    };
    let push = || shared.push(Format::Logfmt, &record("/"));
    assert!(push());
    let one = shared.bytes.load(Ordering::Relaxed);
    assert!(one > 50, "{one}");
    shared.bytes.store(BYTES_MAX - one, Ordering::Relaxed);
    assert!(push() && !push(), "one fits and no more");
    assert_eq!(shared.bytes.load(Ordering::Relaxed), BYTES_MAX);
    assert!(shared.pop().is_some() && push(), "what is written makes room");
    while shared.pop().is_some() {}
    assert_eq!(shared.bytes.load(Ordering::Relaxed), BYTES_MAX - 2 * one);
}

#[test]
fn a_sleeping_writer_is_woken_once_for_many_records() {
    let (send, calls) = mpsc::sync_channel(1_000);
    let log = AccessLog::start(Format::Logfmt, 4096, Calls(send)).unwrap();
    for _ in 0..3 {
        until("the writer sleeps", || log.0.shared.asleep.load(Ordering::Relaxed));
        (0..100).for_each(|i| log.write(&record(&format!("/{i}"))));
        let mut seen = 0;
        while seen < 100 {
            let call = calls.recv_timeout(DEADLINE).expect("a line that was handed over is written");
            seen += String::from_utf8(call).unwrap().lines().count();
        }
    }
    // One a burst; a few more only where this thread was not run for 200 ms in the middle of one.
    assert!((3..10).contains(&log.wakes()), "{} wakes for 3 bursts of 100", log.wakes());
}

#[test]
fn no_record_is_left_behind_with_the_writer_asleep() {
    // Each line is awaited before the next record comes, at many distances from the moment the writer lies down.
    let (send, calls) = mpsc::sync_channel(16);
    let log = AccessLog::start(Format::Logfmt, 16, Calls(send)).unwrap();
    for i in 0..8 {
        until("the writer is about to sleep", || log.0.shared.asleep.load(Ordering::Relaxed));
        for _ in 0..i * 50 {
            std::hint::spin_loop();
        }
        log.write(&record("/"));
        // Less than the writer's own longest sleep: a lost wake-up would show.
        calls.recv_timeout(SLEEP / 2).expect("the record woke the writer");
    }
}

#[test]
fn the_last_handle_ends_the_log_and_what_is_in_it_is_written() {
    let (send, calls) = mpsc::sync_channel(1_000);
    let log = AccessLog::start(Format::Json, 4096, Calls(send)).unwrap();
    let other = log.clone();
    (0..100).for_each(|_| log.write(&record("/")));
    drop(log);
    (0..100).for_each(|_| other.write(&record("/")));
    drop(other);
    // The sender goes with the writer, which ends the iteration.
    let text = String::from_utf8(calls.iter().collect::<Vec<_>>().concat()).unwrap();
    assert_eq!(text.lines().count(), 200);
}

#[tokio::test]
async fn what_comes_after_the_end_is_counted_as_lost() {
    let (send, _calls) = mpsc::sync_channel(10);
    let log = AccessLog::start(Format::Logfmt, 16, Calls(send)).unwrap();
    assert!(log.close(DEADLINE).await);
    log.write(&record("/"));
    assert_eq!(log.lost(), 1);
}

/// An output that takes ten bytes and then fails, until it is told to recover.
struct Failing {
    broken: Arc<AtomicBool>,
    taken: bool,
    calls: mpsc::SyncSender<Vec<u8>>,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let broken = self.broken.load(Ordering::Relaxed);
        if broken && std::mem::replace(&mut self.taken, true) {
            return Err(ErrorKind::StorageFull.into());
        }
        let count = if broken { 10 } else { bytes.len() };
        self.calls.send(bytes[..count].to_vec()).unwrap();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failing_output_is_counted_and_used_again_when_it_recovers() {
    let broken = Arc::new(AtomicBool::new(true));
    let (send, calls) = mpsc::sync_channel(1_000);
    let out = Failing { broken: Arc::clone(&broken), taken: false, calls: send };
    let log = AccessLog::start(Format::Logfmt, 16, out).unwrap();
    log.write(&record("/torn"));
    until("the failure is counted", || log.errors() == 1);
    log.write(&record("/gone"));
    until("the next failure is counted", || log.errors() == 2);
    assert_eq!(log.lost(), 2);
    broken.store(false, Ordering::Relaxed);
    log.write(&record("/back"));
    assert!(log.close(DEADLINE).await);
    let text = String::from_utf8(calls.try_iter().collect::<Vec<_>>().concat()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "the torn line stands alone: {text}");
    assert_eq!(lines[0], "at=info me");
    assert!(lines[1].starts_with("at=info method= path=\"/back\""));
    assert_eq!(log.lost(), 2);
}

#[test]
fn losses_are_reported_at_once_and_then_every_ten_seconds() {
    let (send, _calls) = mpsc::sync_channel(1);
    let log = AccessLog::start(Format::Logfmt, 1, Calls(send)).unwrap();
    let shared = &log.0.shared;
    let clock = Clock::manual();
    let mut report = Report { clock: clock.clone(), last: None, lost: 0, errors: 0, error: None };
    assert_eq!(report.due(shared), None);
    shared.lost.store(3, Ordering::Relaxed);
    assert_eq!(report.due(shared).as_deref(), Some("log: 3 lines lost, the writer cannot keep up"));
    shared.lost.store(10, Ordering::Relaxed);
    shared.errors.store(1, Ordering::Relaxed);
    report.error = Some(ErrorKind::StorageFull.into());
    assert_eq!(report.due(shared), None);
    assert!(report.behind(shared), "and the writer does not sleep long over it");
    clock.advance(REPORT_EVERY);
    let text = report.due(shared).unwrap();
    assert!(text.starts_with("log: 7 lines lost, the output cannot be written: "), "{text}");
    clock.advance(REPORT_EVERY);
    assert_eq!(report.due(shared), None);
}
