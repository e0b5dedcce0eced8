//! What goes wrong, and what operators do: crashes, refusals, flapping names, deploys, new limits, apps that move.

use std::time::Duration;

use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec};
use router_core::ids::{Address, AppId};
use router_core::limits::{Limits, Order};

use super::world::{Event, MS, World};

/// The second half of a blow: what follows some time later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blow {
    /// The control plane hears that the dyno's process died.
    Noticed(u16),
    /// The process is started, and does not listen yet.
    Boots(u16),
    /// The process listens again.
    Up(u16),
    /// It accepts connections again.
    Accepts(u16),
    /// A name that was gone from the DNS is back.
    Back(u16, usize),
    /// An app that was taken away is put back, with new dynos.
    AppBack(usize),
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

fn id(app: usize) -> AppId {
    app.to_string().as_str().into()
}

impl World {
    /// Three apps with up to eight dynos each.
    pub(crate) fn build(&mut self) {
        for app in 0..self.apps.len() {
            self.put_app(app);
            for _ in 0..self.rng.usize(1..=8) {
                self.add_fresh(app);
            }
        }
    }

    pub(crate) fn apply(&self, changes: &[Change]) {
        if let Err(error) = self.router.apply(changes) {
            panic!("the simulation asks for nothing that cannot be done: {error}");
        }
    }

    fn put_app(&mut self, app: usize) {
        let default = Limits::default().with_quarantine(Duration::from_millis(200));
        let limits = match self.rng.u32(..6) {
            0 => default.with_order(Order::LeastRecentlyUsed),
            1 => default.with_order(Order::Random),
            2 => default.with_queue_max_requests_per_dyno(3),
            3 => default.with_queue_max_wait(Duration::from_millis(100)),
            4 => default.with_max_tries(2).with_standing_after(Duration::from_millis(100)),
            _ => default,
        };
        self.apps[app] = true;
        let hosts = vec![format!("{app}.test")];
        self.apply(&[Change::PutApp(AppSpec { id: id(app), hosts, release: "v1".into(), limits })]);
    }

    fn spec(&mut self, port: u16) -> DynoSpec {
        let dyno = self.dynos.get(port);
        let state = if dyno.up { DynoHealth::Ready } else { DynoHealth::Crashed };
        DynoSpec { concurrency: dyno.concurrency, state, ..DynoSpec::new(address(port)) }
    }

    /// A port that nobody has: a new process, or one that another app has left and may still keep busy.
    fn fresh_port(&mut self) -> u16 {
        let unowned: Vec<_> = self.dynos.ports().filter(|port| !self.owners.contains_key(port)).collect();
        if let Some(port) = self.rng.choice(&unowned).copied().filter(|_| unowned.len() > 3) {
            return port;
        }
        let port = 3000 + self.dynos.ports().count() as u16;
        let concurrency = if self.rng.u32(..4) == 0 { self.rng.u32(2..=3) } else { 1 };
        self.dynos.add(port, concurrency);
        port
    }

    fn add_fresh(&mut self, app: usize) {
        let port = self.fresh_port();
        let spec = self.spec(port);
        self.owners.insert(port, app);
        self.apply(&[Change::AddDyno(id(app), spec)]);
    }

    pub(crate) fn any_port(&mut self) -> Option<(u16, usize)> {
        let owned: Vec<_> = self.owners.iter().map(|(port, app)| (*port, *app)).collect();
        self.rng.choice(owned)
    }

    /// Something goes wrong, and the next thing will.
    pub(crate) fn blow(&mut self) {
        if self.left == 0 {
            return self.heal();
        }
        self.totals.blows += 1;
        let next = self.draw(40 * MS);
        self.at(next, Event::Blow);
        let kind = self.rng.u32(..25);
        let Some((port, app)) = self.any_port() else {
            let there = self.apps.iter().position(|there| *there);
            return there.into_iter().for_each(|app| self.add_fresh(app));
        };
        self.note("blow", u64::from(kind), port);
        match kind {
            0..=3 => self.crash_of(port),
            4..=5 => self.refusal(port),
            6..=9 => self.flap(port, app),
            10..=11 => self.deploy(app),
            12..=13 => self.put_app(app),
            14..=15 => self.hand_over(port, app),
            16..=17 => {
                for _ in 0..self.rng.u64(10..100).min(self.left) {
                    self.arrive(app);
                }
            }
            18 => self.scale(port, app),
            19..=21 => self.hold(app),
            22..=23 => self.sickness(port),
            _ => self.away(app),
        }
    }

    fn crash_of(&mut self, port: u16) {
        self.crash(port);
        let back = self.rng.u64(1..300) * MS;
        if self.rng.bool() {
            let heard = self.rng.u64(..50) * MS;
            self.at(heard, Event::After(Blow::Noticed(port)));
            self.at(heard + back / 2, Event::After(Blow::Boots(port)));
            self.at(heard + back, Event::After(Blow::Up(port)));
        } else {
            self.at(back, Event::After(Blow::Up(port)));
        }
    }

    fn refusal(&mut self, port: u16) {
        self.dynos.get(port).refuses = true;
        let long = self.rng.u64(1..500) * MS;
        self.at(long, Event::After(Blow::Accepts(port)));
    }

    fn flap(&mut self, port: u16, app: usize) {
        self.owners.remove(&port);
        self.apply(&[Change::RemoveDyno(id(app), address(port))]);
        let back = self.rng.u64(..20) * MS;
        self.at(back, Event::After(Blow::Back(port, app)));
    }

    /// All dynos of the app are swapped for others, at once.
    fn deploy(&mut self, app: usize) {
        let old: Vec<_> = self.owners.iter().filter(|(_, of)| **of == app).map(|(port, _)| *port).collect();
        let mut changes: Vec<_> =
            old.iter().map(|port| Change::RemoveDyno(id(app), address(*port))).collect();
        let mut fresh = Vec::new();
        for _ in &old {
            let port = self.fresh_port();
            let spec = self.spec(port);
            self.owners.insert(port, app);
            fresh.push(Change::AddDyno(id(app), spec));
        }
        for port in &old {
            self.owners.remove(port);
        }
        changes.extend(fresh);
        self.apply(&changes);
    }

    /// The dyno goes to another app, while it may be busy for this one.
    fn hand_over(&mut self, port: u16, app: usize) {
        let to = (app + 1) % self.apps.len();
        if !self.apps[to] {
            return;
        }
        let spec = self.spec(port);
        self.owners.insert(port, to);
        self.apply(&[Change::RemoveDyno(id(app), address(port)), Change::AddDyno(id(to), spec)]);
    }

    fn scale(&mut self, port: u16, app: usize) {
        if self.rng.bool() {
            return self.add_fresh(app);
        }
        self.owners.remove(&port);
        self.apply(&[Change::RemoveDyno(id(app), address(port))]);
    }

    fn away(&mut self, app: usize) {
        self.apps[app] = false;
        self.holds[app].resume(self.now, 0);
        self.owners.retain(|_, of| *of != app);
        self.apply(&[Change::RemoveApp(id(app))]);
        let back = self.rng.u64(..30) * MS;
        self.at(back, Event::After(Blow::AppBack(app)));
    }

    fn set(&self, port: u16, health: DynoHealth) {
        if let Some(app) = self.owners.get(&port).copied() {
            self.apply(&[Change::SetDyno(id(app), address(port), health)]);
        }
    }

    pub(crate) fn after(&mut self, blow: Blow) {
        match blow {
            Blow::Noticed(port) => self.set(port, DynoHealth::Crashed),
            Blow::Boots(port) => self.set(port, DynoHealth::Booting),
            Blow::Up(port) => {
                self.dynos.get(port).up = true;
                self.set(port, DynoHealth::Ready);
            }
            Blow::Accepts(port) => self.dynos.get(port).refuses = false,
            Blow::Back(port, app) => {
                if self.apps[app] && !self.owners.contains_key(&port) {
                    let spec = self.spec(port);
                    self.owners.insert(port, app);
                    self.apply(&[Change::AddDyno(id(app), spec)]);
                }
            }
            Blow::AppBack(app) => {
                self.put_app(app);
                for _ in 0..self.rng.usize(1..=6) {
                    self.add_fresh(app);
                }
            }
        }
    }

    /// Nothing more goes wrong: every process comes up.
    fn heal(&mut self) {
        let ports: Vec<_> = self.dynos.ports().collect();
        for port in ports {
            self.at(1000 * MS, Event::Cured(port));
            self.at(1000 * MS, Event::After(Blow::Accepts(port)));
            self.at(1000 * MS, Event::After(Blow::Up(port)));
        }
    }
}
