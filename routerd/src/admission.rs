//! Who an app lets in, how often, with what password, and whom it sends elsewhere: asked about each request, before
//! anything of it waits.

mod auth;
mod rate;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Response;
use http::header::LOCATION;
use router_core::clock::Clock;
use router_core::fault::Fault;
use router_core::ids::AppId;
use router_core::proxy::{Asking, Refusal, Verdict};

use self::auth::{Auth, Checks};
use self::rate::Buckets;
use crate::config::door::{Admission, Per};
use crate::config::redirects::Redirect;
use crate::config::{App, Config, Web};
use crate::door::place;

/// The guards of all apps that have one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guards {
    apps: Arc<ArcSwap<HashMap<AppId, Guard>>>,
    checks: Checks,
}

struct Guard {
    rules: Admission,
    redirects: Vec<Redirect>,
    auth: Shut,
    /// What has been counted: it outlives a change of anything but the limit itself.
    buckets: Option<Arc<Buckets>>,
}

/// Whether a password is needed.
enum Shut {
    No,
    ByPassword(Auth),
    /// It is, and the system gives no random bits to do it with.
    ForAll,
}

impl Guards {
    pub(crate) fn new() -> Self {
        Self { apps: Arc::default(), checks: Checks::new() }
    }

    /// Puts the guards of a configuration in place, for requests from now on. A rate limit that stays as it is goes on
    /// with what it has counted.
    pub(crate) fn set(&self, config: &Config, clock: &Clock) {
        let before = self.apps.load();
        let guarded = config.apps.iter().filter(|app| {
            let Web { redirects, auth, .. } = &app.web;
            app.admission != Admission::default() || !redirects.is_empty() || auth.is_some()
        });
        let guards = guarded.map(|app| {
            let guard = Guard::new(app, before.get(&app.spec.id), &self.checks, clock);
            (app.spec.id.clone(), guard)
        });
        self.apps.store(Arc::new(guards.collect()));
    }

    pub(crate) fn ask(&self, asking: &Asking<'_>, clock: &Clock) -> Verdict {
        let guards = self.apps.load();
        let Some(guard) = guards.get(asking.app) else { return Verdict::Pass };
        if let Err(refusal) = guard.let_in(asking, clock) {
            return Verdict::Refuse(refusal);
        }
        if let Some(there) = guard.elsewhere(asking) {
            return Verdict::Answer(Box::new(there));
        }
        match &guard.auth {
            Shut::No => Verdict::Pass,
            Shut::ByPassword(auth) => auth.ask(asking),
            Shut::ForAll => Verdict::Refuse(Refusal::new(Fault::Platform)),
        }
    }
}

impl Guard {
    fn new(app: &App, before: Option<&Self>, checks: &Checks, clock: &Clock) -> Self {
        let rules = app.admission.clone();
        let same = before.filter(|before| before.rules.rate_limit == rules.rate_limit);
        let buckets = match same {
            Some(same) => same.buckets.clone(),
            None => rules.rate_limit.as_ref().map(|limit| Arc::new(Buckets::new(limit, clock.now()))),
        };
        let auth = match (&app.web.auth, before.map(|before| &before.auth)) {
            (None, _) => Shut::No,
            // What was right stays known.
            (Some(wanted), Some(Shut::ByPassword(auth))) if auth.is_of(wanted) => {
                Shut::ByPassword(auth.clone())
            }
            (Some(wanted), _) => {
                Auth::new(wanted.clone(), checks, clock).map_or(Shut::ForAll, Shut::ByPassword)
            }
        };
        Self { rules, redirects: app.web.redirects.clone(), auth, buckets }
    }

    fn let_in(&self, asking: &Asking<'_>, clock: &Clock) -> Result<(), Refusal> {
        let Admission { allow, deny, rate_limit } = &self.rules;
        let let_in = allow.is_empty() || allow.has(asking.address);
        if !let_in || deny.has(asking.address) {
            return Err(Refusal::new(Fault::Forbidden));
        }
        let (Some(limit), Some(buckets)) = (rate_limit, &self.buckets) else { return Ok(()) };
        let taken = match &limit.per {
            Per::App => buckets.take(&(), clock.now()),
            Per::Ip => buckets.take(&place(asking.address), clock.now()),
            Per::Header(name) => match asking.headers.get(name) {
                Some(value) => buckets.take(value.as_bytes(), clock.now()),
                None => buckets.take(&place(asking.address), clock.now()),
            },
        };
        taken.map_err(|retry_after| Refusal { retry_after, ..Refusal::new(Fault::RateLimit) })
    }

    /// The answer that sends it elsewhere, if a rule does.
    fn elsewhere(&self, asking: &Asking<'_>) -> Option<Response<()>> {
        let (place, status) = self.redirects.iter().find_map(|rule| {
            let place = rule.place(|| asking.bare_host(), asking.path)?;
            Some((place, rule.status()))
        })?;
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        answer.headers_mut().insert(LOCATION, place);
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::uri::PathAndQuery;
    use http::{HeaderMap, Method, Version};

    use super::*;

    fn config(app: &str) -> Config {
        Config::parse(&format!("[apps.shop]\n{app}\n"), "shop.toml").unwrap()
    }

    struct Rig {
        guards: Guards,
        clock: Clock,
        app: AppId,
    }

    impl Rig {
        fn new(app: &str) -> Self {
            let (guards, clock) = (Guards::new(), Clock::system());
            guards.set(&config(app), &clock);
            Self { guards, clock, app: AppId::new("shop") }
        }

        fn ask(&self, address: &str, headers: &HeaderMap) -> Option<Fault> {
            let address: IpAddr = address.parse().unwrap();
            let path = &PathAndQuery::from_static("/");
            let (app, method, version) = (&self.app, &Method::GET, Version::HTTP_11);
            let asking = Asking { app, address, host: "shop.test", path, method, version, headers };
            match self.guards.ask(&asking, &self.clock) {
                Verdict::Refuse(refusal) => Some(refusal.fault),
                Verdict::Pass | Verdict::Answer(_) | Verdict::Later(_) => None,
            }
        }

        fn from(&self, address: &str) -> Option<Fault> {
            self.ask(address, &HeaderMap::new())
        }
    }

    #[test]
    fn deny_wins_over_allow_and_without_allow_all_are_let_in() {
        let rig = Rig::new("allow = ['10.0.0.0/8']\ndeny = ['10.1.0.0/16']");
        for (address, refused) in
            [("10.0.0.1", false), ("10.1.0.1", true), ("192.0.2.1", true), ("::1", true)]
        {
            assert_eq!(rig.from(address), refused.then_some(Fault::Forbidden), "{address}");
        }
        let rig = Rig::new("deny = ['10.1.0.0/16']");
        assert_eq!((rig.from("::1"), rig.from("10.1.0.1")), (None, Some(Fault::Forbidden)));
    }

    #[test]
    fn a_rate_is_counted_by_what_it_is_per() {
        let limited = Some(Fault::RateLimit);
        let rig = Rig::new("rate_limit = { rate = '2/h' }");
        assert_eq!(["1.1.1.1"; 3].map(|from| rig.from(from)), [None, None, limited]);
        assert_eq!(rig.from("1.1.1.2"), None);
        assert_eq!(
            ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|from| rig.from(from)),
            [None, None, limited]
        );
        let rig = Rig::new("rate_limit = { per = 'app', rate = '2/h' }");
        assert_eq!(["1.1.1.1", "1.1.1.2", "1.1.1.3"].map(|from| rig.from(from)), [None, None, limited]);
        let rig = Rig::new("rate_limit = { per = 'header:x-key', rate = '100/h', burst = 1 }");
        let key =
            |value: &'static str| HeaderMap::from_iter([("x-key".parse().unwrap(), value.parse().unwrap())]);
        assert_eq!((rig.ask("1.1.1.1", &key("a")), rig.ask("1.1.1.2", &key("a"))), (None, limited));
        assert_eq!(
            (rig.ask("1.1.1.1", &key("b")), rig.from("1.1.1.1"), rig.from("1.1.1.1")),
            (None, None, limited)
        );
    }

    #[test]
    fn a_limit_that_stays_goes_on_with_what_it_has_counted() {
        let rig = Rig::new("rate_limit = { rate = '1/h' }");
        assert_eq!(rig.from("1.1.1.1"), None);
        rig.guards.set(&config("rate_limit = { rate = '1/h' }\ndeny = ['10.0.0.0/8']"), &rig.clock);
        assert_eq!(rig.from("1.1.1.1"), Some(Fault::RateLimit));
        assert_eq!(rig.from("10.0.0.1"), Some(Fault::Forbidden));
        rig.guards.set(&config("rate_limit = { rate = '2/h' }"), &rig.clock);
        assert_eq!(rig.from("1.1.1.1"), None);
        rig.guards.set(&config(""), &rig.clock);
        assert_eq!(["1.1.1.1"; 4].map(|from| rig.from(from)), [None; 4]);
    }
}
