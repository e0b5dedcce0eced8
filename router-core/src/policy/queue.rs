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
//! * Who stands aside is in no list, and is found by its dyno, by its number, and by the end of its wish.
//!
//! # Aside
//!
//! A request with a [`Wish`](crate::wish::Wish) stands *aside* of its lane's list until its wish is over: it is
//! passed over for every dyno but its own. It counts in the lane's `len` and `bytes`. When its wish is over it enters
//! the list at the place of its number ([`Queue::join`]). Each of these costs O(log n) of those aside.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The one dyno it waits for, by its slot, and until when by the line's clock.
    pub(crate) aside: Option<(u32, Instant)>,
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
    /// Those who re-entered or stood aside, by number.
    front: BTreeMap<u64, u32>,
    aside: Aside,
    len: usize,
    bytes: u64,
}

/// Those who wait for one dyno each.
#[derive(Debug, Default)]
struct Aside {
    by_number: BTreeMap<u64, u32>,
    by_dyno: BTreeSet<(u32, u64)>,
    by_end: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Slot {
    turn: u32,
    waiting: Option<Waiting>,
    before: Option<u32>,
    after: Option<u32>,
    /// It is in the list of those who came in order.
    in_list: bool,
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
        if let Some((dyno, end)) = waiting.aside {
            lane.aside.by_number.insert(waiting.number, slot);
            lane.aside.by_dyno.insert((dyno, waiting.number));
            lane.aside.by_end.insert((end, waiting.number));
        } else if waiting.failed.is_some() {
            lane.front.insert(waiting.number, slot);
        } else {
            self.slots[slot as usize].in_list = true;
            self.slots[slot as usize].before = lane.last;
            match lane.last {
                Some(last) => self.slots[last as usize].after = Some(slot),
                None => lane.first = Some(slot),
            }
            lane.last = Some(slot);
        }
        TicketId { slot, turn: self.slots[slot as usize].turn }
    }

    /// Who is next in a lane, of those who take any dyno.
    pub(crate) fn first(&self, lane: Lane) -> Option<(TicketId, &Waiting)> {
        let lane = &self.lanes[lane as usize];
        let front = lane.front.first_key_value().and_then(|(_, slot)| self.at(*slot));
        let list = lane.first.and_then(|slot| self.at(slot));
        front.into_iter().chain(list).min_by_key(|(_, waiting)| waiting.number)
    }

    /// The longest in line, of those who stand aside in a lane.
    pub(crate) fn first_aside(&self, lane: Lane) -> Option<(TicketId, &Waiting)> {
        let (_, slot) = self.lanes[lane as usize].aside.by_number.first_key_value()?;
        self.at(*slot)
    }

    /// Who is next for a dyno, of those who wait for it alone.
    pub(crate) fn first_for(&self, lane: Lane, dyno: u32) -> Option<(TicketId, &Waiting)> {
        let aside = &self.lanes[lane as usize].aside;
        let (_, number) = aside.by_dyno.range((dyno, 0)..=(dyno, u64::MAX)).next()?;
        self.at(*aside.by_number.get(number)?)
    }

    /// When the first wish of a lane ends, by the line's clock, and whose it is.
    pub(crate) fn next_end(&self, lane: Lane) -> Option<(Instant, TicketId)> {
        let aside = &self.lanes[lane as usize].aside;
        let (end, number) = aside.by_end.first()?;
        Some((*end, self.at(*aside.by_number.get(number)?)?.0))
    }

    /// A wish is over: from now on the request takes any dyno, and stands where it would if it had had no wish.
    pub(crate) fn join(&mut self, ticket: TicketId) {
        let Some(entry) = self.slots.get_mut(ticket.slot()).filter(|entry| entry.turn == ticket.turn) else {
            return;
        };
        let Some(waiting) = entry.waiting.as_mut() else { return };
        let Some(wish) = waiting.aside.take() else { return };
        let lane = &mut self.lanes[waiting.lane as usize];
        lane.aside.forget(waiting.number, wish);
        lane.front.insert(waiting.number, ticket.slot);
    }

    fn at(&self, slot: u32) -> Option<(TicketId, &Waiting)> {
        let entry = self.slots.get(slot as usize)?;
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
        let in_list = std::mem::take(&mut entry.in_list);
        entry.turn = entry.turn.wrapping_add(1);
        let lane = &mut self.lanes[waiting.lane as usize];
        lane.len -= 1;
        lane.bytes -= waiting.bytes;
        if let Some(wish) = waiting.aside {
            lane.aside.forget(waiting.number, wish);
        } else if !in_list {
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
        self.slots.push(Slot { turn: 0, waiting: Some(waiting), before: None, after: None, in_list: false });
        slot
    }

    /// Those of a lane who came in order, from first to last.
    fn in_order(&self, lane: &List) -> impl Iterator<Item = &Waiting> {
        let list = std::iter::successors(lane.first, |slot| self.slots[*slot as usize].after);
        list.filter_map(|slot| self.slots[slot as usize].waiting.as_ref())
    }

    /// Panics if the line is not as the head of this file says. O(n): for tests and debug builds.
    pub(crate) fn check_invariants(&self) {
        let mut len = 0;
        for (name, lane) in Lane::ALL.iter().zip(&self.lanes) {
            let listed: Vec<_> = self.in_order(lane).collect();
            for pair in listed.windows(2) {
                assert!(pair[0].number < pair[1].number, "first come, first served");
            }
            let Aside { by_number, by_dyno, by_end } = &lane.aside;
            assert!(
                by_number.len() == by_dyno.len() && by_dyno.len() == by_end.len(),
                "each is in all three"
            );
            for (number, slot) in by_number {
                let waiting = self.slots[*slot as usize].waiting.as_ref();
                let wish = waiting.and_then(|waiting| waiting.aside).expect("who stands aside has a wish");
                assert!(by_dyno.contains(&(wish.0, *number)) && by_end.contains(&(wish.1, *number)));
            }
            let others = lane.front.values().chain(by_number.values());
            let others = others.filter_map(|slot| self.slots[*slot as usize].waiting.as_ref());
            let line: Vec<_> = listed.into_iter().chain(others).collect();
            assert_eq!(line.len(), lane.len, "len counts the requests of the lane");
            assert_eq!(line.iter().map(|w| w.bytes).sum::<u64>(), lane.bytes, "bytes are those of the lane");
            assert!(line.iter().all(|waiting| waiting.lane == *name), "everybody is in its lane");
            len += line.len();
        }
        let taken = self.slots.iter().filter(|slot| slot.waiting.is_some()).count();
        assert_eq!(taken, len, "no slot is taken by somebody who is not in line");
        assert_eq!(self.free.len() + taken, self.slots.len(), "each slot is taken or free");
    }
}

impl Aside {
    fn forget(&mut self, number: u64, (dyno, end): (u32, Instant)) {
        self.by_number.remove(&number);
        self.by_dyno.remove(&(dyno, number));
        self.by_end.remove(&(end, number));
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
            aside: None,
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
    fn who_stands_aside_is_passed_over_and_joins_at_the_place_of_its_arrival() {
        let start = Clock::manual().now();
        let mut queue = Queue::default();
        let mut enter = |aside| {
            let entry = Waiting { aside, ..waiting(&mut queue, start) };
            queue.enter(entry)
        };
        let end = |ms| start + Duration::from_millis(ms);
        let tickets = [
            enter(None),
            enter(Some((7, end(9)))),
            enter(None),
            enter(Some((7, end(5)))),
            enter(Some((8, end(7)))),
        ];
        let first = |queue: &Queue| queue.first(Lane::Main).map(|(id, _)| id);
        let of = |queue: &Queue, dyno| queue.first_for(Lane::Main, dyno).map(|(id, _)| id);
        queue.check_invariants();
        assert_eq!((queue.len(Lane::Main), first(&queue)), (5, Some(tickets[0])));
        assert_eq!((of(&queue, 7), of(&queue, 8), of(&queue, 6)), (Some(tickets[1]), Some(tickets[4]), None));
        assert_eq!(queue.next_end(Lane::Main), Some((end(5), tickets[3])));
        queue.leave(tickets[0]);
        queue.join(tickets[1]);
        queue.join(tickets[1]);
        queue.check_invariants();
        assert_eq!(
            (first(&queue), of(&queue, 7)),
            (Some(tickets[1]), Some(tickets[3])),
            "before who came later"
        );
        queue.leave(tickets[1]);
        queue.leave(tickets[4]);
        queue.join(tickets[3]);
        queue.check_invariants();
        assert_eq!(first(&queue), Some(tickets[2]));
        queue.leave(tickets[2]);
        assert_eq!((first(&queue), queue.next_end(Lane::Main)), (Some(tickets[3]), None));
        queue.leave(tickets[3]);
        queue.check_invariants();
        assert_eq!((queue.len(Lane::Main), queue.bytes(Lane::Main)), (0, 0));
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
