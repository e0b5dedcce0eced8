//! An app's table as written.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::door::{ProxyWord, RateLimit};
use super::health::Health;
use super::tls::{Https, ToDynos};
use super::web::{BasicAuth, ErrorPage, Redirect, Sticky};
use crate::config::compression::Kind;
use crate::config::key::{Key, Text};
use crate::config::plan::Deploy;
use crate::config::units::{Period, Size};

/// `[apps.NAME]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    /// What names the app: `"shop.test"`, `"*.shop.test"` (anything below it) or `"*"` (whatever no other app
    /// takes), each also with a path prefix, as in `"shop.test/api"`. Needed, unless this is the only app: then
    /// it is `["*"]`.
    #[schemars(extend("default" = ["*"], "minItems" = 1, "maxItems" = 100_000, "x-unit" = "host"))]
    pub hosts: Key<Vec<Text>>,
    /// The release that the dynos run; stands in the log.
    #[schemars(extend("default" = "v1"))]
    pub release: Key<String>,
    /// The dynos: an address such as `"127.0.0.1:3001"` or `"[::1]:3001"`, a name that is looked up, as in
    /// `"dns:web.shop.internal:3000"`, or an SRV record, as in `"srv:_http._tcp.shop.internal"`. Without any,
    /// requests are answered with H14.
    #[schemars(extend("default" = [], "maxItems" = 10_000, "x-unit" = "dyno"))]
    pub dynos: Key<Vec<Text>>,
    /// Requests that one dyno serves at once.
    #[schemars(extend("default" = 1, "minimum" = 1, "maximum" = 10_000))]
    pub concurrency: Key<u32>,
    /// Connections that have changed their protocol (WebSocket) that one dyno holds beside its requests, each over a
    /// connection of its own to the dyno. What is more takes up the dyno as a request does until it ends. 0: all do,
    /// and a dyno has one connection.
    #[schemars(extend("default" = 0, "minimum" = 0, "maximum" = 10_000))]
    pub streams: Key<u32>,
    /// What the dynos speak. With `"h2c"` a dyno has one connection, however many requests it serves at once; gRPC
    /// needs it. To close a request's stream is to such a dyno what closing the connection is to the others.
    #[schemars(extend("default" = "http1"))]
    pub protocol: Key<Protocol>,
    /// Which idle dyno serves the next request.
    #[schemars(extend("default" = "lifo"))]
    pub order: Key<Order>,
    /// What goes with HTTPS.
    pub https: Https,
    /// TLS on the way to the dynos.
    pub tls: ToDynos,
    /// The app's line.
    pub queue: Queue,
    /// How long each step of a request may take.
    pub timeouts: Timeouts,
    /// What happens when a dyno does not accept a connection.
    pub retry: Retry,
    /// How a new release replaces the present one. An app whose `release` or `dynos` change gets the new dynos
    /// beside the old ones, and the old ones leave when the new ones are ready.
    pub deploy: Deploy,
    /// How it is found out that a dyno is not well, and what follows.
    pub health: Health,
    /// The longest body of a request; `"0B"` is any length. A longer one is answered with 413: at once if its length
    /// is given, else when it has come to that, and then a dyno that has begun with it loses its connection.
    #[schemars(extend("default" = "0B", "x-floor" = "0B", "x-ceiling" = "64GiB"))]
    pub body_max: Key<Size>,
    /// The least that a client sends of a body in a second, on average and but for the first 5 s, while a dyno waits
    /// for it; slower, it gets H28 and the dyno is free. `"0B"`: any pace will do, so long as it is never silent for
    /// `timeouts.idle`. Calls of gRPC, which may have nothing to say, are left alone.
    #[schemars(extend("default" = "240B", "x-floor" = "0B", "x-ceiling" = "1GiB"))]
    pub body_rate_min: Key<Size>,
    /// How much of a request body is read before a dyno is taken, so that a slow upload holds none. What `request_disk`
    /// has no room for either is streamed while the dyno is held.
    #[schemars(extend("default" = "64KiB", "x-floor" = "0B", "x-ceiling" = "1GiB"))]
    pub request_buffer: Key<Size>,
    /// How much of an answer is kept for a slow client, so that the dyno is free at its last byte. Of an answer that
    /// `response_disk` has no room for either, the dyno is held until the client has read the rest.
    #[schemars(extend("default" = "1MiB", "x-floor" = "0B", "x-ceiling" = "1GiB"))]
    pub response_spool: Key<Size>,
    /// How much more of a request body is read, and kept on disk (`server.spool_dir`), before a dyno is taken;
    /// `timeouts.body` is for that too. Bodies of gRPC are streamed from the first byte; so must be those of any other
    /// app that answers while it is still being asked: leave this at `"0B"` there, and `request_buffer` too.
    #[schemars(extend("default" = "0B", "x-floor" = "0B", "x-ceiling" = "1024GiB"))]
    pub request_disk: Key<Size>,
    /// How much more of an answer is kept on disk for a slow client. A client that keeps up gets each part as soon as
    /// the dyno has sent it, and nothing of it goes to disk.
    #[schemars(extend("default" = "0B", "x-floor" = "0B", "x-ceiling" = "1024GiB"))]
    pub response_disk: Key<Size>,
    /// How many bytes all bodies of the app together may have on disk. While there are as many, or the disk has no room
    /// or fails, it is as if there were no disk: slow clients hold dynos. It cannot be less than `request_disk` or
    /// `response_disk`; the default is the larger of them where that is more.
    #[schemars(extend("default" = "1GiB", "x-floor" = "0B", "x-ceiling" = "65536GiB"))]
    pub disk_max: Key<Size>,
    /// `true`: a dyno frees itself when its connection is closed, so a request whose client is gone is cut.
    /// `false`: it works on, so it counts as busy until its answer has ended (at most `timeouts.linger`).
    #[schemars(extend("default" = false))]
    pub close_frees_dyno: Key<bool>,
    /// The header of the PROXY protocol with which a connection to a dyno begins. It says whose request follows, so a
    /// connection carries one request, whatever `timeouts.keepalive` says.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Key<ProxyWord>,
    /// The addresses and networks whose requests are served, such as `["10.0.0.0/8"]`; empty: all. Others get 403
    /// (M11).
    #[schemars(extend("default" = [], "maxItems" = 1000, "x-unit" = "network"))]
    pub allow: Key<Vec<Text>>,
    /// Those whose requests are not served, even if `allow` has them: 403 (M11).
    #[schemars(extend("default" = [], "maxItems" = 1000, "x-unit" = "network"))]
    pub deny: Key<Vec<Text>>,
    /// How often the app may be asked.
    pub rate_limit: RateLimit,
    /// Pages for faults of the router, in place of its own; status and headers stay. Answers of dynos are never
    /// replaced, and neither are faults that come before the app is known (M01, M02, a head that cannot be read) nor
    /// those of gRPC.
    #[schemars(with = "Vec<ErrorPage>", extend("default" = [], "maxItems" = 100))]
    pub error_pages: Vec<Spanned<ErrorPage>>,
    /// Requests that are answered with another place, without a dyno; the first that matches counts. They are asked
    /// after `allow`, `deny` and `rate_limit`, and before `basic_auth`.
    #[schemars(with = "Vec<Redirect>", extend("default" = [], "maxItems" = 1000))]
    pub redirects: Vec<Spanned<Redirect>>,
    /// Who has to show a name and a password.
    pub basic_auth: BasicAuth,
    /// Clients that are led back to the dyno that served them.
    pub sticky: Sticky,
    /// The codings in which answers are compressed, the one that is liked best first: `"zstd"`, `"br"`, `"gzip"`;
    /// empty: none is. The client's weights (`Accept-Encoding`) come first. Never compressed are answers that are
    /// encoded already or say what their bytes are (`Content-Digest`), parts (206), `Cache-Control: no-transform` of
    /// either side, `text/event-stream`, gRPC, and what goes to HTTP/1.0. All that may be compressed get
    /// `Vary: Accept-Encoding`, those that are a weak `ETag`. What the dyno has sent is not held back. The encoders of
    /// all apps have 256 MiB (gzip 400 KiB each, zstd 1.5 MiB, br 2.5 MiB); what they have no room for goes as it is.
    /// Pages that show secrets beside what a request sent can be guessed by their length (BREACH): let those say
    /// `no-transform`.
    #[schemars(extend("default" = [], "maxItems" = 3))]
    pub compression: Key<Vec<Text>>,
    /// Answers shorter than this are not compressed, if their length is known.
    #[schemars(extend("default" = "1KiB", "x-floor" = "0B", "x-ceiling" = "1GiB"))]
    pub compression_min: Key<Size>,
    /// The media types that are compressed: `"text/html"`, all of a type (`"text/*"`), or all with an ending
    /// (`"+json"`).
    #[schemars(extend("default" = Kind::DEFAULT, "maxItems" = 100))]
    pub compression_types: Key<Vec<Text>>,
}

/// Which idle dyno serves the next request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The one that was busy last: warm caches, warm connections.
    #[default]
    Lifo,
    /// The one that has been idle for the longest: all get the same share.
    LeastRecentlyUsed,
    /// Any of them.
    Random,
}

/// What the dynos of an app speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, from the first byte (prior knowledge).
    H2c,
}

/// `queue = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// The longest a request waits for a dyno, all its waits together. One that is expected to wait longer is refused
    /// at the door, one that has waited this long is taken out of the line: H11.
    #[schemars(extend("default" = "5s", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub max_wait: Key<Period>,
    /// Requests that may wait for each dyno of the app; 0: what cannot be served at once is refused. Above: H11.
    #[schemars(extend("default" = 50, "minimum" = 0, "maximum" = 100_000))]
    pub max_requests_per_dyno: Key<u32>,
    /// Bytes of request bodies that may wait in the whole line. Above: H11.
    #[schemars(extend("default" = "64MiB", "x-floor" = "0B", "x-ceiling" = "64GiB"))]
    pub max_bytes: Key<Size>,
    /// Once the line has not been empty for this long, no request waits longer than `standing_wait`.
    #[schemars(extend("default" = "5s", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub standing_after: Key<Period>,
    /// The longest a request waits while the line stands, then H11. It cannot be more than `max_wait`; the default
    /// is `max_wait` where that is less.
    #[schemars(extend("default" = "2500ms", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub standing_wait: Key<Period>,
}

/// `timeouts = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The longest the connection to a dyno may take to open. Then the dyno is quarantined and another one gets
    /// the request, at last H19.
    #[schemars(extend("default" = "5s", "x-floor" = "1ms", "x-ceiling" = "5m"))]
    pub connect: Key<Period>,
    /// From the last byte of the request to the first byte of the answer. Then H12, and the dyno lingers.
    #[schemars(extend("default" = "30s", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub first_byte: Key<Period>,
    /// The longest silence once the answer has begun or while a body is sent; any byte begins it anew. Then H15
    /// if the dyno is silent, H28 if the client is.
    #[schemars(extend("default" = "55s", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub idle: Key<Period>,
    /// The longest silence on a connection that has changed its protocol (WebSocket); any byte in either direction
    /// begins it anew. Then both sides are closed, H15 (H28 if the client does not take what is there).
    #[schemars(extend("default" = "55s", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub stream_idle: Key<Period>,
    /// The longest the part of a body that is read before a dyno is taken (`request_buffer` and `request_disk`) may
    /// take to come, and as much longer as its bytes need at `body_rate_min`. Then H28.
    #[schemars(extend("default" = "5m", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub body: Key<Period>,
    /// How long a dyno counts as busy for a request that nobody waits for any more. Then its connection is
    /// closed and the dyno is free.
    #[schemars(extend("default" = "5m", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub linger: Key<Period>,
    /// The longest a request waits while every dyno of the app is still booting. Then H20.
    #[schemars(extend("default" = "75s", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub boot: Key<Period>,
    /// How long an idle connection to a dyno may be used again; after that the next request opens a new one.
    /// `"0s"` closes it after each request.
    #[schemars(extend("default" = "90s", "x-floor" = "0s", "x-ceiling" = "24h"))]
    pub keepalive: Key<Period>,
}

/// `retry = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How many dynos one request is offered to at the most, where offering it again is safe. Then H21 or H19.
    #[schemars(extend("default" = 10, "minimum" = 1, "maximum" = 100))]
    pub max_tries: Key<u32>,
    /// How long a dyno that did not accept a connection is left alone. Doubles with each failure in a row, up to
    /// `quarantine_max`. It cannot be more than that; the default is `quarantine_max` where that is less.
    #[schemars(extend("default" = "5s", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub quarantine: Key<Period>,
    /// The longest quarantine, after doubling.
    #[schemars(extend("default" = "75s", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub quarantine_max: Key<Period>,
}
