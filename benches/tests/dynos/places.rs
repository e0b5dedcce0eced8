//! Where dynos live: in the generator's thread, in one of their own, in processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use router_bench::dyno::Place;
use router_bench::engine::{Pacing, Plan, Run};
use router_bench::load::Route;

use crate::plan::{plan, run};
use crate::program::{PROGRAM, bench};
use crate::{PATIENCE, lives, long_bench, signal, text, until};

fn drive(place: &Place, dynos: u16, clients: u32, route: impl FnOnce(Vec<SocketAddr>) -> Route) -> Run {
    let plan = plan(place, dynos, Pacing::Closed(clients), 60);
    let route = route(plan.dynos.addresses().to_vec());
    run(Plan { route, duration: PATIENCE, timeout: PATIENCE, ..plan })
}

fn places() -> [Place; 3] {
    [Place::Here, Place::Thread, Place::Processes { program: PathBuf::from(PROGRAM), count: 2 }]
}

#[test]
fn a_broken_proxy_is_caught_wherever_dynos_live() {
    for place in places() {
        let run = drive(&place, 3, 2, |dynos| Route::Proxy(dynos[2]));
        assert!(run.seen.overlaps >= 40, "{place:?}: {:?}", run.seen);
        assert!(run.seen.second_connections >= 1, "{place:?}");
        assert_eq!(run.seen.shown.len(), 10, "{place:?}");
        let first = &run.seen.shown[0];
        assert!(first.dyno == 2 && first.served_for_ms < 30_000.0, "{first:?}");
        assert!(first.served.is_some() && first.came.is_some() && first.served != first.came, "{first:?}");
        let mut served: Vec<_> = run.records.iter().filter(|record| record.served()).collect();
        served.sort_by_key(|record| record.started);
        assert!(served.len() >= 60 && served.iter().all(|record| record.dyno == 2), "{place:?}");
        assert!(served.windows(2).all(|pair| pair[0].ended <= pair[1].started), "{place:?}");
        assert!(served.iter().all(|record| record.arrived <= record.started), "{place:?}");
    }
}

#[test]
fn dynos_in_every_place_serve_and_keep_their_numbers() {
    for place in places() {
        let run = drive(&place, 5, 5, Route::Direct);
        assert_eq!((run.seen.overlaps, run.outcome.faults.len()), (0, 0), "{place:?}");
        assert_eq!(run.outcome.good, run.records.len() as u64, "{place:?}");
        let mut dynos: Vec<_> = run.records.iter().map(|record| record.dyno).collect();
        dynos.sort_unstable();
        dynos.dedup();
        assert_eq!(dynos, [0, 1, 2, 3, 4], "{place:?}");
        assert!(!run.seen.late.is_empty(), "{place:?}");
    }
}

#[test]
fn processes_of_dynos_end_with_a_bench_that_is_killed() {
    let (mut child, dynos) = long_bench(&["--dynos-in", "process"], 2);
    // Ctrl-C is for the bench, which then asks them what they have seen.
    until("each has a group of its own", || {
        let group = |pid: i32| procfs::process::Process::new(pid).unwrap().stat().unwrap().pgrp;
        dynos.iter().all(|pid| group(*pid) == *pid)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    until("its children end", || !dynos.iter().any(|pid| lives(*pid)));
}

#[test]
fn a_process_of_dynos_that_dies_is_an_error() {
    let (child, dynos) = long_bench(&["--dynos-in", "process", "--dyno-processes", "2"], 2);
    let pid = rustix::process::Pid::from_raw(dynos[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    signal(&child, rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("a process of the dynos ended early (signal: 9"), "{output:?}");
    assert!(!lives(dynos[1]));
}

#[test]
fn a_port_in_use_is_named_in_every_place() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    for place in [&["--dynos-in", "same"][..], &["--dynos-in", "process"], &["--dyno", "sleep 60"]] {
        let output = bench(&[&["--self-test", "--dynos", "1", "--dyno-ports", &port][..], place].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(&format!("port {port} of dyno 0")), "{place:?}: {output:?}");
    }
}
