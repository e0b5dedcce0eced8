//! `routerd ctl`: asks a running daemon over its admin interface, and shows what it answers.

mod args;
mod client;
mod follow;
mod show;

pub use args::{AuditArgs, CtlArgs, DeployArgs, EXAMPLES, Look, Switch, Tell, Verb, Waiting};
pub use client::{Target, Trouble};

use std::path::Path;

use serde_json::{Value, json};

use self::client::Client;
use self::follow::Until;
use crate::audit;
use crate::config::units::Period;
use crate::control::{Order, PlanOrder, Receipt};

/// What is to be printed on standard output, and what went wrong, if anything did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// For standard output.
    pub out: String,
    /// For standard error; the exit code is 1 then.
    pub failed: Option<String>,
}

/// Does what the command line says. Progress goes to standard error as it comes.
///
/// # Errors
/// Nothing came of it: why, for people.
pub async fn run(args: CtlArgs) -> Result<Done, Trouble> {
    if let Verb::Look(Look::Audit(AuditArgs { file: Some(file), .. })) = &args.verb {
        return Ok(verified(file, args.json));
    }
    let client = Client::new(&args)?;
    let asked = Asked { client, json: args.json };
    match &args.verb {
        Verb::Look(look) => asked.look(look).await,
        Verb::Tell(tell) => asked.tell(tell).await,
    }
}

/// Checks the files of an audit trail that are on this machine.
fn verified(file: &Path, json: bool) -> Done {
    match audit::verify(file) {
        Ok(found) if json => {
            let last = found.last.as_ref();
            let page = json!({ "text": found.to_string(), "lines": found.lines, "files": found.files, "last": last });
            Done { out: format!("{page:#}\n"), failed: None }
        }
        Ok(found) => Done { out: show::line(&found.to_string()), failed: None },
        Err(broken) => Done { out: String::new(), failed: Some(broken.to_string()) },
    }
}

/// The order that is meant.
fn order(tell: &Tell) -> Order {
    let name = |app: &str| app.to_owned();
    let time = |period: &Option<Period>| period.map(|Period(time)| time);
    match tell {
        Tell::Deploy(args) => deploy(args),
        Tell::Promote { app, from, .. } => Order::Promote { app: name(app), from: from.clone() },
        Tell::Rollback { app, why, .. } => Order::RollBack { app: name(app), why: why.clone() },
        Tell::Canary { app, rule } => Order::Canary { app: name(app), rule: rule.clone() },
        Tell::Pause { app, at_most } => Order::Pause { app: name(app), at_most: time(at_most) },
        Tell::Resume { app, over } => Order::Resume { app: name(app), over: time(over) },
        Tell::Maintenance { app, switch } => Order::Maintenance { app: name(app), on: *switch == Switch::On },
        Tell::Drain { app, dyno } => Order::Drain { app: name(app), dyno: dyno.clone() },
        Tell::Undrain { app, dyno } => Order::Undrain { app: name(app), dyno: dyno.clone() },
        Tell::Restart { app, .. } => Order::Restart { app: name(app) },
        Tell::Reload => Order::Reload,
        Tell::Upgrade => Order::Upgrade,
    }
}

fn deploy(args: &DeployArgs) -> Order {
    let plan = PlanOrder {
        ready_when: args.ready_when.clone(),
        rise: args.rise,
        boot_timeout: args.boot_timeout,
        canary_time: args.canary_time,
        pace: args.pace.clone(),
        drain_timeout: args.drain_timeout,
        bake_time: args.bake,
        ..PlanOrder::default()
    };
    Order::Deploy {
        app: args.app.clone(),
        release: args.release.clone(),
        dynos: args.dyno.iter().chain(&args.dynos).cloned().collect(),
        canary: args.canary.clone(),
        plan: Box::new(plan),
    }
}

/// Whether a deploy that begins is followed to its end.
fn waits(tell: &Tell) -> bool {
    if let Tell::Deploy(args) = tell {
        return !args.waiting.no_wait;
    }
    if let Tell::Promote { waiting, .. } | Tell::Rollback { waiting, .. } | Tell::Restart { waiting, .. } =
        tell
    {
        return !waiting.no_wait;
    }
    false
}

/// A daemon that is asked, and how its answers are shown.
struct Asked {
    client: Client,
    json: bool,
}

impl Asked {
    async fn tell(&self, tell: &Tell) -> Result<Done, Trouble> {
        let (order, waits) = (order(tell), waits(tell));
        // What a rollback does depends on whether a deploy runs, and so does what is its good end.
        let running = if let Tell::Rollback { app, .. } = tell
            && waits
        {
            self.running(app).await?
        } else {
            None
        };
        let answer = self.client.give(&order).await?;
        let receipt: Receipt = client::read(&answer)?;
        let Some(id) = receipt.deploy.filter(|_| waits) else {
            return Ok(self.shown(&answer, |_| show::line(&receipt.text)));
        };
        let until = if running == Some(id) {
            Until::RolledBack
        } else if matches!(order, Order::Deploy { canary: Some(_), .. }) {
            Until::Canary
        } else {
            Until::Done
        };
        follow::follow(&self.client, id, until, self.json).await
    }

    /// The deploy of the app that runs.
    async fn running(&self, app: &str) -> Result<Option<u64>, Trouble> {
        let deploys = self.client.get(&client::path("/v1/deploys", &[("app", Some(app))])).await?;
        let mut deploys = deploys.as_array().into_iter().flatten();
        Ok(deploys.find(|deploy| deploy["ended"].is_null()).and_then(|deploy| deploy["id"].as_u64()))
    }

    async fn look(&self, look: &Look) -> Result<Done, Trouble> {
        let of_app =
            |app: &str, what: &str| client::path(&format!("/v1/apps/{}/{what}", client::part(app)), &[]);
        let (path, show): (String, fn(&Value) -> String) = match look {
            Look::Status => ("/v1/status".to_owned(), show::status),
            Look::Apps => ("/v1/apps".to_owned(), show::apps),
            Look::Dynos { app: Some(app) } => (of_app(app, "dynos"), show::dynos),
            Look::Dynos { app: None } => ("/v1/status".to_owned(), show::all_dynos),
            Look::Releases { app } => (of_app(app, "releases"), show::releases),
            Look::Deploys { app } => (client::path("/v1/deploys", &[("app", app.as_deref())]), show::deploys),
            Look::Audit(AuditArgs { verify: true, .. }) => ("/v1/audit/verify".to_owned(), show::verified),
            Look::Audit(AuditArgs { app, limit, .. }) => {
                let limit = limit.map(|limit| limit.to_string());
                let query = [("app", app.as_deref()), ("limit", limit.as_deref())];
                (client::path("/v1/audit", &query), show::audit)
            }
        };
        let answer = self.client.get(&path).await?;
        Ok(self.shown(&answer, show))
    }

    fn shown(&self, answer: &Value, show: impl Fn(&Value) -> String) -> Done {
        let out = if self.json { format!("{answer:#}\n") } else { show(answer) };
        Done { out, failed: None }
    }
}
