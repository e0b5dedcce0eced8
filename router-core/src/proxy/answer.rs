//! A fault as an HTTP answer: JSON or HTML as Accept asks, `X-Router-Fault`, and `Retry-After` where it helps.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::fault::{Fault, Retry};
use crate::ids::AppId;
use crate::proxy::body::Body;
use crate::proxy::guard::Refusal;
use crate::proxy::record::Open;
use crate::proxy::weights::weighted;
use crate::router::AppRef;

/// Asked for an app's own text for a fault, in parts; `None`: there is none. It must not block.
pub type Pages = Arc<dyn Fn(&Failing<'_>) -> Option<Vec<Bytes>> + Send + Sync>;

/// A request that was not served well.
#[derive(Clone, Copy, Debug)]
pub struct Failing<'a> {
    /// The app it was for.
    pub app: &'a AppId,
    /// What happened.
    pub fault: Fault,
    /// What its client would rather have. The text has to be of that kind.
    pub taste: Taste,
    /// Its id: letters, digits and `+/=-`, so it means nothing in either kind of text.
    pub request_id: &'a str,
}

/// The kind of text in which a client is told of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taste {
    /// For people, in UTF-8.
    Html,
    /// For programs.
    Json,
}

/// Body and head for a fault. `retry_after` in seconds goes with faults that may come again later.
///
/// ```
/// use router_core::fault::{Backlog, Fault};
/// use router_core::proxy::fault_page;
///
/// let page = fault_page(Fault::Backlog(Backlog::Requests), &Default::default(), "an-id", 3);
/// assert_eq!(page.status(), 503);
/// assert_eq!(page.headers()["x-router-fault"], "H11");
/// assert_eq!(page.headers()["retry-after"], "3");
/// ```
pub fn fault_page(fault: Fault, request: &HeaderMap, request_id: &str, retry_after: u64) -> Response<String> {
    let taste = Taste::of(request);
    head(fault, taste, retry_after).map(|()| text(fault, taste, request_id, retry_after))
}

/// What there is to tell of a request that was not served well, beside its fault.
pub(crate) struct Told<'a> {
    pub(crate) app: Option<&'a AppRef>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) pages: Option<&'a Pages>,
}

/// A fault as its client is told of it: with the app's own text, if it has one.
pub(crate) fn page(
    fault: Fault,
    Told { app, refusal, pages }: Told<'_>,
    (accept, request_id): (Option<HeaderValue>, &HeaderValue),
    mut open: Open,
) -> Response<Body> {
    open.fault(fault);
    let ours = || app.map_or(1, AppRef::retry_after);
    let retry_after = refusal.as_ref().map_or_else(ours, Refusal::seconds);
    let wanted = HeaderMap::from_iter(accept.map(|accept| (header::ACCEPT, accept)));
    let (taste, request_id) = (Taste::of(&wanted), plain(request_id.to_str().unwrap_or_default()));
    let own = app
        .zip(pages)
        .and_then(|(app, pages)| pages(&Failing { app: app.id(), fault, taste, request_id: &request_id }));
    let text = own.unwrap_or_else(|| vec![text(fault, taste, &request_id, retry_after).into()]);
    let mut page = head(fault, taste, retry_after).map(|()| Body::parts(text, open));
    let challenge = refusal.and_then(|refusal| refusal.challenge);
    page.headers_mut().extend(challenge.map(|value| (header::WWW_AUTHENTICATE, value)));
    page
}

/// The text of a fault, unless the app has its own.
pub(crate) fn text(fault: Fault, taste: Taste, request_id: &str, retry_after: u64) -> String {
    match taste {
        Taste::Html => as_html(fault, request_id),
        Taste::Json => as_json(fault, request_id, retry_after),
    }
}

/// What stands above the text.
pub(crate) fn head(fault: Fault, taste: Taste, retry_after: u64) -> Response<()> {
    let mut page = Response::new(());
    *page.status_mut() = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = page.headers_mut();
    headers.insert("x-router-fault", HeaderValue::from_static(fault.code()));
    let kind = match taste {
        Taste::Html => "text/html; charset=utf-8",
        Taste::Json => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if fault.retry() == Retry::Later {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    }
    page
}

impl Taste {
    /// By `Accept` (RFC 9110 section 12.5.1): the kind with the greater weight; of two with the same weight the one
    /// that is named first. Whoever names neither is a program: browsers name HTML.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        // For each kind: how closely it is named, with which weight, and as the how manieth.
        let (mut html, mut json) = ((0_u8, 0_u16, usize::MAX), (0, 0, usize::MAX));
        for (at, (name, weight)) in weighted(request, &header::ACCEPT).enumerate() {
            let [to_html, to_json] = closeness(name);
            if to_html > html.0 {
                html = (to_html, weight, at);
            }
            if to_json > json.0 {
                json = (to_json, weight, at);
            }
        }
        // What is allowed by `*/*` alone is not named.
        let place = |(close, _, at): (u8, u16, usize)| if close > 1 { at } else { usize::MAX };
        match html.1.cmp(&json.1) {
            std::cmp::Ordering::Greater => Self::Html,
            std::cmp::Ordering::Less => Self::Json,
            std::cmp::Ordering::Equal if place(html) < place(json) => Self::Html,
            std::cmp::Ordering::Equal => Self::Json,
        }
    }
}

/// How closely a media range names HTML and JSON: 3 itself, 2 its type, 1 anything, 0 not at all.
fn closeness(range: &str) -> [u8; 2] {
    let is = |name: &str| range.eq_ignore_ascii_case(name);
    let suffix = range.len().checked_sub("+json".len()).and_then(|at| range.get(at..));
    if is("text/html") || is("application/xhtml+xml") {
        [3, 0]
    } else if is("application/json") || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json")) {
        [0, 3]
    } else if is("text/*") {
        [2, 0]
    } else if is("application/*") {
        [0, 2]
    } else {
        [u8::from(is("*/*")); 2]
    }
}

fn as_json(fault: Fault, request_id: &str, retry_after: u64) -> String {
    let mut body =
        format!(r#"{{"fault":"{}","status":{},"desc":"{}""#, fault.code(), fault.status(), fault.desc());
    if let Some(cause) = fault.cause() {
        body.push_str(&format!(r#","cause":"{cause}""#));
    }
    if fault.retry() == Retry::Later {
        body.push_str(&format!(r#","retry_after":{retry_after}"#));
    }
    body.push_str(&format!(r#","request_id":"{}"}}"#, plain(request_id)));
    body.push('\n');
    body
}

fn as_html(fault: Fault, request_id: &str) -> String {
    let (code, desc) = (fault.code(), fault.to_string());
    let id = plain(request_id);
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{desc}</title>\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <body style=\"font-family:system-ui;max-width:36em;margin:12vh auto;padding:0 1em\">\n\
         <h1>{desc}</h1>\n<p>The request could not be served. Fault <b>{code}</b>, request <code>{id}</code>.</p>\n\
         </body></html>\n"
    )
}

/// An id that cannot break out of JSON or HTML; those we pass on have no other characters.
fn plain(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::BadRequest;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn browsers_get_html_and_programs_json() {
        for (value, json) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("application/json", true),
            ("application/json, text/html", true),
            ("*/*", true),
            ("application/problem+json", true),
            ("text/html;q=0.5, application/json;q=0.4", false),
            ("text/html;q=0.4, application/json;q=0.5", true),
            ("application/json;q=0, */*", false),
            ("text/html;q=0, */*", true),
            ("TEXT/HTML, */*;q=0.1", false),
            ("text/*, application/json;q=0.9", false),
            ("application/*, text/html", true),
            ("*/*, text/html", false),
            ("image/png", true),
            ("", true),
        ] {
            assert_eq!(Taste::of(&accept(value)) == Taste::Json, json, "{value}");
        }
        assert_eq!(Taste::of(&HeaderMap::new()), Taste::Json);
    }

    #[test]
    fn only_what_may_come_again_says_when() {
        let page = fault_page(Fault::BadRequest(BadRequest::Header), &accept("text/html"), "<script>", 9);
        assert!(page.headers().get("retry-after").is_none());
        assert!(!page.body().contains("<script>"));
        let page = fault_page(Fault::NoDynos, &HeaderMap::new(), "id", 9);
        assert_eq!(page.headers()["retry-after"], "9");
    }
}
