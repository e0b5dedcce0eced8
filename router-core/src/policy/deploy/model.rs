//! Random probes, crashes, clocks, verdicts, people and restarts against what a deploy promises.
//!
//! The bed holds the order of the effects and the floor after each of them; here stand the promises about the end.
//!
//! # Can it fail?
//!
//! Each of these was done to the deploy on purpose, and undone. Units are `tests.rs`.
//!
//! | done to the deploy | units | model |
//! |---|---|---|
//! | old dynos leave before new ones serve | fail | fail |
//! | one old dyno too many leaves in a step | fail | fail |
//! | the pace does not wait | fail | pass |
//! | a rollback drops the new dynos at once | fail | fail |
//! | a rollback does not resume who drains, or does not warm who has gone | fail | fail |
//! | a failed warm leaves ready dynos in the router | fail | fail |
//! | a dyno is ready whatever its probe says | fail | fail |
//! | good probes need not be in a row | fail | pass |
//! | a boot, a canary or a drain takes as long as it likes | fail | fail |
//! | the alarm forgets the bake, or the next step | fail | fail |
//! | a crash is not counted against `ready_when` | fail | pass |
//! | a restart lets dynos serve that were warming, or had drained | fail | fail |
//! | without a way back the new ones leave too | fail | fail |
//! | a dyno is probed while a probe is under way | fail | fail |

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::bed::{Bed, SECOND, Seen, new, old};
use super::*;

/// What happens next. Numbers choose among the dynos there are.
#[derive(Clone, Debug)]
enum Step {
    /// A probe under way is answered.
    Answer(usize, bool),
    /// A dyno that drains is gone.
    Gone(usize),
    /// The process of a dyno dies.
    Crash(usize),
    /// Time passes.
    Pass(Duration),
    /// A hundred requests of a release have ended.
    Tally(bool, u64),
    Promote,
    RollBack,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(nth, good)| Step::Answer(nth, good)),
        8 => any::<usize>().prop_map(Step::Gone),
        2 => any::<usize>().prop_map(Step::Crash),
        8 => (0..8000u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        3 => (any::<bool>(), 0..6u64).prop_map(|(of_new, faults)| Step::Tally(of_new, faults)),
        3 => Just(Step::Promote),
        1 => Just(Step::RollBack),
        1 => Just(Step::Restart),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let ready_when = prop_oneof![
        2 => Just(ReadyWhen::All),
        1 => (1..5usize).prop_map(ReadyWhen::Count),
        1 => (1..=100u32).prop_map(ReadyWhen::Share),
    ];
    let every = (0..3u32).prop_map(|seconds| seconds * SECOND);
    let pace = prop_oneof![
        1 => Just(Pace::AtOnce),
        2 => (1..4usize, every.clone()).prop_map(|(count, every)| Pace::Dynos { count, every }),
        1 => (1..=100u32, every).prop_map(|(percent, every)| Pace::Share { percent, every }),
    ];
    let canary = prop::option::weighted(0.3, Just(Canary::Share(5)));
    (ready_when, 1..3u32, pace, canary, 0..20u32).prop_map(|(ready_when, rise, pace, canary, bake)| {
        Plan::default()
            .with_ready_when(ready_when)
            .with_rise(rise)
            .with_boot_timeout(10 * SECOND)
            .with_pace(pace)
            .with_canary(canary)
            .with_canary_time(60 * SECOND)
            .with_drain_timeout(5 * SECOND)
            .with_bake_time(bake * SECOND)
    })
}

fn run(bed: &mut Bed, step: &Step, dynos: &[Address]) {
    let one_of = |set: std::collections::BTreeSet<Address>, nth: usize| {
        let len = set.len();
        set.into_iter().nth(nth % len.max(1))
    };
    if bed.ended.is_some() && !matches!(step, Step::Restart) {
        return;
    }
    match step {
        Step::Answer(nth, good) => {
            if let Some(dyno) = one_of(bed.asked.clone(), *nth) {
                bed.answer(dyno, if *good { Ok(()) } else { Err("status 503") });
            }
        }
        Step::Gone(nth) => {
            if let Some(dyno) = one_of(bed.in_state(Seen::Draining), *nth) {
                bed.gone(dyno);
            }
        }
        Step::Crash(nth) => bed.crash(dynos[nth % dynos.len()], "signal 9"),
        Step::Pass(time) => bed.pass(*time),
        Step::Tally(of_new, faults) => bed.tally(if *of_new { Side::New } else { Side::Old }, 100, *faults),
        Step::Promote => {
            let _ = bed.deploy.promote(bed.now);
            bed.pump();
        }
        Step::RollBack => {
            let _ = bed.deploy.roll_back(bed.now, "ann");
            bed.pump();
        }
        Step::Restart => bed.restart(),
    }
}

/// What every end promises.
fn check_end(bed: &Bed, olds: usize, news: usize) {
    let serving = bed.in_state(Seen::Serving);
    let sound = |dynos: Vec<Address>| dynos.into_iter().filter(|dyno| !bed.dead.contains(dyno)).collect();
    let sound_old: std::collections::BTreeSet<Address> = sound((0..olds).map(old).collect());
    let sound_new: std::collections::BTreeSet<Address> = sound((0..news).map(new).collect());
    match bed.ended.as_ref().unwrap() {
        Outcome::Done => assert_eq!(serving, sound_new, "the new release serves, and nobody else"),
        Outcome::Failed(cause) if cause.kind == CauseKind::NoWayBack => {
            assert!(!serving.is_empty(), "a bad release is better than none");
            assert!(sound_old.is_disjoint(&serving));
        }
        Outcome::Failed(_) => {
            assert!(!bed.touched || olds == 0, "the old release was left alone");
            assert_eq!(serving, sound_old, "the old release serves as before");
        }
        Outcome::RolledBack(..) => {
            assert_eq!(serving, sound_old, "the old release serves, and nobody else");
            assert!(bed.hurt || olds == 0 || !serving.is_empty(), "somebody serves");
        }
    }
    assert_eq!(
        bed.in_state(Seen::Booting).len() + bed.in_state(Seen::Canary).len(),
        0,
        "nothing is half done"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
    ) })]

    #[test]
    fn a_deploy_keeps_its_promises(
        olds in 0..6usize,
        news in 1..6usize,
        plan in plan(),
        steps in vec(step(), 0..60),
        answers in any::<bool>(),
    ) {
        let mut bed = Bed::started(olds, news, plan);
        let dynos: Vec<_> = bed.router.keys().copied().collect();
        for step in &steps {
            run(&mut bed, step, &dynos);
        }
        // Any fair end: the clock goes on, and probes are answered well or never. No dyno that drains need ever go.
        for _ in 0..200 {
            if answers {
                bed.answer_all();
            }
            let Some(alarm) = bed.deploy.alarm() else { break };
            bed.pass(alarm - bed.now);
        }
        prop_assert!(bed.ended.is_some(), "{:?} does not end", bed.deploy.progress(bed.now));
        check_end(&bed, olds, news);
    }
}
