//! What is known of each request of a run: five instants on one clock, kept without moving memory while it runs.
//!
//! The generator keeps its part by number ([`Records`]); the dynos write theirs on a [`Tape`], so that they may live in
//! other threads and processes. [`Records::join`] puts both together when the run is over.

/// An instant that has not come.
pub const NEVER: u64 = u64::MAX;

/// The number of a request that the generator did not send, such as a probe.
pub const STRANGER: u32 = u32::MAX;

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

/// All requests of a run, by number; or those of one generator of several, who share the numbers.
#[derive(Debug)]
pub struct Records {
    pieces: Vec<Vec<Record>>,
    part: u32,
    parts: u32,
}

impl Default for Records {
    fn default() -> Self {
        Self::of_part(0, 1)
    }
}

impl Records {
    /// Those of generator `part`, from 0, of `parts`: its n-th request has the number n x `parts` + `part`.
    pub fn of_part(part: u32, parts: u32) -> Self {
        Self { pieces: Vec::new(), part, parts: parts.max(1) }
    }

    /// All of several generators, in the order in which they were due. Each of them has its own in that order.
    pub fn merge(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 {
            return parts.remove(0);
        }
        let rest = parts.into_iter().map(|part| part.pieces.into_iter().flatten().enumerate().peekable());
        let mut rest: Vec<_> = rest.collect();
        let mut all = Self::default();
        loop {
            let heads = rest.iter_mut().filter_map(|part| {
                let (place, record) = part.peek()?;
                Some(((record.due, *place), part))
            });
            let next = heads.min_by_key(|(head, _)| *head).and_then(|(_, part)| part.next());
            let Some((_, record)) = next else { return all };
            all.add(record);
        }
    }

    /// Adds a request and gives its number.
    pub fn push(&mut self, due: u64, service: u64) -> u32 {
        let record =
            Record { due, arrived: NEVER, started: NEVER, ended: NEVER, done: NEVER, service, dyno: 0 };
        let number = self.add(record) as u64 * u64::from(self.parts) + u64::from(self.part);
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Adds a request and gives its place.
    fn add(&mut self, record: Record) -> usize {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        self.pieces.last_mut().map_or(0, |piece| {
            piece.push(record);
            before + piece.len() - 1
        })
    }

    /// The request of this number, if it was ever made here: numbers come back over the wire.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Record> {
        let (place, part) = ((number / self.parts) as usize, number % self.parts);
        self.pieces.get_mut(place / PIECE).filter(|_| part == self.part)?.get_mut(place % PIECE)
    }

    /// Adds what the dynos have seen; gives how many requests came to a dyno more than once. The first time that a dyno
    /// did the work to its end counts; without one, the first.
    pub fn join(&mut self, tape: &Tape) -> u64 {
        let mut repeats = 0;
        for served in tape.iter() {
            let known = Some(served.number).filter(|number| *number != STRANGER);
            let Some(record) = known.and_then(|number| self.get_mut(number)) else { continue };
            repeats += u64::from(record.started != NEVER);
            // The tapes of several processes follow one another.
            if (served.ended == NEVER, served.started) < (record.ended == NEVER, record.started) {
                (record.started, record.ended, record.dyno) = (served.started, served.ended, served.dyno);
            }
        }
        repeats
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

/// One piece of work of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The request, by the generator's number.
    pub number: u32,
    /// The dyno.
    pub dyno: u32,
    /// When it began.
    pub started: u64,
    /// When it was done; [`NEVER`] if it was not.
    pub ended: u64,
}

/// What dynos have worked on, in the order in which they began.
#[derive(Debug, Default)]
pub struct Tape {
    pieces: Vec<Vec<Served>>,
    blank: bool,
}

impl Tape {
    /// A tape on which nothing is kept, for dynos that work for days.
    pub fn blank() -> Self {
        Self { blank: true, ..Self::default() }
    }

    /// A dyno begins; gives the place to end at.
    pub fn begin(&mut self, number: u32, dyno: u32, started: u64) -> usize {
        if self.blank {
            return usize::MAX;
        }
        self.write(Served { number, dyno, started, ended: NEVER })
    }

    /// Adds a piece of work.
    pub fn write(&mut self, served: Served) -> usize {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        self.pieces.last_mut().map_or(0, |piece| {
            piece.push(served);
            before + piece.len() - 1
        })
    }

    /// A dyno is done with the work begun at `place`.
    pub fn end(&mut self, place: usize, ended: u64) {
        if let Some(served) =
            self.pieces.get_mut(place / PIECE).and_then(|piece| piece.get_mut(place % PIECE))
        {
            served.ended = ended;
        }
    }

    /// Adds what other dynos have worked on.
    pub fn append(&mut self, other: Self) {
        other.pieces.into_iter().flatten().for_each(|served| {
            self.write(served);
        });
    }

    /// How much there is on it.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Whether there is nothing on it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// All of it.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
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

    #[test]
    fn several_generators_share_the_numbers_and_their_records_become_one() {
        let mut parts: Vec<_> = (0..3).map(|part| Records::of_part(part, 3)).collect();
        // Pairs are due at once; the service time says which one of all it is.
        for n in 0..8_u32 {
            let part = &mut parts[n as usize % 3];
            assert_eq!(part.push(u64::from(n / 2), n.into()), n);
        }
        for number in 0..12 {
            let mut found = parts.iter_mut().filter_map(|part| part.get_mut(number));
            assert_eq!(found.next().map(|record| record.service), (number < 8).then_some(number.into()));
            assert!(found.next().is_none());
        }
        let mut tape = Tape::default();
        tape.begin(STRANGER, 0, 5);
        tape.begin(4, 1, 10);
        tape.begin(4, 2, 20);
        assert_eq!(parts.iter_mut().map(|part| part.join(&tape)).sum::<u64>(), 1);
        let all = Records::merge(parts);
        assert_eq!(all.iter().map(|record| record.service).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(all.iter().filter(|record| record.started != NEVER).count(), 1);
        assert!(Records::merge(vec![Records::default(), Records::of_part(1, 2)]).is_empty());
        // In a closed loop one may have sent more than the other.
        let (mut slow, mut fast) = (Records::of_part(0, 2), Records::of_part(1, 2));
        [30, 70].into_iter().for_each(|due| _ = slow.push(due, 0));
        [10, 20, 40, 50, 60].into_iter().for_each(|due| _ = fast.push(due, 0));
        let all: Vec<u64> = Records::merge(vec![slow, fast]).iter().map(|record| record.due).collect();
        assert_eq!(all, [10, 20, 30, 40, 50, 60, 70]);
    }

    #[test]
    fn the_first_time_at_a_dyno_counts_and_others_are_repeats() {
        let (mut records, mut tape) = (Records::default(), Tape::default());
        for n in 0..3 {
            records.push(n, 7);
        }
        let first = tape.begin(1, 4, 10);
        let again = tape.begin(1, 5, 20);
        tape.begin(u32::MAX, 5, 30);
        tape.end(again, 25);
        tape.end(first, 40);
        assert_eq!(records.join(&tape), 1);
        let seen: Vec<_> = records.iter().map(|record| (record.dyno, record.started, record.ended)).collect();
        assert_eq!(seen, [(0, NEVER, NEVER), (4, 10, 40), (0, NEVER, NEVER)]);
    }

    #[test]
    fn work_to_the_end_counts_before_work_that_was_lost_and_earlier_before_later() {
        let (mut records, mut tape) = (Records::default(), Tape::default());
        for n in 0..3 {
            records.push(n, 7);
        }
        for (number, dyno, started, ended) in [
            (0, 1, 10, NEVER),
            (0, 2, 20, 25),
            (0, 3, 30, NEVER),
            (1, 1, 50, 60),
            (1, 2, 40, 45),
            (2, 1, 80, NEVER),
            (2, 2, 70, NEVER),
        ] {
            tape.write(Served { number, dyno, started, ended });
        }
        assert_eq!(records.join(&tape), 4);
        let seen: Vec<_> = records.iter().map(|record| (record.dyno, record.started, record.ended)).collect();
        assert_eq!(seen, [(2, 20, 25), (2, 40, 45), (2, 70, NEVER)]);
    }
}
