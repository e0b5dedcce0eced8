//! The simulation: a router, fake dynos, a virtual clock, and misfortune, all from one seed.
//!
//! The normal run takes 256 seeds, and 128 of deploys. `SEEDS=4096` takes more, `REQUESTS=10000000` (with `--release`)
//! as many as make up that many requests, and `SEED=0x2a` replays one and prints what happens in it. A seed that fails
//! is printed with the command that replays it; then it is pinned in [`PINNED`].
//!
//! Half of it is about one app whose releases are deployed one after the other under load, by the real
//! `policy::deploy::Deploy`; `cargo test -p router-core --test simulation no_deploy` runs those seeds alone.
//!
//! Invariants 1 (overlaps), 2 (nobody waits beside a free dyno; first come, first served), 3 (capacity is whole at
//! the end), 4 (who is gone is not dispatched; lingering) and 7 (same seed, same run) of the design are held here. Of
//! deploys: the floor of dynos that serve, that nobody is refused because of one, and who is served by which release.
//! And that a hold costs nobody patience.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "simulation/deploys.rs"]
mod deploys;
#[path = "simulation/dynos.rs"]
mod dynos;
#[path = "simulation/end.rs"]
mod end;
#[path = "simulation/holds.rs"]
mod holds;
#[path = "simulation/lines.rs"]
mod lines;
#[path = "simulation/misfortune.rs"]
mod misfortune;
#[path = "simulation/probes.rs"]
mod probes;
#[path = "simulation/totals.rs"]
mod totals;
#[path = "simulation/world.rs"]
mod world;

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

/// Makes the world of a seed: seed, requests, whether to print what happens.
type Make = fn(u64, u64, bool) -> World;

/// Runs the seeds on all cores. Prints past the test's capture: the totals are for whoever runs it.
fn run(make: Make, test: &str, seeds: &[u64], requests: u64) -> Totals {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut sum = Totals::default();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let one = std::panic::catch_unwind(|| make(*seed, requests, false).run());
            let Ok(one) = one else {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                let test = format!("cargo test -p router-core --test simulation {test} -- --nocapture");
                panic!("seed {seed:#x} fails; replay it with\n    SEED={seed:#x} REQUESTS={requests} {test}");
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
    let Totals { requests, served, failed, refused, timed_out, gone, again, blows, overlaps, .. } = sum;
    let Totals { holds, probes, ejected, .. } = sum;
    let Totals { deploys: [done, failed_deploys, rolled_back], given_up, .. } = sum;
    let _ = writeln!(
        std::io::stderr(),
        "simulation: {} seeds, {requests} requests (served {served}, refused {refused}, failed {failed}, \
         timed out {timed_out}, gone {gone}), tried again {again}, misfortunes {blows}, holds {holds}, probes \
         {probes}, ejected {ejected}, deploys (done {done}, failed \
         {failed_deploys}, rolled back {rolled_back}, dynos given up {given_up}), overlaps: {overlaps}",
        seeds.len()
    );
    sum
}

/// Runs the seeds that are asked for, or the usual number of them.
fn run_all(make: Make, test: &str, usual: u64) -> Option<Totals> {
    if let Some(seed) = number("SEED") {
        let totals = make(seed, number("REQUESTS").unwrap_or(REQUESTS), true).run();
        eprintln!("{totals:#?}");
        return None;
    }
    let (count, each) = match number("REQUESTS") {
        Some(requests) => (requests.div_ceil(REQUESTS_LONG), REQUESTS_LONG),
        None => (number("SEEDS").unwrap_or(usual), REQUESTS),
    };
    let seeds: Vec<_> = (0..count).chain(PINNED).collect();
    let totals = run(make, test, &seeds, each);
    assert!(totals.requests >= count * each, "all requests were made");
    assert_eq!(totals.overlaps, 0);
    let interesting = [totals.served, totals.failed, totals.timed_out, totals.gone, totals.again];
    assert!(count < 16 || interesting.iter().all(|happened| *happened > 0), "misfortune reaches everything");
    Some(totals).filter(|_| count >= 16)
}

#[test]
fn no_seed_breaks_the_router() {
    let Some(totals) = run_all(World::new, "no_seed", 256) else { return };
    assert!(totals.refused > 0, "some are refused");
    assert!(totals.holds > 0 && totals.probes > 0 && totals.ejected > 0, "lines are held, dynos are ejected");
}

#[test]
fn no_deploy_loses_a_request_or_breaks_its_promises() {
    let Some(totals) = run_all(World::deploying, "no_deploy", 128) else { return };
    assert!(totals.deploys.iter().all(|ended| *ended > 0), "deploys end in every way");
    assert!(totals.given_up > 0, "some dynos never finish");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for make in [World::new as Make, World::deploying] {
        let [first, second, other] = [7, 7, 8].map(|seed| make(seed, REQUESTS, false).run());
        assert_eq!(first, second);
        assert_ne!(first.trace, other.trace);
    }
}
