//! Emulated dynos: each does one request at a time and notices when it is given two.
//!
//! A dyno accepts every connection and reads every head at once, because that is how it learns of an overlap; but it
//! works on one request after the other, as a single-threaded process would. A request whose connection has gone is
//! worked on to its end all the same.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use hdrhistogram::Histogram;
use slab::Slab;

use crate::reactor::{Reactor, Ready, Source, Timer};
use crate::records::{NEVER, Records};
use crate::report::histogram;
use crate::wire::{self, Fill, Parsed, RequestHead};

/// So many overlaps are kept to be shown.
const SHOWN: usize = 10;
/// A request that the generator did not send, such as a probe.
const STRANGER: u32 = u32::MAX;

/// Two requests in one dyno.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Overlap {
    /// The dyno.
    pub dyno: u32,
    /// The request that was being served; `None` if the generator did not send it.
    pub served: Option<u32>,
    /// The request that came before it was done.
    pub came: Option<u32>,
}

/// What the dynos have seen.
#[derive(Debug)]
pub struct Seen {
    /// Requests that came while the dyno was serving another.
    pub overlaps: u64,
    /// The first few of them.
    pub shown: Vec<Overlap>,
    /// Connections opened while the dyno had another one open.
    pub second_connections: u64,
    /// Requests that came a second time: the proxy has tried again.
    pub repeats: u64,
    /// Requests that the generator did not send.
    pub strangers: u64,
    /// How late the dynos' own timers were, in nanoseconds.
    pub late: Histogram<u64>,
}

/// All dynos of a run.
#[derive(Debug)]
pub struct Dynos {
    listeners: Vec<TcpListener>,
    dynos: Vec<Dyno>,
    conns: Slab<Conn>,
    /// Connections that are closed but still may be named by an event at hand.
    dead: Vec<usize>,
    scratch: Vec<u8>,
    answer: Vec<u8>,
    last_answer: Vec<u8>,
    exclusive: bool,
    /// What they have seen so far.
    pub seen: Seen,
}

#[derive(Debug, Default)]
struct Dyno {
    serving: Option<Serving>,
    line: VecDeque<Job>,
    open: u32,
}

#[derive(Debug)]
struct Job {
    conn: Option<usize>,
    number: u32,
    service: u64,
    close: bool,
}

#[derive(Debug)]
struct Serving {
    conn: Option<usize>,
    number: u32,
    close: bool,
}

#[derive(Debug)]
struct Conn {
    dyno: u32,
    stream: TcpStream,
    input: Vec<u8>,
    /// How much of the answer is written, if the socket took only a part.
    written: Option<usize>,
    /// Whether we wait for room to write the rest.
    waiting: bool,
    dead: bool,
}

/// Binds `count` listeners on the loopback address: from `first_port` up, or on free ports if that is 0.
pub fn listen(count: u16, first_port: u16) -> io::Result<Vec<TcpListener>> {
    (0..count)
        .map(|n| {
            let port = if first_port == 0 { 0 } else { first_port.saturating_add(n) };
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.listen(1024)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })
        .collect()
}

impl Dynos {
    /// Dynos on these listeners that answer with `bytes` bytes. If they are not `exclusive`, overlaps are no matter.
    pub fn new(
        listeners: Vec<TcpListener>,
        bytes: usize,
        exclusive: bool,
        reactor: &Reactor,
    ) -> io::Result<Self> {
        for (index, listener) in listeners.iter().enumerate() {
            reactor.watch(listener, Source::Listener(u32::try_from(index).unwrap_or(u32::MAX)))?;
        }
        let dynos = listeners.iter().map(|_| Dyno::default()).collect();
        let seen = Seen {
            overlaps: 0,
            shown: Vec::new(),
            second_connections: 0,
            repeats: 0,
            strangers: 0,
            late: histogram(),
        };
        let (answer, last_answer) = (answer(bytes, ""), answer(bytes, "connection: close\r\n"));
        let scratch = vec![0; 16 * 1024];
        let (conns, dead) = (Slab::new(), Vec::new());
        Ok(Self { listeners, dynos, conns, dead, scratch, answer, last_answer, exclusive, seen })
    }

    /// How many dynos there are.
    pub fn len(&self) -> usize {
        self.dynos.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dynos.is_empty()
    }

    /// Handles a ready socket of a dyno.
    pub fn on_ready(&mut self, ready: Ready, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        match ready.source {
            Source::Listener(dyno) => self.accept(dyno, reactor),
            Source::Dyno(conn) => {
                let conn = conn as usize;
                if ready.writable {
                    self.write(conn, reactor, records)?;
                }
                if ready.readable { self.read(conn, reactor, records) } else { Ok(()) }
            }
            Source::Client(_) => Ok(()),
        }
    }

    /// The dyno has done its work, which was due at `due`: it answers and takes the next request.
    pub fn on_done(
        &mut self,
        dyno: u32,
        due: u64,
        reactor: &mut Reactor,
        records: &mut Records,
    ) -> io::Result<()> {
        self.seen.late.saturating_record(reactor.now().saturating_sub(due));
        self.done(dyno, reactor, records)
    }

    /// Forgets closed connections; to be called when no event is at hand.
    pub fn bury(&mut self) {
        for conn in self.dead.drain(..) {
            self.conns.remove(conn);
        }
    }

    fn accept(&mut self, index: u32, reactor: &Reactor) -> io::Result<()> {
        let stream = match self.listeners[index as usize].accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let dyno = &mut self.dynos[index as usize];
        self.seen.second_connections += u64::from(dyno.open > 0);
        dyno.open += 1;
        let entry = self.conns.vacant_entry();
        reactor.watch(&stream, Source::Dyno(u32::try_from(entry.key()).unwrap_or(u32::MAX)))?;
        entry.insert(Conn {
            dyno: index,
            stream,
            input: Vec::new(),
            written: None,
            waiting: false,
            dead: false,
        });
        Ok(())
    }

    fn read(&mut self, index: usize, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        match wire::fill(&conn.stream, &mut self.scratch, &mut conn.input) {
            Ok(Fill::Some) => {}
            Ok(Fill::Nothing) => return Ok(()),
            Ok(Fill::End) | Err(_) => return self.close(index, reactor, records),
        }
        loop {
            let conn = &mut self.conns[index];
            match wire::request(&conn.input) {
                Parsed::Whole(head) => {
                    conn.input.drain(..head.len);
                    let dyno = conn.dyno;
                    self.came(dyno, index, head, reactor, records)?;
                }
                Parsed::Partial => return Ok(()),
                Parsed::Broken => return self.close(index, reactor, records),
            }
            if self.conns[index].dead || self.conns[index].input.is_empty() {
                return Ok(());
            }
        }
    }

    /// A request has come: it is worked on at once if the dyno is idle, and is an overlap if it is not.
    fn came(
        &mut self,
        index: u32,
        conn: usize,
        head: RequestHead,
        reactor: &mut Reactor,
        records: &mut Records,
    ) -> io::Result<()> {
        let number = head.number.unwrap_or(STRANGER);
        self.seen.strangers += u64::from(number == STRANGER);
        let dyno = &mut self.dynos[index as usize];
        let job = Job { conn: Some(conn), number, service: head.service, close: head.close };
        let Some(serving) = &dyno.serving else { return self.start(index, job, reactor, records) };
        if self.exclusive {
            self.seen.overlaps += 1;
            if self.seen.shown.len() < SHOWN {
                let known = |number| Some(number).filter(|number| *number != STRANGER);
                let (served, came) = (known(serving.number), known(number));
                self.seen.shown.push(Overlap { dyno: index, served, came });
            }
        }
        dyno.line.push_back(job);
        Ok(())
    }

    fn start(
        &mut self,
        index: u32,
        job: Job,
        reactor: &mut Reactor,
        records: &mut Records,
    ) -> io::Result<()> {
        let now = reactor.now();
        if let Some(record) = records.get_mut(job.number) {
            if record.started == NEVER {
                (record.started, record.dyno) = (now, index);
            } else {
                self.seen.repeats += 1;
            }
        }
        let serving = Serving { conn: job.conn, number: job.number, close: job.close };
        self.dynos[index as usize].serving = Some(serving);
        if job.service == 0 {
            return self.done(index, reactor, records);
        }
        reactor.at(now.saturating_add(job.service), Timer::Service(index));
        Ok(())
    }

    fn done(&mut self, index: u32, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        let Some(serving) = &self.dynos[index as usize].serving else { return Ok(()) };
        if let Some(record) = records.get_mut(serving.number) {
            record.ended = reactor.now();
        }
        let Some(conn) = serving.conn else { return self.next(index, reactor, records) };
        self.conns[conn].written = Some(0);
        self.write(conn, reactor, records)
    }

    /// Writes the answer, or what is left of it; when it is out, the dyno is free.
    fn write(&mut self, index: usize, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        let Some(before) = conn.written else { return Ok(()) };
        let dyno = conn.dyno;
        let close = self.dynos[dyno as usize].serving.as_ref().is_some_and(|serving| serving.close);
        let answer = if close { &self.last_answer } else { &self.answer };
        let source = Source::Dyno(u32::try_from(index).unwrap_or(u32::MAX));
        let after = match (&conn.stream).write(&answer[before..]) {
            Ok(len) => before + len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => before,
            Err(_) => return self.close(index, reactor, records),
        };
        if after < answer.len() {
            (conn.written, conn.waiting) = (Some(after), true);
            return reactor.watch_writable(&conn.stream, source, true);
        }
        conn.written = None;
        if std::mem::take(&mut conn.waiting) {
            reactor.watch_writable(&conn.stream, source, false)?;
        }
        if close {
            // Not by `close`, which would count the request as one without a client.
            conn.dead = true;
            let _ = conn.stream.shutdown(std::net::Shutdown::Both);
            self.dead.push(index);
            self.dynos[dyno as usize].open -= 1;
        }
        self.next(dyno, reactor, records)
    }

    fn next(&mut self, index: u32, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        let dyno = &mut self.dynos[index as usize];
        dyno.serving = None;
        match dyno.line.pop_front() {
            Some(job) => self.start(index, job, reactor, records),
            None => Ok(()),
        }
    }

    /// The connection is gone. Work that was begun goes on without it; an answer that was being written ends here.
    fn close(&mut self, index: usize, reactor: &mut Reactor, records: &mut Records) -> io::Result<()> {
        let conn = &mut self.conns[index];
        conn.dead = true;
        let (number, writing) = (conn.dyno, conn.written.is_some());
        let _ = conn.stream.shutdown(std::net::Shutdown::Both);
        self.dead.push(index);
        let dyno = &mut self.dynos[number as usize];
        dyno.open -= 1;
        for job in dyno.line.iter_mut().filter(|job| job.conn == Some(index)) {
            job.conn = None;
        }
        let Some(serving) = dyno.serving.as_mut().filter(|serving| serving.conn == Some(index)) else {
            return Ok(());
        };
        serving.conn = None;
        if writing { self.next(number, reactor, records) } else { Ok(()) }
    }
}

fn answer(bytes: usize, header: &str) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {bytes}\r\n{header}\r\n");
    let body = std::iter::repeat_n(b"hello world\n", bytes / 12 + 1).flatten().take(bytes);
    head.bytes().chain(body.copied()).collect()
}
