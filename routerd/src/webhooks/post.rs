//! One try to deliver one event: a POST over a connection of its own, signed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ring::hmac;
use router_core::clock;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::Terms;
use super::target::Letter;
use crate::config::Webhook;
use crate::config::tls::provider;

const AGENT: &str = concat!("routerd/", env!("CARGO_PKG_VERSION"));

/// What all targets are reached with. It keeps no connection: events are rare, and one that was kept would mostly be
/// dead.
#[derive(Clone)]
pub(super) struct Client(HttpClient<HttpsConnector<HttpConnector>, String>);

/// Why an event was not delivered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There was no answer.
    Connection(String),
    /// It took too long.
    Timeout(Duration),
    /// The answer was not one from 200 to 299.
    Status(StatusCode),
}

impl Client {
    /// Trusts the authorities of the system and those of the terms.
    pub(super) fn new(terms: &Terms) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_tls_config(tls(&terms.authorities));
        let connector = tls.https_or_http().enable_http1().wrap_connector(http);
        Self(HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
    }

    /// Sends it once. A redirect is not followed: it would send what is signed for one place to another.
    pub(super) async fn post(&self, to: &Webhook, letter: &Letter, within: Duration) -> Result<(), Trouble> {
        let timestamp = clock::wall().as_secs();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(to.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("x-routerd-event", letter.kind.as_str())
            .header("x-routerd-delivery", &letter.id)
            .header("x-routerd-timestamp", timestamp);
        if let Some(secret) = &to.secret {
            let signature = signature(secret.expose(), timestamp, &letter.body);
            request = request.header("x-routerd-signature", signature);
        }
        let request =
            request.body(letter.body.clone()).map_err(|error| Trouble::Connection(chain(&error)))?;
        let answer = tokio::time::timeout(within, self.0.request(request)).await;
        let answer = answer.map_err(|_| Trouble::Timeout(within))?;
        let status = answer.map_err(|error| Trouble::Connection(chain(&error)))?.status();
        if status.is_success() { Ok(()) } else { Err(Trouble::Status(status)) }
    }
}

impl Trouble {
    /// Whether another try may go better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Timeout(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(why) => f.write_str(why),
            Self::Timeout(within) => write!(f, "no answer in {within:?}"),
            Self::Status(status) if status.is_redirection() => {
                write!(f, "status {}: redirects are not followed", status.as_u16())
            }
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
        }
    }
}

/// `sha256=` and HMAC-SHA-256 over `timestamp.body`, as hexadecimal digits.
fn signature(secret: &[u8], timestamp: u64, body: &str) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{timestamp}.").as_bytes());
    context.update(body.as_bytes());
    format!("sha256={}", HEXLOWER.encode(context.sign().as_ref()))
}

fn tls(authorities: &[Vec<u8>]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let further = authorities.iter().map(|der| CertificateDer::from(der.clone()));
    let (taken, _not_understood) = roots.add_parsable_certificates(system.certs.into_iter().chain(further));
    if taken == 0 {
        tracing::warn!(
            "webhooks: the system has no certificate authorities: https targets cannot be reached"
        );
    }
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// An error with everything that led to it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_hmac_sha_256() {
        // printf '1790000000.{"text":"hi"}' | openssl dgst -sha256 -hmac 'a secret'
        let expected = "sha256=7174987201109e51d064a896fc03f5ce11ee5da37aa8a971301ad1901b999301";
        assert_eq!(signature(b"a secret", 1_790_000_000, r#"{"text":"hi"}"#), expected);
    }
}
