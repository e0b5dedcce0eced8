//! Whatever is done to a trail that can be seen in it is found.

use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::files::all;
use super::*;
use crate::audit::line::Draft;
use crate::audit::tests::{asked, place};
use crate::audit::{Audit, Keep, Line, Outcome};

/// The files of a trail, the oldest first; each a list of lines.
type Files = Vec<Vec<Vec<u8>>>;

/// A trail in three files.
fn trail() -> &'static Files {
    static TRAIL: OnceLock<Files> = OnceLock::new();
    TRAIL.get_or_init(|| {
        let (_folder, path) = place();
        let audit = Audit::open(&path, Keep { max_size: 2000, files: 9 }).unwrap();
        let mut n = 0;
        while verify(&path).unwrap().files < 3 || n % 4 > 0 {
            let seq = audit.begin(&asked(&format!("app-{n}"))).unwrap();
            audit.end(seq, &Outcome::done()).unwrap();
            n += 1;
        }
        all(&path).unwrap().iter().map(|path| lines(&fs::read(path).unwrap())).collect()
    })
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// What `verify` says of files with these bytes.
fn verdict(files: &[Vec<u8>]) -> Result<Verified, Broken> {
    let (_folder, path) = place();
    for (at, bytes) in files.iter().rev().enumerate() {
        let path = if at == 0 { path.clone() } else { path.with_extension(format!("jsonl.{at}")) };
        fs::write(path, bytes).unwrap();
    }
    verify(&path)
}

/// All lines in one list with the number of lines of each file, and back.
fn flat(files: &Files) -> (Vec<Vec<u8>>, Vec<usize>) {
    (files.concat(), files.iter().map(Vec::len).collect())
}

fn joined(lines: &[Vec<u8>], counts: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = lines;
    let mut files: Vec<Vec<u8>> = counts[..counts.len() - 1]
        .iter()
        .map(|count| {
            let (file, later) = rest.split_at((*count).min(rest.len()));
            rest = later;
            file.concat()
        })
        .collect();
    files.push(rest.concat());
    files
}

/// One thing that can be done to a trail.
#[derive(Clone, Debug)]
enum Harm {
    Flip(Index, u8),
    Insert(Index, u8),
    Delete(Index, Index),
    TakeOut(Index),
    Repeat(Index, Index),
    Swap(Index, Index),
    Forge(Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 1..=255u8).prop_map(|(at, by)| Harm::Flip(at, by)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Harm::Insert(at, byte)),
        1 => (at(), at()).prop_map(|(from, to)| Harm::Delete(from, to)),
        1 => at().prop_map(Harm::TakeOut),
        1 => (at(), at()).prop_map(|(line, to)| Harm::Repeat(line, to)),
        1 => (at(), at()).prop_map(|(one, other)| Harm::Swap(one, other)),
        1 => at().prop_map(Harm::Forge),
    ]
}

impl Harm {
    /// The trail with it done; `None` if nothing came of it or nothing can be seen of it.
    fn done_to(&self, files: &Files) -> Option<Vec<Vec<u8>>> {
        let (mut lines, counts) = flat(files);
        let count = lines.len();
        match self {
            Self::Flip(..) | Self::Insert(..) | Self::Delete(..) => return self.done_to_bytes(files),
            Self::TakeOut(at) => {
                // The first and the last one are taken out unseen.
                let at = 1 + at.index(count - 2);
                lines.remove(at);
            }
            Self::Repeat(line, to) => {
                let line = lines[line.index(count)].clone();
                lines.insert(to.index(count + 1), line);
            }
            Self::Swap(one, other) => {
                let (one, other) = (one.index(count), other.index(count));
                if one == other {
                    return None;
                }
                lines.swap(one, other);
            }
            // Another content with a hash that is right for it; of the last line nobody can say.
            Self::Forge(at) => {
                let line = &mut lines[at.index(count - 1)];
                let end = line.len() - 1;
                let mut value: Line = serde_json::from_slice(&line[..end]).unwrap();
                value.what = "forged".to_owned();
                let Line { seq, time, of, who, from, what, app, before, after, outcome, cause, prev, .. } =
                    &value;
                let draft = Draft {
                    seq: *seq,
                    time,
                    of: *of,
                    who: who.as_deref(),
                    from: from.as_deref(),
                    what,
                    app: app.as_deref(),
                    before: before.as_ref(),
                    after: after.as_ref(),
                    outcome: *outcome,
                    cause: cause.as_deref(),
                    prev,
                };
                *line = draft.seal().unwrap().0;
            }
        }
        Some(joined(&lines, &counts))
    }

    fn done_to_bytes(&self, files: &Files) -> Option<Vec<Vec<u8>>> {
        let mut files: Vec<Vec<u8>> = files.iter().map(|lines| lines.concat()).collect();
        let total: usize = files.iter().map(Vec::len).sum();
        // Each byte of the whole trail is as likely as the other.
        let locate = |at: &Index, files: &[Vec<u8>]| {
            let mut at = at.index(total);
            let file = files.iter().position(|file| {
                let here = at < file.len();
                at -= if here { 0 } else { file.len() };
                here
            });
            (file.unwrap(), at)
        };
        match self {
            Self::Flip(at, by) => {
                let (file, at) = locate(at, &files);
                files[file][at] ^= by;
            }
            Self::Insert(at, byte) => {
                let (file, at) = locate(at, &files);
                files[file].insert(at, *byte);
            }
            Self::Delete(from, count) => {
                let (file, at) = locate(from, &files);
                let room = files[file].len() - at;
                let gone: Vec<u8> = files[file].drain(at..at + 1 + count.index(room)).collect();
                // Whole lines from the beginning or the end of all are taken out unseen.
                let first = file == 0 && at == 0 && gone.ends_with(b"\n");
                let last = file + 1 == files.len() && at == files[file].len();
                let after_a_line = at == 0 || files[file][at - 1] == b'\n';
                if first || (last && after_a_line) {
                    return None;
                }
            }
            Self::TakeOut(_) | Self::Repeat(..) | Self::Swap(..) | Self::Forge(_) => {
                unreachable!("not about bytes")
            }
        }
        Some(files)
    }
}

#[test]
fn the_trail_itself_is_well() {
    let (lines, counts) = flat(trail());
    assert!(counts.len() == 3 && lines.len() >= 8, "{counts:?}");
    let verified = verdict(&joined(&lines, &counts)).unwrap();
    assert_eq!((verified.lines, verified.files), (lines.len() as u64, 3));
}

#[test]
fn each_harm_is_named_where_it_is() {
    let (lines, counts) = flat(trail());
    let verdict = |lines: &[Vec<u8>]| verdict(&joined(lines, &counts)).unwrap_err();

    let mut changed = lines.clone();
    let at = changed[1].windows(4).position(|bytes| bytes == b"done").unwrap();
    changed[1][at] = b'D';
    let broken = verdict(&changed);
    assert_eq!((broken.line, broken.why.as_str()), (2, "its hash is not that of its bytes: it was changed"));
    assert!(broken.to_string().contains("audit.jsonl.2 line 2: its hash"), "{broken}");

    let mut missing = lines.clone();
    missing.remove(1);
    assert!(verdict(&missing).why.contains("between numbers 1 and 3"));

    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert!(verdict(&swapped).why.contains("between numbers 1 and 3"));

    let mut inserted = lines.clone();
    inserted.insert(2, lines[0].clone());
    assert!(verdict(&inserted).why.contains("between numbers 2 and 1"));

    // The tail of an older file.
    let mut cut = lines.clone();
    cut.remove(counts[0] - 1);
    let files = joined(&cut, &[counts[0] - 1, counts[1], counts[2]]);
    let broken = self::verdict(&files).unwrap_err();
    assert!(broken.file.ends_with("audit.jsonl.1") && broken.line == 1, "{broken}");

    // An empty line, and a forged beginning.
    assert!(verdict(&[b"\n".to_vec()]).why.contains("no line of an audit trail"));
    let foreign = Draft { seq: 1, what: "x", prev: &"1".repeat(64), ..Draft::default() };
    let broken = verdict(&[vec![foreign.seal().unwrap().0], lines].concat());
    assert!(broken.why.contains("number 1 and names a line before it"), "{broken}");
}

#[test]
fn newest_and_oldest_lines_are_taken_away_unseen_as_the_page_says() {
    let (lines, counts) = flat(trail());
    let verified =
        verdict(&joined(&lines[1..lines.len() - 1], &[counts[0] - 1, counts[1], counts[2]])).unwrap();
    assert_eq!((verified.lines, verified.first.unwrap().seq), (lines.len() as u64 - 2, 2));
    let page = include_str!("../../../docs/audit.md");
    assert!(page.contains("That the **newest lines** were taken away, or the oldest ones"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_a_trail_is_found(harm in harm()) {
        if let Some(files) = harm.done_to(trail()) {
            let verdict = verdict(&files);
            prop_assert!(verdict.is_err(), "{:?}", verdict);
        }
    }
}
