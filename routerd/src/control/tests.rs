//! Tests of the words of control: who may give which order, and what is refused without asking the daemon.

use std::time::Duration;

use router_core::policy::deploy::{self, Plan};

use super::*;
use crate::config::units::Period;

fn deploy(dynos: &[&str], plan: PlanOrder) -> Order {
    let dynos = dynos.iter().map(|dyno| (*dyno).to_owned()).collect();
    Order::Deploy {
        app: "shop".to_owned(),
        release: "v2".to_owned(),
        dynos,
        canary: None,
        plan: Box::new(plan),
    }
}

/// Every order, those that name an app with `shop`.
fn orders() -> Vec<Order> {
    let (app, dyno) = (|| "shop".to_owned(), || "web.1".to_owned());
    vec![
        Order::Reload,
        deploy(&["127.0.0.1:3001"], PlanOrder::default()),
        Order::Promote { app: app(), from: None },
        Order::Promote { app: app(), from: Some("shop-staging".to_owned()) },
        Order::RollBack { app: app(), why: None },
        Order::Canary { app: app(), rule: "10%".parse().unwrap() },
        Order::Pause { app: app(), at_most: None },
        Order::Resume { app: app(), over: None },
        Order::Maintenance { app: app(), on: true },
        Order::Drain { app: app(), dyno: dyno() },
        Order::Undrain { app: app(), dyno: dyno() },
        Order::Restart { app: app() },
        Order::Upgrade,
    ]
}

#[test]
fn what_may_be_asked_is_decided_by_role_and_apps_alone() {
    let scopes = [
        ("all", Scope::All),
        ("shop", Scope::parse(["shop"]).unwrap()),
        ("shop*", Scope::parse(["blog", "shop*"]).unwrap()),
        ("other", Scope::parse(["blog"]).unwrap()),
        ("none", Scope::parse([]).unwrap()),
    ];
    for order in orders() {
        for role in Role::ALL {
            for (name, apps) in &scopes {
                // Written out once more, as a table of who may what.
                let needs =
                    if matches!(order, Order::Reload | Order::Upgrade) { Role::Admin } else { Role::Deploy };
                let covers: &[&str] = if matches!(order, Order::Reload | Order::Upgrade) {
                    &["all"]
                } else if matches!(order, Order::Promote { from: Some(_), .. }) {
                    &["all", "shop*"]
                } else {
                    &["all", "shop", "shop*"]
                };
                let covered = covers.contains(name);
                let actor = Actor { name: "ci".to_owned(), from: None, role, apps: apps.clone() };
                let answer = may(&actor, &order);
                assert_eq!(answer.is_ok(), role >= needs && covered, "{role} {name} {order:?}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_refusal_says_what_would_be_needed() {
    let only = Scope::parse(["shop"]).unwrap();
    let actor = Actor { name: "ci".to_owned(), from: None, role: Role::Read, apps: only };
    let why = |needs, app| actor.may(needs, app).unwrap_err();
    assert_eq!(why(Role::Deploy, Some("shop")).text, "this needs the role deploy, and ci has the role read");
    assert_eq!(why(Role::Read, Some("blog")).text, "ci has no say over the app blog, only over shop");
    assert_eq!(why(Role::Read, None).kind, RefusalKind::Forbidden);
}

#[test]
fn names_in_a_path_cannot_leave_their_place() {
    let drain = Order::Drain { app: "shop".to_owned(), dyno: "[::1]:30/..?#%".to_owned() };
    assert_eq!(drain.path(), "/v1/apps/shop/dynos/%5B::1%5D:30%2F..%3F%23%25/drain");
}

#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    assert!(orders().iter().all(|order| order.check().is_ok()));
    let why = |order: Order| {
        let refusal = order.check().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        refusal.text
    };
    assert!(why(deploy(&["localhost:1"], PlanOrder::default())).contains("dns:localhost:1"));
    let plan = PlanOrder { rise: Some(11), ..PlanOrder::default() };
    assert_eq!(why(deploy(&["127.0.0.1:1"], plan)), "rise is out of bounds: allowed are 1 to 10");
    let rule: CanaryOrder = "100%".parse().unwrap();
    let canary = Order::Canary { app: "shop".to_owned(), rule };
    assert_eq!(why(canary), "canary is out of bounds: allowed are 1 to 99 percent");
    let release = Order::Deploy {
        app: "shop".to_owned(),
        release: "a b".to_owned(),
        dynos: vec!["127.0.0.1:1".to_owned()],
        canary: None,
        plan: Box::default(),
    };
    assert!(why(release).starts_with("\"a b\" is no name"));
    for reason in ["two\nlines".to_owned(), "x".repeat(501)] {
        assert!(why(Order::RollBack { app: "shop".to_owned(), why: Some(reason) }).contains("500 bytes"));
    }
    let itself = Order::Promote { app: "shop".to_owned(), from: Some("shop".to_owned()) };
    assert_eq!(why(itself), "shop cannot be promoted from itself");
}

#[test]
fn a_plan_keeps_what_an_order_does_not_say() {
    let text = r#"{"ready_when": "80%", "pace": "1 every 10s", "bake_limits": {"service_ratio": 0}}"#;
    let order: PlanOrder = serde_json::from_str(text).unwrap();
    let base = Plan::default().with_bake_time(Duration::from_secs(60));
    let plan = order.over(base.clone()).unwrap();
    assert_eq!(plan.ready_when, deploy::ReadyWhen::Share(80));
    assert_eq!(plan.bake_limits.service_ratio, None);
    assert_eq!((plan.bake_time, plan.rise), (Duration::from_secs(60), base.rise));
    assert_eq!(PlanOrder::default().over(base.clone()), Ok(base));
    let every = PlanOrder { probe_every: Some(Period(Duration::ZERO)), ..PlanOrder::default() };
    assert!(every.over(Plan::default()).is_err());
    let unknown = serde_json::from_str::<PlanOrder>(r#"{"speed": "fast"}"#).unwrap_err();
    assert!(unknown.to_string().starts_with("unknown field `speed`"), "{unknown}");
}
