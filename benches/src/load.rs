//! The generator's side: connections to the proxy, requests out, answers in, and what went wrong.
//!
//! A request takes the connection that was used last, or a new one. Nothing is sent twice: a request whose connection
//! breaks is a fault. With `Route::Direct` there is no proxy: each connection belongs to one dyno, and requests wait in
//! a line of the generator's own, which is as near to the ideal line as this machine comes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use slab::Slab;

use crate::reactor::{Reactor, Ready, Source};
use crate::records::Records;
use crate::wire::{self, Body, Fill, Parsed};

/// Where the requests go.
#[derive(Clone, Debug)]
pub enum Route {
    /// To a proxy, which chooses the dyno.
    Proxy(SocketAddr),
    /// To these dynos, one connection each.
    Direct(Vec<SocketAddr>),
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests answered with a 2xx status and no fault.
    pub good: u64,
    /// All others, by what happened to them.
    pub faults: BTreeMap<String, u64>,
}

/// All connections of the generator.
#[derive(Debug)]
pub struct Clients<'a> {
    route: Route,
    host: String,
    most: usize,
    timeout: u64,
    conns: Slab<Conn>,
    /// Connections without a request, the one used last at the end.
    idle: Vec<usize>,
    /// Requests that no connection could take.
    line: VecDeque<u32>,
    /// When which request on which connection is given up. All are given the same time, so the order is that of
    /// sending.
    deadlines: VecDeque<(u64, usize, u32)>,
    /// Dynos without a connection, when there is no proxy.
    missing: Vec<usize>,
    dead: Vec<usize>,
    scratch: Vec<u8>,
    head: Vec<u8>,
    done: &'a AtomicU64,
    /// Requests on their way, or in line.
    pub in_flight: u64,
    /// Requests ended by an answer since this was last set to 0.
    pub answered: u64,
    /// Requests ended without an answer since this was last set to 0.
    pub failed: u64,
    /// What the clients have seen so far.
    pub outcome: Outcome,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    address: usize,
    number: Option<u32>,
    answer: Option<Answer>,
    input: Vec<u8>,
    output: Vec<u8>,
    dead: bool,
}

#[derive(Debug)]
struct Answer {
    fault: Option<String>,
    body: Body,
    close: bool,
}

impl<'a> Clients<'a> {
    /// Clients with at most `most` connections, each request given up after `timeout` nanoseconds. Counts in `done`.
    pub fn new(route: Route, host: &str, most: usize, timeout: u64, done: &'a AtomicU64) -> Self {
        let (most, missing) = match &route {
            Route::Proxy(_) => (most.max(1), Vec::new()),
            Route::Direct(dynos) => (dynos.len(), (0..dynos.len()).collect()),
        };
        Self {
            route,
            host: host.to_owned(),
            most,
            timeout,
            conns: Slab::new(),
            idle: Vec::new(),
            line: VecDeque::new(),
            deadlines: VecDeque::new(),
            missing,
            dead: Vec::new(),
            scratch: vec![0; 64 * 1024],
            head: Vec::new(),
            done,
            in_flight: 0,
            answered: 0,
            failed: 0,
            outcome: Outcome::default(),
        }
    }

    /// Opens connections before the first request, at most as many as there may be.
    ///
    /// # Errors
    /// When the proxy does not accept them.
    pub fn open(&mut self, count: usize, reactor: &Reactor) -> io::Result<()> {
        while self.conns.len() < count.min(self.most) {
            let conn = self.connect(reactor)?;
            self.idle.push(conn);
        }
        Ok(())
    }

    /// Sends a request, or puts it in line if all connections are taken.
    pub fn submit(&mut self, number: u32, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        self.in_flight += 1;
        if matches!(self.route, Route::Direct(_)) {
            stamp(records, number, reactor.now());
        }
        if let Some(conn) = self.idle.pop() {
            return self.send(conn, number, reactor, records);
        }
        if self.conns.len() >= self.most {
            self.line.push_back(number);
            return Ok(());
        }
        match self.connect(reactor) {
            Ok(conn) => self.send(conn, number, reactor, records),
            Err(error) => {
                self.fault(format!("connect: {}", error.kind()));
                Ok(())
            }
        }
    }

    /// Handles a ready connection.
    pub fn on_ready(
        &mut self,
        conn: u32,
        ready: Ready,
        reactor: &Reactor,
        records: &mut Records,
    ) -> io::Result<()> {
        let conn = conn as usize;
        if ready.writable {
            self.flush(conn, reactor)?;
        }
        if ready.readable { self.read(conn, reactor, records) } else { Ok(()) }
    }

    /// Gives up the requests whose time is over.
    pub fn expire(&mut self, now: u64) {
        while let Some((_, index, number)) = self.deadlines.pop_front_if(|(deadline, ..)| *deadline <= now) {
            if self.conns.get(index).is_some_and(|conn| !conn.dead && conn.number == Some(number)) {
                self.close(index);
                self.fault("no answer in time".to_owned());
            }
        }
    }

    /// Ends what is still on its way at the end of a run.
    pub fn give_up(&mut self) {
        while self.in_flight > 0 {
            self.fault("unanswered at the end".to_owned());
        }
    }

    /// Forgets closed connections; to be called when no event is at hand.
    pub fn bury(&mut self) {
        for conn in self.dead.drain(..) {
            self.conns.remove(conn);
        }
    }

    fn connect(&mut self, reactor: &Reactor) -> io::Result<usize> {
        let (address, target) = match &self.route {
            Route::Proxy(proxy) => (0, *proxy),
            Route::Direct(dynos) => {
                let address = self.missing.pop().unwrap_or(0);
                (address, dynos[address])
            }
        };
        let stream = connect(target)?;
        let entry = self.conns.vacant_entry();
        let index = entry.key();
        reactor.watch(&stream, source(index))?;
        let (input, output) = (Vec::new(), Vec::new());
        entry.insert(Conn { stream, address, number: None, answer: None, input, output, dead: false });
        Ok(index)
    }

    fn send(
        &mut self,
        index: usize,
        number: u32,
        reactor: &Reactor,
        records: &mut Records,
    ) -> io::Result<()> {
        let Some(service) = records.get_mut(number).map(|record| record.service) else { return Ok(()) };
        self.head.clear();
        let (host, names) = (&self.host, (wire::NUMBER, wire::SERVICE));
        write!(
            self.head,
            "GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: dyno-bench\r\n{}: {number}\r\n{}: {service}\r\n\r\n",
            names.0, names.1
        )?;
        let now = reactor.now();
        if matches!(self.route, Route::Proxy(_)) {
            stamp(records, number, now);
        }
        let conn = &mut self.conns[index];
        conn.number = Some(number);
        self.deadlines.push_back((now.saturating_add(self.timeout), index, number));
        let sent = match (&conn.stream).write(&self.head) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The reader learns what happened and counts it.
            Err(_) => return Ok(()),
        };
        if sent < self.head.len() {
            conn.output.extend_from_slice(&self.head[sent..]);
            reactor.watch_writable(&conn.stream, source(index), true)?;
        }
        Ok(())
    }

    fn flush(&mut self, index: usize, reactor: &Reactor) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        match (&conn.stream).write(&conn.output) {
            Ok(sent) => {
                conn.output.drain(..sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The reader learns what happened and counts it.
            Err(_) => conn.output.clear(),
        }
        if conn.output.is_empty() {
            reactor.watch_writable(&conn.stream, source(index), false)
        } else {
            Ok(())
        }
    }

    fn read(&mut self, index: usize, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        let end = match wire::fill(&conn.stream, &mut self.scratch, &mut conn.input) {
            Ok(Fill::Some) => None,
            Ok(Fill::Nothing) => return Ok(()),
            Ok(Fill::End) => Some("closed".to_owned()),
            Err(error) => Some(error.kind().to_string()),
        };
        if let Some(why) = end {
            return self.ended(index, &why, reactor, records);
        }
        match conn.parse() {
            Parsed::Partial => Ok(()),
            Parsed::Whole(()) => self.complete(index, reactor, records),
            Parsed::Broken => {
                self.close(index);
                self.fault("the answer is not HTTP".to_owned());
                Ok(())
            }
        }
    }

    /// The other side has ended the connection: the end of the answer, of an idle time, or a fault.
    fn ended(&mut self, index: usize, why: &str, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        let conn = &self.conns[index];
        match (&conn.answer, conn.number) {
            (Some(Answer { body: Body::UntilClose, .. }), Some(_)) => self.complete(index, reactor, records),
            (answer, Some(_)) => {
                let place = if answer.is_some() { "within" } else { "before" };
                self.close(index);
                self.fault(format!("{why} {place} the answer"));
                Ok(())
            }
            (_, None) => {
                self.close(index);
                Ok(())
            }
        }
    }

    fn complete(&mut self, index: usize, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        let conn = &mut self.conns[index];
        let (Some(number), Some(answer)) = (conn.number.take(), conn.answer.take()) else { return Ok(()) };
        if let Some(record) = records.get_mut(number) {
            record.done = reactor.now();
        }
        self.in_flight -= 1;
        self.answered += 1;
        match answer.fault {
            None => self.outcome.good += 1,
            Some(fault) => *self.outcome.faults.entry(fault).or_default() += 1,
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        if answer.close || !conn.input.is_empty() {
            self.close(index);
        } else if let Some(next) = self.line.pop_front() {
            return self.send(index, next, reactor, records);
        } else {
            self.idle.push(index);
        }
        Ok(())
    }

    fn fault(&mut self, what: String) {
        *self.outcome.faults.entry(what).or_default() += 1;
        self.in_flight -= 1;
        self.failed += 1;
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.dead = true;
        let _ = conn.stream.shutdown(std::net::Shutdown::Both);
        if matches!(self.route, Route::Direct(_)) {
            self.missing.push(conn.address);
        }
        self.idle.retain(|idle| *idle != index);
        self.dead.push(index);
    }

    /// Sends what is in line as far as new connections may be opened: those that ended have left room.
    pub fn advance(&mut self, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        while self.conns.len() < self.most
            && let Some(number) = self.line.pop_front()
        {
            match self.connect(reactor) {
                Ok(conn) => self.send(conn, number, reactor, records)?,
                Err(error) => self.fault(format!("connect: {}", error.kind())),
            }
        }
        Ok(())
    }
}

impl Conn {
    /// Reads what has come of the answer.
    fn parse(&mut self) -> Parsed<()> {
        if self.number.is_none() {
            return Parsed::Partial;
        }
        while self.answer.is_none() {
            match wire::answer(&self.input) {
                Parsed::Whole(head) => {
                    self.input.drain(..head.len);
                    if head.status >= 200 {
                        let bad = head.fault.is_some() || head.status >= 300;
                        let name =
                            |fault: Option<String>| format!("{} {}", head.status, fault.unwrap_or_default());
                        let fault = bad.then(|| name(head.fault).trim_end().to_owned());
                        self.answer = Some(Answer { fault, body: head.body, close: head.close });
                    }
                }
                Parsed::Partial => return Parsed::Partial,
                Parsed::Broken => return Parsed::Broken,
            }
        }
        self.answer.as_mut().map_or(Parsed::Partial, |answer| answer.body.take(&mut self.input))
    }
}

fn source(index: usize) -> Source {
    Source::Client(u32::try_from(index).unwrap_or(u32::MAX))
}

fn stamp(records: &mut Records, number: u32, now: u64) {
    if let Some(record) = records.get_mut(number) {
        record.arrived = now;
    }
}

/// Begins to connect. The socket can be written when that is done.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}
