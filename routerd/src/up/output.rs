//! What the processes of a grid print, line by line, each with its name in front: never two lines in one.
//!
//! One thread writes. Everybody else hands it whole lines through a bounded channel, so a terminal that takes nothing
//! slows the processes down as a pipe would, and nothing piles up.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fmt, io, thread};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// The most bytes of a line that are printed as one; a longer line is continued on the next.
pub const MAX_LINE: usize = 8 * 1024;
/// Lines that wait for the thread that prints.
const WAITING_LINES: usize = 256;
/// The most bytes that are written at once.
const BATCH: usize = 64 * 1024;
/// How long our own words wait for a terminal that takes nothing; then they are dropped.
const PATIENCE: Duration = Duration::from_secs(1);
/// The name in front of what the grid itself says.
const SYSTEM: &str = "routerd";
/// Escape codes of the colours, taken in turn: cyan, yellow, green, magenta, blue, then their bright forms.
const COLOURS: [&str; 10] = ["36", "33", "32", "35", "34", "96", "93", "92", "95", "94"];

/// Where the lines of a grid go. Clones write to the same place.
#[derive(Clone)]
pub struct Output {
    lines: mpsc::Sender<Message>,
    colour: bool,
    /// How wide the names are; grows as sources are added.
    width: Arc<AtomicUsize>,
}

enum Message {
    Line(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

impl Output {
    /// To standard output: with colour if that is a terminal, `NO_COLOR` is not set and `TERM` is not `dumb`.
    ///
    /// # Errors
    /// The thread that prints cannot be started.
    pub fn stdout() -> io::Result<Self> {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
        Self::new(Box::new(io::stdout()), colour)
    }

    /// To any writer. It is written to by a thread of its own and may block.
    ///
    /// # Errors
    /// The thread that prints cannot be started.
    pub fn new(writer: Box<dyn Write + Send>, colour: bool) -> io::Result<Self> {
        let (lines, waiting) = mpsc::channel(WAITING_LINES);
        thread::Builder::new().name("output".to_owned()).spawn(move || print(writer, waiting))?;
        Ok(Self { lines, colour, width: Arc::new(AtomicUsize::new(SYSTEM.len())) })
    }

    /// Makes the column of names wide enough for this one.
    pub(crate) fn make_room_for(&self, name: &str) {
        self.width.fetch_max(name.len(), Ordering::Relaxed);
    }

    /// A source of lines called `name`; the number picks its colour.
    pub(crate) fn source(&self, name: &str, number: usize) -> Source {
        let width = self.width.load(Ordering::Relaxed);
        let (mut before, mut after) = (format!("{name:<width$} | "), "\n");
        if self.colour {
            before = format!("\x1b[{}m{before}\x1b[0m", COLOURS[number % COLOURS.len()]);
            // A process that forgets to end its own colour would tint the next name.
            after = "\x1b[0m\n";
        }
        Source { before: before.into_bytes(), after: after.as_bytes(), lines: self.lines.clone() }
    }

    /// Says a line in the name of routerd itself. Dropped if nothing has been taken for a second.
    ///
    /// # Cancel safety
    /// The line is said whole or not at all.
    pub async fn say(&self, words: &str) {
        let line = self.line(words);
        // Late is worse than never here: a paused terminal must not hold up a shutdown.
        let _ = timeout(PATIENCE, self.lines.send(Message::Line(line))).await;
    }

    /// The same from a thread of its own, which may wait: the access log's.
    pub(crate) fn say_from_thread(&self, words: &str) {
        // An error says that nobody prints any more.
        let _ = self.lines.blocking_send(Message::Line(self.line(words)));
    }

    fn line(&self, words: &str) -> Vec<u8> {
        let width = self.width.load(Ordering::Relaxed);
        let before = format!("{SYSTEM:<width$} | ");
        let line = if self.colour {
            format!("\x1b[1m{before}\x1b[0m{words}\n")
        } else {
            format!("{before}{words}\n")
        };
        line.into_bytes()
    }

    /// Waits until all that was said so far has been written, for two seconds at most.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if let Ok(Ok(())) = timeout(PATIENCE, self.lines.send(Message::Flush(done))).await {
            let _ = timeout(PATIENCE, written).await;
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("colour", &self.colour).finish_non_exhaustive()
    }
}

/// The thread that prints: whole lines only, many at once if many wait.
fn print(mut writer: Box<dyn Write + Send>, mut waiting: mpsc::Receiver<Message>) {
    let mut batch = Vec::new();
    let mut flushed = Vec::new();
    while let Some(first) = waiting.blocking_recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => flushed.push(done),
            }
            next = if batch.len() < BATCH { waiting.try_recv().ok() } else { None };
        }
        // A reader that has gone away is no reason to stop the processes: their lines are dropped from then on.
        let _ = writer.write_all(&batch).and_then(|()| writer.flush());
        batch.clear();
        for done in flushed.drain(..) {
            // Who asked may have lost patience.
            let _ = done.send(());
        }
    }
}

/// What prints lines under one name.
#[derive(Clone)]
pub(crate) struct Source {
    before: Vec<u8>,
    after: &'static [u8],
    lines: mpsc::Sender<Message>,
}

impl Source {
    /// Prints all that the pipe gives, until it ends.
    pub(crate) async fn copy(self, mut pipe: impl AsyncRead + Unpin) {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        let mut chunk = vec![0; 4096];
        loop {
            // A pipe that cannot be read has nothing more to say, as one that ended.
            let read = pipe.read(&mut chunk).await.unwrap_or(0);
            if read == 0 {
                splitter.finish(&mut lines);
            } else {
                splitter.push(&chunk[..read], &mut lines);
            }
            for line in lines.drain(..) {
                self.line(&line).await;
            }
            if read == 0 {
                return;
            }
        }
    }

    async fn line(&self, text: &[u8]) {
        // The channel is closed only when the thread is gone, and then nobody can be told.
        let _ = self.lines.send(Message::Line([&self.before, text, self.after].concat())).await;
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Default)]
struct Splitter {
    line: Vec<u8>,
    /// The last line given out was ended by a carriage return or by its length: a line feed that comes next
    /// belongs to it and is no empty line.
    open: bool,
}

impl Splitter {
    fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<Vec<u8>>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.line.len();
            let piece = &bytes[..bytes.len().min(room)];
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = end.unwrap_or(piece.len());
            self.line.extend_from_slice(&piece[..taken]);
            self.open &= taken == 0;
            match end.map(|end| piece[end]) {
                Some(b'\n') => {
                    if !self.open {
                        lines.push(std::mem::take(&mut self.line));
                    }
                    self.open = false;
                }
                // A lone carriage return would let the next words overwrite the name.
                Some(_) if !self.line.is_empty() => self.cut(self.line.len(), lines),
                Some(_) => {}
                None if self.line.len() == MAX_LINE => self.cut(whole_characters(&self.line), lines),
                None => {}
            }
            bytes = &bytes[taken + usize::from(end.is_some())..];
        }
    }

    /// Gives out what stands in the line up to `at`, though no line feed has come.
    fn cut(&mut self, at: usize, lines: &mut Vec<Vec<u8>>) {
        let rest = self.line.split_off(at);
        lines.push(std::mem::replace(&mut self.line, rest));
        self.open = self.line.is_empty();
    }

    fn finish(&mut self, lines: &mut Vec<Vec<u8>>) {
        if !self.line.is_empty() {
            lines.push(std::mem::take(&mut self.line));
        }
    }
}

/// How much of the bytes can be given out without cutting a UTF-8 character in two.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let needs = match bytes[bytes.len() - back] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if needs > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        chunks.iter().for_each(|chunk| splitter.push(chunk, &mut lines));
        splitter.finish(&mut lines);
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let text = "one\n\ntwo\r\n\r\nthree\r50%\r100%\nlast";
        let whole = split(&[text.as_bytes()]);
        assert_eq!(whole, ["one", "", "two", "", "three", "50%", "100%", "last"]);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(split(&bytes), whole);
    }

    #[test]
    fn a_long_line_is_cut_at_the_bound_and_nothing_of_it_is_lost() {
        let long = format!("{}\nnext", "x".repeat(2 * MAX_LINE));
        let lines = split(&[long.as_bytes()]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 4]);
    }

    #[test]
    fn a_cut_leaves_characters_whole() {
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "🦀é→".repeat(MAX_LINE / 4));
            let lines = split(&long.as_bytes().chunks(1000).collect::<Vec<_>>());
            assert_eq!(lines.concat(), long);
            assert!(lines.iter().all(|line| line.len() <= MAX_LINE));
        }
        let junk = vec![0x80; 3 * MAX_LINE];
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        splitter.push(&junk, &mut lines);
        assert_eq!(lines.concat(), junk);
    }
}
