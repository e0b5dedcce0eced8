//! An admin listener whose control carries nothing out: it remembers what it was asked, and plays deploys from a
//! script.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::Arc;

use router_core::Router;
use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::limits::Limits;
use router_core::sync::Mutex;
use routerd::admin::{Access, Admin, AdminAddress, AdminListener, Readiness, Reloads};
use routerd::config::Config;
use routerd::config::token::TokenHash;
use routerd::control::{
    Actor, AppFacts, Control, DecidedBy, DeployDynoView, DeployView, Mode, Order, Receipt, Refusal,
    RefusalKind, ReleaseView,
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Answer, Client, DEADLINE};

/// What is asked of it, and what it says of deploys.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    given: Vec<(Actor, Order)>,
    /// How the deploy stands each time somebody looks; the last one stays.
    script: Vec<DeployView>,
    /// The deploy that a receipt names.
    deploy: Option<u64>,
    /// Orders wait for it.
    hold: Option<watch::Receiver<bool>>,
    done: usize,
    looked: usize,
}

impl Fake {
    /// What was asked so far.
    pub(super) fn given(&self) -> Vec<(Actor, Order)> {
        self.0.lock().given.clone()
    }

    /// How many orders have been carried out to the end.
    pub(super) fn done(&self) -> usize {
        self.0.lock().done
    }

    /// How often somebody looked at deploys.
    pub(super) fn looked(&self) -> usize {
        self.0.lock().looked
    }

    /// From now on each order waits until this is true.
    pub(super) fn hold(&self, until: watch::Receiver<bool>) {
        self.0.lock().hold = Some(until);
    }

    /// From now on each order begins that deploy, which goes so.
    pub(super) fn plays(&self, script: &[DeployView]) {
        let mut state = self.0.lock();
        state.deploy = script.first().map(|deploy| deploy.id);
        state.script = script.to_vec();
    }
}

impl Control for Fake {
    fn order(
        &self,
        actor: Actor,
        order: Order,
    ) -> Pin<Box<dyn Future<Output = Result<Receipt, Refusal>> + Send>> {
        let fake = self.clone();
        Box::pin(async move {
            let (hold, deploy) = {
                let mut state = fake.0.lock();
                state.given.push((actor, order.clone()));
                (state.hold.clone(), state.deploy)
            };
            if let Some(mut hold) = hold {
                let _ = hold.wait_for(|on| *on).await;
            }
            fake.0.lock().done += 1;
            match order.app() {
                Some("gone") => Err(Refusal::new(RefusalKind::NotFound, "there is no app gone")),
                Some("panics") => panic!("as a test"),
                _ => Ok(Receipt { text: format!("did {}", order.verb()), deploy, details: None }),
            }
        })
    }

    fn deploys(&self, app: Option<&str>) -> Vec<DeployView> {
        let mut state = self.0.lock();
        state.looked += 1;
        let now =
            if state.script.len() > 1 { Some(state.script.remove(0)) } else { state.script.first().cloned() };
        let other = view(1, "blog", "done");
        [now, Some(other)].into_iter().flatten().filter(|it| app.is_none_or(|app| it.app == app)).collect()
    }

    fn releases(&self, app: &str) -> Vec<ReleaseView> {
        vec![ReleaseView {
            app: app.to_owned(),
            release: "v1".to_owned(),
            dynos: vec!["127.0.0.1:3001".to_owned()],
            since: "2026-11-22T00:00:00Z".to_owned(),
            by: "file".to_owned(),
            how: DecidedBy::File,
            current: true,
        }]
    }

    fn facts(&self) -> Vec<AppFacts> {
        vec![AppFacts {
            app: "shop".to_owned(),
            source: DecidedBy::Api,
            file_release: "v0".to_owned(),
            mode: Mode::Paused,
            deploy: None,
            drained: vec!["web.9".to_owned()],
        }]
    }

    fn audit(&self, app: Option<&str>, limit: usize) -> Result<Vec<Value>, Refusal> {
        Ok(vec![json!({ "seq": 7, "who": "ci", "what": "pause", "app": app, "limit": limit })])
    }

    fn verify_audit(&self) -> Result<String, Refusal> {
        Err(Refusal::new(RefusalKind::Conflict, "line 3 was changed"))
    }
}

/// A deploy of that app in that state.
pub(super) fn view(id: u64, app: &str, state: &str) -> DeployView {
    let over = ["done", "failed", "rolled_back"].contains(&state);
    let bad = ["failed", "rolled_back", "rolling_back"].contains(&state);
    let dyno = DeployDynoView {
        side: "new".to_owned(),
        name: "web.3".to_owned(),
        address: "127.0.0.1:3003".to_owned(),
        stage: "warming".to_owned(),
        trouble: (state == "warming").then(|| "status 503: migrating".to_owned()),
    };
    DeployView {
        id,
        app: app.to_owned(),
        old: "v42".to_owned(),
        new: "v43".to_owned(),
        state: state.to_owned(),
        since_ms: 0,
        deadline_ms: (!over).then_some(41_000),
        by: "ci".to_owned(),
        began: "2026-11-22T00:00:00Z".to_owned(),
        ended: over.then(|| "2026-11-22T00:01:00Z".to_owned()),
        cause: bad.then(|| "web.3 was not ready within 1m: status 503: migrating".to_owned()),
        new_total: 4,
        new_ready: 2,
        new_serving: if state == "done" { 4 } else { 0 },
        new_failed: 0,
        old_serving: 4,
        old_left: 4,
        old_given_up: 0,
        dynos: vec![dyno],
    }
}

/// Two apps with a dyno each.
fn router() -> Router {
    let router = Router::new();
    for (port, name) in [(3001, "blog"), (3002, "shop")] {
        let spec = AppSpec {
            id: name.into(),
            hosts: vec![format!("{name}.test")],
            release: "v1".into(),
            limits: Limits::default(),
        };
        let mut dyno = DynoSpec::new(([127, 0, 0, 1], port).into());
        dyno.name = "web.1".into();
        router.apply(&[Change::PutApp(spec), Change::AddDyno(name.into(), dyno)]).unwrap();
    }
    router
}

/// An admin listener in this process, in front of a [`Fake`].
pub(super) struct Desk {
    pub(super) fake: Fake,
    pub(super) access: Access,
    pub(super) address: AdminAddress,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Desk {
    /// On that address; `admin` are further lines of `[admin]`.
    pub(super) async fn start(address: &str, admin: &str) -> Self {
        let text = format!("[admin]\n{admin}\n[apps.shop]\n");
        let config = Config::parse(&text, "test.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let (fake, access) = (Fake::default(), Access::new());
        access.set(config.admin.as_ref());
        let listener = AdminListener::bind(&address.parse().unwrap()).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = router();
        let admin = Admin {
            snapshot: Arc::new(move || router.snapshot()),
            tls: Arc::new(routerd::tls::Account::default),
            acme: Arc::new(routerd::acme::Account::default),
            metrics: Arc::new(|| "routerd_connections 3\n".to_owned()),
            readiness: Readiness::default(),
            reloads: Reloads::new(),
            control: Arc::new(fake.clone()),
            access: access.clone(),
        };
        let address = listener.address().clone();
        let task = Some(tokio::spawn(listener.serve(admin, stopped)));
        Self { fake, access, address, stop, task }
    }

    /// On a loopback address, without tokens.
    pub(super) async fn open() -> Self {
        Self::start("127.0.0.1:0", "").await
    }

    pub(super) async fn client(&self) -> Client {
        let AdminAddress::Tcp(address) = self.address else { panic!("a TCP address") };
        Client::connect(address).await
    }

    /// A request with these headers and this body.
    pub(super) async fn ask(&self, request: &str, headers: &str, body: &str) -> Answer {
        let mut client = self.client().await;
        let host = if headers.to_lowercase().contains("host:") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        client
            .send(format!("{request} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\n\r\n{body}"))
            .await;
        client.answer().await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", "").await
    }

    /// A request with a token.
    pub(super) async fn with(&self, token: &str, request: &str, body: &str) -> Answer {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        self.ask(request, &headers, body).await
    }

    /// `routerd ctl` against it.
    pub(super) async fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.address.to_string(), args).await
    }

    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        timeout(DEADLINE, self.task.take().unwrap()).await.unwrap().unwrap();
    }
}

/// One `[[admin.tokens]]`.
pub(super) fn token(name: &str, token: &str, role: &str, more: &str) -> String {
    let hash = TokenHash::of(token).text();
    format!("[[admin.tokens]]\nname = '{name}'\nhash = '{hash}'\nrole = '{role}'\n{more}\n")
}

/// `routerd ctl` to its end.
pub(super) async fn ctl(admin: &str, args: &[&str]) -> Output {
    let child = ctl_starts(admin, args, None);
    timeout(DEADLINE, child.wait_with_output()).await.expect("ctl ends").unwrap()
}

pub(super) fn ctl_starts(admin: &str, args: &[&str], token: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_routerd"));
    command.arg("ctl").args(args).env("ROUTERD_ADMIN", admin).env_remove("ROUTERD_TOKEN");
    if let Some(token) = token {
        command.env("ROUTERD_TOKEN", token);
    }
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    quiet.kill_on_drop(true).spawn().unwrap()
}

/// What it printed on both outputs, and its exit code.
pub(super) fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// A certificate for `localhost` and 127.0.0.1 in two files, signed by itself.
pub(super) fn certificate(folder: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

/// An address that is free now.
pub(super) fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
