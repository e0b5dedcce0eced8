//! How dynos are probed, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::Key;
use crate::config::units::Period;

/// `health = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// How a dyno is probed that is idle and has answered no request for `interval`. A probe is one of the dyno's
    /// requests: it never overlaps with another, and a busy dyno is not probed.
    #[schemars(extend("default" = "tcp"))]
    pub probe: Key<ProbeWord>,
    /// With `probe = "http"`: what is asked for, with a query if there is one.
    #[schemars(extend("default" = "/"))]
    pub path: Key<String>,
    /// With `probe = "http"`: what the Host header says. Empty: the app's first host that has no `*`, or else the
    /// dyno's address.
    #[schemars(extend("default" = ""))]
    pub host: Key<String>,
    /// With `probe = "http"`: the statuses of a good answer, one or a range.
    #[schemars(extend("default" = "200-399"))]
    pub status: Key<String>,
    /// How often the dynos are looked at.
    #[schemars(extend("default" = "10s", "x-floor" = "100ms", "x-ceiling" = "1h"))]
    pub interval: Key<Period>,
    /// The longest a probe may take. It cannot be more than `interval`; the default is `interval` where that is less.
    #[schemars(extend("default" = "5s", "x-floor" = "10ms", "x-ceiling" = "5m"))]
    pub timeout: Key<Period>,
    /// Good probes in a row after which a dyno gets requests: one that was taken out, or a new one of a deploy.
    #[schemars(extend("default" = 1, "minimum" = 1, "maximum" = 10))]
    pub rise: Key<u32>,
    /// Bad probes in a row after which a dyno gets no more requests. A good answer to a request ends the row.
    #[schemars(extend("default" = 3, "minimum" = 1, "maximum" = 100))]
    pub fall: Key<u32>,
    /// Bad answers in a row (5xx, or none) after which a dyno that gives them faster than its app answers well goes
    /// into quarantine (`retry.quarantine`): it would draw all requests. 0: never.
    #[schemars(extend("default" = 5, "minimum" = 0, "maximum" = 1000))]
    pub eject_after: Key<u32>,
    /// How many of its dynos an app may lose to bad answers and bad probes at once, in percent. Above it they go on
    /// serving: an app whose every dyno is ill answers as well as it can. 0: none is taken out.
    #[schemars(extend("default" = 50, "minimum" = 0, "maximum" = 100))]
    pub eject_max: Key<u32>,
}

/// How a dyno is probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbeWord {
    /// By a connection: one that is open already is a good answer, and nothing is sent.
    #[default]
    Tcp,
    /// By a GET over the dyno's connection.
    Http,
    /// Not at all.
    None,
}
