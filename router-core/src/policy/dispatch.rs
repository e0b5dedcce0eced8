//! Which dyno serves next: the list of dynos that have room, and its order. Every operation is O(1).
//!
//! A dyno is in the list exactly while it has room for one more request. Dynos with fewer requests in flight come
//! first (with `concurrency = 1` and no upgraded connections there is only one kind: idle); among equals the [`Order`]
//! decides. [`Order::Random`] draws from all that have room. There is no
//! policy here that binds a request to a dyno that is not free: that is what makes lines behind slow requests.

use crate::limits::Order;

const NOBODY: u32 = u32::MAX;

/// The dynos that have room.
#[derive(Debug)]
pub(crate) struct Idle {
    order: Order,
    /// One place per dyno slot.
    places: Vec<Place>,
    /// Chains of dynos with equally many requests in flight; empty with [`Order::Random`].
    levels: Vec<Chain>,
    /// No chain below this level has a dyno.
    lowest: usize,
    /// All of them, in no order; only used with [`Order::Random`].
    bag: Vec<u32>,
    /// State of the generator for [`Order::Random`]: seeded, so that a run can be replayed.
    draw: u64,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    here: bool,
    /// The chain it hangs in; for the bag, where in the bag it is.
    at: u32,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    first: u32,
    last: u32,
}

impl Idle {
    pub(crate) fn new(order: Order, seed: u64) -> Self {
        let (places, levels, bag) = (Vec::new(), Vec::new(), Vec::new());
        Self { order, places, levels, lowest: 0, bag, draw: seed | 1, len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(|place| place.here)
    }

    /// Puts a dyno with room into the list. `level`: how many requests it has. `last`: it is the last choice among its
    /// equals, whatever the order (a dyno that comes back from quarantine).
    pub(crate) fn add(&mut self, slot: u32, level: u32, last: bool) {
        debug_assert!(!self.contains(slot), "a dyno is in the list once");
        if self.places.len() <= slot as usize {
            self.places
                .resize(slot as usize + 1, Place { here: false, at: 0, before: NOBODY, after: NOBODY });
        }
        self.len += 1;
        match self.order {
            Order::Random => {
                let at = self.bag.len() as u32;
                self.bag.push(slot);
                self.places[slot as usize] = Place { here: true, at, before: NOBODY, after: NOBODY };
            }
            // Picks come from the front: the last one in goes there, or to the end of the queue.
            Order::Lifo => self.hang(slot, level, !last),
            Order::LeastRecentlyUsed => self.hang(slot, level, false),
        }
    }

    /// Takes the dyno out of the list, if it is there.
    pub(crate) fn remove(&mut self, slot: u32) {
        if !self.contains(slot) {
            return;
        }
        self.len -= 1;
        let place = self.places[slot as usize];
        self.places[slot as usize].here = false;
        if self.order == Order::Random {
            self.bag.swap_remove(place.at as usize);
            if let Some(moved) = self.bag.get(place.at as usize) {
                self.places[*moved as usize].at = place.at;
            }
            return;
        }
        match place.before {
            NOBODY => self.levels[place.at as usize].first = place.after,
            before => self.places[before as usize].after = place.after,
        }
        match place.after {
            NOBODY => self.levels[place.at as usize].last = place.before,
            after => self.places[after as usize].before = place.before,
        }
    }

    /// Takes the dyno that serves next out of the list.
    pub(crate) fn pick(&mut self) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let slot = if self.order == Order::Random {
            let at = self.random(self.bag.len());
            self.bag[at]
        } else {
            while self.levels[self.lowest].first == NOBODY {
                self.lowest += 1;
            }
            self.levels[self.lowest].first
        };
        self.remove(slot);
        Some(slot)
    }

    fn hang(&mut self, slot: u32, level: u32, in_front: bool) {
        let at = level as usize;
        if self.levels.len() <= at {
            self.levels.resize(at + 1, Chain { first: NOBODY, last: NOBODY });
        }
        self.lowest = self.lowest.min(at);
        let chain = &mut self.levels[at];
        let mut place = Place { here: true, at: level, before: NOBODY, after: NOBODY };
        let neighbour = if in_front { chain.first } else { chain.last };
        if neighbour == NOBODY {
            (chain.first, chain.last) = (slot, slot);
        } else if in_front {
            place.after = neighbour;
            chain.first = slot;
            self.places[neighbour as usize].before = slot;
        } else {
            place.before = neighbour;
            chain.last = slot;
            self.places[neighbour as usize].after = slot;
        }
        self.places[slot as usize] = place;
    }

    /// A number below `bound`, by xorshift64* (Vigna 2016): dispatch needs spread, not secrecy.
    fn random(&mut self, bound: usize) -> usize {
        self.draw ^= self.draw >> 12;
        self.draw ^= self.draw << 25;
        self.draw ^= self.draw >> 27;
        let word = self.draw.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        ((word * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(order: Order) -> Vec<u32> {
        let mut idle = Idle::new(order, 7);
        for slot in 0..4 {
            idle.add(slot, 0, false);
        }
        idle.remove(2);
        idle.add(4, 0, true);
        std::iter::from_fn(|| idle.pick()).collect()
    }

    #[test]
    fn lifo_takes_the_dyno_that_came_last_and_a_doubtful_one_at_the_end() {
        assert_eq!(picks(Order::Lifo), [3, 1, 0, 4]);
    }

    #[test]
    fn least_recently_used_takes_the_dyno_that_has_waited_longest() {
        assert_eq!(picks(Order::LeastRecentlyUsed), [0, 1, 3, 4]);
    }

    #[test]
    fn random_takes_each_dyno_once() {
        let mut all = picks(Order::Random);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 3, 4]);
    }

    #[test]
    fn a_dyno_with_fewer_requests_comes_first() {
        let mut idle = Idle::new(Order::Lifo, 1);
        idle.add(0, 2, false);
        idle.add(1, 1, false);
        idle.add(2, 3, false);
        assert_eq!(idle.pick(), Some(1));
        idle.add(3, 0, false);
        assert_eq!([idle.pick(), idle.pick(), idle.pick(), idle.pick()], [Some(3), Some(0), Some(2), None]);
    }
}
