//! One order: proves to the CA that a host is ours, and brings the certificate home.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::timeout;

use super::Answers;
use crate::config::acme::Challenge;

/// How long the CA may take to look at an answer, and then to make the certificate.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one order may take in all.
const WHOLE: Duration = Duration::from_secs(300);

/// A certificate that came: private key and chain, as PEM.
pub(crate) struct Issued {
    pub(crate) key: String,
    pub(crate) chain: String,
}

/// Why none came.
#[derive(Debug)]
pub(crate) enum NotIssued {
    /// The CA refuses, or cannot be asked.
    Ca(String),
    /// The CA does not know the account, or does not want it.
    Account(String),
    /// The CA has not found the answer that it asked for.
    Unproven(String),
    /// The CA offers none of the ways that are allowed here.
    NoWay(Vec<&'static str>),
    /// It took too long.
    Late,
}

impl NotIssued {
    /// Another account may do better.
    pub(crate) fn is_about_the_account(&self) -> bool {
        matches!(self, Self::Account(_))
    }
}

impl fmt::Display for NotIssued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ca(why) | Self::Account(why) => f.write_str(why),
            Self::Unproven(why) => write!(f, "the CA could not see that the host is served here: {why}"),
            Self::NoWay(allowed) => write!(f, "the CA offers none of {}", allowed.join(", ")),
            Self::Late => write!(f, "the CA has not come to an end within {WHOLE:?}"),
        }
    }
}

impl From<Error> for NotIssued {
    fn from(error: Error) -> Self {
        let text = words(&error);
        let about = |kind: &str| kind.ends_with(":accountDoesNotExist");
        match &error {
            Error::Api(problem) if problem.r#type.as_deref().is_some_and(about) => Self::Account(text),
            _ => Self::Ca(text),
        }
    }
}

/// An error of the CA with everything that is behind it.
pub(crate) fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Orders a certificate for the host. The answers that the CA looks for are in place while it runs, and are taken away
/// however it ends.
pub(crate) async fn issue(
    account: &Account,
    host: &str,
    ways: &[Challenge],
    answers: &Arc<dyn Answers>,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, NotIssued> {
    timeout(WHOLE, ordered(account, host, ways, answers, replaces)).await.unwrap_or(Err(NotIssued::Late))
}

async fn ordered(
    account: &Account,
    host: &str,
    ways: &[Challenge],
    answers: &Arc<dyn Answers>,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, NotIssued> {
    let names = [Identifier::Dns(host.to_owned())];
    let new = match replaces {
        Some(old) => account.new_order(&NewOrder::new(&names).replaces(old)).await,
        None => account.new_order(&NewOrder::new(&names)).await,
    };
    let mut order = new?;
    let _given = prove(&mut order, host, ways, answers).await?;
    let status = order.poll_ready(&RetryPolicy::new().timeout(PATIENCE)).await?;
    if status != OrderStatus::Ready && status != OrderStatus::Valid {
        return Err(unproven(&mut order).await);
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&RetryPolicy::new().timeout(PATIENCE)).await?;
    Ok(Issued { key, chain })
}

/// Puts an answer in place for each thing that the CA wants to see, and tells it to look.
async fn prove(
    order: &mut Order,
    host: &str,
    ways: &[Challenge],
    answers: &Arc<dyn Answers>,
) -> Result<Vec<Given>, NotIssued> {
    let mut given = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            // Proven a while ago, and remembered by the CA.
            continue;
        }
        let offers = |way: &&Challenge| authorization.challenges.iter().any(|it| it.r#type == kind(**way));
        let Some(way) = ways.iter().find(offers).copied() else {
            return Err(NotIssued::NoWay(ways.iter().map(|way| way.as_str()).collect()));
        };
        let none = || NotIssued::NoWay(vec![way.as_str()]);
        let mut challenge = authorization.challenge(kind(way)).ok_or_else(none)?;
        let proof = challenge.key_authorization();
        match way {
            Challenge::Http01 => {
                answers.token(&challenge.token, Some(proof.as_str().to_owned()));
                given.push(Given { answers: Arc::clone(answers), what: What::Token(challenge.token.clone()) });
            }
            Challenge::TlsAlpn01 => {
                let (chain, key) = answer_for(host, proof.digest().as_ref())?;
                answers.certificate(host, Some((chain, key))).map_err(NotIssued::Ca)?;
                given.push(Given { answers: Arc::clone(answers), what: What::Host(host.to_owned()) });
            }
        }
        challenge.set_ready().await?;
    }
    Ok(given)
}

/// Why the CA is not convinced, in its own words.
async fn unproven(order: &mut Order) -> NotIssued {
    let mut whys = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        whys.extend(errors.map(ToString::to_string));
    }
    match (whys.is_empty(), &order.state().error) {
        (false, _) => NotIssued::Unproven(whys.join("; ")),
        (true, Some(error)) => NotIssued::Ca(error.to_string()),
        (true, None) => NotIssued::Ca("the CA has given the order up and does not say why".to_owned()),
    }
}

/// An answer that is in place until this is dropped.
struct Given {
    answers: Arc<dyn Answers>,
    what: What,
}

enum What {
    Token(String),
    Host(String),
}

impl Drop for Given {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => self.answers.token(token, None),
            // Taking away cannot fail.
            What::Host(host) => drop(self.answers.certificate(host, None)),
        }
    }
}

fn kind(way: Challenge) -> ChallengeType {
    match way {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// The certificate that answers tls-alpn-01 (RFC 8737): the digest stands in an extension of its own.
fn answer_for(host: &str, digest: &[u8]) -> Result<(Vec<u8>, PrivateKeyDer<'static>), NotIssued> {
    let extension = CustomExtension::new_acme_identifier(digest);
    self_signed(host, vec![extension]).map_err(NotIssued::Ca)
}

/// A certificate that stands in until the real one is here: nobody trusts it, but the handshake works.
pub(crate) fn stand_in(host: &str) -> Result<(Vec<u8>, PrivateKeyDer<'static>), String> {
    self_signed(host, Vec::new())
}

fn self_signed(
    host: &str,
    extensions: Vec<CustomExtension>,
) -> Result<(Vec<u8>, PrivateKeyDer<'static>), String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "routerd");
    params.custom_extensions = extensions;
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).map_err(|error| error.to_string())?;
    Ok((certificate.der().to_vec(), key))
}
