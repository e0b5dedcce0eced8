//! Clients that come back to the dyno that served them: a cookie says which one it was.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::ids::{Address, AppId};
use crate::proxy::forward::Reply;
use crate::proxy::guard::Asking;
use crate::proxy::record::Open;
use crate::wish::Wish;

/// Who binds clients to dynos. Neither method may block.
pub trait Sticky: Send + Sync {
    /// The dyno that a request would rather have, by what it carries. It is asked once a request, before it takes a
    /// place in line.
    fn wish(&self, asking: &Asking<'_>) -> Option<Wish>;

    /// The cookie with which a client names that dyno next time: the value of `Set-Cookie`. `None`: the app binds
    /// nobody. It is asked for the answer of a dyno other than that of the wish.
    fn bind(&self, app: &AppId, dyno: Address, secure: bool) -> Option<HeaderValue>;
}

/// Whether a request with these headers, as its dyno gets them, came over an encrypted connection.
pub(crate) fn is_secure(headers: &HeaderMap) -> bool {
    const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    headers.get(PROTO).is_some_and(|proto| proto == "https")
}

/// Binds the client of an answer to the dyno that gave it, if it is not.
pub(crate) fn bind(
    sticky: Option<&Arc<dyn Sticky>>,
    app: &AppId,
    wish: Option<Wish>,
    secure: bool,
    (reply, open): (&mut Reply, &mut Open),
) {
    let Some(sticky) = sticky else { return };
    let mut served = None;
    open.note(|record| served = record.dyno.as_ref().map(|dyno| dyno.address));
    let other = served.filter(|dyno| wish.is_none_or(|wish| wish.dyno != *dyno));
    if let Some(cookie) = other.and_then(|dyno| sticky.bind(app, dyno, secure)) {
        reply.head.headers.append(SET_COOKIE, cookie);
    }
}
