//! One dyno's moods: how long a piece of work really takes it, and when it goes down. Pure: time is an argument.

use std::time::Duration;

use fastrand::Rng;

use super::behaviour::{Behaviour, Crash};
use crate::reactor::nanos;
use crate::service::exponential;

/// What becomes of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// When it ends, in nanoseconds.
    pub(super) ends: u64,
    /// It ends with the dyno.
    pub(super) crash: Option<Crash>,
}

/// The state of a dyno's moods.
#[derive(Debug)]
pub(super) struct Temper {
    /// Pauses, crashes and service times are drawn apart, so that one does not change the others.
    pauses: Rng,
    crashes: Rng,
    services: Rng,
    /// Requests since the start.
    worked: u32,
    /// When the next pause begins, or the present one began.
    pause: u64,
}

impl Temper {
    /// The moods of a dyno that starts now.
    pub(super) fn new(behaviour: &Behaviour, dyno: u32, now: u64) -> Self {
        let mut seeds = Rng::with_seed(behaviour.seed ^ u64::from(dyno).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut next = || Rng::with_seed(seeds.u64(..));
        let mut temper =
            Self { pauses: next(), crashes: next(), services: next(), worked: 0, pause: u64::MAX };
        temper.start(behaviour, now);
        temper
    }

    /// The dyno starts anew: it is cold again, and its first pause is to come.
    pub(super) fn start(&mut self, behaviour: &Behaviour, now: u64) {
        self.worked = 0;
        if let Some(pauses) = behaviour.pauses {
            self.pause = now.saturating_add(draw(&mut self.pauses, pauses.every));
        }
    }

    /// What a request takes that does not ask for anything, in nanoseconds.
    pub(super) fn service(&mut self, behaviour: &Behaviour) -> u64 {
        behaviour.service.draw(&mut self.services)
    }

    /// Begins work that would take `service` nanoseconds in a warm dyno without pauses.
    pub(super) fn work(&mut self, behaviour: &Behaviour, now: u64, service: u64) -> Work {
        let factor = behaviour.warm_up.map_or(1.0, |warm_up| warm_up.factor(self.worked));
        self.worked = self.worked.saturating_add(1);
        let service = if factor > 1.0 { (service as f64 * factor) as u64 } else { service };
        let ends = self.paused(behaviour, now, service);
        if behaviour.crash <= 0.0 || self.crashes.f64() >= behaviour.crash {
            return Work { ends, crash: None };
        }
        if self.crashes.bool() {
            return Work { ends, crash: Some(Crash::Within) };
        }
        let crashes = now + ((ends - now) as f64 * self.crashes.f64()) as u64;
        Work { ends: crashes, crash: Some(Crash::Before) }
    }

    /// When work ends that begins now, with the pauses that fall into it.
    fn paused(&mut self, behaviour: &Behaviour, now: u64, service: u64) -> u64 {
        let Some(pauses) = behaviour.pauses else { return now.saturating_add(service) };
        let length = nanos(pauses.length);
        // A pause that began earlier may be over, or may keep the work from beginning.
        let mut begins = now;
        while self.pause < now {
            let end = self.pause.saturating_add(length);
            begins = begins.max(end);
            self.pause = end.saturating_add(draw(&mut self.pauses, pauses.every));
        }
        let mut ends = begins.saturating_add(service);
        while self.pause < ends {
            ends = ends.saturating_add(length);
            let end = self.pause.saturating_add(length);
            self.pause = end.saturating_add(draw(&mut self.pauses, pauses.every));
        }
        ends
    }

    /// When a dyno that starts now goes down by itself.
    pub(super) fn next_crash(&mut self, behaviour: &Behaviour, now: u64) -> Option<u64> {
        let every = behaviour.crash_every?;
        Some(now.saturating_add(draw(&mut self.crashes, every)))
    }
}

/// A time with this mean, in nanoseconds: at least 1, so that time goes on.
fn draw(rng: &mut Rng, mean: Duration) -> u64 {
    (nanos(mean) as f64 * exponential(rng)).max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dyno::behaviour::{Pauses, WarmUp};

    const MS: u64 = 1_000_000;

    fn ends(behaviour: &Behaviour, works: &[(u64, u64)]) -> Vec<u64> {
        let mut temper = Temper::new(behaviour, 3, 0);
        works.iter().map(|(now, service)| temper.work(behaviour, *now, *service).ends).collect()
    }

    #[test]
    fn an_ideal_dyno_takes_as_long_as_asked() {
        assert_eq!(ends(&Behaviour::default(), &[(5, 10), (20, 0), (30, 7)]), [15, 20, 37]);
    }

    #[test]
    fn a_cold_dyno_is_slow_and_cold_again_after_a_start() {
        let behaviour =
            Behaviour { warm_up: Some(WarmUp { requests: 2, factor: 3.0 }), ..Behaviour::default() };
        assert_eq!(ends(&behaviour, &[(0, 10), (100, 10), (200, 10)]), [30, 120, 210]);
        let mut temper = Temper::new(&behaviour, 0, 0);
        let mut work = || temper.work(&behaviour, 0, 10).ends;
        assert_eq!((work(), work(), work()), (30, 20, 10));
        temper.start(&behaviour, 0);
        assert_eq!(temper.work(&behaviour, 0, 10).ends, 30);
    }

    #[test]
    fn pauses_take_their_share_within_requests_and_between_them() {
        let pauses = Pauses { length: Duration::from_millis(50), every: Duration::from_secs(1) };
        let behaviour = Behaviour { pauses: Some(pauses), ..Behaviour::default() };
        // Busy all the time: a pause of 50 ms after each second of work on average makes work 5 % longer.
        let mut temper = Temper::new(&behaviour, 0, 0);
        let mut now = 0;
        for _ in 0..100_000 {
            now = temper.work(&behaviour, now, 10 * MS).ends;
        }
        let share = now as f64 / (100_000.0 * 10e6);
        assert!((share - 1.05).abs() < 0.01, "{share}");
        // Idle most of the time: the share of requests that come within a pause or meet one is about (50 + 1) / 1050.
        let mut late = 0;
        for n in 1..=100_000 {
            let begin = now + n * 100 * MS;
            let took = temper.work(&behaviour, begin, MS).ends - begin;
            assert!((MS..=200 * MS).contains(&took), "{took}");
            late += u32::from(took > MS);
        }
        assert!((4_000..5_800).contains(&late), "{late}");
    }

    #[test]
    fn the_same_seed_gives_the_same_moods_and_dynos_differ() {
        let pauses = Pauses { length: Duration::from_millis(50), every: Duration::from_millis(100) };
        let behaviour = Behaviour { pauses: Some(pauses), crash: 0.3, ..Behaviour::default() };
        let moods = |dyno, seed| {
            let behaviour = Behaviour { seed, ..behaviour.clone() };
            let mut temper = Temper::new(&behaviour, dyno, 0);
            (0..50).map(|n| temper.work(&behaviour, n * 200 * MS, MS)).collect::<Vec<_>>()
        };
        assert_eq!(moods(1, 1), moods(1, 1));
        assert_ne!(moods(1, 1), moods(2, 1));
        assert_ne!(moods(1, 1), moods(1, 2));
    }

    #[test]
    fn as_many_requests_crash_as_asked_for_and_never_after_their_end() {
        let behaviour = Behaviour { crash: 0.1, ..Behaviour::default() };
        let mut temper = Temper::new(&behaviour, 0, 0);
        let works: Vec<_> = (0..20_000).map(|_| temper.work(&behaviour, 100, 1_000)).collect();
        let count = |crash| works.iter().filter(|work| work.crash == crash).count();
        let (before, within) = (count(Some(Crash::Before)), count(Some(Crash::Within)));
        assert!((850..1150).contains(&before) && (850..1150).contains(&within), "{before} {within}");
        assert!(works.iter().all(|work| (100..=1_100).contains(&work.ends)));
        assert!(works.iter().all(|work| work.ends == 1_100 || work.crash == Some(Crash::Before)));
        assert_eq!(temper.next_crash(&behaviour, 0), None);
    }
}
