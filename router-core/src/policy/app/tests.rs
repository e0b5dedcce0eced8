//! Single steps of an app, one sentence a test. The model test in `tests/model.rs` takes random walks.

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
        let arrived = self.app.arrive(self.clock.now(), 0);
        self.settle();
        arrived
    }

    fn granted_at_once(&mut self) -> Grant {
        match self.arrive() {
            Arrived::Granted(grant) => grant,
            other @ (Arrived::InLine { .. } | Arrived::Refused(_)) => panic!("not granted: {other:?}"),
        }
    }

    fn in_line(&mut self) -> TicketId {
        match self.arrive() {
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

fn pause(world: &mut World, at_most: u64, over: u64) {
    let (at_most, over) = (Duration::from_secs(at_most), Duration::from_secs(over));
    world.app.hold(Hold::Pause { at_most, over }, world.clock.now());
    world.settle();
}

#[test]
fn a_pause_lets_running_requests_end_and_costs_nobody_patience() {
    let mut world = World::with_dynos(1);
    let running = world.granted_at_once();
    pause(&mut world, 60, 0);
    let (first, second) = (world.in_line(), world.in_line());
    world.check_in(&running);
    world.pass(Duration::from_millis(59_999));
    assert!(
        world.granted.is_empty() && world.refused.is_empty(),
        "longer than the longest wait, and nobody is refused"
    );
    assert_eq!(world.app.next_tick(), Some(world.clock.now() + Duration::from_millis(1)));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.granted[0].0, first);
    world.pass(Duration::from_millis(4999));
    let deadline = world.app.deadline(second).unwrap();
    assert_eq!(deadline - world.clock.now(), Duration::from_millis(1), "5 s after the pause");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.refused, [(second, Fault::Backlog(Backlog::MaxWait))]);
}

#[test]
fn t8_the_line_of_a_paused_app_has_its_bounds_and_who_goes_leaves_it() {
    let mut world = World::with_dynos(1);
    pause(&mut world, 60, 1);
    let line: Vec<_> = (0..50).map(|_| world.in_line()).collect();
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::Backlog(Backlog::Requests))));
    for ticket in line {
        assert!(world.app.cancel(world.clock.now(), ticket));
    }
    world.settle();
    assert_eq!(world.app.next_tick(), None, "nobody waits: nothing is to be done");
    world.pass(Duration::from_secs(61));
    world.granted_at_once();
}

#[test]
fn t9_after_a_pause_the_number_in_flight_rises_slowly() {
    let mut world = World::with_dynos(11);
    pause(&mut world, 10, 1);
    for _ in 0..50 {
        world.in_line();
    }
    world.pass(Duration::from_secs(10));
    let mut in_flight = vec![world.granted.len()];
    while let Some(next) = world.app.next_tick().filter(|_| world.granted.len() < 11) {
        assert_eq!((next - world.clock.now()).as_millis(), 100);
        world.pass(next - world.clock.now());
        in_flight.push(world.granted.len());
    }
    assert_eq!(in_flight, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn a_resume_before_its_time_does_not_make_anybody_wait_longer_than_they_may() {
    let mut world = World::with_dynos(1);
    let _running = world.granted_at_once();
    pause(&mut world, 3600, 1);
    let ticket = world.in_line();
    world.pass(Duration::from_secs(2));
    let believed = world.app.deadline(ticket).unwrap();
    world.app.hold(Hold::Resume { over: Duration::ZERO }, world.clock.now());
    world.settle();
    let deadline = world.app.deadline(ticket).unwrap();
    assert_eq!(deadline - world.clock.now(), Duration::from_secs(5));
    assert!(believed > deadline && world.app.next_tick() == Some(deadline), "the app keeps the time itself");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.refused, [(ticket, Fault::Backlog(Backlog::MaxWait))]);
}

#[test]
fn in_maintenance_new_requests_are_refused_and_who_is_in_line_is_served() {
    let mut world = World::with_dynos(1);
    let running = world.granted_at_once();
    let waiting = world.in_line();
    world.app.hold(Hold::Maintenance(true), world.clock.now());
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::Maintenance)));
    world.check_in(&running);
    let (served, grant) = world.granted.pop().unwrap();
    assert_eq!(served, waiting);
    world.check_in(&grant);
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::Maintenance)), "though a dyno is idle");
    world.app.hold(Hold::Maintenance(false), world.clock.now());
    world.granted_at_once();
}

#[test]
fn a_quarantine_that_could_end_early_waits_for_the_pause_to_end() {
    let mut world = World::with_dynos(1);
    let grant = world.granted_at_once();
    pause(&mut world, 3, 0);
    world.app.again(world.clock.now(), grant.dyno, grant.place, false, Fault::ConnectRefused).unwrap();
    world.settle();
    let next = world.app.next_tick().unwrap();
    assert_eq!(next - world.clock.now(), Duration::from_secs(3), "and nobody looks at the clock until then");
    world.pass(Duration::from_secs(3));
    assert_eq!(world.granted.len(), 1);
}

#[test]
fn a_probe_takes_an_idle_dyno_alone_and_counts_for_nothing() {
    let mut world = World::with_dynos(2);
    let now = world.clock.now();
    let probe = world.app.probe(now, address(2)).unwrap();
    world.settle();
    assert!(world.app.probe(now, address(2)).is_none(), "it is busy with the first");
    let request = world.granted_at_once();
    assert_eq!(request.info.address, address(1), "never two on one dyno");
    let waiting = world.in_line();
    assert!(world.app.probe(now, address(1)).is_none());
    world.app.end_probe(probe.dyno, false);
    world.settle();
    assert_eq!(world.granted.pop().unwrap().0, waiting);
    let seen = world.app.snapshot(&"a".into(), now);
    assert_eq!((seen.dispatched, seen.dynos[1].dispatched, seen.service_time), (2, 1, Duration::ZERO));
    assert!(world.app.probe(now, address(7)).is_none(), "no such dyno");
}

#[test]
fn a_probe_of_an_idle_dyno_leaves_the_order_of_the_others_as_it_is() {
    let mut world = World::with_dynos(3);
    for port in [3, 1] {
        let probe = world.app.probe(world.clock.now(), address(port)).unwrap();
        world.app.end_probe(probe.dyno, false);
        world.settle();
    }
    let ports: Vec<_> = (0..3).map(|_| world.granted_at_once().info.address.port()).collect();
    assert_eq!(ports, [2, 3, 1]);
}

#[test]
fn a_held_app_is_not_probed() {
    let mut world = World::with_dynos(1);
    pause(&mut world, 1, 1);
    assert!(world.app.probe(world.clock.now(), address(1)).is_none());
    world.pass(Duration::from_secs(2));
    assert!(world.app.probe(world.clock.now(), address(1)).is_some());
}
