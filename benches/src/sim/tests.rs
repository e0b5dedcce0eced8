//! The simulation is held against theory, against published simulations, and against itself.
//!
//! Every run checks small versions of the tables. In full, with 8 million requests a cell, in release:
//! `SIM_TABLES=1 cargo test --release -p router-bench --lib sim::tests -- --nocapture`

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::erlang;

/// Whether the tables are to be checked in full.
fn in_full() -> bool {
    std::env::var_os("SIM_TABLES").is_some()
}

/// So many requests, or 8 million of them.
fn length(small: u64) -> Length {
    Length::Requests(if in_full() { 8_000_000 } else { small })
}

/// Exponential service times of a second, so that seconds are service times.
fn setup(dynos: u32, load: f64, small: u64) -> Setup {
    let service = "exp:1s".parse().unwrap();
    Setup { length: length(small), ..Setup::new(service, dynos, load * f64::from(dynos)) }
}

fn run_one(setup: &Setup, policy: Policy) -> Outcome {
    run_shed(setup, policy, Shed::None)
}

fn run_shed(setup: &Setup, policy: Policy, shed: Shed) -> Outcome {
    run(setup, &[Case { policy, shed }], &Progress::default()).unwrap().remove(0)
}

/// The mean wait is what it should be in seconds: within this share, and the noise of this run.
fn near(outcome: &Outcome, mean: f64, share: f64) {
    let (measured, noise) = (outcome.wait_ms.mean / 1e3, outcome.half_width_ms.unwrap_or(0.0) / 1e3);
    let Outcome { policy, dynos, load, requests, .. } = outcome;
    eprintln!(
        "{policy:18} {dynos:5} dynos at {load:.2}: {measured:.4} ± {noise:.4}, theory {mean:.4} ({requests})"
    );
    // One and a half half-widths are about 4 standard errors of five replications.
    assert!((measured - mean).abs() <= mean * share + 1.5 * noise + 1e-4, "{outcome:#?}: {mean} wanted");
    assert_eq!(outcome.overlaps, 0);
}

#[test]
fn one_line_is_the_ideal_line_to_the_nanosecond() {
    for (dynos, load) in [(1, 0.5), (3, 0.9), (10, 0.95), (100, 0.9)] {
        for service in ["exp:1s", "fixed:1s", "rapgenius"] {
            let service: Service = service.parse().unwrap();
            let rate = load * f64::from(dynos) / service.mean();
            let setup = Setup { length: Length::Requests(5_000), ..Setup::new(service, dynos, rate) };
            let outcome = run_one(&setup, Policy::OneLine);
            assert_eq!(Some(outcome.wait_ms), outcome.ideal_wait_ms, "{outcome:#?}");
            assert_eq!((outcome.overlaps, outcome.requests), (0, 5_000));
            assert!(outcome.ratio.is_none_or(|ratio| ratio == 1.0));
        }
    }
}

#[test]
fn one_line_waits_as_erlang_says() {
    let cells: &[(u32, f64)] = match in_full() {
        true => &[(2, 0.5), (2, 0.9), (10, 0.8), (10, 0.95), (50, 0.8), (50, 0.9), (100, 0.9), (100, 0.95)],
        false => &[(2, 0.5), (2, 0.8), (10, 0.8), (10, 0.9)],
    };
    for (dynos, load) in cells {
        let outcome = run_one(&setup(*dynos, *load, 60_000), Policy::OneLine);
        near(&outcome, erlang::mean_wait(*dynos, *load, 1.0), 0.01);
        let queued = erlang::erlang_c(*dynos, *load);
        assert!((outcome.queued_share / queued - 1.0).abs() < 0.15, "{outcome:#?}: {queued} queued");
        let p99 = erlang::wait_quantile(*dynos, *load, 0.99);
        assert!((outcome.wait_ms.p99 / 1e3 / p99 - 1.0).abs() < 0.25, "{outcome:#?}: p99 {p99}");
        assert!((outcome.dynos_busy / load - 1.0).abs() < 0.03, "{outcome:#?}");
    }
}

#[test]
fn a_line_at_each_dyno_waits_as_theory_says() {
    // E_c/M/1 for round robin; simulated for 100 dynos with fresh counts for the power of two (theory: 1.61 and 2.38
    // with dynos without end).
    let cells = [(0.8, 4.0, 1.72, 0.96), (0.9, 9.0, 4.23, 1.65), (0.95, 19.0, 9.27, 2.45)];
    for (load, random, round_robin, two) in &cells[..if in_full() { 3 } else { 1 }] {
        let load = *load;
        let setup = setup(100, load, 150_000);
        let cases = [Policy::Random, Policy::RoundRobin, Policy::PowerOfTwo].map(Case::of);
        let outcomes = run(&setup, &cases, &Progress::default()).unwrap();
        for (outcome, wait) in outcomes.iter().zip([random, round_robin, two]) {
            near(outcome, *wait, 0.04);
        }
        assert!((outcomes[0].queued_share - load).abs() < 0.02, "{:#?}", outcomes[0]);
    }
}

#[test]
fn random_routing_waits_by_pollaczek_and_khinchine() {
    for service in ["fixed:1s", "exp:1s", "bimodal:90%500ms,10%5500ms"] {
        let service: Service = service.parse().unwrap();
        let (scv, rate) = (service.scv(), 0.7 * 20.0 / service.mean());
        let mean = service.mean();
        let setup = Setup { length: length(100_000), ..Setup::new(service, 20, rate) };
        near(&run_one(&setup, Policy::Random), erlang::random_wait(0.7, scv) * mean, 0.02);
    }
}

#[test]
fn the_time_between_two_requests_costs_nothing() {
    // Two million beats of the pools lie between one and the next: without leaving them out this takes minutes.
    let setup = Setup { routers: 4, hop: Duration::from_millis(10), ..setup(10, 1e-8, 200) };
    let outcome = run_one(&setup, Policy::Pools(4));
    assert_eq!((outcome.requests, outcome.overlaps, outcome.wait_ms.p99), (200, 0, 0.0), "{outcome:#?}");
}

/// The reference simulation of four routers, 100 dynos, with a hop of a hundredth of the service time, at loads of 0.8,
/// 0.9 and 0.95.
#[test]
fn four_routers_wait_as_simulated_before() {
    let hop = Duration::from_millis(10);
    let rows = [
        (Policy::Random, [3.97, 8.81, 18.4]),
        (Policy::RoundRobin, [1.97, 4.48, 9.49]),
        (Policy::PowerOfTwo, [1.51, 2.40, 3.42]),
        (Policy::LeastConnections, [1.06, 1.41, 1.72]),
        (Policy::JoinIdle, [0.133, 0.36, 0.83]),
        (Policy::OneLine, [0.0009, 0.0206, 0.0946]),
        (Policy::OneOwner, [0.0084, 0.028, 0.102]),
        (Policy::Pools(4), [0.0032, 0.032, 0.119]),
    ];
    for (policy, waits) in rows {
        let small = if policy.has_line() { 15_000 } else { 100_000 };
        for (load, wait) in [0.8, 0.9, 0.95].into_iter().zip(waits).take(if in_full() { 3 } else { 1 }) {
            let setup = Setup { routers: 4, hop, ..setup(100, load, small) };
            let outcome = run_one(&setup, policy);
            // What is simulated has noise of its own, 5 % at a load of 0.95.
            near(&outcome, wait, 0.07);
            let forwarded = if policy == Policy::OneOwner { 0.75 } else { outcome.forwarded_share };
            assert!((outcome.forwarded_share - forwarded).abs() < 0.02, "{outcome:#?}");
        }
    }
}

#[test]
fn one_owner_and_pools_do_not_mind_where_requests_come_in() {
    let hop = Duration::from_millis(10);
    let load = if in_full() { 0.9 } else { 0.8 };
    let waits = if in_full() { [0.027, 0.032, 0.98] } else { [0.0069, 0.0041, 0.66] };
    for (policy, wait) in [Policy::OneOwner, Policy::Pools(4), Policy::JoinIdle].into_iter().zip(waits) {
        let small = if policy.has_line() { 15_000 } else { 100_000 };
        let shares = vec![40.0, 30.0, 20.0, 10.0];
        near(&run_one(&Setup { routers: 4, hop, shares, ..setup(100, load, small) }, policy), wait, 0.06);
    }
}

#[test]
fn the_way_to_a_dyno_counts_as_load_of_one_line() {
    let rtt = Duration::from_millis(100);
    let setup = Setup { rtt, ..setup(10, 0.75, 60_000) };
    // Exponential plus a constant; the approximation says a little too little.
    let scv = 1.0 / 1.1_f64.powi(2);
    let outcome = run_one(&setup, Policy::OneLine);
    near(&outcome, erlang::mean_wait(10, 0.825, scv) * 1.1 + 0.05, 0.05);
    // Who meets an idle dyno waits for the way there alone, and is not queued.
    assert!((outcome.queued_share / erlang::erlang_c(10, 0.825) - 1.0).abs() < 0.08, "{outcome:#?}");
    // Where requests wait at the dynos the next one is there already.
    near(&run_one(&setup, Policy::Random), 3.05, 0.04);
}

/// Ten dynos, clients with a patience of ten service times: goodput at loads of 0.9, 1.2 and 2.
#[test]
fn overload_is_shed_as_simulated_before() {
    let rows = [
        ("none", 0.90, 0.007, 0.003),
        ("gone", 0.90, 0.115, 0.014),
        ("bound:5", 0.90, 0.96, 0.96),
        ("bound:2", 0.89, 0.995, 0.997),
        ("expected-wait", 0.89, 0.995, 0.997),
        ("bound:1", 0.87, 0.98, 0.999),
        ("deadline", 0.90, 0.86, 0.82),
        ("codel", 0.88, 0.98, 0.997),
        ("adaptive-lifo", 0.89, 0.993, 0.999),
        // With its second guard, it refuses whoever has waited 2.5 s once the line has stood for 5 s.
        ("routerd", 0.90, 0.995, 0.997),
        ("routerd:2s", 0.89, 0.995, 0.997),
    ];
    for (shed, at_90, at_120, at_200) in rows {
        for (load, goodput) in [(0.9, at_90), (1.2, at_120), (2.0, at_200)] {
            let patience = Some(Duration::from_secs(10));
            let setup = Setup { patience, ..setup(10, load, 40_000) };
            let outcome = run_shed(&setup, Policy::OneLine, shed.parse().unwrap());
            eprintln!("{shed:15} at {load}: goodput {:.3}, before {goodput}", outcome.goodput);
            assert!((outcome.goodput - goodput).abs() <= 0.03, "{outcome:#?}: {goodput} wanted");
            assert_eq!(outcome.overlaps, 0);
            let ended = outcome.good_share + outcome.late_share + outcome.refused_share + outcome.gone_share;
            assert!((ended - 1.0).abs() < 1e-9, "each request ends once: {outcome:#?}");
        }
    }
}

#[test]
fn refusals_at_the_door_take_no_time_and_those_in_line_do() {
    let patience = Some(Duration::from_secs(10));
    let setup = Setup { patience, ..setup(10, 2.0, 20_000) };
    let after = |shed| run_shed(&setup, Policy::OneLine, shed).refused_after_ms.unwrap() / 1e3;
    assert_eq!(after(Shed::Bound(2)), 0.0);
    assert_eq!(after(Shed::ExpectedWait(None)), 0.0);
    assert!((after(Shed::Deadline(None)) - 7.1).abs() < 0.2);
    assert!((1.0..1.6).contains(&after(Shed::CoDel)));
}

#[test]
fn the_line_of_the_router_ends_waits_at_their_time() {
    // A router that has seen no answer yet lets requests in, and the dyno works for longer than they may wait.
    let setup = Setup {
        patience: Some(Duration::from_secs(1_000)),
        length: Length::Time(Duration::from_secs(15)),
        replications: 100,
        ..Setup::new("fixed:10s".parse().unwrap(), 1, 0.2)
    };
    let outcome = run_shed(&setup, Policy::OneLine, Shed::Routerd(Some(Duration::from_secs(2))));
    let after = outcome.refused_after_ms.unwrap();
    assert!((500.0..=2_000.0).contains(&after) && outcome.refused_share > 0.2, "{outcome:#?}");
    assert!(outcome.wait_ms.p999 <= 2_002.0, "{outcome:#?}");
}

/// One dyno of a second for each request, and three times as much as it can do.
fn crowded(shed: Shed) -> Outcome {
    let service = "fixed:1s".parse().unwrap();
    let patience = Some(Duration::from_secs(1_000));
    let setup = Setup { patience, length: Length::Requests(3_000), ..Setup::new(service, 1, 3.0) };
    run_shed(&setup, Policy::OneLine, shed)
}

#[test]
fn nobody_waits_longer_than_the_door_promises() {
    // Who is let in by a bound of N finds at most N - 1 before it, and one at the dyno.
    for (shed, most) in [
        (Shed::Bound(1), 1.0),
        (Shed::Bound(3), 3.0),
        (Shed::ExpectedWait(Some(Duration::from_secs(2))), 2.0),
        (Shed::ExpectedWait(Some(Duration::from_millis(2_900))), 2.0),
        (Shed::ExpectedWait(None), 2.0),
        (Shed::Routerd(Some(Duration::from_secs(2))), 2.0),
    ] {
        let outcome = crowded(shed);
        let longest = outcome.wait_ms.p999 / 1e3;
        assert!(longest <= most * 1.002 && longest > most - 0.9, "{shed}: {longest}: {outcome:#?}");
    }
    let none = crowded(Shed::Bound(0));
    assert!(none.queued_share == 0.0 && none.refused_share > 0.5, "{none:#?}");
}

#[test]
fn an_answer_has_the_ways_to_the_dyno_and_to_the_other_router_and_back() {
    let (service, half) = ("fixed:100ms".parse().unwrap(), Duration::from_secs(50));
    let setup = Setup {
        routers: 2,
        shares: vec![0.0, 1.0],
        hop: Duration::from_millis(10),
        rtt: Duration::from_millis(6),
        patience: Some(half),
        length: Length::Requests(2_000),
        ..Setup::new(service, 50, 1.0)
    };
    let outcome = run_one(&setup, Policy::OneOwner);
    assert_eq!((outcome.forwarded_share, outcome.queued_share), (1.0, 0.0), "{outcome:#?}");
    assert!(outcome.ideal_wait_ms.is_none() && outcome.ratio.is_none(), "clients may give up: {outcome:#?}");
    let near = |ms: f64, wanted: f64| (ms / wanted - 1.0).abs() < 2e-3;
    assert!(near(outcome.wait_ms.p50, 13.0) && near(outcome.wait_ms.mean, 13.0), "{outcome:#?}");
    // There and back: two ways between routers, two to the dyno.
    assert!(near(outcome.good_latency_p99_ms.unwrap(), 126.0), "{outcome:#?}");
    // One that takes as long as its client waits is in time, and one that takes longer is late.
    let patient =
        |ms| run_one(&Setup { patience: Some(Duration::from_millis(ms)), ..setup.clone() }, Policy::OneOwner);
    assert_eq!((patient(126).good_share, patient(125).late_share), (1.0, 1.0));
}

#[test]
fn goodput_is_the_work_for_answers_in_time() {
    // Ten dynos half busy, nobody late: all their work is for somebody.
    let setup = Setup { patience: Some(Duration::from_secs(1_000)), ..setup(10, 0.5, 20_000) };
    let outcome = run_one(&setup, Policy::OneLine);
    assert!((outcome.goodput / outcome.dynos_busy - 1.0).abs() < 0.01, "{outcome:#?}");
    assert!((outcome.goodput - 0.5).abs() < 0.03, "{outcome:#?}");
    // None in time: it is for nobody.
    let late = run_one(&Setup { patience: Some(Duration::from_nanos(1)), ..setup }, Policy::Random);
    assert!(late.goodput < 1e-6 && late.late_share > 0.999 && late.dynos_busy > 0.4, "{late:#?}");
}

#[test]
fn how_long_a_fleet_takes_to_settle() {
    // 1 / (1 - sqrt(0.25))^2 service times for exponential ones, and half of that for fixed ones.
    let seconds = |setup: Setup| setup.settles_in().map(|time| (time.as_secs_f64() * 1e6).round() / 1e6);
    assert_eq!(seconds(setup(3, 0.25, 1_000)), Some(4.0));
    assert_eq!(seconds(Setup { service: "fixed:1s".parse().unwrap(), ..setup(3, 0.25, 1_000) }), Some(2.0));
    assert_eq!(seconds(setup(3, 1.0, 1_000)), None);
    let ways = Setup { rtt: Duration::from_millis(500), ..setup(3, 0.5, 1_000) };
    assert!((ways.load() - 0.5).abs() < 1e-9 && (ways.load_of_line() - 0.75).abs() < 1e-9);
    assert_eq!(ways.arrivals(), if in_full() { 10_000_000 } else { 1_250 });
    let time = Setup { length: Length::Time(Duration::from_secs(10)), ..ways };
    assert_eq!(time.arrivals(), 75);
}

#[test]
fn our_own_line_and_that_of_the_router_are_the_same_where_nothing_is_shed() {
    let patience = Some(Duration::from_secs(10));
    let setup = Setup { patience, length: Length::Requests(20_000), ..setup(5, 1.1, 0) };
    let cases = [Shed::Gone, Shed::Bound(100_000)].map(|shed| Case { policy: Policy::OneLine, shed });
    let [router, own] = &run(&setup, &cases, &Progress::default()).unwrap()[..] else { unreachable!() };
    assert_eq!((router.wait_ms, router.gone_share), (own.wait_ms, own.gone_share));
    assert_eq!((router.goodput, router.late_share), (own.goodput, own.late_share));
    assert!(router.gone_share > 0.05, "{router:#?}");
}

/// 9000 requests a minute for five minutes: share queued and mean wait of the re-run, per number of dynos.
#[test]
fn rapgenius_waits_as_published() {
    let setup = |dynos| Setup {
        length: Length::Time(Duration::from_secs(300)),
        replications: if in_full() { 40 } else { 4 },
        ..Setup::new("rapgenius".parse().unwrap(), dynos, 150.0)
    };
    let rows = [(50, 0.80, 3.7), (75, 0.53, 1.1), (100, 0.40, 0.66), (500, 0.08, 0.084), (4000, 0.01, 0.009)];
    for (dynos, queued, mean) in rows {
        if dynos > 100 && !in_full() {
            continue;
        }
        let outcome = run_one(&setup(dynos), Policy::Random);
        // The figures are of one run of five minutes: its waits are good to a quarter.
        near(&outcome, mean, 0.25);
        assert!((outcome.queued_share - queued).abs() < 0.03, "{outcome:#?}");
        // Neither run has a wait to speak of in one line from 60 dynos on.
        let ideal = outcome.ideal_wait_ms.unwrap();
        assert!(ideal.mean < if dynos == 50 { 20.0 } else { 0.5 }, "{ideal:#?}");
    }
    if in_full() {
        let outcome = run_one(&setup(50), Policy::OneLine);
        near(&outcome, 0.007, 0.8);
        assert!((outcome.queued_share - 0.11).abs() < 0.05, "{outcome:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_figures_on_any_number_of_threads() {
    let setup = Setup {
        routers: 3,
        hop: Duration::from_millis(5),
        rtt: Duration::from_millis(3),
        length: Length::Requests(8_000),
        ..setup(12, 0.8, 0)
    };
    let pools = |policy| if policy == Policy::Pools(4) { Policy::Pools(3) } else { policy };
    let cases = Policy::ALL.map(|policy| Case::of(pools(policy)));
    let figures = |threads, setup: &Setup| {
        let outcomes = batch::run_on(threads, setup, &cases, &Progress::default()).unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.overlaps == 0 && outcome.requests == 8_000));
        let names: Vec<_> = outcomes.iter().map(|outcome| outcome.policy.clone()).collect();
        assert_eq!(names, cases.map(|case| case.policy.to_string()));
        serde_json::to_string(&outcomes).unwrap()
    };
    let once = figures(1, &setup);
    assert_eq!(once, figures(3, &setup));
    assert_ne!(once, figures(1, &Setup { seed: 2, ..setup }));
}

#[test]
fn a_run_that_is_interrupted_keeps_what_there_is() {
    let progress = Progress::default();
    let cases = [Case::of(Policy::Random)];
    progress.interrupt.store(true, Ordering::Relaxed);
    let setup = setup(2, 0.5, 5_000);
    let none = run(&setup, &cases, &progress).unwrap().remove(0);
    assert_eq!((none.requests, none.interrupted, none.wait_ms.mean), (0, true, 0.0));

    let long = Setup { length: Length::Requests(2_000_000), replications: 100, ..setup };
    let progress = Progress::default();
    let some = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&long, &cases, &progress).unwrap().remove(0));
        // Its warm-up is over in the first replications.
        while progress.done.load(Ordering::Relaxed) < 60_000 && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        progress.interrupt.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert!(some.interrupted && some.requests > 0 && some.requests < 2_000_000, "{some:#?}");
    assert!((0.3..0.7).contains(&some.dynos_busy) && some.wait_ms.mean > 0.0, "{some:#?}");
}

#[test]
fn words_read_back_and_wrong_ones_say_what_is_allowed() {
    for policy in Policy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert_eq!("pools:7".parse(), Ok(Policy::Pools(7)));
    for shed in ["none", "gone", "bound:5", "expected-wait", "expected-wait:2s", "deadline:50ms", "codel"] {
        assert_eq!(shed.parse::<Shed>().unwrap().to_string(), shed);
    }
    for wrong in ["pools", "pools:0", "pools:65", "one", "random:2", ""] {
        assert!(wrong.parse::<Policy>().unwrap_err().contains("one-line"), "{wrong}");
    }
    for wrong in ["bound", "bound:-1", "gone:5s", "routerd:2h", "deadline:soon", "lifo"] {
        assert!(wrong.parse::<Shed>().unwrap_err().contains("adaptive-lifo"), "{wrong}");
    }
}

#[test]
fn a_setup_that_cannot_be_says_why() {
    let good = || setup(10, 0.5, 1_000);
    let says = |setup: Setup, case: Case, why: &str| {
        let said = setup.check(&[case]).unwrap_err();
        assert!(said.contains(why), "{said}");
    };
    let line = Case::of(Policy::OneLine);
    assert_eq!(good().check(&[line]), Ok(()));
    says(Setup { dynos: 0, ..good() }, line, "1 to 20000");
    says(Setup { routers: 65, ..good() }, line, "1 to 64");
    says(Setup { replications: 0, ..good() }, line, "1 to 100");
    says(Setup { rate: f64::NAN, ..good() }, line, "requests a second");
    says(Setup { service: Service::Instant, ..good() }, line, "take time");
    says(Setup { shares: vec![1.0], routers: 2, ..good() }, line, "one for each");
    says(Setup { shares: vec![0.0, 0.0], routers: 2, ..good() }, line, "not all 0");
    says(Setup { hop: Duration::from_secs(11), ..good() }, line, "at most 10s");
    says(Setup { patience: Some(Duration::ZERO), ..good() }, line, "patience");
    says(Setup { length: Length::Requests(3), ..good() }, line, "less than one");
    says(Setup { length: Length::Time(Duration::from_secs(1 << 40)), ..good() }, line, "requests in all");
    // 1250 requests in five replications: 250 of them a century, and not one day longer.
    let few = || Setup { length: Length::Requests(1_000), ..good() };
    says(Setup { rate: 7.9e-8, ..few() }, line, "would last for 36627 days");
    assert_eq!(Setup { rate: 8e-8, ..few() }.check(&[line]), Ok(()));
    let century = Length::Time(Duration::from_secs(36_525 * 86_400));
    assert_eq!(Setup { rate: 1e-6, length: century, ..good() }.check(&[line]), Ok(()));
    let more = Length::Time(Duration::from_secs(36_526 * 86_400));
    says(Setup { rate: 1e-6, length: more, ..good() }, line, "36526 days");
    says(good(), Case::of(Policy::Pools(2)), "1 router and 10 dynos");
    says(good(), Case { shed: Shed::CoDel, ..line }, "patience");
}
