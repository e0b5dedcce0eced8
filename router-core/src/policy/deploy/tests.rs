//! One test a rule: what a deploy tells the router, in which order, and how it ends.

use std::time::Duration;

use super::bed::{Bed, SECOND, Seen, new, old};
use super::*;

fn pace(count: usize) -> Plan {
    Plan::default().with_pace(Pace::Dynos { count, every: 10 * SECOND })
}

fn bakes() -> Plan {
    Plan::default().with_bake_time(60 * SECOND)
}

fn canary() -> Plan {
    Plan::default().with_canary(Some(Canary::Cookie { name: "beta".into(), value: "1".into() }))
}

fn cause(bed: &Bed) -> Cause {
    match bed.ended.clone().expect("it has ended") {
        Outcome::Failed(cause) | Outcome::RolledBack(cause, _) => cause,
        Outcome::Done => panic!("it is done"),
    }
}

fn way_back(bed: &Bed) -> [usize; 3] {
    match bed.ended.clone().expect("it has ended") {
        Outcome::RolledBack(_, WayBack { resumed, rewarmed, lost }) => [resumed, rewarmed, lost],
        other @ (Outcome::Done | Outcome::Failed(_)) => panic!("{other}"),
    }
}

#[test]
fn at_once_all_new_dynos_serve_before_the_first_old_one_leaves() {
    let mut bed = Bed::started(2, 2, Plan::default());
    assert_eq!(bed.told(), "warming, add 200, add 201, probe 200, probe 201");
    bed.answer(new(1), Ok(()));
    assert_eq!(bed.told(), "", "one of two is not enough");
    bed.answer(new(0), Ok(()));
    let told = "ready, cutting over, serve 200, serve 201, drain 100, drain 101, baking, draining";
    assert_eq!(bed.told(), told);
    bed.gone(old(0));
    assert_eq!(bed.ended, None);
    bed.gone(old(1));
    assert_eq!((bed.ended.clone(), bed.told()), (Some(Outcome::Done), "done".into()));
}

#[test]
fn a_dyno_that_does_not_get_ready_fails_the_deploy_and_the_old_release_is_untouched() {
    let mut bed = Bed::started(2, 2, Plan::default());
    bed.answer(new(0), Ok(()));
    bed.told();
    for _ in 0..60 {
        bed.answer(new(1), Err("status 503: migrating"));
        bed.pass(SECOND);
    }
    let text = "v2.1 (10.0.0.1:201) was not ready within 60s: its last probe got status 503: migrating \
                (1 of 2 dynos failed, 2 have to be there)";
    let (kind, dyno) = (CauseKind::NotReady, Some("v2.1".into()));
    assert_eq!(cause(&bed), Cause { kind, dyno, text: text.into() });
    assert!(bed.told().ends_with("probe 201, remove 201, failed, remove 200"));
    assert!(!bed.touched);
    assert_eq!(bed.deploy.progress(bed.now).new.1, ReleaseStage::Failed);
}

#[test]
fn a_dyno_that_never_answers_fails_at_the_boot_timeout_and_not_before() {
    let mut bed = Bed::started(1, 1, Plan::default());
    bed.pass(60 * SECOND - Duration::from_nanos(1));
    assert_eq!(bed.ended, None);
    bed.pass(Duration::from_nanos(1));
    let text = "v2.0 (10.0.0.1:200) was not ready within 60s: no probe was answered";
    assert_eq!(bed.ended.map(|outcome| outcome.to_string()), Some(format!("failed: {text}")));
}

#[test]
fn a_crash_while_warming_fails_the_dyno_at_once() {
    let mut bed = Bed::started(1, 1, Plan::default());
    bed.crash(new(0), &"é".repeat(300));
    let cause = cause(&bed);
    assert_eq!(cause.kind, CauseKind::Crashed);
    assert_eq!(cause.text, format!("v2.0 (10.0.0.1:200) crashed: {}...", "é".repeat(200)));
}

#[test]
fn a_dyno_is_ready_after_rise_good_probes_in_a_row_at_the_pace_of_the_probes() {
    let mut bed = Bed::started(1, 1, Plan::default().with_rise(2));
    let mut answer = |answer: Result<(), &str>| {
        bed.answer(new(0), answer);
        assert_eq!(bed.deploy.state(), State::Warming);
        bed.pass(SECOND - Duration::from_nanos(1));
        assert!(bed.asked.is_empty());
        bed.pass(Duration::from_nanos(1));
        assert_eq!(bed.asked.len(), 1);
    };
    answer(Ok(()));
    answer(Err("refused"));
    answer(Ok(()));
    bed.answer(new(0), Ok(()));
    assert_eq!(bed.deploy.state(), State::Draining);
}

#[test]
fn enough_dynos_are_enough_and_the_others_join_or_fail_without_harm() {
    let plan = Plan::default().with_ready_when(ReadyWhen::Share(50));
    let mut bed = Bed::started(4, 4, plan);
    bed.answer(new(0), Ok(()));
    bed.told();
    bed.answer(new(2), Ok(()));
    assert_eq!(bed.told(), "ready, cutting over, serve 200, serve 202, drain 100, drain 101");
    bed.answer(new(1), Ok(()));
    assert_eq!(bed.told(), "serve 201, drain 102");
    bed.pass(60 * SECOND);
    // Two old dynos are given up at 300 s; here the straggler fails and the last old one may leave.
    assert_eq!(bed.told(), "remove 203, drain 103, baking, draining");
    assert_eq!((bed.ended.clone(), bed.deploy.progress(bed.now).new_failed), (None, 1));
}

#[test]
fn need_is_counted_so() {
    let need = |ready_when, total| Plan::default().with_ready_when(ready_when).need(total);
    assert_eq!(
        [need(ReadyWhen::All, 3), need(ReadyWhen::Count(2), 3), need(ReadyWhen::Count(9), 3)],
        [3, 2, 3]
    );
    assert_eq!([need(ReadyWhen::Share(1), 3), need(ReadyWhen::Share(67), 3)], [1, 3]);
}

#[test]
fn by_pace_each_step_serves_first_and_then_its_share_leaves() {
    let mut bed = Bed::warmed(4, 2, pace(1));
    assert!(bed.told().ends_with("cutting over, serve 200, drain 100, drain 101"));
    assert_eq!(bed.deploy.progress(bed.now).deadline, Some(10 * SECOND));
    bed.pass(10 * SECOND - Duration::from_nanos(1));
    assert_eq!(bed.told(), "");
    bed.pass(Duration::from_nanos(1));
    assert_eq!(bed.told(), "serve 201, drain 102, drain 103, baking, draining");

    let mut bed = Bed::warmed(2, 4, pace(1));
    assert!(bed.told().ends_with("cutting over, serve 200"));
    bed.pass(10 * SECOND);
    assert_eq!(bed.told(), "serve 201, drain 100");
    bed.pass(20 * SECOND);
    assert_eq!(bed.told(), "serve 202, serve 203, drain 101, baking, draining");
}

#[test]
fn a_share_of_the_pace_is_rounded_up() {
    let plan = Plan::default().with_pace(Pace::Share { percent: 34, every: SECOND });
    let mut bed = Bed::warmed(3, 3, plan);
    assert!(bed.told().ends_with("serve 200, serve 201, drain 100, drain 101"));
    bed.pass(SECOND);
    assert_eq!(bed.told(), "serve 202, drain 102, baking, draining");
}

/// T22: a dyno that is stuck does not hold up the release, and is named.
#[test]
fn a_stuck_old_dyno_is_given_up_and_the_deploy_ends() {
    let mut bed = Bed::warmed(2, 1, Plan::default());
    bed.gone(old(0));
    bed.told();
    bed.pass(300 * SECOND - Duration::from_nanos(1));
    assert_eq!(bed.ended, None);
    bed.pass(Duration::from_nanos(1));
    assert_eq!((bed.told().as_str(), bed.ended.clone()), ("given up 101, done", Some(Outcome::Done)));
    assert_eq!(bed.deploy.progress(bed.now).old_given_up, 1);
}

#[test]
fn a_canary_waits_to_be_promoted() {
    let mut bed = Bed::warmed(1, 2, canary());
    assert!(bed.told().ends_with("ready, canary, canary is, canary 200, canary 201"));
    bed.pass(3599 * SECOND);
    assert_eq!(bed.deploy.state(), State::Canary);
    bed.deploy.promote(bed.now).unwrap();
    bed.pump();
    let told = "cutting over, canary is not, serve 200, serve 201, drain 100, baking, draining";
    assert_eq!(bed.told(), told);
    let refused = bed.deploy.promote(bed.now).unwrap_err();
    assert_eq!(refused.to_string(), "the deploy is draining: only a canary can be promoted");
}

#[test]
fn a_canary_that_nobody_promotes_is_rolled_back() {
    let mut bed = Bed::warmed(1, 1, canary());
    bed.told();
    bed.pass(3600 * SECOND);
    assert_eq!(bed.told(), "rolling back, canary is not, drain 200");
    bed.gone(new(0));
    assert_eq!((cause(&bed).kind, way_back(&bed)), (CauseKind::NotPromoted, [0, 0, 0]));
    assert!(!bed.touched);
}

#[test]
fn a_rollback_before_the_cut_over_leaves_the_old_release_alone() {
    let mut bed = Bed::new(1, 1, Plan::default());
    bed.roll_back();
    assert_eq!((cause(&bed).text.as_str(), way_back(&bed)), ("ann: it is broken", [0, 0, 0]));
    let mut bed = Bed::started(2, 2, canary());
    bed.answer(new(0), Ok(()));
    bed.told();
    bed.roll_back();
    assert_eq!(bed.told(), "rolling back, remove 200, remove 201, rolled back");
    assert!(!bed.touched);
    assert!(bed.deploy.roll_back(bed.now, "again").is_err());
    assert!(bed.deploy.start(bed.now).is_err());
}

#[test]
fn a_rollback_resumes_at_once_who_still_drains_and_warms_who_has_gone() {
    let mut bed = Bed::warmed(2, 2, bakes());
    bed.gone(old(0));
    bed.told();
    bed.roll_back();
    assert_eq!(bed.told(), "rolling back, resume 101, add 100, drain 200, probe 100");
    bed.answer(old(0), Ok(()));
    assert_eq!(bed.told(), "serve 100, drain 201", "a new one stays until the old one is back");
    bed.gone(new(0));
    bed.gone(new(1));
    assert_eq!(way_back(&bed), [1, 1, 0]);
    let says = "rolled back: ann: it is broken (old dynos resumed 1, warmed again 1, lost 0)";
    assert_eq!(bed.ended.unwrap().to_string(), says);
}

#[test]
fn a_rollback_goes_on_without_an_old_dyno_that_does_not_come_back() {
    let mut bed = Bed::warmed(2, 2, bakes());
    bed.gone(old(0));
    bed.gone(old(1));
    bed.roll_back();
    bed.answer(old(0), Ok(()));
    bed.told();
    bed.pass(60 * SECOND);
    assert_eq!(bed.told(), "remove 101, drain 201");
    bed.pass(300 * SECOND);
    assert_eq!(way_back(&bed), [0, 1, 1]);
    assert_eq!(bed.in_state(Seen::Serving), [old(0)].into());
}

#[test]
fn without_a_way_back_a_bad_release_is_better_than_none() {
    let mut bed = Bed::warmed(1, 2, bakes());
    bed.gone(old(0));
    bed.roll_back();
    bed.pass(60 * SECOND);
    assert_eq!(cause(&bed).kind, CauseKind::NoWayBack);
    let text = "no dyno of release v1 is left to go back to; the deploy: ann: it is broken";
    assert_eq!(bed.ended.clone(), Some(Outcome::Failed(cause(&bed))));
    assert_eq!(cause(&bed).text, text);
    assert_eq!(bed.in_state(Seen::Serving), [new(0), new(1)].into());
}

#[test]
fn faults_of_the_new_release_roll_it_back_while_it_bakes() {
    let mut bed = Bed::warmed(1, 1, bakes());
    bed.tally(Side::Old, 1000, 10);
    bed.tally(Side::New, 99, 99);
    assert_eq!(bed.deploy.state(), State::Baking);
    bed.tally(Side::New, 1, 0);
    assert_eq!(bed.deploy.state(), State::RollingBack);
    assert_eq!(bed.deploy.progress(bed.now).cause.map(|cause| cause.kind), Some(CauseKind::TooManyFaults));
    assert_eq!(bed.in_state(Seen::Serving), [old(0)].into(), "the old dyno still drained: back at once");
}

#[test]
fn faults_count_in_the_canary_and_between_the_steps_of_the_pace_and_not_after_the_bake() {
    let mut bed = Bed::warmed(1, 1, canary());
    bed.tally(Side::New, 100, 6);
    assert_eq!(bed.deploy.state(), State::RollingBack);
    let mut bed = Bed::warmed(2, 2, pace(1));
    bed.tally(Side::New, 100, 6);
    assert_eq!(bed.in_state(Seen::Serving), [old(0), old(1)].into());
    let mut bed = Bed::warmed(1, 1, bakes());
    bed.pass(60 * SECOND);
    bed.tally(Side::New, 100, 100);
    assert_eq!(bed.deploy.state(), State::Draining);
}

#[test]
fn a_crash_after_the_cut_over_rolls_back_unless_enough_are_left() {
    let mut bed = Bed::warmed(2, 2, bakes());
    bed.crash(new(0), "signal 9");
    assert_eq!(bed.deploy.state(), State::RollingBack);
    assert_eq!(bed.in_state(Seen::Serving), [old(0), old(1)].into());
    let mut bed = Bed::warmed(2, 2, bakes().with_ready_when(ReadyWhen::Count(1)));
    bed.answer_all();
    bed.crash(new(0), "signal 9");
    assert_eq!(bed.deploy.state(), State::Baking);
}

#[test]
fn an_old_dyno_that_crashes_is_left_to_the_router_until_its_turn() {
    let mut bed = Bed::started(2, 2, Plan::default());
    bed.crash(old(1), "signal 11");
    assert!(!bed.touched);
    bed.answer_all();
    assert!(bed.told().ends_with("serve 200, serve 201, drain 100, remove 101, baking, draining"));
}

#[test]
fn a_first_deploy_has_nothing_to_go_back_to() {
    let mut bed = Bed::warmed(0, 2, bakes());
    bed.tally(Side::New, 1000, 1000);
    bed.crash(new(0), "signal 9");
    assert_eq!(bed.deploy.state(), State::Baking, "one is left and serves");
    bed.crash(new(1), "signal 9");
    assert_eq!(cause(&bed).kind, CauseKind::Crashed);
}

#[test]
fn a_first_deploy_has_no_canary() {
    let mut bed = Bed::warmed(0, 1, canary());
    assert!(bed.told().ends_with("ready, cutting over, serve 200, baking, draining, done"));
}

#[test]
fn late_and_unknown_inputs_change_nothing() {
    let mut bed = Bed::warmed(1, 1, bakes());
    let before = bed.deploy.saved();
    let (now, stranger) = (bed.now, "10.9.9.9:1".parse().unwrap());
    for dyno in [old(0), new(0), stranger] {
        bed.deploy.probed(now, dyno, Err("late"));
    }
    bed.deploy.gone(now, new(0));
    bed.deploy.gone(now, stranger);
    bed.deploy.crashed(now, stranger, "signal 9");
    assert_eq!((bed.deploy.saved(), bed.deploy.next_effect()), (before, None));
}

#[test]
fn what_cannot_be_a_deploy_is_refused() {
    let release = |id: &str, dynos: &[Address]| Release {
        id: id.into(),
        dynos: dynos.iter().copied().map(DynoSpec::new).collect(),
    };
    let make = |olds: &[Address], news: &[Address], plan| {
        Deploy::new(crate::clock::Clock::manual().now(), release("v1", olds), release("v2", news), plan)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(make(&[old(0)], &[], Plan::default()), Err("the new release has no dynos".into()));
    let twice = "two dynos of the deploy have the address 10.0.0.1:100";
    assert_eq!(make(&[old(0)], &[new(0), old(0)], Plan::default()), Err(twice.into()));
    let plan = Plan::default().with_ready_when(ReadyWhen::Share(101));
    let bounds = "ready_when is out of bounds: allowed are 1 to 100 percent";
    assert_eq!(make(&[], &[new(0)], plan), Err(bounds.into()));
}

/// T19: a restart in mid deploy is not half a deploy, and who has not been proven does not serve.
#[test]
fn a_restart_while_warming_warms_again() {
    let mut bed = Bed::started(2, 2, Plan::default());
    bed.answer(new(0), Ok(()));
    bed.told();
    bed.restart();
    assert_eq!(bed.told(), "resume 100, resume 101, add 200, add 201, probe 200, probe 201");
    bed.answer_all();
    assert!(bed.told().starts_with("ready, cutting over, serve 200"));
}

#[test]
fn a_restart_in_mid_cut_over_goes_on_from_who_serves() {
    let mut bed = Bed::warmed(3, 3, pace(1));
    bed.gone(old(0));
    bed.told();
    bed.restart();
    assert_eq!(
        bed.told(),
        "resume 101, resume 102, add 200, serve 200, add 201, add 202, probe 201, probe 202"
    );
    bed.answer_all();
    assert_eq!(bed.told(), "", "the pace is kept");
    bed.pass(10 * SECOND);
    assert_eq!(bed.told(), "serve 201, drain 101");
}

#[test]
fn a_restart_while_baking_bakes_anew_and_can_go_back() {
    let mut bed = Bed::warmed(1, 1, bakes());
    bed.pass(59 * SECOND);
    bed.told();
    bed.restart();
    assert_eq!(bed.told(), "add 200, serve 200, baking");
    bed.pass(59 * SECOND);
    bed.roll_back();
    bed.answer_all();
    bed.gone(new(0));
    assert_eq!(way_back(&bed), [0, 1, 0]);
}

#[test]
fn a_restart_while_rolling_back_goes_on_rolling_back() {
    let mut bed = Bed::warmed(2, 2, bakes());
    bed.gone(old(0));
    bed.roll_back();
    bed.told();
    bed.restart();
    assert_eq!(bed.told(), "add 100, resume 101, add 201, serve 201, probe 100");
    bed.answer_all();
    bed.gone(new(1));
    assert_eq!((way_back(&bed), cause(&bed).kind), ([1, 1, 0], CauseKind::Asked));
    let outcome = bed.ended.clone();
    bed.told();
    bed.restart();
    assert_eq!((bed.ended.clone(), bed.told().as_str()), (outcome, "resume 100, resume 101"));
}

#[test]
fn progress_says_who_has_what_trouble() {
    let mut bed = Bed::started(1, 2, Plan::default());
    bed.answer(new(0), Ok(()));
    bed.answer(new(1), Err("status 500"));
    bed.now += 5 * SECOND;
    let progress = bed.deploy.progress(bed.now);
    assert_eq!((progress.state, progress.new_ready, progress.new_total), (State::Warming, 1, 2));
    assert_eq!((progress.since, progress.deadline), (5 * SECOND, Some(55 * SECOND)));
    assert_eq!((progress.old_serving, progress.old_left), (1, 1));
    assert_eq!((progress.old.1, progress.new.1), (ReleaseStage::Serving, ReleaseStage::Warming));
    let trouble: Vec<_> = progress.dynos.iter().map(|dyno| dyno.trouble.as_deref()).collect();
    assert_eq!(trouble, [None, None, Some("status 500")]);
}

#[test]
fn every_word_can_be_read_back() {
    assert!(State::ALL.iter().all(|word| State::parse(word.as_str()) == Some(*word)));
    assert!(DynoStage::ALL.iter().all(|word| DynoStage::parse(word.as_str()) == Some(*word)));
    assert!(ReleaseStage::ALL.iter().all(|word| ReleaseStage::parse(word.as_str()) == Some(*word)));
    assert!(CauseKind::ALL.iter().all(|word| CauseKind::parse(word.as_str()) == Some(*word)));
    assert_eq!(
        (State::CuttingOver.as_str(), State::CuttingOver.to_string().as_str()),
        ("cutting_over", "cutting over")
    );
}
