//! The simulation: a router, fake dynos, a virtual clock, and misfortune, all from one seed.
//!
//! The normal run takes 256 seeds. `SEEDS=4096` takes more, `REQUESTS=10000000` (with `--release`) as many as make up
//! that many requests, and `SEED=0x2a` replays one and prints what happens in it. A seed that fails is printed with
//! the command that replays it; then it is pinned in [`PINNED`].
//!
//! Invariants 1 (overlaps), 2 (nobody waits beside a free dyno; first come, first served), 3 (capacity is whole at
//! the end), 4 (who is gone is not dispatched; lingering) and 7 (same seed, same run) of the design are held here; and
//! that a hold costs nobody patience.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "simulation/dynos.rs"]
mod dynos;
#[path = "simulation/holds.rs"]
mod holds;
#[path = "simulation/misfortune.rs"]
mod misfortune;
#[path = "simulation/probes.rs"]
mod probes;
#[path = "simulation/totals.rs"]
mod totals;
#[path = "simulation/world.rs"]
mod world;

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use totals::Totals;
use world::World;

/// Requests of one seed in the normal run, and in a long one.
const REQUESTS: u64 = 1000;
const REQUESTS_LONG: u64 = 20_000;

/// Seeds that have found a bug.
const PINNED: [u64; 0] = [];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let digits = text.replace('_', "");
    let read = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    Some(read.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

thread_local! {
    /// The seed that runs on this thread, and how many requests it makes.
    static RUNNING: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// A panic in a seed says how to replay it.
fn name_the_seed_in_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        if let Some((seed, requests)) = RUNNING.get() {
            let test = "cargo test -p router-core --test simulation no_seed -- --nocapture";
            let _ =
                writeln!(std::io::stderr(), "replay it with\n    SEED={seed:#x} REQUESTS={requests} {test}");
        }
    }));
}

/// Runs the seeds on all cores. Prints past the test's capture: the totals are for whoever runs it.
fn run(seeds: &[u64], requests: u64) -> Totals {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = Totals::default();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let one = std::panic::catch_unwind(|| World::new(*seed, requests, false).run());
            let Ok(one) = one else {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                let again =
                    format!("SEED={seed:#x} REQUESTS={requests} cargo test -p router-core --test simulation");
                panic!("seed {seed:#x} fails; replay it with\n    {again}");
            };
            sum.add(&one);
        }
        sum
    };
    let mut sum = Totals::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(one) => sum.add(&one),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let Totals {
        requests,
        served,
        failed,
        refused,
        timed_out,
        gone,
        again,
        blows,
        holds,
        probes,
        overlaps,
        ..
    } = sum;
    let _ = writeln!(
        std::io::stderr(),
        "simulation: {} seeds, {requests} requests (served {served}, refused {refused}, failed {failed}, \
         timed out {timed_out}, gone {gone}), tried again {again}, misfortunes {blows}, holds {holds}, \
         probes {probes}, overlaps: {overlaps}",
        seeds.len()
    );
    sum
}

#[test]
fn no_seed_breaks_the_router() {
    if let Some(seed) = number("SEED") {
        let totals = World::new(seed, number("REQUESTS").unwrap_or(REQUESTS), true).run();
        eprintln!("{totals:#?}");
        return;
    }
    let (count, each) = match number("REQUESTS") {
        Some(requests) => (requests.div_ceil(REQUESTS_LONG), REQUESTS_LONG),
        None => (number("SEEDS").unwrap_or(256), REQUESTS),
    };
    let seeds: Vec<_> = (0..count).chain(PINNED).collect();
    name_the_seed_in_panics();
    let totals = run(&seeds, each);
    assert!(totals.requests >= count * each, "all requests were made");
    assert_eq!(totals.overlaps, 0);
    let interesting = [
        totals.served,
        totals.failed,
        totals.refused,
        totals.timed_out,
        totals.gone,
        totals.again,
        totals.holds,
        totals.ejected,
    ];
    assert!(count < 16 || interesting.iter().all(|happened| *happened > 0), "misfortune reaches everything");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let [first, second, other] = [7, 7, 8].map(|seed| World::new(seed, REQUESTS, false).run());
    assert_eq!(first, second);
    assert_ne!(first.trace, other.trace);
}
