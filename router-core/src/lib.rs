//! One line per app, one request per dyno.
//!
//! Some servers do one thing at a time. This crate routes requests to them: requests wait in **one line per app**, and
//! a **dyno** (one process of an app) takes the next one when it is free. That makes the wait as short as it can be.
//!
//! # A request, by hand
//!
//! Without default features the crate is the line alone: no runtime, no I/O. You bring the transport.
//!
//! ```
//! use router_core::change::{AppSpec, Change, DynoSpec};
//! use router_core::limits::Limits;
//! use router_core::{Outcome, Router};
//!
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     let mut future = std::pin::pin!(future);
//! #     let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
//! #     loop { if let std::task::Poll::Ready(out) = future.as_mut().poll(&mut cx) { return out } }
//! # }
//! // The control plane says what there is. A list of changes is applied whole or not at all.
//! let router = Router::new();
//! let shop = AppSpec {
//!     id: "shop".into(),
//!     hosts: vec!["shop.test".into(), "*.shop.test/api".into()],
//!     release: "v1".into(),
//!     limits: Limits::default(),
//! };
//! router.apply(&[
//!     Change::PutApp(shop),
//!     Change::AddDyno("shop".into(), DynoSpec::new("127.0.0.1:3001".parse()?)),
//! ])?;
//!
//! // A request: host and path to app (step 2), a place in line (3), a dyno (4).
//! let app = router.route("shop.test", "/cart")?;
//! let ticket = router.ticket(&app, 0)?;
//! let lease = block_on(ticket)?;
//! // Forward it (5) to `lease.dyno().address`, and give the dyno back (6): the next in line gets it.
//! lease.check_in(Outcome::Served);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! * A [`Ticket`] that is dropped leaves the line; nothing else is needed when a client goes away.
//! * A ticket has a [`deadline`](Ticket::deadline), which moves while its line is paused; wait no longer, then
//!   [`expire`](Ticket::expire) it.
//! * A [`Lease`] ends once. If its dyno could not be reached, [`again`](Lease::again) puts the request back to the
//!   front of the line. What you put into its parcel (a connection) comes back with the dyno's next lease.
//! * Call [`Router::tick`] when it says so: dynos come back from quarantine, and a pause ends, by the clock.
//!
//! # HTTP
//!
//! With the feature `proxy` (on by default), [`proxy::Proxy`] does all of that for an HTTP/1.1 request: body
//! buffering, the dyno's one connection, retries that are safe, spooled answers, lingering, faults as answers, one
//! [`proxy::Record`] a request. `examples/src/bin/embed.rs` is a whole service in one page.
//!
//! # Names
//!
//! With the feature `dns` (on by default), [`dns::Discovery`] turns A, AAAA and SRV records into changes.
//!
//! With the feature `serde` names, changes and deploys can be written down and read again.
//!
//! # Releases
//!
//! [`policy::deploy::Deploy`] decides how the dynos of a new release replace those of the present one: warming,
//! canary, paced cut-over, bake, and the way back. You do the I/O: probes, clock and changes.
//!
//! While a canary runs, an app has two lanes. [`proxy::Proxy`] knows which request is the canary's; if you take
//! tickets yourself, ask [`AppRef::lane`] and hand the answer to [`Router::ticket_on`].
//!
//! # Map
//!
//! A file imports only what stands below it.
//!
//! | file | what it is |
//! |---|---|
//! | `proxy.rs` | ring 3: the side towards dynos |
//! | `proxy/client.rs` | who sent a request, and what its connection can do |
//! | `proxy/request.rs` | the spine: steps 2 to 6 of one request |
//! | `proxy/http2.rs` | step 2: a request that came over HTTP/2, in the words of HTTP/1.1 |
//! | `proxy/answer.rs` | a fault as an HTTP answer |
//! | `proxy/coding.rs` | which answers go to their clients in another coding |
//! | `proxy/sticky.rs` | clients that come back to the dyno that served them |
//! | `proxy/guard.rs` | who may refuse or answer a request before it takes a place in line |
//! | `proxy/https.rs` | what goes with HTTPS: redirects, promises, and for which hosts a connection is |
//! | `proxy/inspect.rs` | step 2: is it a request that may go on, and where to |
//! | `proxy/headers.rs` | headers both ways |
//! | `proxy/grpc.rs` | which requests are gRPC, and faults as gRPC tells them |
//! | `proxy/origin.rs` | who a request comes from, and whom to believe about it |
//! | `proxy/own.rs` | requests that are answered without an app |
//! | `proxy/upload.rs` | a request's body on its way to a dyno |
//! | `proxy/ahead.rs` | what is read of it before a dyno is taken, in memory and on disk |
//! | `proxy/pace.rs` | the least pace of a client that sends while it holds a dyno |
//! | `proxy/canary.rs` | step 3: does a request carry what makes it the canary's |
//! | `proxy/turn.rs` | step 3: waits for a ticket, keeps the alarm |
//! | `proxy/probe.rs` | asks a dyno how it is |
//! | `proxy/forward.rs` | step 5: to the dyno and back, and what if not |
//! | `proxy/dial.rs` | the one connection to a dyno |
//! | `proxy/link.rs` | the one connection of a dyno that speaks HTTP/2 |
//! | `proxy/wire.rs` | bytes to and from a dyno, as they go over TCP or under TLS |
//! | `proxy/wanted.rs` | what a client would have its connection become |
//! | `proxy/preamble.rs` | what a dyno is told by the PROXY protocol |
//! | `proxy/flight.rs` | a request at its dyno, kept together until the dyno is free |
//! | `proxy/upgrade.rs` | a connection that has changed the protocol, from the 101 to its end |
//! | `proxy/splice.rs` | bytes both ways between a client and a dyno |
//! | `proxy/frames.rs` | where a frame of a WebSocket ends |
//! | `proxy/spool.rs` | an answer between a dyno and a slower client |
//! | `proxy/spool/ring.rs` | where in its file the next bytes of an answer go |
//! | `proxy/body.rs` | an answer's body on its way to the client |
//! | `proxy/coded.rs` | an answer's body on its way through an encoder |
//! | `proxy/disk.rs` | bodies on disk: files, and how many bytes there may be |
//! | `proxy/weights.rs` | lists with weights, as in Accept |
//! | `proxy/memory.rs` | how many bytes of bodies are held, and how many may be |
//! | `proxy/record.rs` | step 7: what is known of one request |
//! | `dns.rs` | ring 3: asks for the names of an app |
//! | `dns/resolver.rs` | asks a resolver, within a bounded time |
//! | `router.rs` | ring 2: `Router`: routes, apps, changes, pictures |
//! | `router/control.rs` | what the control plane has asked for |
//! | `router/hub.rs` | what spans apps: claims on addresses, the alarm |
//! | `router/ticket.rs` | steps 3 and 4: a future that ends in a lease or a fault |
//! | `router/lease.rs` | step 6: one dyno for one request |
//! | `router/parking.rs` | what stays with dynos from one lease to the next, and what all leases of a dyno share |
//! | `router/bell.rs` | tells upgraded requests that their dyno leaves |
//! | `router/shared.rs` | one app under one lock |
//! | `policy.rs` | ring 1: what is decided, and nothing else |
//! | `policy/route.rs` | step 2: host and path to app |
//! | `policy/app.rs` | an app's line and dynos as one state machine |
//! | `policy/app/changes.rs` | what the control plane does to an app |
//! | `policy/app/faults.rs` | why a request is not served |
//! | `policy/app/wishes.rs` | requests that would rather have one given dyno |
//! | `policy/app/hold.rs` | pause, resume, maintenance |
//! | `policy/app/health.rs` | what is thought of a dyno when a request or a probe ends |
//! | `policy/app/crew.rs` | the dynos of one lane of an app |
//! | `policy/shed.rs` | step 3: may a request wait at all |
//! | `policy/queue.rs` | step 3: who waits |
//! | `policy/dispatch.rs` | step 4: which dyno is next |
//! | `policy/dyno.rs` | what one dyno does |
//! | `policy/health.rs` | is a dyno well, and how many may be out |
//! | `policy/deploy.rs` | a new release replaces the present one |
//! | `policy/deploy/moves.rs` | which state of a deploy comes next, and who leaves for whom |
//! | `policy/deploy/saved.rs` | a deploy as plain data, and how it goes on after a restart |
//! | `policy/deploy/view.rs` | what can be seen of a deploy |
//! | `policy/deploy/member.rs` | what one dyno of a deploy does |
//! | `policy/deploy/judge.rs` | is the new release as good as the old one |
//! | `policy/deploy/plan.rs` | how a deploy is to go |
//! | `policy/deploy/words.rs` | the words of a deploy |
//! | `policy/records.rs` | DNS answers to dynos |
//! | `policy/records/feed.rs` | one source of dynos, and what is kept when it fails |
//! | `policy/records/read.rs` | reads one answer |
//! | `policy/records/source.rs` | the words of discovery |
//! | `change.rs` | ring 0: what the control plane may ask |
//! | `snapshot.rs` | a consistent picture of an app |
//! | `wish.rs` | what a request would rather have: one given dyno |
//! | `canary.rs` | which requests are a canary's, and the two lanes of an app |
//! | `fault.rs` | every way a request can fail |
//! | `limits.rs` | every bound and time-out |
//! | `encryption.rs` | what an app wants of encryption |
//! | `ids.rs` | names and numbers |
//! | `clock.rs` | where the time is read |
//! | `sync.rs` | locks: std's, or loom's |

pub use policy::dyno::DynoInfo;
pub use policy::health::{Outcome, Probed};
pub use router::{AppRef, Lease, Router, Ticket};

// ring 3: input and output
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "dns")]
pub mod dns;

// ring 2: locks and wakers
pub mod router;

// ring 1: policy
pub mod policy;

// ring 0: words, plain data
pub mod change;
pub mod snapshot;
pub mod canary;
pub mod wish;
pub mod fault;
pub mod limits;
pub mod encryption;
pub mod ids;
pub mod clock;
#[doc(hidden)]
pub mod sync;
