//! Compression of answers: for which requests and answers, and what the heads of those say.
//!
//! Whether an answer may be compressed at all depends on it alone; all that may say so with `Vary`, whatever becomes of
//! them. What then becomes of them depends on the request.

mod encoder;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, StatusCode, Version};
use router_core::ids::AppId;
use router_core::proxy::{Asking, Coder, weighted};

use self::encoder::Room;
use crate::config::Config;
use crate::config::compression::{Coding, Compression, is_stream};

/// An answer that has one of them says what its bytes are, and other bytes would make it a lie; or it is a part.
const BOUND: [HeaderName; 6] = [
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The apps whose answers are compressed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Compressors {
    apps: Arc<ArcSwap<HashMap<AppId, Arc<Compression>>>>,
    room: Room,
}

impl Compressors {
    pub(crate) fn new() -> Self {
        Self { apps: Arc::default(), room: Room::new() }
    }

    /// Puts the rules of a configuration in place, for requests from now on.
    pub(crate) fn set(&self, config: &Config) {
        let apps = config.apps.iter().filter(|app| !app.web.compression.codings.is_empty());
        let rules = apps.map(|app| (app.spec.id.clone(), Arc::new(app.web.compression.clone())));
        self.apps.store(Arc::new(rules.collect()));
    }

    /// Looks at the answer to a request of an app whose answers are compressed.
    pub(crate) fn coder(&self, asking: &Asking<'_>) -> Option<Coder> {
        let rules = Arc::clone(self.apps.load().get(asking.app)?);
        let coding = wanted(&rules.codings, asking);
        let is_head = asking.method == Method::HEAD;
        let room = self.room.clone();
        Some(Box::new(move |head, length| {
            let length = if is_head { content_length(&head.headers) } else { length };
            if !is_eligible(&rules, head, length) {
                return None;
            }
            vary(&mut head.headers);
            let coding = coding?;
            if head.status == StatusCode::NOT_MODIFIED {
                // The answer that its client has may be one that was compressed.
                weaken(&mut head.headers);
                return None;
            }
            // The answer to HEAD has the head of that to GET (RFC 9110 section 9.3.2).
            let encoder = if is_head { None } else { Some(room.encoder(coding)?) };
            dress(&mut head.headers, coding);
            encoder
        }))
    }
}

/// The coding that a request would have, if any.
fn wanted(codings: &[Coding], asking: &Asking<'_>) -> Option<Coding> {
    // To a client of HTTP/1.0 an answer of unknown length ends with the connection, so that one that broke off would
    // look whole.
    let able = asking.version >= Version::HTTP_11 && !says_no_transform(asking.headers);
    able.then(|| choose(codings, asking.headers))?
}

/// By `Accept-Encoding` (RFC 9110 section 12.5.3): the greatest weight, and among equals the app's order. A request
/// without it may be a client's that knows none.
fn choose(codings: &[Coding], headers: &HeaderMap) -> Option<Coding> {
    let weights: Vec<_> = weighted(headers, &header::ACCEPT_ENCODING).collect();
    let named = |name: &str| {
        let mut weights = weights.iter();
        weights.find(|(coding, _)| coding.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight)
    };
    let any = named("*");
    let weight = |coding: Coding| {
        // The same (RFC 9110 section 8.4.1.3).
        let old = || if coding == Coding::Gzip { named("x-gzip") } else { None };
        named(coding.as_str()).or_else(old).or(any).unwrap_or(0)
    };
    let plain = named("identity").or(any).unwrap_or(0);
    let best = codings.iter().rev().copied().max_by_key(|coding| weight(*coding))?;
    (weight(best) > 0 && weight(best) >= plain).then_some(best)
}

/// Whether an answer may be compressed, for whomever.
fn is_eligible(rules: &Compression, head: &Parts, length: Option<u64>) -> bool {
    let headers = &head.headers;
    let bare = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT];
    if bare.contains(&head.status)
        || BOUND.iter().any(|name| headers.contains_key(name))
        || says_no_transform(headers)
    {
        return false;
    }
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let known = |kind: &String| !is_stream(kind) && rules.kinds.iter().any(|kinds| kinds.has(kind));
    if head.status == StatusCode::NOT_MODIFIED {
        // It need not say what kind the answer is that it stands for, nor how long.
        return kind.as_ref().is_none_or(known);
    }
    kind.as_ref().is_some_and(known) && length.is_none_or(|length| length >= rules.min.max(1))
}

fn says_no_transform(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|word| word.trim().eq_ignore_ascii_case("no-transform"))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Says that the answer depends on what codings its client takes.
fn vary(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::VARY).into_iter();
    let words: Vec<_> =
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim).collect();
    if words.iter().any(|word| *word == "*" || word.eq_ignore_ascii_case("accept-encoding")) {
        return;
    }
    let words = words.into_iter().filter(|word| !word.is_empty()).chain(["Accept-Encoding"]);
    if let Ok(all) = HeaderValue::try_from(words.collect::<Vec<_>>().join(", ")) {
        headers.insert(header::VARY, all);
    }
}

/// The same resource in two codings is not the same byte for byte (RFC 9110 section 8.8.1). What is no entity tag is
/// taken away.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG).map(HeaderValue::as_bytes) else { return };
    if tag.starts_with(b"W/") {
        return;
    }
    match HeaderValue::from_bytes(&[b"W/", tag].concat()) {
        Ok(weak) if tag.starts_with(b"\"") => headers.insert(header::ETAG, weak),
        _ => headers.remove(header::ETAG),
    };
}

fn dress(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    weaken(headers);
}

#[cfg(test)]
mod tests;
