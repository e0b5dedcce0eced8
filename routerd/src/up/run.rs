//! `routerd up`: the grid of a Procfile with the daemon in front of it, from the first boot to the last process.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use router_core::ids::AppId;
use router_core::sync::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::grid::{Grow, Planned, plan};
use super::{Formation, Grid, Options, Output, Procfile, Stop};
use crate::config::Config;
use crate::daemon::{Daemon, StartError};
use crate::deploys::grown::{Grower, Growing};
use crate::log::{AccessLog, DEFAULT_CAPACITY, Format};

/// Where `routerd ctl` looks for a daemon unless it is told otherwise.
const ADMIN: &str = "127.0.0.1:9900";
/// The only app; every Host leads to it.
const APP: &str = "up";
/// How long requests get to finish at the end, before the processes are ended.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs the grid and routes every request that comes to `listen` to its `web` processes, until `stop` is asked.
/// `admin` is where orders come in: an address, `unix:PATH` or `off`; `None`: the usual address if it is free.
///
/// # Errors
/// Says in words what cannot be started.
pub async fn run(
    procfile: &Path,
    formation: Option<&Formation>,
    listen: SocketAddr,
    admin: Option<&str>,
    stop: Stop,
) -> Result<(), String> {
    let entries = Procfile::read(procfile).map_err(|error| error.to_string())?;
    let formation = formation.cloned().unwrap_or_default();
    let output = Output::stdout().map_err(|error| format!("cannot print: {error}"))?;
    let daemon = daemon(listen, admin, &output).await?;

    let directory = procfile.parent().filter(|directory| !directory.as_os_str().is_empty());
    let options = Options::new(APP.into(), directory.unwrap_or_else(|| Path::new(".")), output.clone());
    let sink = daemon.sink_of_grid(&APP.into()).await;
    // The grid ends only when the last request has: its processes serve until then.
    let grid_stop = Stop::new();
    let grid = Grid::new(&entries, &formation, options, sink, grid_stop.clone());
    let grid = grid.map_err(|error| error.to_string())?;
    let planned = Mutex::new(plan(&entries, &formation).map_err(|error| error.to_string())?);
    let (app, procfile, growth) = (APP.into(), procfile.to_owned(), grid.growth());
    daemon.grows(Arc::new(UpGrower(Arc::new(Growth { app, procfile, formation, planned, growth }))));
    welcome(&output, &daemon, &grid).await;

    let mut running = tokio::spawn(grid.run());
    tokio::select! {
        _ = &mut running => {
            output.say("no process is left to run").await;
        }
        () = stop.asked() => {
            output.say("stopping; Ctrl-C again to stop at once").await;
        }
    }
    tokio::select! {
        cut = daemon.stop(DRAIN) => {
            if cut > 0 {
                output.say(&format!("{cut} connections were cut after {DRAIN:?}")).await;
            }
        }
        () = stop.asked_twice() => grid_stop.ask(),
    }
    grid_stop.ask();
    if !running.is_finished() {
        tokio::select! {
            _ = &mut running => {}
            () = stop.asked_twice() => {
                grid_stop.ask();
                let _ = running.await;
            }
        }
    }
    output.flush().await;
    Ok(())
}

/// Starts the processes of the Procfile once more, for a deploy.
struct UpGrower(Arc<Growth>);

struct Growth {
    app: AppId,
    procfile: PathBuf,
    formation: Formation,
    planned: Mutex<Planned>,
    growth: mpsc::Sender<Grow>,
}

impl Grower for UpGrower {
    fn app(&self) -> &AppId {
        &self.0.app
    }

    fn grow(&self, anew: bool) -> Growing {
        let growth = Arc::clone(&self.0);
        Box::pin(async move {
            if anew {
                let entries = Procfile::read(&growth.procfile).map_err(|error| error.to_string())?;
                let planned = plan(&entries, &growth.formation).map_err(|error| error.to_string())?;
                *growth.planned.lock() = planned;
            }
            let planned = growth.planned.lock().clone();
            let (reply, grown) = oneshot::channel();
            let ending = || "the processes are ending".to_owned();
            growth.growth.send(Grow { planned, reply }).await.map_err(|_| ending())?;
            grown.await.map_err(|_| ending())?.map_err(|error| format!("no process can be started: {error}"))
        })
    }
}

async fn daemon(listen: SocketAddr, admin: Option<&str>, output: &Output) -> Result<Daemon, String> {
    match start(listen, admin.unwrap_or(ADMIN), output).await {
        Err(StartError::Admin(error)) if admin.is_none() => {
            output.say(&format!("no orders are taken: {error}; --admin names another address")).await;
            start(listen, "off", output).await
        }
        result => result,
    }
    .map_err(|error| error.to_string())
}

async fn start(listen: SocketAddr, admin: &str, output: &Output) -> Result<Daemon, StartError> {
    let admin = match admin {
        "off" => String::new(),
        admin => format!("[admin]\nlisten = {admin:?}\n"),
    };
    let text = format!(
        "[server]\nlisten = [\"{listen}\"]\n{admin}[apps.{APP}]\nhosts = [\"*\"]\n\
         deploy = {{ boot_timeout = \"10m\", probe_every = \"50ms\" }}\n"
    );
    let config = Config::parse(&text, "up").map_err(|error| StartError::Trail(error.to_string()))?;
    let log = access_log(output).map_err(StartError::Log)?;
    Daemon::start_with_log(&config, Some(log)).await
}

async fn welcome(output: &Output, daemon: &Daemon, grid: &Grid) {
    for address in daemon.addresses() {
        let at = if address.ip().is_unspecified() {
            format!("http://localhost:{}", address.port())
        } else {
            format!("http://{address}")
        };
        output.say(&format!("{at} leads to {} dynos, one request each at a time", grid.dynos())).await;
    }
    if let Some(admin) = daemon.admin_address() {
        output.say(&format!("orders are taken at {admin}: routerd ctl --admin {admin} restart {APP}")).await;
    }
    if grid.dynos() == 0 {
        output.say("the formation has no web process: every request will be answered with H14").await;
    }
}

/// The access log goes where the lines of the processes go.
fn access_log(output: &Output) -> io::Result<AccessLog> {
    AccessLog::start(Format::Logfmt, DEFAULT_CAPACITY, Lines { output: output.clone(), begun: Vec::new() })
}

struct Lines {
    output: Output,
    /// A line whose end is still to come.
    begun: Vec<u8>,
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if self.begun.ends_with(b"\n") {
                self.begun.pop();
                self.output.say_from_thread(&String::from_utf8_lossy(&self.begun));
                self.begun.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
