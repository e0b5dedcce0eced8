//! Emulated dynos that the tests drive event by event.

use std::net::Shutdown;
use std::time::Duration;

use router_core::clock::Clock;

use super::*;

/// Lets the dynos work until something is so.
fn until(dynos: &mut Dynos, reactor: &mut Reactor, mut so: impl FnMut(&Dynos) -> bool) {
    let clock = Clock::system();
    let deadline = clock.now() + Duration::from_secs(20);
    let mut ready = Vec::new();
    while !so(dynos) {
        assert!(clock.now() < deadline, "in vain: {:?}", dynos.seen.shown);
        reactor.wait(Duration::from_millis(5), &mut ready).unwrap();
        while let Some((due, timer)) = reactor.due(reactor.now()) {
            dynos.on_timer(timer, due, reactor).unwrap();
        }
        for event in &ready {
            dynos.on_ready(*event, reactor).unwrap();
        }
        dynos.bury();
    }
}

/// A dyno that is with a request of a minute.
fn busy(behaviour: Behaviour, reactor: &mut Reactor) -> (Dynos, TcpStream) {
    let door = Door::bind(0, 16).unwrap();
    let address = door.address();
    let mut dynos = Dynos::new(vec![door], 0, behaviour, None, reactor).unwrap();
    let mut first = TcpStream::connect(address).unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nx-bench-service: 60000000000\r\n\r\n").unwrap();
    until(&mut dynos, reactor, |dynos| dynos.seen.requests == 1);
    (dynos, first)
}

/// A dyno that reads one at a time is with a request of a minute on its first connection; another connection has
/// knocked meanwhile.
fn knocked(reactor: &mut Reactor) -> (Dynos, TcpStream, TcpStream) {
    let behaviour = Behaviour { accept: Accept::One { backlog: 16 }, ..Behaviour::default() };
    let (mut dynos, first) = busy(behaviour, reactor);
    let second = TcpStream::connect(dynos.dynos[0].door.address()).unwrap();
    until(&mut dynos, reactor, |dynos| dynos.dynos[0].knock.is_some());
    (dynos, first, second)
}

fn finish(dynos: &mut Dynos, reactor: &mut Reactor) {
    let due = dynos.dynos[0].serving.as_ref().unwrap().due;
    dynos.on_work(0, due, reactor).unwrap();
}

#[test]
fn a_door_that_was_knocked_at_is_watched_once() {
    let mut reactor = Reactor::new().unwrap();
    let (mut dynos, mut first, _second) = knocked(&mut reactor);
    finish(&mut dynos, &mut reactor);
    // A request that takes no time comes and goes before the knock is heard.
    first.write_all(b"GET / HTTP/1.1\r\nx-bench-service: 0\r\n\r\n").unwrap();
    let source = Source::Dyno(0);
    let ready = Ready { source, readable: true, writable: false };
    while dynos.seen.requests < 2 {
        dynos.on_ready(ready, &mut reactor).unwrap();
    }
    until(&mut dynos, &mut reactor, |dynos| dynos.seen.connections == 2);
    assert!(dynos.dynos[0].knock.is_none());
}

#[test]
fn a_dyno_that_was_knocked_at_goes_down_and_boots_again() {
    for finished in [false, true] {
        let mut reactor = Reactor::new().unwrap();
        let (mut dynos, first, _second) = knocked(&mut reactor);
        if finished {
            finish(&mut dynos, &mut reactor);
        }
        dynos.crash(0, Crash::Before, &mut reactor).unwrap();
        let third = TcpStream::connect(dynos.dynos[0].door.address()).unwrap();
        until(&mut dynos, &mut reactor, |dynos| dynos.seen.connections == 2);
        assert_eq!((dynos.seen.crashes, dynos.dynos[0].open), (1, 1), "finished: {finished}");
        for stream in [first, third] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_second_request_on_a_connection_that_ends_is_an_overlap_and_no_end_of_the_dyno() {
    for accept in [Accept::All, Accept::One { backlog: 16 }] {
        for crashes in [false, true] {
            let mut reactor = Reactor::new().unwrap();
            let (mut dynos, mut first) =
                busy(Behaviour { close: true, accept, ..Behaviour::default() }, &mut reactor);
            first.write_all(b"GET / HTTP/1.1\r\nx-bench-service: 0\r\n\r\n").unwrap();
            until(&mut dynos, &mut reactor, |dynos| {
                dynos.seen.overlaps == 1 || dynos.conns[0].early.is_some()
            });
            if crashes {
                dynos.crash(0, Crash::Before, &mut reactor).unwrap();
            } else {
                finish(&mut dynos, &mut reactor);
            }
            until(&mut dynos, &mut reactor, |dynos| {
                dynos.dynos[0].serving.is_none() && dynos.dynos[0].line.is_empty()
            });
            assert_eq!((dynos.seen.overlaps, dynos.dynos[0].open), (1, 0), "{accept:?}, crashes: {crashes}");
        }
    }
}
