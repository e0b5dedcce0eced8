//! Of two dynos at random the one with fewer requests, as far as the router knows: it counts its own.

use super::Choose;
use crate::sim::world::World;

pub(super) struct PowerOfTwo {
    /// Requests of each router at each dyno.
    counts: Vec<Vec<u32>>,
}

impl PowerOfTwo {
    pub(super) fn new(dynos: u32, routers: usize) -> Self {
        Self { counts: vec![vec![0; dynos as usize]; routers] }
    }
}

impl Choose for PowerOfTwo {
    fn choose(&mut self, router: usize, world: &mut World) -> u32 {
        let counts = &mut self.counts[router];
        let first = world.rng.usize(..counts.len());
        // Another one; of a tie either is as good, because the first is any.
        let second = match world.rng.usize(..counts.len().max(2) - 1) {
            place if place >= first => place + 1,
            place => place,
        };
        let dyno = match counts.get(second) {
            Some(count) if *count < counts[first] => second,
            Some(_) | None => first,
        };
        counts[dyno] += 1;
        dyno as u32
    }

    fn done(&mut self, router: usize, dyno: u32, _: &mut World) {
        self.counts[router][dyno as usize] -= 1;
    }
}
