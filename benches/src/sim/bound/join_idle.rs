//! Join the idle queue (Lu 2011): an idle dyno reports to a router at random; a router without a report guesses.

use std::collections::VecDeque;

use super::Choose;
use crate::sim::world::World;

pub(super) struct JoinIdle {
    dynos: u32,
    /// The idle dynos that have reported to each router, in order.
    reports: Vec<VecDeque<u32>>,
    /// Which dynos some router has a report of.
    reported: Vec<bool>,
}

impl JoinIdle {
    pub(super) fn new(dynos: u32, routers: usize, world: &mut World) -> Self {
        let mut all =
            Self { dynos, reports: vec![VecDeque::new(); routers], reported: vec![false; dynos as usize] };
        (0..dynos).for_each(|dyno| all.report(dyno, world));
        all
    }

    fn report(&mut self, dyno: u32, world: &mut World) {
        if !std::mem::replace(&mut self.reported[dyno as usize], true) {
            let router = world.rng.usize(..self.reports.len());
            self.reports[router].push_back(dyno);
        }
    }
}

impl Choose for JoinIdle {
    fn choose(&mut self, router: usize, world: &mut World) -> u32 {
        while let Some(dyno) = self.reports[router].pop_front() {
            self.reported[dyno as usize] = false;
            // Another router may have guessed at it meanwhile, and then the dyno has taken its report back.
            if world.bound_to(dyno) == 0 {
                return dyno;
            }
        }
        world.rng.u32(..self.dynos)
    }

    fn done(&mut self, _: usize, dyno: u32, world: &mut World) {
        if world.bound_to(dyno) == 0 {
            self.report(dyno, world);
        }
    }
}
