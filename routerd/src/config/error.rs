//! What is wrong with a configuration: file, line, column, caret, what was found, what is allowed.

use std::fmt;
use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// More problems than this are counted, not shown.
const SHOWN: usize = 20;

/// A line longer than this is not printed with its caret: nobody finds the caret in it.
const LONGEST_LINE: usize = 400;

/// Everything that is wrong with one configuration file.
///
/// `Display` gives one line a problem, as `shop.toml:3:9: unknown key ...`; [`render`](Self::render) gives the
/// lines of the file with carets.
#[derive(Clone, Debug)]
pub struct ConfigError {
    file_name: String,
    text: String,
    problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// What is wrong, naming the key.
    pub message: String,
    /// What was found there; stands at the caret.
    pub found: String,
    /// What is allowed, and the nearest allowed key if there is one.
    pub help: Option<String>,
    span: Option<Range<usize>>,
    /// A second place that has to do with it, and what is there.
    other: Option<(Range<usize>, String)>,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span: Some(span), ..Self::of_file(message) }
    }

    /// About the file as a whole.
    pub(super) fn of_file(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { line: 0, column: 0, message, found: "here".to_owned(), help: None, span: None, other: None }
    }

    pub(super) fn found(mut self, found: impl Into<String>) -> Self {
        self.found = found.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn other(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
        self
    }
}

impl ConfigError {
    /// Puts the problems into the order of the file, each once, and finds their lines.
    pub(super) fn new(file_name: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        problems.dedup();
        let mut places = Places::new(text);
        for problem in &mut problems {
            if let Some(span) = &problem.span {
                (problem.line, problem.column) = places.of(span.start);
            }
        }
        Self { file_name: file_name.to_owned(), text: text.to_owned(), problems }
    }

    /// What is wrong, in the order of the file; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems with the lines they are in. Without `colour` it is plain ASCII art, fit for a file or a pipe.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::none() };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100);
        let source = NamedSource::new(&self.file_name, printable(&self.text));
        let mut out = String::new();
        for (at, problem) in self.problems.iter().take(SHOWN).enumerate() {
            if at > 0 {
                out.push('\n');
            }
            let shown = Shown { problem, source: &source };
            let whole = !self.fits(problem) || handler.render_report(&mut out, &shown).is_err();
            if whole {
                out.push_str(&self.one_line(problem));
                out.push('\n');
            }
        }
        if let Some(more) = self.more() {
            out.push_str(&more);
            out.push('\n');
        }
        out
    }

    /// Whether the lines around the problem are short enough to be shown.
    fn fits(&self, problem: &Problem) -> bool {
        let spans = problem.span.iter().chain(problem.other.as_ref().map(|(span, _)| span));
        problem.span.is_some()
            && spans.into_iter().all(|span| {
                let from = line_start(&self.text, span.start, 2);
                let to = line_end(&self.text, span.end, 2);
                let lines = self.text.get(from..to);
                lines.is_some_and(|lines| lines.split('\n').all(|line| line.len() <= LONGEST_LINE))
            })
            && problem.span.as_ref().is_some_and(|span| span.len() <= 10 * LONGEST_LINE)
    }

    fn more(&self) -> Option<String> {
        let more = self.problems.len().checked_sub(SHOWN).filter(|more| *more > 0)?;
        Some(format!("{}: and {more} more", self.file_name))
    }

    fn one_line(&self, problem: &Problem) -> String {
        let mut line = printable(&self.file_name);
        if problem.line > 0 {
            line.push_str(&format!(":{}:{}", problem.line, problem.column));
        }
        line.push_str(&format!(": {}", problem.message));
        if let Some(help) = &problem.help {
            line.push_str(&format!(" ({help})"));
        }
        line
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().take(SHOWN).enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{}", self.one_line(problem))?;
        }
        self.more().map_or(Ok(()), |more| write!(f, "\n{more}"))
    }
}

impl std::error::Error for ConfigError {}

/// One problem as miette wants it.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    source: &'a NamedSource<String>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone()?;
        let first = LabeledSpan::new_primary_with_span(Some(self.problem.found.clone()), span);
        let other = self.problem.other.clone();
        let other = other.map(|(span, label)| LabeledSpan::new_with_span(Some(label), span));
        Some(Box::new(std::iter::once(first).chain(other)))
    }
}

/// The text with control characters blanked, byte for byte as long as before, so that spans still hold and
/// nothing in a file can steer a terminal.
fn printable(text: &str) -> String {
    let blank = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_ascii_control() => ' ',
        // U+0080..U+009F take two bytes, as the middle dot does.
        c if c.is_control() => '\u{b7}',
        c => c,
    };
    text.chars().map(blank).collect()
}

/// Line and column of places that are asked for in ascending order, in one pass over the text.
struct Places<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
    column: usize,
}

impl<'a> Places<'a> {
    fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0, line: 1, column: 1 }
    }

    fn of(&mut self, place: usize) -> (usize, usize) {
        while let Some(byte) = self.text.get(self.at).filter(|_| self.at < place) {
            match byte {
                b'\n' => (self.line, self.column) = (self.line + 1, 1),
                // A character is counted with its first byte.
                byte if byte & 0xC0 == 0x80 => {}
                _ => self.column += 1,
            }
            self.at += 1;
        }
        (self.line, self.column)
    }
}

/// Where the line `back` lines before that of `place` begins.
fn line_start(text: &str, place: usize, back: usize) -> usize {
    let before = &text.as_bytes()[..place.min(text.len())];
    before.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(back).map_or(0, |(at, _)| at + 1)
}

/// Where the line `ahead` lines after that of `place` ends.
fn line_end(text: &str, place: usize, ahead: usize) -> usize {
    let place = place.min(text.len());
    let after = text.as_bytes()[place..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    after.map(|(at, _)| place + at).nth(ahead).unwrap_or(text.len())
}
