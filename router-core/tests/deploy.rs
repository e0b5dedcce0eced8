//! A deploy drives a real router: what its effects ask for is what a router does, with requests in line and in flight.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use router_core::canary::{Canary, Lane};
use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::clock::Clock;
use router_core::ids::{Address, AppId};
use router_core::limits::Limits;
use router_core::policy::deploy::{Deploy, Effect, Outcome, Plan, Release};
use router_core::snapshot::DynoState;
use router_core::{Lease, Router, Ticket};

struct Shop {
    clock: Clock,
    router: Router,
    deploy: Deploy,
    probes: Vec<Address>,
    outcome: Option<Outcome>,
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

fn shop() -> AppId {
    "shop".into()
}

impl Shop {
    fn new() -> Self {
        Self::with(Plan::default().with_bake_time(std::time::Duration::from_secs(60)))
    }

    /// Two dynos of v1 that serve, and a deploy of two dynos of v2 that has begun.
    fn with(plan: Plan) -> Self {
        let clock = Clock::manual();
        let router = Router::with_clock(clock.clone());
        let app = AppSpec {
            id: shop(),
            hosts: vec!["shop.test".into()],
            release: "v1".into(),
            limits: Limits::default(),
        };
        let dynos = |ports: [u16; 2]| ports.map(|port| DynoSpec::new(address(port))).to_vec();
        let mut changes = vec![Change::PutApp(app)];
        changes.extend(dynos([3001, 3002]).into_iter().map(|dyno| Change::AddDyno(shop(), dyno)));
        router.apply(&changes).unwrap();
        let old = Release { id: "v1".into(), dynos: dynos([3001, 3002]) };
        let new = Release { id: "v2".into(), dynos: dynos([4001, 4002]) };
        let mut deploy = Deploy::new(clock.now(), old, new, plan).unwrap();
        deploy.start(clock.now()).unwrap();
        let mut shop = Self { clock, router, deploy, probes: Vec::new(), outcome: None };
        shop.pump();
        shop
    }

    /// Hands what the deploy asks for to the router as one list, and tells the deploy which dynos are gone.
    fn pump(&mut self) {
        loop {
            let effects: Vec<_> = std::iter::from_fn(|| self.deploy.next_effect()).collect();
            let changes: Vec<_> = effects.iter().flat_map(|effect| effect.changes(&shop())).collect();
            self.router.apply(&changes).unwrap();
            let mut drained = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Probe(dyno) => self.probes.push(dyno.address),
                    Effect::Drain(dyno) if self.state(dyno.address).is_none() => drained.push(dyno.address),
                    Effect::Ended(outcome) => self.outcome = Some(outcome),
                    Effect::Drain(_) | Effect::Enters(_) | Effect::GivenUp(_) => {}
                    Effect::Canary(_) | Effect::CanaryIs(_) => {}
                    Effect::Add(_)
                    | Effect::Awaited(_)
                    | Effect::Serve(_)
                    | Effect::Resume(_)
                    | Effect::Remove(_) => {}
                }
            }
            if drained.is_empty() {
                return;
            }
            drained.iter().for_each(|dyno| self.deploy.gone(self.clock.now(), *dyno));
        }
    }

    fn answer_probes(&mut self) {
        for dyno in std::mem::take(&mut self.probes) {
            self.deploy.probed(self.clock.now(), dyno, Ok(()));
            self.pump();
        }
    }

    fn ask(&self) -> Ticket {
        self.ask_on(Lane::Main)
    }

    fn ask_on(&self, lane: Lane) -> Ticket {
        let app = self.router.route("shop.test", "/").unwrap();
        self.router.ticket_on(&app, lane, 0).unwrap()
    }

    fn lane(&self) -> Lane {
        self.router.route("shop.test", "/").unwrap().lane(|_| true)
    }

    fn state(&self, dyno: Address) -> Option<DynoState> {
        let picture = self.router.snapshot();
        picture.apps[0].dynos.iter().find(|known| known.address == dyno).map(|known| known.state)
    }
}

fn poll(ticket: &mut Ticket) -> Poll<Lease> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
}

fn granted(ticket: &mut Ticket) -> Lease {
    match poll(ticket) {
        Poll::Ready(lease) => lease,
        Poll::Pending => panic!("the request waits"),
    }
}

#[test]
fn who_waits_is_served_by_the_new_release_the_moment_it_is_ready() {
    let mut shop = Shop::new();
    let held = [granted(&mut shop.ask()), granted(&mut shop.ask())];
    let mut waiting = shop.ask();
    assert!(poll(&mut waiting).is_pending(), "dynos that warm take nothing");
    assert_eq!(shop.state(address(4001)), Some(DynoState::Staged));
    shop.answer_probes();
    let next = granted(&mut waiting);
    assert!(next.dyno().address.port() > 4000);
    assert_eq!(shop.state(address(3001)), Some(DynoState::Draining), "its request goes on");
    drop(held);
    assert_eq!(shop.state(address(3001)), None);
}

/// Invariant 1 over a deploy: the state of a busy dyno survives that it leaves and is resumed.
#[test]
fn a_rollback_brings_a_busy_dyno_back_as_busy_and_an_idle_one_after_a_probe() {
    let mut shop = Shop::new();
    let held = granted(&mut shop.ask());
    let busy = held.dyno().address;
    let idle = if busy == address(3001) { address(3002) } else { address(3001) };
    shop.answer_probes();
    assert_eq!((shop.state(busy), shop.state(idle)), (Some(DynoState::Draining), None));
    shop.deploy.roll_back(shop.clock.now(), "ann").unwrap();
    shop.pump();
    assert_eq!((shop.state(busy), shop.state(idle)), (Some(DynoState::Busy), Some(DynoState::Staged)));
    let served = [address(4001), address(4002)].map(|dyno| shop.state(dyno) == Some(DynoState::Idle));
    assert_eq!(served.iter().filter(|serves| **serves).count(), 1, "one stays until the idle one is back");
    shop.answer_probes();
    let outcome = shop.outcome.take().unwrap().to_string();
    assert_eq!(outcome, "rolled back: ann (old dynos resumed 1, warmed again 1, lost 0)");
    assert_eq!((shop.state(busy), shop.state(idle)), (Some(DynoState::Busy), Some(DynoState::Idle)));
    assert_eq!([shop.state(address(4001)), shop.state(address(4002))], [None, None]);
    assert_eq!(granted(&mut shop.ask()).dyno().address, idle);
}

#[test]
fn each_dyno_says_which_release_it_runs_while_two_do() {
    let mut shop = Shop::new();
    shop.answer_probes();
    let old = AppSpec {
        id: self::shop(),
        hosts: vec!["shop.test".into()],
        release: "v1".into(),
        limits: Limits::default(),
    };
    let held = [granted(&mut shop.ask()), granted(&mut shop.ask())];
    assert!(held.iter().all(|lease| lease.dyno().release.as_str() == "v2"));
    shop.router.apply(&[Change::PutApp(AppSpec { release: "v2".into(), ..old })]).unwrap();
    shop.deploy.roll_back(shop.clock.now(), "ann").unwrap();
    shop.pump();
    shop.answer_probes();
    let dynos = &shop.router.snapshot().apps[0].dynos;
    let runs: Vec<_> = dynos.iter().map(|dyno| (dyno.address.port(), dyno.release.as_str())).collect();
    assert_eq!(runs, [(3001, "v1"), (3002, "v1"), (4001, "v2"), (4002, "v2")]);
}

#[test]
fn a_first_deploy_lets_requests_wait_for_its_dynos() {
    let clock = Clock::manual();
    let router = Router::with_clock(clock.clone());
    let limits = Limits::default();
    let app = AppSpec { id: shop(), hosts: vec!["shop.test".into()], release: "v1".into(), limits };
    router.apply(&[Change::PutApp(app)]).unwrap();
    let old = Release { id: "none".into(), dynos: Vec::new() };
    let new = Release { id: "v1".into(), dynos: vec![DynoSpec::new(address(4001))] };
    let deploy = Deploy::new(clock.now(), old, new, Plan::default()).unwrap();
    let mut shop = Shop { clock, router, deploy, probes: Vec::new(), outcome: None };
    shop.deploy.start(shop.clock.now()).unwrap();
    shop.pump();
    let mut waiting = shop.ask();
    assert_eq!(shop.state(address(4001)), Some(DynoState::Booting));
    assert!(poll(&mut waiting).is_pending());
    shop.answer_probes();
    assert_eq!(granted(&mut waiting).dyno().address, address(4001));
}

#[test]
fn a_deploy_goes_on_in_a_router_that_is_new() {
    let mut shop = Shop::new();
    shop.answer_probes();
    let saved = shop.deploy.saved();
    let app = AppSpec {
        id: self::shop(),
        hosts: vec!["shop.test".into()],
        release: "v2".into(),
        limits: Limits::default(),
    };
    shop.router = Router::with_clock(shop.clock.clone());
    shop.router.apply(&[Change::PutApp(app)]).unwrap();
    shop.deploy = Deploy::resume(saved, shop.clock.now()).unwrap();
    shop.pump();
    let states = [3001, 3002, 4001, 4002].map(|port| shop.state(address(port)));
    assert_eq!(states, [None, None, Some(DynoState::Idle), Some(DynoState::Idle)]);
}

fn tried() -> Plan {
    Plan::default().with_canary(Some(Canary::Header { name: "x-beta".into(), value: "1".into() }))
}

#[test]
fn a_canary_has_its_lane_until_it_is_promoted() {
    let mut shop = Shop::with(tried());
    assert_eq!(shop.lane(), Lane::Main);
    shop.answer_probes();
    assert_eq!(shop.lane(), Lane::Canary);
    let old = [granted(&mut shop.ask()), granted(&mut shop.ask())];
    let new = [granted(&mut shop.ask_on(Lane::Canary)), granted(&mut shop.ask_on(Lane::Canary))];
    assert!(old.iter().all(|lease| lease.dyno().release.as_str() == "v1"));
    assert!(new.iter().all(|lease| lease.dyno().release.as_str() == "v2"));
    let mut waiting = [shop.ask_on(Lane::Canary), shop.ask(), shop.ask_on(Lane::Canary)];
    assert!(waiting.iter_mut().all(|ticket| poll(ticket).is_pending()));
    shop.deploy.promote(shop.clock.now()).unwrap();
    shop.pump();
    assert_eq!(shop.lane(), Lane::Main);
    drop(new);
    let [first, second, last] = &mut waiting;
    let held = [granted(first), granted(second)];
    assert!(held.iter().all(|lease| lease.dyno().release.as_str() == "v2"), "the first come of both lanes");
    drop(old);
    assert!(poll(last).is_pending(), "the old dynos have left");
}

#[test]
fn a_canary_that_is_rolled_back_delays_nobody_who_waits_for_it() {
    let mut shop = Shop::with(tried());
    shop.answer_probes();
    let on = |shop: &Shop, lane| granted(&mut shop.ask_on(lane));
    let held =
        [on(&shop, Lane::Main), on(&shop, Lane::Main), on(&shop, Lane::Canary), on(&shop, Lane::Canary)];
    let mut waiting = [shop.ask_on(Lane::Canary), shop.ask(), shop.ask_on(Lane::Canary)];
    shop.deploy.roll_back(shop.clock.now(), "ann").unwrap();
    shop.pump();
    assert_eq!(shop.lane(), Lane::Main);
    drop(held);
    let [first, second, last] = &mut waiting;
    let served = [granted(first), granted(second)];
    assert!(served.iter().all(|lease| lease.dyno().release.as_str() == "v1"));
    assert!(poll(last).is_pending());
    drop(served);
    granted(last);
    assert_eq!([4001, 4002].map(|port| shop.state(address(port))), [None, None]);
}
