//! The keys about what an app shows the world, as written: error pages, redirects, passwords, cookies that name dynos.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::key::{Key, Text};
use crate::config::units::Period;

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

/// `basic_auth = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BasicAuth {
    /// Who may ask, each `NAME:HASH` as `routerd password` or `htpasswd -nB` prints it (bcrypt, cost 4 to 14; of a
    /// password at most 72 bytes). Others get 401 (M14). WebSockets are requests too, health probes are not. The dyno
    /// gets the request's `Authorization` as it is. A password that was right is remembered in memory until the users
    /// change. From one address 20 others are tried at once and then 10 a minute, and only so many checks run and
    /// wait: else 429 (M10). In an app, `users = []` without `users_file` takes away what `[defaults]` ask for.
    #[schemars(extend("default" = [], "maxItems" = 1000))]
    pub users: Key<Vec<Text>>,
    /// A file of such lines, of at most 1 MiB; empty lines and those that begin with `#` do not count. It is read at
    /// each reload, even if this file has not changed.
    #[schemars(extend("default" = "", "x-unit" = "file"))]
    pub users_file: Key<String>,
    /// What the client is told that the password is for; empty: the app's name.
    #[schemars(extend("default" = ""))]
    pub realm: Key<String>,
}

/// `sticky = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sticky {
    /// The name of a cookie that leads a client back to the dyno that served it; empty: none is set. It names the
    /// dyno in encrypted form, for this app alone, until the browser is closed (`Path=/; HttpOnly; SameSite=Lax`, and
    /// `Secure` if the client came by TLS). Two apps on one host need two names. It is no promise: see `wait`.
    #[schemars(extend("default" = ""))]
    pub cookie: Key<String>,
    /// The longest a request waits for its dyno alone. Until then it is passed over for other dynos, which serve
    /// whoever waits for any; its own dyno goes to who came first of those who would take it. After that, and at once
    /// if its dyno does not serve (any more), it has its place by arrival and any dyno, and the client gets a cookie
    /// for that one. `"0s"`: only if it is idle.
    #[schemars(extend("default" = "200ms", "x-floor" = "0s", "x-ceiling" = "1m"))]
    pub wait: Key<Period>,
    /// The file with the secret that the cookie's key is made of, of 16 bytes at least, for several routers and over
    /// restarts; the newline at its end does not count. Empty: it is made of chance at each start, so that clients
    /// lose their dynos then. It is read at each reload, even if this file has not changed.
    #[schemars(extend("default" = "", "x-unit" = "file"))]
    pub secret_file: Key<String>,
}
