//! Wishes for one given dyno: single steps.

use super::*;
use crate::wish::Wish;

const WAIT: u64 = 200;

impl World {
    fn wishes(&mut self, dyno: u16) -> Arrived {
        let wish = Wish { dyno: address(dyno), wait: Duration::from_millis(WAIT) };
        let arrived = self.app.arrive(self.clock.now(), Lane::Main, 0, Some(wish));
        self.settle();
        arrived
    }

    fn waits_for(&mut self, dyno: u16) -> TicketId {
        match self.wishes(dyno) {
            Arrived::InLine { ticket } => ticket,
            other @ (Arrived::Granted(_) | Arrived::Refused(_)) => panic!("not in line: {other:?}"),
        }
    }

    fn gets(&mut self, dyno: u16) -> Grant {
        match self.wishes(dyno) {
            Arrived::Granted(grant) => grant,
            other @ (Arrived::InLine { .. } | Arrived::Refused(_)) => panic!("not granted: {other:?}"),
        }
    }

    /// Which requests were granted which dynos, in order.
    fn given(&self) -> Vec<(TicketId, u16)> {
        self.granted.iter().map(|(ticket, grant)| (*ticket, grant.info.address.port())).collect()
    }
}

#[test]
fn a_request_gets_the_dyno_of_its_wish_if_that_has_room_whatever_the_order_says() {
    let mut world = World::with_dynos(3);
    for dyno in [1, 3, 2] {
        assert_eq!(world.gets(dyno).info.address, address(dyno));
    }
}

#[test]
fn who_waits_for_a_busy_dyno_gets_it_while_others_are_idle_for_everybody_else() {
    let mut world = World::with_dynos(2);
    let own = world.gets(1);
    let waits = world.waits_for(1);
    let other = world.granted_at_once();
    assert_eq!(other.info.address, address(2), "the idle dyno is for who takes any");
    world.check_in(&other);
    assert!(world.granted.is_empty());
    world.check_in(&own);
    assert_eq!(world.given(), [(waits, 1)]);
}

#[test]
fn after_its_time_a_wish_is_over_and_the_request_stands_where_it_came() {
    let mut world = World::with_dynos(2);
    let (own, other) = (world.gets(1), world.gets(2));
    let waits = world.waits_for(1);
    let later = world.in_line();
    world.pass(Duration::from_millis(WAIT - 1));
    assert_eq!(world.app.next_tick(), Some(world.clock.now() + Duration::from_millis(1)));
    world.pass(Duration::from_millis(1));
    world.check_in(&other);
    assert_eq!(world.given(), [(waits, 2)], "before who came later, and by any dyno");
    world.check_in(&own);
    assert_eq!(world.given(), [(waits, 2), (later, 1)]);
}

#[test]
fn an_idle_dyno_serves_who_has_waited_for_another_one_as_soon_as_the_time_is_over() {
    let mut world = World::with_dynos(2);
    let _own = world.gets(1);
    let waits = world.waits_for(1);
    world.pass(Duration::from_millis(WAIT));
    assert_eq!(world.given(), [(waits, 2)]);
}

#[test]
fn a_dyno_goes_to_who_came_first_of_all_who_would_take_it() {
    let mut world = World::with_dynos(1);
    let own = world.gets(1);
    let line = [world.in_line(), world.waits_for(1), world.in_line(), world.waits_for(1)];
    world.check_in(&own);
    for at in 1..line.len() {
        let grant = world.granted.last().unwrap().1.clone();
        world.check_in(&grant);
        assert_eq!(world.granted.len(), at + 1);
    }
    assert_eq!(world.given(), line.map(|ticket| (ticket, 1)));
}

#[test]
fn a_wish_that_cannot_come_true_is_none() {
    for health in [DynoHealth::Crashed, DynoHealth::Booting, DynoHealth::Staged, DynoHealth::Canary] {
        let mut world = World::with_dynos(2);
        let _own = world.gets(1);
        let waits = world.waits_for(1);
        world.set(1, health);
        assert_eq!(world.given(), [(waits, 2)], "{health:?}");
        let mut world = World::with_dynos(2);
        world.set(1, health);
        assert_eq!(world.gets(1).info.address, address(2), "{health:?}");
    }
    let mut world = World::with_dynos(2);
    let own = world.gets(1);
    let waits = world.waits_for(1);
    world.app.remove(address(1));
    world.settle();
    assert_eq!(world.given(), [(waits, 2)]);
    world.check_in(&own);
    let _other = world.waits_or_gets(9);
}

impl World {
    /// There is no such dyno: anything but a wait for it.
    fn waits_or_gets(&mut self, dyno: u16) -> TicketId {
        let ticket = self.waits_for(dyno);
        assert!(self.app.queue.first_aside(Lane::Main).is_none());
        ticket
    }
}

#[test]
fn who_may_not_wait_for_its_dyno_is_served_by_another() {
    let mut world = World::with_dynos(2);
    world.app.put(Limits::default().with_queue_max_requests_per_dyno(0), "v1".into(), 1);
    let _own = world.gets(1);
    assert_eq!(world.gets(1).info.address, address(2));
    assert!(matches!(world.wishes(1), Arrived::Refused(Fault::Backlog(Backlog::Requests))));
}

#[test]
fn who_waits_by_choice_makes_no_line_stand_and_leaves_as_anybody_does() {
    let mut world = World::with_dynos(2);
    let limits = Limits::default().with_standing_after(Duration::from_millis(10));
    world.app.put(limits.with_standing_wait(Duration::from_millis(1)), "v1".into(), 1);
    let (own, other) = (world.gets(1), world.gets(2));
    let waits = world.waits_for(1);
    world.pass(Duration::from_millis(100));
    let ordinary = world.in_line();
    world.pass(Duration::from_millis(5));
    world.check_in(&other);
    assert_eq!((world.given(), world.refused.len()), (vec![(ordinary, 2)], 0), "the line is 5 ms old");
    assert!(world.app.cancel(world.clock.now(), waits));
    world.settle();
    world.check_in(&own);
    assert_eq!((world.granted.len(), world.app.gauges()), (1, (0, 1)));
}

#[test]
fn a_wish_waits_while_its_line_is_held_and_longer_than_it_for_nobody() {
    let mut world = World::with_dynos(2);
    hold::pause(&mut world, 10, 0);
    let waits = world.waits_for(1);
    world.pass(Duration::from_secs(9));
    assert!(world.granted.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.given(), [(waits, 1)], "its time stood still");
}
