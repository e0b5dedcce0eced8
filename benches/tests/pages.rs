//! What a call leaves behind: files that hold what the page shows, comparisons, sweeps, and what an interruption keeps.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support {
    pub(crate) mod program;
}

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use router_bench::results::Results;
use rustix::process::{Pid, Signal, kill_process};

use support::program::{PROGRAM, bench, json};

/// A short run without a proxy.
const SHORT: [&str; 9] =
    ["--self-test", "--dynos", "4", "--service", "fixed:2ms", "--requests", "200", "--warmup", "0s"];

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Calls it with a standard output that nobody reads any more.
fn unread(args: &[&str]) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = Command::new(PROGRAM).args(args).stdout(writer).stderr(Stdio::piped()).spawn();
    child.unwrap().wait_with_output().unwrap()
}

/// Runs, and expects this exit code.
fn expect(code: i32, args: &[&str]) -> Output {
    let output = bench(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    output
}

fn file(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

#[test]
fn files_hold_what_the_page_shows() {
    let dir = tempfile::tempdir().unwrap();
    let [json, csv, page, again, svg] =
        ["a.json", "a.csv", "a.html", "b.html", "a.svg"].map(|name| file(dir.path(), name));
    let files = ["--clients", "8", "--rounds", "2", "--json", &json, "--csv", &csv, "--html", &page];
    let run = expect(0, &[&SHORT[..], &files].concat());
    let text = stdout(&run);
    assert!(text.contains("self-test: kept one request per dyno: yes, 0 overlaps; 400 requests"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
    let results = Results::read(json.as_ref()).unwrap();
    assert_eq!((results.runs.len(), results.runs[1].requests, results.partial), (2, 200, None));
    let curves = &results.runs[0].curves;
    let answered: u64 = curves.timeline.iter().map(|interval| interval.answered).sum();
    assert!(answered > 100 && curves.latency.len() > 10 && curves.wait.len() > 10, "{curves:?}");
    let grid = curves.occupancy.as_ref().unwrap();
    assert!(
        grid.rows.len() == 4 && grid.rows.iter().all(|row| row.contains(|digit| digit > '0')),
        "{grid:?}"
    );
    assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), 3);
    let first = std::fs::read_to_string(&page).unwrap();
    assert!(first.contains("<svg") && first.contains("kept one request per dyno"), "{first}");
    let plot = format!("latency={svg}");
    let report = expect(0, &["report", &json, "--html", &again, "--svg", &plot]);
    let shown = stdout(&report);
    assert!(text.starts_with(&shown), "a report shows what the run has shown: {shown} {text}");
    assert!(text[shown.len()..].starts_with("Erlang C"), "{text}");
    assert_eq!(std::fs::read_to_string(&again).unwrap(), first);
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    let none = expect(2, &["report", &json, "--svg", &format!("nothing={svg}")]);
    assert!(stderr(&none).contains("these are: latency, wait"), "{none:?}");
}

#[test]
fn comparisons_know_noise_and_refuse_other_scenarios() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, other] = ["1.json", "2.json", "3.json"].map(|name| file(dir.path(), name));
    expect(0, &[&SHORT[..], &["--clients", "8", "--json", &one]].concat());
    let same = expect(0, &["report", &one, &one, "--fail-on", "worse"]);
    assert!(stdout(&same).contains("noise") && !stdout(&same).contains("WORSE"), "{same:?}");
    // Five rounds that are twice as slow are worse beyond chance; one is too few to tell.
    let mut results = Results::read(one.as_ref()).unwrap();
    results.runs[0].latency.p50_ms *= 2.0;
    write(&results, &two);
    let few = expect(0, &["report", &one, &two, "--fail-on", "worse"]);
    assert!(stdout(&few).contains("too few rounds to tell"), "{few:?}");
    results.runs = vec![results.runs[0].clone(); 5];
    write(&results, &two);
    results.runs.iter_mut().for_each(|run| run.latency.p50_ms /= 2.0);
    write(&results, &one);
    let worse = expect(1, &["report", &one, &two, "--fail-on", "worse"]);
    assert!(stdout(&worse).contains("WORSE"), "{worse:?}");
    let json = json(&expect(0, &["report", &one, &two, "--json", "-"]));
    let lines = json[0]["contrasts"][0]["lines"].as_array().unwrap();
    let line = lines.iter().find(|line| line["figure"] == "latency_p50_ms").unwrap();
    assert_eq!((line["finding"].as_str(), line["ratio"].as_f64()), (Some("worse"), Some(2.0)), "{line}");
    results.scenario.insert("dynos".to_owned(), "5".to_owned());
    write(&results, &other);
    let refused = expect(2, &["report", &one, &other]);
    assert!(stderr(&refused).contains("dynos: 4 before, 5 after"), "{refused:?}");
    expect(0, &["report", &one, &other, "--anyway"]);
}

fn write(results: &Results, path: &str) {
    results.write(&mut std::fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn who_stops_reading_ends_the_program_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path(), "a.json");
    let run = unread(&[&SHORT[..], &["--clients", "8", "--json", &file]].concat());
    assert_eq!(run.status.code(), Some(141), "{run:?}");
    assert_eq!(stderr(&run).lines().count(), 1, "only that the run begins: {run:?}");
    for args in [
        &["report", &file][..],
        &["report", &file, "--json", "-"],
        &["report", &file, "--csv", "-"],
        &["report", &file, "--html", "-"],
        &["report", &file, &file],
        &["peers"],
    ] {
        let output = unread(args);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(141), ""), "{args:?}");
    }
    // With nobody at standard error either, what would have been said there is not.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut deaf = Command::new(PROGRAM);
    let status =
        deaf.args(["report", "/nowhere/a.json"]).stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
    // What has failed by itself says so all the same.
    let failed = unread(&["report", "/nowhere/a.json"]);
    assert!(failed.status.code() == Some(1) && stderr(&failed).contains("/nowhere/a.json"), "{failed:?}");
}

#[test]
fn a_file_that_is_no_results_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let broken = file(dir.path(), "broken.json");
    std::fs::write(&broken, "{\"format\": \"dyno-bench results\", \"version\": 9}").unwrap();
    let version = expect(1, &["report", &broken]);
    assert!(stderr(&version).contains("broken.json: results of version 9"), "{version:?}");
    std::fs::write(&broken, [0xff, 0xfe]).unwrap();
    assert!(stderr(&expect(1, &["report", &broken])).contains("not a results file"));
    let missing = file(dir.path(), "missing.json");
    assert!(stderr(&expect(1, &["report", &missing])).contains("missing.json"));
    // Found out before the run, not after an hour of it.
    let nowhere = file(dir.path(), "no/such/dir.json");
    let early = expect(1, &["--self-test", "--duration", "1h", "--json", &nowhere]);
    assert!(stderr(&early).contains("no/such/dir.json"), "{early:?}");
    expect(2, &[&SHORT[..], &["--json", "-", "--csv", "-"]].concat());
}

#[test]
fn a_sweep_has_a_run_a_point_and_finds_a_knee() {
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["a.json", "a.html"].map(|name| file(dir.path(), name));
    let over = ["sweep", "--over", "dynos=1,3", "--json", &json, "--html", &page];
    // It says how many dynos there are.
    let sweep = expect(0, &[&over[..], &SHORT[..1], &SHORT[3..]].concat());
    assert!(stdout(&sweep).contains("of ideal"), "{sweep:?}");
    assert!(stderr(&sweep).starts_with("1 dyno: self-test 1/1 (run 1 of 2): at most 200"), "{sweep:?}");
    assert!(stderr(&sweep).contains("\n3 dynos: self-test 1/1 (run 2 of 2): at most 200"), "{sweep:?}");
    let results = Results::read(json.as_ref()).unwrap();
    assert_eq!(results.runs.iter().map(|run| run.dynos).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(results.over.as_deref(), Some("dynos"));
    assert!(std::fs::read_to_string(&page).unwrap().contains("Throughput against dynos"));
    let over = ["sweep", "--over", "load=0.2,0.4", "--json", &json, "--html", &page];
    expect(0, &[&over[..], &SHORT].concat());
    let loads = Results::read(json.as_ref()).unwrap().runs.iter().map(|run| run.load).collect::<Vec<_>>();
    assert!(
        loads.iter().zip([0.2, 0.4]).all(|(load, asked)| (load.unwrap() - asked).abs() < 1e-9),
        "{loads:?}"
    );
    assert!(std::fs::read_to_string(&page).unwrap().contains("Wait against load"));
    // Nothing waits less than no time, so the first rate is too much and so are all below it.
    let knee = ["sweep", "--find-knee", "--knee-wait", "1ns", "--json", &json];
    let found = expect(0, &[&knee[..], &SHORT[..5], &["--requests", "20", "--warmup", "0s"]].concat());
    assert!(stdout(&found).contains("stood 0 requests a second"), "{found:?}");
    let knees = Results::read(json.as_ref()).unwrap().knees;
    assert!(knees[0].good == 0.0 && knees[0].why.is_some(), "{knees:?}");
    // One dyno of 10 ms can do 100 a second, and there the search begins; twenty requests never wait for a second.
    let one = ["--self-test", "--dynos", "1", "--requests", "20", "--warmup", "0s", "--knee-wait", "1s"];
    expect(0, &[&["sweep", "--find-knee", "--json", &json][..], &one].concat());
    let small = Results::read(json.as_ref()).unwrap();
    assert_eq!(
        small.runs.iter().filter_map(|run| run.rate).map(f64::round).collect::<Vec<_>>(),
        [100.0, 110.0]
    );
    assert!((small.knees[0].good - 110.0).abs() < 1e-6 && small.knees[0].bad.is_none(), "{:?}", small.knees);
    for wrong in [
        &["--over", "dynos=0"][..],
        &["--over", "load=0.5", "--rate", "5"],
        &["--over", "load=0.5", "--think", "exp:1s"],
        &[],
        &["--over", "colour=1"],
        &["--find-knee", "--arrivals", "burst:5"],
        &["--find-knee", "--rounds", "3"],
        &["--over", "dynos=1,2", "--dynos", "4"],
        &["--over", "dynos=1,2", "--arrivals", "constant"],
    ] {
        expect(2, &[&["sweep", "--self-test"], wrong].concat());
    }
    // It is an open loop by its load, so arrivals may be spaced.
    let even = ["sweep", "--over", "load=0.2", "--arrivals", "constant", "--json", &json];
    expect(0, &[&even[..], &SHORT].concat());
}

/// Where a text has "1" before a plural of what is counted here.
fn plurals_of_one(text: &str) -> Vec<String> {
    let things = [
        "dyno", "request", "router", "thread", "round", "client", "core", "line", "byte", "overlap", "answer",
    ];
    let in_line = |line: &str| {
        let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || "<>,;:()".contains(c)).collect();
        let wrong =
            |pair: &&[&str]| pair[0] == "1" && things.iter().any(|thing| pair[1] == format!("{thing}s"));
        words.windows(2).filter(wrong).map(|pair| pair.join(" ")).collect::<Vec<_>>()
    };
    text.lines().flat_map(in_line).collect()
}

#[test]
fn one_dyno_is_no_dynos() {
    let dir = tempfile::tempdir().unwrap();
    let [json, page, log] = ["a.json", "a.html", "a.log"].map(|name| file(dir.path(), name));
    let line = "{\"time\":\"2026-01-01T00:00:01Z\",\"method\":\"GET\",\"status\":200,\"service_ms\":5}\n";
    std::fs::write(&log, format!("{line}x\n")).unwrap();
    let one = ["--self-test", "--dynos", "1", "--requests", "1", "--warmup", "0s", "--answer-bytes", "1"];
    let one = [&one[..], &["--dynos-in", "process", "--json", &json, "--html", &page]].concat();
    let simulated =
        ["--service", "exp:1s", "--dynos", "1", "--load", "0.5", "--requests", "1", "--replications", "1"];
    for args in [
        &[&one[..], &["--clients", "1"]].concat()[..],
        &[&one[..], &["--clients", "1", "--think", "fixed:1ms"]].concat(),
        &[&one[..], &["--service", "exp:5ms", "--rate", "50"]].concat(),
        &[&one[..], &["--replay", &log]].concat(),
        &["report", &json, &json],
        &["report", &json, &json, "--html", &page],
        &["compare", "direct", "--dynos", "1", "--clients", "1", "--requests", "1", "--rounds", "1"],
        &["sweep", "--self-test", "--over", "dynos=1", "--requests", "1", "--warmup", "0s", "--html", &page],
        &["advise", "--log", &log, "--target", "p99 wait < 1s", "--dynos", "1"],
        &[&["simulate", "--policy", "one-line"], &simulated[..]].concat(),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let mut texts = vec![stdout(&output), stderr(&output)];
        texts.extend(std::fs::read_to_string(&page));
        let wrong: Vec<String> = texts.iter().flat_map(|text| plurals_of_one(text)).collect();
        assert!(wrong.is_empty(), "{args:?}: {wrong:?}: {output:?}");
    }
}

#[test]
fn an_interruption_keeps_what_is_there_and_says_so() {
    // Ctrl-C, and a terminal that is closed.
    for signal in [Signal::INT, Signal::HUP] {
        is_interrupted_by(signal);
    }
}

fn is_interrupted_by(signal: Signal) {
    let dir = tempfile::tempdir().unwrap();
    let [json, page] = ["a.json", "a.html"].map(|name| file(dir.path(), name));
    let args = ["--self-test", "--dynos", "2", "--service", "fixed:2ms", "--warmup", "0s", "--rounds", "3"];
    let mut child = Command::new(PROGRAM)
        .args(args)
        .args(["--duration", "10m", "--json", &json, "--html", &page])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line says that the first run begins.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("self-test 1/3"), "{line}");
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stdout(&output).contains("only a part was run: interrupted"), "{output:?}");
    let results = Results::read(json.as_ref()).unwrap();
    assert_eq!((results.runs.len(), results.partial.as_deref()), (1, Some("interrupted")));
    assert!(results.runs[0].interrupted);
    assert!(std::fs::read_to_string(&page).unwrap().contains("only a part was run: interrupted"));
}
