//! Follows a deploy to its end: one live line on a terminal, else a line for each change.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::client::{self, Client};
use super::{Done, Trouble, show};
use crate::control::DeployView;

/// Four times a second.
const EVERY: Duration = Duration::from_millis(250);
/// How long the daemon may be away, for example while it hands over to a new program.
const AWAY: Duration = Duration::from_secs(10);

/// What is a good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The new release serves.
    Done,
    /// The same, or its canary does.
    Canary,
    /// The old release serves again.
    RolledBack,
}

impl Until {
    fn is_met(self, deploy: &DeployView) -> bool {
        match self {
            Self::Done => deploy.state == "done",
            Self::Canary => deploy.state == "done" || deploy.state == "canary",
            Self::RolledBack => deploy.state == "rolled_back",
        }
    }
}

/// Waits until it is so, or cannot be any more.
pub(super) async fn follow(client: &Client, id: u64, until: Until, json: bool) -> Result<Done, Trouble> {
    // One listener from beginning to end: between two of them a Ctrl-C would be lost.
    let failed = |error| Trouble::Usage(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut line = Line::new();
    let (path, mut seen) = (format!("/v1/deploys/{id}"), Instant::now());
    loop {
        let look = async {
            let answer = client.get(&path).await?;
            Ok::<_, Trouble>((client::read::<DeployView>(&answer)?, answer))
        };
        let looked = tokio::select! {
            looked = look => looked,
            _ = interrupt.recv() => return Ok(left(&line, id)),
        };
        match looked {
            Ok((deploy, answer)) => {
                seen = Instant::now();
                line.show(&deploy);
                let met = until.is_met(&deploy);
                if met || deploy.ended.is_some() {
                    line.end();
                    let text = show::outcome(&deploy);
                    let out = match (json, met) {
                        (true, _) => format!("{answer:#}\n"),
                        (false, true) => show::line(&text),
                        (false, false) => String::new(),
                    };
                    return Ok(Done { out, failed: (!met).then_some(text) });
                }
            }
            Err(Trouble::Unreachable(_)) if seen.elapsed() < AWAY => {}
            Err(trouble) => {
                line.end();
                return Err(trouble);
            }
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            _ = interrupt.recv() => return Ok(left(&line, id)),
        }
    }
}

/// Nobody waits any more.
fn left(line: &Line, id: u64) -> Done {
    line.end();
    let app = line.app.as_deref().unwrap_or("APP");
    let text = format!(
        "not waiting any longer: deploy {id} goes on\n\
         routerd ctl deploys shows how, routerd ctl rollback {app} takes it back"
    );
    Done { out: String::new(), failed: Some(text) }
}

/// Where progress is shown.
struct Line {
    /// On a terminal.
    live: Option<ProgressBar>,
    last: String,
    app: Option<String>,
}

impl Line {
    fn new() -> Self {
        let live = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(live) = &live {
            live.enable_steady_tick(Duration::from_millis(100));
        }
        Self { live, last: String::new(), app: None }
    }

    fn show(&mut self, deploy: &DeployView) {
        self.app = Some(deploy.app.clone());
        let (line, left) = (show::progress(deploy), show::time_left(deploy));
        if let Some(live) = &self.live {
            live.set_message(format!("{line}{left}"));
        } else if self.last != line {
            // Whether somebody reads it makes no difference to the deploy.
            let _ = writeln!(io::stderr(), "{line}{left}");
        }
        self.last = line;
    }

    fn end(&self) {
        if let Some(live) = &self.live {
            live.finish_and_clear();
        }
    }
}
