//! Bugs of other routers that are easier to show in one story than to wait for in a random walk.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use router_core::change::{AppSpec, Change, DynoHealth, DynoSpec};
use router_core::clock::Clock;
use router_core::fault::Fault;
use router_core::ids::Address;
use router_core::limits::{Limits, Order};
use router_core::snapshot::AppSnapshot;
use router_core::{AppRef, Lease, Outcome, Router, Ticket};

struct Shop {
    router: Router,
    app: AppRef,
}

fn address(port: u16) -> Address {
    ([127, 0, 0, 1], port).into()
}

impl Shop {
    fn with(dynos: u16, limits: Limits) -> Self {
        let router = Router::with_clock(Clock::manual());
        let spec = AppSpec { id: "shop".into(), hosts: vec!["*".into()], release: "v1".into(), limits };
        router.apply(&[Change::PutApp(spec)]).unwrap();
        let app = router.route("shop.test", "/").unwrap();
        for port in 1..=dynos {
            router.apply(&[Change::AddDyno("shop".into(), DynoSpec::new(address(port)))]).unwrap();
        }
        Self { router, app }
    }

    fn ticket(&self, bytes: u64) -> Ticket {
        self.router.ticket(&self.app, bytes).unwrap()
    }

    fn lease(&self) -> Lease {
        let mut ticket = self.ticket(0);
        let Poll::Ready(Ok(lease)) = poll(&mut ticket) else { panic!("no dyno is free") };
        lease
    }

    fn seen(&self) -> AppSnapshot {
        self.app.snapshot()
    }
}

fn poll(ticket: &mut Ticket) -> Poll<Result<Lease, Fault>> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
}

fn roomy() -> Limits {
    Limits::default().with_queue_max_requests_per_dyno(100_000)
}

#[test]
fn t4_a_full_line_is_told_when_its_last_dyno_goes() {
    let shop = Shop::with(1, roomy());
    let held = shop.lease();
    let mut line: Vec<_> = (0..1000).map(|_| shop.ticket(1)).collect();
    shop.router.apply(&[Change::RemoveDyno("shop".into(), address(1))]).unwrap();
    for ticket in &mut line {
        assert!(matches!(poll(ticket), Poll::Ready(Err(Fault::NoDynos))));
    }
    assert_eq!((shop.seen().waiting, shop.seen().waiting_bytes), (0, 0));
    held.check_in(Outcome::Served);
    assert!(shop.seen().dynos.is_empty());
}

#[test]
fn t6_who_goes_at_the_moment_of_dispatch_takes_no_dyno_along() {
    let shop = Shop::with(2, roomy());
    let mut leases = vec![shop.lease(), shop.lease()];
    for round in 0..1000 {
        let granted = shop.ticket(0);
        leases.swap_remove(round % 2).check_in(Outcome::Served);
        drop(granted);
        leases.push(shop.lease());
    }
    drop(leases);
    assert!(shop.seen().dynos.iter().all(|dyno| dyno.in_flight == 0));
}

#[test]
fn t8_ten_thousand_who_were_held_and_went_leave_nothing_behind() {
    let shop = Shop::with(1, roomy());
    let held = shop.lease();
    let line: Vec<_> = (0..10_000).map(|_| shop.ticket(100)).collect();
    assert_eq!((shop.seen().waiting, shop.seen().waiting_bytes), (10_000, 1_000_000));
    drop(line);
    assert_eq!((shop.seen().waiting, shop.seen().waiting_bytes, shop.seen().left), (0, 0, 10_000));
    held.check_in(Outcome::Served);
    assert_eq!(shop.seen().dispatched, 1, "T7: none of them was dispatched");
}

#[test]
fn t9_after_a_boot_no_more_than_there_are_dynos_go_at_once() {
    let shop = Shop::with(3, roomy());
    let all = |health| (1..=3).map(move |port| Change::SetDyno("shop".into(), address(port), health));
    shop.router.apply(&all(DynoHealth::Booting).collect::<Vec<_>>()).unwrap();
    let mut line: Vec<_> = (0..500).map(|_| shop.ticket(0)).collect();
    assert!(line.iter_mut().all(|ticket| poll(ticket).is_pending()));
    shop.router.apply(&all(DynoHealth::Ready).collect::<Vec<_>>()).unwrap();
    let polled: Vec<_> = line.iter_mut().map(poll).collect();
    let granted: Vec<_> = polled.iter().map(Poll::is_ready).collect();
    assert_eq!(granted.iter().filter(|granted| **granted).count(), 3);
    assert!(granted[..3].iter().all(|granted| *granted), "first come, first served");
}

#[test]
fn t10_each_dyno_gets_its_share_and_none_is_forgotten() {
    let shop = Shop::with(4, roomy().with_order(Order::LeastRecentlyUsed));
    for _ in 0..400 {
        shop.lease().check_in(Outcome::Served);
    }
    let shares: Vec<_> = shop.seen().dynos.iter().map(|dyno| dyno.dispatched).collect();
    assert_eq!(shares, [100; 4]);
    let shop = Shop::with(4, roomy());
    let leases: Vec<_> = (0..4).map(|_| shop.lease()).collect();
    drop(leases);
    assert!(shop.seen().dynos.iter().all(|dyno| dyno.dispatched == 1), "under load all of them work");
}
