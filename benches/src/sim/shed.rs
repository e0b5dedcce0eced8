//! A line of our own, for the ways to shed load that `router-core` does not have, to be held against it.

use std::collections::VecDeque;
use std::ops::Range;

use super::line::Line;
use super::world::{World, nanos};
use super::{Setup, Shed};

/// First come, first served, unless told otherwise.
pub(super) struct OwnLine {
    shed: Rule,
    /// Who waits since when, and those who have left, in order of arrival.
    line: VecDeque<(usize, u64)>,
    /// Who waits since when, by the number of the request.
    since: Vec<Option<u64>>,
    waiting: usize,
    idle: Vec<u32>,
    /// Since when it has not been empty; of no meaning while it is.
    stands_since: u64,
}

/// What is shed, times in nanoseconds.
enum Rule {
    /// The door is shut to who finds so many in line.
    Door(usize),
    /// Nobody gets a dyno who has waited for longer than this.
    Wait(u64),
    /// Nor for longer than the first, once the line has not been empty for as long as the second.
    CoDel(u64, u64),
    /// The last first, once the line has not been empty for this long.
    Lifo(u64),
}

impl OwnLine {
    pub(super) fn new(setup: &Setup, shed: Shed, dynos: Range<u32>) -> Self {
        let service = setup.service.mean() * 1e9;
        let patience = setup.patience.map_or(u64::MAX, nanos);
        let shed = match shed {
            Shed::Bound(most) => Rule::Door((most as usize).saturating_mul(dynos.len())),
            Shed::ExpectedWait(most) => {
                let most = most.map_or(2.0 * service, |most| nanos(most) as f64);
                // Who finds n in line waits for n + 1 dynos to be free.
                Rule::Door((most * dynos.len() as f64 / service).floor() as usize)
            }
            Shed::Deadline(least) => Rule::Wait(
                patience.saturating_sub(least.map_or(3.0 * service, |least| nanos(least) as f64) as u64),
            ),
            Shed::CoDel => Rule::CoDel((service / 2.0) as u64, patience),
            Shed::AdaptiveLifo => Rule::Lifo(patience),
            Shed::None | Shed::Gone | Shed::Routerd(_) => Rule::Door(usize::MAX),
        };
        Self {
            shed,
            line: VecDeque::new(),
            since: Vec::new(),
            waiting: 0,
            idle: dynos.collect(),
            stands_since: 0,
        }
    }

    /// The next one in line, if it still waits.
    fn pop(&mut self, standing: u64) -> Option<(usize, u64)> {
        match self.shed {
            Rule::Lifo(after) if standing > after => self.line.pop_back(),
            Rule::Door(_) | Rule::Wait(_) | Rule::CoDel(..) | Rule::Lifo(_) => self.line.pop_front(),
        }
    }

    /// Whether who has waited this long in a line that has stood for that long is not served any more.
    fn drops(&self, waited: u64, standing: u64) -> bool {
        match self.shed {
            Rule::Wait(most) => waited > most,
            Rule::CoDel(target, interval) => standing > interval && waited > target,
            Rule::Door(_) | Rule::Lifo(_) => false,
        }
    }
}

impl Line for OwnLine {
    fn arrive(&mut self, world: &mut World, request: usize) {
        if let Some(dyno) = self.idle.pop() {
            return world.send(request, dyno);
        }
        if matches!(self.shed, Rule::Door(most) if self.waiting >= most) {
            return world.refuse(request);
        }
        if self.since.len() <= request {
            self.since.resize(request + 1, None);
        }
        if self.waiting == 0 {
            self.stands_since = world.now;
        }
        self.since[request] = Some(world.now);
        self.line.push_back((request, world.now));
        self.waiting += 1;
    }

    fn free(&mut self, world: &mut World, _: usize, dyno: u32) {
        let standing = world.now - self.stands_since;
        while let Some((request, since)) = self.pop(standing) {
            // Who has left may have left its number to somebody else.
            if self.since[request] != Some(since) {
                continue;
            }
            self.since[request] = None;
            self.waiting -= 1;
            if self.drops(world.now - since, standing) {
                world.refuse(request);
                continue;
            }
            return world.send(request, dyno);
        }
        self.idle.push(dyno);
    }

    fn gave_up(&mut self, _: &mut World, request: usize) {
        self.waiting -= usize::from(self.since[request].take().is_some());
    }

    fn deadline(&mut self, _: &mut World, _: usize) {}

    fn load(&self) -> i64 {
        self.waiting as i64 - self.idle.len() as i64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::sim::{Case, Length, Outcome, Policy, Progress, Setup, Shed, run};

    fn shed(setup: &Setup, sheds: &[Shed]) -> Vec<Outcome> {
        let cases: Vec<_> = sheds.iter().map(|shed| Case { policy: Policy::OneLine, shed: *shed }).collect();
        run(setup, &cases, &Progress::default()).unwrap()
    }

    #[test]
    fn a_line_that_is_empty_now_and_then_sheds_nobody() {
        // Half loaded: one in thirty waits, one in four hundred longer than CoDel's target, and no line stands for 10 s.
        let setup = Setup {
            patience: Some(Duration::from_secs(10)),
            length: Length::Requests(40_000),
            ..Setup::new("exp:1s".parse().unwrap(), 10, 5.0)
        };
        let [gone, codel, lifo] = &shed(&setup, &[Shed::Gone, Shed::CoDel, Shed::AdaptiveLifo])[..] else {
            unreachable!()
        };
        assert!(gone.wait_ms.p999 > 500.0, "some wait for longer than the target: {gone:#?}");
        assert_eq!((codel.refused_share, codel.wait_ms), (0.0, gone.wait_ms), "{codel:#?}");
        assert_eq!((lifo.gone_share, lifo.wait_ms), (0.0, gone.wait_ms), "{lifo:#?}");
    }

    #[test]
    fn a_line_stands_from_its_first_request_and_not_from_the_dynos_last() {
        // One dyno works for 3 s, longer than clients wait: who comes 1.2 s to 1.5 s after it began has a line that stands
        // for less than their patience. Only behind somebody else, one in some hundreds, can a line stand longer.
        let setup = Setup {
            patience: Some(Duration::from_secs(2)),
            length: Length::Requests(20_000),
            ..Setup::new("fixed:3s".parse().unwrap(), 1, 0.01)
        };
        let [codel] = &shed(&setup, &[Shed::CoDel])[..] else { unreachable!() };
        assert!(codel.gone_share > 0.005, "some find the dyno busy for too long: {codel:#?}");
        assert!(codel.refused_share < 2e-4, "{codel:#?}");
    }
}
