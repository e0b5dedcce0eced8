//! Tests of the audit trail: what is written and read, and what the other tests of it stand on.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::*;

pub(super) const KEEP: Keep = Keep { max_size: 1 << 20, files: 3 };

/// An empty folder and the path of a trail in it.
pub(super) fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    (folder, path)
}

pub(super) fn asked(app: &str) -> Asked {
    Asked {
        who: "ci".to_owned(),
        from: Some("10.0.0.7:5123".to_owned()),
        what: "deploy".to_owned(),
        app: Some(app.to_owned()),
        before: Some(json!({ "release": "v42" })),
        after: Some(json!({ "release": "v43", "note": ",\"hash\":\"\u{1F980}\n" })),
    }
}

pub(super) fn open(path: &Path) -> Audit {
    Audit::open(path, KEEP).unwrap()
}

fn all_lines(path: &Path) -> Vec<Line> {
    tail(path, &Filter { app: None, limit: usize::MAX }).unwrap()
}

/// The notes of the trail about itself.
pub(super) fn notes(path: &Path) -> Vec<String> {
    all_lines(path).into_iter().filter(|line| line.what == NOTE).filter_map(|line| line.cause).collect()
}

#[test]
fn a_change_leaves_a_line_before_and_one_after() {
    let (_folder, path) = place();
    let audit = open(&path);
    let seq = audit.begin(&asked("shop")).unwrap();
    assert_eq!((seq.number(), verify(&path).unwrap().lines), (1, 1), "it is there before anything is done");
    let mark = audit.end(seq, &Outcome::failed("no dyno became ready")).unwrap();

    let lines = all_lines(&path);
    let first = &lines[0];
    assert_eq!(
        (first.seq, first.who.as_deref(), first.from.as_deref()),
        (1, Some("ci"), Some("10.0.0.7:5123"))
    );
    assert_eq!((first.what.as_str(), first.app.as_deref(), first.of), ("deploy", Some("shop"), None));
    assert_eq!((&first.before, &first.after), (&asked("").before, &asked("").after));
    assert_eq!((first.outcome, first.prev.as_str()), (None, FIRST));
    let second = &lines[1];
    assert_eq!((second.of, second.what.as_str(), second.app.as_deref()), (Some(1), "deploy", Some("shop")));
    assert_eq!(
        (second.outcome, second.cause.as_deref()),
        (Some(Ended::Failed), Some("no dyno became ready"))
    );
    assert_eq!((&second.prev, second.who.as_deref()), (&first.hash, None));
    assert_eq!(mark, Mark { seq: 2, time: second.time.clone(), hash: second.hash.clone() });
    assert_eq!(verify(&path).unwrap().last, Some(mark));
    assert!(first.time.ends_with('Z') && first.time.len() == 24, "{}", first.time);
}

#[test]
fn the_chain_goes_on_over_a_restart_and_a_change_may_end_after_it() {
    let (_folder, path) = place();
    let saved = serde_json::to_string(&open(&path).begin(&asked("shop")).unwrap()).unwrap();
    let seq: Seq = serde_json::from_str(&saved).unwrap();
    open(&path).end(seq, &Outcome::refused("shop is being deployed")).unwrap();
    let verified = verify(&path).unwrap();
    assert_eq!((verified.lines, verified.files), (2, 1));
    assert_eq!(all_lines(&path)[1].of, Some(1));
}

#[test]
fn a_clock_that_is_set_back_changes_nothing() {
    fn backwards() -> Duration {
        use std::sync::atomic::{AtomicU64, Ordering};
        static SECONDS: AtomicU64 = AtomicU64::new(1_790_000_000);
        Duration::from_secs(SECONDS.fetch_sub(3600, Ordering::Relaxed))
    }
    let (_folder, path) = place();
    let audit = Audit::open_with(&path, KEEP, backwards).unwrap();
    (0..3).for_each(|_| drop(audit.begin(&asked("shop")).unwrap()));
    let times: Vec<_> = all_lines(&path).into_iter().map(|line| line.time).collect();
    assert!(times[0] > times[1] && times[1] > times[2], "{times:?}");
    assert_eq!(verify(&path).unwrap().lines, 3);
}

#[test]
fn the_last_lines_are_read_and_those_of_one_app() {
    let (_folder, path) = place();
    // Two lines a file, so that reading goes over files.
    let audit = Audit::open(&path, Keep { max_size: 900, files: 100 }).unwrap();
    for n in 0..10 {
        let seq = audit.begin(&asked(["shop", "blog"][n % 2])).unwrap();
        audit.end(seq, &Outcome::done()).unwrap();
    }
    assert!(verify(&path).unwrap().files > 5);
    let numbers = |app: Option<&str>, limit| {
        let lines = tail(&path, &Filter { app: app.map(str::to_owned), limit }).unwrap();
        lines.into_iter().map(|line| line.seq).collect::<Vec<_>>()
    };
    assert_eq!(numbers(None, 3), [18, 19, 20]);
    assert_eq!(numbers(Some("shop"), 3), [14, 17, 18]);
    assert_eq!(numbers(Some("blog"), 99), [3, 4, 7, 8, 11, 12, 15, 16, 19, 20]);
    assert_eq!(numbers(None, 0), [0; 0]);
    assert_eq!(numbers(Some("none"), 9), [0; 0]);
}

#[test]
fn a_trail_that_is_not_there_has_no_lines_and_cannot_be_verified() {
    let (_folder, path) = place();
    assert_eq!(all_lines(&path), []);
    assert_eq!(verify(&path).unwrap_err().why, "there is no such file");
    drop(open(&path));
    let verified = verify(&path).unwrap();
    assert_eq!(
        (verified.lines, verified.first.as_ref(), verified.to_string().as_str()),
        (0, None, "0 lines in 1 file")
    );
}

#[test]
fn long_lines_are_read_whole_and_longer_ones_are_refused() {
    let (_folder, path) = place();
    let audit = open(&path);
    for len in [63 << 10, 64 << 10, 300 << 10, 3 << 20] {
        let asked = Asked { after: Some("x".repeat(len).into()), ..asked("shop") };
        audit.begin(&asked).unwrap();
    }
    let long = Asked { after: Some("x".repeat(LINE_MAX).into()), ..asked("shop") };
    assert!(matches!(audit.begin(&long), Err(AuditError::TooLong(_))));
    audit.begin(&asked("shop")).unwrap();
    assert_eq!(verify(&path).unwrap().lines, 5);
    assert_eq!(all_lines(&path).len(), 5);
}

#[test]
fn threads_write_whole_lines_and_readers_never_see_a_broken_trail() {
    let (_folder, path) = place();
    let audit = Audit::open(&path, Keep { max_size: 5000, files: 100 }).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let changes = 40;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..changes {
                        let seq = audit.begin(&asked("shop")).unwrap();
                        audit.end(seq, &Outcome::done()).unwrap();
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                verify(&path).unwrap();
                let lines = tail(&path, &Filter { app: None, limit: 50 }).unwrap();
                assert!(lines.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
                looks += 1;
            }
            looks
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(verify(&path).unwrap().lines, 3 * 2 * changes);
}

#[test]
fn a_verdict_is_one_sentence() {
    let (_folder, path) = place();
    let audit = Audit::open_with(&path, KEEP, || Duration::from_secs(1_790_000_000)).unwrap();
    let seq = audit.begin(&asked("shop")).unwrap();
    let mark = audit.end(seq, &Outcome::done()).unwrap();
    let expected = format!(
        "2 lines in 1 file, from number 1 (2026-09-21T14:13:20.000Z) to number 2 (2026-09-21T14:13:20.000Z); \
         the last hash is {}",
        mark.hash
    );
    assert_eq!(verify(&path).unwrap().to_string(), expected);
}
