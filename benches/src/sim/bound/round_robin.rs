//! Round the dynos, each router from a place of its own.

use super::Choose;
use crate::sim::world::World;

pub(super) struct RoundRobin {
    dynos: u32,
    next: Vec<u32>,
}

impl RoundRobin {
    pub(super) fn new(dynos: u32, routers: usize, rng: &mut fastrand::Rng) -> Self {
        Self { dynos, next: (0..routers).map(|_| rng.u32(..dynos)).collect() }
    }
}

impl Choose for RoundRobin {
    fn choose(&mut self, router: usize, _: &mut World) -> u32 {
        let next = &mut self.next[router];
        let dyno = *next;
        *next = (dyno + 1) % self.dynos;
        dyno
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_router_begins_at_a_place_of_its_own() {
        let mut next = RoundRobin::new(1_000, 8, &mut fastrand::Rng::with_seed(1)).next;
        assert!(next.iter().all(|dyno| *dyno < 1_000));
        next.sort_unstable();
        next.dedup();
        assert_eq!(next.len(), 8);
    }
}
