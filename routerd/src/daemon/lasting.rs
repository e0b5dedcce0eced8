//! What stays for as long as the daemon runs, whatever a reload changes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use router_core::Router;
use router_core::proxy::Proxy;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::StartError;
use super::orders::Orders;
use super::release::Deploys;
use super::trail::Trail;
use crate::accept;
use crate::acme::Acme;
use crate::admin::{Access, Readiness, Reloads};
use crate::admission::Guards;
use crate::config::{self, Config, LogFormat, LogOutput};
use crate::conn::{Begins, Terms};
use crate::connections::Connections;
use crate::deploys::book::Shelf;
use crate::deploys::counts::Counts;
use crate::deploys::grown::Grower;
use crate::door::Door;
use crate::drain::Drain;
use crate::log::{AccessLog, Format};
use crate::metrics::{Meters, Scrape};
use crate::tls::{self, Edge};
use crate::web::Web;

/// How long a log may take to write its last lines.
pub(super) const LAST_LINES: Duration = Duration::from_secs(2);

/// What stays for as long as the daemon runs.
pub(super) struct Lasting {
    pub(super) router: Router,
    /// Without the rules of any configuration.
    pub(super) proxy: Proxy,
    pub(super) guards: Guards,
    pub(super) web: Web,
    pub(super) door: Door,
    pub(super) meters: Meters,
    pub(super) counts: Counts,
    pub(super) shelf: Shelf,
    pub(super) trail: Trail,
    pub(super) deploys: Deploys,
    /// What starts dynos, if something does.
    pub(super) grower: OnceLock<Arc<dyn Grower>>,
    pub(super) log: Arc<ArcSwapOption<AccessLog>>,
    /// The log is the configuration's, not the caller's: a reload may change it.
    pub(super) log_is_ours: bool,
    /// For connections that come from now on.
    pub(super) terms: Arc<ArcSwap<Terms>>,
    /// TLS in front.
    pub(super) edge: Edge,
    /// Certificates that are in no file.
    pub(super) acme: Acme,
    pub(super) connections: Connections,
    pub(super) readiness: Readiness,
    pub(super) reloads: Reloads,
    pub(super) drain: Drain,
    pub(super) orders: Orders,
    /// Who may ask the admin listener.
    pub(super) access: Access,
}

impl Lasting {
    pub(super) fn now(&self) -> Instant {
        self.router.clock().now()
    }

    /// What handshakes are made with under a configuration.
    pub(super) fn secure(&self, config: &Config) -> Result<Option<tls::Terms>, StartError> {
        config.tls.as_ref().map(|tls| self.edge.terms(tls)).transpose().map_err(StartError::Tls)
    }

    /// What connections are served by under a configuration.
    pub(super) fn terms_of(&self, config: &Config, tls: Option<tls::Terms>) -> Terms {
        let (proxy, door, connections) = (self.proxy.clone(), self.door.clone(), self.connections.clone());
        Terms::new(proxy, &self.meters, config, door, connections, tls)
    }

    pub(super) fn accept(&self, listener: &Arc<TcpListener>, begins: Begins) -> JoinHandle<()> {
        let (terms, connections) = (Arc::clone(&self.terms), self.connections.clone());
        tokio::spawn(accept::accept(Arc::clone(listener), begins, terms, connections, self.drain.watch()))
    }

    /// Takes what waits at a listener that is about to be closed.
    pub(super) fn sweep(&self, listener: &TcpListener, begins: Begins) {
        accept::sweep(listener, begins, &self.terms.load_full(), &self.connections, &self.drain.watch());
    }

    pub(super) fn scraper(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        let (router, meters, connections) =
            (self.router.clone(), self.meters.clone(), self.connections.clone());
        let (log, reloads, access) = (Arc::clone(&self.log), self.reloads.clone(), self.access.clone());
        let (webhooks, door, edge) = (self.trail.webhooks().clone(), self.door.clone(), self.edge.clone());
        let (memory, disk) = (self.proxy.memory().clone(), self.proxy.disk().clone());
        let acme = self.acme.clone();
        Arc::new(move || {
            let log = log.load();
            let account = reloads.account();
            meters.render(&Scrape {
                snapshot: router.snapshot(),
                connections: connections.open(),
                connections_resting: connections.resting(),
                connections_refused: door.account(),
                buffered_bytes: memory.held(),
                disk_bytes: disk.held(),
                disk_files: disk.files(),
                disk_fallbacks: disk.fallbacks(),
                log_lines_lost: log.as_ref().map_or(0, |log| log.lost()),
                log_write_errors: log.as_ref().map_or(0, |log| log.errors()),
                reloads_done: account.done,
                reloads_failed: account.failed,
                config_loaded: account.loaded.as_secs(),
                webhooks: webhooks.account(),
                admin_denied: access.denied().to_vec(),
                tls: edge.account(),
                acme: acme.account(),
            })
        })
    }
}

/// The access log that a configuration asks for.
pub(super) fn access_log(log: &config::Log) -> io::Result<Option<AccessLog>> {
    let format = match log.format {
        LogFormat::Logfmt => Format::Logfmt,
        LogFormat::Json => Format::Json,
    };
    match log.output {
        LogOutput::Off => Ok(None),
        LogOutput::Stdout => AccessLog::to_stdout(format, log.queue).map(Some),
        LogOutput::Stderr => {
            // Its own descriptor, as for standard output.
            let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
            AccessLog::start(format, log.queue, out).map(Some)
        }
    }
}
