//! Requests to a CA: over HTTPS alone, bounded in time and in what is read of an answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use router_core::clock;
use router_core::sync::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::config;
use crate::config::tls::provider;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 20;

type Answered = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

/// What one order asks the CA with. Its connections end with it.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    again: Again,
}

/// In what time the CA wants to be asked again, after a refusal that has said so.
#[derive(Clone, Default)]
pub(super) struct Again(Arc<Mutex<Option<Duration>>>);

impl Again {
    pub(super) fn get(&self) -> Option<Duration> {
        *self.0.lock()
    }
}

impl Http {
    pub(super) fn new(tls: ClientConfig, again: Again) -> Self {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        Self { client: Client::builder(TokioExecutor::new()).build(connector), again }
    }
}

impl HttpClient for Http {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answered {
        let (answer, again) = (self.client.request(request), self.again.clone());
        Box::pin(async move {
            let whole =
                async { read(answer.await.map_err(|error| Error::Other(Box::new(error)))?, &again).await };
            let late = |_| Err(Error::Other(format!("no answer in {ANSWER:?}").into()));
            timeout(ANSWER, whole).await.unwrap_or_else(late)
        })
    }
}

async fn read(answer: Response<Incoming>, again: &Again) -> Result<BytesResponse, Error> {
    let (parts, body) = answer.into_parts();
    if !parts.status.is_success() {
        *again.0.lock() = retry_after(&parts.headers);
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.contains("json") {
            // A gateway in front of the CA, say: its page would only be called wrong JSON.
            return Err(Error::Other(
                format!("status {} without an explanation", parts.status.as_u16()).into(),
            ));
        }
    }
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(Error::Other)?;
    Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(clock::wall()))
}

/// Trusts whom the settings say. Reads files: from a task go through `spawn_blocking`.
pub(super) fn tls(settings: &config::Acme) -> ClientConfig {
    let roots = settings.ca.as_ref().map_or_else(system, |ca| ca.roots.clone());
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (taken, _not_understood) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        tracing::warn!(
            "acme: the system has no certificate authorities, and acme.ca names none: no CA can be reached"
        );
    }
    roots
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn when_to_ask_again_is_told_in_seconds_or_as_a_date() {
        let after = |text: &str| {
            let value = HeaderValue::try_from(text).unwrap();
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it is over");
        let later = httpdate::fmt_http_date(UNIX_EPOCH + clock::wall() + Duration::from_secs(3600));
        assert!(after(&later).unwrap() > Duration::from_secs(3590));
        assert_eq!((after("soon"), after("-1"), retry_after(&HeaderMap::new())), (None, None, None));
    }
}
