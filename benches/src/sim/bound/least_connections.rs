//! The dyno with the fewest requests of this router, as HAProxy and nginx count them: each for itself.

use super::Choose;
use crate::sim::world::World;

pub(super) struct LeastConnections {
    routers: Vec<Counts>,
}

/// The dynos by their number of requests, so that one of those with the fewest is found at once.
struct Counts {
    of: Vec<usize>,
    /// Dynos with 0 requests, with 1, and so on.
    with: Vec<Vec<u32>>,
    /// Where each dyno is among those with its number.
    place: Vec<usize>,
}

impl LeastConnections {
    pub(super) fn new(dynos: u32, routers: usize) -> Self {
        let counts = || Counts {
            of: vec![0; dynos as usize],
            with: vec![(0..dynos).collect()],
            place: (0..dynos as usize).collect(),
        };
        Self { routers: (0..routers).map(|_| counts()).collect() }
    }
}

impl Counts {
    fn set(&mut self, dyno: u32, count: usize) {
        let (before, place) = (self.of[dyno as usize], self.place[dyno as usize]);
        self.with[before].swap_remove(place);
        if let Some(moved) = self.with[before].get(place) {
            self.place[*moved as usize] = place;
        }
        if self.with.len() <= count {
            self.with.push(Vec::new());
        }
        self.of[dyno as usize] = count;
        self.place[dyno as usize] = self.with[count].len();
        self.with[count].push(dyno);
    }
}

impl Choose for LeastConnections {
    fn choose(&mut self, router: usize, world: &mut World) -> u32 {
        let counts = &mut self.routers[router];
        let fewest = counts.with.iter().position(|dynos| !dynos.is_empty()).unwrap_or(0);
        let dyno = counts.with[fewest][world.rng.usize(..counts.with[fewest].len())];
        counts.set(dyno, fewest + 1);
        dyno
    }

    fn done(&mut self, router: usize, dyno: u32, _: &mut World) {
        let counts = &mut self.routers[router];
        counts.set(dyno, counts.of[dyno as usize] - 1);
    }
}
