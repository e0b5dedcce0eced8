//! The model test: random operations on a router and on a reference that is too simple to be wrong.
//!
//! After each step everything that can be seen of the two is compared: who has which dyno, who was told what and
//! woken for it, every count, every state of every dyno. `PROPTEST_CASES=100000 cargo test -p router-core --test
//! model` runs more cases than the usual 512.
//!
//! # What other routers got wrong, and where it is asked here
//!
//! | bug | question | asked in |
//! |---|---|---|
//! | T1 | does a dyno that returns while it is busy get a second request? | `Harness::granted`, after each step |
//! | T2 | does anybody wait beside a free dyno, or miss being woken? | `Harness::check`, after each step |
//! | T3 | do count and bytes of the line drift? | `Harness::check`, after each step |
//! | T4 | is a full line told when its last dyno goes? | the reference, and `by_name::t4_...` |
//! | T5 | is the cap exceeded, if only for a moment? | `Harness::granted`, over all apps |
//! | T6 | does who leaves at the moment of dispatch take the dyno along? | `Harness::finish`, and `by_name::t6_...` |
//! | T7, T8 | is who has gone dispatched, or kept? | `Harness::tell`, and `by_name::t8_...` |
//! | T9 | do all who were held rush in at once? | `Harness::granted`, and `by_name::t9_...` |
//! | T10 | is there an idle dyno that is never chosen? | `by_name::t10_...` |
//! | T11 | are bytes kept for who has gone? | `Harness::check`, and `by_name::t8_...` |
//! | T18 | is half a list of changes applied? | `Harness::apply` |
//!
//! # Can it fail?
//!
//! Each of these was done to the core on purpose, and undone. Units are the tests beside the code.
//!
//! | done to the core | units | model | simulation |
//! |---|---|---|---|
//! | a granted ticket that is dropped is not checked in | fail | fail | fail |
//! | a dyno that returns forgets its requests in flight | fail | fail | fail |
//! | who re-enters goes to the back of the line | fail | fail | fail |
//! | a dyno that is removed stays in the idle list | fail | fail | fail |
//! | one request more than the bound may wait | fail | fail | pass |
//! | another request's waker is called | fail | fail | fail |
//! | `lingers` is ignored on check-in | pass | fail | fail |
//! | the bytes of who leaves the line stay counted | fail | fail | fail |
//! | a check-in does not serve the one who waits | fail | fail | fail |
//! | an address that one app still uses is given to the next | fail | fail | fail |
//! | the line's clock runs while the line is held | fail | fail | fail |
//! | a resume is not paced | fail | fail | fail |
//! | who was told of a hold that was cut short is forgotten | fail | fail | pass |
//! | a probe takes no slot of its dyno | fail | fail | fail |
//! | there is no floor under dynos that are out | fail | fail | pass |
//! | a good answer ends no row of bad probes | fail | fail | pass |
//! | who waits for a canary that has ended is served by nobody | fail | fail | fail |
//! | who came last to the two lanes of such an app is first | fail | fail | fail |
//! | who re-enters changes its lane | fail | fail | fail |
//! | a dyno that has room is not held against wishes for it | fail | fail | pass |
//! | who had a wish goes to the back of the line | fail | fail | pass |
//! | who waits for one dyno comes before who was first | fail | fail | pass |
//! | new dynos serve while they warm | pass | pass | fail |
//! | a canary that is cut over stays in its lane | pass | pass | fail |
//! | the canary's requests stay apart after its end | fail | pass | fail |

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "model/by_name.rs"]
mod by_name;
#[path = "model/draw.rs"]
mod draw;
#[path = "model/dyno.rs"]
mod dyno;
#[path = "model/gate.rs"]
mod gate;
#[path = "model/harness.rs"]
mod harness;
#[path = "model/health.rs"]
mod health;
#[path = "model/news.rs"]
mod news;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/probes.rs"]
mod probes;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/wishes.rs"]
mod wishes;
#[path = "model/world.rs"]
mod world;

use proptest::test_runner::{Config, TestRunner};

use harness::Harness;

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

#[test]
fn the_router_does_what_the_reference_does() {
    let config =
        Config { cases: cases(), failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    let run = TestRunner::new(config).run(&draw::ops(250), |ops| {
        let mut harness = Harness::new();
        for op in &ops {
            harness.run(op);
        }
        harness.finish();
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}
