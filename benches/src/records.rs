//! What is known of each request of a run: five instants on one clock, kept without moving memory while it runs.

/// An instant that has not come.
pub const NEVER: u64 = u64::MAX;

/// Records are kept in pieces of this many, so that no growth copies what is there (that would be a pause).
const PIECE: usize = 1 << 16;

/// One request; instants in nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When it was meant to be sent.
    pub due: u64,
    /// When it entered the line: for a proxy, when it was sent.
    pub arrived: u64,
    /// When a dyno began to work on it.
    pub started: u64,
    /// When that dyno had done the work.
    pub ended: u64,
    /// When the client had the last byte of the answer.
    pub done: u64,
    /// The service time that was drawn for it, in nanoseconds.
    pub service: u64,
    /// The dyno that began to work on it.
    pub dyno: u32,
}

impl Record {
    /// Whether a dyno served it to the end.
    pub fn served(&self) -> bool {
        self.started != NEVER && self.ended != NEVER && self.arrived != NEVER
    }
}

/// All requests of a run, by number.
#[derive(Debug, Default)]
pub struct Records {
    pieces: Vec<Vec<Record>>,
}

impl Records {
    /// Adds a request and gives its number.
    pub fn push(&mut self, due: u64, service: u64) -> u32 {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        let record =
            Record { due, arrived: NEVER, started: NEVER, ended: NEVER, done: NEVER, service, dyno: 0 };
        let number = self.pieces.last_mut().map_or(0, |piece| {
            piece.push(record);
            before + piece.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// The request of this number, if it was ever made: numbers come back over the wire.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Record> {
        let number = number as usize;
        self.pieces.get_mut(number / PIECE)?.get_mut(number % PIECE)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All of them, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.pieces.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_numbers_across_pieces() {
        let mut records = Records::default();
        for n in 0..(PIECE as u32 * 2 + 3) {
            assert_eq!(records.push(u64::from(n), 0), n);
        }
        assert_eq!(records.len(), PIECE * 2 + 3);
        assert_eq!(records.get_mut(PIECE as u32 + 1).unwrap().due, PIECE as u64 + 1);
        assert!(records.get_mut(u32::MAX).is_none());
    }
}
