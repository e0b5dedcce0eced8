//! The command line: what may be typed, and the help that teaches it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::ctl::{self, CtlArgs};
use crate::password::{self, PasswordArgs};
use crate::token::{self, TokenArgs};
use crate::up::{self, Formation};

const EXAMPLES: &str = "\
Examples:
  routerd up                                   start what the Procfile says, and route to it
  routerd up --formation web=2                 the same with two web processes
  routerd check --config shop.toml             say what is wrong with a configuration
  routerd run --config shop.toml               route requests as the configuration says
  routerd plan -c new.toml -a shop.toml        what a reload with new.toml would change
  routerd ctl status                           ask a running daemon; also deploy, rollback, pause ...
  routerd token --name ci --role deploy        a token for whoever may do so from elsewhere
  routerd password --user ops                  a password for who may see an app
  routerd schema > routerd.schema.json         let an editor complete the keys

The smallest configuration, for two dynos behind 127.0.0.1:8080:
  [apps.shop]
  dynos = [\"127.0.0.1:3001\", \"127.0.0.1:3002\"]

Signals: SIGTERM stops accepting, finishes what is running and ends. SIGHUP loads the configuration anew. SIGUSR2
starts the program anew, and the new process takes over without losing a request.
Exit codes: 0 done, 1 it failed, 2 wrong use.";

const UP_EXAMPLES: &str = "\
Examples:
  routerd up                                   one web process of ./Procfile, on port 8080
  routerd up --formation web=2                 two of them, each with its own PORT
  routerd up shop/Procfile --listen [::1]:80   another Procfile, another address
  routerd ctl deploy up --release v2           from another terminal: new processes beside the old, which then leave
  routerd ctl restart up                       the same with the same release

Ctrl-C and SIGTERM end all processes, and a second time at once. So does SIGHUP, by which a
terminal says that it is closed, unless routerd was started with nohup.

A Procfile has one kind of process a line:
  web: bundle exec puma -t 1:1 -p $PORT";

const RUN_EXAMPLES: &str = "\
Examples:
  routerd run --config shop.toml
  routerd check --config shop.toml && routerd run --config shop.toml > access.log
  routerd run --config shop.toml --watch
  routerd run --config shop.toml --takeover    replaces the one that runs

SIGHUP loads the configuration anew. What is in the old and the new one is not touched: no connection is closed, no
request lost. A configuration that is wrong changes nothing and is reported.

--takeover gets the listening sockets and then the dynos, one by one, from the routerd that runs this configuration
file, which finishes its requests and ends. SIGUSR2 to that one does the same with its own program file and arguments.
Should the new one fail before it serves, the old one goes on.

Sockets of systemd (LISTEN_FDS) are used where their address is one of server.listen or admin.listen.";

const PLAN_EXAMPLES: &str = "\
Examples:
  routerd plan --config new.toml --against shop.toml
  ~ app shop
      queue.max_wait: 5s -> 2s
      dynos: - 127.0.0.1:3001, + 127.0.0.1:3003
  3 apps stay as they are; no connection is closed";

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
    Run(RunArgs),
    /// Say whether a configuration is valid, and if not, everything that is wrong with it
    #[command(after_help = CHECK_EXAMPLES)]
    Check(ConfigArgs),
    /// Print what a reload would change, and change nothing
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Start the processes of a Procfile and route requests to them, until Ctrl-C
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// Ask a running daemon, or tell it what to do
    #[command(after_help = ctl::EXAMPLES)]
    Ctl(Box<CtlArgs>),
    /// Make a token for the admin interface
    #[command(after_help = token::EXAMPLES)]
    Token(TokenArgs),
    /// Make a user's line for basic_auth of an app
    #[command(after_help = password::EXAMPLES)]
    Password(PasswordArgs),
    /// Print the JSON schema of the configuration
    Schema,
}

/// Which configuration to run, and how changes of it are noticed.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration, a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Reload the configuration whenever the file changes; without it, on SIGHUP only
    #[arg(long)]
    pub watch: bool,
    /// Take over from the routerd that runs this configuration file, without losing a request
    #[arg(long)]
    pub takeover: bool,
}

/// Which configuration is meant, and which is in place.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PlanArgs {
    /// The new configuration, a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// The configuration in place, a TOML file
    #[arg(short, long, value_name = "FILE")]
    pub against: PathBuf,
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
    #[arg(value_name = "PROCFILE", default_value = "Procfile", help = up::PROCFILE_HELP)]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub procfile: PathBuf,
    #[arg(short, long, value_name = "ENTRY=N,...", help = up::FORMATION_HELP,
        long_help = up::FORMATION_LONG_HELP)]
    #[expect(missing_docs, reason = "the help text is the documentation")]
    pub formation: Option<Formation>,
    /// Where to listen for requests; port 0 takes a free port
    #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where `routerd ctl` reaches it: an address, unix:PATH, or off [default: 127.0.0.1:9900, if it is free]
    #[arg(short, long, value_name = "ADDR")]
    pub admin: Option<String>,
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
        assert_eq!(args.formation, None);
        assert_eq!(args.listen, "127.0.0.1:8080".parse().unwrap());
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
