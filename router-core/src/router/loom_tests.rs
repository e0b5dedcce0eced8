//! loom models of an app under its lock: every order in which two or three threads can meet, one question a model.
//!
//! Run them with
//! `LOOM_MAX_PREEMPTIONS=2 RUSTFLAGS="--cfg router_loom" cargo test -p router-core --no-default-features --release
//! --lib loom_`. loom sees the locks and counters of `crate::sync`. It does not see inside `DashMap` and `ArcSwap`, so
//! no model lets two apps meet at one address: the hub would hold a shard it cannot see while a thread is switched.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc as StdArc;
use std::task::{Wake, Waker};
use std::time::Duration;

use loom::sync::Notify;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::hub::Hub;
use super::shared::{Entered, Granted, InLine, Op, Owed, SharedApp};
use crate::canary::Lane;
use crate::change::{DynoHealth, DynoSpec, Hold};
use crate::clock::Clock;
use crate::fault::Fault;
use crate::ids::Address;
use crate::limits::Limits;
use crate::policy::health::Outcome;
use crate::snapshot::DynoState;
use crate::sync::{Arc, Ordering};
use crate::wish::Wish;

/// An app and its hub, as all threads of a model share them.
#[derive(Clone)]
struct World {
    app: Arc<SharedApp>,
    hub: Arc<Hub>,
    clock: Clock,
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

impl World {
    fn with_dynos(dynos: u16) -> Self {
        let hub = Arc::new(Hub::new());
        let clock = Clock::manual();
        let (limits, release) = (Limits::default(), "v1".into());
        let shared = SharedApp::new("a".into(), limits, release, clock.clone(), Arc::clone(&hub));
        let world = Self { app: Arc::new(shared), hub, clock };
        (1..=dynos).for_each(|port| world.add(port));
        world
    }

    fn add(&self, port: u16) {
        self.add_as(port, DynoHealth::Ready);
    }

    fn add_as(&self, port: u16, state: DynoHealth) {
        let op = self.hub.claim(&self.app, DynoSpec { state, ..DynoSpec::new(address(port)) });
        self.change(op);
    }

    fn remove(&self, port: u16) {
        let op = self.hub.disclaim(self.app.id(), address(port));
        self.change(op);
    }

    fn change(&self, op: Option<Op>) {
        let ops: Vec<_> = op.into_iter().collect();
        let owed: Owed = self.app.change(&ops);
        for gone in owed.pay() {
            self.hub.left(self.app.id(), gone);
        }
    }

    fn granted(&self) -> Granted {
        self.granted_in(Lane::Main)
    }

    fn granted_in(&self, lane: Lane) -> Granted {
        match self.app.arrive(lane, 0, None) {
            Ok(Entered::Granted(granted)) => granted,
            Ok(Entered::InLine(_)) => panic!("it has to wait"),
            Err(fault) => panic!("refused: {fault}"),
        }
    }

    fn in_line(&self) -> InLine {
        match self.app.arrive(Lane::Main, 0, None) {
            Ok(Entered::InLine(place)) => place,
            Ok(Entered::Granted(_)) => panic!("it need not wait"),
            Err(fault) => panic!("refused: {fault}"),
        }
    }

    /// Waits as a task does: sleeps until it is woken. A lost wake-up is a deadlock, and loom reports it.
    fn wait(&self, place: InLine) -> Result<Granted, Fault> {
        let bell = StdArc::new(Bell(Notify::new()));
        let waker = Waker::from(StdArc::clone(&bell));
        loop {
            if let Some(result) = self.app.poll(place, &waker) {
                return result;
            }
            bell.0.wait();
        }
    }

    fn check_in(&self, granted: &Granted) {
        self.app.check_in(&granted.grant, false, Outcome::Served, None);
    }

    /// Nobody waits, and every dyno is there and idle.
    fn assert_whole(&self, dynos: usize) {
        let seen = self.app.snapshot();
        assert_eq!((seen.waiting, seen.dynos.len()), (0, dynos));
        assert_eq!(seen.count(DynoState::Idle), dynos);
    }
}

struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: StdArc<Self>) {
        self.0.notify();
    }
}

/// Grant and cancel: the dyno that a dropped ticket was granted goes to the next in line (T6).
#[test]
fn a_granted_ticket_that_is_dropped_loses_no_dyno() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let held = world.granted();
        let (dropped, next) = (world.in_line(), world.in_line());
        let checks_in = world.clone();
        let first = thread::spawn(move || checks_in.check_in(&held));
        let drops = world.clone();
        let second = thread::spawn(move || drops.app.cancel(dropped));
        let granted = world.wait(next).unwrap_or_else(|fault| panic!("refused: {fault}"));
        world.check_in(&granted);
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// Grant and expire: who expires has the dyno or has not, and never loses it.
#[test]
fn a_ticket_that_expires_as_it_is_granted_has_its_dyno_or_gives_it_on() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let held = world.granted();
        let (expires, next) = (world.in_line(), world.in_line());
        let checks_in = world.clone();
        let first = thread::spawn(move || checks_in.check_in(&held));
        let ends = world.clone();
        let second = thread::spawn(move || {
            if let Ok(granted) = ends.app.expire(expires) {
                ends.check_in(&granted);
            }
        });
        let granted = world.wait(next).unwrap_or_else(|fault| panic!("refused: {fault}"));
        world.check_in(&granted);
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// Check in and arrival: who arrives as the only dyno is freed gets it (T2).
#[test]
fn check_in_meets_arrival() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let held = world.granted();
        let checks_in = world.clone();
        let first = thread::spawn(move || checks_in.check_in(&held));
        let granted = match world.app.arrive(Lane::Main, 0, None) {
            Ok(Entered::Granted(granted)) => Ok(granted),
            Ok(Entered::InLine(place)) => world.wait(place),
            Err(fault) => Err(fault),
        };
        world.check_in(&granted.unwrap_or_else(|fault| panic!("refused: {fault}")));
        first.join().unwrap();
        world.assert_whole(1);
    });
}

/// Change and dispatch: a dyno that flaps while it is checked in is never given to two (T1, T5), and is not lost.
#[test]
fn a_dyno_that_flaps_while_it_is_checked_in_is_given_once() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let busy = Arc::new(AtomicUsize::new(1));
        let held = world.granted();
        let (checks_in, at_work) = (world.clone(), Arc::clone(&busy));
        let first = thread::spawn(move || {
            at_work.fetch_sub(1, Ordering::SeqCst);
            checks_in.check_in(&held);
        });
        let flaps = world.clone();
        let second = thread::spawn(move || {
            flaps.remove(1);
            flaps.add(1);
        });
        let granted = match world.app.arrive(Lane::Main, 0, None) {
            Ok(Entered::Granted(granted)) => Some(granted),
            Ok(Entered::InLine(place)) => world.wait(place).ok(),
            Err(Fault::NoDynos) => None,
            Err(fault) => panic!("refused: {fault}"),
        };
        if let Some(granted) = granted {
            assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0, "the dyno is given to two");
            busy.fetch_sub(1, Ordering::SeqCst);
            world.check_in(&granted);
        }
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// Two check-ins and two who wait: each wakes one, and nobody is woken for nothing or not at all.
#[test]
fn two_check_ins_serve_two_who_wait() {
    loom::model(|| {
        let world = World::with_dynos(2);
        let held = [world.granted(), world.granted()];
        let places = [world.in_line(), world.in_line()];
        let threads = held.map(|held| {
            let checks_in = world.clone();
            thread::spawn(move || checks_in.check_in(&held))
        });
        for place in places {
            let granted = world.wait(place).unwrap_or_else(|fault| panic!("refused: {fault}"));
            world.check_in(&granted);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        world.assert_whole(2);
    });
}

/// The clock and arrival: a pause that ends by the clock lets go whoever stands in line then, and none is forgotten.
#[test]
fn a_resume_by_the_clock_meets_arrival() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let second = Duration::from_secs(1);
        world.change(Some(Op::Hold(Hold::Pause { at_most: second, over: Duration::ZERO })));
        let waits = world.in_line();
        let ticks = world.clone();
        let first = thread::spawn(move || {
            ticks.clock.advance(second);
            ticks.app.tick();
        });
        let arrives = world.clone();
        let second = thread::spawn(move || {
            let granted = match arrives.app.arrive(Lane::Main, 0, None) {
                Ok(Entered::Granted(granted)) => Ok(granted),
                Ok(Entered::InLine(place)) => arrives.wait(place),
                Err(fault) => Err(fault),
            };
            arrives.check_in(&granted.unwrap_or_else(|fault| panic!("refused: {fault}")));
        });
        let granted = world.wait(waits).unwrap_or_else(|fault| panic!("refused: {fault}"));
        world.check_in(&granted);
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// A wish for a dyno meets its check-in, its end by the clock, and an ordinary request: nobody is lost or served
/// twice.
#[test]
fn a_wish_meets_check_in_and_its_end() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let held = world.granted();
        let wish = Wish { dyno: held.grant.info.address, wait: Duration::from_millis(5) };
        let checks_in = world.clone();
        let first = thread::spawn(move || checks_in.check_in(&held));
        let ticks = world.clone();
        let second = thread::spawn(move || {
            ticks.clock.advance(Duration::from_millis(5));
            ticks.app.tick();
        });
        let granted = match world.app.arrive(Lane::Main, 0, Some(wish)) {
            Ok(Entered::Granted(granted)) => Ok(granted),
            Ok(Entered::InLine(place)) => world.wait(place),
            Err(fault) => Err(fault),
        };
        world.check_in(&granted.unwrap_or_else(|fault| panic!("refused: {fault}")));
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// A canary ends as one of its requests arrives: whichever comes first, the main lane's dyno serves the request.
#[test]
fn a_request_that_enters_as_its_canary_ends_is_served() {
    loom::model(|| {
        let world = World::with_dynos(1);
        world.add_as(2, DynoHealth::Canary);
        let (main, canary) = (world.granted(), world.granted_in(Lane::Canary));
        let ends = world.clone();
        let first = thread::spawn(move || ends.remove(2));
        let checks_in = world.clone();
        let second = thread::spawn(move || checks_in.check_in(&main));
        let granted = match world.app.arrive(Lane::Canary, 0, None) {
            Ok(Entered::Granted(granted)) => Ok(granted),
            Ok(Entered::InLine(place)) => world.wait(place),
            Err(fault) => Err(fault),
        };
        let granted = granted.unwrap_or_else(|fault| panic!("refused: {fault}"));
        assert_eq!(granted.grant.info.address, address(1));
        world.check_in(&granted);
        world.check_in(&canary);
        first.join().unwrap();
        second.join().unwrap();
        world.assert_whole(1);
    });
}

/// A dyno changes the protocol of its request as another one arrives: that one is served beside it, whichever comes
/// first, and the dyno has one request at a time.
#[test]
fn an_upgrade_meets_arrival() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let limits = Limits::default().with_streams(1);
        world.change(Some(Op::Put(Box::new(limits), "v1".into())));
        let held = world.granted();
        let upgrades = world.clone();
        let first = thread::spawn(move || {
            let bell = upgrades.app.upgrade(&held.grant);
            upgrades.app.end_upgraded(&held.grant, false, &bell);
        });
        let granted = match world.app.arrive(Lane::Main, 0, None) {
            Ok(Entered::Granted(granted)) => Ok(granted),
            Ok(Entered::InLine(place)) => world.wait(place),
            Err(fault) => Err(fault),
        };
        let granted = granted.unwrap_or_else(|fault| panic!("refused: {fault}"));
        let dyno = world.app.snapshot().dynos.remove(0);
        assert_eq!(dyno.in_flight - dyno.upgraded, 1);
        world.check_in(&granted);
        first.join().unwrap();
        world.assert_whole(1);
    });
}

/// A dyno leaves as it changes the protocol of its request: the bell rings, whichever comes first.
#[test]
fn a_dyno_that_leaves_meets_an_upgrade() {
    loom::model(|| {
        let world = World::with_dynos(1);
        let held = world.granted();
        let leaves = world.clone();
        let first = thread::spawn(move || leaves.remove(1));
        let bell = world.app.upgrade(&held.grant);
        let notify = StdArc::new(Bell(Notify::new()));
        let waker = Waker::from(StdArc::clone(&notify));
        while bell.poll(&std::task::Context::from_waker(&waker)).is_pending() {
            notify.0.wait();
        }
        world.app.end_upgraded(&held.grant, false, &bell);
        first.join().unwrap();
        assert!(world.app.snapshot().dynos.is_empty());
    });
}
