//! What the control plane has asked for so far, and whether it may ask for more: the check before anything moves.
//!
//! *Shared:* one [`Control`] in a router, under the control lock, the first in the order control, claim, app, alarm; a
//! request never takes it. *Wakes:* nobody. *Cancel:* nothing here waits. *Never:* half a list of changes: each step
//! is written down with its undo, and the first that cannot be done undoes those before it.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{AppSpec, Change, ChangeError};
use crate::ids::{Address, AppId};
use crate::policy::route::Pattern;

/// The apps, hosts and dynos that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Control {
    apps: BTreeMap<AppId, Wanted>,
    hosts: BTreeMap<Pattern, AppId>,
    owners: BTreeMap<Address, AppId>,
}

#[derive(Clone, Debug)]
struct Wanted {
    hosts: Vec<Pattern>,
    dynos: BTreeSet<Address>,
}

enum Undo {
    App(AppId, Option<Wanted>),
    Host(Pattern, Option<AppId>),
    Owner(Address, Option<AppId>),
    Dyno(AppId, Address, bool),
}

impl Control {
    /// Takes the changes in, all of them or none.
    pub(crate) fn admit(&mut self, changes: &[Change]) -> Result<(), ChangeError> {
        let mut undo = Vec::new();
        // First all hosts that may move are let go: apps may swap them, in whatever order the list names the apps.
        for change in changes {
            match change {
                Change::PutApp(AppSpec { id, .. }) | Change::RemoveApp(id) => {
                    self.let_hosts_go(id, &mut undo)
                }
                Change::AddDyno(..) | Change::RemoveDyno(..) => {}
                Change::SetDyno(..) | Change::SetCanary(..) | Change::Hold(..) => {}
            }
        }
        for change in changes {
            if let Err(error) = self.admit_one(change, &mut undo) {
                for step in undo.into_iter().rev() {
                    self.undo(step);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Every pattern and the app that has it.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&Pattern, &AppId)> {
        self.hosts.iter()
    }

    fn admit_one(&mut self, change: &Change, undo: &mut Vec<Undo>) -> Result<(), ChangeError> {
        match change {
            Change::PutApp(spec) => self.put_app(spec, undo),
            Change::RemoveApp(app) => self.remove_app(app, undo),
            Change::AddDyno(app, spec) => self.add_dyno(app, spec.address, undo),
            Change::RemoveDyno(app, address) => {
                self.dyno(app, *address)?;
                self.disown(*address, undo);
                self.set_dyno(app, *address, false, undo)
            }
            Change::SetDyno(app, address, _) => self.dyno(app, *address),
            Change::SetCanary(app, _) | Change::Hold(app, _) => {
                self.apps.get(app).map(|_| ()).ok_or_else(|| ChangeError::NoSuchApp(app.clone()))
            }
        }
    }

    fn put_app(&mut self, spec: &AppSpec, undo: &mut Vec<Undo>) -> Result<(), ChangeError> {
        let mut hosts = Vec::new();
        for host in &spec.hosts {
            let bad = |why| ChangeError::BadHost(spec.id.clone(), host.clone(), why);
            hosts.push(Pattern::parse(host).map_err(bad)?);
        }
        self.let_hosts_go(&spec.id, undo);
        let old = self.apps.get(&spec.id).cloned();
        for host in &hosts {
            let before = self.hosts.insert(host.clone(), spec.id.clone());
            undo.push(Undo::Host(host.clone(), before.clone()));
            if let Some(has) = before.filter(|has| *has != spec.id) {
                return Err(ChangeError::HostTaken { host: host.to_string(), has, wants: spec.id.clone() });
            }
        }
        let dynos = old.map(|old| old.dynos).unwrap_or_default();
        let before = self.apps.insert(spec.id.clone(), Wanted { hosts, dynos });
        undo.push(Undo::App(spec.id.clone(), before));
        Ok(())
    }

    /// The app's hosts are free, those that it still has: another app of the list may have taken some already.
    fn let_hosts_go(&mut self, app: &AppId, undo: &mut Vec<Undo>) {
        for host in self.apps.get(app).iter().flat_map(|old| &old.hosts) {
            if self.hosts.get(host) == Some(app) {
                undo.push(Undo::Host(host.clone(), self.hosts.remove(host)));
            }
        }
    }

    fn remove_app(&mut self, app: &AppId, undo: &mut Vec<Undo>) -> Result<(), ChangeError> {
        self.let_hosts_go(app, undo);
        let Some(old) = self.apps.remove(app) else { return Err(ChangeError::NoSuchApp(app.clone())) };
        for address in &old.dynos {
            self.disown(*address, undo);
        }
        undo.push(Undo::App(app.clone(), Some(old)));
        Ok(())
    }

    fn add_dyno(&mut self, app: &AppId, address: Address, undo: &mut Vec<Undo>) -> Result<(), ChangeError> {
        if !self.apps.contains_key(app) {
            return Err(ChangeError::NoSuchApp(app.clone()));
        }
        let before = self.owners.insert(address, app.clone());
        undo.push(Undo::Owner(address, before.clone()));
        if let Some(has) = before.filter(|has| has != app) {
            return Err(ChangeError::DynoTaken { address, has, wants: app.clone() });
        }
        self.set_dyno(app, address, true, undo)
    }

    fn dyno(&self, app: &AppId, address: Address) -> Result<(), ChangeError> {
        let wanted = self.apps.get(app).ok_or_else(|| ChangeError::NoSuchApp(app.clone()))?;
        let known = wanted.dynos.contains(&address);
        if known { Ok(()) } else { Err(ChangeError::NoSuchDyno(app.clone(), address)) }
    }

    fn disown(&mut self, address: Address, undo: &mut Vec<Undo>) {
        undo.push(Undo::Owner(address, self.owners.remove(&address)));
    }

    fn set_dyno(
        &mut self,
        app: &AppId,
        address: Address,
        wanted: bool,
        undo: &mut Vec<Undo>,
    ) -> Result<(), ChangeError> {
        let app_of = self.apps.get_mut(app).ok_or_else(|| ChangeError::NoSuchApp(app.clone()))?;
        let dynos = &mut app_of.dynos;
        let changed = if wanted { dynos.insert(address) } else { dynos.remove(&address) };
        if changed {
            undo.push(Undo::Dyno(app.clone(), address, !wanted));
        }
        Ok(())
    }

    fn undo(&mut self, step: Undo) {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, before: Option<V>) {
            match before {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        match step {
            Undo::App(app, before) => put(&mut self.apps, app, before),
            Undo::Host(host, before) => put(&mut self.hosts, host, before),
            Undo::Owner(address, before) => put(&mut self.owners, address, before),
            Undo::Dyno(app, address, wanted) => {
                // Its app is there: undoing runs backwards, and the app was there when this was done.
                if let Some(app) = self.apps.get_mut(&app) {
                    if wanted {
                        app.dynos.insert(address)
                    } else {
                        app.dynos.remove(&address)
                    };
                }
            }
        }
    }
}
