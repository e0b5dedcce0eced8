//! A router that does as a deploy tells it, and watches that what it is told makes sense.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::*;
use crate::clock::Clock;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What the router knows of a dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    Booting,
    Canary,
    Serving,
    Crashed,
    Draining,
}

pub(super) struct Bed {
    pub(super) now: Instant,
    pub(super) deploy: Deploy,
    pub(super) router: BTreeMap<Address, Seen>,
    /// Probes under way.
    pub(super) asked: BTreeSet<Address>,
    /// Dynos with a good probe since they were added.
    proven: BTreeSet<Address>,
    /// What was told, for example `serve 11`.
    log: Vec<String>,
    /// Requests are set apart for the canary.
    canary: bool,
    pub(super) ended: Option<Outcome>,
    entered: State,
    /// Dynos that are out of it: new ones that failed, old ones that crashed or were lost.
    pub(super) dead: BTreeSet<Address>,
    /// A dyno that served has crashed.
    pub(super) hurt: bool,
    /// Old dynos that were told anything since the deploy began.
    pub(super) touched: bool,
}

pub(super) fn old(nth: usize) -> Address {
    Address::from(([10, 0, 0, 1], 100 + nth as u16))
}

pub(super) fn new(nth: usize) -> Address {
    Address::from(([10, 0, 0, 1], 200 + nth as u16))
}

fn release(id: &str, addresses: impl Iterator<Item = Address>) -> Release {
    let dyno = |address: Address| DynoSpec {
        name: crate::ids::DynoName::new(format!("{id}.{}", address.port() % 100)),
        ..DynoSpec::new(address)
    };
    Release { id: id.into(), dynos: addresses.map(dyno).collect() }
}

impl Bed {
    /// A deploy of so many old and new dynos.
    pub(super) fn new(olds: usize, news: usize, plan: Plan) -> Self {
        let now = Clock::manual().now();
        let (v1, v2) = (release("v1", (0..olds).map(old)), release("v2", (0..news).map(new)));
        let deploy = Deploy::new(now, v1, v2, plan).unwrap();
        let router = (0..olds).map(|nth| (old(nth), Seen::Serving));
        Self {
            now,
            deploy,
            router: router.chain((0..news).map(|nth| (new(nth), Seen::Absent))).collect(),
            asked: BTreeSet::new(),
            proven: BTreeSet::new(),
            log: Vec::new(),
            canary: false,
            ended: None,
            entered: State::Staged,
            dead: BTreeSet::new(),
            hurt: false,
            touched: false,
        }
    }

    /// As `new`, and begun.
    pub(super) fn started(olds: usize, news: usize, plan: Plan) -> Self {
        let mut bed = Self::new(olds, news, plan);
        bed.deploy.start(bed.now).unwrap();
        bed.pump();
        bed
    }

    /// As `started`, and all probes have been good.
    pub(super) fn warmed(olds: usize, news: usize, plan: Plan) -> Self {
        let mut bed = Self::started(olds, news, plan);
        bed.answer_all();
        bed
    }

    pub(super) fn answer_all(&mut self) {
        for _ in 0..100 {
            let Some(dyno) = self.asked.first().copied() else { return };
            self.answer(dyno, Ok(()));
        }
        panic!("probes without end");
    }

    pub(super) fn answer(&mut self, dyno: Address, answer: Result<(), &str>) {
        if self.asked.remove(&dyno) && answer.is_ok() {
            self.proven.insert(dyno);
        }
        self.deploy.probed(self.now, dyno, answer);
        self.pump();
    }

    pub(super) fn gone(&mut self, dyno: Address) {
        assert_eq!(self.router.insert(dyno, Seen::Absent), Some(Seen::Draining), "only who drains goes");
        self.deploy.gone(self.now, dyno);
        self.pump();
    }

    pub(super) fn crash(&mut self, dyno: Address, how: &str) {
        let after = match self.router[&dyno] {
            stays @ (Seen::Absent | Seen::Crashed) => stays,
            Seen::Draining => Seen::Absent,
            was @ (Seen::Booting | Seen::Canary | Seen::Serving) => {
                self.hurt |= was == Seen::Serving;
                self.dead.insert(dyno);
                Seen::Crashed
            }
        };
        self.router.insert(dyno, after);
        self.deploy.crashed(self.now, dyno, how);
        self.pump();
    }

    pub(super) fn tally(&mut self, side: Side, requests: u64, faults: u64) {
        let service = Duration::from_millis(10 * requests);
        self.deploy.tallied(self.now, side, Tally { requests, faults, service });
        self.pump();
    }

    pub(super) fn roll_back(&mut self) {
        self.deploy.roll_back(self.now, "ann: it is broken").unwrap();
        self.pump();
    }

    /// Time passes; every alarm on the way is kept.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(alarm) = self.deploy.alarm().filter(|alarm| *alarm <= until) {
            assert!(alarm > self.now, "an alarm lies ahead");
            self.now = alarm;
            self.deploy.tick(self.now);
            self.pump();
        }
        self.now = until;
    }

    /// The router and the deploy are started anew from what was saved.
    pub(super) fn restart(&mut self) {
        let before = self.in_state(Seen::Serving);
        let crashed = self.in_state(Seen::Crashed);
        for seen in self.router.values_mut() {
            *seen = Seen::Absent;
        }
        self.asked.clear();
        self.canary = false;
        self.proven = before.clone();
        let (touched, hurt) = (self.touched, self.hurt);
        self.dead.retain(|dyno| !crashed.contains(dyno) || self.deploy.side(*dyno) == Some(Side::New));
        self.deploy = Deploy::resume(self.deploy.saved(), self.now).unwrap();
        self.hurt = true;
        self.entered = self.deploy.state();
        self.ended = None;
        self.pump();
        (self.touched, self.hurt) = (touched, hurt);
        let after = self.in_state(Seen::Serving);
        assert!(before.is_subset(&after), "who served serves: {before:?} {after:?}");
        let more = |dyno: &Address| before.contains(dyno) || crashed.contains(dyno);
        assert!(after.iter().all(more), "nobody else does: {before:?} {after:?}");
    }

    pub(super) fn in_state(&self, state: Seen) -> BTreeSet<Address> {
        self.router.iter().filter(|(_, seen)| **seen == state).map(|(dyno, _)| *dyno).collect()
    }

    /// Dynos of one side, by what the router knows of them.
    pub(super) fn count(&self, side: Side, state: Seen) -> usize {
        self.in_state(state).iter().filter(|dyno| self.deploy.side(**dyno) == Some(side)).count()
    }

    /// What was told since the last call.
    pub(super) fn told(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }

    /// Takes every effect, and holds each against what the router knows.
    pub(super) fn pump(&mut self) {
        while let Some(effect) = self.deploy.next_effect() {
            assert_eq!(self.ended, None, "nothing comes after the end: {effect:?}");
            let word = match &effect {
                Effect::Enters(state) => {
                    self.entered = *state;
                    state.to_string()
                }
                Effect::CanaryIs(canary) => {
                    assert_ne!(self.canary, canary.is_some(), "a canary begins once and ends once");
                    self.canary = canary.is_some();
                    if self.canary { "canary is".into() } else { "canary is not".into() }
                }
                Effect::Add(dyno) => {
                    self.dead.remove(&dyno.address);
                    self.told_of("add", dyno, &[Seen::Absent], Seen::Booting)
                }
                Effect::Awaited(dyno) => self.told_of("await", dyno, &[Seen::Booting], Seen::Booting),
                Effect::Probe(dyno) => {
                    assert!(self.asked.insert(dyno.address), "one probe at a time");
                    self.told_of("probe", dyno, &[Seen::Booting], Seen::Booting)
                }
                Effect::Canary(dyno) => self.told_of("canary", dyno, &[Seen::Booting], Seen::Canary),
                Effect::Serve(dyno) => {
                    assert!(self.proven.contains(&dyno.address), "who serves has been probed");
                    self.told_of("serve", dyno, &[Seen::Booting, Seen::Canary], Seen::Serving)
                }
                Effect::Drain(dyno) => {
                    self.told_of("drain", dyno, &[Seen::Serving, Seen::Canary], Seen::Draining)
                }
                Effect::Resume(dyno) => {
                    self.told_of("resume", dyno, &[Seen::Draining, Seen::Absent], Seen::Serving)
                }
                Effect::Remove(dyno) => {
                    let unwanted = matches!(self.entered, State::RollingBack | State::Failed);
                    if !unwanted || self.deploy.side(dyno.address) == Some(Side::Old) {
                        self.dead.insert(dyno.address);
                    }
                    self.told_of("remove", dyno, &[Seen::Booting, Seen::Crashed], Seen::Absent)
                }
                Effect::GivenUp(dyno) => self.told_of("given up", dyno, &[Seen::Draining], Seen::Draining),
                Effect::Ended(outcome) => {
                    self.ended = Some(outcome.clone());
                    continue;
                }
            };
            self.log.push(word);
            self.hold_floor(&effect);
        }
        assert_eq!(self.deploy.state().is_end(), self.ended.is_some());
        assert_eq!(
            self.deploy.state() == State::Canary,
            self.canary,
            "a canary's requests are apart in its state"
        );
        let canaries = self.in_state(Seen::Canary).len();
        assert!(canaries == 0 || self.canary || self.deploy.state() == State::CuttingOver);
    }

    fn told_of(&mut self, word: &str, dyno: &DynoSpec, from: &[Seen], to: Seen) -> String {
        let seen = self.router.insert(dyno.address, to).unwrap();
        assert!(from.contains(&seen), "{word} {}: it is {seen:?}", dyno.address);
        if to == Seen::Absent || to == Seen::Draining {
            self.asked.remove(&dyno.address);
            self.proven.remove(&dyno.address);
        }
        self.touched |= self.deploy.side(dyno.address) == Some(Side::Old) && word != "resume";
        format!("{word} {}", dyno.address.port())
    }

    /// After each effect: enough dynos serve, and an old one leaves only for new ones that serve.
    fn hold_floor(&self, effect: &Effect) {
        let all =
            |side| self.router.keys().filter(move |dyno| self.deploy.side(**dyno) == Some(side)).copied();
        let sound = |side| all(side).filter(|dyno| !self.dead.contains(dyno)).count();
        let (olds, news) = (sound(Side::Old), sound(Side::New));
        let serving = self.in_state(Seen::Serving).len();
        assert!(self.hurt || serving >= olds.min(news), "{effect:?}: {serving} serve of {olds} and {news}");
        if let Effect::Drain(dyno) = effect
            && self.deploy.side(dyno.address) == Some(Side::Old)
            && !self.hurt
        {
            let left = olds - self.count(Side::Old, Seen::Serving);
            let for_them = self.count(Side::New, Seen::Serving);
            assert!(
                left * news <= olds * for_them,
                "{effect:?}: {left} of {olds} left for {for_them} of {news}"
            );
        }
    }
}
