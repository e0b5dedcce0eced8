//! Single steps of an app, one sentence a test. The model test in `tests/model.rs` takes random walks.

#[cfg(test)]
mod health;
#[cfg(test)]
mod hold;
#[cfg(test)]
mod wishes;

use super::*;
use crate::change::{DynoHealth, DynoSpec, Hold};
use crate::clock::Clock;

struct World {
    app: App,
    clock: Clock,
    granted: Vec<(TicketId, Grant)>,
    refused: Vec<(TicketId, Fault)>,
    gone: Vec<Address>,
}

fn address(n: u16) -> Address {
    ([127, 0, 0, 1], n).into()
}

impl World {
    fn with_dynos(n: u16) -> Self {
        let app = App::new(Limits::default(), "v1".into(), 1);
        let (granted, refused, gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = Self { app, clock: Clock::manual(), granted, refused, gone };
        for i in 1..=n {
            world.app.add(&DynoSpec::new(address(i)), u64::from(i));
        }
        world.settle();
        world
    }

    fn settle(&mut self) {
        let now = self.clock.now();
        while let Some(effect) = self.app.next(now) {
            match effect {
                Effect::Grant(ticket, grant) => self.granted.push((ticket, grant)),
                Effect::Refuse(ticket, fault) => self.refused.push((ticket, fault)),
                Effect::Gone(gone) => self.gone.push(gone.address),
            }
        }
        self.app.check_invariants(now);
    }

    fn arrive(&mut self) -> Arrived {
        self.arrive_in(Lane::Main)
    }

    fn arrive_in(&mut self, lane: Lane) -> Arrived {
        let arrived = self.app.arrive(self.clock.now(), lane, 0, None);
        self.settle();
        arrived
    }

    fn granted_at_once(&mut self) -> Grant {
        self.granted_in(Lane::Main)
    }

    fn granted_in(&mut self, lane: Lane) -> Grant {
        match self.arrive_in(lane) {
            Arrived::Granted(grant) => grant,
            other @ (Arrived::InLine { .. } | Arrived::Refused(_)) => panic!("not granted: {other:?}"),
        }
    }

    fn set(&mut self, dyno: u16, health: DynoHealth) {
        self.app.set(address(dyno), health);
        self.settle();
    }

    fn in_line(&mut self) -> TicketId {
        self.in_line_of(Lane::Main)
    }

    fn in_line_of(&mut self, lane: Lane) -> TicketId {
        match self.arrive_in(lane) {
            Arrived::InLine { ticket, .. } => ticket,
            other @ (Arrived::Granted(_) | Arrived::Refused(_)) => panic!("not in line: {other:?}"),
        }
    }

    fn check_in(&mut self, grant: &Grant) {
        self.end(grant, Outcome::Served, 10);
    }

    fn end(&mut self, grant: &Grant, outcome: Outcome, held_ms: u64) {
        let ending = Ending { held: Duration::from_millis(held_ms), lingered: false, outcome };
        self.app.check_in(self.clock.now(), grant.dyno, ending);
        self.settle();
    }

    fn pass(&mut self, by: Duration) {
        self.clock.advance(by);
        self.app.tick(self.clock.now());
        self.settle();
    }
}

#[test]
fn t1_a_dyno_that_returns_while_busy_gets_no_second_request() {
    let mut world = World::with_dynos(1);
    let first = world.granted_at_once();
    world.app.remove(address(1));
    world.settle();
    world.app.add(&DynoSpec::new(address(1)), 2);
    world.settle();
    let second = world.in_line();
    assert!(world.granted.is_empty(), "the dyno is still busy");
    world.check_in(&first);
    assert_eq!(world.granted[0].0, second);
    assert!(world.gone.is_empty());
}

#[test]
fn t4_the_last_dyno_goes_with_a_full_line_and_everybody_is_told() {
    let mut world = World::with_dynos(1);
    let first = world.granted_at_once();
    let second = world.in_line();
    world.app.remove(address(1));
    world.settle();
    assert_eq!(world.refused, [(second, Fault::NoDynos)]);
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::NoDynos)));
    world.check_in(&first);
    assert_eq!(world.gone, [address(1)]);
}

#[test]
fn a_request_whose_dyno_is_unreachable_is_first_again_and_goes_elsewhere() {
    let mut world = World::with_dynos(2);
    let (a, _b) = (world.granted_at_once(), world.granted_at_once());
    let waiting = world.in_line();
    let again = world.app.again(world.clock.now(), a.dyno, a.place, false, Fault::ConnectRefused).unwrap();
    world.settle();
    assert!(world.granted.is_empty(), "one dyno is busy, one in quarantine");
    world.pass(Duration::from_secs(4));
    let b = _b;
    world.check_in(&b);
    assert_eq!(world.granted[0].0, again, "before the one who never had a dyno");
    let again = world.granted[0].1.clone();
    assert_eq!((again.info.address, again.place.tries), (b.info.address, 2));
    world.pass(Duration::from_millis(1000));
    assert_eq!(
        world.granted.len(),
        1,
        "the quarantined dyno is back, its first request's time is up: {:?}",
        world.refused
    );
    assert_eq!(world.refused, [(waiting, Fault::Backlog(Backlog::MaxWait))]);
}

#[test]
fn a_lone_dyno_in_quarantine_is_tried_soon_when_somebody_waits() {
    let mut world = World::with_dynos(1);
    let grant = world.granted_at_once();
    world.app.again(world.clock.now(), grant.dyno, grant.place, false, Fault::ConnectRefused).unwrap();
    world.settle();
    let next = world.app.next_tick().unwrap();
    assert_eq!(next - world.clock.now(), Duration::from_millis(100));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.granted.len(), 1);
}

#[test]
fn a_request_is_offered_to_no_more_dynos_than_it_may() {
    let mut world = World::with_dynos(12);
    let mut grant = world.granted_at_once();
    for _ in 1..10 {
        world.app.again(world.clock.now(), grant.dyno, grant.place, false, Fault::ConnectRefused).unwrap();
        world.settle();
        grant = world.granted.pop().unwrap().1;
    }
    let last = world.app.again(world.clock.now(), grant.dyno, grant.place, false, Fault::ConnectRefused);
    assert_eq!(last.unwrap_err(), Fault::ConnectRefused);
}

#[test]
fn the_waits_between_dynos_add_up_to_the_longest_wait() {
    let mut world = World::with_dynos(1);
    let mut grant = world.granted_at_once();
    let mut waited = Duration::ZERO;
    while world.refused.is_empty() {
        // The time a dyno takes to be found unreachable is no wait in line.
        world.pass(Duration::from_millis(700));
        let now = world.clock.now();
        let ticket = world.app.again(now, grant.dyno, grant.place, false, Fault::ConnectRefused).unwrap();
        let deadline = world.app.deadline(ticket).unwrap();
        assert_eq!(waited + (deadline - now), Duration::from_secs(5), "what is left of the wait");
        world.settle();
        let next = world.app.next_tick().map_or(deadline, |tick| tick.min(deadline));
        world.pass(next - now);
        waited += next - now;
        if let Some((_, next)) = world.granted.pop() {
            grant = next;
        }
    }
    assert_eq!(waited, Duration::from_secs(5));
    assert_eq!(world.refused[0].1, Fault::ConnectRefused);
}

#[test]
fn who_waits_for_booting_dynos_waits_for_the_boot() {
    let mut world = World::with_dynos(1);
    world.app.set(address(1), DynoHealth::Booting);
    let ticket = world.in_line();
    world.pass(Duration::from_secs(74));
    assert!(world.refused.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.refused, [(ticket, Fault::BootTimeout)]);
    world.app.set(address(1), DynoHealth::Crashed);
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::AppCrashed)));
    world.app.set(address(1), DynoHealth::Ready);
    world.granted_at_once();
}

#[test]
fn an_app_that_is_taken_away_is_over_when_its_last_request_has_ended() {
    let mut world = World::with_dynos(2);
    let grant = world.granted_at_once();
    world.app.close(world.clock.now());
    world.settle();
    assert!(!world.app.is_over());
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::NoSuchApp)));
    world.check_in(&grant);
    assert!(world.app.is_over());
    assert_eq!(world.gone.len(), 2);
}

#[test]
fn requests_spread_over_dynos_that_take_several_at_once() {
    let mut world = World::with_dynos(0);
    for i in 1..=2 {
        world.app.add(&DynoSpec { concurrency: 2, ..DynoSpec::new(address(i)) }, u64::from(i));
    }
    let addresses: Vec<_> = (0..4).map(|_| world.granted_at_once().info.address.port()).collect();
    assert_eq!(addresses, [2, 1, 1, 2], "each gets one before any gets two");
    world.in_line();
}

#[test]
fn a_new_order_holds_for_dynos_that_are_idle_already() {
    let mut world = World::with_dynos(3);
    world.app.put(Limits::default().with_order(crate::limits::Order::LeastRecentlyUsed), "v2".into(), 1);
    world.settle();
    assert_eq!(world.granted_at_once().info.address, address(1));
}

#[test]
fn a_quarantined_dyno_that_is_still_busy_is_not_the_one_to_be_tried_early() {
    let mut world = World::with_dynos(0);
    for (port, concurrency) in [(1, 2), (2, 1)] {
        let spec = DynoSpec { concurrency, ..DynoSpec::new(address(port)) };
        world.app.add(&spec, u64::from(port));
    }
    let grants = [world.granted_at_once(), world.granted_at_once(), world.granted_at_once()];
    assert_eq!(grants.clone().map(|grant| grant.info.address.port()), [2, 1, 1]);
    for grant in &grants[..2] {
        let _ = world.app.again(world.clock.now(), grant.dyno, grant.place, false, Fault::ConnectRefused);
        world.settle();
    }
    world.pass(Duration::from_millis(100));
    let ports: Vec<_> = world.granted.iter().map(|(_, grant)| grant.info.address.port()).collect();
    assert_eq!(ports, [2], "the other has its hands full and would take nobody");
}

/// One main dyno, and the second one for the canary.
fn with_canary() -> World {
    let mut world = World::with_dynos(2);
    world.set(2, DynoHealth::Canary);
    world
}

#[test]
fn each_lane_is_served_by_its_own_dynos_in_its_own_order() {
    let mut world = with_canary();
    let (main, canary) = (world.granted_in(Lane::Main), world.granted_in(Lane::Canary));
    assert_eq!([main.info.address, canary.info.address], [address(1), address(2)]);
    let line = [Lane::Main, Lane::Canary, Lane::Main, Lane::Canary].map(|lane| world.in_line_of(lane));
    world.check_in(&canary);
    let canary = world.granted[0].1.clone();
    world.check_in(&canary);
    assert_eq!(world.granted.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [line[1], line[3]]);
    assert!(world.granted.iter().all(|(_, grant)| grant.info.address == address(2)));
    let canary = world.granted[1].1.clone();
    world.check_in(&canary);
    assert_eq!(world.granted.len(), 2, "the canary's dyno is idle, and who waits is not the canary's");
    world.check_in(&main);
    assert_eq!((world.granted[2].0, world.granted[2].1.info.address), (line[0], address(1)));
}

#[test]
fn when_a_canary_ends_its_requests_are_served_by_first_arrival_and_nobody_is_refused() {
    for crashes in [false, true] {
        let mut world = with_canary();
        let (main, canary) = (world.granted_in(Lane::Main), world.granted_in(Lane::Canary));
        let line = [Lane::Main, Lane::Canary, Lane::Main, Lane::Canary].map(|lane| world.in_line_of(lane));
        if crashes {
            world.app.set(address(2), DynoHealth::Crashed);
        } else {
            world.app.remove(address(2));
        }
        world.settle();
        let last = world.in_line_of(Lane::Canary);
        world.check_in(&canary);
        assert!(world.granted.is_empty() && world.refused.is_empty());
        world.check_in(&main);
        for nth in 0..5 {
            let grant = world.granted[nth].1.clone();
            world.check_in(&grant);
        }
        let order: Vec<_> = world.granted.iter().map(|(ticket, _)| *ticket).collect();
        assert_eq!(order, [&line[..], &[last]].concat());
        assert!(world.granted.iter().all(|(_, grant)| grant.info.address == address(1)));
        world.granted_in(Lane::Canary);
    }
}

#[test]
fn a_canary_that_is_cut_over_takes_the_requests_of_both_lanes() {
    let mut world = with_canary();
    let _held = [world.granted_in(Lane::Main), world.granted_in(Lane::Canary)];
    let line = [world.in_line_of(Lane::Canary), world.in_line_of(Lane::Main)];
    world.set(2, DynoHealth::Ready);
    assert!(world.granted.is_empty(), "it is still busy");
    world.check_in(&_held[1]);
    world.check_in(&_held[0]);
    assert_eq!(world.granted.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), line);
}

#[test]
fn a_main_lane_without_dynos_is_refused_while_the_canary_serves() {
    let mut world = with_canary();
    world.app.remove(address(1));
    world.settle();
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::NoDynos)));
    world.granted_in(Lane::Canary);
}

#[test]
fn each_lane_has_its_own_bounds_and_a_shut_one_those_of_all() {
    let mut world = with_canary();
    world.app.put(Limits::default().with_queue_max_requests_per_dyno(2), "v1".into(), 1);
    let _held = [world.granted_in(Lane::Main), world.granted_in(Lane::Canary)];
    let _line: Vec<_> = [Lane::Canary, Lane::Canary, Lane::Main].map(|lane| world.in_line_of(lane)).into();
    let full = |arrived| matches!(arrived, Arrived::Refused(Fault::Backlog(Backlog::Requests)));
    assert!(full(world.arrive_in(Lane::Canary)), "two wait for one dyno");
    world.in_line_of(Lane::Main);
    world.app.remove(address(2));
    world.settle();
    assert!(full(world.arrive_in(Lane::Main)) && full(world.arrive_in(Lane::Canary)), "four wait for one");
}

#[test]
fn a_slow_canary_shuts_no_door_of_the_main_lane_and_is_forgotten_when_it_ends() {
    let mut world = with_canary();
    let slow = |world: &mut World, grant: &Grant| {
        world.end(grant, Outcome::Served, 60_000);
    };
    let canary = world.granted_in(Lane::Canary);
    slow(&mut world, &canary);
    let _held = [world.granted_in(Lane::Main), world.granted_in(Lane::Canary)];
    let mut next = |lane| [world.arrive_in(lane), world.arrive_in(lane)];
    let at_the_door =
        |arrived: &Arrived| matches!(arrived, Arrived::Refused(Fault::Backlog(Backlog::ExpectedWait)));
    assert!(next(Lane::Main).iter().all(|arrived| matches!(arrived, Arrived::InLine { .. })));
    assert!(at_the_door(&next(Lane::Canary)[1]), "a minute for the one ahead is too long");

    let mut world = with_canary();
    let canary = world.granted_in(Lane::Canary);
    slow(&mut world, &canary);
    world.app.remove(address(2));
    world.app.add(&DynoSpec { state: DynoHealth::Canary, ..DynoSpec::new(address(3)) }, 3);
    let _held = world.granted_in(Lane::Canary);
    assert!(
        [world.arrive_in(Lane::Canary), world.arrive_in(Lane::Canary)]
            .iter()
            .all(|arrived| !at_the_door(arrived))
    );
}

#[test]
fn a_canary_in_quarantine_keeps_its_lane_and_its_requests_in_order() {
    let mut world = with_canary();
    let _main = world.granted_in(Lane::Main);
    let grant = world.granted_in(Lane::Canary);
    let behind = world.in_line_of(Lane::Canary);
    let now = world.clock.now();
    let again = world.app.again(now, grant.dyno, grant.place, false, Fault::ConnectRefused).unwrap();
    world.settle();
    world.check_in(&_main);
    assert!(world.granted.is_empty(), "it waits for its own release");
    assert_eq!(
        world.app.next_tick(),
        Some(now + Duration::from_millis(100)),
        "tried soon: it is alone in its lane"
    );
    world.pass(Duration::from_millis(100));
    let (first, grant) = world.granted.pop().unwrap();
    assert_eq!((first, grant.info.address), (again, address(2)), "at the front of its lane");
    world.check_in(&grant);
    assert_eq!(world.granted[0].0, behind);
}

#[test]
fn a_canary_that_boots_stays_in_its_lane() {
    let mut world = with_canary();
    world.set(2, DynoHealth::Booting);
    let waits = world.in_line_of(Lane::Canary);
    world.granted_in(Lane::Main);
    world.set(2, DynoHealth::Canary);
    assert_eq!(world.granted[0].0, waits);
}
