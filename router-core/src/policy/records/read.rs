//! Reads one answer: which addresses it names, which of its records cannot be dynos, and what it leaves open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::source::is_usable;
use super::{Answer, Bounds, Failure, Families, Found, HostAnswer, Source, Target};
use crate::ids::Address;

/// The addresses of each host that were last good.
pub(super) type Hosts = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

/// Something that was read, and what had to be dropped on the way.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) result: T,
    /// Records that cannot be dynos.
    pub(super) unusable: u64,
    /// Records that say what another has said.
    pub(super) duplicates: u64,
    /// Records or addresses beyond the bounds.
    pub(super) left_out: usize,
}

/// An answer to go by.
#[derive(Debug)]
pub(super) struct Good {
    pub(super) addresses: BTreeSet<Address>,
    pub(super) hosts: Hosts,
    /// Addresses that a host had in the family that no longer serves.
    pub(super) switched: BTreeSet<IpAddr>,
    pub(super) ttl: Duration,
    /// What failed beside it.
    pub(super) partial: Option<Failure>,
}

/// Whether this address can be one dyno.
pub(super) fn is_dyno(address: Address) -> bool {
    address.port() != 0 && is_usable(address.ip())
}

/// Reads the answer for the source, with `known` for what it leaves open. While `patient`, a preferred family that
/// is said to be gone is not yet believed to be.
pub(super) fn read(
    source: &Source,
    known: &Hosts,
    answer: Answer,
    bounds: &Bounds,
    patient: bool,
) -> Reading<Result<Good, Failure>> {
    let rule = Rule { families: bounds.families, patient };
    let mut reading = match (source, answer) {
        (Source::Dns { host, port }, Answer::Host(answer)) => read_host(host, *port, known, answer, rule),
        (Source::Srv { .. }, Answer::Service(Ok(found), hosts)) => {
            read_service(found, hosts, known, bounds.max_targets, rule)
        }
        (Source::Srv { .. }, Answer::Service(Err(failure), _)) | (_, Answer::Failed(failure)) => bad(failure),
        (
            Source::Address(_) | Source::Dns { .. } | Source::Srv { .. },
            Answer::Host(_) | Answer::Service(..),
        ) => bad(Failure::Lost),
    };
    if let Ok(good) = &mut reading.result {
        let before = good.addresses.len();
        // In order of address, so that the same ones are left out each time.
        if let Some(first_out) = good.addresses.iter().nth(bounds.max_addresses).copied() {
            drop(good.addresses.split_off(&first_out));
        }
        reading.left_out += before - good.addresses.len();
    }
    reading
}

fn bad(failure: Failure) -> Reading<Result<Good, Failure>> {
    Reading { result: Err(failure), unusable: 0, duplicates: 0, left_out: 0 }
}

fn read_host(
    host: &Arc<str>,
    port: u16,
    known: &Hosts,
    answer: HostAnswer,
    rule: Rule,
) -> Reading<Result<Good, Failure>> {
    if port == 0 {
        return bad(Failure::Unusable);
    }
    choose(answer, known.get(host), rule).map(|chosen| {
        let Chosen { ips, switched, ttl, partial } = chosen?;
        let addresses = ips.iter().map(|ip| Address::new(*ip, port)).collect();
        Ok(Good { addresses, hosts: BTreeMap::from([(host.clone(), ips)]), switched, ttl, partial })
    })
}

fn read_service(
    found: Found<Target>,
    answers: Vec<(Arc<str>, HostAnswer)>,
    known: &Hosts,
    max_targets: usize,
    rule: Rule,
) -> Reading<Result<Good, Failure>> {
    let none = if found.records.is_empty() { Failure::Empty } else { Failure::Unusable };
    let targets = targets(found.records, max_targets);
    if targets.result.is_empty() {
        return targets.map(|_| Err(none));
    }
    let mut answers: BTreeMap<Arc<str>, HostAnswer> = answers.into_iter().collect();
    let (mut hosts, mut ttl, mut partial) = (Hosts::new(), found.ttl, None);
    let mut switched = BTreeSet::new();
    let (mut unusable, mut duplicates) = (targets.unusable, targets.duplicates);
    for target in &targets.result {
        if hosts.contains_key(&target.host) {
            continue;
        }
        let before = known.get(&target.host);
        let answer = answers.remove(&target.host).unwrap_or_else(|| HostAnswer::failed(Failure::Lost));
        let reading = choose(answer, before, rule);
        unusable += reading.unusable;
        duplicates += reading.duplicates;
        let ips = match reading.result {
            Ok(chosen) => {
                ttl = ttl.min(chosen.ttl);
                partial = partial.or(chosen.partial);
                switched.extend(chosen.switched);
                chosen.ips
            }
            Err(failure) => {
                partial = partial.or(Some(failure));
                before.cloned().unwrap_or_default()
            }
        };
        hosts.insert(target.host.clone(), ips);
    }
    let addresses = serving(&targets.result, &hosts);
    let result = if addresses.is_empty() {
        Err(partial.unwrap_or(Failure::Empty))
    } else {
        Ok(Good { addresses, hosts, switched, ttl, partial })
    };
    Reading { result, unusable, duplicates, left_out: targets.left_out }
}

/// The addresses of the lowest priority that has any; within it, of the targets with a weight before those without.
fn serving(targets: &[Target], hosts: &Hosts) -> BTreeSet<Address> {
    let mut ranks: BTreeMap<(u16, bool), BTreeSet<Address>> = BTreeMap::new();
    for target in targets {
        let rank = ranks.entry((target.priority, target.weight == 0)).or_default();
        let ips = hosts.get(&target.host).into_iter().flatten();
        rank.extend(ips.map(|ip| Address::new(*ip, target.port)));
    }
    ranks.into_values().find(|addresses| !addresses.is_empty()).unwrap_or_default()
}

/// Targets that can be asked for: without `.` and port 0, once each, in the order of use, at most `max`.
pub(super) fn targets(records: Vec<Target>, max: usize) -> Reading<Vec<Target>> {
    let all = records.len();
    let mut targets: Vec<Target> =
        records.into_iter().filter(|target| target.port != 0 && !target.host.is_empty()).collect();
    let unusable = all - targets.len();
    targets.sort_unstable();
    targets.dedup();
    let duplicates = all - unusable - targets.len();
    let left_out = targets.len().saturating_sub(max);
    targets.truncate(max);
    Reading { result: targets, unusable: unusable as u64, duplicates: duplicates as u64, left_out }
}

/// What a host's answer comes to.
struct Chosen {
    ips: BTreeSet<IpAddr>,
    switched: BTreeSet<IpAddr>,
    ttl: Duration,
    partial: Option<Failure>,
}

/// How the two families of a host are joined.
#[derive(Clone, Copy)]
struct Rule {
    families: Families,
    patient: bool,
}

/// What is known of one family of a host.
enum Family {
    Has(BTreeSet<IpAddr>, Duration),
    /// The resolver said that there are none, or none of use.
    Absent(Failure),
    /// The resolver said nothing.
    Unknown(Failure),
}

fn choose(
    answer: HostAnswer,
    known: Option<&BTreeSet<IpAddr>>,
    rule: Rule,
) -> Reading<Result<Chosen, Failure>> {
    let (v4, v6) = (family(answer.v4), family(answer.v6));
    let (unusable, duplicates) = (v4.unusable + v6.unusable, v4.duplicates + v6.duplicates);
    let (known_v4, known_v6) = known.into_iter().flatten().copied().partition(IpAddr::is_ipv4);
    let result = match rule.families {
        Families::PreferV4 => prefer((v4.result, known_v4), (v6.result, known_v6), rule.patient),
        Families::PreferV6 => prefer((v6.result, known_v6), (v4.result, known_v4), rule.patient),
        Families::Both => both((v4.result, known_v4), (v6.result, known_v6)),
    };
    Reading { result, unusable, duplicates, left_out: 0 }
}

/// One family serves: the first if it has any. The second takes over only when nothing of the first is known, or
/// when the first has been said to be gone for long enough.
fn prefer(
    first: (Family, BTreeSet<IpAddr>),
    second: (Family, BTreeSet<IpAddr>),
    patient: bool,
) -> Result<Chosen, Failure> {
    let first_is_known = !first.1.is_empty();
    match (first.0, second.0) {
        (Family::Has(ips, ttl), _) => Ok(Chosen { ips, switched: second.1, ttl, partial: None }),
        (Family::Absent(why), Family::Has(..)) if patient && first_is_known => Err(why),
        (Family::Absent(_), Family::Has(ips, ttl)) => {
            Ok(Chosen { ips, switched: first.1, ttl, partial: None })
        }
        (Family::Unknown(why), Family::Has(ips, ttl)) if !first_is_known => {
            Ok(Chosen { ips, switched: BTreeSet::new(), ttl, partial: Some(why) })
        }
        (Family::Unknown(why), _) | (Family::Absent(_), Family::Unknown(why)) => Err(why),
        (Family::Absent(why), Family::Absent(_)) => Err(why),
    }
}

/// Both families serve. One that has no records while the other has some is truly gone; one that could not be
/// asked for keeps what was known of it.
fn both(v4: (Family, BTreeSet<IpAddr>), v6: (Family, BTreeSet<IpAddr>)) -> Result<Chosen, Failure> {
    let join = |mut ips: BTreeSet<IpAddr>, more: BTreeSet<IpAddr>, ttl, partial| {
        ips.extend(more);
        Ok(Chosen { ips, switched: BTreeSet::new(), ttl, partial })
    };
    match (v4.0, v6.0) {
        (Family::Has(ips, ttl), Family::Has(more, other)) => join(ips, more, ttl.min(other), None),
        (Family::Has(ips, ttl), Family::Absent(_)) | (Family::Absent(_), Family::Has(ips, ttl)) => {
            join(ips, BTreeSet::new(), ttl, None)
        }
        (Family::Has(ips, ttl), Family::Unknown(why)) => join(ips, v6.1, ttl, Some(why)),
        (Family::Unknown(why), Family::Has(ips, ttl)) => join(ips, v4.1, ttl, Some(why)),
        (Family::Unknown(why), _) | (Family::Absent(_), Family::Unknown(why)) => Err(why),
        (Family::Absent(why), Family::Absent(_)) => Err(why),
    }
}

fn family<T: Copy + Into<IpAddr>>(answer: Result<Found<T>, Failure>) -> Reading<Family> {
    let found = match answer {
        Ok(found) => found,
        Err(failure) => {
            let family =
                if failure.is_absence() { Family::Absent(failure) } else { Family::Unknown(failure) };
            return Reading { result: family, unusable: 0, duplicates: 0, left_out: 0 };
        }
    };
    let all = found.records.len();
    let usable: Vec<IpAddr> = found.records.into_iter().map(Into::into).filter(|ip| is_usable(*ip)).collect();
    let (unusable, count) = ((all - usable.len()) as u64, usable.len());
    let ips: BTreeSet<IpAddr> = usable.into_iter().collect();
    let duplicates = (count - ips.len()) as u64;
    let result = match (ips.is_empty(), all) {
        (false, _) => Family::Has(ips, found.ttl),
        (true, 0) => Family::Absent(Failure::Empty),
        (true, _) => Family::Absent(Failure::Unusable),
    };
    Reading { result, unusable, duplicates, left_out: 0 }
}

impl<T> Reading<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Reading<U> {
        let Self { result, unusable, duplicates, left_out } = self;
        Reading { result: with(result), unusable, duplicates, left_out }
    }
}
