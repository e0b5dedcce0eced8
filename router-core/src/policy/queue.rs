//! Who waits: one first-come-first-served line per app, from which anybody may leave in O(1).
//!
//! # State
//!
//! Each request in line has a slot. Slots form a doubly linked list in order of arrival; a freed slot is used
//! again with its next turn, so a [`TicketId`] names one request for ever. Requests that had a dyno and lost it
//! before anything was sent re-enter *before* the list, among themselves in order of first arrival. The order is
//! that of the numbers the queue gives on first arrival: times of two threads may be read the wrong way round.
//!
//! # Invariants (walked by `check_invariants`)
//!
//! * `len` and `bytes` are those of the requests in line, always.
//! * Whoever stands in front of another has the lower number: it came first.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::fault::Fault;
use crate::ids::TicketId;

/// A request in line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// When it arrived first; re-entry keeps this.
    pub(crate) arrived: Instant,
    /// The same by the line's clock.
    pub(crate) since: Instant,
    /// When it has waited long enough, by the line's clock.
    pub(crate) deadline: Instant,
    /// How many bytes of request body it holds while it waits.
    pub(crate) bytes: u64,
    /// Its place among all that ever arrived; the queue gives it on first arrival, re-entry keeps it.
    pub(crate) number: u64,
    /// It had a dyno already and lost it: this is how, and it stands before all who never had one.
    pub(crate) failed: Option<Fault>,
    /// Dynos it has been offered to.
    pub(crate) tries: u32,
}

/// The line of one app.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    slots: Vec<Slot>,
    free: Vec<u32>,
    first: Option<u32>,
    last: Option<u32>,
    /// Those who re-entered, by number. Never more than there are dynos.
    front: BTreeMap<u64, u32>,
    len: usize,
    bytes: u64,
    next_number: u64,
}

#[derive(Debug)]
struct Slot {
    turn: u32,
    waiting: Option<Waiting>,
    before: Option<u32>,
    after: Option<u32>,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A number for a request that arrives now: later ones get higher ones.
    pub(crate) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The number of the youngest request.
    pub(crate) fn last_number(&self) -> u64 {
        self.next_number
    }

    /// A request in line.
    pub(crate) fn get(&self, ticket: TicketId) -> Option<&Waiting> {
        let slot = self.slots.get(ticket.slot()).filter(|slot| slot.turn == ticket.turn)?;
        slot.waiting.as_ref()
    }

    /// Puts a request at the end of the line, or, if it had a dyno before, before all who never had one.
    pub(crate) fn enter(&mut self, waiting: Waiting) -> TicketId {
        self.len += 1;
        self.bytes += waiting.bytes;
        let slot = self.take_slot(waiting);
        if waiting.failed.is_some() {
            self.front.insert(waiting.number, slot);
        } else {
            self.slots[slot as usize].before = self.last;
            match self.last {
                Some(last) => self.slots[last as usize].after = Some(slot),
                None => self.first = Some(slot),
            }
            self.last = Some(slot);
        }
        TicketId { slot, turn: self.slots[slot as usize].turn }
    }

    /// Who is next.
    pub(crate) fn first(&self) -> Option<(TicketId, &Waiting)> {
        let slot = self.front.first_key_value().map(|(_, slot)| *slot).or(self.first)?;
        let entry = &self.slots[slot as usize];
        Some((TicketId { slot, turn: entry.turn }, entry.waiting.as_ref()?))
    }

    /// Takes a request out of the line, wherever it stands. `None`: it is not in line (any more).
    pub(crate) fn leave(&mut self, ticket: TicketId) -> Option<Waiting> {
        let entry = self.slots.get_mut(ticket.slot())?;
        if entry.turn != ticket.turn {
            return None;
        }
        let waiting = entry.waiting.take()?;
        let (before, after) = (entry.before.take(), entry.after.take());
        entry.turn = entry.turn.wrapping_add(1);
        if waiting.failed.is_some() {
            self.front.remove(&waiting.number);
        } else {
            self.unlink(before, after);
        }
        self.free.push(ticket.slot);
        self.len -= 1;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn unlink(&mut self, before: Option<u32>, after: Option<u32>) {
        match before {
            Some(before) => self.slots[before as usize].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.slots[after as usize].before = before,
            None => self.last = before,
        }
    }

    fn take_slot(&mut self, waiting: Waiting) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].waiting = Some(waiting);
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("the bound on requests in line is far below 2^32");
        self.slots.push(Slot { turn: 0, waiting: Some(waiting), before: None, after: None });
        slot
    }

    /// The line from first to last.
    fn in_order(&self) -> impl Iterator<Item = &Waiting> {
        let again = self.front.values().copied();
        let rest = std::iter::successors(self.first, |slot| self.slots[*slot as usize].after);
        again.chain(rest).filter_map(|slot| self.slots[slot as usize].waiting.as_ref())
    }

    /// Panics if the line is not as the head of this file says. O(n): for tests and debug builds.
    pub(crate) fn check_invariants(&self) {
        let line: Vec<_> = self.in_order().collect();
        assert_eq!(line.len(), self.len, "len counts the requests in line");
        assert_eq!(line.iter().map(|w| w.bytes).sum::<u64>(), self.bytes, "bytes are those in line");
        let taken = self.slots.iter().filter(|slot| slot.waiting.is_some()).count();
        assert_eq!(taken, self.len, "no slot is taken by somebody who is not in line");
        assert_eq!(self.free.len() + taken, self.slots.len(), "each slot is taken or free");
        for pair in line.windows(2) {
            assert!(pair[0].number < pair[1].number, "first come, first served");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use std::time::Duration;

    fn waiting(queue: &mut Queue, arrived: Instant) -> Waiting {
        let number = queue.number();
        Waiting {
            arrived,
            since: arrived,
            deadline: arrived + Duration::from_secs(5),
            bytes: 3,
            number,
            failed: None,
            tries: 0,
        }
    }

    #[test]
    fn whoever_leaves_from_the_middle_leaves_the_others_in_order() {
        let start = Clock::manual().now();
        let mut queue = Queue::default();
        let tickets: Vec<_> = (0..5)
            .map(|i| {
                let entry = waiting(&mut queue, start + Duration::from_millis(i));
                queue.enter(entry)
            })
            .collect();
        for middle in [tickets[2], tickets[0], tickets[4]] {
            assert!(queue.leave(middle).is_some());
            assert!(queue.leave(middle).is_none(), "a ticket leaves once");
            queue.check_invariants();
        }
        assert_eq!(queue.first().map(|(id, _)| id), Some(tickets[1]));
        assert_eq!((queue.len(), queue.bytes()), (2, 6));
    }

    #[test]
    fn who_had_a_dyno_comes_before_all_who_had_none_and_in_order_of_first_arrival() {
        let start = Clock::manual().now();
        let mut queue = Queue::default();
        let mut early = waiting(&mut queue, start);
        let mut second = waiting(&mut queue, start + Duration::from_millis(1));
        let late = waiting(&mut queue, start + Duration::from_millis(2));
        let late = queue.enter(late);
        (early.failed, second.failed) = (Some(Fault::ConnectRefused), Some(Fault::ConnectTimeout));
        let second = queue.enter(second);
        let early = queue.enter(early);
        queue.check_invariants();
        let mut order = Vec::new();
        while let Some((id, _)) = queue.first() {
            order.push(id);
            queue.leave(id);
        }
        assert_eq!(order, [early, second, late]);
    }
}
