//! Runs one operation on the router and on the reference, and compares everything that can be seen.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use router_core::change::{Change, DynoHealth, Hold};
use router_core::clock::Clock;
use router_core::fault::Fault;
use router_core::ids::{Address, AppId};
use router_core::snapshot::{DynoState, Snapshot};
use router_core::{Lease, Outcome, Router, Ticket};

use super::ops::{self, DYNOS, Edit, Op};
use super::reference::{Entered, News, Told, Waiting};
use super::world::World;

/// The router, the reference, and the requests of both.
pub(crate) struct Harness {
    pub(crate) router: Router,
    start: Instant,
    pub(crate) world: World,
    requests: u64,
    pub(crate) tickets: Vec<Live>,
    pub(crate) leases: Vec<Held>,
    /// The last concurrency that was asked for, by address.
    concurrency: Vec<(Address, u32)>,
}

/// A request with a ticket.
pub(crate) struct Live {
    pub(crate) waiting: Waiting,
    app: AppId,
    birth: Option<u64>,
    pub(crate) ticket: Ticket,
    pub(crate) waker: Arc<Flag>,
    pub(crate) polled: bool,
    /// It has a dyno without having waited for it.
    at_once: bool,
    /// What the reference says became of it; `None`: it waits.
    pub(crate) told: Option<Told>,
}

/// A request with a lease.
pub(crate) struct Held {
    pub(crate) waiting: Waiting,
    pub(crate) app: AppId,
    pub(crate) address: Address,
    pub(crate) lease: Lease,
    pub(crate) lingers: bool,
    pub(crate) upgraded: bool,
    /// It is a probe, not a request.
    pub(crate) probe: bool,
}

#[derive(Default)]
pub(crate) struct Flag(pub(crate) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Harness {
    pub(crate) fn new() -> Self {
        let router = Router::with_clock(Clock::manual());
        let start = router.clock().now();
        let (tickets, leases, concurrency) = (Vec::new(), Vec::new(), Vec::new());
        let mut harness =
            Self { router, start, world: World::default(), requests: 0, tickets, leases, concurrency };
        harness.apply(&ops::prelude());
        harness
    }

    pub(crate) fn run(&mut self, op: &Op) {
        match op {
            Op::Arrive { app, bytes, polled } => self.arrive(&ops::app_id(*app), *bytes, *polled),
            Op::Poll { who, same_waker } => {
                if let Some(at) = choose(*who, self.tickets.len()) {
                    self.poll(at, *same_waker);
                }
            }
            Op::Cancel { who } => {
                if let Some(at) = choose(*who, self.tickets.len()) {
                    self.cancel(at);
                }
            }
            Op::Expire { who } => {
                if let Some(at) = choose(*who, self.tickets.len()) {
                    self.expire(at);
                }
            }
            Op::Advance { ms, tick } => self.advance(Duration::from_millis(u64::from(*ms)), *tick),
            Op::CheckIn { lease, outcome } => {
                if let Some(at) = choose(*lease, self.leases.len()) {
                    self.end(at, Some(*outcome));
                }
            }
            Op::DropLease { lease } => {
                if let Some(at) = choose(*lease, self.leases.len()) {
                    self.end(at, None);
                }
            }
            Op::Again { lease } => {
                if let Some(at) = choose(*lease, self.leases.len()) {
                    self.again(at);
                }
            }
            Op::Linger { lease } => {
                if let Some(at) = choose(*lease, self.leases.len()) {
                    self.linger(at);
                }
            }
            Op::Upgrade { lease } => {
                if let Some(at) = choose(*lease, self.leases.len()) {
                    self.upgrade(at);
                }
            }
            Op::Probe { app, dyno } => self.probe(&ops::app_id(*app), *dyno),
            Op::Probed { app, dyno, good } => self.probed(&ops::app_id(*app), *dyno, *good),
            Op::Apply(edits) => {
                let changes: Vec<_> = edits.iter().flat_map(|edit| self.changes(edit)).collect();
                self.apply(&changes);
            }
        }
    }

    fn changes(&self, edit: &Edit) -> Vec<Change> {
        let owner = |dyno: u8| self.world.owner(ops::address(dyno)).cloned();
        match *edit {
            Edit::Put { app, shape } => vec![ops::put(&ops::app_id(app), shape)],
            Edit::RemoveApp { app } => vec![Change::RemoveApp(ops::app_id(app))],
            Edit::Add { app, dyno, concurrency, health } => {
                let id = owner(dyno).unwrap_or_else(|| ops::app_id(app));
                vec![ops::add(&id, dyno, concurrency, health)]
            }
            Edit::Remove { dyno } => {
                owner(dyno).into_iter().map(|id| Change::RemoveDyno(id, ops::address(dyno))).collect()
            }
            Edit::RemoveFrom { app, dyno } => vec![Change::RemoveDyno(ops::app_id(app), ops::address(dyno))],
            Edit::Set { dyno, health } => {
                owner(dyno).into_iter().map(|id| Change::SetDyno(id, ops::address(dyno), health)).collect()
            }
            Edit::Move { dyno } => {
                let Some(from) = owner(dyno) else { return Vec::new() };
                let to = if from == ops::app_id(0) { ops::app_id(1) } else { ops::app_id(0) };
                let remove = Change::RemoveDyno(from, ops::address(dyno));
                vec![remove, ops::add(&to, dyno, 1, DynoHealth::Ready)]
            }
            Edit::Hold { app, kind, ms } => vec![Change::Hold(ops::app_id(app), ops::hold(kind, ms))],
            Edit::Canary { app } => vec![Change::SetCanary(ops::app_id(app), None)],
            Edit::Flap { dyno } => {
                let Some(id) = owner(dyno) else { return Vec::new() };
                let remove = Change::RemoveDyno(id.clone(), ops::address(dyno));
                vec![remove, ops::add(&id, dyno, 1 + dyno % 3, DynoHealth::Ready)]
            }
        }
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        let result = self.router.apply(changes);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        assert_eq!(result, self.world.apply(changes, &seen, &mut news), "applied whole, or refused whole");
        let added: Vec<_> = changes.iter().filter(|_| result.is_ok()).filter_map(added).collect();
        // A list that turns to another app in between may lower a concurrency after a grant: both have held.
        let mut rising: Vec<_> = self.concurrency.clone().into_iter().chain(added.clone()).collect();
        rising.sort_by_key(|(_, most)| *most);
        let before = std::mem::replace(&mut self.concurrency, rising);
        self.check(&seen, news);
        self.concurrency = before;
        for (address, most) in added {
            self.concurrency.retain(|(of, _)| *of != address);
            self.concurrency.push((address, most));
        }
    }

    fn arrive(&mut self, app: &AppId, bytes: u16, polled: bool) {
        let (lane, wish, bytes) = (ops::lane(bytes), ops::wish(bytes), u64::from(bytes));
        let Ok(app_ref) = self.router.route(&format!("{app}.test"), "/") else {
            assert!(!self.world.has_app(app), "an app that is there has its host");
            return;
        };
        assert!(self.world.has_app(app), "an app that is gone has no host");
        self.requests += 1;
        let (request, arrived) = (self.requests, self.world.now);
        let got = self.router.ticket_for(&app_ref, lane, bytes, wish);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let entered = self.world.app(app).arrive(request, (lane, wish), bytes, arrived, &seen);
        self.world.finish(app, &seen, &mut news);
        let since = self.world.app(app).gate.clock;
        let mut waiting =
            Waiting { request, lane, arrived, since, deadline: since, bytes, failed: None, tries: 0 };
        match (got, entered) {
            (Err(fault), Entered::Refused(expected)) => assert_eq!(fault, expected, "why it is refused"),
            (Ok(ticket), Entered::Granted(address)) => {
                assert_eq!(ticket.deadline(), None, "who has a dyno does not wait");
                waiting.tries = 1;
                self.join(waiting, app.clone(), ticket, Some(Told::Granted(address)));
            }
            (Ok(ticket), Entered::InLine) => {
                self.join(waiting, app.clone(), ticket, None);
            }
            (got, expected) => panic!("an arrival is {expected:?}, and the router says {got:?}"),
        }
        self.check(&seen, news);
        if polled && let Some(at) = self.tickets.iter().position(|live| live.waiting.request == request) {
            self.poll(at, true);
        }
    }

    /// A request has a ticket.
    fn join(&mut self, waiting: Waiting, app: AppId, ticket: Ticket, told: Option<Told>) {
        if let Some(Told::Granted(address)) = told {
            self.granted(address);
        }
        if told.is_none() {
            let deadline = self.world.deadline(&app, waiting.request);
            let actual = ticket.deadline().map(|at| at - self.start);
            let same = deadline.is_none() || actual.is_none() || deadline == actual;
            assert!(same, "the wait is bounded: {deadline:?} {actual:?}");
        }
        let (waker, at_once, birth) = (Arc::default(), told.is_some(), self.world.birth(&app));
        self.tickets.push(Live { waiting, app, birth, ticket, waker, polled: false, at_once, told });
    }

    fn poll(&mut self, at: usize, same_waker: bool) {
        let live = &mut self.tickets[at];
        if !same_waker {
            live.waker = Arc::default();
        }
        live.polled = true;
        let waker = Waker::from(Arc::clone(&live.waker));
        let polled = Pin::new(&mut live.ticket).poll(&mut Context::from_waker(&waker));
        match (polled, live.told) {
            (Poll::Pending, None) => {}
            (Poll::Ready(Err(fault)), Some(Told::Refused(expected))) => {
                assert_eq!(fault, expected, "why it is refused");
                self.tickets.swap_remove(at);
            }
            (Poll::Ready(Ok(lease)), Some(Told::Granted(address))) => {
                let live = self.tickets.swap_remove(at);
                self.hold(live, lease, address);
            }
            (polled, told) => panic!("request {}: {told:?}, and {polled:?}", live.waiting.request),
        }
    }

    pub(crate) fn hold(&mut self, live: Live, lease: Lease, address: Address) {
        assert_eq!(lease.dyno().address, address, "the dyno that the request was granted");
        assert_eq!(lease.tries(), live.waiting.tries, "dynos it was offered to");
        assert_eq!(lease.app().id(), &live.app);
        let arrived = lease.granted_at() - self.start - lease.waited();
        assert_eq!(arrived, live.waiting.arrived, "a request keeps its first time of arrival");
        let Live { waiting, app, .. } = live;
        self.leases.push(Held {
            waiting,
            app,
            address,
            lease,
            lingers: false,
            upgraded: false,
            probe: false,
        });
    }

    fn cancel(&mut self, at: usize) {
        let Live { waiting, app, birth, ticket, told, .. } = self.tickets.swap_remove(at);
        drop(ticket);
        if self.world.birth(&app) != birth {
            assert!(
                matches!(told, Some(Told::Refused(_))),
                "T4: an app that is over has told all who waited"
            );
            return;
        }
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let left = self.world.app(&app).cancel(waiting.request);
        assert_eq!(left, told.is_none(), "exactly who waits is in line");
        if let Some(Told::Granted(address)) = told {
            let now = self.world.now;
            self.world.app(&app).check_in(address, Duration::ZERO, false, Outcome::Unused, now);
        }
        self.world.finish(&app, &seen, &mut news);
        self.check(&seen, news);
    }

    fn expire(&mut self, at: usize) {
        let Live { waiting, app, birth, ticket, at_once, told, .. } = self.tickets.swap_remove(at);
        let got = ticket.expire();
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let there = self.world.birth(&app) == birth;
        let in_line = if there { self.world.app(&app).expire(waiting.request) } else { None };
        if there && !at_once {
            self.world.finish(&app, &seen, &mut news);
        }
        match (got, in_line, told) {
            (Err(fault), Some(expected), None) | (Err(fault), None, Some(Told::Refused(expected))) => {
                assert_eq!(fault, expected, "why its time is up");
            }
            (Ok(lease), None, Some(Told::Granted(address))) => {
                self.leases.push(Held {
                    waiting,
                    app,
                    address,
                    lease,
                    lingers: false,
                    upgraded: false,
                    probe: false,
                });
            }
            (got, in_line, told) => panic!("expire: {in_line:?}, {told:?}, and the router says {got:?}"),
        }
        self.check(&seen, news);
    }

    fn advance(&mut self, by: Duration, tick: bool) {
        self.router.clock().advance(by);
        self.world.advance(by);
        if tick {
            self.router.tick();
            let (seen, mut news) = (self.router.snapshot(), News::new());
            self.world.tick(&seen, &mut news);
            self.check(&seen, news);
        }
    }

    /// `None`: the lease is dropped.
    fn end(&mut self, at: usize, outcome: Option<Outcome>) {
        let Held { app, address, lease, lingers, upgraded, probe, .. } = self.leases.swap_remove(at);
        let held = self.router.clock().now() - lease.granted_at();
        match outcome {
            Some(outcome) => lease.check_in(outcome),
            None => drop(lease),
        }
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let (now, outcome) = (self.world.now, outcome.unwrap_or(Outcome::Unused));
        match (probe, upgraded) {
            (true, _) => self.world.app(&app).end_probe(address, lingers),
            (false, true) => self.world.app(&app).end_upgraded(address, lingers),
            (false, false) => self.world.app(&app).check_in(address, held, lingers, outcome, now),
        }
        self.world.finish(&app, &seen, &mut news);
        self.check(&seen, news);
    }

    fn again(&mut self, at: usize) {
        let Held { waiting, app, address, lease, lingers, upgraded, probe } = self.leases.swap_remove(at);
        let got = lease.again(Fault::ConnectRefused);
        let (seen, mut news) = (self.router.snapshot(), News::new());
        let now = self.world.now;
        let failed = Fault::ConnectRefused;
        let expected = match (probe, upgraded) {
            (true, _) => {
                self.world.app(&app).end_probe(address, lingers);
                Err(failed)
            }
            (false, true) => {
                self.world.app(&app).end_upgraded(address, lingers);
                Err(failed)
            }
            (false, false) => self.world.app(&app).again(address, lingers, waiting.clone(), failed, now),
        };
        match (got, expected) {
            (Err(fault), Err(expected)) => assert_eq!(fault, expected, "why it may not go again"),
            (Ok(ticket), Ok(())) => self.join(waiting, app.clone(), ticket, None),
            (got, expected) => panic!("again: {expected:?}, and the router says {got:?}"),
        }
        self.world.finish(&app, &seen, &mut news);
        self.check(&seen, news);
    }

    /// The dyno of a request changes the protocol; that of a probe does not.
    fn upgrade(&mut self, at: usize) {
        let held = &mut self.leases[at];
        if held.upgraded || held.probe {
            return;
        }
        held.lease.upgrade();
        held.upgraded = true;
        let (app, address) = (held.app.clone(), held.address);
        let time = self.router.clock().now() - held.lease.granted_at();
        let (seen, mut news) = (self.router.snapshot(), News::new());
        self.world.app(&app).upgrade(address, time);
        self.world.finish(&app, &seen, &mut news);
        self.check(&seen, news);
    }

    /// A dyno is given to a request: it must have room, counted over all apps.
    pub(crate) fn granted(&self, address: Address) {
        let untaken = self.tickets.iter().filter(|live| live.told == Some(Told::Granted(address))).count();
        let of_dyno = || self.leases.iter().filter(|held| held.address == address);
        let upgraded = of_dyno().filter(|held| held.upgraded).count();
        let held = of_dyno().count() - upgraded.min(ops::STREAMS);
        let most =
            self.concurrency.iter().rfind(|(of, _)| *of == address).map_or(0, |(_, most)| *most as usize);
        assert!(untaken + held < most, "T1, T5: {address} takes {most} and has {untaken} + {held}");
    }

    pub(crate) fn check(&mut self, seen: &Snapshot, news: News) {
        self.tell(news);
        assert_eq!(*seen, self.world.snapshot(), "the router and the reference differ");
        for app in &seen.apps {
            let waiting = || self.tickets.iter().filter(|live| live.app == app.id && live.told.is_none());
            assert_eq!(app.waiting, waiting().count(), "T3: the count is that of those who wait");
            let bytes: u64 = waiting().map(|live| live.waiting.bytes).sum();
            assert_eq!(app.waiting_bytes, bytes, "T3, T11: the bytes are those of those who wait");
            let idle = app.count(DynoState::Idle);
            let held = app.held.is_some() || self.world.is_due(&app.id);
            for dyno in app.dynos.iter().filter(|dyno| dyno.state == DynoState::Idle && !held) {
                let serves = |live: &Live| self.world.serves(&app.id, &live.waiting, dyno);
                assert!(!waiting().any(serves), "T2, T10: nobody waits while a dyno has room");
            }
            if let Some(app_ref) = self.router.app(&app.id) {
                assert_eq!(app_ref.gauges(), (app.waiting as u64, idle as u64), "the gauges");
            }
        }
        for live in &self.tickets {
            let woken = live.waker.0.load(Ordering::Relaxed);
            let due = live.polled && live.told.is_some() && !live.at_once;
            assert_eq!(woken, due, "T2: who is told is woken, and nobody else: {}", live.waiting.request);
        }
    }

    /// Everything ends: then all dynos are idle and the app has all of its capacity.
    pub(crate) fn finish(mut self) {
        while !self.tickets.is_empty() {
            self.cancel(self.tickets.len() - 1);
        }
        while !self.leases.is_empty() {
            self.end(self.leases.len() - 1, Some(Outcome::Served));
        }
        for dyno in 0..DYNOS {
            let ready = self.changes(&Edit::Set { dyno, health: DynoHealth::Ready });
            self.apply(&ready);
        }
        let open = [Hold::Resume { over: Duration::ZERO }, Hold::Maintenance(false)];
        for app in ops::APPS.map(AppId::from) {
            if self.world.has_app(&app) {
                self.apply(&open.map(|hold| Change::Hold(app.clone(), hold)));
            }
        }
        self.advance(Duration::from_secs(100), true);
        for app in ops::APPS.map(AppId::from) {
            // The first round ends all doubt about dynos that have failed.
            self.fill(&app);
            let capacity = self.fill(&app);
            let wanted = (0..DYNOS).map(ops::address).filter(|dyno| self.world.owner(*dyno) == Some(&app));
            let of =
                |dyno: Address| self.concurrency.iter().rfind(|(at, _)| *at == dyno).map(|(_, most)| *most);
            let wanted: u32 = wanted.filter_map(of).sum();
            assert_eq!(capacity, wanted as usize, "T6: the capacity of {app} is whole");
        }
    }

    /// How many requests the app takes at once, with nothing in flight before and after.
    fn fill(&mut self, app: &AppId) -> usize {
        loop {
            let before = self.leases.len();
            self.arrive(app, ops::MAIN, true);
            if self.leases.len() == before {
                break;
            }
        }
        let most = self.leases.len();
        while !self.tickets.is_empty() {
            self.cancel(self.tickets.len() - 1);
        }
        while !self.leases.is_empty() {
            self.end(self.leases.len() - 1, Some(Outcome::Served));
        }
        let seen = self.router.snapshot();
        let dynos = seen.apps.iter().filter(|seen| seen.id == *app).flat_map(|app| &app.dynos);
        for dyno in dynos {
            assert_eq!((dyno.state, dyno.in_flight), (DynoState::Idle, 0), "{} is idle again", dyno.address);
        }
        most
    }
}

impl Drop for Harness {
    /// A router whose state is broken panics again when its tickets and leases are dropped: the first panic is the
    /// one that tells.
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget((std::mem::take(&mut self.tickets), std::mem::take(&mut self.leases)));
        }
    }
}

fn added(change: &Change) -> Option<(Address, u32)> {
    if let Change::AddDyno(_, spec) = change { Some((spec.address, spec.concurrency.max(1))) } else { None }
}

fn choose(who: u8, among: usize) -> Option<usize> {
    (among > 0).then(|| usize::from(who) % among)
}
