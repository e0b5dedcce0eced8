//! Tests of the state file: what is saved is loaded, and nothing else is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

type Apps = BTreeMap<String, Vec<u32>>;

/// Set in the process that saves until it is killed.
const SAVES: &str = "ROUTERD_TEST_SAVES";

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    (folder, path)
}

fn apps(count: u32) -> Apps {
    (0..count).map(|n| (format!("app-{n}"), vec![n; 3])).collect()
}

fn saved(path: &Path) -> Vec<u8> {
    StateFile::open(path).unwrap().save(&apps(3)).unwrap();
    fs::read(path).unwrap()
}

fn load(path: &Path) -> Result<Option<Apps>, StateError> {
    StateFile::load(path)
}

/// Why the file is not loaded, having checked that it is named.
fn refused(path: &Path, bytes: &[u8]) -> String {
    fs::write(path, bytes).unwrap();
    let why = load(path).unwrap_err().to_string();
    assert!(why.contains(&path.display().to_string()), "{why}");
    why
}

#[test]
fn what_is_saved_is_loaded() {
    let (folder, path) = place();
    assert_eq!(load(&path).unwrap(), None);
    let file = StateFile::open(&path).unwrap();
    for count in [3, 0, 50] {
        file.save(&apps(count)).unwrap();
        assert_eq!(load(&path).unwrap(), Some(apps(count)));
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the file and its lock: {names:?}");
}

#[test]
fn a_file_that_ends_too_early_is_torn_wherever_it_ends() {
    let (_folder, path) = place();
    let whole = saved(&path);
    // The newline at the end is for people.
    for end in 0..whole.len() - 1 {
        let why = refused(&path, &whole[..end]);
        assert!(why.contains("is torn") && why.contains("move it away"), "{end}: {why}");
    }
}

#[test]
fn a_file_in_which_any_byte_was_changed_is_refused() {
    let (_folder, path) = place();
    let whole = saved(&path);
    for at in 0..whole.len() {
        for by in [0x01, 0x02, 0x10, 0x20, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= by;
            if !(changed[at].is_ascii_whitespace() && whole[at].is_ascii_whitespace()) {
                refused(&path, &changed);
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let (_folder, path) = place();
    let whole = String::from_utf8(saved(&path)).unwrap();
    for (text, says) in [
        (
            whole.replace("app-1", "app-7"),
            "its checksum is wrong; put a good copy in its place, or move it away",
        ),
        (
            whole.replace("\"version\":1", "\"version\":2,\"new\":[]"),
            "has version 2, and this routerd knows 1",
        ),
        (whole.replace("\"version\":1", "\"version\":0"), "has version 0"),
        (whole.replace("routerd-state", "other-state"), "is not one of routerd"),
        ("{}".to_owned(), "is not one of routerd"),
        ("[apps.shop]\n".to_owned(), "is not one of routerd"),
        ("7".to_owned(), "is not one of routerd"),
        (format!("{whole}{whole}"), "is torn"),
    ] {
        let why = refused(&path, text.as_bytes());
        assert!(why.contains(says), "{why}");
    }
    let why = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(why.contains("/dev/zero is not one of routerd"), "{why}");
    fs::write(&path, whole).unwrap();
    let why = StateFile::<Vec<String>>::load(&path).unwrap_err().to_string();
    assert!(why.contains("is whole, and this routerd does not understand it"), "{why}");
}

#[test]
fn a_state_that_is_too_large_is_neither_read_nor_written() {
    let (_folder, path) = place();
    let file = StateFile::open(&path).unwrap();
    file.save(&"small".to_owned()).unwrap();
    let why = file.save(&"x".repeat(STATE_MAX)).unwrap_err().to_string();
    assert!(why.contains("and may have 16777216"), "{why}");
    assert_eq!(StateFile::<String>::load(&path).unwrap().as_deref(), Some("small"));
    // The largest that is written is read, too.
    let most = "x".repeat(STATE_MAX - 200);
    file.save(&most).unwrap();
    assert_eq!(StateFile::load(&path).unwrap(), Some(most));
    File::create(&path).unwrap().set_len(STATE_MAX as u64 + 1).unwrap();
    let why = load(&path).unwrap_err().to_string();
    assert!(why.contains("more than 16 MiB"), "{why}");
}

#[test]
fn a_second_daemon_is_kept_away() {
    let (_folder, path) = place();
    let first = StateFile::<Apps>::open(&path).unwrap();
    let why = StateFile::<Apps>::open(&path).unwrap_err().to_string();
    assert!(why.contains(&path.display().to_string()) && why.contains("another process's"), "{why}");
    drop(first);
    StateFile::<Apps>::open(&path).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_said_at_the_start() {
    // Nobody makes files there, not even root.
    let why = StateFile::<Apps>::open(Path::new("/proc/state.json")).unwrap_err().to_string();
    assert!(why.starts_with("the folder /proc of the state file must be writable: "), "{why}");
    let (folder, _) = place();
    let why = StateFile::<Apps>::open(&folder.path().join("none/state.json")).unwrap_err().to_string();
    assert!(why.contains("none of the state file must be writable: No such file"), "{why}");
}

#[test]
fn a_save_that_fails_leaves_the_state_as_it_was() {
    let (_folder, path) = place();
    let file = StateFile::open(&path).unwrap();
    file.save(&apps(3)).unwrap();
    fs::create_dir(beside(&path, "tmp")).unwrap();
    let why = file.save(&apps(4)).unwrap_err().to_string();
    assert!(why.contains("cannot be written, it is whole as it was"), "{why}");
    assert_eq!(load(&path).unwrap(), Some(apps(3)));
    fs::remove_dir(beside(&path, "tmp")).unwrap();
    file.save(&apps(4)).unwrap();
    assert_eq!(load(&path).unwrap(), Some(apps(4)));
}

#[test]
fn a_link_stays_one_and_what_a_dead_writer_left_goes() {
    let (folder, path) = place();
    let real = folder.path().join("real.json");
    StateFile::open(&real).unwrap().save(&apps(1)).unwrap();
    fs::write(beside(&real, "tmp"), "half").unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let file = StateFile::open(&path).unwrap();
    assert!(!beside(&real, "tmp").exists());
    file.save(&apps(2)).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!((load(&path).unwrap(), load(&real).unwrap()), (Some(apps(2)), Some(apps(2))));
}

#[test]
fn a_writer_that_is_killed_at_any_moment_leaves_a_state_that_was_saved() {
    if let Some(path) = std::env::var_os(SAVES) {
        return save_for_ever(Path::new(&path));
    }
    let (_folder, path) = place();
    StateFile::open(&path).unwrap().save(&vec![0_u64; 8000]).unwrap();
    let (mut newest, mut moved) = (0, 0);
    for _ in 0..50 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "state::tests::a_writer_that_is_killed_at_any_moment_leaves_a_state_that_was_saved",
            ])
            .arg("--nocapture")
            .env(SAVES, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("saving now")), "it has not begun");
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..15_000)));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let numbers: Vec<u64> = StateFile::load(&path).unwrap().unwrap();
        assert!(numbers.len() == 8000 && numbers.iter().all(|number| *number == numbers[0]), "a mixture");
        assert!(numbers[0] >= newest, "an older state came back");
        moved += u32::from(numbers[0] > newest);
        newest = numbers[0];
    }
    assert!(moved > 10, "the writers hardly got to save: {moved}");
    StateFile::<Vec<u64>>::open(&path).unwrap();
    assert!(!beside(&path, "tmp").exists());
}

fn save_for_ever(path: &Path) {
    let file = StateFile::open(path).unwrap();
    let mut numbers: Vec<u64> = StateFile::load(path).unwrap().unwrap();
    println!("saving now");
    loop {
        numbers.iter_mut().for_each(|number| *number += 1);
        file.save(&numbers).unwrap();
    }
}
