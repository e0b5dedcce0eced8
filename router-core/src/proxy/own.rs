//! Requests that are answered without an app: whoever stands around the router has a text of its own for them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response};
use http_body::Frame;

use crate::fault::Fault;
use crate::proxy::body::Body;
use crate::proxy::inspect::Target;
use crate::proxy::record::Open;
use crate::proxy::request::Proxy;

/// Asked about the path of each GET before its app is looked for: a text is the answer (200). It must not block.
pub type Known = Arc<dyn Fn(&str) -> Option<Bytes> + Send + Sync>;

/// An answer without an app.
pub(crate) struct Own(Bytes);

/// The answer to a request, if there is one.
pub(crate) fn answer(known: Option<&Known>, method: &Method, target: Result<&Target, &Fault>) -> Option<Own> {
    let known = known.filter(|_| method == Method::GET)?;
    known(target.ok()?.path.path()).map(Own)
}

impl Own {
    pub(crate) fn told(self, mut open: Open) -> Response<Body> {
        open.note(|record| record.status = 200);
        let mut response = Response::new(Body::whole(VecDeque::from([Frame::data(self.0)]), open));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl Proxy {
    /// What is answered without an app.
    #[must_use]
    pub fn with_own(mut self, known: Known) -> Self {
        self.own = Some(known);
        self
    }
}
