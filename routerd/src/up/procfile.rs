//! Reads a Procfile: one `NAME: COMMAND` a line, comments with `#`, and an error that names its line.

use std::path::Path;
use std::{fmt, fs, io};

/// The most bytes a Procfile may have; nobody writes a longer one by hand.
const MAX_BYTES: u64 = 64 * 1024;
/// The most entries.
const MAX_ENTRIES: usize = 100;
/// The longest name of an entry.
const MAX_NAME: usize = 40;

/// What a Procfile says: which command stands behind which name, in the order of the file.
///
/// ```
/// use routerd::up::Procfile;
///
/// let procfile = Procfile::parse("# the shop\nweb: puma -t 1:1 -p $PORT\nworker: sidekiq\n")?;
/// assert_eq!(procfile.command("worker"), Some("sidekiq"));
///
/// let error = Procfile::parse("web: puma\nworker sidekiq\n").unwrap_err();
/// assert_eq!(error.line(), 2);
/// # Ok::<(), routerd::up::ProcfileError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Procfile {
    entries: Vec<Entry>,
}

/// One line of a Procfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the processes of this line are called: `web` for the dynos that get requests.
    pub name: String,
    /// What the shell is given.
    pub command: String,
    /// The line of the file, from 1.
    pub line: usize,
}

impl Procfile {
    /// Reads the text of a Procfile. A byte order mark and Windows line ends are taken as they come.
    ///
    /// # Errors
    /// The first line that is neither empty, a comment nor `NAME: COMMAND`, or a text without any entry.
    pub fn parse(text: &str) -> Result<Self, ProcfileError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut entries: Vec<Entry> = Vec::new();
        for (index, written) in text.lines().enumerate() {
            let line = index + 1;
            let at = |what: String| ProcfileError { line, what };
            let Some((name, command)) = split(written).map_err(at)? else { continue };
            if let Some(first) = entries.iter().find(|entry| entry.name == name) {
                return Err(at(format!("`{name}` is there twice: line {} has it too", first.line)));
            }
            if entries.len() == MAX_ENTRIES {
                return Err(at(format!("there are more than {MAX_ENTRIES} entries")));
            }
            entries.push(Entry { name: name.to_owned(), command: command.to_owned(), line });
        }
        if entries.is_empty() {
            let what = "there is no entry; one looks like `web: COMMAND`".to_owned();
            return Err(ProcfileError { line: text.lines().count().max(1), what });
        }
        Ok(Self { entries })
    }

    /// Reads a Procfile from disk. Every error names the file.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 64 KiB, is not UTF-8, or [`parse`](Self::parse) refuses it.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let failed = |what| ReadError { path: path.display().to_string(), what };
        let unreadable = |error: io::Error| failed(What::Io(error));
        let file = fs::metadata(path).map_err(unreadable)?;
        if file.is_dir() {
            return Err(unreadable(io::Error::other("it is a directory")));
        }
        if file.len() > MAX_BYTES {
            return Err(unreadable(io::Error::other(format!("it is longer than {MAX_BYTES} bytes"))));
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            failed(What::Line(ProcfileError { line, what: "this is not UTF-8".to_owned() }))
        })?;
        Self::parse(&text).map_err(|error| failed(What::Line(error)))
    }

    /// The entries in the order of the file; never empty.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The command of an entry.
    pub fn command(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.command.as_str())
    }
}

/// Name and command of a line, nothing for an empty line or a comment, or what is wrong with it.
fn split(written: &str) -> Result<Option<(&str, &str)>, String> {
    let line = written.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let Some((name, command)) = line.split_once(':') else {
        return Err(format!("a line is `NAME: COMMAND`, and {} has no colon", quoted(line)));
    };
    let (name, command) = (name.trim_end(), command.trim());
    if name.is_empty() {
        return Err("there is no name before the colon".to_owned());
    }
    if !is_name(name) {
        return Err(format!(
            "{} is no name: at most {MAX_NAME} of the letters a-z, digits, `-` and `_`",
            quoted(name)
        ));
    }
    if command.is_empty() {
        return Err(format!("`{name}` has no command after the colon"));
    }
    if command.ends_with('\\') {
        return Err(format!("the command of `{name}` ends in a backslash, but a command is one line"));
    }
    if command.contains('\0') {
        return Err(format!("the command of `{name}` has a zero byte"));
    }
    Ok(Some((name, command)))
}

/// Whether processes can be called this; the name goes into `DYNO` and into the log.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(good)
}

/// What somebody wrote, short and without control characters, so that it can stand in a message.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(40).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

/// A line of a Procfile that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcfileError {
    line: usize,
    what: String,
}

impl ProcfileError {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What is wrong, without the line.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for ProcfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for ProcfileError {}

/// A Procfile that could not be read from disk, or not be understood.
#[derive(Debug)]
pub struct ReadError {
    path: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Io(io::Error),
    Line(ProcfileError),
}

impl ReadError {
    /// The line that is wrong; `None` if the file could not be read at all.
    pub fn line(&self) -> Option<usize> {
        match &self.what {
            What::Io(_) => None,
            What::Line(error) => Some(error.line()),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "there is no Procfile at {}", self.path)
            }
            What::Io(error) => write!(f, "{} cannot be read: {error}", self.path),
            What::Line(error) => write!(f, "{}, {error}", self.path),
        }
    }
}

impl std::error::Error for ReadError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Procfile::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn names_commands_comments_and_blank_lines_are_told_apart() {
        let text =
            "\u{feff}# the shop\r\n\r\nweb : FOO=a:b puma -p $PORT  \r\n\tclock-1: ./tick # not ours\r\n";
        let procfile = Procfile::parse(text).unwrap();
        assert_eq!(procfile.command("web"), Some("FOO=a:b puma -p $PORT"));
        assert_eq!(procfile.command("clock-1"), Some("./tick # not ours"), "the shell knows comments itself");
        assert_eq!(procfile.command("clock"), None);
        assert_eq!(procfile.entries().iter().map(|entry| entry.line).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_bad_line_is_named_with_what_is_wrong() {
        assert_eq!(
            refused("web: puma\n\nworker sidekiq"),
            "line 3: a line is `NAME: COMMAND`, and `worker sidekiq` has no colon"
        );
        assert_eq!(refused("web: puma\nweb: rails s"), "line 2: `web` is there twice: line 1 has it too");
        assert_eq!(refused("web:   "), "line 1: `web` has no command after the colon");
        assert_eq!(refused(": puma"), "line 1: there is no name before the colon");
        assert!(refused("w b: puma").starts_with("line 1: `w b` is no name"));
        assert!(
            refused("web: puma \\\n  -p 1").starts_with("line 1: the command of `web` ends in a backslash")
        );
        assert!(refused("web: a\0b").contains("zero byte"));
    }

    #[test]
    fn a_text_without_an_entry_is_refused() {
        assert_eq!(refused(""), "line 1: there is no entry; one looks like `web: COMMAND`");
        assert_eq!(refused("# a\n# b\n"), "line 2: there is no entry; one looks like `web: COMMAND`");
    }

    #[test]
    fn a_message_shows_neither_control_characters_nor_more_than_a_piece_of_the_line() {
        let error = refused(&format!("\x1b[2J{}", "x".repeat(1000)));
        assert!(!error.contains('\x1b') && error.len() < 150, "{error}");
    }

    #[test]
    fn more_entries_than_the_bound_are_refused() {
        let text: String = (0..=MAX_ENTRIES).map(|n| format!("p{n}: true\n")).collect();
        assert_eq!(refused(&text), "line 101: there are more than 100 entries");
    }
}
