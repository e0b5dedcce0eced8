//! Watches over dynos that serve: who has answered no request for a while is probed, as one of its requests; what is
//! then thought of it is the core's to say.
//!
//! One task looks at each app every `health.interval`. A dyno that has answered since the last look is well; a busy one
//! is left alone; an idle one is probed over its lease, so that a probe never overlaps with a request. A probe that is
//! still without an answer at the next look counts as another bad one: the dyno holds on to it as to any request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use router_core::change::{Change, DynoHealth};
use router_core::ids::{Address, AppId};
use router_core::snapshot::{AppSnapshot, DynoSnapshot, DynoState};
use router_core::{Probed, Router};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::config::health::{Health, Probe, ProbeKind};
use crate::metrics::Meters;
use crate::probe::probe_serving;

/// Probes under way at once, over all apps.
const PROBES: usize = 64;

/// How the dynos of each app are probed.
pub type Plan = BTreeMap<AppId, Health>;

/// The task that watches. Dropping it ends the task.
#[derive(Debug)]
pub struct Watch {
    plan: watch::Sender<Plan>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to watch over the dynos of a router.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(router: Router, meters: Meters, plan: Plan) -> Self {
        let (plan, told) = watch::channel(plan);
        let watcher = Watcher {
            router,
            meters,
            plan: told,
            apps: BTreeMap::new(),
            probes: JoinSet::new(),
            running: BTreeMap::new(),
            slots: Arc::new(Semaphore::new(PROBES)),
        };
        Self { plan, task: tokio::spawn(watcher.run()) }
    }

    /// Another plan, from now on. An app whose part of it is the same is looked at when it was to be.
    pub fn set(&self, plan: Plan) {
        self.plan.send_replace(plan);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    router: Router,
    meters: Meters,
    plan: watch::Receiver<Plan>,
    apps: BTreeMap<AppId, Watched>,
    probes: JoinSet<Found>,
    /// Who is being probed.
    running: BTreeMap<(AppId, Address), AbortHandle>,
    slots: Arc<Semaphore>,
}

/// An app.
struct Watched {
    health: Health,
    next: Instant,
    dynos: BTreeMap<Address, Seen>,
}

/// A dyno as it was at the last look.
#[derive(Clone, Copy)]
struct Seen {
    answered: u64,
    ejected: bool,
}

/// What a probe has found.
struct Found {
    app: AppId,
    dyno: DynoSnapshot,
    /// `None`: the dyno had something else to do.
    result: Option<Result<(), String>>,
}

impl Watcher {
    async fn run(mut self) {
        self.renew();
        loop {
            let next = self.apps.values().map(|app| app.next).min();
            tokio::select! {
                // What is known comes before what is to be asked.
                biased;
                changed = self.plan.changed() => match changed {
                    Ok(()) => self.renew(),
                    Err(_) => return,
                },
                Some(found) = self.probes.join_next(), if !self.probes.is_empty() => {
                    if let Ok(found) = found {
                        self.hear(found);
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.look(),
            }
        }
    }

    /// Takes the plan over.
    fn renew(&mut self) {
        let plan = self.plan.borrow_and_update().clone();
        let mut before = std::mem::take(&mut self.apps);
        let now = Instant::now();
        for (id, health) in plan {
            let app = match before.remove(&id) {
                Some(app) if app.health == health => app,
                other => Watched {
                    next: now + health.interval,
                    health,
                    dynos: other.map(|app| app.dynos).unwrap_or_default(),
                },
            };
            self.apps.insert(id, app);
        }
    }

    /// Looks at every app whose time has come.
    fn look(&mut self) {
        let now = Instant::now();
        self.running.retain(|_, probe| !probe.is_finished());
        let due: Vec<AppId> =
            self.apps.iter().filter(|(_, app)| app.next <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            let Some(app) = self.apps.get_mut(&id) else { continue };
            app.next = now + app.health.interval;
            let probe = app.health.probe();
            let Some(seen) = self.router.app(&id).map(|app| app.snapshot()) else {
                app.dynos.clear();
                continue;
            };
            let before = std::mem::take(&mut app.dynos);
            app.dynos = seen.dynos.iter().map(|dyno| (dyno.address, Seen::of(dyno))).collect();
            tell_ejections(&id, &before, &seen);
            // What an app is paused for may well look like an illness of its dynos.
            if seen.held.is_none() {
                for dyno in seen.dynos {
                    let before = before.get(&dyno.address).copied();
                    self.look_at(&id, dyno, before, &probe);
                }
            }
        }
    }

    fn look_at(&mut self, app: &AppId, dyno: DynoSnapshot, before: Option<Seen>, probe: &Probe) {
        let out = dyno.state == DynoState::Unhealthy;
        if probe.kind == ProbeKind::None {
            if out {
                // Nobody will ask it any more.
                let ready = Change::SetDyno(app.clone(), dyno.address, DynoHealth::Ready);
                let _ = self.router.apply(&[ready]);
            }
            return;
        }
        if self.running.contains_key(&(app.clone(), dyno.address)) {
            return;
        }
        if dyno.probing {
            let result = Some(Err("still no answer".to_owned()));
            return self.hear(Found { app: app.clone(), dyno, result });
        }
        let quiet = before.is_some_and(|before| before.answered == dyno.answered);
        let idle = dyno.state == DynoState::Idle && quiet;
        if dyno.in_flight == 0 && (idle || out) {
            self.probe(app.clone(), dyno, probe.clone());
        }
    }

    fn probe(&mut self, app: AppId, dyno: DynoSnapshot, probe: Probe) {
        let (router, slots, key) =
            (self.router.clone(), Arc::clone(&self.slots), (app.clone(), dyno.address));
        let handle = self.probes.spawn(async move {
            let _slot = slots.acquire().await;
            let lease = router.app(&app).and_then(|app| router.try_lease_dyno(&app, dyno.address));
            let result = match lease {
                Some(lease) => Some(probe_serving(&probe, lease).await),
                None => None,
            };
            Found { app, dyno, result }
        });
        self.running.insert(key, handle);
    }

    /// A probe has an end.
    fn hear(&self, Found { app, dyno, result }: Found) {
        let Some(result) = result else { return };
        let Some(app_ref) = self.router.app(&app) else { return };
        self.meters.probed(&app, result.is_ok());
        let (name, address) = (&dyno.name, dyno.address);
        let cause = result.as_ref().err().map_or("", String::as_str);
        match self.router.probed(&app_ref, address, result.is_ok()) {
            Probed::Same => {
                if result.is_err() {
                    tracing::debug!("app {app}: dyno {name} at {address} was probed: {cause}");
                }
            }
            Probed::Out => tracing::warn!("app {app}: dyno {name} at {address} is taken out: {cause}"),
            Probed::Kept => tracing::warn!(
                "app {app}: dyno {name} at {address} is not well ({cause}), and stays: too many others are out already"
            ),
            Probed::Back => tracing::info!("app {app}: dyno {name} at {address} is well again"),
        }
    }
}

impl Seen {
    fn of(dyno: &DynoSnapshot) -> Self {
        Self { answered: dyno.answered, ejected: dyno.ejected }
    }
}

/// Dynos that have been ejected since the last look, or have answered well since.
fn tell_ejections(app: &AppId, before: &BTreeMap<Address, Seen>, seen: &AppSnapshot) {
    let was: BTreeSet<&Address> = before.iter().filter(|(_, seen)| seen.ejected).map(|(at, _)| at).collect();
    for dyno in &seen.dynos {
        let (name, address) = (&dyno.name, dyno.address);
        match (was.contains(&address), dyno.ejected) {
            (false, true) => tracing::warn!(
                "app {app}: dyno {name} at {address} is ejected: it fails, and faster than others answer"
            ),
            (true, false) => tracing::info!("app {app}: dyno {name} at {address} is no longer ejected"),
            (true, true) | (false, false) => {}
        }
    }
}
