//! Orders as requests: each `POST` becomes an order, and goes to whoever carries it out if whoever asks may give it.

use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::api::{At, Endpoint};
use super::reply;
use super::{Admin, Patience};
use crate::control::{
    Actor, CanaryBody, DeployBody, MaintenanceBody, Nothing, Order, PauseBody, PromoteBody, Receipt, Refusal,
    RefusalKind, ResumeBody, Role, RollBackBody, may,
};

/// The most bytes of a body.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// Every order as an endpoint.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        order("/v1/reload", "Puts the configuration file in place as it is now.", |_, Nothing {}| {
            Order::Reload
        }),
        order("/v1/upgrade", "Hands over to the program that is on disk now.", |_, Nothing {}| {
            Order::Upgrade
        }),
        order(
            "/v1/apps/{app}/deploys",
            "Lets a new release take over. The answer comes at once and names the deploy, which goes on.",
            |At { app, .. }, DeployBody { release, dynos, canary, plan }| Order::Deploy {
                app,
                release,
                dynos,
                canary,
                plan: Box::new(plan),
            },
        ),
        order(
            "/v1/apps/{app}/promote",
            "Goes on from a canary, or brings another app's release and dynos here.",
            |At { app, .. }, PromoteBody { from }| Order::Promote { app, from },
        ),
        order(
            "/v1/apps/{app}/rollback",
            "Takes the running deploy back; without one, deploys the previous release again.",
            |At { app, .. }, RollBackBody { why }| Order::RollBack { app, why },
        ),
        order(
            "/v1/apps/{app}/canary",
            "Changes which requests a running canary serves.",
            |At { app, .. }, CanaryBody { rule }| Order::Canary { app, rule },
        ),
        order(
            "/v1/apps/{app}/pause",
            "Holds requests in line; those that run go on.",
            |At { app, .. }, PauseBody { at_most }| Order::Pause { app, at_most: at_most.map(|time| time.0) },
        ),
        order("/v1/apps/{app}/resume", "Ends a pause.", |At { app, .. }, ResumeBody { over }| {
            Order::Resume { app, over: over.map(|time| time.0) }
        }),
        order(
            "/v1/apps/{app}/maintenance",
            "Refuses requests with a page that says so, or stops doing so.",
            |At { app, .. }, MaintenanceBody { on }| Order::Maintenance { app, on },
        ),
        order(
            "/v1/apps/{app}/dynos/{dyno}/drain",
            "Gives a dyno, by its name or address, no further request.",
            |At { app, dyno, .. }, Nothing {}| Order::Drain { app, dyno },
        ),
        order(
            "/v1/apps/{app}/dynos/{dyno}/undrain",
            "Gives a drained dyno requests again.",
            |At { app, dyno, .. }, Nothing {}| Order::Undrain { app, dyno },
        ),
        order(
            "/v1/apps/{app}/restart",
            "Starts each dyno's process anew, one after the other, losing no request.",
            |At { app, .. }, Nothing {}| Order::Restart { app },
        ),
    ]
}

/// An endpoint whose body is a `B`.
fn order<B: DeserializeOwned + JsonSchema + Send + 'static>(
    path: &'static str,
    about: &'static str,
    make: fn(At, B) -> Order,
) -> Endpoint {
    let route = post(
        move |State(admin): State<Admin>,
              Extension(actor): Extension<Actor>,
              Extension(patience): Extension<Patience>,
              params: Result<RawPathParams, RawPathParamsRejection>,
              request: Request| async move {
            let at = At::of(params)?;
            give(&admin, actor, &patience, make(at, body(request).await?)).await
        },
    );
    let daemon = !path.contains("{app}");
    Endpoint {
        method: "post",
        path,
        about,
        needs: Some(if daemon { Role::Admin } else { Role::Deploy }),
        query: &[],
        body: Some(|generator| generator.subschema_for::<B>()),
        answer: Some(|generator| generator.subschema_for::<Receipt>()),
        route,
    }
}

/// The body of a request, within its bounds.
async fn body<B: DeserializeOwned>(request: Request) -> Result<B, Refusal> {
    let (head, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_MAX).await.map_err(|error| {
        if error.into_inner().is::<http_body_util::LengthLimitError>() {
            return Refusal::new(RefusalKind::TooLarge, format!("the body has more than {BODY_MAX} bytes"));
        }
        Refusal::new(RefusalKind::Invalid, "the body did not come to its end")
    })?;
    let bytes = match bytes.trim_ascii() {
        [] => b"{}",
        _ if !is_json(&head.headers) => {
            let text = "the body is to be JSON, and to say so: Content-Type: application/json";
            return Err(Refusal::new(RefusalKind::NoJson, text));
        }
        bytes => bytes,
    };
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("the body: {error}")))
}

/// Browsers let no page say so of what it sends to another origin without asking first.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Has the order carried out in a task of its own: it does not end half-way because the client is gone.
async fn give(
    admin: &Admin,
    actor: Actor,
    patience: &Patience,
    order: Order,
) -> Result<Response<Body>, Refusal> {
    order.check()?;
    let what = match order.app() {
        Some(app) => format!("{} {app}", order.verb()),
        None => order.verb().to_owned(),
    };
    let who = match &actor.from {
        Some(from) => format!("{} at {from}", actor.name),
        None => actor.name.clone(),
    };
    if let Err(refusal) = may(&actor, &order) {
        tracing::warn!("admin: {what} was refused to {who}: {refusal}");
        return Err(refusal);
    }
    let Some(place) = admin.access.place_for_order() else {
        return Err(Refusal::new(RefusalKind::Unavailable, "too many orders are being carried out"));
    };
    tracing::info!("admin: {who} asks for {what}");
    patience.longer(order.longer());
    let control = admin.control.clone();
    let task = tokio::spawn(async move {
        let result = control.order(actor, order).await;
        drop(place);
        result
    });
    match task.await {
        Ok(Ok(receipt)) => {
            let status = if receipt.deploy.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
            Ok(reply::json(status, &receipt))
        }
        Ok(Err(refusal)) => {
            tracing::warn!("admin: {what} was not done: {refusal}");
            Err(refusal)
        }
        Err(_) => Err(Refusal::new(RefusalKind::Internal, "the order broke off; see the log")),
    }
}
