//! What one thread can see of a router: tickets, leases, parcels, changes across apps.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::Outcome;
use crate::change::{DynoHealth, DynoSpec};
use crate::ids::Address;

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

fn put(id: &str) -> Change {
    let hosts = vec![format!("{id}.test")];
    Change::PutApp(AppSpec { id: id.into(), hosts, release: "v1".into(), limits: Limits::default() })
}

fn add(id: &str, port: u16) -> Change {
    Change::AddDyno(id.into(), DynoSpec::new(address(port)))
}

fn router(changes: &[Change]) -> Router {
    let router = Router::with_clock(Clock::manual());
    router.apply(changes).unwrap();
    router
}

fn app(router: &Router, id: &str) -> AppRef {
    router.route(&format!("{id}.test"), "/").unwrap()
}

fn ticket(router: &Router, id: &str) -> Ticket {
    router.ticket(&app(router, id), 0).unwrap()
}

fn poll(ticket: &mut Ticket) -> Poll<Result<Lease, Fault>> {
    pin!(ticket).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn lease(ticket: &mut Ticket) -> Lease {
    match poll(ticket) {
        Poll::Ready(Ok(lease)) => lease,
        other @ (Poll::Ready(Err(_)) | Poll::Pending) => panic!("no lease: {other:?}"),
    }
}

#[test]
fn a_dropped_lease_gives_the_dyno_to_the_next_in_line() {
    let router = router(&[put("a"), add("a", 1)]);
    let first = lease(&mut ticket(&router, "a"));
    let mut second = ticket(&router, "a");
    assert!(poll(&mut second).is_pending());
    drop(first);
    assert_eq!(lease(&mut second).dyno().address, address(1));
}

#[test]
fn t6_a_granted_ticket_that_is_dropped_loses_no_dyno() {
    let router = router(&[put("a"), add("a", 1)]);
    let first = lease(&mut ticket(&router, "a"));
    let (mut second, mut third) = (ticket(&router, "a"), ticket(&router, "a"));
    assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
    first.check_in(Outcome::Served);
    drop(second);
    assert!(poll(&mut third).is_ready());
}

#[test]
fn the_parcel_stays_with_the_dyno_until_the_dyno_leaves() {
    let router = router(&[put("a"), add("a", 1)]);
    let cargo = Arc::new(());
    let mut first = lease(&mut ticket(&router, "a"));
    first.put_parcel(Box::new(Arc::clone(&cargo)));
    first.check_in(Outcome::Served);
    let mut second = lease(&mut ticket(&router, "a"));
    assert!(second.take_parcel::<Arc<()>>().is_some());
    second.put_parcel(Box::new(Arc::clone(&cargo)));
    second.check_in(Outcome::Served);
    assert_eq!(Arc::strong_count(&cargo), 2);
    router.apply(&[Change::RemoveDyno("a".into(), address(1))]).unwrap();
    assert_eq!(Arc::strong_count(&cargo), 1, "dropped with the dyno");
}

#[test]
fn changes_are_applied_whole_or_not_at_all() {
    let router = router(&[put("a"), add("a", 1)]);
    let bad = [put("b"), add("b", 2), add("b", 1)];
    let taken = ChangeError::DynoTaken { address: address(1), has: "a".into(), wants: "b".into() };
    assert_eq!(router.apply(&bad), Err(taken));
    assert!(router.route("b.test", "/").is_err());
    assert_eq!(router.apply(&[put("b"), add("b", 2)]), Ok(()), "nothing of the refused list is left");
    let twice = Change::PutApp(AppSpec {
        id: "c".into(),
        hosts: vec!["c.test".into(), "A.test".into()],
        release: "v1".into(),
        limits: Limits::default(),
    });
    let taken = ChangeError::HostTaken { host: "a.test".into(), has: "a".into(), wants: "c".into() };
    assert_eq!(router.apply(&[twice]), Err(taken));
    assert!(router.route("a.test", "/").is_ok() && router.route("c.test", "/").is_err());
    let gone = Change::RemoveDyno("a".into(), address(9));
    assert_eq!(router.apply(&[gone]), Err(ChangeError::NoSuchDyno("a".into(), address(9))));
}

#[test]
fn apps_may_swap_their_hosts_and_a_refused_swap_leaves_them_where_they_were() {
    let with = |id: &str, hosts: &[&str]| {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Change::PutApp(AppSpec { id: id.into(), hosts, release: "v1".into(), limits: Limits::default() })
    };
    let router = router(&[with("a", &["one.test"]), with("b", &["two.test"]), with("c", &["three.test"])]);
    let who = |host: &str| router.route(host, "/").map(|app| app.id().to_string()).unwrap_or_default();
    let all = || [who("one.test"), who("two.test"), who("three.test")];
    let swap =
        [with("a", &["two.test", "three.test"]), with("b", &["one.test"]), Change::RemoveApp("c".into())];
    let spoiled = [&swap[..], &[with("d", &["two.test"])]].concat();
    let taken = ChangeError::HostTaken { host: "two.test".into(), has: "a".into(), wants: "d".into() };
    assert_eq!(router.apply(&spoiled), Err(taken));
    assert_eq!(all(), ["a", "b", "c"]);
    // What was undone is whole: the hosts are still refused to others.
    assert!(router.apply(&[with("d", &["one.test"])]).is_err());
    assert_eq!(router.apply(&swap), Ok(()));
    assert_eq!(all(), ["b", "a", "a"]);
}

#[test]
fn a_dyno_that_moves_to_another_app_is_not_used_there_before_it_is_free() {
    let router = router(&[put("a"), add("a", 1)]);
    let held = lease(&mut ticket(&router, "a"));
    router.apply(&[Change::RemoveApp("a".into()), put("b"), add("b", 1)]).unwrap();
    assert_eq!(router.ticket(&app(&router, "b"), 0).unwrap_err(), Fault::NoDynos);
    held.check_in(Outcome::Served);
    assert_eq!(lease(&mut ticket(&router, "b")).dyno().address, address(1));
    router.apply(&[Change::RemoveApp("b".into())]).unwrap();
    assert_eq!(router.0.hub.claims(), 0);
    assert!(router.snapshot().apps.is_empty(), "apps that are over are gone");
}

#[test]
fn an_app_that_returns_while_its_dyno_is_busy_finds_it_busy() {
    let router = router(&[put("a"), add("a", 1)]);
    let held = lease(&mut ticket(&router, "a"));
    router.apply(&[Change::RemoveApp("a".into())]).unwrap();
    router.apply(&[put("a"), add("a", 1)]).unwrap();
    let mut next = ticket(&router, "a");
    assert!(poll(&mut next).is_pending());
    held.check_in(Outcome::Served);
    lease(&mut next);
}

#[test]
fn all_dynos_of_an_app_change_at_once_and_nobody_in_line_is_refused() {
    let router = router(&[put("a"), add("a", 1)]);
    let held = lease(&mut ticket(&router, "a"));
    let mut next = ticket(&router, "a");
    assert!(poll(&mut next).is_pending());
    router.apply(&[Change::RemoveDyno("a".into(), address(1)), add("a", 2)]).unwrap();
    assert_eq!(lease(&mut next).dyno().address, address(2));
    drop(held);
}

#[test]
fn a_staged_dyno_holds_its_address_and_nothing_else_and_leaves_no_trace() {
    let staged = |port| {
        let spec = DynoSpec { state: DynoHealth::Staged, ..DynoSpec::new(address(port)) };
        Change::AddDyno("a".into(), spec)
    };
    let router = router(&[put("a"), staged(1), put("b")]);
    let app = app(&router, "a");
    assert_eq!(app.snapshot().dynos[0].state.as_str(), "staged");
    assert_eq!(router.ticket(&app, 0).unwrap_err(), Fault::NoDynos, "nobody waits for it");
    let taken = ChangeError::DynoTaken { address: address(1), has: "a".into(), wants: "b".into() };
    assert_eq!(router.apply(&[add("b", 1)]), Err(taken));

    router.apply(&[add("a", 2), Change::SetDyno("a".into(), address(2), DynoHealth::Crashed)]).unwrap();
    assert_eq!(router.ticket(&app, 0).unwrap_err(), Fault::AppCrashed, "it is not there for H10 either");
    router.apply(&[Change::SetDyno("a".into(), address(2), DynoHealth::Ready)]).unwrap();
    let limits = Limits::default().with_queue_max_requests_per_dyno(1);
    let narrow = AppSpec { id: "a".into(), hosts: vec!["a.test".into()], release: "v1".into(), limits };
    router.apply(&[Change::PutApp(narrow)]).unwrap();
    let _line = [router.ticket(&app, 0).unwrap(), router.ticket(&app, 0).unwrap()];
    assert_eq!(router.ticket(&app, 0).unwrap_err().code(), "H11", "the line is one dyno's");

    router.apply(&[Change::RemoveDyno("a".into(), address(1))]).unwrap();
    assert_eq!((app.snapshot().dynos.len(), router.0.hub.claims()), (1, 1));
    assert_eq!(router.apply(&[add("b", 1)]), Ok(()));
}

#[test]
fn a_dyno_with_a_release_of_its_own_keeps_it() {
    let own = DynoSpec { release: Some("v2".into()), ..DynoSpec::new(address(2)) };
    let router = router(&[put("a"), add("a", 1), Change::AddDyno("a".into(), own.clone())]);
    let releases = || -> Vec<_> {
        let dynos = app(&router, "a").snapshot().dynos;
        dynos.iter().map(|dyno| dyno.release.to_string()).collect()
    };
    assert_eq!(releases(), ["v1", "v2"]);
    let named = |release: &str| {
        let (id, hosts) = ("a".into(), vec!["a.test".into()]);
        Change::PutApp(AppSpec { id, hosts, release: release.into(), limits: Limits::default() })
    };
    router.apply(&[named("v3")]).unwrap();
    assert_eq!(releases(), ["v1", "v2"], "what a dyno runs stays with it");
    let held = [lease(&mut ticket(&router, "a")), lease(&mut ticket(&router, "a"))];
    assert_eq!(held.map(|lease| lease.dyno().release.to_string()), ["v2", "v1"]);
    router.apply(&[add("a", 1), Change::AddDyno("a".into(), own)]).unwrap();
    assert_eq!(releases(), ["v3", "v2"], "who is added again without one runs the app's");
}

#[test]
fn the_alarm_rings_when_a_quarantine_is_over() {
    let router = router(&[put("a"), add("a", 1), add("a", 2)]);
    let first = lease(&mut ticket(&router, "a"));
    let _other = lease(&mut ticket(&router, "a"));
    let mut moved = pin!(router.alarm_moved());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(moved.as_mut().poll(&mut cx).is_pending());
    let mut again = first.again(Fault::ConnectRefused).unwrap();
    assert!(moved.as_mut().poll(&mut cx).is_ready());
    assert_eq!(router.tick().map(|at| at - router.clock().now()), Some(Duration::from_secs(5)));
    router.clock().advance(Duration::from_millis(4999));
    router.tick();
    assert!(poll(&mut again).is_pending());
    // Both at the same moment: the wait may last 5 s, and so may the quarantine. The dyno comes first.
    router.apply(&[Change::SetDyno("a".into(), address(2), DynoHealth::Ready)]).unwrap();
    assert_eq!(app(&router, "a").snapshot().dynos.len(), 2);
}

#[test]
fn a_lingering_request_that_goes_again_leaves_nothing_lingering_behind() {
    let router = router(&[put("a"), add("a", 1)]);
    let mut first = lease(&mut ticket(&router, "a"));
    first.linger();
    let _again = first.again(Fault::ConnectRefused).unwrap();
    assert_eq!(app(&router, "a").snapshot().dynos[0].lingering, 0);
}

#[test]
fn an_app_that_is_taken_away_before_its_dyno_is_free_never_gets_the_dyno() {
    let router = router(&[put("a"), add("a", 1)]);
    let held = lease(&mut ticket(&router, "a"));
    router.apply(&[Change::RemoveDyno("a".into(), address(1)), put("b"), add("b", 1)]).unwrap();
    router.apply(&[Change::RemoveApp("b".into())]).unwrap();
    held.check_in(Outcome::Served);
    assert_eq!(router.0.hub.claims(), 0);
    router.apply(&[add("a", 1)]).unwrap();
    assert_eq!(lease(&mut ticket(&router, "a")).dyno().address, address(1));
}

#[test]
fn the_lane_of_a_request_is_as_the_canary_says() {
    let router = router(&[put("a"), add("a", 1)]);
    let app = app(&router, "a");
    let canary = |canary| router.apply(&[Change::SetCanary("a".into(), canary)]).unwrap();
    assert_eq!(app.lane(|_| true), Lane::Main, "there is no canary");
    canary(Some(Canary::Share(7)));
    let lanes: Vec<_> = (0..1000).map(|_| app.lane(|_| panic!("a share is counted"))).collect();
    let canarys = |lanes: &[Lane]| lanes.iter().filter(|lane| **lane == Lane::Canary).count();
    assert!(lanes.windows(100).all(|hundred| canarys(hundred) == 7));
    let beta = Canary::Header { name: "x-beta".into(), value: "1".into() };
    canary(Some(beta.clone()));
    assert_eq!([app.lane(|asked| *asked == beta), app.lane(|_| false)], [Lane::Canary, Lane::Main]);
    router.apply(&[put("a")]).unwrap();
    assert_eq!(app.canary().as_deref(), Some(&beta), "new limits are no reason to end it");
    let unknown = Change::SetCanary("b".into(), None);
    assert_eq!(router.apply(&[unknown]), Err(ChangeError::NoSuchApp("b".into())));
    router.apply(&[Change::RemoveApp("a".into())]).unwrap();
    assert_eq!(app.lane(|_| true), Lane::Main, "it went with its app");
}

#[test]
fn a_ticket_on_the_canarys_lane_gets_the_canarys_dyno() {
    let tried = DynoSpec { state: DynoHealth::Canary, ..DynoSpec::new(address(2)) };
    let router = router(&[put("a"), add("a", 1), Change::AddDyno("a".into(), tried)]);
    let app = app(&router, "a");
    let on = |lane| router.ticket_on(&app, lane, 3).unwrap();
    let held = lease(&mut on(Lane::Canary));
    assert_eq!(held.dyno().address, address(2));
    let mut waits = on(Lane::Canary);
    assert_eq!(lease(&mut on(Lane::Main)).dyno().address, address(1));
    let seen = app.snapshot();
    assert_eq!((seen.waiting, seen.waiting_canary, seen.waiting_bytes), (1, 1, 3));
    assert_eq!(seen.dynos.iter().map(|dyno| dyno.lane).collect::<Vec<_>>(), Lane::ALL);
    held.check_in(Outcome::Served);
    assert_eq!(lease(&mut waits).dyno().address, address(2));
}

#[test]
fn a_dyno_is_lent_once_its_request_has_ended_and_its_connection_is_closed() {
    let router = router(&[put("a"), add("a", 1)]);
    let mut first = lease(&mut ticket(&router, "a"));
    let connection = Arc::new(());
    first.put_parcel(Box::new(Arc::clone(&connection)));
    assert!(!router.lend(address(1)), "it is busy");
    let mut waits = ticket(&router, "a");
    first.check_in(Outcome::Served);
    assert!(poll(&mut waits).is_pending(), "it is another router's");
    assert_eq!(Arc::strong_count(&connection), 2);
    assert!(router.lend(address(1)));
    assert_eq!(Arc::strong_count(&connection), 1);
    router.regain(address(1));
    assert_eq!(lease(&mut waits).dyno().address, address(1));
}

#[test]
fn a_lent_address_is_lent_to_whatever_app_it_comes_until_it_is_back() {
    let router = router(&[put("a"), put("b")]);
    assert!(router.lend(address(1)));
    router.apply(&[add("a", 1)]).unwrap();
    let mut waits = ticket(&router, "a");
    assert!(poll(&mut waits).is_pending(), "nobody is refused for it");
    drop(waits);
    router.apply(&[Change::RemoveDyno("a".into(), address(1)), add("b", 1)]).unwrap();
    let mut waits = ticket(&router, "b");
    assert!(poll(&mut waits).is_pending());
    router.regain(address(1));
    assert_eq!(lease(&mut waits).dyno().address, address(1));
    // Handed from app to app while it is lent.
    let held = lease(&mut ticket(&router, "b"));
    router.apply(&[Change::RemoveDyno("b".into(), address(1)), add("a", 1)]).unwrap();
    assert!(!router.lend(address(1)));
    held.check_in(Outcome::Served);
    let mut waits = ticket(&router, "a");
    assert!(poll(&mut waits).is_pending());
    assert!(router.lend(address(1)));
    router.regain(address(1));
    assert!(poll(&mut waits).is_ready());
}
