//! What an emulated dyno does: work, answer, take the next request, go down.

use std::io;

use super::behaviour::{Accept, Crash};
use super::dynos::{Answer, Dynos, Job, Serving};
use crate::reactor::{Reactor, Timer};
use crate::records::STRANGER;

impl Dynos {
    /// Begins with a request. Only if it may end `at_once` does one without a service time need no timer.
    pub(super) fn start(
        &mut self,
        index: u32,
        job: Job,
        at_once: bool,
        reactor: &mut Reactor,
    ) -> io::Result<()> {
        let now = reactor.now();
        let dyno = &mut self.dynos[index as usize];
        let work = dyno.temper.work(&self.behaviour, now, job.service);
        self.seen.requests += 1;
        let entry = self.seen.tape.begin(job.who.number.unwrap_or(STRANGER), self.first + index, now);
        let pieces = if work.crash.is_some() { 1 } else { self.behaviour.pieces.max(1) };
        let serving = Serving {
            job,
            entry,
            since: now,
            ends: work.ends,
            due: now,
            crash: work.crash,
            pieces: (pieces, 0),
            written: 0,
            upto: 0,
        };
        let serving = dyno.serving.insert(serving);
        if at_once && work.ends == now && work.crash.is_none() {
            return self.done(index, reactor);
        }
        serving.due = serving.next_piece();
        reactor.at(serving.due, Timer::Service(index));
        Ok(())
    }

    /// A dyno has worked until `due`: a piece of the answer is ready, the last one, or the dyno goes down.
    pub(super) fn on_work(&mut self, index: u32, due: u64, reactor: &mut Reactor) -> io::Result<()> {
        let serving = self.dynos[index as usize].serving.as_mut().filter(|serving| serving.due == due);
        let Some(serving) = serving else { return Ok(()) };
        if serving.pieces.1 >= serving.pieces.0 {
            return Ok(());
        }
        self.seen.late.saturating_record(reactor.now().saturating_sub(due));
        if let Some(crash) = serving.crash {
            return self.crash(index, crash, reactor);
        }
        let (pieces, ready) = serving.pieces;
        if ready + 1 == pieces {
            return self.done(index, reactor);
        }
        serving.pieces.1 += 1;
        serving.due = serving.next_piece();
        reactor.at(serving.due, Timer::Service(index));
        serving.upto = serving.answer(&self.answers).upto(ready + 1, pieces, serving.job.head_only);
        serving.job.conn.map_or(Ok(()), |conn| self.write(conn, reactor))
    }

    fn done(&mut self, index: u32, reactor: &mut Reactor) -> io::Result<()> {
        let Some(serving) = &mut self.dynos[index as usize].serving else { return Ok(()) };
        self.seen.tape.end(serving.entry, reactor.now());
        serving.pieces.1 = serving.pieces.0;
        serving.upto = serving.answer(&self.answers).upto(1, 1, serving.job.head_only);
        match serving.job.conn {
            Some(conn) => self.write(conn, reactor),
            None => self.next(index, reactor),
        }
    }

    /// Writes what may be written of the answer by now; when all of it is out, the dyno is free.
    pub(super) fn write(&mut self, index: usize, reactor: &mut Reactor) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead) else { return Ok(()) };
        let number = conn.dyno;
        let serving = self.dynos[number as usize].serving.as_mut();
        let Some(serving) = serving.filter(|serving| serving.job.conn == Some(index)) else { return Ok(()) };
        if serving.written < serving.upto {
            match serving.answer(&self.answers).send(&conn.stream, serving.written, serving.upto) {
                Ok(len) => serving.written += len,
                Err(_) => return self.close(index, reactor),
            }
        }
        let waiting = serving.written < serving.upto;
        if waiting != conn.waiting {
            conn.waiting = waiting;
            conn.watch(index, reactor)?;
        }
        if waiting || !serving.done() {
            return Ok(());
        }
        if serving.job.close {
            // Not by `close`, which would take the request for one without a client.
            self.part(index);
        }
        self.next(number, reactor)
    }

    /// The dyno is free: it takes the next request, or hears again what it did not while it worked.
    pub(super) fn next(&mut self, index: u32, reactor: &mut Reactor) -> io::Result<()> {
        let dyno = &mut self.dynos[index as usize];
        dyno.serving = None;
        if let Some(job) = dyno.line.pop_front() {
            return self.start(index, job, false, reactor);
        }
        if self.behaviour.accept == Accept::All {
            return Ok(());
        }
        if dyno.knock.is_some() {
            dyno.watch(index, true, reactor)?;
        }
        for index in std::mem::take(&mut dyno.muted) {
            if let Some(conn) = self.conns.get_mut(index).filter(|conn| !conn.dead && conn.muted) {
                conn.muted = false;
                conn.watch(index, reactor)?;
            }
        }
        Ok(())
    }

    /// The dyno goes down: its connections end, its port closes, its requests are lost; then it boots.
    pub(super) fn crash(&mut self, index: u32, how: Crash, reactor: &mut Reactor) -> io::Result<()> {
        self.seen.crashes += 1;
        let dyno = &mut self.dynos[index as usize];
        if let Some(serving) = dyno.serving.take()
            && let Some(conn) = serving.job.conn
            && how == Crash::Within
        {
            let answer = serving.answer(&self.answers);
            // If it does not fit, less than half is sent.
            let _ = answer.send(&self.conns[conn].stream, 0, answer.bytes.len() / 2);
        }
        dyno.line.clear();
        dyno.muted.clear();
        dyno.crash_at = u64::MAX;
        dyno.knock = None;
        dyno.watch(index, false, reactor)?;
        dyno.door.close()?;
        let open = self.conns.iter().filter(|(_, conn)| conn.dyno == index && !conn.dead);
        for conn in open.map(|(conn, _)| conn).collect::<Vec<_>>() {
            self.part(conn);
        }
        self.boot(index, reactor)
    }
}

impl Serving {
    /// Whether the work is done, and what is left is to write.
    pub(super) fn done(&self) -> bool {
        self.pieces.1 == self.pieces.0
    }

    fn next_piece(&self) -> u64 {
        let (pieces, ready) = self.pieces;
        let length = u128::from(self.ends - self.since) * u128::from(ready + 1) / u128::from(pieces);
        self.since.saturating_add(u64::try_from(length).unwrap_or(u64::MAX))
    }

    fn answer<'a>(&self, answers: &'a [Answer; 2]) -> &'a Answer {
        &answers[usize::from(self.job.close)]
    }
}

impl Answer {
    /// How much of it may be sent when so many of its pieces are ready. The head comes with the first, without a body with
    /// the last.
    fn upto(&self, ready: u32, pieces: u32, head_only: bool) -> usize {
        let body = if head_only { 0 } else { self.bytes.len() - self.head };
        if body == 0 && ready < pieces {
            // The head would be all of it, and whoever reads it would take the dyno for free.
            return 0;
        }
        self.head + (body as u64 * u64::from(ready) / u64::from(pieces)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_piece_and_not_before() {
        let answer = |body: usize| Answer { bytes: vec![0; 10 + body], head: 10 };
        let upto = |body, head_only| [1, 2, 3].map(|ready| answer(body).upto(ready, 3, head_only));
        assert_eq!(upto(6, false), [12, 14, 16]);
        assert_eq!(upto(1, false), [10, 10, 11]);
        assert_eq!((upto(0, false), upto(6, true)), ([0, 0, 10], [0, 0, 10]));
        assert_eq!(answer(0).upto(1, 1, false), 10);
    }
}
