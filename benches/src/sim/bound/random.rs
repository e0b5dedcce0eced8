//! Any dyno: what many routers that know nothing of each other come to.

use super::Choose;
use crate::sim::world::World;

pub(super) struct Random {
    dynos: u32,
}

impl Random {
    pub(super) fn new(dynos: u32) -> Self {
        Self { dynos }
    }
}

impl Choose for Random {
    fn choose(&mut self, _: usize, world: &mut World) -> u32 {
        world.rng.u32(..self.dynos)
    }
}
