//! Pause, resume, maintenance: single steps.

use super::*;

pub(super) fn pause(world: &mut World, at_most: u64, over: u64) {
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
