//! Verifies the audit trail: finds a line that was changed, taken out, put in or moved.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::thread;

use serde::Serialize;

use super::LINE_MAX;
use super::files::{BETWEEN_LOOKS, LOOKS, open_all};
use super::line::{FIRST, Link, Mark, unseal};

/// A trail in which every line is as it was written and follows the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Lines in all files.
    pub lines: u64,
    /// Files.
    pub files: usize,
    /// The oldest line. A trail that has not made room yet begins with number 1.
    pub first: Option<Mark>,
    /// The newest line. That none was taken away after it, only somebody can say who has seen a later mark.
    pub last: Option<Mark>,
}

/// Where a trail is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// The line in that file, from 1; 0 if it is not about a certain line.
    pub line: u64,
    /// What is wrong there.
    pub why: String,
}

/// Verifies all files of a trail. May be called while the trail is written, in this process or another.
///
/// # Errors
/// The first place that is not as it was written, or why a file cannot be read.
pub fn verify(path: &Path) -> Result<Verified, Broken> {
    let broken = |why: String| Broken { file: path.to_owned(), line: 0, why };
    let files = open_all(path).map_err(|error| broken(error.to_string()))?;
    if files.is_empty() {
        return Err(broken("there is no such file".to_owned()));
    }
    let mut verified = Verified { lines: 0, files: files.len(), first: None, last: None };
    let newest = files.len() - 1;
    for (at, (path, file)) in files.into_iter().enumerate() {
        verify_file(&path, BufReader::new(file), at == newest, &mut verified)?;
    }
    Ok(verified)
}

fn verify_file(
    path: &Path,
    mut file: BufReader<File>,
    newest: bool,
    verified: &mut Verified,
) -> Result<(), Broken> {
    let mut number = 0;
    loop {
        number += 1;
        let broken = |why: String| Broken { file: path.to_owned(), line: number, why };
        let mut line = Vec::new();
        // Only the newest file can have a line that is being written.
        let mut looks = if newest { LOOKS } else { 0 };
        loop {
            let room = (LINE_MAX + 1).saturating_sub(line.len()) as u64;
            let read = file.by_ref().take(room).read_until(b'\n', &mut line);
            read.map_err(|error| broken(format!("it cannot be read: {error}")))?;
            if line.is_empty() || line.ends_with(b"\n") || looks == 0 {
                break;
            }
            looks -= 1;
            thread::sleep(BETWEEN_LOOKS);
        }
        if line.is_empty() {
            return Ok(());
        }
        if line.pop() != Some(b'\n') {
            return Err(broken("it is torn: it has no end".to_owned()));
        }
        let (ties, hash) = unseal(&line).map_err(|why| broken(why.to_owned()))?;
        follows(verified.last.as_ref(), ties.seq, &ties.prev).map_err(broken)?;
        let mark = Mark { seq: ties.seq, time: ties.time, hash };
        verified.lines += 1;
        verified.first.get_or_insert_with(|| mark.clone());
        verified.last = Some(mark);
    }
}

/// Whether a line is the one that comes after `last`.
fn follows(last: Option<&Mark>, seq: u64, prev: &str) -> Result<(), String> {
    let last = match last {
        Some(mark) => Link { seq: mark.seq, hash: mark.hash.clone() },
        None if seq == 1 && prev != FIRST => {
            return Err("it has number 1 and names a line before it".to_owned());
        }
        // What was before the oldest line that is kept, nobody knows any more.
        None => return Ok(()),
    };
    let what = "a line is missing, inserted or moved";
    if prev != last.hash {
        return Err(format!(
            "it does not follow the line before it: {what} between numbers {} and {seq}",
            last.seq
        ));
    }
    if seq != last.seq + 1 {
        return Err(format!("it has number {seq} after number {}: {what}", last.seq));
    }
    Ok(())
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let (lines, files) = (self.lines, self.files);
        write!(f, "{lines} line{} in {files} file{}", plural(lines), plural(files as u64))?;
        let (Some(first), Some(last)) = (&self.first, &self.last) else { return Ok(()) };
        write!(f, ", from number {} ({}) to number {} ({})", first.seq, first.time, last.seq, last.time)?;
        write!(f, "; the last hash is {}", last.hash)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.why),
            line => write!(f, "{} line {line}: {}", self.file.display(), self.why),
        }
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests;
