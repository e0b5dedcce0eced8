//! Deploys one after the other, under load, driven as a daemon drives them: the real state machine with a real router,
//! fake processes and a virtual clock.
//!
//! One seed in two is calm: no process dies. Then nobody may be refused, whatever becomes of the deploys.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use router_core::canary::{Canary, Lane};
use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec};
use router_core::fault::Fault;
use router_core::ids::{Address, AppId, ReleaseId};
use router_core::limits::Limits;
use router_core::policy::deploy::{
    Deploy, DynoStage, Effect, Outcome, Pace, Plan, ReadyWhen, Release, Side, State, Tally,
};
use router_core::snapshot::{AppSnapshot, DynoSnapshot, DynoState};

use super::world::{Event, MS, World};

/// What happens to deploys at a moment. A number says which deploy is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Begin,
    /// The deploy asked to be called.
    Alarm,
    /// A dyno answers its probe.
    Answer(u16),
    /// A process that was started listens.
    Up(u16),
    /// Some process dies.
    Dies,
    /// The control plane hears that it died.
    Heard(u16),
    Promote(u64),
    RollBack(u64),
    /// Half of the new release's requests are faults.
    Faults(u64),
}

/// The deploys of a seed.
pub(crate) struct Deploys {
    running: Option<Deploy>,
    begun: u64,
    release: ReleaseId,
    /// The dynos of the release that serves while no deploy runs.
    dynos: Vec<DynoSpec>,
    draining: BTreeSet<u16>,
    /// When the deploy asked to be called.
    alarm: Option<Instant>,
    /// No process dies.
    pub(crate) calm: bool,
    /// One has, since the deploy began.
    hurt: bool,
}

fn app() -> AppId {
    "0".into()
}

fn serves(dyno: &DynoSnapshot) -> bool {
    use DynoState::{Busy, Idle, Lingering, Quarantined};
    matches!(dyno.state, Idle | Busy | Lingering | Quarantined)
}

impl World {
    /// One app with a release that serves, and deploys to come.
    pub(crate) fn deploying(seed: u64, requests: u64, print: bool) -> Self {
        let mut world = Self::bare(seed, requests, print, 1);
        world.load = 0.2 + world.rng.f64() / 2.0;
        let dynos = world.fresh();
        let calm = world.rng.bool();
        world.apps[0] = true;
        world.put_release("r0".into());
        let add = |dyno: &DynoSpec| Change::AddDyno(app(), dyno.clone());
        world.apply(&dynos.iter().map(add).collect::<Vec<_>>());
        for dyno in &dynos {
            world.dynos.get(dyno.address.port()).up = true;
        }
        let (release, draining) = ("r0".into(), BTreeSet::new());
        let (running, begun, alarm, hurt) = (None, 0, None, false);
        world.deploys = Some(Deploys { running, begun, release, dynos, draining, alarm, calm, hurt });
        world.own();
        world.at(0, Event::Arrive);
        world.at(20 * MS, Event::Deploy(Step::Begin));
        if !calm {
            world.at(200 * MS, Event::Deploy(Step::Dies));
        }
        world
    }

    fn deploys(&mut self) -> &mut Deploys {
        self.deploys.as_mut().expect("this seed has deploys")
    }

    fn time(&self) -> Instant {
        self.router.clock().now()
    }

    fn seen(&self) -> AppSnapshot {
        self.router.app(&app()).expect("the app stays").snapshot()
    }

    /// Limits under which nobody is refused who can be served at all.
    fn put_release(&self, release: ReleaseId) {
        let limits = Limits::default()
            .with_queue_max_wait(Duration::from_secs(60))
            .with_queue_max_requests_per_dyno(10_000)
            .with_standing_after(Duration::from_secs(3600))
            .with_quarantine(Duration::from_millis(50))
            .with_max_tries(1000);
        self.apply(&[Change::PutApp(AppSpec { id: app(), hosts: vec!["0.test".into()], release, limits })]);
    }

    /// Dynos of a release that is not there yet: processes that do not run.
    fn fresh(&mut self) -> Vec<DynoSpec> {
        let mut dynos = Vec::new();
        for _ in 0..self.rng.usize(1..=6) {
            let port = 3000 + self.dynos.ports().count() as u16;
            let concurrency = if self.rng.u32(..5) == 0 { 2 } else { 1 };
            self.dynos.add(port, concurrency);
            self.dynos.get(port).up = false;
            dynos.push(DynoSpec { concurrency, ..DynoSpec::new(([127, 0, 0, 1], port).into()) });
        }
        dynos
    }

    fn plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let mut ms = |most: u64| Duration::from_millis(rng.u64(1..=most));
        let times = [ms(20), ms(100), ms(400), ms(400), ms(200)];
        let [probe_every, every, canary_time, drain_timeout, bake_time] = times;
        let canary = match rng.u32(..4) {
            0 => Some(Canary::Share(rng.u32(1..=60))),
            1 => Some(Canary::Header { name: "x-beta".into(), value: "1".into() }),
            _ => None,
        };
        Plan::default()
            .with_ready_when(match rng.u32(..3) {
                0 => ReadyWhen::Count(rng.usize(1..4)),
                1 => ReadyWhen::Share(rng.u32(1..=100)),
                _ => ReadyWhen::All,
            })
            .with_pace(match rng.u32(..3) {
                0 => Pace::Dynos { count: rng.usize(1..4), every },
                1 => Pace::Share { percent: rng.u32(1..=100), every },
                _ => Pace::AtOnce,
            })
            .with_rise(rng.u32(1..=2))
            .with_probe_every(probe_every)
            .with_boot_timeout(Duration::from_millis(300))
            .with_canary(canary)
            .with_canary_time(canary_time)
            .with_drain_timeout(drain_timeout)
            .with_bake_time(bake_time)
    }

    pub(crate) fn step(&mut self, step: Step) {
        let now = self.time();
        match step {
            Step::Begin => return self.begin(),
            Step::Up(port) => return self.dynos.get(port).up = true,
            Step::Dies => return self.dies(),
            Step::Heard(port) => self.heard(port),
            Step::Alarm | Step::Answer(_) | Step::Promote(_) | Step::RollBack(_) | Step::Faults(_) => {}
        }
        let mut answer = if self.rng.u32(..6) == 0 { Err("status 503") } else { Ok(()) };
        if let Step::Answer(port) = step
            && !self.dynos.get(port).up
        {
            answer = Err("connection refused");
        }
        let Deploys { running: Some(deploy), begun, .. } = self.deploys() else { return };
        match step {
            Step::Alarm => deploy.tick(now),
            Step::Answer(port) => deploy.probed(now, address(port), answer),
            Step::Promote(nth) if nth == *begun => drop(deploy.promote(now)),
            Step::RollBack(nth) if nth == *begun => drop(deploy.roll_back(now, "somebody")),
            Step::Faults(nth) if nth == *begun => {
                let service = Duration::from_secs(1);
                deploy.tallied(now, Side::New, Tally { requests: 100, faults: 50, service });
            }
            Step::Promote(_) | Step::RollBack(_) | Step::Faults(_) => {}
            Step::Begin | Step::Up(_) | Step::Dies | Step::Heard(_) => {}
        }
        self.pump();
    }

    /// All processes of the release that serves run; then the next one is deployed, if requests are left.
    fn begin(&mut self) {
        let now = self.time();
        for dyno in self.deploys().dynos.clone() {
            self.dynos.get(dyno.address.port()).up = true;
            self.apply(&[Change::SetDyno(app(), dyno.address, DynoHealth::Ready)]);
        }
        self.owners = self.deploys().dynos.iter().map(|dyno| (dyno.address.port(), 0)).collect();
        if self.left == 0 {
            return;
        }
        let (news, plan) = (self.fresh(), self.plan());
        let deploys = self.deploys();
        (deploys.hurt, deploys.begun) = (false, deploys.begun + 1);
        let nth = deploys.begun;
        let old = Release { id: deploys.release.clone(), dynos: deploys.dynos.clone() };
        let new = Release { id: format!("r{nth}").as_str().into(), dynos: news };
        let mut deploy = Deploy::new(now, old, new, plan).unwrap();
        deploy.start(now).unwrap();
        deploys.running = Some(deploy);
        for (chance, step) in [(3, Step::RollBack(nth)), (10, Step::Faults(nth))] {
            if self.rng.u32(..chance) == 0 {
                let later = self.rng.u64(..1000) * MS;
                self.at(later, Event::Deploy(step));
            }
        }
        self.pump();
    }

    /// Hands what the deploy asks for to the router, as one list, and does the rest of it.
    fn pump(&mut self) {
        while let Some(deploy) = &mut self.deploys().running {
            let effects: Vec<_> = std::iter::from_fn(|| deploy.next_effect()).collect();
            if effects.is_empty() {
                break;
            }
            let changes: Vec<_> = effects.iter().flat_map(|effect| effect.changes(&app())).collect();
            self.apply(&changes);
            self.hold_promises();
            effects.iter().for_each(|effect| self.carry_out(effect));
        }
        self.own();
        let deploys = self.deploys();
        let alarm = deploys.running.as_ref().and_then(Deploy::alarm);
        let before = std::mem::replace(&mut deploys.alarm, alarm);
        if let Some(alarm) = alarm.filter(|_| alarm != before) {
            let later = alarm.saturating_duration_since(self.time());
            self.at(later.as_nanos() as u64, Event::Deploy(Step::Alarm));
        }
    }

    fn carry_out(&mut self, effect: &Effect) {
        let nth = self.deploys().begun;
        match effect {
            Effect::Enters(state) => {
                self.note(state.as_str(), nth, 0);
                if *state == State::Canary && self.rng.u32(..3) > 0 {
                    let later = self.rng.u64(..400) * MS;
                    self.at(later, Event::Deploy(Step::Promote(nth)));
                }
            }
            Effect::Awaited(_) => {}
            Effect::Add(dyno) => {
                let most = [50, 50, 50, 50, 500][self.rng.usize(..5)];
                let later = self.rng.u64(..most) * MS;
                if self.rng.u32(..10) > 0 {
                    self.at(later, Event::Deploy(Step::Up(dyno.address.port())));
                }
            }
            Effect::Probe(dyno) => {
                let port = dyno.address.port();
                assert!(self.dynos.get(port).is_idle(), "a probe never meets a request");
                let later = self.rng.u64(..5 * MS);
                self.at(later, Event::Deploy(Step::Answer(port)));
            }
            Effect::Drain(dyno) => {
                self.deploys().draining.insert(dyno.address.port());
            }
            Effect::Resume(dyno) => {
                self.deploys().draining.remove(&dyno.address.port());
            }
            Effect::GivenUp(dyno) => {
                self.totals.given_up += 1;
                self.note("given up", nth, dyno.address.port());
            }
            Effect::Ended(outcome) => self.ended(outcome),
            Effect::CanaryIs(_) | Effect::Canary(_) | Effect::Serve(_) | Effect::Remove(_) => {}
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        let now = self.time();
        let Some(deploy) = self.deploys().running.take() else { return };
        let progress = deploy.progress(now);
        let kind = match outcome {
            Outcome::Done => 0,
            Outcome::Failed(_) => 1,
            Outcome::RolledBack(..) => 2,
        };
        self.totals.deploys[kind] += 1;
        let stays = |stage| matches!(stage, DynoStage::Serving | DynoStage::Crashed);
        let left = progress.dynos.iter().filter(|dyno| stays(dyno.stage));
        let new_serves = progress.new_serving > 0;
        let deploys = self.deploys();
        deploys.dynos = left.map(|dyno| dyno.dyno.clone()).collect();
        deploys.draining.clear();
        deploys.release = if new_serves { progress.new.0 } else { progress.old.0 };
        let release = deploys.release.clone();
        self.put_release(release);
        // The processes of the other release end; one that still has a request ends it first.
        let keeps: BTreeSet<_> = self.deploys().dynos.iter().map(|dyno| dyno.address.port()).collect();
        for dyno in progress.dynos {
            let port = dyno.dyno.address.port();
            if !keeps.contains(&port) && self.seen_at(port).is_none() {
                self.dynos.get(port).up = false;
            }
        }
        let later = self.rng.u64(1..100) * MS;
        self.at(later, Event::Deploy(Step::Begin));
    }

    fn seen_at(&self, port: u16) -> Option<DynoSnapshot> {
        self.seen().dynos.into_iter().find(|dyno| dyno.address.port() == port)
    }

    /// Requests arrive at the pace of the dynos that serve.
    fn own(&mut self) {
        let serving = |dyno: &DynoSnapshot| serves(dyno) && dyno.lane == Lane::Main;
        let seen = self.seen();
        let serving = seen.dynos.iter().filter(|dyno| serving(dyno));
        self.owners = serving.map(|dyno| (dyno.address.port(), 0)).collect();
    }

    /// Some process of a dyno that the router knows dies.
    fn dies(&mut self) {
        if self.left == 0 {
            return;
        }
        let next = self.draw(300 * MS);
        self.at(next, Event::Deploy(Step::Dies));
        let ports: Vec<_> = self.seen().dynos.iter().map(|dyno| dyno.address.port()).collect();
        let Some(port) = self.rng.choice(ports) else { return };
        self.deploys().hurt = true;
        self.note("dies", 0, port);
        self.crash(port);
        let later = self.rng.u64(..30) * MS;
        self.at(later, Event::Deploy(Step::Heard(port)));
    }

    fn heard(&mut self, port: u16) {
        let now = self.time();
        if self.dynos.get(port).up {
            return;
        }
        if let Some(deploy) = &mut self.deploys().running {
            deploy.crashed(now, address(port), "signal 9");
        }
        // An old dyno that served is the router's business.
        let progress = self.deploys().running.as_ref().map(|deploy| deploy.progress(now));
        let crashed = progress.is_none_or(|progress| {
            let crashed = |dyno: &DynoStage| *dyno == DynoStage::Crashed;
            progress.dynos.iter().any(|dyno| dyno.dyno.address.port() == port && crashed(&dyno.stage))
        });
        if crashed && self.seen_at(port).is_some_and(|dyno| dyno.state != DynoState::Draining) {
            self.apply(&[Change::SetDyno(app(), address(port), DynoHealth::Crashed)]);
        }
    }

    /// Tells the deploy of dynos that are gone. Whether there were any.
    pub(crate) fn tell_of_gone(&mut self) -> bool {
        let Some(Deploys { draining, .. }) = &self.deploys else { return false };
        let gone = draining.iter().copied().find(|port| self.seen_at(*port).is_none());
        let (Some(port), now) = (gone, self.time()) else { return false };
        let deploys = self.deploys();
        deploys.draining.remove(&port);
        if let Some(deploy) = &mut deploys.running {
            deploy.gone(now, address(port));
        }
        self.pump();
        true
    }

    /// After each list of changes: the router knows of each dyno what the deploy believes, and the floor holds.
    fn hold_promises(&mut self) {
        let now = self.time();
        let (seen, hurt) = (self.seen(), self.deploys().hurt);
        let Some(deploy) = &self.deploys().running else { return };
        let progress = deploy.progress(now);
        for dyno in &progress.dynos {
            use DynoStage::{Canary, Crashed, Draining, Failed, Gone, Ready, Serving, Staged, Warming};
            let known = seen.dynos.iter().find(|known| known.address == dyno.dyno.address);
            let state = known.map(|known| known.state);
            let leaves = state.is_none_or(|state| state == DynoState::Draining);
            let in_lane = |lane| known.is_some_and(|known| serves(known) && known.lane == lane);
            let agrees = match dyno.stage {
                Staged => known.is_none(),
                Warming | Ready => known.is_some_and(|known| {
                    matches!(known.state, DynoState::Staged | DynoState::Booting) && known.in_flight == 0
                }),
                Canary => in_lane(Lane::Canary),
                Serving => in_lane(Lane::Main),
                Crashed => hurt,
                Draining | Gone | Failed => leaves,
                other => panic!("there is a new stage: {other}"),
            };
            assert!(agrees, "{} {}: {known:?}", dyno.dyno.address, dyno.stage);
            let release = if dyno.side == Side::Old { &progress.old.0 } else { &progress.new.0 };
            assert!(known.is_none_or(|known| known.release == *release), "{known:?} runs {release}");
        }
        let sound = |side| {
            let out = |stage| matches!(stage, DynoStage::Crashed | DynoStage::Failed);
            progress.dynos.iter().filter(|dyno| dyno.side == side && !out(dyno.stage)).count()
        };
        let floor = sound(Side::Old).min(sound(Side::New));
        let serving = seen.dynos.iter().filter(|dyno| serves(dyno) && dyno.lane == Lane::Main).count();
        assert!(hurt || serving >= floor, "{serving} dynos serve, the floor is {floor}: {progress:#?}");
        let canary = self.router.app(&app()).and_then(|app| app.canary()).is_some();
        assert_eq!(canary, progress.state == State::Canary, "the canary's requests are apart in its state");
    }

    /// Whether a request with the canary's header, if it has it, is the canary's.
    pub(crate) fn lane_of_next(&mut self) -> Lane {
        if self.deploys.is_none() {
            return Lane::Main;
        }
        let carries = self.rng.u32(..4) == 0;
        self.router.app(&app()).map_or(Lane::Main, |app| app.lane(|_| carries))
    }

    /// The lanes that wait for the same dynos as this request. The dyno that it was given has to be one of them.
    pub(crate) fn lanes_beside(&self, lane: Lane, given: Option<u16>) -> &'static [Lane] {
        if self.deploys.is_none() {
            return &Lane::ALL;
        }
        let seen = self.seen();
        let counts = |dyno: &&DynoSnapshot| serves(dyno) || dyno.state == DynoState::Booting;
        let open = seen.dynos.iter().filter(counts).any(|dyno| dyno.lane == Lane::Canary);
        let server = if open { lane } else { Lane::Main };
        let given = seen.dynos.iter().find(|dyno| given == Some(dyno.address.port()));
        assert!(given.is_none_or(|dyno| dyno.lane == server), "a request of the lane {lane:?} got {given:?}");
        match (open, lane) {
            (false, _) => &Lane::ALL,
            (true, Lane::Main) => &[Lane::Main],
            (true, Lane::Canary) => &[Lane::Canary],
        }
    }

    /// A request was refused: was it the deploy?
    pub(crate) fn check_refusal(&self, fault: Fault) {
        let Some(deploys) = &self.deploys else { return };
        assert!(!deploys.calm, "nothing is wrong but a deploy, and a request is refused: {fault}");
        if matches!(fault, Fault::NoDynos | Fault::AppCrashed | Fault::NoSuchApp) {
            let seen = self.seen();
            let serving = seen.dynos.iter().any(|dyno| serves(dyno) && dyno.lane == Lane::Main);
            assert!(!serving, "a release serves, and a request is refused: {fault}");
        }
    }

    /// After each event: nobody waits beside an idle dyno of its lane.
    pub(crate) fn check_lanes(&self) {
        if self.deploys.is_none() || self.lines.len(0, &Lane::ALL) == 0 {
            return;
        }
        let seen = self.seen();
        for dyno in seen.dynos.iter().filter(|dyno| dyno.state == DynoState::Idle) {
            let waiting = self.lines.len(0, self.lanes_beside(dyno.lane, None));
            assert_eq!(waiting, 0, "{waiting} wait while {} has room", dyno.address);
        }
    }
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}
