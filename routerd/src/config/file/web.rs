//! The keys about what an app shows the world, as written: error pages and redirects.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::{Key, Text};

/// One of `error_pages`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ErrorPage {
    /// For which faults: a code such as `"H80"`, a status such as `"503"`, a class (`"4xx"`, `"5xx"`) or `"*"`.
    /// Needed. A code wins over a status, a status over a class, a class over `"*"`, and among equals the first one.
    #[schemars(extend("minItems" = 1, "maxItems" = 100))]
    pub on: Key<Vec<Text>>,
    /// The page for clients that would rather have HTML (browsers): a file in UTF-8 of at most 1 MiB. It is read at
    /// each reload, even if this file has not changed. In it `{{code}}`, `{{status}}`, `{{desc}}` (the fault in
    /// words) and `{{request_id}}` stand for what happened. Without it they get the router's own page, or that of a
    /// less particular entry.
    #[schemars(extend("x-unit" = "file"))]
    pub html: Key<String>,
    /// The same for all others, as JSON.
    #[schemars(extend("x-unit" = "file"))]
    pub json: Key<String>,
}

/// One of `redirects`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// What is sent elsewhere: a path (`"/old"`), all below it (`"/old/*"`), or either for one host of the app
    /// (`"www.shop.test/*"`; `"www.shop.test"` is the same). Paths are compared as clients write them, byte by byte.
    /// Needed.
    pub from: Key<String>,
    /// Where to: a path on the same host, or a URL with `http://` or `https://`. A `*` at its end stands for what the
    /// `*` of `from` stood for. The query comes along. Needed.
    pub to: Key<String>,
    /// 301, 302, 303, 307 or 308. With 307 and 308 clients repeat the method and the body; 301 and 308 they may
    /// remember for ever.
    #[schemars(extend("default" = 308, "minimum" = 301, "maximum" = 308))]
    pub status: Key<u16>,
}
