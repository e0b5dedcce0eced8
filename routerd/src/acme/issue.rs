//! One order: proves to the CA that a host is ours, and brings the certificate home.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use tokio::time::timeout;

use super::failed::{Failed, Kind};
use super::tokens::Tokens;
use crate::config::acme::Challenge;
use crate::tls::Edge;

/// How long the CA may take to look at an answer, and then to make the certificate.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one order may take in all.
const WHOLE: Duration = Duration::from_secs(300);

/// Where the CA finds its answers.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) tokens: Tokens,
    pub(super) edge: Edge,
}

/// Orders a certificate for the host; gives key and chain as PEM. The answers that the CA looks for are in place while
/// it runs, and are taken away however it ends.
pub(super) async fn issue(
    account: &Account,
    host: &str,
    ways: &[Challenge],
    answers: &Answers,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<String, Failed> {
    let late = |_| Err(Failed::new(Kind::Timeout, format_args!("the order was not through in {WHOLE:?}")));
    timeout(WHOLE, ordered(account, host, ways, answers, replaces)).await.unwrap_or_else(late)
}

async fn ordered(
    account: &Account,
    host: &str,
    ways: &[Challenge],
    answers: &Answers,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<String, Failed> {
    let names = [Identifier::Dns(host.to_owned())];
    let mut order = new_order(account, &names, replaces).await?;
    let given = prove(&mut order, host, ways, answers).await?;
    let status = order.poll_ready(&RetryPolicy::new().timeout(PATIENCE)).await;
    if !matches!(status, Ok(OrderStatus::Ready | OrderStatus::Valid)) {
        return Err(unproven(&mut order, status).await);
    }
    drop(given);
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&RetryPolicy::new().timeout(PATIENCE)).await?;
    Ok(key + &chain)
}

async fn new_order(
    account: &Account,
    names: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    if let Some(old) = replaces
        && let Ok(order) = account.new_order(&NewOrder::new(names).replaces(old)).await
    {
        return Ok(order);
    }
    // Not every CA knows what a certificate replaces, and one that was replaced cannot be again.
    account.new_order(&NewOrder::new(names)).await
}

/// Puts an answer in place for each thing that the CA wants to see, and tells it to look.
async fn prove(
    order: &mut Order,
    host: &str,
    ways: &[Challenge],
    answers: &Answers,
) -> Result<Vec<Given>, Failed> {
    let mut given = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            // Proven a while ago, and remembered by the CA.
            continue;
        }
        let offers = |way: &&Challenge| authorization.challenges.iter().any(|it| it.r#type == kind(**way));
        let way = ways.iter().find(offers).copied();
        let none = || {
            let ways: Vec<_> = ways.iter().map(|way| way.as_str()).collect();
            Failed::new(Kind::Refused, format_args!("it does not offer {}", ways.join(" or ")))
        };
        let way = way.ok_or_else(none)?;
        let mut challenge = authorization.challenge(kind(way)).ok_or_else(none)?;
        let proof = challenge.key_authorization();
        given.push(match way {
            Challenge::Http01 => {
                answers.tokens.put(&challenge.token, proof.as_str());
                Given { answers: answers.clone(), way, of: challenge.token.clone() }
            }
            Challenge::TlsAlpn01 => {
                let ready = answers.edge.prove(host, proof.digest().as_ref());
                ready.map_err(|why| Failed::local("the answer to tls-alpn-01", why))?;
                Given { answers: answers.clone(), way, of: host.to_owned() }
            }
        });
        challenge.set_ready().await?;
    }
    Ok(given)
}

/// Why the CA is not convinced: what it says of its own looks before what it says of the order.
async fn unproven(order: &mut Order, status: Result<OrderStatus, Error>) -> Failed {
    let mut whys = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        whys.extend(errors.map(|problem| Failed::from(Error::Api(problem.clone())).why));
    }
    match status {
        _ if !whys.is_empty() => Failed::new(Kind::Unproven, whys.join("; ")),
        Err(error) => error.into(),
        Ok(status) => {
            Failed::new(Kind::Refused, format_args!("the order is {status:?}, it does not say why"))
        }
    }
}

/// An answer that is in place until this is dropped.
struct Given {
    answers: Answers,
    way: Challenge,
    /// The token or the host.
    of: String,
}

impl Drop for Given {
    fn drop(&mut self) {
        match self.way {
            Challenge::Http01 => self.answers.tokens.take(&self.of),
            Challenge::TlsAlpn01 => self.answers.edge.proven(&self.of),
        }
    }
}

fn kind(way: Challenge) -> ChallengeType {
    match way {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}
