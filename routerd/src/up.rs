//! A local dyno grid: the processes of a Procfile, each with its own `PORT`, watched and started again.
//!
//! The rules:
//!
//! - A process of `web` is a dyno and gets requests; processes of other entries just run. All of them find their port
//!   in `PORT` and their name (`web.1`) in `DYNO`. They run in the directory of the Procfile, without input.
//! - A dyno is told of as [`Booting`] when it is started, and as [`Ready`]
//!   once 127.0.0.1:`PORT` accepts a connection. That one is closed first and there is never another: who works on one
//!   connection at a time must have one connection at a time.
//! - `web.1` boots alone. The other dynos start when it is ready, so that a command that builds what it runs
//!   builds once, and a command that fails is seen to fail once.
//! - A process that ends is started again after 1 s, 2 s, 4 s ... 30 s, from 1 s again once it ran well for 30 s, on
//!   the same port if that is still free. Only a process of another entry than `web` that ends with exit code 0 has
//!   done its work and stays ended. What it left running in its process group is ended before the next start.
//! - At the end every process group gets SIGTERM and 30 s, then SIGKILL. Asking a second time kills at once. A grid
//!   that is dropped kills what it started. If routerd itself is killed with SIGKILL, it can end nobody.
//!
//! [`DynoHealth`]: router_core::change::DynoHealth
//! [`Booting`]: router_core::change::DynoHealth::Booting
//! [`Ready`]: router_core::change::DynoHealth::Ready

mod crew;
mod formation;
mod grid;
mod output;
mod port;
mod process;
mod procfile;
mod run;
mod watched;

use std::fmt;

use tokio::sync::watch;

pub use formation::{Formation, FormationError, MAX_PROCESSES, ProcessName, WEB};
pub use grid::{Grid, Options, Sink};
pub use output::{MAX_LINE, Output};
pub use procfile::{Entry, Procfile, ProcfileError, ReadError};
pub use run::run;

/// Help for the argument that names the Procfile.
pub const PROCFILE_HELP: &str = "\
File with one `NAME: COMMAND` a line. The processes of `web` are the dynos: each must listen on $PORT. Commands run in \
the file's directory";

/// Help for `--formation`, in one line.
pub const FORMATION_HELP: &str = "How many processes of each entry run, like web=4,worker=1";

/// Help for `--formation`, in full.
pub const FORMATION_LONG_HELP: &str = "\
How many processes of each entry run, like web=4,worker=1.

Without it: 4 of `web` and 1 of every other entry, none of `release`. With it: only what it names, and \
`all=N` for the entries it does not name; so `all=1,web=8` sets `web` alone.";

/// How a grid is asked to end. Clones ask the same grid.
#[derive(Clone)]
pub struct Stop(watch::Sender<Phase>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Ending,
    Killing,
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    /// Asks the processes to end; asked a second time, kills them. This is what Ctrl-C does.
    pub fn ask(&self) {
        self.0.send_modify(|phase| {
            *phase = if *phase == Phase::Running { Phase::Ending } else { Phase::Killing };
        });
    }

    /// Waits until somebody has asked.
    ///
    /// # Cancel safety
    /// Nothing is lost; wait again.
    pub async fn asked(&self) {
        self.reached(Phase::Ending).await;
    }

    /// Waits until somebody has asked twice.
    async fn asked_twice(&self) {
        self.reached(Phase::Killing).await;
    }

    async fn reached(&self, wanted: Phase) {
        // The sender is ours, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= wanted).await;
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self.0.borrow() {
            Phase::Running => "Stop(not asked)",
            Phase::Ending => "Stop(asked)",
            Phase::Killing => "Stop(asked twice)",
        })
    }
}
