//! A tap before each real server: passes bytes on as they are, and reads along.
//!
//! It knows where requests and answers begin and end, so it notices two requests at once and writes the tape: a
//! request begins when its head is whole at the tap, and ends with the last byte of its answer. What is no HTTP/1 (or
//! no longer, after an answer 101) keeps the dyno until its connection ends. A connection that the server refuses is
//! closed.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use slab::Slab;

use super::door::Door;
use super::fleet::Crew;
use super::seen::{Seen, Tell, Who};
use super::talk::{Answers, Event, Requests};
use crate::reactor::{Reactor, Ready, Source, Timer};
use crate::records::STRANGER;
use crate::wire::{self, Fill};

#[cfg(test)]
mod tests;

/// So much may wait to be written on a side before the other is no longer read.
const MOST_WAITING: usize = 256 * 1024;

/// The taps of all dynos.
pub(super) struct Taps {
    taps: Vec<Tap>,
    pairs: Slab<Pair>,
    dead: Vec<usize>,
    scratch: Vec<u8>,
    input: Vec<u8>,
    exclusive: bool,
    tell: Option<Tell>,
    seen: Seen,
}

#[derive(Debug)]
struct Tap {
    door: Door,
    server: SocketAddr,
    /// What the server is working on, as far as can be told: one, if all is well.
    serving: Vec<Flight>,
    open: u32,
}

/// A request that is with a server.
#[derive(Debug)]
struct Flight {
    pair: usize,
    who: Who,
    since: u64,
    /// Its place on the tape.
    entry: usize,
}

/// A connection to the tap, and the one from there to the server.
#[derive(Debug)]
struct Pair {
    tap: usize,
    near: Side,
    far: Side,
    requests: Requests,
    answers: Answers,
    dead: bool,
}

#[derive(Debug)]
struct Side {
    stream: TcpStream,
    /// What is still to be written to it.
    output: Vec<u8>,
    /// Nothing more comes from it.
    ended: bool,
    /// Nothing more is written to it.
    shut: bool,
    /// Nothing can be written to it.
    gone: bool,
    /// What is watched: reading, writing.
    watched: (bool, bool),
}

impl Taps {
    /// Taps with these doors, which are open, each before its server.
    pub(super) fn new(
        doors: Vec<Door>,
        servers: &[SocketAddr],
        exclusive: bool,
        tell: Option<Tell>,
        reactor: &Reactor,
    ) -> io::Result<Self> {
        for (index, door) in doors.iter().enumerate() {
            reactor.watch(door.socket(), Source::Listener(index as u32))?;
        }
        let tap =
            |(door, server): (Door, &SocketAddr)| Tap { door, server: *server, serving: Vec::new(), open: 0 };
        Ok(Self {
            taps: doors.into_iter().zip(servers).map(tap).collect(),
            pairs: Slab::new(),
            dead: Vec::new(),
            scratch: vec![0; 64 * 1024],
            input: Vec::new(),
            exclusive,
            tell,
            seen: Seen::default(),
        })
    }

    fn accept(&mut self, index: usize, reactor: &Reactor) -> io::Result<()> {
        let tap = &mut self.taps[index];
        let Some(near) = tap.door.accept()? else { return Ok(()) };
        let Ok(far) = wire::connect(tap.server) else { return Ok(()) };
        self.seen.connections += 1;
        self.seen.second_connections += u64::from(tap.open > 0);
        tap.open += 1;
        let entry = self.pairs.vacant_entry();
        let key = entry.key();
        reactor.watch(&near, source(key, true))?;
        reactor.watch(&far, source(key, false))?;
        let side = |stream| Side {
            stream,
            output: Vec::new(),
            ended: false,
            shut: false,
            gone: false,
            watched: (true, false),
        };
        entry.insert(Pair {
            tap: index,
            near: side(near),
            far: side(far),
            requests: Requests::default(),
            answers: Answers::default(),
            dead: false,
        });
        Ok(())
    }

    /// Passes on what comes from a side, and reads along.
    fn pass(&mut self, key: usize, near: bool, reactor: &Reactor) -> io::Result<()> {
        let Some(pair) = self.pairs.get_mut(key).filter(|pair| !pair.dead) else { return Ok(()) };
        let (from, to) = pair.sides(near);
        self.input.clear();
        match wire::fill(&from.stream, &mut self.scratch, &mut self.input) {
            Ok(Fill::Some) => to.output.extend_from_slice(&self.input),
            Ok(Fill::Nothing) => return Ok(()),
            Ok(Fill::End) => from.ended = true,
            // The server may still be at work for a client that is gone, and what it has said is for the client.
            Err(_) => (from.ended, from.gone) = (true, true),
        }
        let now = reactor.now();
        if near {
            self.pairs[key].requests.feed(&self.input);
            while let Some(event) = self.pairs[key].requests.next() {
                self.on_request(key, event, now);
            }
            self.flush(key, reactor)?;
            return self.settle(key, reactor);
        }
        // The answer's last byte is on its way before the server counts as free.
        self.flush(key, reactor)?;
        let Some(pair) = self.pairs.get_mut(key).filter(|pair| !pair.dead) else { return Ok(()) };
        pair.answers.feed(&self.input);
        if pair.far.ended {
            pair.answers.end();
        }
        while self.pairs[key].answers.next() {
            self.on_answer(key, now);
        }
        let pair = &mut self.pairs[key];
        if pair.answers.lost() {
            // The server is with this connection to its end: what else comes on it is no second request.
            pair.requests.lose();
        }
        self.settle(key, reactor)
    }

    /// Ends a connection whose client is gone, once the server has answered.
    fn settle(&mut self, key: usize, reactor: &Reactor) -> io::Result<()> {
        let Some(pair) = self.pairs.get(key).filter(|pair| !pair.dead) else { return Ok(()) };
        let over = pair.near.ended && pair.answers.idle() && pair.near.output.is_empty();
        if over { self.close(key, reactor) } else { Ok(()) }
    }

    fn on_request(&mut self, key: usize, event: Event, now: u64) {
        let pair = &mut self.pairs[key];
        pair.answers.asked(event.head_only);
        let (index, who) = (pair.tap, event.who);
        self.seen.requests += 1;
        self.seen.strangers += u64::from(who.number.is_none());
        let dyno = index as u32;
        let tap = &mut self.taps[index];
        if let Some(first) = tap.serving.first().filter(|_| self.exclusive) {
            let overlap = self.seen.overlap(dyno, &first.who, &who, now.saturating_sub(first.since));
            if let Some(tell) = &mut self.tell {
                tell(&overlap);
            }
        }
        let entry = self.seen.tape.begin(who.number.unwrap_or(STRANGER), dyno, now);
        tap.serving.push(Flight { pair: key, who, since: now, entry });
    }

    /// The oldest request of a connection is answered.
    fn on_answer(&mut self, key: usize, now: u64) {
        let serving = &mut self.taps[self.pairs[key].tap].serving;
        if let Some(place) = serving.iter().position(|flight| flight.pair == key) {
            self.seen.tape.end(serving.remove(place).entry, now);
        }
    }

    /// Writes what there is to write on both sides, and watches for the rest.
    fn flush(&mut self, key: usize, reactor: &Reactor) -> io::Result<()> {
        let Some(pair) = self.pairs.get_mut(key).filter(|pair| !pair.dead) else { return Ok(()) };
        // A server that takes no more may have answered: that is read to its end.
        pair.near.gone |= pair.near.flush(pair.far.ended).is_err();
        pair.far.gone |= pair.far.flush(pair.near.ended).is_err();
        if pair.far.ended && pair.near.shut {
            // The server has ended the connection: nothing that still came would reach it.
            return self.close(key, reactor);
        }
        let (near, far) = (pair.near.output.len() < MOST_WAITING, pair.far.output.len() < MOST_WAITING);
        pair.near.watch(far, source(key, true), reactor)?;
        pair.far.watch(near, source(key, false), reactor)
    }

    /// A connection is at its end, and with it the requests on it.
    fn close(&mut self, key: usize, reactor: &Reactor) -> io::Result<()> {
        let pair = &mut self.pairs[key];
        pair.dead = true;
        pair.answers.end();
        let index = pair.tap;
        for side in [&mut pair.near, &mut pair.far] {
            let _ = side.stream.shutdown(Shutdown::Both);
            reactor.rewatch(&side.stream, source(key, true), side.watched, (false, false))?;
            side.watched = (false, false);
        }
        let now = reactor.now();
        while self.pairs[key].answers.next() {
            self.on_answer(key, now);
        }
        let tap = &mut self.taps[index];
        tap.open -= 1;
        tap.serving.retain(|flight| flight.pair != key);
        self.dead.push(key);
        Ok(())
    }
}

impl Crew for Taps {
    fn on_ready(&mut self, ready: Ready, reactor: &mut Reactor) -> io::Result<()> {
        let (key, near) = match ready.source {
            Source::Listener(tap) => return self.accept(tap as usize, reactor),
            Source::Dyno(key) => (key as usize, true),
            Source::Client(key) => (key as usize, false),
        };
        if ready.writable {
            self.flush(key, reactor)?;
            self.settle(key, reactor)?;
        }
        if ready.readable { self.pass(key, near, reactor) } else { Ok(()) }
    }

    fn on_timer(&mut self, _timer: Timer, _due: u64, _reactor: &mut Reactor) -> io::Result<()> {
        Ok(())
    }

    fn bury(&mut self) {
        for key in self.dead.drain(..) {
            self.pairs.remove(key);
        }
    }

    fn seen(&mut self) -> &mut Seen {
        &mut self.seen
    }
}

impl Pair {
    /// The side that something comes from, and the other.
    fn sides(&mut self, near: bool) -> (&mut Side, &mut Side) {
        if near { (&mut self.near, &mut self.far) } else { (&mut self.far, &mut self.near) }
    }
}

impl Side {
    /// Writes what it can. When all is written and the other side has ended, this one is told.
    fn flush(&mut self, other_ended: bool) -> io::Result<()> {
        if self.gone {
            self.output.clear();
        }
        if !self.output.is_empty() {
            match (&self.stream).write(&self.output) {
                Ok(len) => {
                    self.output.drain(..len);
                }
                Err(error) if waits(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if self.output.is_empty() && other_ended && !self.shut {
            self.shut = true;
            // One that was never connected, or is gone already, is met when it is read.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Reads on if the other side `takes` more.
    fn watch(&mut self, takes: bool, source: Source, reactor: &Reactor) -> io::Result<()> {
        let wanted = (takes && !self.ended, !self.output.is_empty());
        reactor.rewatch(&self.stream, source, self.watched, wanted)?;
        self.watched = wanted;
        Ok(())
    }
}

/// Whether a write has only to be tried again: also before a connection is there.
fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted
    )
}

fn source(key: usize, near: bool) -> Source {
    let key = u32::try_from(key).unwrap_or(u32::MAX);
    if near { Source::Dyno(key) } else { Source::Client(key) }
}
