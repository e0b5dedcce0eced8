//! `dyno-bench simulate` as its users meet it: one JSON array, a table, and errors that say what is allowed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn simulate(args: &str) -> Output {
    let args = args.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_dyno-bench")).arg("simulate").args(args).output().unwrap()
}

#[test]
fn json_is_one_array_with_an_object_a_policy_in_the_order_given() {
    let args = "--service rapgenius --dynos 75 --rate 150 --policy random,round-robin,power-of-two,one-line \
        --requests 20000 --json";
    let output = simulate(args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = all.as_array().unwrap();
    let names: Vec<_> = all.iter().map(|one| one["policy"].as_str().unwrap()).collect();
    assert_eq!(names, ["random", "round-robin", "power-of-two", "one-line"]);
    for one in all {
        assert_eq!((one["requests"].as_u64(), one["overlaps"].as_u64()), (Some(20_000), Some(0)), "{one}");
        for key in ["mean", "p50", "p95", "p99"] {
            assert!(one["wait_ms"][key].as_f64().unwrap() >= 0.0, "{one}");
        }
    }
    let queued = |place: usize| all[place]["queued_share"].as_f64().unwrap();
    assert!((0.35..0.65).contains(&queued(0)) && queued(3) < 0.01, "{all:#?}");
    assert_eq!(output.stdout, simulate(args).stdout, "the same seed, the same output");
}

#[test]
fn the_table_has_the_policies_the_ideal_line_and_theory() {
    let output = simulate("--service exp:10ms --dynos 10 --load 0.9 --requests 5000");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in
        ["load 0.900", "SCV 1.00", "random ", "one-line ", "ideal line", "Erlang C", "6.69 ms", "90.00 ms"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let patient = "--service exp:10ms --dynos 10 --load 2 --patience 100ms --policy one-line --requests 5000";
    let output = simulate(&format!("{patient} --shed none,bound:2,routerd:20ms"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["goodput", "one-line, bound:2", "one-line, routerd:20ms", "refused after"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_run_that_is_too_short_says_which_would_do_if_one_would() {
    let said = |load: &str| {
        let output =
            simulate(&format!("--service exp:10ms --dynos 2 --load {load} --policy random --requests 100"));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("0.9").contains("--requests 13671 would do"), "{}", said("0.9"));
    assert!(said("0.9999").contains("no number of requests that is allowed would do"), "{}", said("0.9999"));
    assert!(!said("0.01").contains("would do"));
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_allowed() {
    for (args, why) in [
        ("--service exp:10ms --dynos 10", "--rate <R>"),
        ("--service exp:10ms --dynos 10 --rate 1 --load 0.5", "cannot be used with"),
        ("--service exp:10ms --dynos 10 --load 0", "more than 0"),
        ("--service gamma --dynos 10 --load 0.5", "lognormal:MEDIAN,P99"),
        ("--service exp:10ms --dynos 0 --load 0.5", "allowed are 1 to 20000"),
        ("--service exp:10ms --dynos 10 --load 0.5 --policy best", "allowed are random"),
        ("--service exp:10ms --dynos 10 --load 0.5 --policy pools:4", "as many routers"),
        ("--service exp:10ms --dynos 10 --load 0.5 --shed codel", "must have a patience"),
        ("--service exp:10ms --dynos 10 --load 0.5 --skew 1,2", "one for each"),
        ("--service exp:10ms --dynos 10 --load 0.5 --duration 9000000h", "requests in all"),
        ("--service exp:10ms --dynos 10 --load 0.5 --hop 1ms", "needs --routers 2 or more"),
        ("--service exp:10ms --dynos 10 --load 0.5 --hop 1ms --routers 4 --policy jiq", "one-owner or pools"),
        (
            "--service exp:10ms --dynos 10 --load 0.5 --hop 1ms --policy one-owner",
            "needs --routers 2 or more",
        ),
        ("--service exp:10ms --dynos 10 --load 0.5 --skew 1", "needs --routers 2 or more"),
        (
            "--service exp:10ms --dynos 10 --load 0.5 --routers 2 --policy one-line,random",
            "the same with one router",
        ),
        ("--service exp:10ms --dynos 10 --load 0.5 --policy jiq --shed bound:2", "policies with a line"),
    ] {
        let output = simulate(args);
        assert_eq!(output.status.code(), Some(2), "{args}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args}: {output:?}");
        assert!(output.stdout.is_empty(), "{args}");
    }
}

#[test]
fn an_interrupted_run_prints_what_there_is_and_ends_with_1() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dyno-bench"));
    let args = "simulate --service exp:10ms --dynos 2 --load 0.5 --policy random --requests 100000000 --json";
    let mut child =
        command.args(args.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It says that it begins when it listens to signals already.
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.contains("simulating about 125000000 requests"), "{line}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all[0]["interrupted"], true, "{all}");
}
