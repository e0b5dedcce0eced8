//! What the generator's connections do when something goes wrong.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use router_core::clock::Clock;

use super::*;

const A_MINUTE: u64 = 60_000_000_000;

/// Clients, and what they need to work.
struct Bench<'a> {
    clients: Clients<'a>,
    reactor: Reactor,
    records: Records,
}

impl<'a> Bench<'a> {
    fn new(route: Route, most: usize, done: &'a AtomicU64) -> Self {
        let clients = Clients::new(route, ("bench.test", "/"), most, A_MINUTE, done);
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

/// HTTP/2 to a proxy on one connection, with two requests on their way; and the proxy's side of it.
fn two_streams(done: &AtomicU64) -> (Bench<'_>, TcpListener, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 1, done);
    bench.clients.http2(10);
    bench.submit();
    bench.submit();
    let (mut proxy, _) = listener.accept().unwrap();
    proxy.write_all(SETTINGS).unwrap();
    (bench, listener, proxy)
}

/// Reads frames up to one of this type.
fn frame(proxy: &mut TcpStream, wanted: u8) {
    let mut head = [0; 9];
    loop {
        proxy.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        proxy.read_exact(&mut vec![0; length as usize]).unwrap();
        if head[3] == wanted {
            return;
        }
    }
}

#[test]
fn a_connection_has_as_many_streams_as_it_may_and_the_others_wait() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let done = AtomicU64::new(0);
    let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 1, &done);
    bench.clients.http2(2);
    (0..3).for_each(|_| bench.submit());
    assert_eq!((bench.clients.line.len(), bench.clients.outcome.waited), (1, 1));
    let (mut proxy, _) = listener.accept().unwrap();
    proxy.write_all(&[SETTINGS, ANSWER].concat()).unwrap();
    bench.until(|clients| clients.answered == 1);
    assert_eq!((bench.clients.line.len(), bench.clients.in_flight), (0, 2));
    // It was sent when there was room, and its time counts from then.
    let arrived: Vec<_> = bench.records.iter().map(|record| record.arrived).collect();
    let first = bench.records.iter().next().map_or(0, |record| record.done);
    assert!(arrived[1] < first && arrived[2] >= first, "{arrived:?}, {first}");
}

#[test]
fn streams_are_given_up_one_by_one_and_their_connection_stays() {
    let done = AtomicU64::new(0);
    let (mut bench, listener, mut proxy) = two_streams(&done);
    let now = bench.reactor.now();
    bench.clients.expire(now, &bench.reactor).unwrap();
    assert_eq!((bench.clients.in_flight, bench.clients.failed), (2, 0));
    bench.clients.expire(now + 2 * A_MINUTE, &bench.reactor).unwrap();
    assert_eq!((bench.clients.in_flight, bench.clients.failed), (0, 2));
    assert_eq!(bench.clients.outcome.faults, [("no answer in time".to_owned(), 2)].into());
    // The preface, then a reset for each.
    proxy.read_exact(&mut [0; 24]).unwrap();
    (0..2).for_each(|_| frame(&mut proxy, 3));
    bench.submit();
    // The answer is on stream 5.
    proxy.write_all(b"\0\0\x01\x01\x05\0\0\0\x05\x88").unwrap();
    bench.until(|clients| clients.in_flight == 0);
    assert_eq!((bench.clients.outcome.good, done.load(Ordering::Relaxed)), (1, 3));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "another connection was opened");
}

#[test]
fn all_requests_of_a_lost_connection_are_faults() {
    let done = AtomicU64::new(0);
    let (mut bench, _listener, mut proxy) = two_streams(&done);
    proxy.write_all(ANSWER).unwrap();
    bench.until(|clients| clients.in_flight == 1);
    bench.submit();
    drop(proxy);
    bench.until(|clients| clients.in_flight == 0);
    assert_eq!((bench.clients.answered, bench.clients.failed, done.load(Ordering::Relaxed)), (1, 2, 3));
    assert_eq!(bench.clients.outcome.faults.values().sum::<u64>(), 2, "{:?}", bench.clients.outcome);
    let answered: Vec<_> =
        bench.records.iter().map(|record| record.done >= record.due && record.done < u64::MAX).collect();
    assert_eq!(answered, [true, false, false]);
}

#[test]
fn a_request_that_is_given_up_takes_its_connection_with_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let done = AtomicU64::new(0);
    let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 1, &done);
    bench.submit();
    let (mut late, _) = listener.accept().unwrap();
    let now = bench.reactor.now();
    bench.clients.expire(now + 2 * A_MINUTE, &bench.reactor).unwrap();
    assert_eq!(bench.clients.outcome.faults, [("no answer in time".to_owned(), 1)].into());
    // An answer that comes too late is nobody's.
    let _ = late.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    bench.submit();
    assert_eq!(bench.clients.outcome.waited, 1, "its place is free when it is buried");
    bench.until(|clients| clients.line.is_empty());
    let (mut proxy, _) = listener.accept().unwrap();
    proxy.write_all(b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    bench.until(|clients| clients.in_flight == 0);
    assert_eq!((bench.clients.outcome.good, done.load(Ordering::Relaxed)), (1, 2));
    // More came than was asked for: whose the next answer on it would be, nobody knows.
    assert!(bench.clients.idle.is_empty());
}

#[test]
fn a_connection_that_ends_says_where() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let done = AtomicU64::new(0);
    for (text, fault) in [
        (&b""[..], Some("closed before the answer")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", Some("closed within the answer")),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", None),
        (
            b"HTTP/1.1 404 No\r\nx-router-fault: H99\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            Some("404 H99"),
        ),
        (b"nonsense\r\n", Some("the answer is not HTTP")),
    ] {
        let mut bench = Bench::new(Route::Proxy(listener.local_addr().unwrap()), 1, &done);
        bench.submit();
        let (mut proxy, _) = listener.accept().unwrap();
        // All of the request, so that the end is one and no reset.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            proxy.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        proxy.write_all(text).unwrap();
        drop(proxy);
        bench.until(|clients| clients.in_flight == 0);
        let faults: Vec<_> = bench.clients.outcome.faults.keys().map(String::as_str).collect();
        assert_eq!(faults, fault.into_iter().collect::<Vec<_>>());
        assert_eq!(bench.clients.outcome.good, u64::from(fault.is_none()));
        assert!(bench.clients.idle.is_empty(), "{fault:?}");
    }
}
