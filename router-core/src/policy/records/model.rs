//! Random answers, failures and changes of sources against a reference that is too simple to be wrong.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The source with this number answers with these hosts (of 10.0.0.0/28).
    Answer(u8, Vec<u8>),
    /// It fails.
    Fail(u8),
    /// Only the sources whose bit is set are wanted, bit 3 is a fixed address.
    Sources(u8),
    /// The router refuses its next changes whose address has an odd number.
    RefuseOdd,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, vec(0u8..12, 0..8)).prop_map(|(source, hosts)| Step::Answer(source, hosts)),
        2 => (0u8..3).prop_map(Step::Fail),
        1 => (0u8..16).prop_map(Step::Sources),
        1 => Just(Step::RefuseOdd),
    ]
}

fn source(nth: u8) -> Source {
    match nth {
        3 => Source::Address(address(3)),
        nth => Source::Dns { host: format!("host{nth}").into(), port: 80 },
    }
}

fn address(host: u8) -> Address {
    Address::new(Ipv4Addr::new(10, 0, 0, host).into(), 80)
}

/// One source as its list of good answers, newest last.
#[derive(Clone, Debug, Default)]
struct Reference {
    heard: bool,
    good: Vec<BTreeSet<Address>>,
}

impl Reference {
    /// Replays all answers from the first: additions at once, small removals at once, large ones after `confirm`.
    fn addresses(&self, bounds: &Bounds) -> BTreeSet<Address> {
        let mut have: Vec<Address> = Vec::new();
        // The answers of the removal that is held, and how many addresses there were before it.
        let mut held: Vec<BTreeSet<Address>> = Vec::new();
        let mut base = 0;
        for answer in &self.good {
            let missing: Vec<Address> = have.iter().filter(|at| !answer.contains(at)).copied().collect();
            if held.is_empty() {
                base = have.len();
            }
            let mut gone: Vec<Address> = missing.clone();
            if missing.len() as f64 > bounds.max_removal * base as f64 {
                let known: BTreeSet<Address> = missing.iter().copied().collect();
                held.push(known);
                gone.retain(|at| {
                    held.len() as u32 >= bounds.confirm && held.iter().all(|set| set.contains(at))
                });
                if held.len() as u32 >= bounds.confirm {
                    let rest: BTreeSet<Address> =
                        missing.iter().filter(|at| !gone.contains(at)).copied().collect();
                    held.clear();
                    base = have.len() - gone.len();
                    if !rest.is_empty() {
                        held.push(rest);
                    }
                }
            } else {
                held.clear();
            }
            have.retain(|at| !gone.contains(at));
            have.extend(answer);
            have.sort_unstable();
            have.dedup();
        }
        have.into_iter().collect()
    }
}

/// A router that may refuse, and checks that it is told nothing twice.
#[derive(Default)]
struct Router {
    dynos: BTreeSet<Address>,
    refuse_odd: bool,
}

impl Router {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let mut refused = Vec::new();
        for change in changes {
            let (address, added) = match &change {
                Change::AddDyno(_, spec) => (spec.address, true),
                Change::RemoveDyno(_, address) => (*address, false),
                Change::PutApp(_)
                | Change::RemoveApp(_)
                | Change::SetDyno(..)
                | Change::SetCanary(..)
                | Change::Hold(..) => {
                    panic!("{change:?}")
                }
            };
            let odd = address.ip().to_string().ends_with(['1', '3', '5', '7', '9']);
            if self.refuse_odd && odd {
                refused.push(change);
            } else if added {
                assert!(self.dynos.insert(address), "{address} added twice");
            } else {
                assert!(self.dynos.remove(&address), "{address} removed twice");
            }
        }
        self.refuse_odd = false;
        refused
    }
}

/// Tells the records what the step says.
fn tell(records: &mut Records, now: Instant, nth: u8, answer: Answer) -> bool {
    let due = records.take_due(now);
    let mut told = false;
    for (id, asked) in due {
        // The others were asked too, and do not say anything that counts.
        let mine = asked == source(nth);
        let answer = if mine { answer.clone() } else { Answer::Failed(Failure::Timeout) };
        records.hear(now, id, answer, 0.5);
        told |= mine;
    }
    told
}

fn run(steps: Vec<Step>, bounds: Bounds) {
    let clock = Clock::manual();
    let mut records = Records::new("shop".into(), bounds);
    let mut router = Router::default();
    let mut wanted: Vec<u8> = Vec::new();
    let mut reference: Vec<Reference> = vec![Reference::default(); 4];
    let mut retired: BTreeSet<Address> = BTreeSet::new();
    for step in steps {
        clock.advance(Duration::from_secs(1_000_000));
        match step {
            Step::Sources(bits) => {
                let next: Vec<u8> = (0..4).filter(|nth| bits & (1 << nth) != 0).collect();
                for nth in (0..4).filter(|nth| !next.contains(nth)) {
                    let old = std::mem::take(&mut reference[usize::from(nth)]);
                    retired.extend(old.addresses(&bounds));
                }
                if next.contains(&3) && !wanted.contains(&3) {
                    reference[3] = Reference { heard: true, good: vec![BTreeSet::from([address(3)])] };
                }
                wanted = next;
                let sources: Vec<Source> = wanted.iter().map(|nth| source(*nth)).collect();
                records.set_sources(clock.now(), &sources, 1);
            }
            Step::Answer(nth, hosts) => {
                let ips: Vec<Ipv4Addr> = hosts.iter().map(|host| Ipv4Addr::new(10, 0, 0, *host)).collect();
                let found = Found { records: ips, ttl: Duration::from_secs(1) };
                let answer = Answer::Host(HostAnswer { v4: Ok(found), v6: Err(Failure::Empty) });
                if tell(&mut records, clock.now(), nth, answer) && !hosts.is_empty() {
                    reference[usize::from(nth)].good.push(hosts.into_iter().map(address).collect());
                }
                wanted.iter().for_each(|nth| reference[usize::from(*nth)].heard = true);
            }
            Step::Fail(nth) => {
                tell(&mut records, clock.now(), nth, Answer::Failed(Failure::ServerFailed));
                wanted.iter().for_each(|nth| reference[usize::from(*nth)].heard = true);
            }
            Step::RefuseOdd => router.refuse_odd = true,
        }
        let refused = router.apply(records.changes(clock.now()));
        records.refused(clock.now(), refused);
        // What was refused is offered again and taken now.
        clock.advance(Duration::from_secs(1));
        let refused = router.apply(records.changes(clock.now()));
        assert_eq!(refused, []);

        let ready = wanted.iter().all(|nth| reference[usize::from(*nth)].heard);
        assert_eq!(records.is_ready(), ready);
        if ready {
            retired.clear();
        }
        let mut union = retired.clone();
        union.extend(wanted.iter().flat_map(|nth| reference[usize::from(*nth)].addresses(&bounds)));
        assert_eq!(router.dynos, union);
        assert_eq!(records.announced().collect::<BTreeSet<_>>(), union);
        records.check_invariants();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_router_has_what_the_reference_says(
        steps in vec(step(), 0..60),
        confirm in 1u32..5,
        tenths in 0u8..=10,
    ) {
        let max_removal = f64::from(tenths) / 10.0;
        let mut all = vec![Step::Sources(0b1111)];
        all.extend(steps);
        run(all, Bounds { confirm, max_removal, ..Bounds::default() });
    }

    #[test]
    fn no_answer_makes_a_source_larger_than_twice_its_bound(
        answers in vec(vec(any::<u16>(), 0..40), 0..30),
    ) {
        let clock = Clock::manual();
        let bounds = Bounds { max_addresses: 8, families: Families::Both, ..Bounds::default() };
        let mut records = Records::new("shop".into(), bounds);
        records.set_sources(clock.now(), &[source(0)], 1);
        for answer in answers {
            clock.advance(Duration::from_secs(1_000_000));
            let records_of = |ip: u16| Ipv4Addr::from(u32::from(ip) << 16 | u32::from(ip));
            let v6 = answer.iter().map(|ip| records_of(*ip).to_ipv6_mapped()).collect();
            let v4 = answer.into_iter().map(records_of).collect();
            let ttl = Duration::from_secs(u64::MAX);
            let answer = HostAnswer { v4: Ok(Found { records: v4, ttl }), v6: Ok(Found { records: v6, ttl }) };
            tell(&mut records, clock.now(), 0, Answer::Host(answer));
            records.changes(clock.now());
            prop_assert!(records.announced().count() <= 16);
        }
    }
}
