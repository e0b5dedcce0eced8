//! Orders: each with who may give it, what its request looks like, and what of it can be checked without knowing more.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use router_core::policy::deploy::{Plan, PlanError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CanaryOrder, Pace, ReadyWhen, Refusal, RefusalKind, Role};
use crate::config::DynoSource;
use crate::config::access::is_name;
use crate::config::units::Period;

/// What is not written as it is in a part of a path.
pub(crate) const PART: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// A reason may have this many bytes.
const WHY_MAX: usize = 500;

/// What can be asked of a running daemon. Apps and dynos are named as the configuration and the status page name them;
/// a dyno's address does as well as its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Put the configuration file in place as it is now.
    Reload,
    /// Let a new release take over from the present one.
    Deploy {
        /// Of which app.
        app: String,
        /// The new release's name.
        release: String,
        /// Its dynos, as in the configuration: addresses, `dns:` and `srv:`.
        dynos: Vec<String>,
        /// Requests that the new release serves before it is promoted; `None`: no canary.
        canary: Option<CanaryOrder>,
        /// How it is to go.
        plan: Box<PlanOrder>,
    },
    /// Go on from a canary, or bring another app's release here.
    Promote {
        /// Which app gets the release.
        app: String,
        /// `None`: the canary that runs becomes the release. Otherwise that app's release and very dynos move here.
        from: Option<String>,
    },
    /// Take the running deploy back; without one, deploy the previous release again.
    RollBack {
        /// Of which app.
        app: String,
        /// The reason, for the trail.
        why: Option<String>,
    },
    /// Change which requests a running canary serves.
    Canary {
        /// Of which app.
        app: String,
        /// The new rule.
        rule: CanaryOrder,
    },
    /// Hold requests in line; those that run go on.
    Pause {
        /// Of which app.
        app: String,
        /// The app resumes by itself after that long.
        at_most: Option<Duration>,
    },
    /// End a pause.
    Resume {
        /// Of which app.
        app: String,
        /// How long it takes until all dynos work again; zero: at once.
        over: Option<Duration>,
    },
    /// Refuse requests with a page that says so, or stop doing so.
    Maintenance {
        /// Of which app.
        app: String,
        /// Whether to begin or to end.
        on: bool,
    },
    /// Give a dyno no further request.
    Drain {
        /// Of which app.
        app: String,
        /// Its name or address.
        dyno: String,
    },
    /// Give a drained dyno requests again.
    Undrain {
        /// Of which app.
        app: String,
        /// Its name or address.
        dyno: String,
    },
    /// Start each dyno's process anew, one after the other, losing no request.
    Restart {
        /// Of which app.
        app: String,
    },
    /// Hand over to the program that is on disk now.
    Upgrade,
}

/// How a deploy is to go. What is not said is as the app has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanOrder {
    /// How many new dynos have to be ready before the first of them serves: "all", "3" or "80%".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_when: Option<ReadyWhen>,
    /// Good probes in a row that make a dyno ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// From a probe's answer to the next probe of the same dyno.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_every: Option<Period>,
    /// The longest a dyno may take to be ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_timeout: Option<Period>,
    /// The longest a canary waits to be promoted. Then the deploy is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_time: Option<Period>,
    /// How fast new dynos replace old ones: "at once", "1 every 10s" or "25% every 1m".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
    /// How long a busy old dyno may take for its last requests before nobody waits for it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Period>,
    /// How long the new release is watched once it serves alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake_time: Option<Period>,
    /// What takes it back while it is watched.
    #[serde(skip_serializing_if = "BakeOrder::is_empty")]
    pub bake_limits: BakeOrder,
}

/// What a new release may do worse than the old one before it is taken back. What is not said is as the app has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BakeOrder {
    /// Requests of the new release before it is judged at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u64>,
    /// How many percentage points its fault rate may be above the old one; 100 never judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_points: Option<u32>,
    /// How large its fault rate may be, in percent of the old one, 100 and more; 0 never judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_ratio: Option<u32>,
    /// How long its mean service time may be, in percent of the old one, 100 and more; 0 never judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_ratio: Option<u32>,
}

impl BakeOrder {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PlanOrder {
    /// A plan with what is said here in the place of what it had.
    ///
    /// # Errors
    /// The first setting that is out of its bounds.
    pub fn over(&self, mut plan: Plan) -> Result<Plan, PlanError> {
        let Self {
            ready_when,
            rise,
            probe_every,
            boot_timeout,
            canary_time,
            pace,
            drain_timeout,
            bake_time,
            ..
        } = self;
        let BakeOrder { min_requests, fault_points, fault_ratio, service_ratio } = &self.bake_limits;
        set(&mut plan.ready_when, ready_when.as_ref().map(|text| text.0));
        set(&mut plan.rise, *rise);
        set(&mut plan.probe_every, probe_every.map(|period| period.0));
        set(&mut plan.boot_timeout, boot_timeout.map(|period| period.0));
        set(&mut plan.canary_time, canary_time.map(|period| period.0));
        set(&mut plan.pace, pace.as_ref().map(|text| text.0));
        set(&mut plan.drain_timeout, drain_timeout.map(|period| period.0));
        set(&mut plan.bake_time, bake_time.map(|period| period.0));
        set(&mut plan.bake_limits.min_requests, *min_requests);
        set(&mut plan.bake_limits.fault_points, *fault_points);
        set(
            &mut plan.bake_limits.fault_ratio,
            fault_ratio.map(|ratio| Some(ratio).filter(|ratio| *ratio > 0)),
        );
        set(
            &mut plan.bake_limits.service_ratio,
            service_ratio.map(|ratio| Some(ratio).filter(|ratio| *ratio > 0)),
        );
        plan.check().map(|()| plan)
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Body of `POST /v1/apps/{app}/deploys`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    /// The new release's name: letters, digits, `-`, `_` and `.`, at most 100 characters.
    pub release: String,
    /// Its dynos: "127.0.0.1:3001", "dns:web.shop.internal:3000" or "srv:_http._tcp.shop.internal".
    pub dynos: Vec<String>,
    /// Requests that the new release serves before it is promoted: "10%", "header:NAME=VALUE" or "cookie:NAME=VALUE".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryOrder>,
    /// How it is to go.
    #[serde(default)]
    pub plan: PlanOrder,
}

/// Body of `POST /v1/apps/{app}/promote`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromoteBody {
    /// The app whose release and dynos move here. Without it, the canary that runs becomes the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Body of `POST /v1/apps/{app}/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RollBackBody {
    /// The reason, for the trail: one line of at most 500 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Body of `POST /v1/apps/{app}/canary`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryBody {
    /// Requests that the canary serves from now on: "10%", "header:NAME=VALUE" or "cookie:NAME=VALUE".
    pub rule: CanaryOrder,
}

/// Body of `POST /v1/apps/{app}/pause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PauseBody {
    /// The app resumes by itself after that long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Period>,
}

/// Body of `POST /v1/apps/{app}/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResumeBody {
    /// How long it takes until all dynos work again; "0s": at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<Period>,
}

/// Body of `POST /v1/apps/{app}/maintenance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceBody {
    /// Whether to begin or to end.
    pub on: bool,
}

/// A body with nothing in it; none at all is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Order {
    /// Who may give it: whoever has a say over an app may change it, an admin the daemon as a whole.
    pub fn needs(&self) -> Role {
        match self {
            Self::Reload | Self::Upgrade => Role::Admin,
            Self::Deploy { .. } | Self::Promote { .. } | Self::RollBack { .. } | Self::Canary { .. } => {
                Role::Deploy
            }
            Self::Pause { .. } | Self::Resume { .. } | Self::Maintenance { .. } => Role::Deploy,
            Self::Drain { .. } | Self::Undrain { .. } | Self::Restart { .. } => Role::Deploy,
        }
    }

    /// The app that it changes; `None`: the daemon as a whole.
    pub fn app(&self) -> Option<&str> {
        match self {
            Self::Reload | Self::Upgrade => None,
            Self::Deploy { app, .. }
            | Self::Promote { app, .. }
            | Self::RollBack { app, .. }
            | Self::Canary { app, .. }
            | Self::Pause { app, .. }
            | Self::Resume { app, .. }
            | Self::Maintenance { app, .. }
            | Self::Drain { app, .. }
            | Self::Undrain { app, .. }
            | Self::Restart { app } => Some(app),
        }
    }

    /// How much longer than others it may take. To start a program anew takes as long as the program.
    pub fn longer(&self) -> Duration {
        if *self == Self::Upgrade { Duration::from_secs(120) } else { Duration::ZERO }
    }

    /// What is asked, as one word: for logs and the audit trail.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Deploy { .. } => "deploy",
            Self::Promote { .. } => "promote",
            Self::RollBack { .. } => "rollback",
            Self::Canary { .. } => "canary",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Maintenance { .. } => "maintenance",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::Restart { .. } => "restart",
            Self::Upgrade => "upgrade",
        }
    }

    /// The path of its request, of which [`body`](Self::body) is the body. Names are percent-encoded.
    pub fn path(&self) -> String {
        let part = |name: &str| utf8_percent_encode(name, PART).to_string();
        let verb = if let Self::Deploy { .. } = self { "deploys" } else { self.verb() };
        match (self.app(), self) {
            (None, _) => format!("/v1/{verb}"),
            (Some(app), Self::Drain { dyno, .. } | Self::Undrain { dyno, .. }) => {
                format!("/v1/apps/{}/dynos/{}/{verb}", part(app), part(dyno))
            }
            (Some(app), _) => format!("/v1/apps/{}/{verb}", part(app)),
        }
    }

    /// What is asked beside the verb, the app and the dyno: the body of its request.
    pub fn body(&self) -> Value {
        match self.clone() {
            Self::Deploy { release, dynos, canary, plan, .. } => {
                json(DeployBody { release, dynos, canary, plan: *plan })
            }
            Self::Promote { from, .. } => json(PromoteBody { from }),
            Self::RollBack { why, .. } => json(RollBackBody { why }),
            Self::Canary { rule, .. } => json(CanaryBody { rule }),
            Self::Pause { at_most, .. } => json(PauseBody { at_most: at_most.map(Period) }),
            Self::Resume { over, .. } => json(ResumeBody { over: over.map(Period) }),
            Self::Maintenance { on, .. } => json(MaintenanceBody { on }),
            Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Restart { .. }
            | Self::Reload
            | Self::Upgrade => json(Nothing {}),
        }
    }

    /// Holds what can be judged without knowing the daemon against the rules: names, dynos, bounds of the plan.
    ///
    /// # Errors
    /// [`RefusalKind::Invalid`], with what is allowed.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |text: String| Err(Refusal::new(RefusalKind::Invalid, text));
        match self {
            Self::Deploy { release, dynos, canary, plan, .. } => {
                if !is_name(release) {
                    return invalid(format!(
                        "{release:?} is no name for a release; allowed: letters, digits, -, _ and ., at most 100"
                    ));
                }
                for dyno in dynos {
                    if let Err(why) = DynoSource::parse(dyno) {
                        return invalid(format!("dyno {dyno:?}: {why}; allowed: {}", DynoSource::ALLOWED));
                    }
                }
                let mut base = Plan::default();
                base.canary = canary.as_ref().map(|rule| rule.0.clone());
                plan.over(base).map(drop).or_else(|error| invalid(error.to_string()))
            }
            Self::Canary { rule, .. } => {
                let plan = Plan::default().with_canary(Some(rule.0.clone()));
                plan.check().or_else(|error| invalid(error.to_string()))
            }
            Self::RollBack { why: Some(why), .. }
                if why.len() > WHY_MAX || why.chars().any(char::is_control) =>
            {
                invalid(format!("why: allowed is one line of at most {WHY_MAX} bytes"))
            }
            Self::Promote { app, from: Some(from) } if app == from => {
                invalid(format!("{app} cannot be promoted from itself"))
            }
            Self::RollBack { .. } | Self::Promote { .. } | Self::Pause { .. } | Self::Resume { .. } => Ok(()),
            Self::Maintenance { .. } | Self::Drain { .. } | Self::Undrain { .. } | Self::Restart { .. } => {
                Ok(())
            }
            Self::Reload | Self::Upgrade => Ok(()),
        }
    }
}

/// Our bodies are texts, numbers and lists of them: nothing that JSON could not say.
fn json(body: impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or(Value::Null)
}
