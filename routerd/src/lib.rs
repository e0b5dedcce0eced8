//! The daemon as a library: `main.rs` only reads the command line, so that tests start a [`daemon::Daemon`] in
//! process.
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
//! | `ctl.rs` | `routerd ctl` |
//! | `ctl/args.rs` | What may be typed after `routerd ctl`, and the help that teaches it |
//! | `ctl/client.rs` | One request to a daemon's admin interface, over TCP, TLS or a Unix socket |
//! | `ctl/follow.rs` | Follows a deploy to its end |
//! | `ctl/show.rs` | What a daemon answers, for people |
//! | `token.rs` | `routerd token` |
//! | `password.rs` | `routerd password` |
//! | `up.rs` | A local dyno grid: the processes of a Procfile, each with its own `PORT`, watched and started again |
//! | `up/crew.rs` | Processes of a grid that come and go together |
//! | `up/formation.rs` | How many processes of each entry of the Procfile run: `web=4,worker=1` |
//! | `up/grid.rs` | Watches over all processes of a grid |
//! | `up/output.rs` | What the processes of a grid print, line by line, each with its name in front |
//! | `up/port.rs` | The ports of a grid's processes: which one is free, and whether somebody listens there yet |
//! | `up/process.rs` | One child process: its shell, its environment, its process group, and its end |
//! | `up/procfile.rs` | Reads a Procfile |
//! | `up/run.rs` | `routerd up`: the grid of a Procfile with the daemon in front of it |
//! | `up/watched.rs` | One process of a grid |
//! | `daemon.rs` | The daemon put together: router, proxy, listeners, discovery, log, metrics and admin |
//! | `daemon/ending.rs` | How the daemon ends |
//! | `daemon/errors.rs` | Why a daemon does not start, or does not change |
//! | `daemon/lasting.rs` | What stays for as long as the daemon runs, whatever a reload changes |
//! | `daemon/live.rs` | What a reload changes of a running daemon |
//! | `daemon/names.rs` | Where the dynos of a configuration come from, and how they are probed |
//! | `daemon/offer.rs` | The old side of a hand-over |
//! | `daemon/lend.rs` | The end of a hand-over |
//! | `daemon/succeed.rs` | The new side of a hand-over |
//! | `daemon/orders.rs` | Carries out what is asked of the daemon, one order after the other |
//! | `daemon/orders/deeds.rs` | What orders do |
//! | `daemon/release.rs` | Releases of a running daemon |
//! | `daemon/release/follow.rs` | What file and decisions want, and what an app runs |
//! | `daemon/release/words.rs` | The words of releases |
//! | `daemon/spool.rs` | How many bytes of bodies may be in memory and on disk, and where on disk |
//! | `daemon/trail.rs` | What is written down and told of changes |
//! | `upgrade.rs` | Starts this program anew |
//! | `systemd.rs` | What systemd is told of this process |
//! | `privileges.rs` | From root to another user |
//! | `accept.rs` | Step 1: listeners, the bound on connections, and back-off when the kernel has no more to give |
//! | `conn.rs` | One client connection, step by step |
//! | `conn/http1.rs` | HTTP/1.1 in front |
//! | `conn/rest.rs` | Waiting for a request: how long a connection of HTTP/1.1 may, and when it is at rest |
//! | `conn/http2.rs` | HTTP/2 in front |
//! | `conn/http2/stream.rs` | One stream of HTTP/2 |
//! | `conn/http2/tunnel.rs` | A stream of HTTP/2 that is to become a WebSocket (RFC 8441) |
//! | `conn/enter.rs` | What comes before the first request: whose connection it is, and whether there is room for it |
//! | `connections.rs` | Which connections of clients there are: how many are open, and how many of those rest |
//! | `socket.rs` | A client's socket with two hands on it |
//! | `guard.rs` | A guard over the bytes of an HTTP/1.1 client |
//! | `guard/line.rs` | The grammar of single lines of HTTP/1.1 |
//! | `stream.rs` | The bytes of a client, as they come over TCP or under TLS |
//! | `admission.rs` | Who an app lets in |
//! | `admission/auth.rs` | Who shows a name and a password that an app knows |
//! | `admission/rate.rs` | How often something happens |
//! | `web.rs` | What apps show the world, as it is in place |
//! | `compress.rs` | Compression of answers |
//! | `compress/encoder.rs` | The encoders of the three codings, and the memory that all of them together may have |
//! | `sticky.rs` | The cookies that name dynos |
//! | `pages.rs` | The pages of all apps that have their own for faults |
//! | `door.rs` | Connections of each address, and those that were turned away |
//! | `proxy_header.rs` | The header of the PROXY protocol |
//! | `descriptors.rs` | How many files this process may have open |
//! | `messages.rs` | The daemon's own messages on standard error, written by one thread beside all others |
//! | `log.rs` | Step 7: one line in the access log for each request |
//! | `log/line.rs` | One record as one line: logfmt with the fields of Heroku's router, or JSON with the same fields |
//! | `log/writer.rs` | The one writer of the access log |
//! | `admin.rs` | The admin listener: metrics, health, what the daemon is and does, and orders to it |
//! | `admin/access.rs` | Who asks, and whether they are let in at all |
//! | `admin/api.rs` | Every endpoint in one table, from which the routes and their description are made |
//! | `admin/apps.rs` | Apps as JSON, for `/v1/apps` |
//! | `admin/listen.rs` | Where the admin listener listens |
//! | `admin/openapi.rs` | The description of the interface in OpenAPI 3.1 |
//! | `admin/orders.rs` | Orders as requests |
//! | `admin/readiness.rs` | Whether the daemon should get traffic, and if not, why: what `/readyz` answers |
//! | `admin/reloads.rs` | How reloads of the configuration have gone |
//! | `admin/reply.rs` | Answers of the admin interface |
//! | `admin/status.rs` | The picture of the router as JSON, for `/v1/status` |
//! | `handover.rs` | What two daemons say to each other while one takes over from the other |
//! | `handover/wire.rs` | The connection of a hand-over |
//! | `inherit.rs` | Listening sockets that are open already |
//! | `control.rs` | What can be asked of a running daemon, by whom, and what is answered |
//! | `control/orders.rs` | Orders |
//! | `control/views.rs` | What is shown of deploys, releases and apps |
//! | `deploys.rs` | Deploys of the daemon |
//! | `deploys/grown.rs` | Dynos that are not found somewhere but started for a deploy |
//! | `deploys/run.rs` | One deploy while it runs |
//! | `deploys/counts.rs` | What becomes of the requests of the two releases of a deploy |
//! | `deploys/book.rs` | What was decided about releases while the daemon ran |
//! | `health.rs` | Watches over dynos that serve: who has answered no request for a while is probed |
//! | `probe.rs` | Asks a dyno how it is |
//! | `discover.rs` | Discovery for every app of the daemon |
//! | `gate.rs` | Between discovery and the router |
//! | `metrics.rs` | Every metric of the daemon: name, kind, unit, labels and meaning in one table |
//! | `metrics/meters.rs` | Counters and histograms of requests, fed once as each request ends |
//! | `metrics/process.rs` | CPU time and memory of this process, as Linux tells them in `/proc/self` |
//! | `metrics/scrape.rs` | What is read when somebody asks |
//! | `metrics/total.rs` | How many requests there were, how many failed, and how long they held their dynos |
//! | `webhooks.rs` | Webhooks |
//! | `webhooks/post.rs` | One try to deliver one event |
//! | `webhooks/target.rs` | One target of webhooks |
//! | `audit.rs` | The audit trail |
//! | `audit/files.rs` | The files of the audit trail |
//! | `audit/line.rs` | One line of the audit trail |
//! | `audit/read.rs` | Reads the audit trail from its end |
//! | `audit/verify.rs` | Verifies the audit trail |
//! | `state.rs` | The state file |
//! | `acme.rs` | Certificates by ACME (RFC 8555) |
//! | `acme/client.rs` | Requests to a CA |
//! | `acme/failed.rs` | Why no certificate came, in one line, and what kind of trouble that is |
//! | `acme/issue.rs` | One order |
//! | `acme/keep.rs` | Where the account and the certificates are kept |
//! | `acme/plan.rs` | When which host gets its certificate |
//! | `acme/source.rs` | Where certificates come from under one configuration |
//! | `acme/tokens.rs` | Answers to a CA's requests (http-01) |
//! | `durable.rs` | What files that have to survive a power cut are written with |
//! | `tls.rs` | TLS in front: handshakes, how much they may take from other work, and what has become of them |
//! | `tls/challenge.rs` | Answers to a CA's handshakes (tls-alpn-01, RFC 8737) |
//! | `tls/files.rs` | Certificate files under watch |
//! | `tls/last_word.rs` | The last word to a client whose handshake fails |
//! | `tls/store.rs` | Which certificate a client gets |
//! | `watch.rs` | Notices that a file has been written anew |
//! | `drain.rs` | One signal for everything that runs: go on, let connections end, finish what is running, stop now |
//! | `config.rs` | The checked configuration, as types |
//! | `config/access.rs` | Who may do what |
//! | `config/acme.rs` | Certificates by ACME: which CA, which ways, and for which hosts |
//! | `config/auth.rs` | Names and passwords of an app's users, as bcrypt hashes |
//! | `config/compression.rs` | Which answers of an app are compressed, and how |
//! | `config/check.rs` | From the file as written to the checked configuration |
//! | `config/check/acme.rs` | Certificates by ACME: what they need of the rest of the file |
//! | `config/check/admin.rs` | The admin listener |
//! | `config/check/auth.rs` | The users of an app |
//! | `config/check/compression.rs` | Which answers of an app are compressed, and how |
//! | `config/check/http2.rs` | HTTP/2 in front |
//! | `config/check/web.rs` | What an app shows the world |
//! | `config/check/sticky.rs` | How an app binds clients to dynos |
//! | `config/check/tls.rs` | TLS in front |
//! | `config/cert.rs` | A certificate of the edge with its key |
//! | `config/check/door.rs` | The keys of the door |
//! | `config/check/spool.rs` | The keys of bodies on disk |
//! | `config/deploy.rs` | How a deploy is to go, as text |
//! | `config/diff.rs` | Two configurations compared |
//! | `config/diff/app.rs` | The keys of an app, each with its value |
//! | `config/diff/settings.rs` | The keys outside of apps, each with its value |
//! | `config/door.rs` | Who may come in, how often, and who is believed |
//! | `config/dyno.rs` | Where an app's dynos come from: an address, a name that is looked up, or an SRV record |
//! | `config/edge.rs` | TLS in front of the apps |
//! | `config/error.rs` | What is wrong with a configuration |
//! | `config/event.rs` | What webhooks can be told of |
//! | `config/file.rs` | The configuration as written: every key with its meaning, default, floor and ceiling |
//! | `config/file/acme.rs` | The table about certificates by ACME, as written |
//! | `config/file/app.rs` | An app's table as written |
//! | `config/file/health.rs` | How dynos are probed, as written |
//! | `config/file/http2.rs` | The table about HTTP/2 as written |
//! | `config/file/web.rs` | The keys about what an app shows the world, as written |
//! | `config/file/tls.rs` | The table about TLS in front, as written |
//! | `config/file/door.rs` | The words of the door as written |
//! | `config/file/trail.rs` | The tables about changes as written |
//! | `config/health.rs` | How the dynos of an app are probed |
//! | `config/host.rs` | What names an app |
//! | `config/http2.rs` | HTTP/2 in front |
//! | `config/key.rs` | A value of the file together with the place where it is written |
//! | `config/pages.rs` | An app's own pages for faults |
//! | `config/sticky.rs` | How an app binds clients to dynos |
//! | `config/redirects.rs` | Redirects of an app |
//! | `config/web.rs` | What an app shows the world |
//! | `config/plan.rs` | How a new release replaces the present one |
//! | `config/reference.rs` | The reference of the configuration, made from the schema: `docs/configure.md` |
//! | `config/trail.rs` | Where changes are recorded, kept and told |
//! | `config/spool.rs` | Where bodies on disk are, and whether anybody has any |
//! | `config/tls.rs` | Certificate and key of the admin listener, read from their files |
//! | `config/token.rs` | Tokens of the admin interface |
//! | `config/units.rs` | Durations as `"5s"` and sizes as `"1MiB"`: read from text, shown as text |
//! | `config/upstream.rs` | TLS to the dynos of an app |
//! | `config/walk.rs` | Holds a parsed file against the schema |

pub mod cli;
pub mod ctl;
pub mod token;
pub mod password;
pub mod up;
pub mod daemon;
pub mod upgrade;
pub mod systemd;
pub mod privileges;
mod accept;
mod conn;
mod connections;
mod socket;
pub mod guard;
mod stream;
mod admission;
mod web;
mod compress;
mod sticky;
mod pages;
mod door;
pub mod proxy_header;
pub mod descriptors;
pub mod messages;
pub mod log;
pub mod admin;
pub mod handover;
pub mod inherit;
pub mod control;
mod deploys;
pub mod health;
pub mod probe;
pub mod discover;
pub mod gate;
pub mod metrics;
pub mod webhooks;
pub mod audit;
pub mod state;
pub mod acme;
mod durable;
pub mod tls;
pub mod watch;
mod drain;
pub mod config;
