//! Tests of [`Dyno`].

use super::*;
use crate::clock::Clock;

fn dyno(concurrency: u32) -> Dyno {
    let spec = DynoSpec { concurrency, ..DynoSpec::new(([127, 0, 0, 1], 3000).into()) };
    Dyno::new(&spec, &"v1".into(), 1)
}

#[test]
fn quarantine_doubles_up_to_its_bound_and_the_way_back_is_one_request_at_a_time() {
    let now = Clock::manual().now();
    let limits = Limits::default();
    let mut dyno = dyno(3);
    let mut waits = Vec::new();
    for _ in 0..6 {
        dyno.step(Event::Unreachable(now), &limits);
        let Standing::Quarantined { until, .. } = dyno.standing() else { panic!("not in quarantine") };
        waits.push((until - now).as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 75, 75]);
    dyno.step(Event::Again, &limits);
    assert_eq!(dyno.room(), 1, "one probe at a time");
    dyno.grant();
    assert_eq!(dyno.room(), 0);
    dyno.check_in(false);
    dyno.ended(Outcome::Served, Duration::ZERO, None, &limits);
    assert_eq!(dyno.room(), 3);
}

#[test]
fn a_busy_dyno_that_leaves_and_returns_is_still_busy() {
    let limits = Limits::default();
    let mut dyno = dyno(1);
    dyno.grant();
    dyno.step(Event::Leaves, &limits);
    assert!(!dyno.is_gone());
    dyno.step(Event::Returns(DynoHealth::Ready), &limits);
    assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy));
    dyno.check_in(false);
    assert_eq!(dyno.room(), 1);
}

#[test]
fn a_staged_dyno_takes_nothing_until_it_is_ready_and_a_serving_one_can_be_staged() {
    let (now, limits) = (Clock::manual().now(), Limits::default());
    let mut dyno = dyno(1);
    dyno.grant();
    dyno.step(Event::Is(DynoHealth::Staged), &limits);
    for nothing in [Event::Unreachable(now), Event::Again, Event::Returns(DynoHealth::Ready)] {
        dyno.step(nothing, &limits);
        assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Staged));
    }
    dyno.step(Event::Is(DynoHealth::Ready), &limits);
    assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy), "its request is still there");
}

#[test]
fn a_lent_dyno_finishes_what_it_has_and_takes_nothing() {
    let limits = Limits::default();
    let mut dyno = dyno(2);
    dyno.grant();
    dyno.lend(true);
    assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Busy));
    dyno.check_in(false);
    assert_eq!((dyno.room(), dyno.snapshot().state), (0, DynoState::Lent));
    for event in [Event::Again, Event::Is(DynoHealth::Crashed), Event::Is(DynoHealth::Ready)] {
        dyno.step(event, &limits);
        assert_eq!(dyno.room(), 0);
    }
    dyno.lend(false);
    assert_eq!((dyno.room(), dyno.snapshot().state), (2, DynoState::Idle));
}

#[test]
fn a_lone_dyno_is_tried_again_sooner() {
    let now = Clock::manual().now();
    let mut dyno = dyno(1);
    dyno.step(Event::Unreachable(now), &Limits::default());
    let Standing::Quarantined { soon, .. } = dyno.standing() else { panic!("not in quarantine") };
    assert_eq!(soon - now, Duration::from_millis(100));
}

#[test]
fn upgraded_requests_stand_beside_the_slots_as_far_as_they_may() {
    let limits = Limits::default();
    let mut dyno = dyno(1);
    let upgrade = |dyno: &mut Dyno| {
        dyno.grant();
        dyno.upgrade();
    };
    upgrade(&mut dyno);
    assert_eq!((dyno.room(), dyno.load()), (0, 1), "without streams it takes up the slot");
    dyno.allow_streams(2);
    assert_eq!(dyno.room(), 1);
    upgrade(&mut dyno);
    upgrade(&mut dyno);
    assert_eq!(
        (dyno.room(), dyno.load(), dyno.snapshot().upgraded),
        (0, 1, 3),
        "the third takes up the slot"
    );
    dyno.end_upgraded(false);
    assert_eq!((dyno.room(), dyno.load()), (1, 0), "until one beside has ended");
    dyno.grant();
    assert_eq!((dyno.room(), dyno.snapshot().in_flight), (0, 3));
    dyno.step(Event::Leaves, &limits);
    dyno.check_in(false);
    dyno.end_upgraded(false);
    assert!(!dyno.is_gone(), "it is waited for");
    dyno.end_upgraded(false);
    assert!(dyno.is_gone());
}
