//! Emulated dynos on a reactor: their ports, their connections, and what is asked of them.
//!
//! What they then do is in `work`.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;

use slab::Slab;

use super::behaviour::{Accept, Behaviour, Crash};
use super::door::Door;
use super::fleet::Crew;
use super::seen::{Seen, Tell, Who};
use super::temper::Temper;
use crate::reactor::{Reactor, Ready, Source, Timer, nanos};
use crate::wire::{self, Body, Fill, Parsed, RequestHead};

#[cfg(test)]
mod tests;

/// All dynos of one thread.
pub(crate) struct Dynos {
    pub(super) behaviour: Behaviour,
    pub(super) dynos: Vec<Dyno>,
    /// The number of the first of them.
    pub(super) first: u32,
    pub(super) conns: Slab<Conn>,
    /// Connections that are closed but still may be named by an event at hand.
    pub(super) dead: Vec<usize>,
    scratch: Vec<u8>,
    /// The answer, and the one that ends the connection.
    pub(super) answers: [Answer; 2],
    tell: Option<Tell>,
    pub(super) seen: Seen,
}

#[derive(Debug)]
pub(super) struct Dyno {
    pub(super) door: Door,
    pub(super) temper: Temper,
    pub(super) serving: Option<Serving>,
    pub(super) line: VecDeque<Job>,
    pub(super) open: u32,
    /// When it goes down by itself.
    pub(super) crash_at: u64,
    /// Connections that it does not read while it works.
    pub(super) muted: Vec<usize>,
    /// A connection waits to be accepted until it has worked: what it was doing when that came.
    pub(super) knock: Option<Glimpse>,
    /// Whether its door is watched.
    watched: bool,
}

/// What a dyno was doing at some instant.
#[derive(Clone, Debug)]
pub(super) struct Glimpse {
    served: Who,
    served_for: u64,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) conn: Option<usize>,
    pub(super) who: Who,
    pub(super) service: u64,
    pub(super) close: bool,
    pub(super) head_only: bool,
}

#[derive(Debug)]
pub(super) struct Serving {
    pub(super) job: Job,
    /// Its place on the tape.
    pub(super) entry: usize,
    pub(super) since: u64,
    pub(super) ends: u64,
    /// The timer that is set for it; others are of work that a crash has ended.
    pub(super) due: u64,
    pub(super) crash: Option<Crash>,
    /// How many pieces of the answer there are, and how many may be sent by now.
    pub(super) pieces: (u32, u32),
    /// How much of the answer is written, and how much may be.
    pub(super) written: usize,
    pub(super) upto: usize,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) dyno: u32,
    pub(super) stream: TcpStream,
    input: Vec<u8>,
    /// What is still to come of the body of the last request.
    body: Body,
    /// Whether we wait for room to write.
    pub(super) waiting: bool,
    /// Whether it is left alone until the dyno has worked.
    pub(super) muted: bool,
    /// What is watched: reading, writing.
    watched: (bool, bool),
    /// Its next request came while the dyno did this.
    early: Option<Glimpse>,
    pub(super) dead: bool,
}

impl Dynos {
    /// Dynos with these ports, numbered from `first`; those without a time to boot take connections at once.
    pub(super) fn new(
        doors: Vec<Door>,
        first: u32,
        behaviour: Behaviour,
        tell: Option<Tell>,
        reactor: &mut Reactor,
    ) -> io::Result<Self> {
        let now = reactor.now();
        let dyno = |(door, number)| Dyno {
            door,
            temper: Temper::new(&behaviour, number, now),
            serving: None,
            line: VecDeque::new(),
            open: 0,
            crash_at: u64::MAX,
            muted: Vec::new(),
            knock: None,
            watched: false,
        };
        let bytes = behaviour.answer_bytes;
        let mut dynos = Self {
            dynos: doors.into_iter().zip(first..).map(dyno).collect(),
            first,
            conns: Slab::new(),
            dead: Vec::new(),
            scratch: vec![0; 16 * 1024],
            answers: [Answer::new(bytes, ""), Answer::new(bytes, "connection: close\r\n")],
            behaviour,
            tell,
            seen: Seen::default(),
        };
        for index in 0..dynos.dynos.len() as u32 {
            dynos.boot(index, reactor)?;
        }
        Ok(dynos)
    }

    /// Ends the dynos.
    pub(crate) fn into_seen(self) -> Seen {
        self.seen
    }

    /// The dyno will take connections when it has booted.
    pub(super) fn boot(&mut self, index: u32, reactor: &mut Reactor) -> io::Result<()> {
        if self.behaviour.boot.is_zero() {
            return self.up(index, reactor);
        }
        reactor.at(reactor.now().saturating_add(nanos(self.behaviour.boot)), Timer::Boot(index));
        Ok(())
    }

    pub(super) fn up(&mut self, index: u32, reactor: &mut Reactor) -> io::Result<()> {
        let now = reactor.now();
        let dyno = &mut self.dynos[index as usize];
        dyno.door.open()?;
        dyno.watch(index, true, reactor)?;
        dyno.temper.start(&self.behaviour, now);
        if let Some(crash) = dyno.temper.next_crash(&self.behaviour, now) {
            dyno.crash_at = crash;
            reactor.at(crash, Timer::Crash(index));
        }
        Ok(())
    }

    /// What a dyno does that neither accepts nor reads while it works; `None` if it is idle, or does.
    fn deaf(&self, index: u32, now: u64) -> Option<Glimpse> {
        let serving = self.dynos[index as usize].serving.as_ref();
        let serving = serving.filter(|_| self.behaviour.accept != Accept::All)?;
        Some(Glimpse { served: serving.job.who.clone(), served_for: now.saturating_sub(serving.since) })
    }

    fn accept(&mut self, index: u32, reactor: &Reactor) -> io::Result<()> {
        let deaf = self.deaf(index, reactor.now());
        let dyno = &mut self.dynos[index as usize];
        if deaf.is_some() {
            dyno.knock = deaf;
            return dyno.watch(index, false, reactor);
        }
        let Some(stream) = dyno.door.accept()? else { return Ok(()) };
        let knock = dyno.knock.take();
        self.seen.connections += 1;
        self.seen.second_connections += u64::from(dyno.open > 0 || knock.is_some());
        dyno.open += 1;
        let entry = self.conns.vacant_entry();
        reactor.watch(&stream, source(entry.key()))?;
        entry.insert(Conn {
            dyno: index,
            early: knock.filter(|_| has_bytes(&stream)),
            stream,
            input: Vec::new(),
            body: Body::Length(0),
            waiting: false,
            muted: false,
            watched: (true, false),
            dead: false,
        });
        Ok(())
    }

    fn readable(&mut self, index: usize, reactor: &mut Reactor) -> io::Result<()> {
        let Some(conn) = self.conns.get(index).filter(|conn| !conn.dead) else { return Ok(()) };
        // The body of a request at hand is read in any case.
        if conn.body == Body::Length(0)
            && let Some(glimpse) = self.deaf(conn.dyno, reactor.now())
        {
            let conn = &mut self.conns[index];
            if conn.early.is_none() && has_bytes(&conn.stream) {
                conn.early = Some(glimpse);
            }
            conn.muted = true;
            self.dynos[conn.dyno as usize].muted.push(index);
            return conn.watch(index, reactor);
        }
        self.read(index, reactor)
    }

    fn read(&mut self, index: usize, reactor: &mut Reactor) -> io::Result<()> {
        let conn = &mut self.conns[index];
        match wire::fill(&conn.stream, &mut self.scratch, &mut conn.input) {
            Ok(Fill::Some) => {}
            Ok(Fill::Nothing) => return Ok(()),
            Ok(Fill::End) | Err(_) => return self.close(index, reactor),
        }
        loop {
            let conn = &mut self.conns[index];
            if conn.dead {
                return Ok(());
            }
            match conn.body.take(&mut conn.input) {
                Parsed::Whole(()) => conn.body = Body::Length(0),
                Parsed::Partial => return Ok(()),
                Parsed::Broken => return self.close(index, reactor),
            }
            if conn.input.is_empty() {
                return Ok(());
            }
            match wire::request(&conn.input) {
                Parsed::Whole(head) => {
                    conn.input.drain(..head.len);
                    conn.body = head.body;
                    let dyno = conn.dyno;
                    self.came(dyno, index, head, reactor)?;
                }
                Parsed::Partial => return Ok(()),
                Parsed::Broken => return self.close(index, reactor),
            }
        }
    }

    /// A request has come: it is worked on at once if the dyno is idle, and is an overlap if it is not.
    fn came(&mut self, index: u32, conn: usize, head: RequestHead, reactor: &mut Reactor) -> io::Result<()> {
        self.seen.strangers += u64::from(head.number.is_none());
        let dyno = &mut self.dynos[index as usize];
        let job = Job {
            conn: Some(conn),
            who: Who { number: head.number, id: head.id },
            service: head.service.unwrap_or_else(|| dyno.temper.service(&self.behaviour)),
            close: head.close || self.behaviour.close,
            head_only: head.head_only,
        };
        let now = reactor.now();
        let busy = dyno.serving.as_ref().map(|serving| Glimpse {
            served: serving.job.who.clone(),
            served_for: now.saturating_sub(serving.since),
        });
        let idle = busy.is_none();
        if let Some(glimpse) = self.conns[conn].early.take().or(busy) {
            self.overlap(index, &glimpse, &job.who);
        }
        if idle {
            return self.start(index, job, true, reactor);
        }
        self.dynos[index as usize].line.push_back(job);
        Ok(())
    }

    fn overlap(&mut self, index: u32, glimpse: &Glimpse, came: &Who) {
        if !self.behaviour.exclusive {
            return;
        }
        let overlap = self.seen.overlap(self.first + index, &glimpse.served, came, glimpse.served_for);
        if let Some(tell) = &mut self.tell {
            tell(&overlap);
        }
    }

    /// The connection is gone. Work that was begun goes on without it; an answer that was being written ends here.
    pub(super) fn close(&mut self, index: usize, reactor: &mut Reactor) -> io::Result<()> {
        let number = self.conns[index].dyno;
        self.part(index);
        let dyno = &mut self.dynos[number as usize];
        let Some(serving) = dyno.serving.as_mut().filter(|serving| serving.job.conn == Some(index)) else {
            return Ok(());
        };
        serving.job.conn = None;
        if serving.done() { self.next(number, reactor) } else { Ok(()) }
    }

    /// Ends a connection. What came on it early was one too many, and requests in line go on without it.
    pub(super) fn part(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.dead = true;
        let _ = conn.stream.shutdown(std::net::Shutdown::Both);
        self.dead.push(index);
        let (number, early) = (conn.dyno, conn.early.take());
        if let Some(glimpse) = early {
            self.overlap(number, &glimpse, &Who::default());
        }
        let dyno = &mut self.dynos[number as usize];
        dyno.open -= 1;
        for job in dyno.line.iter_mut().filter(|job| job.conn == Some(index)) {
            job.conn = None;
        }
    }
}

impl Crew for Dynos {
    fn on_ready(&mut self, ready: Ready, reactor: &mut Reactor) -> io::Result<()> {
        match ready.source {
            Source::Listener(dyno) => self.accept(dyno, reactor),
            Source::Dyno(conn) => {
                let conn = conn as usize;
                if ready.writable {
                    self.write(conn, reactor)?;
                }
                if ready.readable { self.readable(conn, reactor) } else { Ok(()) }
            }
            Source::Client(_) => Ok(()),
        }
    }

    fn on_timer(&mut self, timer: Timer, due: u64, reactor: &mut Reactor) -> io::Result<()> {
        match timer {
            Timer::Service(dyno) => self.on_work(dyno, due, reactor),
            Timer::Boot(dyno) => self.up(dyno, reactor),
            Timer::Crash(dyno) if self.dynos[dyno as usize].crash_at == due => {
                self.crash(dyno, Crash::Before, reactor)
            }
            Timer::Crash(_) | Timer::Arrival | Timer::Client | Timer::Measure | Timer::Stop => Ok(()),
        }
    }

    fn bury(&mut self) {
        for conn in self.dead.drain(..) {
            self.conns.remove(conn);
        }
    }

    fn seen(&mut self) -> &mut Seen {
        &mut self.seen
    }
}

impl Dyno {
    /// Hears knocks at its door, or no longer.
    pub(super) fn watch(&mut self, index: u32, watched: bool, reactor: &Reactor) -> io::Result<()> {
        match (std::mem::replace(&mut self.watched, watched), watched) {
            (false, true) => reactor.watch(self.door.socket(), Source::Listener(index)),
            (true, false) => reactor.unwatch(self.door.socket()),
            (false, false) | (true, true) => Ok(()),
        }
    }
}

impl Conn {
    /// Watches for what it waits for, and nothing else.
    pub(super) fn watch(&mut self, index: usize, reactor: &Reactor) -> io::Result<()> {
        let wanted = (!self.muted, self.waiting);
        reactor.rewatch(&self.stream, source(index), self.watched, wanted)?;
        self.watched = wanted;
        Ok(())
    }
}

fn source(index: usize) -> Source {
    Source::Dyno(u32::try_from(index).unwrap_or(u32::MAX))
}

/// Whether something can be read that is not the end.
fn has_bytes(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_ok_and(|len| len > 0)
}

/// An answer, and how much of it is head.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) head: usize,
}

impl Answer {
    fn new(length: usize, header: &str) -> Self {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{header}\r\n"
        )
        .into_bytes();
        let head = bytes.len();
        bytes.extend(b"hello world\n".iter().cycle().take(length));
        Self { bytes, head }
    }

    /// Sends what fits of a part of it at once.
    pub(super) fn send(&self, mut stream: &TcpStream, from: usize, to: usize) -> io::Result<usize> {
        match stream.write(&self.bytes[from..to]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            done => done,
        }
    }
}
