//! Who waits: one line per app, with a lane for the canary beside the main one. Each lane is first come, first served,
//! and anybody may leave in O(1).
//!
//! # State
//!
//! Each request in line has a slot. The slots of a lane form a doubly linked list in order of arrival; a freed slot is
//! used again with its next turn, so a [`TicketId`] names one request for ever. Requests that had a dyno and lost it
//! before anything was sent re-enter *before* the list of their lane, among themselves in order of first arrival. The
//! order is that of the numbers the queue gives on first arrival, over both lanes: times of two threads may be read
//! the wrong way round.
//!
//! # Invariants (walked by `check_invariants`)
//!
//! * `len` and `bytes` of a lane are those of its requests in line, always.
//! * Whoever stands in front of another of its lane has the lower number: it came first.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::canary::Lane;
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
    /// Which dynos it waits for.
    pub(crate) lane: Lane,
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
    lanes: [List; 2],
    next_number: u64,
}

/// The requests of one lane.
#[derive(Debug, Default)]
struct List {
    first: Option<u32>,
    last: Option<u32>,
    /// Those who re-entered, by number. Never more than there are dynos.
    front: BTreeMap<u64, u32>,
    len: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Slot {
    turn: u32,
    waiting: Option<Waiting>,
    before: Option<u32>,
    after: Option<u32>,
}

impl Queue {
    pub(crate) fn len(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].len
    }

    pub(crate) fn bytes(&self, lane: Lane) -> u64 {
        self.lanes[lane as usize].bytes
    }

    pub(crate) fn is_empty(&self, lane: Lane) -> bool {
        self.len(lane) == 0
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

    /// Puts a request at the end of its lane, or, if it had a dyno before, before all who never had one.
    pub(crate) fn enter(&mut self, waiting: Waiting) -> TicketId {
        let slot = self.take_slot(waiting);
        let lane = &mut self.lanes[waiting.lane as usize];
        lane.len += 1;
        lane.bytes += waiting.bytes;
        if waiting.failed.is_some() {
            lane.front.insert(waiting.number, slot);
        } else {
            self.slots[slot as usize].before = lane.last;
            match lane.last {
                Some(last) => self.slots[last as usize].after = Some(slot),
                None => lane.first = Some(slot),
            }
            lane.last = Some(slot);
        }
        TicketId { slot, turn: self.slots[slot as usize].turn }
    }

    /// Who is next in a lane.
    pub(crate) fn first(&self, lane: Lane) -> Option<(TicketId, &Waiting)> {
        let lane = &self.lanes[lane as usize];
        let slot = lane.front.first_key_value().map(|(_, slot)| *slot).or(lane.first)?;
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
        let lane = &mut self.lanes[waiting.lane as usize];
        lane.len -= 1;
        lane.bytes -= waiting.bytes;
        if waiting.failed.is_some() {
            lane.front.remove(&waiting.number);
        } else {
            match before {
                Some(before) => self.slots[before as usize].after = after,
                None => lane.first = after,
            }
            match after {
                Some(after) => self.slots[after as usize].before = before,
                None => lane.last = before,
            }
        }
        self.free.push(ticket.slot);
        Some(waiting)
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

    /// A lane from first to last.
    fn in_order(&self, lane: &List) -> impl Iterator<Item = &Waiting> {
        let again = lane.front.values().copied();
        let rest = std::iter::successors(lane.first, |slot| self.slots[*slot as usize].after);
        again.chain(rest).filter_map(|slot| self.slots[slot as usize].waiting.as_ref())
    }

    /// Panics if the line is not as the head of this file says. O(n): for tests and debug builds.
    pub(crate) fn check_invariants(&self) {
        let mut len = 0;
        for (name, lane) in Lane::ALL.iter().zip(&self.lanes) {
            let line: Vec<_> = self.in_order(lane).collect();
            assert_eq!(line.len(), lane.len, "len counts the requests of the lane");
            assert_eq!(line.iter().map(|w| w.bytes).sum::<u64>(), lane.bytes, "bytes are those of the lane");
            assert!(line.iter().all(|waiting| waiting.lane == *name), "everybody is in its lane");
            for pair in line.windows(2) {
                assert!(pair[0].number < pair[1].number, "first come, first served");
            }
            len += line.len();
        }
        let taken = self.slots.iter().filter(|slot| slot.waiting.is_some()).count();
        assert_eq!(taken, len, "no slot is taken by somebody who is not in line");
        assert_eq!(self.free.len() + taken, self.slots.len(), "each slot is taken or free");
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
            lane: Lane::Main,
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
        assert_eq!(queue.first(Lane::Main).map(|(id, _)| id), Some(tickets[1]));
        assert_eq!((queue.len(Lane::Main), queue.bytes(Lane::Main)), (2, 6));
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
        while let Some((id, _)) = queue.first(Lane::Main) {
            order.push(id);
            queue.leave(id);
        }
        assert_eq!(order, [early, second, late]);
    }
    #[test]
    fn each_lane_has_its_own_order_and_its_own_counts() {
        let start = Clock::manual().now();
        let mut queue = Queue::default();
        let lanes = [Lane::Main, Lane::Canary, Lane::Main, Lane::Canary];
        let tickets = lanes.map(|lane| {
            let entry = Waiting { lane, ..waiting(&mut queue, start) };
            queue.enter(entry)
        });
        let first = |queue: &Queue| Lane::ALL.map(|lane| queue.first(lane).map(|(id, _)| id));
        assert_eq!(first(&queue), [Some(tickets[0]), Some(tickets[1])]);
        queue.leave(tickets[1]);
        queue.leave(tickets[0]);
        queue.check_invariants();
        assert_eq!(first(&queue), [Some(tickets[2]), Some(tickets[3])]);
        queue.leave(tickets[3]);
        queue.check_invariants();
        assert_eq!(Lane::ALL.map(|lane| (queue.len(lane), queue.bytes(lane))), [(1, 3), (0, 0)]);
    }
}
