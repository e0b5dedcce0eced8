//! The tables about changes as written: where they are recorded, kept and told.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::{Key, Text};
use crate::config::units::Size;

/// `[audit]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The file, one JSON object a line; `docs/audit.md` says what is in it and how to verify it. One process
    /// writes it. A relative path begins at the folder of the configuration file. A reload does not move it: another
    /// file waits for the next start.
    #[schemars(extend("default" = "routerd-audit.jsonl"))]
    pub file: Key<String>,
    /// A file that would become longer than this is renamed to `NAME.1`, what was `NAME.1` to `NAME.2` and so on, and a
    /// new one begins.
    #[schemars(extend("default" = "64MiB", "x-floor" = "64KiB", "x-ceiling" = "16GiB"))]
    pub max_size: Key<Size>,
    /// Older files that are kept beside the present one. Of more than these the oldest is removed.
    #[schemars(extend("default" = 10, "minimum" = 1, "maximum" = 1000))]
    pub files: Key<u32>,
}

/// `[state]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The file. It is replaced whole at each change, so its folder must be writable. A relative path begins at the
    /// folder of the configuration file. A reload does not move it: another file waits for the next start.
    #[schemars(extend("default" = "routerd-state.json"))]
    pub file: Key<String>,
}

/// `[[webhooks]]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// Where events are sent to with POST, `http://` or `https://`. Needed. Of the path and the query nothing is ever
    /// printed: with some services they are the secret. Redirects are not followed.
    pub url: Key<String>,
    /// The file with the secret that signs what is sent; the newline at its end does not count. A relative path begins
    /// at the folder of the configuration file. Without a secret nothing is signed.
    pub secret_file: Key<String>,
    /// The variable of the environment with the secret, instead of a file.
    pub secret_env: Key<String>,
    /// Which events are told: a name, the beginning of names as in `"deploy.*"`, or `"*"` for all. `docs/webhooks.md`
    /// lists them.
    #[schemars(extend("default" = ["*"], "minItems" = 1, "maxItems" = 64))]
    pub events: Key<Vec<Text>>,
}
