//! Probes, and dynos that are taken out: single steps.

use super::hold::pause;
use super::*;
use crate::policy::health::Probed;
use crate::snapshot::DynoState;

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

#[test]
fn who_waits_comes_before_a_probe_even_before_the_clock_is_looked_at() {
    let mut world = World::with_dynos(1);
    pause(&mut world, 1, 0);
    world.in_line();
    world.clock.advance(Duration::from_secs(1));
    assert!(world.app.probe(world.clock.now(), address(1)).is_none());
}

/// Sends that many requests one after the other; those that are given to `bad` fail in 1 ms, the others take 100 ms.
/// How many failed.
fn drive(world: &mut World, requests: u32, bad: &[u16]) -> u32 {
    let mut failed = 0;
    for _ in 0..requests {
        let grant = world.granted_at_once();
        let is_bad = bad.contains(&grant.info.address.port());
        let (outcome, held_ms) = if is_bad { (Outcome::Errored, 1) } else { (Outcome::Served, 100) };
        failed += u32::from(is_bad);
        world.pass(Duration::from_millis(held_ms));
        world.end(&grant, outcome, held_ms);
    }
    failed
}

fn state(world: &World, port: u16) -> DynoState {
    let seen = world.app.snapshot(&"a".into(), world.clock.now());
    seen.dynos.iter().find(|dyno| dyno.address == address(port)).unwrap().state
}

#[test]
fn a_dyno_that_fails_fast_does_not_draw_all_requests() {
    let mut world = World::with_dynos(4);
    assert_eq!(drive(&mut world, 40, &[4]), 5, "the last one in is the first choice");
    assert_eq!(state(&world, 4), DynoState::Quarantined);
    // Back from quarantine it is the last choice; with one bad answer it goes for twice as long.
    world.pass(Duration::from_secs(5));
    let grants: Vec<_> = (0..4).map(|_| world.granted_at_once()).collect();
    assert_eq!(grants[3].info.address, address(4));
    world.end(&grants[3], Outcome::Errored, 1);
    assert_eq!(state(&world, 4), DynoState::Quarantined);
    assert_eq!(world.app.next_tick(), Some(world.clock.now() + Duration::from_secs(10)));
    world.pass(Duration::from_secs(10));
    let grant = world.granted_at_once();
    world.end(&grant, Outcome::Served, 100);
    let seen = world.app.snapshot(&"a".into(), world.clock.now());
    assert_eq!((seen.ejected, seen.dynos[3].failures), (2, 0), "one good answer ends the doubt");
}

#[test]
fn an_app_whose_every_dyno_fails_goes_on_answering_with_half_of_them() {
    let mut world = World::with_dynos(4);
    assert_eq!(drive(&mut world, 100, &[1, 2, 3, 4]), 100);
    let states: Vec<_> = (1..=4).map(|port| state(&world, port)).collect();
    assert_eq!(states.iter().filter(|state| **state == DynoState::Quarantined).count(), 2, "{states:?}");
    let mut lone = World::with_dynos(1);
    assert_eq!(drive(&mut lone, 100, &[1]), 100);
}

#[test]
fn what_clients_cut_and_what_fails_slowly_ejects_nobody() {
    let mut world = World::with_dynos(2);
    drive(&mut world, 4, &[]);
    for (outcome, held_ms) in [(Outcome::Cut, 1), (Outcome::Unused, 0), (Outcome::Errored, 100)] {
        for _ in 0..20 {
            let grant = world.granted_at_once();
            world.end(&grant, outcome, held_ms);
        }
    }
    assert_eq!((state(&world, 1), state(&world, 2)), (DynoState::Idle, DynoState::Idle));
}

fn probed(world: &mut World, port: u16, good: bool) -> Probed {
    let probed = world.app.probed(world.clock.now(), address(port), good);
    world.settle();
    probed
}

#[test]
fn probes_take_a_dyno_out_and_bring_it_back_and_the_floor_holds() {
    let mut world = World::with_dynos(2);
    let fall = |world: &mut World, port| [(); 3].map(|()| probed(world, port, false));
    assert_eq!(fall(&mut world, 1), [Probed::Same, Probed::Same, Probed::Out]);
    assert_eq!(fall(&mut world, 2), [Probed::Same, Probed::Same, Probed::Kept]);
    assert_eq!((state(&world, 1), state(&world, 2)), (DynoState::Unhealthy, DynoState::Idle));
    let busy = world.granted_at_once();
    world.in_line();
    assert!(world.granted.is_empty(), "an unhealthy dyno gets nobody while another one serves");
    assert!(world.app.probe(world.clock.now(), address(1)).is_some(), "but is probed, whoever waits");
    assert_eq!(probed(&mut world, 1, true), Probed::Back);
    assert_eq!(state(&world, 1), DynoState::Busy, "with its probe");
    assert_eq!(probed(&mut world, 2, false), Probed::Out, "now there is another");
    world.check_in(&busy);
    assert_eq!(state(&world, 2), DynoState::Unhealthy);
}

#[test]
fn a_dyno_that_another_router_has_is_not_probed_however_it_is() {
    let mut world = World::with_dynos(2);
    let now = world.clock.now();
    for fall in [Probed::Same, Probed::Same, Probed::Out] {
        assert_eq!(probed(&mut world, 1, false), fall);
    }
    for port in [1, 2] {
        world.app.lend(address(port), true);
        assert!(world.app.probe(now, address(port)).is_none());
        world.app.lend(address(port), false);
        assert!(world.app.probe(now, address(port)).is_some());
    }
}

#[test]
fn a_good_answer_ends_a_row_of_bad_probes() {
    let mut world = World::with_dynos(2);
    assert_eq!([probed(&mut world, 2, false), probed(&mut world, 2, false)], [Probed::Same; 2]);
    drive(&mut world, 1, &[]);
    assert_eq!([probed(&mut world, 2, false), probed(&mut world, 2, false)], [Probed::Same; 2]);
    assert_eq!(probed(&mut world, 2, false), Probed::Out);
    assert_eq!(probed(&mut world, 9, false), Probed::Same, "no such dyno");
}

#[test]
fn an_unhealthy_dyno_is_tried_when_nobody_else_is_left() {
    let mut world = World::with_dynos(2);
    for _ in 0..3 {
        probed(&mut world, 1, false);
    }
    world.app.remove(address(2));
    world.settle();
    assert_eq!(world.granted_at_once().info.address, address(1));
    world.app.set(address(1), DynoHealth::Crashed);
    assert!(matches!(world.arrive(), Arrived::Refused(Fault::AppCrashed)));
}
