//! The program that runs dynos alone, and what it says to wrong use.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::program::{PROGRAM, bench, json};
use crate::{PATIENCE, answer, connect, signal, text};

/// Reads the addresses that `dyno-bench dyno` prints.
fn dynos_of(errors: &mut impl BufRead) -> Vec<SocketAddr> {
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let list = line.trim().strip_prefix("dynos: ").unwrap_or_else(|| panic!("{line}"));
    list.split(' ').map(|address| address.parse().unwrap()).collect()
}

#[test]
fn the_program_runs_dynos_alone_and_tells_of_overlaps_as_they_happen() {
    let mut child = Command::new(PROGRAM)
        .args(["dyno", "--dynos", "2", "--port", "0", "--service", "fixed:300ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let dynos = dynos_of(&mut errors);
    let [mut first, mut second] = [(); 2].map(|()| connect(dynos[1]));
    write!(first, "GET / HTTP/1.1\r\nx-request-id: r-1\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    write!(second, "GET / HTTP/1.1\r\nx-request-id: r-2\r\n\r\n").unwrap();
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("OVERLAP: dyno 1 was serving request unknown (id r-1) for "), "{line}");
    assert!(line.trim_end().ends_with("when request unknown (id r-2) came"), "{line}");
    assert!(answer(&first).starts_with("HTTP/1.1 200") && answer(&second).starts_with("HTTP/1.1 200"));
    signal(&child, rustix::process::Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json = json(&output);
    assert_eq!((json["requests"].as_u64(), json["overlaps"].as_u64()), (Some(2), Some(1)), "{json}");
    assert_eq!(json["overlaps_shown"][0]["came_id"], "r-2", "{json}");
}

#[test]
fn dynos_that_fail_end_the_program_which_says_why() {
    // With so few open files they cannot take many connections.
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n 30 && exec \"$0\" dyno --port 0", PROGRAM])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let dyno = dynos_of(&mut errors)[0];
    let held: Vec<_> = (0..40).map_while(|_| TcpStream::connect_timeout(&dyno, PATIENCE).ok()).collect();
    assert!(!held.is_empty());
    let mut said = String::new();
    errors.read_to_string(&mut said).unwrap();
    assert!(said.contains("error: Too many open files"), "{said}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn the_program_says_how_exact_its_dynos_are() {
    let output = bench(&["dyno", "--check", "--service", "fixed:2ms", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = json(&output);
    for row in json.as_array().unwrap() {
        assert!(row["ends"].as_u64() > Some(20) && row["late_p99_us"].as_f64() > Some(0.0), "{json}");
        assert!(row["late_p50_us"].as_f64() <= row["late_p99_us"].as_f64(), "{json}");
    }
    assert_eq!(json.as_array().unwrap().len(), 2);
}

#[test]
fn wrong_use_ends_with_2_and_says_why() {
    for (args, why) in [
        (&["--warm-up", "3"][..], "20x3"),
        (&["--gc", "1s"], "50ms/1s"),
        (&["--crash", "2"], "from 0 to 1"),
        (&["--dyno-accept", "two"], "one:BACKLOG"),
        (&["--self-test", "--dyno-processes", "2"], "--dynos-in process"),
        (&["--dyno", "true", "--load", "0.9"], "cannot be used with"),
        (&["--path", "no"], "begins with /"),
        (&["dyno", "--port", "65535", "--dynos", "2"], "too many"),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(why), "{args:?}: {output:?}");
    }
}
