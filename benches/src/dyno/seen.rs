//! What dynos have seen: their work, and every breach of one request at a time.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::records::Tape;
use crate::report::histogram;

/// So many overlaps are kept to be shown.
const SHOWN: usize = 10;

/// A request, as far as a dyno can say whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The generator's number; `None` if the generator did not send it.
    pub number: Option<u32>,
    /// Its `X-Request-Id`, if it has one: most proxies send it on or make one.
    pub id: Option<Box<str>>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.number, &self.id) {
            (Some(number), Some(id)) => write!(f, "{number} (id {id})"),
            (Some(number), None) => write!(f, "{number}"),
            (None, Some(id)) => write!(f, "unknown (id {id})"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// Two requests in one dyno.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// The dyno.
    pub dyno: u32,
    /// The number of the request that was being served; `None` if the generator did not send it.
    pub served: Option<u32>,
    /// Its `X-Request-Id`.
    pub served_id: Option<Box<str>>,
    /// The number of the request that came before it was done.
    pub came: Option<u32>,
    /// Its `X-Request-Id`.
    pub came_id: Option<Box<str>>,
    /// How long the first had been served by then, in milliseconds.
    pub served_for_ms: f64,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let served = Who { number: self.served, id: self.served_id.clone() };
        let came = Who { number: self.came, id: self.came_id.clone() };
        let (dyno, ms) = (self.dyno, self.served_for_ms);
        write!(f, "dyno {dyno} was serving request {served} for {ms:.3} ms when request {came} came")
    }
}

/// What the dynos have seen.
#[derive(Debug)]
pub struct Seen {
    /// Requests that dynos have begun to work on.
    pub requests: u64,
    /// Requests that came while the dyno was serving another.
    pub overlaps: u64,
    /// The first 10 of them.
    pub shown: Vec<Overlap>,
    /// Connections that were opened to them.
    pub connections: u64,
    /// Connections opened while the dyno had another one open.
    pub second_connections: u64,
    /// Requests that the generator did not send.
    pub strangers: u64,
    /// How often a dyno has gone down.
    pub crashes: u64,
    /// How late the dynos' own timers were, in nanoseconds.
    pub late: Histogram<u64>,
    /// What else the user should know, in words.
    pub notes: Vec<String>,
    /// What they have worked on, in the order in which they began.
    pub tape: Tape,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            requests: 0,
            overlaps: 0,
            shown: Vec::new(),
            connections: 0,
            second_connections: 0,
            strangers: 0,
            crashes: 0,
            late: histogram(),
            notes: Vec::new(),
            tape: Tape::default(),
        }
    }
}

impl Seen {
    /// Counts an overlap, and keeps it if it is one of the first.
    pub(super) fn overlap(&mut self, dyno: u32, served: &Who, came: &Who, served_for: u64) -> Overlap {
        let overlap = Overlap {
            dyno,
            served: served.number,
            served_id: served.id.clone(),
            came: came.number,
            came_id: came.id.clone(),
            served_for_ms: served_for as f64 / 1e6,
        };
        self.overlaps += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(overlap.clone());
        }
        overlap
    }

    /// Adds what other dynos have seen.
    pub(super) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.overlaps += other.overlaps;
        self.shown.extend(other.shown);
        self.shown.truncate(SHOWN);
        self.connections += other.connections;
        self.second_connections += other.second_connections;
        self.strangers += other.strangers;
        self.crashes += other.crashes;
        // Both have the same bounds, so nothing is lost.
        let _ = self.late.add(other.late);
        self.notes.extend(other.notes);
        self.tape.append(other.tape);
    }
}

/// Is told of each overlap as it happens.
pub type Tell = Box<dyn FnMut(&Overlap) + Send>;
