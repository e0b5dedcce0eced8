//! All apps of the reference: who may have which dyno, and changes applied one after the other.

use std::time::Duration;

use router_core::change::{Change, ChangeError, DynoSpec};
use router_core::ids::{Address, AppId};
use router_core::snapshot::{DynoSnapshot, Snapshot};

use super::reference::{App, News, Waiting};

/// The reference router.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) now: Duration,
    apps: Vec<App>,
    births: u64,
    /// What the control plane has asked for: apps, and dynos with who has them.
    wanted: Vec<AppId>,
    owners: Vec<(Address, AppId)>,
    /// Dynos that an app gets once another app has no request on them any more.
    promised: Vec<(AppId, DynoSpec)>,
}

impl World {
    pub(crate) fn app(&mut self, id: &AppId) -> &mut App {
        self.apps
            .iter_mut()
            .find(|app| app.id == *id)
            .unwrap_or_else(|| panic!("the reference has no app {id}"))
    }

    /// Which app of that name it is: one that was over and came back is another.
    pub(crate) fn birth(&self, id: &AppId) -> Option<u64> {
        self.apps.iter().find(|app| app.id == *id).map(|app| app.birth)
    }

    /// Whether a request that waits would be served by that dyno.
    pub(crate) fn serves(&self, id: &AppId, waiting: &Waiting, dyno: &DynoSnapshot) -> bool {
        let app = self.apps.iter().find(|app| app.id == *id);
        app.is_some_and(|app| match app.wishes.get(&waiting.request) {
            Some((own, _)) => *own == dyno.address,
            None => app.server(waiting.lane) == dyno.lane,
        })
    }

    pub(crate) fn has_app(&self, id: &AppId) -> bool {
        self.wanted.contains(id)
    }

    pub(crate) fn owner(&self, address: Address) -> Option<&AppId> {
        self.owners.iter().find(|(owned, _)| *owned == address).map(|(_, owner)| owner)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut apps: Vec<_> = self.apps.iter().map(|app| app.snapshot(self.now)).collect();
        apps.sort_by(|a, b| a.id.cmp(&b.id));
        Snapshot { apps }
    }

    /// After anything that has moved an app: who is told, and who gets the dynos that have left.
    pub(crate) fn finish(&mut self, id: &AppId, seen: &Snapshot, news: &mut News) {
        let now = self.now;
        let app = self.app(id);
        app.settle(now, seen, news);
        for address in std::mem::take(&mut app.gone) {
            if self.app(id).has(address) {
                continue;
            }
            let Some(at) = self.promised.iter().position(|(_, spec)| spec.address == address) else {
                continue;
            };
            let (next, spec) = self.promised.remove(at);
            self.app(&next).add(&spec);
            self.finish(&next, seen, news);
        }
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        for app in &mut self.apps {
            app.gate.advance(by, self.now);
        }
    }

    /// When a request in line has waited long enough.
    pub(crate) fn deadline(&mut self, app: &AppId, request: u64) -> Option<Duration> {
        let now = self.now;
        let app = self.app(app);
        let waiting = app.line.iter().find(|waiting| waiting.request == request)?;
        Some(app.gate.time_of(waiting.deadline, now))
    }

    /// Whether the app has something to do by the clock.
    pub(crate) fn is_due(&mut self, app: &AppId) -> bool {
        let now = self.now;
        self.app(app).is_due(now)
    }

    pub(crate) fn tick(&mut self, seen: &Snapshot, news: &mut News) {
        let due = |app: &&App| app.is_due(self.now);
        let due: Vec<_> = self.apps.iter().filter(due).map(|app| app.id.clone()).collect();
        for id in due {
            let now = self.now;
            self.app(&id).tick(now);
            self.finish(&id, seen, news);
        }
    }

    pub(crate) fn apply(
        &mut self,
        changes: &[Change],
        seen: &Snapshot,
        news: &mut News,
    ) -> Result<(), ChangeError> {
        let before = (self.wanted.clone(), self.owners.clone());
        for change in changes {
            if let Err(error) = self.admit(change) {
                (self.wanted, self.owners) = before;
                return Err(error);
            }
        }
        let mut current: Option<AppId> = None;
        for change in changes {
            let id = app_of(change);
            if let Some(done) = current.replace(id.clone()).filter(|done| done != id) {
                self.finish(&done, seen, news);
            }
            self.change(id, change);
        }
        if let Some(done) = current {
            self.finish(&done, seen, news);
        }
        if changes.iter().any(|change| matches!(change, Change::PutApp(_) | Change::RemoveApp(_))) {
            self.apps.retain(|app| !app.is_over());
        }
        Ok(())
    }

    fn admit(&mut self, change: &Change) -> Result<(), ChangeError> {
        let id = app_of(change);
        if !matches!(change, Change::PutApp(_)) && !self.wanted.contains(id) {
            return Err(ChangeError::NoSuchApp(id.clone()));
        }
        match change {
            Change::PutApp(_) => {
                if !self.wanted.contains(id) {
                    self.wanted.push(id.clone());
                }
            }
            Change::RemoveApp(_) => {
                self.wanted.retain(|app| app != id);
                self.owners.retain(|(_, owner)| owner != id);
            }
            Change::Hold(..) => {}
            Change::AddDyno(_, spec) => match self.owner(spec.address).cloned() {
                None => self.owners.push((spec.address, id.clone())),
                Some(has) if has == *id => {}
                Some(has) => {
                    let (address, wants) = (spec.address, id.clone());
                    return Err(ChangeError::DynoTaken { address, has, wants });
                }
            },
            Change::SetCanary(..) => {}
            Change::RemoveDyno(_, address) | Change::SetDyno(_, address, _) => {
                if self.owner(*address) != Some(id) {
                    return Err(ChangeError::NoSuchDyno(id.clone(), *address));
                }
                if matches!(change, Change::RemoveDyno(..)) {
                    self.owners.retain(|(owned, _)| owned != address);
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, id: &AppId, change: &Change) {
        match change {
            Change::PutApp(spec) => {
                if !self.apps.iter().any(|app| app.id == *id) {
                    self.births += 1;
                    let (limits, release) = (spec.limits.clone(), spec.release.clone());
                    self.apps.push(App::new(id.clone(), limits, release, self.births));
                }
                self.app(id).put(spec.limits.clone(), spec.release.clone());
            }
            Change::RemoveApp(_) => {
                self.promised.retain(|(next, _)| next != id);
                let now = self.now;
                self.app(id).close(now);
            }
            Change::AddDyno(_, spec) => {
                let taken = self.apps.iter().any(|other| other.id != *id && other.has(spec.address));
                if taken {
                    self.promised.retain(|(_, promised)| promised.address != spec.address);
                    self.promised.push((id.clone(), spec.clone()));
                } else {
                    self.app(id).add(spec);
                }
            }
            Change::RemoveDyno(_, address) => {
                self.promised.retain(|(_, spec)| spec.address != *address);
                if self.app(id).has(*address) {
                    self.app(id).remove(*address);
                }
            }
            Change::Hold(_, hold) => {
                let now = self.now;
                self.app(id).hold(*hold, now);
            }
            Change::SetCanary(..) => {}
            Change::SetDyno(_, address, health) => {
                if self.app(id).has(*address) {
                    self.app(id).set(*address, *health);
                } else if let Some((_, spec)) = self.promised.iter_mut().find(|(_, s)| s.address == *address)
                {
                    spec.state = *health;
                }
            }
        }
    }
}

fn app_of(change: &Change) -> &AppId {
    match change {
        Change::PutApp(spec) => &spec.id,
        Change::RemoveApp(id)
        | Change::AddDyno(id, _)
        | Change::RemoveDyno(id, _)
        | Change::Hold(id, _)
        | Change::SetDyno(id, _, _)
        | Change::SetCanary(id, _) => id,
    }
}
