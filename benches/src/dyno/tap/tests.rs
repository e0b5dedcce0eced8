//! A tap between a client and a server that the tests play.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use router_core::clock::Clock;

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Two taps, and the server behind both, which the test plays.
struct Tapped {
    taps: Taps,
    reactor: Reactor,
    server: TcpListener,
}

impl Tapped {
    fn new() -> Self {
        Self::before_one_that(true)
    }

    /// Taps before a server that does one request at a time, or several.
    fn before_one_that(exclusive: bool) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let (doors, reactor) = (Door::bind_all((2, 0), 0, 16).unwrap(), Reactor::new().unwrap());
        doors.iter().for_each(|door| door.open().unwrap());
        let taps = Taps::new(doors, &[server.local_addr().unwrap(); 2], exclusive, None, &reactor).unwrap();
        Self { taps, reactor, server }
    }

    /// A connection of a client, and what becomes of it at the server.
    fn connect(&mut self) -> (TcpStream, TcpStream) {
        self.connect_to(0)
    }

    fn connect_to(&mut self, tap: usize) -> (TcpStream, TcpStream) {
        let before = self.taps.seen.connections;
        let client = TcpStream::connect(self.taps.taps[tap].door.address()).unwrap();
        self.until(|taps| taps.seen.connections > before);
        let (server, _) = self.server.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
        }
        (client, server)
    }

    /// Lets the tap work until something is so.
    fn until(&mut self, mut so: impl FnMut(&mut Taps) -> bool) {
        let clock = Clock::system();
        let deadline = clock.now() + Duration::from_secs(20);
        while !so(&mut self.taps) {
            assert!(clock.now() < deadline, "in vain: {:?}", self.taps.seen.shown);
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut ready = Vec::new();
        self.reactor.wait(Duration::from_millis(5), &mut ready).unwrap();
        for event in ready {
            self.taps.on_ready(event, &mut self.reactor).unwrap();
        }
        self.taps.bury();
    }

    /// What comes to a stream, once it is so long or the stream has ended.
    fn read(&mut self, mut stream: &TcpStream, len: usize) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        self.until(|_| match stream.read(&mut buffer) {
            Ok(more) => {
                all.extend_from_slice(&buffer[..more]);
                more == 0 || all.len() >= len
            }
            Err(error) => !waits(&error),
        });
        all
    }

    fn ask(&mut self, mut client: &TcpStream, server: &TcpStream, head: &[u8]) {
        client.write_all(head).unwrap();
        assert_eq!(self.read(server, head.len()), head);
    }

    /// Requests and overlaps so far, and how many the server is working on.
    fn seen(&self) -> (u64, u64, usize) {
        (self.taps.seen.requests, self.taps.seen.overlaps, self.taps.taps[0].serving.len())
    }
}

#[test]
fn what_comes_after_an_upgrade_is_no_second_request() {
    let mut tapped = Tapped::new();
    let (client, mut server) = tapped.connect();
    tapped.ask(&client, &server, b"GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n");
    let upgrade = b"HTTP/1.1 101 S\r\nupgrade: websocket\r\n\r\n";
    server.write_all(upgrade).unwrap();
    assert_eq!(tapped.read(&client, upgrade.len()), upgrade);
    tapped.ask(&client, &server, b"\x81\x85\x01\x02\x03\x04helloGET / HTTP/1.1\r\n\r\n");
    assert_eq!(tapped.seen(), (1, 0, 1));
    // The server is with it to its end, so another request is one too many.
    let (other, far) = tapped.connect();
    tapped.ask(&other, &far, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(tapped.seen(), (2, 1, 2));
    drop((client, server));
    tapped.until(|taps| taps.taps[0].serving.len() == 1);
    assert!(tapped.taps.seen.tape.iter().next().unwrap().ended < u64::MAX);
}

#[test]
fn one_request_after_the_other_is_no_overlap_and_one_beside_the_other_is() {
    let mut tapped = Tapped::new();
    let ((one, mut far_of_one), (two, far_of_two)) = (tapped.connect(), tapped.connect());
    let head = b"GET / HTTP/1.1\r\nx-request-id: a\r\n\r\n";
    for n in 1..=2 {
        tapped.ask(&one, &far_of_one, head);
        far_of_one.write_all(ANSWER).unwrap();
        assert_eq!(tapped.read(&one, ANSWER.len()), ANSWER);
        assert_eq!(tapped.seen(), (n, 0, 0));
    }
    tapped.ask(&one, &far_of_one, head);
    // The dyno is with it until the last byte, and it is the first that is named.
    far_of_one.write_all(&ANSWER[..ANSWER.len() - 1]).unwrap();
    tapped.read(&one, ANSWER.len() - 1);
    tapped.ask(&two, &far_of_two, b"GET / HTTP/1.1\r\nx-request-id: b\r\n\r\n");
    assert_eq!(tapped.seen(), (4, 1, 2));
    let shown = &tapped.taps.seen.shown[0];
    assert_eq!((shown.served_id.as_deref(), shown.came_id.as_deref()), (Some("a"), Some("b")));
    assert_eq!((tapped.taps.seen.connections, tapped.taps.seen.second_connections), (2, 1));
    far_of_one.write_all(&ANSWER[ANSWER.len() - 1..]).unwrap();
    tapped.until(|taps| taps.taps[0].serving.len() == 1);
    // It was the first that ended.
    let ended: Vec<_> = tapped.taps.seen.tape.iter().map(|served| served.ended < u64::MAX).collect();
    assert_eq!(ended, [true, true, true, false]);
}

#[test]
fn an_answer_before_the_end_of_its_request_comes_through_although_the_server_is_gone() {
    let mut tapped = Tapped::new();
    let (mut client, mut server) = tapped.connect();
    tapped.ask(&client, &server, b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n");
    client.write_all(b"some").unwrap();
    tapped.until(|_| server.peek(&mut [0]).is_ok());
    // More has come when the server answers, and closes without reading: writing to it fails.
    client.write_all(b"more").unwrap();
    let large = b"HTTP/1.1 413 L\r\ncontent-length: 2\r\n\r\nno";
    server.write_all(large).unwrap();
    drop(server);
    assert_eq!(tapped.read(&client, large.len()), large);
    assert_eq!(tapped.seen(), (1, 0, 0));
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer_at_its_own_pace() {
    const LARGE: usize = 30_000_000;
    let mut tapped = Tapped::new();
    let (client, mut server) = tapped.connect();
    tapped.ask(&client, &server, b"GET / HTTP/1.1\r\n\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(tapped.read(&server, usize::MAX), b"", "the server is told");
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").into_bytes();
    let head = answer.len();
    answer.resize(head + LARGE, b'x');
    // While the client does not read, no more is kept for it than may wait.
    let (mut written, mut blocked) = (0, 0);
    while blocked < 50 {
        match server.write(&answer[written..]) {
            Ok(len) => (written, blocked) = (written + len, 0),
            Err(error) => {
                assert!(waits(&error), "{error}");
                blocked += 1;
            }
        }
        tapped.turn();
        let kept = tapped.taps.pairs[0].near.output.len();
        assert!(kept < MOST_WAITING + 64 * 1024, "{kept} bytes");
    }
    assert!(written < answer.len());
    assert_eq!(tapped.seen(), (1, 0, 1));
    let (mut read, mut buffer) = (0, vec![0; 1 << 20]);
    tapped.until(|_| {
        written += server.write(&answer[written..]).unwrap_or(0);
        match (&client).read(&mut buffer) {
            Ok(len) => {
                read += len;
                len == 0
            }
            Err(error) => !waits(&error),
        }
    });
    assert_eq!((read, tapped.taps.pairs.len()), (answer.len(), 0));
    assert_eq!(tapped.seen(), (1, 0, 0));
}

#[test]
fn a_server_that_goes_down_has_served_nothing_and_is_free() {
    let mut tapped = Tapped::new();
    let (client, server) = tapped.connect();
    tapped.ask(&client, &server, b"GET / HTTP/1.1\r\nx-bench-request: 7\r\n\r\n");
    assert_eq!(tapped.seen(), (1, 0, 1));
    drop(server);
    assert_eq!(tapped.read(&client, usize::MAX), b"");
    assert_eq!(tapped.seen(), (1, 0, 0));
    assert_eq!((tapped.taps.seen.strangers, tapped.taps.taps[0].open), (0, 0));
    let served: Vec<_> = tapped.taps.seen.tape.iter().map(|served| (served.number, served.ended)).collect();
    assert_eq!(served, [(7, u64::MAX)]);
}

#[test]
fn a_client_that_goes_leaves_the_server_at_work() {
    let mut tapped = Tapped::new();
    let (client, mut server) = tapped.connect();
    tapped.ask(&client, &server, b"GET / HTTP/1.1\r\n\r\n");
    drop(client);
    let (other, far) = tapped.connect();
    tapped.ask(&other, &far, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(tapped.seen(), (2, 1, 2), "the first is not answered");
    server.write_all(ANSWER).unwrap();
    tapped.until(|taps| taps.taps[0].serving.len() == 1);
    assert_eq!(tapped.taps.seen.strangers, 2);
}

#[test]
fn several_at_once_are_no_overlap_where_they_may_be() {
    let mut tapped = Tapped::before_one_that(false);
    let ((one, far_of_one), (two, far_of_two)) = (tapped.connect(), tapped.connect());
    tapped.ask(&one, &far_of_one, b"GET / HTTP/1.1\r\n\r\n");
    tapped.ask(&two, &far_of_two, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(tapped.seen(), (2, 0, 2));
}

#[test]
fn each_answer_ends_its_own_request() {
    let mut tapped = Tapped::before_one_that(false);
    let ((one, mut far_of_one), (two, mut far_of_two)) = (tapped.connect(), tapped.connect_to(1));
    let head = b"GET / HTTP/1.1\r\n\r\n";
    // Two on one connection, and one beside them.
    tapped.ask(&one, &far_of_one, head);
    tapped.ask(&one, &far_of_one, head);
    tapped.ask(&two, &far_of_two, head);
    let ended = |tapped: &Tapped| -> Vec<(u32, bool)> {
        tapped.taps.seen.tape.iter().map(|served| (served.dyno, served.ended < u64::MAX)).collect()
    };
    far_of_two.write_all(ANSWER).unwrap();
    tapped.read(&two, ANSWER.len());
    assert_eq!(ended(&tapped), [(0, false), (0, false), (1, true)]);
    far_of_one.write_all(ANSWER).unwrap();
    tapped.read(&one, ANSWER.len());
    assert_eq!(ended(&tapped), [(0, true), (0, false), (1, true)]);
    // A client of the same server on another connection.
    let (three, mut far_of_three) = tapped.connect();
    tapped.ask(&three, &far_of_three, head);
    far_of_three.write_all(ANSWER).unwrap();
    tapped.read(&three, ANSWER.len());
    assert_eq!(ended(&tapped), [(0, true), (0, false), (1, true), (0, true)]);
}

#[test]
fn a_slow_client_keeps_no_server_that_has_said_all() {
    let mut tapped = Tapped::new();
    let (client, mut server) = tapped.connect();
    // The kernel keeps little for it, so that the tap has to.
    socket2::SockRef::from(&client).set_recv_buffer_size(32_768).unwrap();
    socket2::SockRef::from(&tapped.taps.pairs[0].near.stream).set_send_buffer_size(32_768).unwrap();
    tapped.ask(&client, &server, b"GET / HTTP/1.1\r\n\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    answer.resize(200_000, b'x');
    let mut written = 0;
    tapped.until(|_| {
        written += server.write(&answer[written..]).unwrap_or(0);
        written == answer.len()
    });
    drop(server);
    tapped.until(|taps| taps.pairs[0].far.ended);
    assert!(!tapped.taps.pairs[0].near.output.is_empty(), "the client is not slow");
    assert_eq!(tapped.seen(), (1, 0, 0), "its answer is whole");
    assert_eq!(tapped.read(&client, usize::MAX), answer);
}

#[test]
fn a_connection_that_the_server_refuses_is_closed() {
    let mut tapped = Tapped::new();
    tapped.server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(tapped.taps.taps[0].door.address()).unwrap();
    client.set_nonblocking(true).unwrap();
    (&client).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(tapped.read(&client, 1), b"");
    tapped.until(|taps| taps.pairs.is_empty());
    assert_eq!(tapped.seen().2, 0, "no dyno is busy with it");
}
