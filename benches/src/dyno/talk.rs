//! What a tap reads along on a connection: where requests begin and where answers end.

use std::collections::VecDeque;

use super::seen::Who;
use crate::wire::{self, Body, Parsed};

/// A request has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Whose it is.
    pub(super) who: Who,
    /// Whether its answer has a head only.
    pub(super) head_only: bool,
}

/// The way to the server: requests one after the other.
#[derive(Debug)]
pub(super) struct Requests {
    input: Vec<u8>,
    body: Body,
    state: State,
}

/// Whether a way can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is HTTP/1 so far.
    Reading,
    /// It has just turned out to be no HTTP/1, which is to be told.
    Lost,
    /// It is passed on unread to its end.
    Opaque,
}

impl Default for Requests {
    fn default() -> Self {
        Self { input: Vec::new(), body: Body::Length(0), state: State::Reading }
    }
}

impl Requests {
    /// Takes what has come.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.state == State::Reading {
            self.input.extend_from_slice(bytes);
        }
    }

    /// What still comes is no HTTP/1, or nobody can tell its answers apart: it is passed on unread.
    pub(super) fn lose(&mut self) {
        self.state = State::Opaque;
        self.input = Vec::new();
    }

    /// The next request whose head is whole. Bytes that are no request count as one.
    pub(super) fn next(&mut self) -> Option<Event> {
        if self.state == State::Reading {
            match self.body.take(&mut self.input) {
                Parsed::Whole(()) => self.body = Body::Length(0),
                Parsed::Partial => return None,
                Parsed::Broken => self.state = State::Lost,
            }
        }
        if self.state == State::Reading {
            if self.input.is_empty() {
                return None;
            }
            match wire::request(&self.input) {
                Parsed::Whole(head) => {
                    self.input.drain(..head.len);
                    self.body = head.body;
                    let who = Who { number: head.number, id: head.id };
                    return Some(Event { who, head_only: head.head_only });
                }
                Parsed::Partial => return None,
                Parsed::Broken => self.state = State::Lost,
            }
        }
        if self.state == State::Opaque {
            return None;
        }
        self.lose();
        Some(Event { who: Who::default(), head_only: false })
    }
}

/// The way back: answers one after the other.
#[derive(Debug, Default)]
pub(super) struct Answers {
    input: Vec<u8>,
    /// The requests that are not yet answered: whether only a head will come.
    asked: VecDeque<bool>,
    /// What is still to come of the answer at hand.
    body: Option<Body>,
    opaque: bool,
    ended: bool,
}

impl Answers {
    /// A request has gone to the server.
    pub(super) fn asked(&mut self, head_only: bool) {
        self.asked.push_back(head_only);
    }

    /// Whether every request is answered.
    pub(super) fn idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether answers are told apart no longer: what comes belongs to the oldest request, to the end.
    pub(super) fn lost(&self) -> bool {
        self.opaque
    }

    /// Takes what has come.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if !self.opaque {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Nothing more comes: the end of an answer that lasts until then.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether another answer is whole.
    pub(super) fn next(&mut self) -> bool {
        loop {
            let Some(head_only) = self.asked.front().copied() else {
                // An answer that nobody asked for, as 408 of an idle connection, belongs to no request.
                self.input.clear();
                return false;
            };
            if self.opaque {
                return self.ended && self.asked.pop_front().is_some();
            }
            let Some(body) = &mut self.body else {
                match wire::answer(&self.input) {
                    Parsed::Whole(head) => {
                        self.input.drain(..head.len);
                        match head.status {
                            101 => self.lose(),
                            ..200 => {}
                            _ => self.body = Some(if head_only { Body::Length(0) } else { head.body }),
                        }
                    }
                    Parsed::Partial => return false,
                    Parsed::Broken => self.lose(),
                }
                continue;
            };
            match body.take(&mut self.input) {
                Parsed::Partial if self.ended && *body == Body::UntilClose => {}
                Parsed::Whole(()) => {}
                Parsed::Partial => return false,
                Parsed::Broken => {
                    self.lose();
                    continue;
                }
            }
            self.body = None;
            self.asked.pop_front();
            return true;
        }
    }

    fn lose(&mut self) {
        self.opaque = true;
        self.input = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"POST / HTTP/1.1\r\nX-Bench-Request: 1\r\nContent-Length: 3\r\n\r\nabc\
        HEAD / HTTP/1.1\r\nX-Request-Id: r2\r\n\r\n";

    fn all(requests: &mut Requests) -> Vec<(Option<u32>, Option<String>, bool)> {
        let event = |event: Event| (event.who.number, event.who.id.map(Into::into), event.head_only);
        std::iter::from_fn(|| requests.next()).map(event).collect()
    }

    #[test]
    fn requests_are_told_apart_wherever_they_are_cut() {
        for cut in 0..=TWO.len() {
            let mut requests = Requests::default();
            let mut found = Vec::new();
            for part in [&TWO[..cut], &TWO[cut..]] {
                requests.feed(part);
                found.extend(all(&mut requests));
            }
            assert_eq!(found, [(Some(1), None, false), (None, Some("r2".to_owned()), true)], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_request_is_one_to_the_end() {
        let mut requests = Requests::default();
        requests.feed(b"\x00\x01\x02");
        assert_eq!(all(&mut requests).len(), 1);
        requests.feed(TWO);
        assert_eq!(all(&mut requests).len(), 0);
    }

    fn answers(asked: &[bool], text: &[u8], end: bool) -> Vec<usize> {
        // How many bytes it takes until each is whole; one more than there are is the end.
        let mut answers = Answers::default();
        asked.iter().for_each(|head_only| answers.asked(*head_only));
        let mut whole = Vec::new();
        for (at, byte) in text.iter().enumerate() {
            answers.feed(&[*byte]);
            while answers.next() {
                whole.push(at + 1);
            }
        }
        if end {
            answers.end();
            while answers.next() {
                whole.push(text.len() + 1);
            }
        }
        whole
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_not_that_to_the_next_request() {
        let mut answers = Answers::default();
        answers.feed(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n");
        assert!(!answers.next() && answers.idle());
        answers.asked(false);
        assert!(!answers.next() && !answers.idle());
    }

    #[test]
    fn answers_end_by_length_by_chunk_by_method_or_by_the_end() {
        let length: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
        let chunks: &[u8] =
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let both = [length, chunks].concat();
        assert_eq!(answers(&[false; 2], &both, false), [length.len(), both.len()]);
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n";
        assert_eq!(answers(&[true, false], &[head, length].concat(), false).len(), 2);
        assert_eq!(answers(&[false], head, true), [0_usize; 0], "cut off is not answered");
        let close: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(answers(&[false], close, false), [0_usize; 0]);
        assert_eq!(answers(&[false], close, true), [close.len() + 1]);
        let upgrade: &[u8] = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x00HTTP/1.1 200";
        assert_eq!(answers(&[false], upgrade, true), [upgrade.len() + 1]);
    }
}
