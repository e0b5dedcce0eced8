//! Answers of the admin interface: JSON, or a refusal with its kind and its reason.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::control::{Refusal, RefusalKind};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// What went wrong, as JSON.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct Wrong {
    /// Why it was refused.
    error: Refusal,
}

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => answer(status, JSON, text + "\n"),
        Err(_) => broken(),
    }
}

/// A refusal, with its status.
pub(super) fn refused(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let error = Refusal::new(refusal.kind, refusal.text.as_str());
    let text = serde_json::to_string(&Wrong { error }).unwrap_or_default();
    answer(status, JSON, text + "\n")
}

/// A fault of ours.
pub(super) fn broken() -> Response<Body> {
    refused(&Refusal::new(RefusalKind::Internal, "the answer could not be made"))
}

/// An answer that nobody may keep.
pub(super) fn answer(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
