//! What spans apps: who may use which address, and when something is due by the clock alone.
//!
//! *Shared:* one [`Hub`] between all apps of a router. *Lock:* the shard of an address for its claim; the alarm's
//! own, the last in the order control, claim, app, alarm. *Wakes:* whoever keeps the time, when an alarm moves forward.
//! *Cancel:* nothing here waits. *Never:* a dyno in two apps at once, for it would have two lines: an address that
//! a leaving app still uses is handed to the next app when its last request there has ended.

use std::collections::BTreeMap;
use std::task::{Poll, Waker};
use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::change::{DynoHealth, DynoSpec};
use crate::ids::{Address, AppId};
use crate::policy::app::Gone;
use crate::router::shared::{Op, SharedApp};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Claims on addresses, and the alarm.
pub(crate) struct Hub {
    claims: DashMap<Address, Claim>,
    /// Addresses that another router has.
    lent: DashMap<Address, ()>,
    epoch: AtomicU64,
    alarm: Alarm,
}

struct Claim {
    app: AppId,
    /// Which add this claim stands for: a dyno that left under an older one has no say in it.
    epoch: u64,
    /// Who gets the address once `app` is done with it.
    next: Option<(Arc<SharedApp>, DynoSpec)>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let (claims, lent) = (DashMap::new(), DashMap::new());
        Self { claims, lent, epoch: AtomicU64::new(0), alarm: Alarm::default() }
    }

    pub(crate) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// An app wants a dyno: what it has to do now, if it need not wait for another app to be done with it.
    pub(crate) fn claim(&self, app: &Arc<SharedApp>, spec: DynoSpec) -> Option<Op> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        match self.claims.entry(spec.address) {
            Entry::Vacant(vacant) => {
                vacant.insert(Claim { app: app.id().clone(), epoch, next: None });
            }
            Entry::Occupied(mut claim) => {
                let claim = claim.get_mut();
                if claim.app != *app.id() {
                    claim.next = Some((Arc::clone(app), spec));
                    return None;
                }
                claim.epoch = epoch;
                claim.next = None;
            }
        }
        Some(Op::Add(spec, epoch))
    }

    /// An app does not want a dyno any more: what it has to do, if it had the dyno already.
    pub(crate) fn disclaim(&self, app: &AppId, address: Address) -> Option<Op> {
        let mut claim = self.claims.get_mut(&address)?;
        if claim.app == *app {
            return Some(Op::Remove(address));
        }
        claim.next.take_if(|(next, _)| next.id() == app);
        None
    }

    /// An app goes: it gets none of the addresses that others have promised it. O(claims), for the control plane.
    pub(crate) fn forget(&self, app: &AppId) {
        for mut claim in self.claims.iter_mut() {
            claim.next.take_if(|(next, _)| next.id() == app);
        }
    }

    /// A dyno's process is that far: what its app has to do, if it has the dyno already.
    pub(crate) fn set(&self, app: &AppId, address: Address, health: DynoHealth) -> Option<Op> {
        let mut claim = self.claims.get_mut(&address)?;
        if claim.app == *app {
            return Some(Op::Set(address, health));
        }
        if let Some((next, spec)) = &mut claim.next
            && next.id() == app
        {
            spec.state = health;
        }
        None
    }

    /// Another router has the address, or no longer: the app that has to hear of it.
    pub(crate) fn lend(&self, address: Address, lent: bool) -> Option<AppId> {
        // First, so that an app that gets the address in this moment either sees it or is found below.
        if lent {
            self.lent.insert(address, ());
        } else {
            self.lent.remove(&address);
        }
        self.claims.get(&address).map(|claim| claim.app.clone())
    }

    /// What an app that gets a dyno has to know of it besides.
    pub(crate) fn lent(&self, address: Address) -> Option<Op> {
        self.lent.contains_key(&address).then_some(Op::Lend(address, true))
    }

    /// A dyno has left its app for good: the next app that wants it gets it.
    pub(crate) fn left(&self, app: &AppId, gone: Gone) {
        let Entry::Occupied(mut entry) = self.claims.entry(gone.address) else { return };
        let claim = entry.get_mut();
        if claim.app != *app || claim.epoch != gone.epoch {
            return;
        }
        let Some((next, spec)) = claim.next.take() else {
            entry.remove();
            return;
        };
        claim.app = next.id().clone();
        claim.epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        // Still under the shard's lock, so that a `disclaim` of the next app comes before or after, not between.
        let lent = self.lent(spec.address);
        let ops: Vec<_> = [Op::Add(spec, claim.epoch)].into_iter().chain(lent).collect();
        let owed = next.change(&ops);
        drop(entry);
        let gone = owed.pay();
        debug_assert!(gone.is_empty(), "an added dyno does not leave by being added");
    }

    /// Addresses that are in use or promised.
    #[cfg(all(test, not(router_loom)))]
    pub(crate) fn claims(&self) -> usize {
        self.claims.len()
    }
}

/// When apps have something to do by the clock alone: only while a dyno is in quarantine or a line is held.
#[derive(Default)]
pub(crate) struct Alarm(Mutex<Due>);

#[derive(Default)]
struct Due {
    by_app: BTreeMap<AppId, Instant>,
    /// An alarm was set since somebody last asked.
    moved: bool,
    waker: Option<Waker>,
}

impl Alarm {
    /// Sets or clears an app's alarm. The waker is to be woken once no lock is held.
    pub(crate) fn set(&self, app: &AppId, at: Option<Instant>) -> Option<Waker> {
        let mut due = self.0.lock();
        match at {
            Some(at) => due.by_app.insert(app.clone(), at),
            None => due.by_app.remove(app),
        };
        at?;
        due.moved = true;
        due.waker.take()
    }

    /// The apps whose alarm is at `now` or before, and the first alarm after that.
    pub(crate) fn due(&self, now: Instant) -> (Vec<AppId>, Option<Instant>) {
        let mut due = self.0.lock();
        let (ring, later): (Vec<_>, Vec<_>) =
            due.by_app.iter().map(|(app, at)| (app.clone(), *at)).partition(|(_, at)| *at <= now);
        for (app, _) in &ring {
            due.by_app.remove(app);
        }
        (ring.into_iter().map(|(app, _)| app).collect(), later.into_iter().map(|(_, at)| at).min())
    }

    /// Ready once an alarm was set since the last time it was ready. For one task.
    pub(crate) fn poll_moved(&self, waker: &Waker) -> Poll<()> {
        let mut due = self.0.lock();
        if std::mem::take(&mut due.moved) {
            return Poll::Ready(());
        }
        due.waker = Some(waker.clone());
        Poll::Pending
    }
}
