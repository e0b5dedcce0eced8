//! How a new release replaces the present one: the keys, and the plan they make.

use std::str::FromStr;
use std::time::Duration;

use router_core::policy::deploy::{BakeLimits, Plan};
use schemars::JsonSchema;
use serde::Deserialize;

use super::deploy::{Pace, ReadyWhen};
use super::diff::Shown;
use super::error::Problem;
use super::key::Key;
use super::units::Period;
use super::walk::clip;

/// `deploy = { ... }` of an app.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// How many dynos of a new release must be ready before the first of them serves: `"all"`, a number as in `"3"`,
    /// or a share as in `"80%"`. Fewer than that, until the end of the bake, and the deploy is taken back.
    #[schemars(extend("default" = "all"))]
    pub ready_when: Key<String>,
    /// The longest a new dyno may take to become ready. The old release serves all the while.
    #[schemars(extend("default" = "60s", "x-floor" = "1ms", "x-ceiling" = "1h"))]
    pub boot_timeout: Key<Period>,
    /// From a new dyno's answer to a probe to the next probe.
    #[schemars(extend("default" = "1s", "x-floor" = "1ms", "x-ceiling" = "1m"))]
    pub probe_every: Key<Period>,
    /// How fast new dynos replace old ones: `"at once"`, so many dynos a step as in `"1 every 10s"`, or a share of
    /// them as in `"25% every 1m"`.
    #[schemars(extend("default" = "at once"))]
    pub pace: Key<String>,
    /// The longest a canary waits to be promoted. Then it is taken back.
    #[schemars(extend("default" = "1h", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub canary_time: Key<Period>,
    /// How long an old dyno may take to finish its last request before the deploy ends without it. The request is
    /// not cut, and the new release does not wait for it.
    #[schemars(extend("default" = "5m", "x-floor" = "1ms", "x-ceiling" = "24h"))]
    pub drain_timeout: Key<Period>,
    /// How long the new release is watched once it serves alone; past the limits below it is taken back. `"0s"`: not
    /// at all.
    #[schemars(extend("default" = "0s", "x-floor" = "0s", "x-ceiling" = "24h"))]
    pub bake_time: Key<Period>,
    /// Requests of the new release before it is judged.
    #[schemars(extend("default" = 100, "minimum" = 1, "maximum" = 4_000_000_000u64))]
    pub bake_requests: Key<u32>,
    /// Percentage points by which more requests may fail than of the old release; 100: any number.
    #[schemars(extend("default" = 5, "minimum" = 0, "maximum" = 100))]
    pub bake_faults: Key<u32>,
    /// How often requests may fail, in percent of the old release's rate, from ten failures on; 0: any number.
    #[schemars(extend("default" = 300, "minimum" = 0, "maximum" = 1_000_000))]
    pub bake_fault_ratio: Key<u32>,
    /// How long a request may take on average, in percent of the old release's; 0: any time.
    #[schemars(extend("default" = 200, "minimum" = 0, "maximum" = 1_000_000))]
    pub bake_service_ratio: Key<u32>,
}

impl Deploy {
    /// The plan, and what is wrong with it.
    pub(super) fn plan(&self, app: &str, problems: &mut Vec<Problem>) -> Plan {
        let default = Plan::default();
        let time = |key: &Key<Period>, default: Duration| key.or(Period(default)).0;
        let ratio = |key: &Key<u32>, default| Some(key.or(default)).filter(|ratio| *ratio > 0);
        let limits = BakeLimits::default()
            .with_min_requests(u64::from(self.bake_requests.or(100)))
            .with_fault_points(self.bake_faults.or(5))
            .with_fault_ratio(ratio(&self.bake_fault_ratio, 300))
            .with_service_ratio(ratio(&self.bake_service_ratio, 200));
        let plan = Plan::default()
            .with_ready_when(
                read(&self.ready_when, ReadyWhen(default.ready_when), "ready_when", app, problems).0,
            )
            .with_boot_timeout(time(&self.boot_timeout, default.boot_timeout))
            .with_probe_every(time(&self.probe_every, default.probe_every))
            .with_pace(read(&self.pace, Pace(default.pace), "pace", app, problems).0)
            .with_canary_time(time(&self.canary_time, default.canary_time))
            .with_drain_timeout(time(&self.drain_timeout, default.drain_timeout))
            .with_bake_time(time(&self.bake_time, default.bake_time))
            .with_bake_limits(limits);
        if let Err(error) = plan.check() {
            let spans = [&self.bake_fault_ratio, &self.bake_service_ratio].map(Key::span);
            let span = spans.into_iter().flatten().chain(self.pace.span()).next();
            let message = format!("apps.{}.deploy: {error}", clip(app));
            problems.push(span.map_or_else(
                || Problem::of_file(message.clone()),
                |span| Problem::new(span, message.clone()),
            ));
        }
        plan
    }
}

fn read<T: FromStr<Err = String>>(
    key: &Key<String>,
    default: T,
    name: &str,
    app: &str,
    problems: &mut Vec<Problem>,
) -> T {
    let (Some(text), Some(span)) = (key.value(), key.span()) else { return default };
    match text.parse() {
        Ok(value) => value,
        Err(allowed) => {
            let message = format!("apps.{}.deploy.{name}: this says nothing", clip(app));
            problems
                .push(Problem::new(span, message).found(format!("found \"{}\"", clip(text))).help(allowed));
            default
        }
    }
}

/// The keys and their values, as they would be written.
pub(super) fn keys(plan: &Plan) -> Vec<(&'static str, Shown)> {
    let time = |time: Duration| Shown::One(Period(time).to_string());
    let number = |number: u64| Shown::One(number.to_string());
    let limits = &plan.bake_limits;
    vec![
        ("deploy.ready_when", Shown::One(ReadyWhen(plan.ready_when).to_string())),
        ("deploy.boot_timeout", time(plan.boot_timeout)),
        ("deploy.probe_every", time(plan.probe_every)),
        ("deploy.pace", Shown::One(Pace(plan.pace).to_string())),
        ("deploy.canary_time", time(plan.canary_time)),
        ("deploy.drain_timeout", time(plan.drain_timeout)),
        ("deploy.bake_time", time(plan.bake_time)),
        ("deploy.bake_requests", number(limits.min_requests)),
        ("deploy.bake_faults", number(limits.fault_points.into())),
        ("deploy.bake_fault_ratio", number(limits.fault_ratio.unwrap_or(0).into())),
        ("deploy.bake_service_ratio", number(limits.service_ratio.unwrap_or(0).into())),
    ]
}
