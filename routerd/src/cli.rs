//! The command line: what may be typed, and the help that teaches it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

/// No formation starts more processes of one kind.
const PROCESSES_MAX: u32 = 1000;

const EXAMPLES: &str = "\
Examples:
  routerd up                                   start what the Procfile says, and route to it
  routerd up --formation web=4                 the same with four web processes
  routerd check --config shop.toml             say what is wrong with a configuration
  routerd run --config shop.toml               route requests as the configuration says
  routerd schema > routerd.schema.json         let an editor complete the keys

The smallest configuration, for two dynos behind 127.0.0.1:8080:
  [apps.shop]
  dynos = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]

Signals: SIGTERM stops accepting, finishes what is running and ends.
Exit codes: 0 done, 1 it failed, 2 wrong use.";

const UP_EXAMPLES: &str = "\
Examples:
  routerd up                                   one web process of ./Procfile, on port 8080
  routerd up --formation web=4                 four of them, each with its own PORT
  routerd up shop/Procfile --listen [::1]:80   another Procfile, another address

A Procfile has one kind of process a line:
  web: bundle exec puma -t 1:1 -p $PORT";

const RUN_EXAMPLES: &str = "\
Examples:
  routerd run --config shop.toml
  routerd check --config shop.toml && routerd run --config shop.toml > access.log";

const CHECK_EXAMPLES: &str = "\
Examples:
  routerd check --config shop.toml
  shop.toml is valid: 2 apps, 3 listeners, 4 dynos";

/// One line per app, one request per dyno: routes requests to servers that do one thing at a time.
///
/// A dyno is one process of an app. Requests wait in one line per app; the dyno that is free takes the next one.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "routerd", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `routerd` can do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Route requests as a configuration says, until SIGTERM
    #[command(after_help = RUN_EXAMPLES)]
    Run(ConfigArgs),
    /// Say whether a configuration is valid, and if not, everything that is wrong with it
    #[command(after_help = CHECK_EXAMPLES)]
    Check(ConfigArgs),
    /// Start the processes of a Procfile and route requests to them, until Ctrl-C
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Print the JSON schema of the configuration
    Schema,
}

/// Which configuration.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ConfigArgs {
    /// The configuration, a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

/// What `routerd up` starts, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct UpArgs {
    /// What to start
    #[arg(value_name = "PROCFILE", default_value = "Procfile")]
    pub procfile: PathBuf,
    /// How many processes of each kind, as in web=4
    #[arg(short, long, value_name = "KIND=COUNT,...", default_value = "web=1")]
    pub formation: Formation,
    /// Where to listen for requests; port 0 takes a free port
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// How many processes of each kind, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formation(pub BTreeMap<String, u32>);

impl FromStr for Formation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut kinds = BTreeMap::new();
        for part in text.split(',') {
            let Some((kind, count)) = part.trim().split_once('=') else {
                return Err(format!("{part:?} is not of the form web=4"));
            };
            let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if kind.is_empty() || !kind.bytes().all(named) {
                return Err(format!("{kind:?} is no kind of process: letters, digits, - and _"));
            }
            let count = count.parse().ok().filter(|count| (0..=PROCESSES_MAX).contains(count));
            let count =
                count.ok_or_else(|| format!("the count of {kind} is a number from 0 to {PROCESSES_MAX}"))?;
            if kinds.insert(kind.to_owned(), count).is_some() {
                return Err(format!("{kind} is there twice"));
            }
        }
        Ok(Self(kinds))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_listens_where_the_readme_says_unless_told_otherwise() {
        let Command::Up(args) = Cli::parse_from(["routerd", "up"]).command else { panic!("not up") };
        assert_eq!(args.procfile, PathBuf::from("Procfile"));
        assert_eq!(args.formation, Formation(BTreeMap::from([("web".to_owned(), 1)])));
        assert_eq!(args.listen, "127.0.0.1:8080".parse().unwrap());
    }

    #[test]
    fn a_formation_names_each_kind_once() {
        let formation: Formation = "web=4,worker=0".parse().unwrap();
        assert_eq!(formation.0, BTreeMap::from([("web".to_owned(), 4), ("worker".to_owned(), 0)]));
        for text in [
            "",
            "web",
            "web=",
            "=4",
            "web=-1",
            "web=1001",
            "web=4,web=2",
            "we b=1",
            "web=4,",
            "web=99999999999",
        ] {
            assert!(text.parse::<Formation>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_configuration_in_the_help_is_valid() {
        let example: String = EXAMPLES
            .lines()
            .skip_while(|line| !line.contains("[apps"))
            .take(2)
            .collect::<Vec<_>>()
            .join("\n");
        let config = crate::config::Config::parse(&example, "help").unwrap();
        assert_eq!(config.apps[0].dynos.len(), 2);
    }
}
