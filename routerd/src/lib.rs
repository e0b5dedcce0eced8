//! The daemon as a library: `main.rs` only reads the command line, so that tests start a [`daemon::Daemon`] in process.
//!
//! # The path of a request
//!
//! | step | where |
//! |---|---|
//! | 1 accept | `routerd/src/accept.rs`, `routerd/src/conn.rs` |
//! | spine | `router-core/src/proxy/request.rs` |
//! | 2 route | `router-core/src/policy/route.rs` |
//! | 3 queue | `router-core/src/policy/{shed,queue}.rs`, `router-core/src/router/ticket.rs` |
//! | 4 dispatch | `router-core/src/policy/dispatch.rs`, `router-core/src/router/shared.rs` |
//! | 5 forward | `router-core/src/proxy/forward.rs`, `router-core/src/proxy/flight.rs` |
//! | 6 check in | `router-core/src/router/lease.rs`, `router-core/src/policy/app.rs` |
//! | 7 log | `router-core/src/proxy/record.rs`, `routerd/src/log.rs` |
//!
//! # Map
//!
//! A module imports only modules that stand below it. `main.rs` stands above all of them.
//!
//! | file | what it is |
//! |---|---|
//! | `cli.rs` | The command line: what may be typed, and the help that teaches it |
//! | `watch.rs` | Notices that a file has been written anew |
//! | `up.rs` | A local dyno grid: the processes of a Procfile, each with its own `PORT`, watched and started again |
//! | `up/formation.rs` | How many processes of each entry of the Procfile run: `web=4,worker=1` |
//! | `up/grid.rs` | Watches over all processes of a grid |
//! | `up/output.rs` | What the processes of a grid print, line by line, each with its name in front |
//! | `up/port.rs` | The ports of a grid's processes: which one is free, and whether somebody listens there yet |
//! | `up/process.rs` | One child process: its shell, its environment, its process group, and its end |
//! | `up/procfile.rs` | Reads a Procfile |
//! | `up/run.rs` | `routerd up`: the grid of a Procfile with the daemon in front of it |
//! | `daemon.rs` | The daemon put together: router, proxy, listeners, discovery, log, metrics and admin |
//! | `daemon/live.rs` | What a reload changes of a running daemon |
//! | `daemon/names.rs` | Where the dynos of a configuration come from, as discovery wants it |
//! | `daemon/offer.rs` | The old side of a hand-over |
//! | `daemon/succeed.rs` | The new side of a hand-over |
//! | `daemon/orders.rs` | Carries out what is asked of the daemon, one order after the other |
//! | `daemon/release.rs` | Releases of a running daemon |
//! | `daemon/release/words.rs` | The words of releases |
//! | `upgrade.rs` | Starts this program anew |
//! | `systemd.rs` | What systemd is told of this process |
//! | `accept.rs` | Step 1: listeners, the bound on connections, and back-off when the kernel has no more to give |
//! | `conn.rs` | One client connection: HTTP/1.1 in, each request to `router_core::proxy` |
//! | `socket.rs` | A client's socket with two hands on it |
//! | `log.rs` | Step 7: one line in the access log for each request |
//! | `log/line.rs` | One record as one line: logfmt with the fields of Heroku's router, or JSON with the same fields |
//! | `log/writer.rs` | The one writer of the access log |
//! | `admin.rs` | The admin listener: metrics, health, readiness and the state of lines and dynos |
//! | `admin/listen.rs` | Where the admin listener listens |
//! | `admin/readiness.rs` | Whether the daemon should get traffic, and if not, why: what `/readyz` answers |
//! | `admin/reloads.rs` | How reloads of the configuration have gone |
//! | `admin/status.rs` | The picture of the router as JSON, for `/v1/status` |
//! | `handover.rs` | What two daemons say to each other while one takes over from the other |
//! | `handover/wire.rs` | The connection of a hand-over |
//! | `inherit.rs` | Listening sockets that are open already |
//! | `control.rs` | What can be asked of a running daemon, by whom, and what is answered |
//! | `control/orders.rs` | Orders |
//! | `control/views.rs` | What is shown of deploys, releases and apps |
//! | `deploys.rs` | Deploys of the daemon |
//! | `deploys/run.rs` | One deploy while it runs |
//! | `deploys/counts.rs` | What becomes of the requests of the two releases of a deploy |
//! | `deploys/book.rs` | What was decided about releases while the daemon ran |
//! | `discover.rs` | Discovery for every app of the daemon |
//! | `gate.rs` | Between discovery and the router |
//! | `metrics.rs` | Every metric of the daemon: name, kind, unit, labels and meaning in one table |
//! | `metrics/meters.rs` | Counters and histograms of requests, fed once as each request ends |
//! | `metrics/process.rs` | CPU time and memory of this process, as Linux tells them in `/proc/self` |
//! | `metrics/scrape.rs` | What is read when somebody asks |
//! | `metrics/total.rs` | How many requests there were, how many failed, and how long they held their dynos |
//! | `drain.rs` | One signal for everything that runs: go on, let connections end, finish what is running, stop now |
//! | `config.rs` | The checked configuration, as types |
//! | `config/access.rs` | Who may do what |
//! | `config/check.rs` | From the file as written to the checked configuration |
//! | `config/deploy.rs` | How a deploy is to go, as text |
//! | `config/diff.rs` | Two configurations compared |
//! | `config/dyno.rs` | Where an app's dynos come from: an address, a name that is looked up, or an SRV record |
//! | `config/error.rs` | What is wrong with a configuration |
//! | `config/file.rs` | The configuration as written: every key with its meaning, default, floor and ceiling |
//! | `config/host.rs` | What names an app |
//! | `config/key.rs` | A value of the file together with the place where it is written |
//! | `config/plan.rs` | How a new release replaces the present one |
//! | `config/reference.rs` | The reference of the configuration, made from the schema: `docs/configure.md` |
//! | `config/units.rs` | Durations as `"5s"` and sizes as `"1MiB"`: read from text, shown as text |
//! | `config/walk.rs` | Holds a parsed file against the schema |

pub mod cli;
pub mod watch;
pub mod up;
pub mod daemon;
pub mod upgrade;
pub mod systemd;
mod accept;
mod conn;
mod socket;
pub mod log;
pub mod admin;
pub mod handover;
pub mod inherit;
pub mod control;
mod deploys;
pub mod discover;
pub mod gate;
pub mod metrics;
mod drain;
pub mod config;
