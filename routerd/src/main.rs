//! `routerd`, the daemon: see [`routerd`].

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use routerd::cli::{Cli, Command, UpArgs};
use routerd::config::{Config, file};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => load(&args.config).map_or_else(|code| code, run),
        Command::Check(args) => {
            load(&args.config).map_or_else(|code| code, |config| check(&args.config, &config))
        }
        Command::Up(args) => up(args),
        Command::Schema => schema(),
    }
}

/// `routerd run`: routes requests until it is told to stop.
fn run(_config: Config) -> ExitCode {
    fail("routerd: `run` is not built in this build\n")
}

/// `routerd up`: a grid of local dynos, and a router in front of them.
fn up(_args: UpArgs) -> ExitCode {
    fail("routerd: `up` is not built in this build\n")
}

fn check(path: &Path, config: &Config) -> ExitCode {
    print(&format!("{} is valid: {}\n", path.display(), config.summary()))
}

fn schema() -> ExitCode {
    print(&format!("{:#}\n", file::schema().to_value()))
}

/// The configuration, or what is wrong with it on standard error and the exit code.
fn load(path: &Path) -> Result<Config, ExitCode> {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Config::load(path).map_err(|error| fail(&error.render(colour)))
}

/// Writes to standard output. That nobody reads on (`routerd schema | head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("routerd: cannot write to standard output: {error}\n")),
    }
}

/// Says why on standard error. If that is gone too, the exit code alone has to tell.
fn fail(why: &str) -> ExitCode {
    let _ = io::stderr().write_all(why.as_bytes());
    ExitCode::FAILURE
}
