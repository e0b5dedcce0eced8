//! Requests as streams of HTTP/2: several on a connection, which is taken in turn with the others while it has room.

use std::io;
use std::sync::atomic::Ordering;

use http::Request;

use super::Clients;
use crate::mux::{Answered, Mux};
use crate::reactor::Reactor;
use crate::records::Records;
use crate::wire;

impl Clients<'_> {
    /// HTTP/2 is spoken to the proxy, with at most so many streams on a connection.
    pub fn http2(&mut self, streams: usize) {
        self.streams = Some(streams.max(1));
    }

    pub(super) fn mux(&self) -> io::Result<Option<Box<Mux>>> {
        self.streams.map(|_| Mux::new().map(Box::new)).transpose()
    }

    /// Sends a request as a stream.
    pub(super) fn stream(
        &mut self,
        index: usize,
        number: u32,
        service: u64,
        reactor: &Reactor,
    ) -> io::Result<()> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let path = self.replay.as_ref().map_or(&*self.path, |replay| replay.path(number as usize));
        let request = Request::get(format!("{scheme}://{}{path}", self.host))
            .header("user-agent", "dyno-bench")
            .header(wire::NUMBER, number)
            .header(wire::SERVICE, service)
            .body(());
        let conn = &mut self.conns[index];
        let Some(mux) = &mut conn.mux else { return Ok(()) };
        let sent =
            request.map_err(|error| error.to_string()).and_then(|request| mux.request(number, request));
        if let Err(why) = sent {
            self.fault(format!("http2: {why}"));
        }
        self.turn(index, reactor, None)
    }

    /// Reads what has come on a connection, sends what there is to send, and says who is answered.
    pub(super) fn turn(
        &mut self,
        index: usize,
        reactor: &Reactor,
        records: Option<&mut Records>,
    ) -> io::Result<()> {
        let conn = &mut self.conns[index];
        let Some(mux) = &mut conn.mux else { return Ok(()) };
        let mut ended = Vec::new();
        let over = mux.turn(&mut conn.input, &mut ended);
        mux.output(&mut conn.output);
        let now = reactor.now();
        if let Some(records) = records {
            self.answered(ended, now, records);
        } else {
            // Nothing has come, so nobody is answered; but a connection that is over ends its requests.
            for Answered { result, .. } in ended {
                self.fault(result.err().map_or_else(|| "http2".to_owned(), |why| format!("http2: {why}")));
            }
        }
        if let Err(why) = over {
            self.lose(index, &format!("http2: {why}"));
            return Ok(());
        }
        self.offer(index);
        self.flush(index, reactor)
    }

    fn answered(&mut self, ended: Vec<Answered>, now: u64, records: &mut Records) {
        for Answered { number, result } in ended {
            match result {
                Ok((status, fault)) => {
                    if let Some(record) = records.get_mut(number) {
                        record.done = now;
                    }
                    self.in_flight -= 1;
                    self.answered += 1;
                    self.done.fetch_add(1, Ordering::Relaxed);
                    match super::verdict(status, fault) {
                        None => self.outcome.good += 1,
                        Some(fault) => *self.outcome.faults.entry(fault).or_default() += 1,
                    }
                }
                Err(why) => self.fault(format!("http2: {why}")),
            }
        }
    }

    /// The connection is over, and so are its requests.
    pub(super) fn lose(&mut self, index: usize, why: &str) {
        let lost = self.conns[index].mux.as_ref().map_or(0, |mux| mux.len());
        self.close(index);
        for _ in 0..lost {
            self.fault(why.to_owned());
        }
    }

    /// A connection that has room for another stream is taken after all others that have; one that has none, or no
    /// longer because the proxy has said so, is not taken.
    pub(super) fn offer(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let most = self.streams.unwrap_or(0);
        let room = !conn.dead && conn.mux.as_mut().is_some_and(|mux| mux.len() < most && mux.is_ready());
        let place = self.idle.iter().position(|idle| *idle == index);
        match (room, place) {
            (true, None) => self.idle.insert(0, index),
            (false, Some(place)) => _ = self.idle.remove(place),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Sends those in line for which connections have room.
    pub(super) fn fill_streams(&mut self, reactor: &Reactor, records: &mut Records) -> io::Result<()> {
        while self.streams.is_some() && !self.line.is_empty() {
            let Some(conn) = self.idle.pop() else { break };
            if let Some(number) = self.line.pop_front() {
                self.send(conn, number, reactor, records)?;
            }
        }
        Ok(())
    }

    /// Gives up one stream whose time is over; the others of its connection go on.
    pub(super) fn expire_stream(&mut self, index: usize, number: u32, reactor: &Reactor) -> io::Result<()> {
        let conn = self.conns.get_mut(index).filter(|conn| !conn.dead);
        if conn.and_then(|conn| conn.mux.as_mut()).is_some_and(|mux| mux.cancel(number)) {
            self.fault("no answer in time".to_owned());
            return self.turn(index, reactor, None);
        }
        Ok(())
    }
}
