//! Every endpoint in one table, from which the routes and their description are made; and those that only look.

use std::collections::BTreeMap;
use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{QueryRejection, RawPathParamsRejection};
use axum::extract::{Extension, Query, RawPathParams, State};
use axum::http::{Method, Response, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get};
use router_core::snapshot::{AppSnapshot, Snapshot};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::apps::AppView;
use super::reply::{self, TEXT, answer};
use super::{Admin, access, openapi, orders, status};
use crate::config::access::is_name;
use crate::control::{Actor, DeployView, Refusal, RefusalKind, ReleaseView, Role, Scope};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Lines of the audit trail in one answer: unless somebody asks for fewer or more, and at the most.
const AUDIT_LINES: usize = 100;
const AUDIT_LINES_MAX: usize = 1000;
/// No name of a dyno is longer: it is a host name with a port at the most.
const DYNO_MAX: usize = 300;

/// How a type is described.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path.
pub(super) struct Endpoint {
    /// In lower case.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// What it is for, in a sentence.
    pub(super) about: &'static str,
    /// Who may; `None`: everybody.
    pub(super) needs: Option<Role>,
    /// What may stand behind the `?`, and what it means.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// What it takes.
    pub(super) body: Option<SchemaOf>,
    /// What it answers; `None`: text.
    pub(super) answer: Option<SchemaOf>,
    pub(super) route: MethodRouter<Admin>,
}

impl Endpoint {
    fn look(path: &'static str, about: &'static str, route: MethodRouter<Admin>) -> Self {
        Self {
            method: "get",
            path,
            about,
            needs: Some(Role::Read),
            query: &[],
            body: None,
            answer: None,
            route,
        }
    }

    fn json<T: JsonSchema>(self) -> Self {
        Self { answer: Some(|generator| generator.subschema_for::<T>()), ..self }
    }

    fn asks(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    fn needs(self, needs: Option<Role>) -> Self {
        Self { needs, ..self }
    }
}

/// Every endpoint.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let look = Endpoint::look;
    let mut all = vec![
        look("/healthz", "Says ok as long as the process runs.", get(healthz)).needs(None),
        look("/readyz", "Whether the daemon should get traffic: 200, or 503 with the reason.", get(readyz))
            .needs(None),
        look("/metrics", "All metrics, as Prometheus reads them.", get(metrics)),
        look("/v1/status", "The daemon, its apps and their dynos.", get(status)).json::<status::Page<'_>>(),
        look("/v1/openapi.json", "This description.", get(description)).json::<serde_json::Value>(),
        look("/v1/apps", "The apps that you may see.", get(apps)).json::<Vec<AppView>>(),
        look("/v1/apps/{app}", "One app.", get(app)).json::<AppView>(),
        look("/v1/apps/{app}/dynos", "The dynos of an app.", get(dynos)).json::<Vec<status::Dyno<'_>>>(),
        look("/v1/apps/{app}/releases", "The releases that an app had, newest first.", get(releases))
            .json::<Vec<ReleaseView>>(),
        look("/v1/deploys", "Deploys that run and the last that ended, newest first.", get(deploys))
            .json::<Vec<DeployView>>()
            .asks(&[("app", "Only those of this app.")]),
        look("/v1/deploys/{id}", "One deploy.", get(deploy)).json::<DeployView>(),
        look("/v1/audit", "The last lines of the audit trail, newest first.", get(audit))
            .json::<Vec<serde_json::Value>>()
            .asks(&[
                ("app", "Only those about this app. Needed by whoever has no say over all apps."),
                ("limit", "How many at the most, 1 to 1000; 100 if it is not said."),
            ]),
        look("/v1/audit/verify", "Checks the whole audit trail and says what was found.", get(verify))
            .json::<Verified>()
            .needs(Some(Role::Admin)),
    ];
    all.extend(orders::endpoints());
    all
}

/// The routes, each behind the gate.
pub(super) fn routes(admin: Admin) -> Router {
    let each = endpoints().into_iter();
    each.fold(Router::new(), |routes, it| routes.route(it.path, it.route))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(admin.clone(), access::gate))
        .with_state(admin)
}

/// What a check of the audit trail found.
#[derive(Serialize, JsonSchema)]
struct Verified {
    /// In a sentence for people.
    text: String,
}

type Answer = Result<Response<Body>, Refusal>;
type Params = Result<RawPathParams, RawPathParamsRejection>;

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        reply::refused(&self)
    }
}

async fn healthz() -> Response<Body> {
    answer(StatusCode::OK, TEXT, "ok\n".to_owned())
}

async fn readyz(State(admin): State<Admin>) -> Response<Body> {
    match admin.readiness.reason() {
        None => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
        Some(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(admin): State<Admin>, Extension(actor): Extension<Actor>) -> Answer {
    // They name every app.
    actor.may(Role::Read, None)?;
    let text = blocking(move || Ok((admin.metrics)())).await?;
    Ok(answer(StatusCode::OK, PROMETHEUS, text))
}

async fn status(State(admin): State<Admin>, Extension(actor): Extension<Actor>) -> Answer {
    blocking(move || {
        let (snapshot, reason) = (visible(&admin, &actor), admin.readiness.reason());
        let mut reloads = admin.reloads.account();
        if actor.apps != Scope::All {
            // It may name any app.
            reloads.error = None;
        }
        // Their names are those of all apps.
        let all = actor.apps == Scope::All;
        let certificates = if all { (admin.tls)().certificates } else { Vec::new() };
        let ordered = if all { (admin.acme)().hosts } else { Vec::new() };
        let facts = admin.control.facts();
        let served = status::Served { certificates: &certificates, ordered: &ordered };
        let page = status::page(&snapshot, &facts, reason.as_deref(), &reloads, served);
        Ok(reply::json(StatusCode::OK, &page))
    })
    .await
}

async fn description() -> Response<Body> {
    reply::json(StatusCode::OK, &*openapi::DOCUMENT)
}

async fn apps(State(admin): State<Admin>, Extension(actor): Extension<Actor>) -> Answer {
    blocking(move || {
        let facts = admin.control.facts().into_iter().map(|facts| (facts.app.clone(), facts));
        let mut facts: HashMap<_, _> = facts.collect();
        let apps = visible(&admin, &actor).apps;
        let views: Vec<_> = apps.iter().map(|app| AppView::of(app, facts.remove(app.id.as_str()))).collect();
        Ok(reply::json(StatusCode::OK, &views))
    })
    .await
}

async fn app(State(admin): State<Admin>, Extension(actor): Extension<Actor>, params: Params) -> Answer {
    let app = At::of(params)?.app;
    blocking(move || {
        let snapshot = one(&admin, &actor, &app)?;
        let facts = admin.control.facts().into_iter().find(|facts| facts.app == snapshot.id.as_str());
        Ok(reply::json(StatusCode::OK, &AppView::of(&snapshot, facts)))
    })
    .await
}

async fn dynos(State(admin): State<Admin>, Extension(actor): Extension<Actor>, params: Params) -> Answer {
    let app = At::of(params)?.app;
    blocking(move || {
        let app = one(&admin, &actor, &app)?;
        Ok(reply::json(StatusCode::OK, &app.dynos.iter().map(status::Dyno::of).collect::<Vec<_>>()))
    })
    .await
}

async fn releases(State(admin): State<Admin>, Extension(actor): Extension<Actor>, params: Params) -> Answer {
    let app = At::of(params)?.app;
    blocking(move || {
        let app = one(&admin, &actor, &app)?;
        Ok(reply::json(StatusCode::OK, &admin.control.releases(app.id.as_str())))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfApp {
    app: Option<String>,
}

async fn deploys(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<OfApp>, QueryRejection>,
) -> Answer {
    let app = asked(query)?.app;
    if let Some(app) = &app {
        actor.may(Role::Read, Some(app))?;
    }
    blocking(move || {
        let mut deploys = admin.control.deploys(app.as_deref());
        deploys.retain(|deploy| actor.apps.covers(&deploy.app));
        Ok(reply::json(StatusCode::OK, &deploys))
    })
    .await
}

async fn deploy(State(admin): State<Admin>, Extension(actor): Extension<Actor>, params: Params) -> Answer {
    let wanted = At::of(params)?.id;
    blocking(move || {
        let seen = |it: &DeployView| it.id.to_string() == wanted && actor.apps.covers(&it.app);
        let deploy = admin.control.deploys(None).into_iter().find(seen);
        let none = || Refusal::new(RefusalKind::NotFound, format!("there is no deploy {wanted} (any more)"));
        Ok(reply::json(StatusCode::OK, &deploy.ok_or_else(none)?))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lines {
    app: Option<String>,
    limit: Option<usize>,
}

async fn audit(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    query: Result<Query<Lines>, QueryRejection>,
) -> Answer {
    let Lines { app, limit } = asked(query)?;
    actor.may(Role::Read, app.as_deref())?;
    let limit = limit.unwrap_or(AUDIT_LINES);
    if !(1..=AUDIT_LINES_MAX).contains(&limit) {
        return Err(Refusal::new(RefusalKind::Invalid, format!("limit: allowed are 1 to {AUDIT_LINES_MAX}")));
    }
    blocking(move || {
        let lines = admin.control.audit(app.as_deref(), limit)?;
        Ok(reply::json(StatusCode::OK, &lines))
    })
    .await
}

async fn verify(State(admin): State<Admin>, Extension(actor): Extension<Actor>) -> Answer {
    actor.may(Role::Admin, None)?;
    let text = blocking(move || admin.control.verify_audit()).await?;
    Ok(reply::json(StatusCode::OK, &Verified { text }))
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(RefusalKind::WrongMethod, format!("{} does not take {method}", uri.path()))
}

/// Where it may block. A panic is a fault of ours and an answer.
async fn blocking<T: Send + 'static>(
    look: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let broken = |_| Err(Refusal::new(RefusalKind::Internal, "the answer could not be made"));
    tokio::task::spawn_blocking(look).await.unwrap_or_else(broken)
}

/// The apps that whoever asks may see.
fn visible(admin: &Admin, actor: &Actor) -> Snapshot {
    let mut snapshot = (admin.snapshot)();
    snapshot.apps.retain(|app| actor.apps.covers(app.id.as_str()));
    snapshot
}

/// One app, if whoever asks may see it.
fn one(admin: &Admin, actor: &Actor, app: &str) -> Result<AppSnapshot, Refusal> {
    actor.may(Role::Read, Some(app))?;
    let found = (admin.snapshot)().apps.into_iter().find(|it| it.id.as_str() == app);
    found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("there is no app {app}")))
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(error) => Err(Refusal::new(RefusalKind::Invalid, error.body_text())),
    }
}

/// What stands in the places of a path; empty where it has no such place.
#[derive(Debug, Default)]
pub(super) struct At {
    pub(super) app: String,
    pub(super) dyno: String,
    pub(super) id: String,
}

impl At {
    /// What cannot be a name names nothing, and is not repeated in logs.
    pub(super) fn of(params: Params) -> Result<Self, Refusal> {
        let none = |what: &str| Refusal::new(RefusalKind::NotFound, format!("there is no such {what}"));
        let params = params.map_err(|_| none("path"))?;
        let mut places: BTreeMap<&str, &str> = params.iter().collect();
        let mut take = |place| places.remove(place).unwrap_or_default().to_owned();
        let at = Self { app: take("app"), dyno: take("dyno"), id: take("id") };
        if !at.app.is_empty() && !is_name(&at.app) {
            return Err(none("app"));
        }
        if at.dyno.len() > DYNO_MAX || at.dyno.chars().any(char::is_control) {
            return Err(none("dyno"));
        }
        if at.id.len() > 20 || !at.id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(none("deploy"));
        }
        Ok(at)
    }
}
