//! What the generator's connections do when something goes wrong.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use router_core::clock::Clock;

use super::*;

/// Clients, and what they need to work.
struct Bench<'a> {
    clients: Clients<'a>,
    reactor: Reactor,
    records: Records,
}

impl<'a> Bench<'a> {
    fn new(route: Route, most: usize, done: &'a AtomicU64) -> Self {
        let clients = Clients::new(route, ("bench.test", "/"), most, u64::MAX, done);
        Self { clients, reactor: Reactor::new().unwrap(), records: Records::default() }
    }

    /// Sends a request.
    fn submit(&mut self) {
        let number = self.records.push(self.reactor.now(), 0);
        self.clients.submit(number, &self.reactor, &mut self.records).unwrap();
    }

    /// Lets the clients work until something is so.
    fn until(&mut self, mut so: impl FnMut(&Clients<'_>) -> bool) {
        let clock = Clock::system();
        let deadline = clock.now() + Duration::from_secs(20);
        let mut ready = Vec::new();
        while !so(&self.clients) {
            assert!(clock.now() < deadline, "in vain: {:?}", self.clients.outcome);
            self.reactor.wait(Duration::from_millis(5), &mut ready).unwrap();
            for event in &ready {
                if let Source::Client(conn) = event.source {
                    self.clients.on_ready(conn, *event, &self.reactor, &mut self.records).unwrap();
                }
            }
            self.clients.bury();
            self.clients.advance(&self.reactor, &mut self.records).unwrap();
        }
    }
}

#[test]
fn a_dyno_that_cannot_be_connected_to_is_tried_again_and_no_other_in_its_place() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // No connection can go to the second: it is everybody's address.
    let dynos = vec![listener.local_addr().unwrap(), (Ipv4Addr::BROADCAST, 9).into()];
    let done = AtomicU64::new(0);
    let mut bench = Bench::new(Route::Direct(dynos), 2, &done);
    bench.submit();
    assert_eq!(bench.clients.outcome.faults.values().sum::<u64>(), 1, "{:?}", bench.clients.outcome);
    for _ in 0..3 {
        bench.submit();
    }
    let to = |address| bench.clients.conns.iter().filter(|(_, conn)| conn.address == address).count();
    assert!(to(0) <= 1, "one connection to a dyno, and {} here", to(0));
}

#[test]
fn what_nobody_asked_for_is_no_answer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let done = AtomicU64::new(0);
    let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 1, &done);
    bench.clients.open(1, &bench.reactor).unwrap();
    let (mut proxy, _) = listener.accept().unwrap();
    // A proxy that has waited long enough for a request says so, and will close.
    proxy.write_all(b"HTTP/1.1 408 Request Time-out\r\ncontent-length: 0\r\n\r\n").unwrap();
    bench.until(|clients| clients.idle.is_empty());
    bench.submit();
    let (mut proxy, _) = listener.accept().unwrap();
    proxy.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    bench.until(|clients| clients.in_flight == 0);
    assert_eq!(bench.clients.outcome.good, 1, "{:?}", bench.clients.outcome);
}

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// Nothing after stream 1 will be answered.
const GOODBYE: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0";
/// The answer 200 on stream 1, whole.
const ANSWER: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";

#[test]
fn a_connection_that_has_said_goodbye_takes_no_more_requests_and_those_on_it_are_answered() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let done = AtomicU64::new(0);
    let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 2, &done);
    bench.clients.http2(10);
    bench.submit();
    let (mut leaving, _) = listener.accept().unwrap();
    leaving.write_all(&[SETTINGS, GOODBYE].concat()).unwrap();
    bench.until(|clients| clients.idle.is_empty());
    bench.submit();
    let (mut other, _) = listener.accept().unwrap();
    other.write_all(&[SETTINGS, ANSWER].concat()).unwrap();
    leaving.write_all(ANSWER).unwrap();
    bench.until(|clients| clients.in_flight == 0);
    assert_eq!(bench.clients.outcome.good, 2, "{:?}", bench.clients.outcome);
}
