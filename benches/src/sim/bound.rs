//! Policies that bind a request to a dyno as it comes: it waits there, whoever else is idle.

mod join_idle;
mod least_connections;
mod power_of_two;
mod random;
mod round_robin;

use super::world::{Dispatch, World};
use super::{Policy, Setup};

/// Which dyno a request goes to.
trait Choose {
    /// The dyno for a request that has come to this router.
    fn choose(&mut self, router: usize, world: &mut World) -> u32;
    /// A request of this router is done at this dyno.
    fn done(&mut self, _router: usize, _dyno: u32, _world: &mut World) {}
}

struct Bound<C>(C);

/// The policy of that name.
pub(super) fn policy(setup: &Setup, policy: Policy, world: &mut World) -> Box<dyn Dispatch> {
    let (dynos, routers) = (setup.dynos, setup.routers as usize);
    match policy {
        Policy::RoundRobin => Box::new(Bound(round_robin::RoundRobin::new(dynos, routers, &mut world.rng))),
        Policy::PowerOfTwo => Box::new(Bound(power_of_two::PowerOfTwo::new(dynos, routers))),
        Policy::LeastConnections => Box::new(Bound(least_connections::LeastConnections::new(dynos, routers))),
        Policy::JoinIdle => Box::new(Bound(join_idle::JoinIdle::new(dynos, routers, world))),
        // Those with a line are not asked for here.
        Policy::Random | Policy::OneLine | Policy::OneOwner | Policy::Pools(_) => {
            Box::new(Bound(random::Random::new(dynos)))
        }
    }
}

impl<C: Choose> Dispatch for Bound<C> {
    fn arrive(&mut self, world: &mut World, request: usize) {
        let dyno = self.0.choose(world.requests[request].router as usize, world);
        world.send(request, dyno);
    }

    fn answered(&mut self, world: &mut World, request: usize, dyno: u32) {
        self.0.done(world.requests[request].router as usize, dyno, world);
    }
}
