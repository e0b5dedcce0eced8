//! Every metric of the daemon: name, kind, unit, labels and meaning in one table, which also makes `docs/metrics.md`.
//!
//! Counters and histograms of requests are fed as each request ends ([`Meters::count`]). What describes a state
//! (lines, dynos, connections, the process) is read when somebody asks ([`Meters::render`]), so an app that is gone
//! from the router is gone from these metrics at once. Labels take their values from the configuration and from our
//! own enums, never from a request: strangers cannot add a series.

mod meters;
mod process;
mod scrape;
mod total;

pub use meters::Meters;
pub use scrape::Scrape;
pub use total::Total;

/// Upper bounds of the buckets of every histogram, in seconds.
pub const BUCKETS: [f64; 17] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process or of what its labels name.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted in buckets ([`BUCKETS`]).
    Histogram,
}

impl Kind {
    /// The word for it in the text that Prometheus reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, with its unit at the end as Prometheus asks.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What one of it is.
    pub unit: &'static str,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub meaning: &'static str,
}

/// Defines each metric as a constant, and the table of all of them.
macro_rules! metrics_table {
    ($($id:ident = $name:literal, $kind:ident, $unit:literal, $labels:expr, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $id: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: &$labels, meaning: $meaning };
        )*

        /// Every metric, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics_table! {
    REQUESTS = "routerd_requests_total", Counter, "requests", ["app", "status", "fault"],
        "Requests that are over, by the status the client got and the code of the fault, empty when all was well.";
    QUEUE_WAIT = "routerd_queue_wait_seconds", Histogram, "seconds", ["app"],
        "Time in line, of every request that had an app, refused ones included.";
    SERVICE = "routerd_service_seconds", Histogram, "seconds", ["app"],
        "From the lease to the last byte from the dyno, of every request that was given to a dyno.";
    REQUEST = "routerd_request_seconds", Histogram, "seconds", ["app"],
        "From a request's head to its end, or to its 101 if its connection changes the protocol, of every request.";
    RESPONSE_BYTES = "routerd_response_bytes_total", Counter, "bytes", ["app"],
        "Body bytes that went to clients.";
    RETRIES = "routerd_retries_total", Counter, "tries", ["app"],
        "Times a request was offered to a further dyno because one did not take it.";
    STICKY = "routerd_sticky_total", Counter, "requests", ["app", "result"],
        "Requests that named a dyno by their cookie and got one: hit, or spill if it was another one.";
    WAITING_REQUESTS = "routerd_waiting_requests", Gauge, "requests", ["app"],
        "Requests in line.";
    WAITING_BYTES = "routerd_waiting_bytes", Gauge, "bytes", ["app"],
        "Bytes of request bodies in line.";
    OLDEST_WAIT = "routerd_oldest_wait_seconds", Gauge, "seconds", ["app"],
        "How long the first in line has waited.";
    DYNOS = "routerd_dynos", Gauge, "dynos", ["app", "state"],
        "Dynos by what they do.";
    UPGRADED = "routerd_upgraded_connections", Gauge, "connections", ["app"],
        "Connections to dynos that have changed their protocol (WebSocket), those beside the dynos' slots included.";
    DISPATCHED = "routerd_dispatched_total", Counter, "requests", ["app"],
        "Requests that got a dyno, since the app was added.";
    REFUSED = "routerd_refused_total", Counter, "requests", ["app"],
        "Requests refused at the door or taken out of the line, since the app was added.";
    LEFT = "routerd_left_total", Counter, "requests", ["app"],
        "Requests that left the line because their client was gone, since the app was added.";
    EJECTED = "routerd_ejected_total", Counter, "dynos", ["app"],
        "Times a dyno was put into quarantine because it failed fast, since the app was added.";
    PROBES = "routerd_probes_total", Counter, "probes", ["app", "result"],
        "Probes of dynos that serve, by what they found: good or bad.";
    APP_INFO = "routerd_app_info", Gauge, "1", ["app", "release"],
        "Always 1: names the release that the app's dynos run.";
    CONNECTIONS = "routerd_connections", Gauge, "connections", [],
        "Open connections of clients.";
    CONNECTIONS_RESTING = "routerd_connections_resting", Gauge, "connections", [],
        "Those of them that have waited for a request for some seconds, and keep no buffers (HTTP/1.1 only).";
    HTTP2_TROUBLE = "routerd_http2_trouble_total", Counter, "troubles", ["kind"],
        "Connections and streams of HTTP/2 that were ended because of what the client did.";
    TLS_HANDSHAKES = "routerd_tls_handshakes_total", Counter, "handshakes", ["result"],
        "TLS handshakes with clients, by what became of them.";
    CERTIFICATE_EXPIRY = "routerd_certificate_expiry_timestamp_seconds", Gauge, "seconds", ["name", "cert"],
        "When a certificate that is served expires, in seconds since 1970.";
    CERTIFICATE_REFUSED = "routerd_certificate_refused", Gauge, "1", ["name", "cert"],
        "1 if the files of a certificate hold what cannot be served, so that the one before still is; else 0.";
    ACME_ORDERS = "routerd_acme_orders_total", Counter, "orders", ["result"],
        "Orders of certificates, by what became of them.";
    ACME_FAILURES = "routerd_acme_failures", Gauge, "orders", ["name"],
        "How many orders for a host have failed since its last certificate.";
    ACME_NEXT = "routerd_acme_next_order_timestamp_seconds", Gauge, "seconds", ["name"],
        "When the next order for a host is due, in seconds since 1970; 0: once a client asks for the host.";
    CONNECTIONS_REFUSED = "routerd_connections_refused_total", Counter, "connections", ["reason"],
        "Connections of clients that were turned away before their first request.";
    BUFFERED_BYTES = "routerd_buffered_bytes", Gauge, "bytes", [],
        "Bytes of bodies that are held for requests and answers; always 0 without `server.memory_max`.";
    DISK_BYTES = "routerd_disk_bytes", Gauge, "bytes", [],
        "Bytes of bodies that are on disk, of requests and answers.";
    DISK_FILES = "routerd_disk_files", Gauge, "files", [],
        "Files without a name that bodies are in, one a body.";
    DISK_FALLBACKS = "routerd_disk_fallbacks_total", Counter, "bodies", ["reason"],
        "Bodies that were not kept on disk, or not all of them, though they might have been: slow clients held dynos.";
    LOG_LINES_LOST = "routerd_log_lines_lost_total", Counter, "lines", [],
        "Lines of the access log that were lost because the output could not keep up or failed.";
    LOG_WRITE_ERRORS = "routerd_log_write_errors_total", Counter, "errors", [],
        "Writes of the access log that failed.";
    RELOADS = "routerd_config_reloads_total", Counter, "reloads", ["result"],
        "Reloads of the configuration, by whether they put one in place (done) or changed nothing (failed).";
    CONFIG_LOADED = "routerd_config_loaded_timestamp_seconds", Gauge, "seconds", [],
        "When the configuration that is in place was loaded, in seconds since 1970.";
    WEBHOOKS = "routerd_webhook_events_total", Counter, "events", ["result"],
        "Events for webhooks: delivered, failed (given up), or dropped (never tried to the end).";
    ADMIN_DENIED = "routerd_admin_denied_total", Counter, "requests", ["reason"],
        "Requests to the admin listener that were turned away at its door.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter, "seconds", [],
        "CPU time of the process, user and system.";
    PROCESS_RSS = "process_resident_memory_bytes", Gauge, "bytes", [],
        "Memory of the process that is in RAM.";
    BUILD_INFO = "routerd_build_info", Gauge, "1", ["version"],
        "Always 1: names the version of the daemon.";
}

/// The table as a page: what `docs/metrics.md` must say.
pub fn documentation() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` on the admin address answers in the text format of Prometheus. This page is made from the\n\
         table in `src/metrics.rs` and held in step by a test; `UPDATE_DOCS=1 cargo test -p routerd metrics` writes\n\
         it anew.\n\n\
         | name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            metric.unit,
            labels.join(", "),
            metric.meaning
        ));
    }
    let bounds: Vec<String> = BUCKETS.iter().map(f64::to_string).collect();
    page.push_str(&format!("\nBuckets of the histograms, in seconds: {}.\n", bounds.join(", ")));
    page.push_str(
        "\n## Labels\n\n\
         - `app`: the app's name; empty for requests whose host no app has.\n\
         - `status`: the status the client got; 499 if the client was gone; empty if there was none to give;\n  \
           `other` for what a dyno made up outside 100 to 599.\n\
         - `result`: done or failed; of webhooks delivered, failed or dropped; of probes good or bad; of TLS\n  \
           handshakes full or resumed, challenge (a CA has got its answer), or why there is no connection: gone,\n  \
           timeout, crowded, plain_http, unknown_name, client_certificate, incompatible, refused (by the client),\n  \
           protocol; of orders of certificates issued, or why there is none: unreachable (the CA), refused,\n  \
           rate_limited, unproven (the CA has not found its answer here), timeout, local.\n\
         - `name`, `cert`: the first name in a certificate, and its file; of orders, the host.\n\
         - `reason`: of bodies on disk app_full (`disk_max` of the app), server_full (`server.disk_max`), files\n  \
           (descriptors), no_space, error;\n  \
           of the admin listener no_token, wrong_token, expired, browser; of connections max_connections,\n  \
           max_connections_per_ip, descriptors, proxy_header (missing, wrong, or from somebody who is not trusted).\n\
         - `kind`: rapid_reset (too many requests broken off), control_flood (frames that carry nothing),\n  \
           stalled (an answer that the client did not take), silent (no answer to a PING), bad_preface, or the\n  \
           code of the GOAWAY that the connection got, such as protocol_error or enhance_your_calm.\n\
         - `fault`: the code in `X-Router-Fault`; see `faults.md`.\n\
         - `state`: staged, booting, crashed, idle, busy, lingering, quarantined, unhealthy, draining.\n\n\
         An app that is taken away vanishes from everything that describes a state, and from the counters marked\n\
         \"since the app was added\". The counters and histograms of its past requests and probes stay\n\
         until the daemon ends.\n",
    );
    page
}

#[cfg(test)]
mod tests;
