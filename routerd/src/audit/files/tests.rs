//! What happens to the files of the trail: full ones, torn ones, and those that somebody else has a hand in.

use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;
use crate::audit::tests::{KEEP, asked, notes, open, place};
use crate::audit::{Asked, Audit, Filter, tail, verify};

/// Set in the process that runs one test with little room.
const LITTLE_ROOM: &str = "ROUTERD_TEST_LITTLE_ROOM";

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn full_files_make_room_and_the_chain_goes_on() {
    let (folder, path) = place();
    let audit = Audit::open(&path, Keep { max_size: 900, files: 3 }).unwrap();
    for _ in 0..20 {
        audit.begin(&asked("shop")).unwrap();
    }
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3", "audit.jsonl.lock"]);
    for name in &names {
        assert!(fs::metadata(folder.path().join(name)).unwrap().len() <= 900, "{name:?}");
    }
    let verified = verify(&path).unwrap();
    assert_eq!((verified.files, verified.last.unwrap().seq), (4, 20));
    assert!(verified.first.unwrap().seq > 1);

    // Fewer are kept from now on, and the restart goes on where it was.
    audit.keep(Keep { max_size: 900, files: 1 });
    (0..4).for_each(|_| drop(audit.begin(&asked("shop")).unwrap()));
    drop(audit);
    open(&path).begin(&asked("shop")).unwrap();
    let verified = verify(&path).unwrap();
    assert_eq!((verified.files, verified.last.unwrap().seq), (2, 25));
}

#[test]
fn a_process_that_died_between_two_files_is_no_gap() {
    let (_folder, path) = place();
    open(&path).begin(&asked("shop")).unwrap();
    fs::rename(&path, path.with_extension("jsonl.1")).unwrap();
    open(&path).begin(&asked("shop")).unwrap();
    let verified = verify(&path).unwrap();
    assert_eq!((verified.lines, verified.files), (2, 2));
}

#[test]
fn a_torn_last_line_is_set_aside_and_the_trail_says_so() {
    let (_folder, path) = place();
    open(&path).begin(&asked("shop")).unwrap();
    let whole = text(&path);
    for (round, torn) in ["{\"seq\":2,\"ti", "\u{0}\u{0}"].into_iter().enumerate() {
        let before = text(&path);
        fs::write(&path, format!("{before}{torn}")).unwrap();
        assert_eq!(verify(&path).unwrap_err().why, "it is torn: it has no end");
        let audit = open(&path);
        assert!(text(&path).starts_with(&before));
        audit.begin(&asked("shop")).unwrap();
        assert!(text(&path.with_extension("jsonl.torn")).ends_with(&format!("{torn}\n")));
        let notes = notes(&path);
        assert_eq!(notes.len(), round + 1);
        let says = format!("the last line was torn: its {} bytes are in ", torn.len());
        assert!(notes[round].starts_with(&says), "{notes:?}");
    }
    assert!(text(&path).starts_with(&whole));
    assert_eq!(verify(&path).unwrap().lines, 5);
}

#[test]
fn a_last_line_that_is_whole_and_wrong_is_not_gone_on_from() {
    let (_folder, path) = place();
    open(&path).begin(&asked("shop")).unwrap();
    let changed = text(&path).replace("v43", "v44");
    fs::write(&path, &changed).unwrap();
    let error = Audit::open(&path, KEEP).unwrap_err();
    let says = error.to_string();
    assert!(matches!(error, AuditError::Broken(_)));
    assert!(says.contains(&path.display().to_string()) && says.contains("it was changed"), "{says}");
    assert!(says.contains("move the files of the trail to another folder"), "{says}");
    assert_eq!(text(&path), changed, "nothing was touched");
    assert!(tail(&path, &Filter { app: None, limit: 1 }).is_err());
}

#[test]
fn two_processes_never_write_one_file() {
    let (_folder, path) = place();
    let first = open(&path);
    let error = Audit::open(&path, KEEP).unwrap_err();
    let says = error.to_string();
    assert!(matches!(&error, AuditError::Locked(locked) if *locked == path));
    assert!(says.contains(&path.display().to_string()) && says.contains("another process"), "{says}");
    drop(first);
    open(&path);
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    // Nobody makes files there, not even root.
    let error = Audit::open(Path::new("/proc/audit.jsonl"), KEEP).unwrap_err();
    assert!(error.to_string().starts_with("the audit file /proc/audit.jsonl cannot be locked: "), "{error}");
    let (folder, path) = place();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    let error = Audit::open(&path, KEEP).unwrap_err();
    assert!(error.to_string().contains("is no regular file"), "{error}");
    drop(folder);
}

#[test]
fn a_file_that_is_deleted_under_us_is_begun_anew_and_the_gap_shows() {
    let (_folder, path) = place();
    let audit = Audit::open(&path, Keep { max_size: 900, files: 9 }).unwrap();
    (0..3).for_each(|_| drop(audit.begin(&asked("shop")).unwrap()));
    assert_eq!(verify(&path).unwrap().files, 2);
    fs::remove_file(&path).unwrap();
    audit.begin(&asked("shop")).unwrap();
    let notes = notes(&path);
    assert!(notes.len() == 1 && notes[0].contains("was gone; a new file begins here"), "{notes:?}");
    let broken = verify(&path).unwrap_err();
    assert_eq!((broken.file.as_path(), broken.line), (path.as_path(), 1));
    assert!(broken.why.contains("a line is missing"), "{broken}");
    // The next ones follow each other again.
    fs::remove_file(path.with_extension("jsonl.2")).unwrap();
    assert_eq!(verify(&path).unwrap().lines, 2);
}

#[test]
fn a_file_that_somebody_cut_replaced_or_wrote_to_is_left_as_it_is_and_the_gap_shows() {
    type Harm = fn(&Path);
    let harms: [(Harm, &str, bool); 4] = [
        (|path| fs::write(path, "").unwrap(), "had 0 bytes where", false),
        (|path| fs::write(path, text(path) + "x").unwrap(), "bytes where", true),
        (|path| fs::write(path, &text(path)[..200]).unwrap(), "had 200 bytes where", true),
        (
            |path| {
                fs::copy(path, path.with_extension("copy")).unwrap();
                fs::rename(path.with_extension("copy"), path).unwrap();
            },
            "was replaced by another file",
            false,
        ),
    ];
    for (harm, says, broken) in harms {
        let (_folder, path) = place();
        let audit = open(&path);
        (0..2).for_each(|_| drop(audit.begin(&asked("shop")).unwrap()));
        harm(&path);
        let harmed = text(&path);
        audit.begin(&asked("shop")).unwrap();
        assert_eq!(text(&path.with_extension("jsonl.1")), harmed, "{says}");
        // What was taken out of the middle of the trail shows; a copy of all of it is as good as the first.
        assert_eq!(verify(&path).is_err(), broken, "{says}: {:?}", verify(&path));
        let newest = text(&path);
        assert!(newest.lines().count() == 2 && newest.contains(says), "{says}: {newest}");
    }
}

#[test]
fn a_full_disk_refuses_the_change_and_leaves_whole_lines() {
    if let Some(folder) = std::env::var_os(LITTLE_ROOM) {
        return with_little_room(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    // A file that would grow beyond its bound gets what fits, then an error, as on a full disk; the signal is ignored.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "audit::files::tests::a_full_disk_refuses_the_change_and_leaves_whole_lines"])
        .env(LITTLE_ROOM, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn with_little_room(folder: &Path) {
    let room = |bytes| setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    let path = folder.join("audit.jsonl");
    let audit = open(&path);
    room(Some(3000));
    let mut whole = 0;
    let error = loop {
        match audit.begin(&asked("shop")) {
            Ok(_) => whole += 1,
            Err(error) => break error,
        }
        assert!(whole < 100);
    };
    assert!(error.to_string().contains("cannot be written: only "), "{error}");
    assert!(whole > 2);
    for _ in 0..3 {
        assert!(audit.begin(&asked("shop")).is_err());
        assert_eq!(verify(&path).unwrap().lines, whole);
    }
    // Shorter ones still fit; and when there is room again, all is well.
    let small = Asked { what: "x".to_owned(), ..Asked::default() };
    let mut fitted = 0;
    while audit.begin(&small).is_ok() {
        fitted += 1;
    }
    room(None);
    audit.begin(&asked("shop")).unwrap();
    let verified = verify(&path).unwrap();
    assert_eq!((verified.lines, verified.last.unwrap().seq), (whole + fitted + 1, whole + fitted + 1));
    assert!(notes(&path).is_empty());

    // A start without any room: the torn line stands aside, its note waits for room.
    drop(audit);
    fs::write(&path, text(&path) + "{\"se").unwrap();
    room(Some(fs::metadata(&path).unwrap().len() - 4));
    let audit = open(&path);
    assert!(audit.begin(&small).is_err());
    room(None);
    audit.begin(&small).unwrap();
    assert_eq!(notes(&path).len(), 1);
    verify(&path).unwrap();
}
