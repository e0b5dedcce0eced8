//! What may be typed after `routerd ctl`, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Target;
use crate::config::units::Period;
use crate::control::{CanaryOrder, Pace, ReadyWhen};

/// Help of `routerd ctl`.
pub const EXAMPLES: &str = "\
Examples:
  routerd ctl status                                 the daemon, its apps and their lines
  routerd ctl deploy shop --release v43 --dynos 127.0.0.1:3003,127.0.0.1:3004
                                                     new dynos replace the old ones; waits and shows how it goes
  routerd ctl deploy shop --release v43 --dyno dns:web-43.internal:3000 --canary 10%
  routerd ctl promote shop                           the canary becomes the release
  routerd ctl rollback shop --why 'checkout is slow' take the deploy back, or go back to the release before
  routerd ctl pause shop --for 30s                   hold requests, for example while a database moves
  routerd ctl audit --app shop --limit 10            who changed what
  routerd ctl --admin unix:/run/routerd.sock reload
  routerd ctl --admin https://edge.internal:9900 --ca ca.pem --token-file ci.token deploys

The daemon is found at 127.0.0.1:9900, or where --admin or ROUTERD_ADMIN says. Where tokens are needed, show one with
--token-file or in ROUTERD_TOKEN; `routerd token` makes them.
Exit codes: 0 done, 1 it failed or was taken back (the cause is on standard error), 2 wrong use.";

const DEPLOY_EXAMPLES: &str = "\
Examples:
  routerd ctl deploy shop --release v43 --dyno 127.0.0.1:3003 --dyno 127.0.0.1:3004
  routerd ctl deploy shop --release v43 --dynos 127.0.0.1:3003,127.0.0.1:3004 --pace '1 every 10s' --bake 5m
  routerd ctl deploy shop --release v43 --dyno dns:web-43.internal:3000 --ready-when 80% --boot-timeout 2m
  routerd ctl deploy shop --release v43 --dynos 127.0.0.1:3003 --canary header:X-Beta=1
  routerd ctl deploy shop --release v43 --dynos 127.0.0.1:3003 --no-wait --json | jq .deploy

The old dynos serve until the new ones have answered their probes. If they do not, or if they do worse than the old
ones, the old ones go on serving and the exit code is 1. With --canary it waits until the canary serves; then
`routerd ctl promote` or `rollback` ends it. Ctrl-C ends the waiting, not the deploy.";

/// Which daemon, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CtlArgs {
    /// The daemon's admin address: HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "ROUTERD_ADMIN",
        default_value = "127.0.0.1:9900"
    )]
    pub admin: Target,
    /// A file with the token to show; without it, ROUTERD_TOKEN is the token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A PEM file with the authority that signed the daemon's certificate; without it, the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print what the daemon answers, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What a daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// To show something.
    #[command(flatten)]
    Look(Look),
    /// To change something.
    #[command(flatten)]
    Tell(Tell),
}

/// What a daemon can show.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Look {
    /// Show the daemon, its apps and their lines
    Status,
    /// List the apps: release, mode, deploy, dynos
    Apps,
    /// List the dynos of one app, or of all
    Dynos {
        /// Only those of this app
        app: Option<String>,
    },
    /// List the releases that an app had
    Releases {
        /// The app
        app: String,
    },
    /// List deploys: those that run, and the last that ended
    Deploys {
        /// Only those of this app
        app: Option<String>,
    },
    /// Show the last lines of the audit trail, newest first, or check all of it
    Audit(AuditArgs),
}

/// What a daemon can be told to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Tell {
    /// Let a new release take over, and wait until it has
    Deploy(Box<DeployArgs>),
    /// Go on from a canary, or bring another app's release and dynos here
    Promote {
        /// The app that gets the release
        app: String,
        /// The app whose release and dynos move here; without it, the running canary becomes the release
        #[arg(long, value_name = "APP")]
        from: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "described there")]
        waiting: Waiting,
    },
    /// Take the running deploy back; without one, deploy the previous release again
    Rollback {
        /// The app
        app: String,
        /// The reason, for the audit trail
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "described there")]
        waiting: Waiting,
    },
    /// Change which requests a running canary serves
    Canary {
        /// The app
        app: String,
        /// 10%, header:NAME=VALUE or cookie:NAME=VALUE
        rule: CanaryOrder,
    },
    /// Hold requests in line; those that run go on
    Pause {
        /// The app
        app: String,
        /// Resume by itself after that long
        #[arg(long = "for", value_name = "TIME")]
        at_most: Option<Period>,
    },
    /// End a pause
    Resume {
        /// The app
        app: String,
        /// How long it takes until all dynos work again; 0s: at once
        #[arg(long, value_name = "TIME")]
        over: Option<Period>,
    },
    /// Refuse requests with a page that says so, or stop doing so
    Maintenance {
        /// The app
        app: String,
        /// Whether to begin or to end
        switch: Switch,
    },
    /// Give a dyno no further request
    Drain {
        /// The app
        app: String,
        /// The dyno's name or address
        dyno: String,
    },
    /// Give a drained dyno requests again
    Undrain {
        /// The app
        app: String,
        /// The dyno's name or address
        dyno: String,
    },
    /// Start each dyno's process anew, one after the other (grids of `routerd up`)
    Restart {
        /// The app
        app: String,
        #[command(flatten)]
        #[expect(missing_docs, reason = "described there")]
        waiting: Waiting,
    },
    /// Put the configuration file in place as it is now
    Reload,
    /// Start the program that is on disk now, and hand over to it: no request is lost
    Upgrade,
}

/// The new release, its dynos, and how it is to go.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = DEPLOY_EXAMPLES)]
pub struct DeployArgs {
    /// The app
    pub app: String,
    /// The new release's name
    #[arg(long, value_name = "NAME")]
    pub release: String,
    /// One of its dynos: 127.0.0.1:3003, dns:NAME:PORT or srv:NAME; may be given more than once
    #[arg(long, value_name = "DYNO")]
    pub dyno: Vec<String>,
    /// Its dynos, with commas between them
    #[arg(long, value_name = "DYNO,...", value_delimiter = ',')]
    pub dynos: Vec<String>,
    /// Requests that the new release serves before it is promoted: 10%, header:NAME=VALUE or cookie:NAME=VALUE
    #[arg(long, value_name = "RULE")]
    pub canary: Option<CanaryOrder>,
    /// The longest a canary waits to be promoted
    #[arg(long, value_name = "TIME")]
    pub canary_time: Option<Period>,
    /// How many new dynos have to be ready: all, 3 or 80%
    #[arg(long, value_name = "HOW MANY")]
    pub ready_when: Option<ReadyWhen>,
    /// Good probes in a row that make a dyno ready
    #[arg(long, value_name = "N")]
    pub rise: Option<u32>,
    /// The longest a dyno may take to be ready
    #[arg(long, value_name = "TIME")]
    pub boot_timeout: Option<Period>,
    /// How fast new dynos replace old ones: 'at once', '1 every 10s' or '25% every 1m'
    #[arg(long, value_name = "PACE")]
    pub pace: Option<Pace>,
    /// How long a busy old dyno may take for its last requests before nobody waits for it
    #[arg(long, value_name = "TIME")]
    pub drain_timeout: Option<Period>,
    /// How long the new release is watched once it serves alone
    #[arg(long, value_name = "TIME")]
    pub bake: Option<Period>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "described there")]
    pub waiting: Waiting,
}

/// Whether to wait for the end of what was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct Waiting {
    /// Wait for the end and show how it goes (this is so anyway)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Do not wait: the deploy goes on in the daemon
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
}

/// Which lines of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct AuditArgs {
    /// Only those about this app
    #[arg(long)]
    pub app: Option<String>,
    /// How many at the most, 1 to 1000; 100 if it is not said
    #[arg(long, value_name = "N", conflicts_with = "verify")]
    pub limit: Option<u32>,
    /// Let the daemon check the whole trail
    #[arg(long, conflicts_with = "app")]
    pub verify: bool,
    /// Check this file and its older ones here, without a daemon
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub file: Option<PathBuf>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Begin.
    On,
    /// End.
    Off,
}
