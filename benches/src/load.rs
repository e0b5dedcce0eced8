//! The generator's side: connections to the proxy, requests out, answers in, and what went wrong.
//!
//! A request takes the connection that was used last, or a new one. Nothing is sent twice: a request whose connection
//! breaks is a fault. With `Route::Direct` there is no proxy: each connection belongs to one dyno, and requests wait in
//! a line of the generator's own, which is as near to the ideal line as this machine comes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slab::Slab;

use crate::arrivals::Replay;
use crate::link::{Link, Tls};
use crate::mux::Mux;
use crate::reactor::{Reactor, Ready, Source};
use crate::records::Records;
use crate::wire::{self, Body, Fill, Parsed};

mod http2;
#[cfg(test)]
mod tests;

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
    /// Requests to a proxy that waited here because all connections were taken.
    pub waited: u64,
    /// Requests for which this machine had no port, no file or no memory left.
    pub exhausted: u64,
}

impl Outcome {
    /// Adds what other clients have seen.
    pub(crate) fn add(&mut self, other: Self) {
        self.good += other.good;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.waited += other.waited;
        self.exhausted += other.exhausted;
    }
}

/// All connections of the generator, or of one thread of it.
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
    /// What is asked for, unless a log says.
    path: String,
    /// Whose paths are asked for.
    replay: Option<Arc<Replay>>,
    /// How TLS is spoken to the proxy, if it is.
    tls: Option<Tls>,
    /// How many streams a connection may have, if HTTP/2 is spoken to the proxy.
    streams: Option<usize>,
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
    link: Link,
    address: usize,
    number: Option<u32>,
    answer: Option<Answer>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The streams on it, if it is of HTTP/2.
    mux: Option<Box<Mux>>,
    /// Whether we wait for room to write.
    armed: bool,
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
    pub fn new(
        route: Route,
        (host, path): (&str, &str),
        most: usize,
        timeout: u64,
        done: &'a AtomicU64,
    ) -> Self {
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
            path: path.to_owned(),
            replay: None,
            tls: None,
            streams: None,
            in_flight: 0,
            answered: 0,
            failed: 0,
            outcome: Outcome::default(),
        }
    }

    /// Requests ask for the paths of a log, by number.
    pub fn replay(&mut self, replay: Arc<Replay>) {
        self.replay = Some(replay);
    }

    /// TLS is spoken to the proxy.
    pub fn tls(&mut self, tls: Tls) {
        self.tls = Some(tls);
    }

    /// Opens connections before the first request, at most as many as there may be.
    ///
    /// # Errors
    /// When the proxy does not accept them.
    pub fn open(&mut self, count: usize, reactor: &Reactor) -> io::Result<()> {
        while self.conns.len() < count.min(self.most) {
            let conn = self.connect(reactor)?;
            if self.streams.is_none() {
                self.idle.push(conn);
            }
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
            self.outcome.waited += u64::from(matches!(self.route, Route::Proxy(_)));
            self.line.push_back(number);
            return Ok(());
        }
        match self.connect(reactor) {
            Ok(conn) => self.send(conn, number, reactor, records),
            Err(error) => {
                let what = self.outcome.no_connection(&error);
                self.fault(what);
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
    pub fn expire(&mut self, now: u64, reactor: &Reactor) -> io::Result<()> {
        while let Some((_, index, number)) = self.deadlines.pop_front_if(|(deadline, ..)| *deadline <= now) {
            if self.conns.get(index).is_some_and(|conn| !conn.dead && conn.number == Some(number)) {
                self.close(index);
                self.fault("no answer in time".to_owned());
            }
            self.expire_stream(index, number, reactor)?;
        }
        Ok(())
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
                let address = self.missing.last().copied().unwrap_or(0);
                (address, dynos[address])
            }
        };
        let mut link = Link::connect(target, self.tls.as_ref())?;
        self.missing.pop();
        // The handshake begins now and not with the first request.
        link.flush()?;
        let mux = self.mux()?;
        let entry = self.conns.vacant_entry();
        let index = entry.key();
        reactor.watch(&link, source(index))?;
        let (input, output) = (Vec::new(), Vec::new());
        let (number, answer, armed, dead) = (None, None, false, false);
        entry.insert(Conn { link, address, number, answer, input, output, mux, armed, dead });
        self.conns[index].arm(index, reactor)?;
        self.turn(index, reactor, None)?;
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
        let now = reactor.now();
        if matches!(self.route, Route::Proxy(_)) {
            stamp(records, number, now);
        }
        self.deadlines.push_back((now.saturating_add(self.timeout), index, number));
        if self.conns[index].mux.is_some() {
            return self.stream(index, number, service, reactor);
        }
        self.head.clear();
        let (host, names) = (&self.host, (wire::NUMBER, wire::SERVICE));
        let path = self.replay.as_ref().map_or(&*self.path, |replay| replay.path(number as usize));
        write!(
            self.head,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: dyno-bench\r\n{}: {number}\r\n{}: {service}\r\n\r\n",
            names.0, names.1
        )?;
        let conn = &mut self.conns[index];
        conn.number = Some(number);
        let sent = match conn.link.write(&self.head) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The reader learns what happened and counts it.
            Err(_) => return Ok(()),
        };
        conn.output.extend_from_slice(&self.head[sent..]);
        conn.arm(index, reactor)
    }

    fn flush(&mut self, index: usize, reactor: &Reactor) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        if conn.is_waiting() {
            match conn.link.flush().and_then(|()| conn.link.write(&conn.output)) {
                Ok(sent) => {
                    conn.output.drain(..sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The reader learns what happened and counts it.
                Err(_) => {
                    conn.output.clear();
                    conn.armed = false;
                    return reactor.watch_writable(&conn.link, source(index), false);
                }
            }
        }
        conn.arm(index, reactor)
    }

    fn read(&mut self, index: usize, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        let end = match conn.link.fill(&mut self.scratch, &mut conn.input) {
            Ok(Fill::Some) => None,
            // Of TLS it may have been a part of the handshake, which goes on.
            Ok(Fill::Nothing) if conn.link.wants_write() => return self.flush(index, reactor),
            Ok(Fill::Nothing) => return Ok(()),
            Ok(Fill::End) => Some("closed".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(format!("tls: {error}")),
            Err(error) => Some(error.kind().to_string()),
        };
        if let Some(why) = end {
            return self.ended(index, &why, reactor, records);
        }
        if conn.mux.is_some() {
            self.turn(index, reactor, Some(records))?;
            return self.fill_streams(reactor, records);
        }
        if conn.number.is_none() {
            // Nobody has asked for anything: such as 408, before a proxy closes a connection that was idle.
            self.close(index);
            return Ok(());
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
        if conn.mux.is_some() {
            self.lose(index, why);
            return Ok(());
        }
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
        if std::mem::replace(&mut conn.dead, true) {
            return;
        }
        conn.link.shutdown();
        if matches!(self.route, Route::Direct(_)) {
            self.missing.push(conn.address);
        }
        self.idle.retain(|idle| *idle != index);
        self.dead.push(index);
    }

    /// Sends what is in line as far as new connections may be opened: those that ended have left room.
    pub fn advance(&mut self, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        self.fill_streams(reactor, records)?;
        while self.conns.len() < self.most
            && let Some(number) = self.line.pop_front()
        {
            match self.connect(reactor) {
                Ok(conn) => self.send(conn, number, reactor, records)?,
                Err(error) => {
                    let what = self.outcome.no_connection(&error);
                    self.fault(what);
                }
            }
        }
        Ok(())
    }
}

impl Conn {
    /// Waits for room to write if there is something to write, and else no longer.
    fn arm(&mut self, index: usize, reactor: &Reactor) -> io::Result<()> {
        let waiting = self.is_waiting();
        if self.armed == waiting {
            return Ok(());
        }
        self.armed = waiting;
        reactor.watch_writable(&self.link, source(index), waiting)
    }

    /// Whether there is something to send that the socket did not take.
    fn is_waiting(&self) -> bool {
        !self.output.is_empty() || self.link.wants_write()
    }

    /// Reads what has come of the answer.
    fn parse(&mut self) -> Parsed<()> {
        while self.answer.is_none() {
            match wire::answer(&self.input) {
                Parsed::Whole(head) => {
                    self.input.drain(..head.len);
                    if head.status >= 200 {
                        let fault = verdict(head.status, head.fault);
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

/// What an answer counts as, if it is none of those that are good: its status, and the proxy's fault.
fn verdict(status: u16, fault: Option<String>) -> Option<String> {
    let bad = fault.is_some() || status >= 300;
    bad.then(|| format!("{status} {}", fault.unwrap_or_default()).trim_end().to_owned())
}

fn source(index: usize) -> Source {
    Source::Client(u32::try_from(index).unwrap_or(u32::MAX))
}

fn stamp(records: &mut Records, number: u32, now: u64) {
    if let Some(record) = records.get_mut(number) {
        record.arrived = now;
    }
}
