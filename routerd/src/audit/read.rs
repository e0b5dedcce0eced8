//! Reads the audit trail from its end: the last lines, and those of one app.

use std::fs::File;
use std::io::Read;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::path::Path;

use super::files::open_all;
use super::line::{Line, unseal};
use super::verify::Broken;
use super::{AuditError, LINE_MAX};

/// How much is read at once, at least.
const CHUNK: u64 = 64 << 10;

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this app.
    pub app: Option<String>,
    /// How many at the most; the newest ones.
    pub limit: usize,
}

/// The last lines of the trail, the newest last. May be called while the trail is written, in this process or another:
/// a line that is not there as a whole yet is left out.
///
/// # Errors
/// [`AuditError::Io`] if a file cannot be read, [`AuditError::Broken`] at a line that was changed. Whether lines are
/// missing is for [`verify`](super::verify()) to say.
pub fn tail(path: &Path, filter: &Filter) -> Result<Vec<Line>, AuditError> {
    let mut found: Vec<Line> = Vec::new();
    'files: for (path, file) in open_all(path)?.into_iter().rev() {
        let cannot = || AuditError::io("cannot be read", &path);
        let mut lines = Backwards::new(file).map_err(cannot())?;
        let _torn = lines.next().map_err(cannot())?;
        while let Some(line) = lines.next().map_err(cannot())? {
            if found.len() >= filter.limit {
                break 'files;
            }
            let line = read(&line).map_err(|why| {
                AuditError::Broken(Broken { file: path.clone(), line: 0, why: why.to_owned() })
            })?;
            if filter.app.is_none() || line.app == filter.app {
                found.push(line);
            }
        }
    }
    found.reverse();
    Ok(found)
}

fn read(line: &[u8]) -> Result<Line, &'static str> {
    unseal(line)?;
    serde_json::from_slice(line).map_err(|_| "this is no line of an audit trail")
}

/// A file line by line, from its end. First comes what stands after the last newline, which is nothing in a file that
/// is whole; then the lines, without their newlines.
pub(super) struct Backwards {
    file: File,
    /// Up to here the file has not been read.
    unread: u64,
    /// What has been read from there on and not been given.
    held: Vec<u8>,
    done: bool,
}

impl Backwards {
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        let unread = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, unread, held: Vec::new(), done: false })
    }

    /// The next line towards the beginning.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        while !self.done {
            if let Some(at) = self.held.iter().rposition(|byte| *byte == b'\n') {
                let line = self.held.split_off(at + 1);
                self.held.pop();
                return Ok(Some(line));
            }
            if self.unread == 0 {
                self.done = true;
                return Ok(Some(std::mem::take(&mut self.held)));
            }
            if self.held.len() > LINE_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "a line is longer than any of ours"));
            }
            self.read_more()?;
        }
        Ok(None)
    }

    /// As much again as is held, so that long lines are not copied over and over.
    fn read_more(&mut self) -> io::Result<()> {
        let count = self.unread.min(CHUNK.max(self.held.len() as u64));
        self.unread -= count;
        self.file.seek(SeekFrom::Start(self.unread))?;
        let mut bytes = Vec::with_capacity(usize::try_from(count).unwrap_or_default() + self.held.len());
        if self.file.by_ref().take(count).read_to_end(&mut bytes)? as u64 != count {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.append(&mut self.held);
        self.held = bytes;
        Ok(())
    }
}
