//! Runs the `lease` example and reads what it says.

use std::process::Command;

#[test]
fn the_lease_example_serves_six_requests_over_two_connections_and_refuses_who_waits_too_long() {
    let run = Command::new(env!("CARGO_BIN_EXE_lease")).output().unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let count = |text: &str| said.matches(text).count();
    for number in 1..=6 {
        assert_eq!(count(&format!("says \"REQUEST {number}\"")), 1, "{said}");
    }
    assert_eq!(count("over a new connection"), 2, "one for each dyno: {said}");
    assert_eq!(count("over the connection that came with the lease"), 5, "{said}");
    assert_eq!(count("web.3"), 0, "nobody listens there: {said}");
    assert_eq!(count("offered to 2"), 1, "one request met the dyno that is not there: {said}");
    assert_eq!(count("H11 Backlog too deep (max wait), status 503"), 1, "{said}");
    assert_eq!(count("says \"AT LAST\""), 1, "{said}");
    assert_eq!(count("0 in line, 2 idle"), 1, "{said}");
}
