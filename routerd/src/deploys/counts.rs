//! What becomes of the requests of the two releases of a deploy, counted as their records close.
//!
//! While nothing is deployed a request costs one relaxed load here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use router_core::ids::{Address, AppId};
use router_core::policy::deploy::{Side, Tally};
use router_core::proxy::Record;

use crate::metrics::Total;

/// The counts of every deploy that runs. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Inner>);

#[derive(Default)]
struct Inner {
    any: AtomicBool,
    apps: ArcSwap<HashMap<AppId, Arc<Sides>>>,
}

/// The counts of one deploy.
struct Sides {
    dynos: HashMap<Address, Side>,
    old: Total,
    new: Total,
}

/// Takes the counts of one deploy; dropping it ends the counting.
pub(crate) struct Counting {
    app: AppId,
    sides: Arc<Sides>,
    all: Counts,
}

impl Counts {
    /// Counts a request that is over.
    pub(crate) fn count(&self, record: &Record) {
        if !self.0.any.load(Ordering::Relaxed) {
            return;
        }
        if let Some(app) = &record.app
            && let Some(dyno) = &record.dyno
            && let Some(sides) = self.0.apps.load().get(app)
            && let Some(side) = sides.dynos.get(&dyno.address)
        {
            sides.of(*side).add(record);
        }
    }

    /// Begins to count for a deploy of this app with these dynos.
    pub(crate) fn watch(&self, app: &AppId, dynos: impl Iterator<Item = (Address, Side)>) -> Counting {
        let sides = Sides { dynos: dynos.collect(), old: Total::default(), new: Total::default() };
        let sides = Arc::new(sides);
        self.change(|apps| drop(apps.insert(app.clone(), Arc::clone(&sides))));
        Counting { app: app.clone(), sides, all: self.clone() }
    }

    fn change(&self, change: impl Fn(&mut HashMap<AppId, Arc<Sides>>)) {
        self.0.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            change(&mut apps);
            self.0.any.store(!apps.is_empty(), Ordering::Relaxed);
            apps
        });
    }
}

impl Counting {
    /// What has been counted for one side since the last time it was taken.
    pub(crate) fn take(&self, side: Side) -> Tally {
        self.sides.of(side).take()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.all.change(|apps| {
            // The next deploy of the app may have begun to count.
            if apps.get(&self.app).is_some_and(|sides| Arc::ptr_eq(sides, &self.sides)) {
                apps.remove(&self.app);
            }
        });
    }
}

impl Sides {
    fn of(&self, side: Side) -> &Total {
        if side == Side::Old { &self.old } else { &self.new }
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("deploys", &self.0.apps.load().len()).finish()
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").field("app", &self.app).finish_non_exhaustive()
    }
}
