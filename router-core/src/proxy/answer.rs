//! A fault as an HTTP answer: JSON or HTML as Accept asks, `X-Router-Fault`, and `Retry-After` where it helps.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use crate::fault::{Fault, Retry};

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
    let json = wants_json(request);
    let body = if json { as_json(fault, request_id, retry_after) } else { as_html(fault, request_id) };
    let mut page = Response::new(body);
    *page.status_mut() = StatusCode::from_u16(fault.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = page.headers_mut();
    headers.insert("x-router-fault", HeaderValue::from_static(fault.code()));
    let kind = if json { "application/json" } else { "text/html; charset=utf-8" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if fault.retry() == Retry::Later {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
    }
    page
}

/// JSON unless the client asks for HTML before it: browsers do, programs rarely say anything.
fn wants_json(request: &HeaderMap) -> bool {
    let accept = request.get_all(header::ACCEPT);
    let text: Vec<_> = accept.iter().filter_map(|value| value.to_str().ok()).collect();
    let text = text.join(",").to_ascii_lowercase();
    let position = |kind: &str| text.find(kind).unwrap_or(usize::MAX);
    position("text/html").min(position("text/*")) >= position("json").min(text.len())
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
        ] {
            assert_eq!(wants_json(&accept(value)), json, "{value}");
        }
        assert!(wants_json(&HeaderMap::new()));
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
