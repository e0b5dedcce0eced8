//! A line of requests in front of dynos: that of `router-core`, driven in virtual time through its public interface.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::limits::Limits;
use router_core::{AppRef, Lease, Outcome, Router, Ticket};

use super::shed::OwnLine;
use super::world::World;
use super::{Setup, Shed};

/// Longer than anybody waits.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Requests and the dynos that serve them in turn.
pub(super) trait Line {
    /// A request comes: it is sent to a dyno, waits, or is refused.
    fn arrive(&mut self, world: &mut World, request: usize);
    /// A dyno is free of a request.
    fn free(&mut self, world: &mut World, request: usize, dyno: u32);
    /// A request that waits has no client any more.
    fn gave_up(&mut self, world: &mut World, request: usize);
    /// A request has waited as long as the line allows.
    fn deadline(&mut self, world: &mut World, request: usize);
    /// Requests that wait less dynos that are idle.
    fn load(&self) -> i64;
}

/// A line in front of these dynos that sheds like this.
pub(super) fn line(setup: &Setup, shed: Shed, dynos: Range<u32>, world: &World) -> Box<dyn Line> {
    let limits = match shed {
        Shed::None | Shed::Gone => Limits::default()
            .with_queue_max_wait(NEVER)
            .with_queue_max_requests_per_dyno(u32::MAX)
            .with_standing_after(NEVER),
        Shed::Routerd(None) => Limits::default(),
        Shed::Routerd(Some(max_wait)) => Limits::default().with_queue_max_wait(max_wait),
        Shed::Bound(_) | Shed::ExpectedWait(_) | Shed::Deadline(_) | Shed::CoDel | Shed::AdaptiveLifo => {
            return Box::new(OwnLine::new(setup, shed, dynos));
        }
    };
    Box::new(RouterLine::new(limits, dynos, world))
}

/// The line of `router-core`.
struct RouterLine {
    router: Router,
    app: AppRef,
    /// By the number of the request.
    stages: Vec<Stage>,
    wakers: Vec<Waker>,
    /// Whether its limits end waits.
    timed: bool,
}

enum Stage {
    Elsewhere,
    InLine(Ticket),
    AtDyno(Lease),
}

thread_local! {
    /// Whose waker was called, in order. A replication stays on one thread.
    static WOKEN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes that a request is to look again.
struct Bell(usize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        WOKEN.with_borrow_mut(|woken| woken.push(self.0));
    }
}

impl RouterLine {
    fn new(limits: Limits, dynos: Range<u32>, world: &World) -> Self {
        WOKEN.with_borrow_mut(Vec::clear);
        let router = Router::with_clock(world.clock.clone());
        let timed = limits.queue_max_wait < NEVER;
        let spec = AppSpec { id: "fleet".into(), hosts: vec!["*".into()], release: "v1".into(), limits };
        let mut changes = vec![Change::PutApp(spec)];
        changes.extend(dynos.map(|dyno| {
            // A dyno is known by its port.
            let port = u16::try_from(dyno + 1).unwrap_or(u16::MAX);
            Change::AddDyno("fleet".into(), DynoSpec::new(([127, 0, 0, 1], port).into()))
        }));
        let applied = router.apply(&changes);
        debug_assert!(applied.is_ok(), "{applied:?}");
        let app = router.app(&"fleet".into()).expect("it was added just now");
        Self { router, app, stages: Vec::new(), wakers: Vec::new(), timed }
    }

    /// Polls a request that waits.
    fn look(&mut self, world: &mut World, request: usize) {
        let Some(mut ticket) = self.take(request) else { return };
        let mut cx = Context::from_waker(&self.wakers[request]);
        match Pin::new(&mut ticket).poll(&mut cx) {
            Poll::Pending => self.stages[request] = Stage::InLine(ticket),
            Poll::Ready(Ok(lease)) => self.granted(world, request, lease),
            Poll::Ready(Err(_)) => world.refuse(request),
        }
    }

    fn granted(&mut self, world: &mut World, request: usize, lease: Lease) {
        let dyno = u32::from(lease.dyno().address.port()) - 1;
        self.stages[request] = Stage::AtDyno(lease);
        world.send(request, dyno);
    }

    /// The ticket of a request that waits.
    fn take(&mut self, request: usize) -> Option<Ticket> {
        let stage = self.stages.get_mut(request)?;
        match std::mem::replace(stage, Stage::Elsewhere) {
            Stage::InLine(ticket) => Some(ticket),
            other @ (Stage::AtDyno(_) | Stage::Elsewhere) => {
                *stage = other;
                None
            }
        }
    }

    /// Everybody who was woken looks again.
    fn follow(&mut self, world: &mut World) {
        while let Some(woken) =
            WOKEN.with_borrow_mut(|woken| (!woken.is_empty()).then(|| std::mem::take(woken)))
        {
            for request in woken {
                self.look(world, request);
            }
        }
    }
}

impl Line for RouterLine {
    fn arrive(&mut self, world: &mut World, request: usize) {
        while self.stages.len() <= request {
            self.wakers.push(Waker::from(Arc::new(Bell(self.stages.len()))));
            self.stages.push(Stage::Elsewhere);
        }
        match self.router.ticket(&self.app, 0) {
            Ok(ticket) => {
                if self.timed
                    && let Some(deadline) = ticket.deadline()
                {
                    let left = deadline.saturating_duration_since(self.router.clock().now());
                    world.at_deadline(request, world.now + super::world::nanos(left));
                }
                self.stages[request] = Stage::InLine(ticket);
                self.look(world, request);
            }
            Err(_) => world.refuse(request),
        }
        self.follow(world);
    }

    fn free(&mut self, world: &mut World, request: usize, _: u32) {
        let stage = std::mem::replace(&mut self.stages[request], Stage::Elsewhere);
        if let Stage::AtDyno(lease) = stage {
            lease.check_in(Outcome::Served);
        }
        self.follow(world);
    }

    fn gave_up(&mut self, world: &mut World, request: usize) {
        drop(self.take(request));
        self.follow(world);
    }

    fn deadline(&mut self, world: &mut World, request: usize) {
        if let Some(ticket) = self.take(request) {
            match ticket.expire() {
                Ok(lease) => self.granted(world, request, lease),
                Err(_) => world.refuse(request),
            }
        }
        self.follow(world);
    }

    fn load(&self) -> i64 {
        let (waiting, idle) = self.app.gauges();
        waiting.cast_signed() - idle.cast_signed()
    }
}
