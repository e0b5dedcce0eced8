//! Where results go: the page on standard output, and files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use router_bench::page::html;
use router_bench::page::terminal::{self, Look};
use router_bench::page::verdict;
use router_bench::results::Results;
use router_bench::tell;

use crate::Failed;

/// Files that are written besides the page.
#[derive(Clone, Debug, Default, clap::Args)]
// Several commands take these, each beside arguments of its own.
#[group(skip)]
#[command(next_help_heading = "Results")]
pub(crate) struct Args {
    /// Write all figures and curves of all runs as JSON, which `dyno-bench report` reads; "-" is standard output,
    /// instead of the page
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the figures as CSV, one line a run; "-" is standard output, instead of the page
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write one HTML page with plots, which needs nothing else to be read
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Args {
    /// Finds out before a long run whether its results can be written; touches nothing that is there.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        let mut to_stdout = 0;
        for path in [&self.json, &self.csv, &self.html].into_iter().flatten() {
            if is_stdout(path) {
                to_stdout += 1;
                continue;
            }
            let open = OpenOptions::new().append(true).create(true).open(path);
            open.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        }
        if to_stdout > 1 {
            return Err(Failed::Use("only one of --json, --csv and --html can be \"-\"".to_owned()));
        }
        Ok(())
    }

    /// Writes the files, and the page unless one of them is standard output.
    pub(crate) fn write(&self, results: &Results) -> io::Result<()> {
        self.write_files(results)?;
        if self.to_stdout() {
            verdict::warnings(results).iter().for_each(|warning| tell!("warning: {warning}"));
            return Ok(());
        }
        terminal::print(&mut io::stdout().lock(), results, Look::of_stdout())
    }

    /// Writes the files alone.
    pub(crate) fn write_files(&self, results: &Results) -> io::Result<()> {
        write(self.json.as_deref(), |out| results.write(out))?;
        write(self.csv.as_deref(), |out| results.write_csv(out))?;
        write(self.html.as_deref(), |out| html::write(out, results, &[]))
    }

    /// Whether standard output is taken by a file.
    pub(crate) fn to_stdout(&self) -> bool {
        [&self.json, &self.csv, &self.html].into_iter().flatten().any(|path| is_stdout(path))
    }
}

/// Writes a file, or standard output for "-", or nothing.
pub(crate) fn write(
    path: Option<&Path>,
    put: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let Some(path) = path else { return Ok(()) };
    if is_stdout(path) {
        return put(&mut io::stdout().lock());
    }
    let named = |error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    let mut file = BufWriter::new(File::create(path).map_err(named)?);
    put(&mut file).and_then(|()| file.flush()).map_err(named)
}

/// Ends a command that has run something: marks results that are not whole, writes them, and says whether all was well.
pub(crate) fn finish(
    args: &Args,
    mut results: Results,
    interrupted: bool,
    done: io::Result<()>,
) -> Result<bool, Failed> {
    results.partial = match &done {
        Err(error) => Some(error.to_string()),
        Ok(()) => interrupted.then(|| "interrupted".to_owned()),
    };
    if done.is_err() && results.runs.is_empty() {
        // Nothing to show; the error says all.
        return done.map(|()| false).map_err(Failed::Run);
    }
    args.write(&results)?;
    done?;
    let unserved = results.runs.iter().find(|run| run.is_silent());
    if let Some(run) = unserved {
        tell!("error: {} answered no request", run.proxy);
    }
    let clean = results.runs.iter().all(|run| run.overlaps == 0 && !run.interrupted);
    Ok(clean && !interrupted && unserved.is_none() && !results.runs.is_empty())
}

/// How the program was called, as it could be typed again.
pub(crate) fn command() -> String {
    let word = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=:,./%@+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let words = std::env::args_os().skip(1).map(|arg| word(arg.to_string_lossy().into_owned()));
    std::iter::once("dyno-bench".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}
