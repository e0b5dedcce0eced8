//! Each behaviour of an emulated dyno, over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use router_bench::dyno::{Accept, Behaviour, Fleet};
use router_core::clock::Clock;

use crate::{answer, connect, send, until};

fn refused(to: SocketAddr) -> bool {
    TcpStream::connect(to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn an_overlap_names_both_requests_and_how_long_the_first_was_served() {
    let fleet = Fleet::start(1, Behaviour::default()).unwrap();
    let [first, second] = [(); 2].map(|()| connect(fleet.addresses()[0]));
    send(&first, 400, "one");
    std::thread::sleep(Duration::from_millis(20));
    send(&second, 0, "two");
    assert!(answer(&first).starts_with("HTTP/1.1 200") && answer(&second).starts_with("HTTP/1.1 200"));
    let seen = fleet.stop().unwrap();
    assert_eq!((seen.requests, seen.overlaps, seen.strangers), (2, 1, 2));
    let overlap = &seen.shown[0];
    assert_eq!((overlap.served_id.as_deref(), overlap.came_id.as_deref()), (Some("one"), Some("two")));
    assert!(overlap.served_for_ms >= 10.0, "{overlap}");
    assert!(overlap.to_string().starts_with("dyno 0 was serving request unknown (id one) for "), "{overlap}");
}

#[test]
fn a_dyno_that_boots_refuses_connections_until_then() {
    let behaviour = Behaviour { boot: Duration::from_millis(300), ..Behaviour::default() };
    let clock = Clock::system();
    let start = clock.now();
    let fleet = Fleet::start(1, behaviour).unwrap();
    assert!(refused(fleet.addresses()[0]));
    until("a dyno boots", || TcpStream::connect(fleet.addresses()[0]).is_ok());
    assert!(clock.now().duration_since(start) >= Duration::from_millis(300));
}

#[test]
fn a_request_may_bring_its_dyno_down_which_then_boots_again() {
    let behaviour = Behaviour { crash: 1.0, boot: Duration::from_millis(100), ..Behaviour::default() };
    let fleet = Fleet::start(1, behaviour).unwrap();
    let dyno = fleet.addresses()[0];
    let mut answers = Vec::new();
    for _ in 0..12 {
        until("the dyno boots", || TcpStream::connect(dyno).is_ok());
        let (crashed, other) = (connect(dyno), connect(dyno));
        send(&crashed, 1, "x");
        answers.push(answer(&crashed));
        assert_eq!(answer(&other), "", "all of its connections end");
    }
    let seen = fleet.stop().unwrap();
    assert_eq!((seen.crashes, seen.requests), (12, 12));
    assert!(seen.tape.iter().all(|served| served.ended == u64::MAX), "no request was served");
    assert!(answers.iter().any(String::is_empty), "{answers:?}");
    let half = |answer: &String| answer.starts_with("HTTP/1.1 200") && !answer.ends_with("hello world\n");
    assert!(answers.iter().any(half), "{answers:?}");
}

#[test]
fn a_dyno_goes_down_by_itself_every_so_often() {
    let behaviour = Behaviour { crash_every: Some(Duration::from_millis(50)), ..Behaviour::default() };
    let fleet = Fleet::start(2, behaviour).unwrap();
    let connections = fleet.addresses().iter().map(|dyno| connect(*dyno)).collect::<Vec<_>>();
    for mut connection in connections {
        // The end, or a reset if it was never accepted.
        assert!(!matches!(connection.read(&mut [0]), Ok(1)));
    }
    assert!(fleet.stop().unwrap().crashes >= 2);
}

#[test]
fn a_connection_stays_open_or_ends_with_each_answer() {
    for close in [false, true] {
        let fleet = Fleet::start(1, Behaviour { close, ..Behaviour::default() }).unwrap();
        let stream = connect(fleet.addresses()[0]);
        send(&stream, 0, "a");
        assert_eq!(answer(&stream).contains("connection: close\r\n"), close);
        if close {
            assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
        } else {
            send(&stream, 0, "b");
            assert!(answer(&stream).starts_with("HTTP/1.1 200"));
        }
    }
}

#[test]
fn an_answer_of_any_size_comes_in_pieces_over_the_service_time() {
    let behaviour = Behaviour { answer_bytes: 3_000_000, pieces: 3, ..Behaviour::default() };
    let fleet = Fleet::start(1, behaviour).unwrap();
    let clock = Clock::system();
    let mut stream = connect(fleet.addresses()[0]);
    let start = clock.now();
    send(&stream, 1_500, "a");
    let mut buffer = vec![0; 1 << 20];
    let (mut total, mut early) = (0, 0);
    while total < 3_000_000 {
        total += stream.read(&mut buffer).unwrap();
        if clock.now().duration_since(start) < Duration::from_millis(1_450) {
            early = total;
        }
    }
    assert!(clock.now().duration_since(start) >= Duration::from_millis(1_500));
    assert!((1_000_000..2_001_000).contains(&early), "{early} bytes before the last piece");
}

#[test]
fn a_body_is_no_second_request_and_a_head_has_no_body() {
    let fleet = Fleet::start(1, Behaviour::default()).unwrap();
    let mut stream = connect(fleet.addresses()[0]);
    write!(stream, "POST / HTTP/1.1\r\nx-bench-service: 100000000\r\ncontent-length: 18\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    write!(stream, "GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(answer(&stream).ends_with("hello world\n"));
    write!(stream, "HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    assert!(head.contains("content-length: 12\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(fleet.stop().unwrap().requests, 2);
}

#[test]
fn a_dyno_that_reads_one_at_a_time_still_tells_what_it_can() {
    let behaviour = Behaviour { accept: Accept::One { backlog: 16 }, ..Behaviour::default() };
    let fleet = Fleet::start(1, behaviour).unwrap();
    let dyno = fleet.addresses()[0];
    let [first, second] = [(); 2].map(|()| connect(dyno));
    // One after the other is no overlap, on whichever connection.
    for stream in [&first, &second, &first, &second] {
        send(stream, 1, "calm");
        assert!(answer(stream).ends_with("hello world\n"));
    }
    send(&first, 500, "one");
    std::thread::sleep(Duration::from_millis(50));
    send(&second, 0, "two");
    let third = connect(dyno);
    send(&third, 0, "three");
    for stream in [&first, &second, &third] {
        assert!(answer(stream).ends_with("hello world\n"));
    }
    let seen = fleet.stop().unwrap();
    let ids: Vec<_> = seen.shown.iter().map(|o| (o.served_id.as_deref(), o.came_id.as_deref())).collect();
    assert_eq!((seen.requests, seen.overlaps), (7, 2), "{ids:?}");
    assert!(
        ids.contains(&(Some("one"), Some("two"))) && ids.contains(&(Some("one"), Some("three"))),
        "{ids:?}"
    );
    assert_eq!(seen.second_connections, 2);
}

#[test]
fn what_a_busy_single_threaded_dyno_does_not_accept_waits_in_the_kernel() {
    let soon = Duration::from_millis(300);
    for (accept, all) in [(Accept::One { backlog: 1 }, false), (Accept::All, true)] {
        let fleet = Fleet::start(1, Behaviour { accept, ..Behaviour::default() }).unwrap();
        let dyno = fleet.addresses()[0];
        let busy = connect(dyno);
        send(&busy, 3_000, "long");
        std::thread::sleep(Duration::from_millis(50));
        let came: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&dyno, soon)).collect();
        assert_eq!(came.iter().all(Result::is_ok), all, "{accept:?}: {came:?}");
    }
}
