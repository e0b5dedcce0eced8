//! Answers to a CA's requests (http-01): what it finds below `/.well-known/acme-challenge/` while an order waits. Paths
//! that no order waits for are the app's, as any other.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use router_core::proxy::Known;
use router_core::sync::Mutex;

/// Where a CA looks (RFC 8555 section 8.3).
const PLACE: &str = "/.well-known/acme-challenge/";

/// The answers that are outstanding, by their tokens. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<HashMap<String, Bytes>>>);

impl Tokens {
    pub(super) fn put(&self, token: &str, answer: &str) {
        self.0.lock().insert(token.to_owned(), Bytes::copy_from_slice(answer.as_bytes()));
    }

    pub(super) fn take(&self, token: &str) {
        self.0.lock().remove(token);
    }

    /// What requests are answered with.
    pub(crate) fn known(&self) -> Known {
        let tokens = self.clone();
        Arc::new(move |path| {
            let token = path.strip_prefix(PLACE)?;
            tokens.0.lock().get(token).cloned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_outstanding_is_answered() {
        let tokens = Tokens::default();
        let known = tokens.known();
        tokens.put("abc", "abc.thumb");
        assert_eq!(known("/.well-known/acme-challenge/abc").as_deref(), Some(&b"abc.thumb"[..]));
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/x", "/abc", "/"] {
            assert_eq!(known(path), None, "{path}");
        }
        tokens.take("abc");
        assert_eq!(known("/.well-known/acme-challenge/abc"), None);
    }
}
