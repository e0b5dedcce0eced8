//! Waiting for a request: how long a connection of HTTP/1.1 may, and when it is at rest.
//!
//! hyper wants a timer of its own for each head. The one it gets here only notes the deadline; what looks at it is one
//! timer for the whole connection, so that a request sets and clears none. *State:* `Waits` is between hyper, which
//! waits for a head or does not, and `Watch`, which fires every few seconds and at the deadline. A connection that has
//! waited for the same head at two looks is at rest, if nothing of it is held anywhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Sleep as HyperSleep, Timer};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep};

use crate::socket::Side;

/// How often a connection is looked at. It rests when it has had nothing to do for this long, or twice as long.
const LOOK: Duration = Duration::from_secs(2);

/// What hyper waits for.
struct Waits {
    /// What `until` counts from.
    since: Instant,
    /// The deadline of the head that hyper waits for, in nanoseconds; 0: it waits for none.
    until: AtomicU64,
    /// It was not kept.
    over: AtomicBool,
}

impl Waits {
    fn begin(&self, deadline: std::time::Instant) {
        let deadline = Instant::from_std(deadline).saturating_duration_since(self.since).as_nanos();
        self.until.store(u64::try_from(deadline).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        self.over.store(false, Ordering::Relaxed);
    }
}

/// The timer that hyper is given.
pub(super) struct Heads(Arc<Waits>);

/// What it waits on; while there is one, it waits for a head.
struct Wait(Arc<Waits>);

impl Timer for Heads {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn HyperSleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn HyperSleep>> {
        self.0.begin(deadline);
        Box::pin(Wait(Arc::clone(&self.0)))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }

    fn reset(&self, _: &mut Pin<Box<dyn HyperSleep>>, deadline: std::time::Instant) {
        self.0.begin(deadline);
    }
}

impl HyperSleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        // Nobody is woken for it: `Watch` belongs to the same task, and has hyper look again.
        if self.0.over.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.until.store(0, Ordering::Relaxed);
    }
}

/// Looks after one connection.
pub(super) struct Watch<'a> {
    waits: Arc<Waits>,
    tick: Pin<&'a mut Sleep>,
    /// The task is woken by it.
    armed: bool,
    /// What hyper waited for at the last look.
    seen: u64,
    every: Duration,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The head has not come in time: hyper is to look again.
    Late,
    /// There is nothing to do but to wait for a head, until then.
    Rest(Instant),
}

/// What a watch ticks with.
pub(super) fn tick() -> Sleep {
    sleep(LOOK)
}

impl<'a> Watch<'a> {
    /// Takes the longest that a head may take.
    pub(super) fn new(mut tick: Pin<&'a mut Sleep>, most: Duration) -> Self {
        let since = Instant::now();
        let waits = Waits { since, until: AtomicU64::new(0), over: AtomicBool::new(false) };
        let every = LOOK.min(most);
        tick.as_mut().reset(since + every);
        Self { waits: Arc::new(waits), tick, armed: false, seen: 0, every }
    }

    pub(super) fn heads(&self) -> Heads {
        Heads(Arc::clone(&self.waits))
    }

    /// Looks, if it is time for it. To be called after hyper, whenever the task is woken.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, side: &Side) -> Poll<Found> {
        loop {
            if self.armed {
                if !self.tick.is_elapsed() {
                    return Poll::Pending;
                }
            } else {
                // Once is enough, because a task's waker stays the same; unless the task had no time left for it.
                let mut tick = unconstrained(self.tick.as_mut());
                self.armed = true;
                if Pin::new(&mut tick).poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            self.armed = false;
            let now = Instant::now();
            let until = self.waits.until.load(Ordering::Relaxed);
            let deadline = self.waits.since + Duration::from_nanos(until);
            if until > 0 && deadline <= now {
                self.waits.over.store(true, Ordering::Relaxed);
                return Poll::Ready(Found::Late);
            }
            if until > 0 && until == self.seen && side.poll_rest(cx).is_ready() {
                return Poll::Ready(Found::Rest(deadline));
            }
            self.seen = until;
            let next = now + self.every;
            self.tick.as_mut().reset(if until > 0 { next.min(deadline) } else { next });
        }
    }

    /// Waits for the client. Says whether it was in time; then the connection goes on.
    pub(super) async fn rest(&mut self, side: &Side, until: Instant) -> bool {
        self.tick.as_mut().reset(until);
        let in_time = tokio::select! {
            biased;
            () = side.readable() => true,
            () = self.tick.as_mut() => false,
        };
        self.armed = false;
        self.seen = 0;
        self.tick.as_mut().reset(Instant::now() + self.every);
        in_time
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::guard::Guard;
    use crate::socket::Socket;
    use crate::stream::Stream;

    async fn side() -> (Arc<Side>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        // As hyper has: what may be there is known only to who has looked.
        assert!(stream.try_read(&mut [0]).is_err());
        let (_, side) = Socket::new(Stream::Tcp(stream), Guard::new(1024));
        (side, client)
    }

    /// What is found, and in how many milliseconds.
    async fn found(watch: &mut Watch<'_>, side: &Side, before: Duration) -> Option<(Found, u128)> {
        let since = Instant::now();
        let found = tokio::time::timeout(before, poll_fn(|cx| watch.poll(cx, side))).await.ok()?;
        Some((found, since.elapsed().as_millis()))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_head_is_late_at_its_deadline_whenever_hyper_began_to_wait_for_it() {
        let (side, _client) = side().await;
        for (most, before) in [(500, 0), (500, 499), (2000, 1), (3000, 500), (3000, 2500)] {
            let (most, before) = (Duration::from_millis(most), Duration::from_millis(before));
            let tick = pin!(tick());
            let mut watch = Watch::new(tick, most);
            let heads = watch.heads();
            assert_eq!(found(&mut watch, &side, before).await, None, "hyper waits for none");
            let mut wait = heads.sleep_until(heads.now() + most);
            let (late, after) = found(&mut watch, &side, most + SECOND).await.unwrap();
            assert_eq!((late, after), (Found::Late, most.as_millis()), "{most:?} {before:?}");
            poll_fn(|cx| wait.as_mut().poll(cx)).await;
            // It came after all: the next has its own time.
            drop(wait);
            let mut next = heads.sleep_until(heads.now() + most);
            assert!(poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await.is_pending());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_when_it_has_waited_for_one_head_at_two_looks() {
        let (side, _client) = side().await;
        let most = 60 * SECOND;
        let tick = pin!(tick());
        let mut watch = Watch::new(tick, most);
        let heads = watch.heads();
        for _ in 0..20 {
            let wait = heads.sleep_until(heads.now() + most);
            assert_eq!(found(&mut watch, &side, SECOND).await, None, "a request a second");
            drop(wait);
            assert_eq!(found(&mut watch, &side, SECOND / 10).await, None);
        }
        let mut wait = heads.sleep_until(heads.now() + most);
        let deadline = Instant::now() + most;
        heads.reset(&mut wait, deadline.into_std());
        let (rests, after) = found(&mut watch, &side, most).await.unwrap();
        assert_eq!(rests, Found::Rest(deadline));
        assert!((2000..=4000).contains(&after), "{after}");
        drop(wait);
        assert!(!watch.rest(&side, deadline).await);
        assert_eq!(Instant::now().duration_since(deadline).as_millis(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_rest_with_something_to_say() {
        let (side, _client) = side().await;
        let tick = pin!(tick());
        let mut watch = Watch::new(tick, 9 * SECOND);
        let heads = watch.heads();
        let _wait = heads.sleep_until(heads.now() + 9 * SECOND);
        side.keep_all(true);
        assert_eq!(found(&mut watch, &side, 10 * SECOND).await, Some((Found::Late, 9000)));
    }
}
