//! What one trip through the line costs, beside the semaphore, channel and pool that people use for the same job.
//!
//! Times are per operation. With several threads it is the wall time divided by the operations of all threads, so
//! on enough cores a line without contention shows *less* than one thread alone. Nothing here does any work with
//! the dyno, so the threads contend far more than requests ever do.
//!
//! A semaphore counts and does not say which dyno; channel and pool do. None of them knows quarantine, limits or
//! removal. The router reads the clock twice on each trip: for the deadline and for the service time.

use std::future::Future;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use deadpool::unmanaged::{Object, Pool};
use router_core::change::{AppSpec, Change, DynoSpec};
use router_core::clock::Clock;
use router_core::limits::Limits;
use router_core::{AppRef, Lease, Outcome, Router};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const DYNOS: u16 = 100;
const THREADS: [u32; 3] = [2, 4, 8];
const LINES: [usize; 2] = [1_000, 100_000];
/// How many leave a long line between two readings of the clock.
const BATCH: u64 = 500;

/// Something that hands out one of a number of dynos, first come first served.
trait Line: Sync {
    /// The right to use a dyno.
    type Held;

    /// Takes a dyno, or a place in line.
    fn join(&self) -> impl Future<Output = Self::Held>;

    /// Gives the dyno back.
    fn give(&self, held: Self::Held);
}

struct RouterCore {
    router: Router,
    app: AppRef,
}

impl RouterCore {
    fn new(dynos: u16) -> Self {
        let limits = Limits::default()
            .with_queue_max_wait(Duration::from_secs(3600))
            .with_queue_max_requests_per_dyno(1_000_000);
        let id = "bench".into();
        let spec = AppSpec { id, hosts: vec!["bench.test".into()], release: "v1".into(), limits };
        let mut changes = vec![Change::PutApp(spec.clone())];
        for port in 0..dynos {
            let dyno = DynoSpec::new((Ipv4Addr::LOCALHOST, 10_000 + port).into());
            changes.push(Change::AddDyno(spec.id.clone(), dyno));
        }
        let router = Router::new();
        router.apply(&changes).expect("these changes name one new app and its dynos");
        let app = router.app(&spec.id).expect("it was just added");
        Self { router, app }
    }
}

impl Line for RouterCore {
    type Held = Lease;

    fn join(&self) -> impl Future<Output = Lease> {
        let ticket = self.router.ticket(&self.app, 0).expect("the line has room");
        async { ticket.await.expect("nobody waits for an hour here") }
    }

    fn give(&self, lease: Lease) {
        lease.check_in(Outcome::Served);
    }
}

/// `tokio::sync::Semaphore`, awaited.
struct TokioAcquire(Arc<Semaphore>);

impl Line for TokioAcquire {
    type Held = OwnedSemaphorePermit;

    fn join(&self) -> impl Future<Output = OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.0).acquire_owned();
        async { permit.await.expect("nobody closes it") }
    }

    fn give(&self, permit: OwnedSemaphorePermit) {
        drop(permit);
    }
}

/// `tokio::sync::Semaphore` without a line: what it costs when there is always room.
struct TokioTryAcquire(Arc<Semaphore>);

impl Line for TokioTryAcquire {
    type Held = OwnedSemaphorePermit;

    fn join(&self) -> impl Future<Output = OwnedSemaphorePermit> {
        std::future::ready(Arc::clone(&self.0).try_acquire_owned().expect("there are more than threads"))
    }

    fn give(&self, permit: OwnedSemaphorePermit) {
        drop(permit);
    }
}

/// A bounded `async-channel` that holds the idle dynos.
struct Channel(async_channel::Sender<u16>, async_channel::Receiver<u16>);

impl Channel {
    fn new(dynos: u16) -> Self {
        let (sender, receiver) = async_channel::bounded(usize::from(dynos));
        for dyno in 0..dynos {
            sender.try_send(dyno).expect("it has room for all dynos");
        }
        Self(sender, receiver)
    }
}

impl Line for Channel {
    type Held = u16;

    fn join(&self) -> impl Future<Output = u16> {
        let dyno = self.1.recv();
        async { dyno.await.expect("the sender lives as long") }
    }

    fn give(&self, dyno: u16) {
        self.0.try_send(dyno).expect("it has room for all dynos");
    }
}

impl Line for Pool<u16> {
    type Held = Object<u16>;

    async fn join(&self) -> Object<u16> {
        self.get().await.expect("nobody closes it")
    }

    fn give(&self, dyno: Object<u16>) {
        drop(dyno);
    }
}

fn semaphore(dynos: u16) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::from(dynos)))
}

fn deadpool(dynos: u16) -> Pool<u16> {
    Pool::from((0..dynos).collect::<Vec<_>>())
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Takes a dyno that is idle.
fn take<L: Line>(line: &L) -> L::Held {
    match poll(pin!(line.join())) {
        Poll::Ready(held) => held,
        Poll::Pending => panic!("there are more dynos than threads"),
    }
}

fn acquire_and_check_in<L: Line>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, line: &L) {
    group.bench_function(BenchmarkId::new(name, 1), |b| b.iter(|| line.give(black_box(take(line)))));
    for threads in THREADS {
        let id = BenchmarkId::new(name, threads);
        group.bench_function(id, |b| b.iter_custom(|iterations| together(line, threads, iterations)));
    }
}

/// The time of one operation when `threads` threads do `iterations` each, times `iterations`.
fn together<L: Line>(line: &L, threads: u32, iterations: u64) -> Duration {
    let clock = Clock::system();
    let barrier = Barrier::new(threads as usize);
    let work = || {
        barrier.wait();
        let start = clock.now();
        for _ in 0..iterations {
            line.give(black_box(take(line)));
        }
        (start, clock.now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let first = spans.iter().map(|(start, _)| *start).min();
    let last = spans.iter().map(|(_, end)| *end).max();
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last.duration_since(first)) / threads
}

/// The only dyno goes from one request to the next: arrive, wait, check in, take over.
fn hand_over<L: Line>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, line: &L) {
    let mut held = Some(take(line));
    group.bench_function(name, |b| {
        b.iter(|| {
            let mut next = pin!(line.join());
            assert!(poll(next.as_mut()).is_pending(), "the only dyno is taken");
            if let Some(held) = held.take() {
                line.give(held);
            }
            let Poll::Ready(dyno) = poll(next) else { panic!("the dyno was given back") };
            held = Some(dyno);
        });
    });
}

/// All dynos are busy; a request joins the line and its client goes away.
fn arrive_and_cancel<L: Line>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, line: &L) {
    let _held = take(line);
    group.bench_function(name, |b| {
        b.iter(|| assert!(poll(pin!(line.join())).is_pending(), "the only dyno is taken"));
    });
}

/// Clients in the middle of a long line go away.
fn cancel<L: Line>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, line: &L) {
    let clock = Clock::system();
    let wait = || {
        let mut place = Box::pin(line.join());
        assert!(poll(place.as_mut()).is_pending(), "the only dyno is taken");
        place
    };
    let _held = take(line);
    let mut waiting = Vec::new();
    for length in LINES {
        waiting.resize_with(length, wait);
        group.bench_function(BenchmarkId::new(name, length), |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let batch = left.min(BATCH);
                    let middle = length / 2;
                    let going: Vec<_> = waiting.drain(middle..middle + batch as usize).collect();
                    let start = clock.now();
                    drop(going);
                    spent += clock.now().duration_since(start);
                    waiting.resize_with(length, wait);
                    left -= batch;
                }
                spent
            });
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();

    let mut group = criterion.benchmark_group("acquire and check in, by threads");
    acquire_and_check_in(&mut group, "router-core", &RouterCore::new(DYNOS));
    acquire_and_check_in(&mut group, "tokio semaphore, try_acquire", &TokioTryAcquire(semaphore(DYNOS)));
    acquire_and_check_in(&mut group, "tokio semaphore, acquire", &TokioAcquire(semaphore(DYNOS)));
    acquire_and_check_in(&mut group, "async-channel", &Channel::new(DYNOS));
    acquire_and_check_in(&mut group, "deadpool", &deadpool(DYNOS));
    group.finish();

    let mut group = criterion.benchmark_group("hand over");
    hand_over(&mut group, "router-core", &RouterCore::new(1));
    hand_over(&mut group, "tokio semaphore", &TokioAcquire(semaphore(1)));
    hand_over(&mut group, "async-channel", &Channel::new(1));
    hand_over(&mut group, "deadpool", &deadpool(1));
    group.finish();

    let mut group = criterion.benchmark_group("arrive and cancel");
    arrive_and_cancel(&mut group, "router-core", &RouterCore::new(1));
    arrive_and_cancel(&mut group, "tokio semaphore", &TokioAcquire(semaphore(1)));
    arrive_and_cancel(&mut group, "async-channel", &Channel::new(1));
    arrive_and_cancel(&mut group, "deadpool", &deadpool(1));
    group.finish();

    let mut group = criterion.benchmark_group("cancel from the middle, by length of line");
    cancel(&mut group, "router-core", &RouterCore::new(1));
    cancel(&mut group, "tokio semaphore", &TokioAcquire(semaphore(1)));
    cancel(&mut group, "async-channel", &Channel::new(1));
    cancel(&mut group, "deadpool", &deadpool(1));
    group.finish();

    criterion.final_summary();
}
