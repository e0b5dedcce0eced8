//! Between discovery and the router: what was found, and what of it the router is told while a deploy runs.
//!
//! Discovery speaks at any time, and a deploy needs the dynos of its app to itself. So what is found goes into a feed
//! here. The feed that is an app's own passes on to the router, unless the gate of the app is closed; a deploy's
//! feed only keeps. When the gate is opened again the router is brought in step with the app's own feed, whichever
//! that is by then. Dynos that were drained by hand do not pass until they are let in again or are no longer found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use router_core::Router;
use router_core::change::{Change, DynoHealth, DynoSpec};
use router_core::ids::{Address, AppId};
use router_core::snapshot::DynoState;
use router_core::sync::Mutex;

/// Names one discovery of an app.
pub type FeedId = u64;
/// What a grid of processes tells, of its one app.
pub const GRID: FeedId = 0;

/// The gates of all apps.
pub struct Gate {
    router: Router,
    apps: Mutex<BTreeMap<AppId, Entry>>,
    /// What the router refuses is no news.
    quiet: AtomicBool,
}

#[derive(Default)]
struct Entry {
    /// The app's own.
    own: FeedId,
    feeds: BTreeMap<FeedId, BTreeMap<Address, DynoSpec>>,
    closed: bool,
    drained: BTreeSet<Address>,
}

impl Gate {
    /// In front of that router, with every gate open.
    pub fn new(router: Router) -> Self {
        Self { router, apps: Mutex::default(), quiet: AtomicBool::new(false) }
    }

    /// Takes what a feed found. Gives back what the router refused, to be offered again: for example a dyno that
    /// another app still has.
    pub fn pass(&self, feed: FeedId, changes: Vec<Change>) -> Vec<Change> {
        let mut apps = self.apps.lock();
        let passing: Vec<_> = changes.into_iter().filter(|change| note(&mut apps, feed, change)).collect();
        self.tell(passing)
    }

    /// Makes a feed the app's own. Takes effect when the gate is opened.
    pub fn adopt(&self, app: &AppId, feed: FeedId) {
        let mut apps = self.apps.lock();
        let entry = apps.entry(app.clone()).or_default();
        let before = std::mem::replace(&mut entry.own, feed);
        // Another one may belong to a deploy that a restart has interrupted.
        if before != feed {
            entry.feeds.remove(&before);
        }
        entry.feeds.entry(feed).or_default();
    }

    /// Forgets a feed that is not the app's own.
    pub fn forget_feed(&self, app: &AppId, feed: FeedId) {
        if let Some(entry) = self.apps.lock().get_mut(app) {
            entry.feeds.remove(&feed);
        }
    }

    /// Forgets an app that is gone.
    pub fn forget(&self, app: &AppId) {
        self.apps.lock().remove(app);
    }

    /// What a feed has found.
    pub fn found(&self, app: &AppId, feed: FeedId) -> Vec<DynoSpec> {
        let apps = self.apps.lock();
        let found = apps.get(app).and_then(|entry| entry.feeds.get(&feed));
        found.map(|found| found.values().cloned().collect()).unwrap_or_default()
    }

    /// What an app's own feed has found and is not drained by hand.
    pub fn wanted(&self, app: &AppId) -> Vec<DynoSpec> {
        self.apps.lock().get(app).map(|entry| entry.wanted().cloned().collect()).unwrap_or_default()
    }

    /// While a reload is under way, apps that come may ask for dynos of apps that are about to go: that is nothing to
    /// warn of.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// From now on nothing passes for this app.
    pub fn close(&self, app: &AppId) {
        self.apps.lock().entry(app.clone()).or_default().closed = true;
    }

    /// From now on nothing passes for any app. No deploy is under way.
    pub fn close_all(&self) {
        self.apps.lock().values_mut().for_each(|entry| entry.closed = true);
    }

    /// Opens all gates again.
    pub fn open_all(&self) {
        let apps: Vec<_> = self.apps.lock().keys().cloned().collect();
        apps.iter().for_each(|app| self.open(app));
    }

    /// Opens the gate again and brings the router in step with the app's own feed.
    pub fn open(&self, app: &AppId) {
        let mut apps = self.apps.lock();
        let Some(entry) = apps.get_mut(app) else { return };
        entry.closed = false;
        let changes = entry.difference(app, &self.router);
        self.tell(changes);
    }

    /// Takes dynos out by hand; they finish what they have. `false`: nothing of the app has that address.
    pub fn drain(&self, app: &AppId, dyno: Address) -> bool {
        let mut apps = self.apps.lock();
        let entry = apps.entry(app.clone()).or_default();
        let there = self.router.apply(&[Change::RemoveDyno(app.clone(), dyno)]).is_ok();
        let known = there || entry.feeds.get(&entry.own).is_some_and(|found| found.contains_key(&dyno));
        if known {
            entry.drained.insert(dyno);
        }
        known
    }

    /// Lets a dyno in again that was drained by hand. `false`: it was not.
    pub fn undrain(&self, app: &AppId, dyno: Address) -> bool {
        let mut apps = self.apps.lock();
        let Some(entry) = apps.get_mut(app) else { return false };
        let was = entry.drained.remove(&dyno);
        if was && !entry.closed {
            let changes = entry.difference(app, &self.router);
            self.tell(changes);
        }
        was
    }

    /// The dynos of an app that were drained by hand.
    pub fn drained(&self, app: &AppId) -> BTreeSet<Address> {
        self.apps.lock().get(app).map(|entry| entry.drained.clone()).unwrap_or_default()
    }

    /// Puts the dynos in place that were drained by hand before a restart.
    pub fn set_drained(&self, app: &AppId, drained: BTreeSet<Address>) {
        self.apps.lock().entry(app.clone()).or_default().drained = drained;
    }

    fn tell(&self, changes: Vec<Change>) -> Vec<Change> {
        if changes.is_empty() || self.router.apply(&changes).is_ok() {
            return Vec::new();
        }
        // One of them is wrong: that is no reason to lose the others.
        let mut refused = Vec::new();
        for change in changes {
            if let Err(error) = self.router.apply(std::slice::from_ref(&change)) {
                if !self.quiet.load(Ordering::Relaxed) {
                    tracing::warn!("discovery: {error}");
                }
                refused.push(change);
            }
        }
        refused
    }
}

/// What is known of a process is true whatever is being deployed. Says whether the router has its dyno.
fn known(apps: &mut BTreeMap<AppId, Entry>, app: &AppId, dyno: Address, health: DynoHealth) -> bool {
    let Some(entry) = apps.get_mut(app) else { return true };
    if let Some(dyno) = entry.feeds.get_mut(&entry.own).and_then(|found| found.get_mut(&dyno)) {
        dyno.state = health;
    }
    !entry.drained.contains(&dyno)
}

/// Writes a change into its feed. Says whether the router is to be told.
fn note(apps: &mut BTreeMap<AppId, Entry>, feed: FeedId, change: &Change) -> bool {
    let (app, come, address) = match change {
        Change::AddDyno(app, spec) => (app, Some(spec), spec.address),
        Change::RemoveDyno(app, address) => (app, None, *address),
        Change::SetDyno(app, address, health) => return known(apps, app, *address, *health),
        Change::PutApp(_) | Change::RemoveApp(_) => return true,
        Change::SetCanary(..) | Change::Hold(..) => return true,
    };
    let entry = apps.entry(app.clone()).or_default();
    let found = entry.feeds.entry(feed).or_default();
    let before = match come {
        Some(spec) => found.insert(address, spec.clone()),
        None => found.remove(&address),
    };
    if feed != entry.own {
        return false;
    }
    let was_drained = entry.drained.contains(&address);
    if come.is_none() {
        // Whoever comes to this address later is another dyno.
        entry.drained.remove(&address);
    }
    (come.is_some() || before.is_some()) && !entry.closed && !was_drained
}

impl Entry {
    /// What its own feed has found and is not drained by hand.
    fn wanted(&self) -> impl Iterator<Item = &DynoSpec> {
        let found = self.feeds.get(&self.own).into_iter().flat_map(BTreeMap::values);
        found.filter(|dyno| !self.drained.contains(&dyno.address))
    }

    /// What brings the router in step with the app's own feed.
    fn difference(&self, app: &AppId, router: &Router) -> Vec<Change> {
        let wanted = || self.wanted();
        let there = router.app(app).map(|app| app.snapshot().dynos).unwrap_or_default();
        let stays = there.iter().filter(|dyno| dyno.state != DynoState::Draining);
        let surplus = stays.filter(|dyno| wanted().all(|wanted| wanted.address != dyno.address));
        // Those that are there already get their release's name by it, and nothing else.
        let mut changes: Vec<_> = wanted().map(|dyno| Change::AddDyno(app.clone(), dyno.clone())).collect();
        changes.extend(surplus.map(|dyno| Change::RemoveDyno(app.clone(), dyno.address)));
        changes
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("apps", &self.apps.lock().len()).finish_non_exhaustive()
    }
}
