//! `dyno-bench report`: shows results that were written before, and compares them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use router_bench::contrast::{self, Contrast, Differences, Finding};
use router_bench::page::html::{self, Comparison};
use router_bench::page::terminal::{self, Look};
use router_bench::results::Results;
use router_bench::tell;
use serde::Serialize;

use crate::{Failed, output};

/// Shows results again, or compares them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dyno-bench --vs haproxy --rounds 5 --json a.json
  dyno-bench report a.json --html a.html
      the same figures again, and as a page with plots
  dyno-bench report before.json after.json
      which figures differ by more than chance? Each file's proxies are compared with those of the same name in the
      first file; if each has one only, with that one
  dyno-bench report before.json after.json --fail-on worse
      for a pipeline: exit code 1 if anything is worse

A figure differs if its medians are more than --least apart and a rank test over the rounds gives as much by chance in
at most 5 of 100 cases. With less than 4 rounds on each side no outcome is that rare, and the page says that it cannot
tell. With so many figures one in twenty of those that did not change may still be called different.
One overlap where there was none is worse, whatever the rounds.

Exit codes: 0 done; 1 it failed, or --fail-on worse found something; 2 wrong use, or the scenarios are different.")]
pub(crate) struct Args {
    /// Results written by --json; the first is what the others are compared with
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Exit with 1 if this was found
    #[arg(long, value_name = "WHAT", value_enum)]
    fail_on: Option<FailOn>,
    /// Differences smaller than this share of the figure are noise [default: 0.02]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    least: Option<f64>,
    /// Compare although the scenarios are different
    #[arg(long)]
    anyway: bool,
    /// With one file its results, with more what the comparison found; "-" is standard output, instead of the page
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The figures of the last file as CSV, one line a run; "-" is standard output, instead of the page
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// One HTML page with plots of the last file, and with the comparisons
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One of the page's plots as SVG: its name on the page, "=" and a file, as in "throughput=out.svg"
    #[arg(long, value_name = "PLOT=FILE", value_parser = plot)]
    svg: Vec<(String, PathBuf)>,
}

/// What makes the program end with 1.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailOn {
    /// A figure is worse by more than chance.
    Worse,
}

/// What the comparison with one file found, as JSON.
#[derive(Serialize)]
struct Found<'a> {
    before: &'a Path,
    after: &'a Path,
    differences: &'a Differences,
    contrasts: &'a [Contrast],
}

pub(crate) fn run(args: &Args) -> Result<bool, Failed> {
    let to_stdout =
        [&args.json, &args.csv, &args.html].into_iter().flatten().filter(|path| path.as_os_str() == "-");
    if to_stdout.clone().count() > 1 {
        return Err(Failed::Use("only one of --json, --csv and --html can be \"-\"".to_owned()));
    }
    alone(args)?;
    let all = args.files.iter().map(|path| Results::read(path)).collect::<io::Result<Vec<_>>>()?;
    let [first, others @ ..] = all.as_slice() else { return Ok(false) };
    let last = others.last().unwrap_or(first);
    let comparisons = others
        .iter()
        .zip(&args.files[1..])
        .map(|(other, path)| compare(args, first, other, path))
        .collect::<Result<Vec<_>, _>>()?;
    if others.is_empty() {
        output::write(args.json.as_deref(), |out| last.write(out))?;
    } else {
        let found: Vec<_> =
            comparisons.iter().zip(&args.files[1..]).map(|found| found_in(args, found)).collect();
        output::write(args.json.as_deref(), |out| {
            serde_json::to_writer_pretty(&mut *out, &found)?;
            writeln!(out)
        })?;
    }
    output::write(args.csv.as_deref(), |out| last.write_csv(out))?;
    output::write(args.html.as_deref(), |out| html::write(out, last, &comparisons))?;
    write_plots(args, last)?;
    if to_stdout.count() == 0 {
        page(last, &comparisons)?;
    }
    let worse = |contrast: &Contrast| contrast.lines.iter().any(|line| line.finding == Finding::Worse);
    let worse = comparisons.iter().flat_map(|comparison| &comparison.contrasts).any(worse);
    match args.fail_on {
        Some(FailOn::Worse) if worse => {
            tell!("error: something is worse");
            Ok(false)
        }
        Some(FailOn::Worse) | None => Ok(true),
    }
}

/// Refuses with one file what is of a comparison.
fn alone(args: &Args) -> Result<(), Failed> {
    let of_comparisons =
        [(args.anyway, "--anyway"), (args.fail_on.is_some(), "--fail-on"), (args.least.is_some(), "--least")];
    match of_comparisons.into_iter().find(|(given, _)| *given && args.files.len() < 2) {
        Some((_, option)) => Err(Failed::Use(format!("{option} needs two files or more"))),
        None => Ok(()),
    }
}

fn found_in<'a>(args: &'a Args, (comparison, path): (&'a Comparison, &'a PathBuf)) -> Found<'a> {
    Found {
        before: &args.files[0],
        after: path,
        differences: &comparison.differences,
        contrasts: &comparison.contrasts,
    }
}

fn compare(args: &Args, before: &Results, after: &Results, path: &Path) -> Result<Comparison, Failed> {
    let differences = contrast::differences(before, after);
    if !differences.grave.is_empty() && !args.anyway {
        return Err(Failed::Use(format!(
            "{} and {} are of different scenarios; --anyway compares them all the same:\n  {}",
            args.files[0].display(),
            path.display(),
            differences.grave.join("\n  ")
        )));
    }
    let contrasts =
        contrast::contrast(before, after, args.least.unwrap_or(0.02)).map_err(io::Error::other)?;
    let title = format!("{} against {}", path.display(), args.files[0].display());
    Ok(Comparison { title, differences, contrasts })
}

fn page(last: &Results, comparisons: &[Comparison]) -> io::Result<()> {
    let (mut out, look) = (io::stdout().lock(), Look::of_stdout());
    if comparisons.is_empty() {
        return terminal::print(&mut out, last, look);
    }
    for Comparison { title, differences, contrasts } in comparisons {
        writeln!(out, "{title}")?;
        for line in differences.grave.iter().chain(&differences.light) {
            writeln!(out, "differs: {line}")?;
        }
        terminal::print_contrasts(&mut out, contrasts, look)?;
    }
    Ok(())
}

fn write_plots(args: &Args, results: &Results) -> Result<(), Failed> {
    let plots = router_bench::page::charts::plots(results);
    for (name, path) in &args.svg {
        let Some(plot) = plots.iter().find(|plot| plot.id == *name) else {
            let names: Vec<_> = plots.iter().map(|plot| plot.id.as_str()).collect();
            return Err(Failed::Use(format!("there is no plot \"{name}\"; these are: {}", names.join(", "))));
        };
        fs::write(path, plot.file()?)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn plot(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("a plot and a file, as in \"throughput=out.svg\"".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=10.0).contains(&share) => Ok(share),
        _ => Err("a share from 0 to 10, such as 0.02".to_owned()),
    }
}
