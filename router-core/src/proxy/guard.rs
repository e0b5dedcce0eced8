//! Asked about each request before it takes a place in line: whether it goes on, is refused, or has its answer
//! already.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, Version};

use crate::fault::Fault;
use crate::ids::AppId;
use crate::proxy::forward::{Reply, Rest};
use crate::proxy::https::bare;

/// Asked about each request before it takes a place in line or its body is read. It must not block.
pub type Guard = Arc<dyn Fn(&Asking<'_>) -> Verdict + Send + Sync>;

/// A request before a [`Guard`].
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The app it is for.
    pub app: &'a AppId,
    /// Its client's address.
    pub address: IpAddr,
    /// Its host as the client wrote it, perhaps with a port.
    pub host: &'a str,
    /// Its path and query.
    pub path: &'a PathAndQuery,
    /// Its method.
    pub method: &'a Method,
    /// The version of HTTP that its client speaks.
    pub version: Version,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl Asking<'_> {
    /// Its host in one form: lower case, without a port or a dot at the end.
    pub fn bare_host(&self) -> String {
        bare(self.host)
    }
}

/// What a [`Guard`] says.
pub enum Verdict {
    /// The request goes on.
    Pass,
    /// It may not go on.
    Refuse(Refusal),
    /// It is answered with this head and no body, without a dyno.
    Answer(Box<Response<()>>),
    /// It takes longer to say. Dropped if the client leaves.
    Later(Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>),
}

/// A request may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub fault: Fault,
    /// When it may come again, for faults that are over some time. Told in whole seconds, at least one.
    pub retry_after: Duration,
    /// What the client is to show: the value of `WWW-Authenticate`.
    pub challenge: Option<HeaderValue>,
}

impl Verdict {
    /// The answer, if there is one already.
    pub(crate) async fn reply(self) -> Result<Option<Reply>, Refusal> {
        match self {
            Self::Pass => Ok(None),
            Self::Refuse(refusal) => Err(refusal),
            Self::Later(later) => later.await.map(|()| None),
            Self::Answer(answer) => {
                let (head, ()) = answer.into_parts();
                Ok(Some(Reply { head, rest: Rest::Whole(VecDeque::new()) }))
            }
        }
    }
}

impl Refusal {
    /// For that fault, with nothing else to say.
    pub fn new(fault: Fault) -> Self {
        Self { fault, retry_after: Duration::ZERO, challenge: None }
    }

    /// `Retry-After`, in seconds.
    pub(crate) fn seconds(&self) -> u64 {
        let seconds = self.retry_after.as_secs() + u64::from(self.retry_after.subsec_nanos() > 0);
        seconds.max(1)
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("Pass"),
            Self::Refuse(refusal) => f.debug_tuple("Refuse").field(refusal).finish(),
            Self::Answer(answer) => f.debug_tuple("Answer").field(answer).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}
