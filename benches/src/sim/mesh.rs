//! Policies with a line: one for all routers, one at the router that owns the dynos, or one a pool.

use super::bound;
use super::line::{Line, line};
use super::world::{Dispatch, Note, World};
use super::{Case, Policy, Setup};

/// How often routers tell each other of their pools when no answer does, in mean service times.
const BEAT: f64 = 5.0;

/// The policy of a case.
pub(super) fn policy(setup: &Setup, case: &Case, world: &mut World) -> Box<dyn Dispatch> {
    match case.policy {
        Policy::OneLine => {
            Box::new(OneLine { line: line(setup, case.shed, 0..setup.dynos, world), owner: None })
        }
        Policy::OneOwner => {
            Box::new(OneLine { line: line(setup, case.shed, 0..setup.dynos, world), owner: Some(0) })
        }
        Policy::Pools(pools) => Box::new(Pools::new(setup, case, pools, world)),
        Policy::Random
        | Policy::RoundRobin
        | Policy::PowerOfTwo
        | Policy::LeastConnections
        | Policy::JoinIdle => bound::policy(setup, case.policy, world),
    }
}

/// One line. If a router owns it, the others forward to it.
struct OneLine {
    line: Box<dyn Line>,
    owner: Option<u32>,
}

impl Dispatch for OneLine {
    fn arrive(&mut self, world: &mut World, request: usize) {
        match self.owner {
            Some(owner) if owner != world.requests[request].router => world.forward(request),
            Some(_) | None => self.line.arrive(world, request),
        }
    }

    fn hopped(&mut self, world: &mut World, request: usize) {
        self.line.arrive(world, request);
    }

    fn answered(&mut self, world: &mut World, request: usize, dyno: u32) {
        self.line.free(world, request, dyno);
    }

    fn gave_up(&mut self, world: &mut World, request: usize) {
        self.line.gave_up(world, request);
    }

    fn deadline(&mut self, world: &mut World, request: usize) {
        self.line.deadline(world, request);
    }
}

/// A line a pool. Pool `p` is router `p`'s, who alone talks to its dynos.
struct Pools {
    lines: Vec<Box<dyn Line>>,
    /// How many dynos each has.
    sizes: Vec<u32>,
    /// Which pool has a dyno.
    pool_of: Vec<u32>,
    /// Which pool has a request, by its number.
    at: Vec<u32>,
    /// What each router was last told of each pool: requests in line less idle dynos.
    hints: Vec<Vec<i64>>,
    /// What each router has sent to each pool since.
    sent: Vec<Vec<i64>>,
    beat: u64,
    /// Whether beats are left out: nothing has happened since the last, and nothing will before a request comes.
    rests: bool,
}

impl Pools {
    fn new(setup: &Setup, case: &Case, pools: u32, world: &mut World) -> Self {
        let first = |pool: u32| {
            let first = u64::from(setup.dynos) * u64::from(pool) / u64::from(pools);
            u32::try_from(first).unwrap_or(setup.dynos)
        };
        let ranges: Vec<_> = (0..pools).map(|pool| first(pool)..first(pool + 1)).collect();
        let sizes: Vec<u32> = ranges.iter().map(|range| range.end - range.start).collect();
        let pool_of = (0..pools).zip(&sizes).flat_map(|(pool, size)| (0..*size).map(move |_| pool)).collect();
        let lines = ranges.into_iter().map(|range| line(setup, case.shed, range, world)).collect();
        let idle: Vec<i64> = sizes.iter().map(|size| -i64::from(*size)).collect();
        let beat = ((setup.service.mean() * BEAT * 1e9) as u64).max(1);
        world.note(beat, Note::Beat);
        let routers = setup.routers as usize;
        Self {
            lines,
            sizes,
            pool_of,
            at: Vec::new(),
            hints: vec![idle; routers],
            sent: vec![vec![0; pools as usize]; routers],
            beat,
            rests: false,
        }
    }

    fn has_pool(&self, router: usize) -> bool {
        router < self.lines.len()
    }

    /// What a router believes of a pool: the truth of its own, hints and what it has sent since of the others.
    fn believed(&self, router: usize, pool: usize) -> i64 {
        if pool == router {
            self.lines[pool].load()
        } else {
            self.hints[router][pool] + self.sent[router][pool]
        }
    }

    /// Where a request goes: to the router's own idle dynos first, then at random, weighted by hinted idle dynos. If
    /// none is idle, to the shorter line of its own pool and one at random.
    fn choose(&self, router: usize, rng: &mut fastrand::Rng) -> usize {
        if self.has_pool(router) && self.lines[router].load() < 0 {
            return router;
        }
        let idle = |pool: usize| u64::try_from(-self.believed(router, pool)).unwrap_or(0);
        let all: u64 = (0..self.lines.len()).map(idle).sum();
        if all > 0 {
            let mut pick = rng.u64(..all);
            for pool in 0..self.lines.len() {
                match pick.checked_sub(idle(pool)) {
                    Some(rest) => pick = rest,
                    None => return pool,
                }
            }
        }
        let first = if self.has_pool(router) { router } else { rng.usize(..self.lines.len()) };
        let second = rng.usize(..self.lines.len());
        // The way there counts as one request.
        let length = |pool: usize| {
            let way = i64::from(pool != router && self.has_pool(router));
            (self.believed(router, pool) + way) as f64 / f64::from(self.sizes[pool])
        };
        if length(second) < length(first) { second } else { first }
    }
}

impl Dispatch for Pools {
    fn arrive(&mut self, world: &mut World, request: usize) {
        if std::mem::take(&mut self.rests) {
            // The next beat is when it would be if there had been one all the time.
            world.note(self.beat - world.now % self.beat, Note::Beat);
        }
        let router = world.requests[request].router as usize;
        let pool = self.choose(router, &mut world.rng);
        if self.at.len() <= request {
            self.at.resize(request + 1, 0);
        }
        self.at[request] = pool as u32;
        if pool == router {
            return self.lines[pool].arrive(world, request);
        }
        self.sent[router][pool] += 1;
        world.forward(request);
    }

    fn hopped(&mut self, world: &mut World, request: usize) {
        self.lines[self.at[request] as usize].arrive(world, request);
    }

    fn answered(&mut self, world: &mut World, request: usize, dyno: u32) {
        let (pool, router) = (self.pool_of[dyno as usize], world.requests[request].router);
        self.lines[pool as usize].free(world, request, dyno);
        if router != pool {
            // With the answer goes what the pool's load is now.
            let load = self.lines[pool as usize].load();
            world.note(world.hop, Note::Hint { router, pool, load });
        }
    }

    fn gave_up(&mut self, world: &mut World, request: usize) {
        self.lines[self.at[request] as usize].gave_up(world, request);
    }

    fn deadline(&mut self, world: &mut World, request: usize) {
        self.lines[self.at[request] as usize].deadline(world, request);
    }

    fn noted(&mut self, world: &mut World, note: Note) {
        match note {
            Note::Hint { router, pool, load } => {
                self.hints[router as usize][pool as usize] = load;
                self.sent[router as usize][pool as usize] = 0;
            }
            Note::Beat => {
                let loads: Vec<i64> = self.lines.iter().map(|line| line.load()).collect();
                self.hints.iter_mut().for_each(|hints| hints.clone_from(&loads));
                self.sent.iter_mut().flatten().for_each(|sent| *sent = 0);
                self.rests = world.rests();
                if !world.over && !self.rests {
                    world.note(self.beat, Note::Beat);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of which only the load matters.
    struct Loaded(i64);

    impl Line for Loaded {
        fn arrive(&mut self, _: &mut World, _: usize) {}
        fn free(&mut self, _: &mut World, _: usize, _: u32) {}
        fn gave_up(&mut self, _: &mut World, _: usize) {}
        fn deadline(&mut self, _: &mut World, _: usize) {}
        fn load(&self) -> i64 {
            self.0
        }
    }

    /// Where two hundred requests of a router go, which has these loads before it in truth, in hints, and sent since.
    fn chosen(router: usize, truth: [i64; 2], hints: [i64; 2], sent: [i64; 2], sizes: [u32; 2]) -> [u32; 2] {
        let pools = Pools {
            lines: truth.into_iter().map(|load| Box::new(Loaded(load)) as Box<dyn Line>).collect(),
            sizes: sizes.into(),
            pool_of: Vec::new(),
            at: Vec::new(),
            hints: vec![hints.into(); 3],
            sent: vec![sent.into(); 3],
            beat: 0,
            rests: false,
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let mut counts = [0; 2];
        (0..200).for_each(|_| counts[pools.choose(router, &mut rng)] += 1);
        counts
    }

    #[test]
    fn a_router_takes_its_own_idle_dyno_and_else_one_that_is_hinted_to_be() {
        let even = [5, 5];
        assert_eq!(
            chosen(0, [-1, -5], [0, -5], [0, 0], even),
            [200, 0],
            "its own first, however few are idle"
        );
        assert_eq!(
            chosen(0, [0, 9], [-5, -1], [0, 0], even),
            [0, 200],
            "what it knows of its own is the truth"
        );
        // Without a pool of its own it has hints alone, less what it has sent since they came.
        assert_eq!(chosen(2, [9, 9], [-1, -3], [1, 0], even), [0, 200]);
        let [one, other] = chosen(2, [9, 9], [-1, -3], [0, 0], even);
        assert!((25..=75).contains(&one), "one idle dyno of four: {one} and {other}");
    }

    #[test]
    fn a_router_without_an_idle_dyno_takes_the_shorter_of_two_lines() {
        let even = [5, 5];
        let [own, other] = chosen(0, [9, 0], [0, 1], [0, 0], even);
        assert!((70..=130).contains(&other), "the second is its own in every other case: {own} and {other}");
        // The way there counts as one request, so equal is not shorter.
        assert_eq!(chosen(0, [9, 0], [0, 8], [0, 0], even), [200, 0]);
        assert_eq!(chosen(0, [9, 0], [0, 7], [0, 1], even), [200, 0]);
        let [_, other] = chosen(0, [9, 0], [0, 7], [0, 0], even);
        assert!(other > 50, "{other}");
        // Lines are as long as they have requests for each dyno.
        assert_eq!(chosen(0, [9, 0], [0, 8], [0, 0], [10, 5]), [200, 0]);
        assert!(chosen(0, [9, 0], [0, 16], [0, 0], [5, 10])[1] > 50);
    }
}
