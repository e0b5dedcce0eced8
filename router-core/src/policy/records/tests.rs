//! What answers, failures and changes of sources do to the dynos of an app.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);

/// Records that are told what to hear, and a router that does as it is told.
struct Bed {
    clock: Clock,
    records: Records,
    router: BTreeSet<Address>,
}

impl Bed {
    fn new(sources: &[&str], bounds: Bounds) -> Self {
        let clock = Clock::manual();
        let records = Records::new("shop".into(), bounds);
        let mut bed = Self { clock, records, router: BTreeSet::new() };
        bed.set(sources);
        bed
    }

    fn set(&mut self, sources: &[&str]) {
        let sources: Vec<Source> = sources.iter().map(|text| text.parse().unwrap()).collect();
        self.records.set_sources(self.clock.now(), &sources, 1);
        self.apply();
    }

    fn apply(&mut self) -> Vec<Change> {
        let changes = self.records.changes(self.clock.now());
        for change in &changes {
            match change {
                Change::AddDyno(_, spec) => {
                    assert!(spec.concurrency > 1 || self.router.insert(spec.address), "added twice");
                }
                Change::RemoveDyno(_, address) => assert!(self.router.remove(address), "removed twice"),
                Change::PutApp(_) | Change::RemoveApp(_) => panic!("{change:?}"),
                Change::SetDyno(..) | Change::SetCanary(..) | Change::Hold(..) => panic!("{change:?}"),
            }
        }
        changes
    }

    /// Lets every source become due and answers the one at `at` in the list; the others fail to answer.
    fn hear(&mut self, at: usize, answer: &Answer) -> Heard {
        self.clock.advance(Duration::from_secs(100_000));
        let mut heard = Heard::Stale;
        for (nth, (id, _)) in self.records.take_due(self.clock.now()).into_iter().enumerate() {
            let answer = if nth == at { answer.clone() } else { Answer::Failed(Failure::Timeout) };
            let result = self.records.hear(self.clock.now(), id, answer, 0.0);
            if nth == at {
                heard = result;
            }
        }
        self.apply();
        heard
    }

    fn dynos(&self) -> Vec<String> {
        self.router.iter().map(ToString::to_string).collect()
    }

    fn status(&self) -> SourceStatus {
        self.records.status(self.clock.now()).remove(0)
    }
}

fn found<T>(records: Vec<T>) -> Result<Found<T>, Failure> {
    Ok(Found { records, ttl: SECOND * 10 })
}

fn host(v4: &[&str], v6: &[&str]) -> HostAnswer {
    fn all<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Result<Found<T>, Failure> {
        if texts.is_empty() {
            return Err(Failure::Empty);
        }
        found(texts.iter().map(|text| text.parse().unwrap()).collect())
    }
    HostAnswer { v4: all(v4), v6: all(v6) }
}

fn v4(texts: &[&str]) -> Answer {
    Answer::Host(host(texts, &[]))
}

fn target(priority: u16, weight: u16, host: &str, port: u16) -> Target {
    Target { priority, weight, host: host.into(), port }
}

fn service(targets: &[Target], hosts: &[(&str, &[&str])]) -> Answer {
    let hosts = hosts.iter().map(|(name, ips)| (Arc::from(*name), host(ips, &[]))).collect();
    Answer::Service(found(targets.to_vec()), hosts)
}

#[test]
fn dynos_are_named_after_their_source_and_given_the_concurrency_of_the_app() {
    let mut bed = Bed::new(&["dns:Web.shop.internal.:3000", "127.0.0.1:3001"], Bounds::default());
    assert_eq!(bed.dynos(), ["127.0.0.1:3001"]);
    let source: Source = "dns:web.shop.internal.:3000".parse().unwrap();
    let fixed: Source = "127.0.0.1:3001".parse().unwrap();
    assert!(bed.records.source(SourceId(1)).is_some_and(|known| *known == source), "names are in lower case");
    assert_eq!(bed.hear(0, &v4(&["10.0.0.7"])), Heard::Answered);
    bed.records.set_sources(bed.clock.now(), &[source, fixed], 4);
    let changes = bed.records.changes(bed.clock.now());
    let names: Vec<_> = changes
        .iter()
        .map(|change| {
            let Change::AddDyno(app, spec) = change else { panic!("{change:?}") };
            (app.as_str(), spec.name.as_str().to_owned(), spec.concurrency)
        })
        .collect();
    let expected = [("shop", "web.shop.internal./10.0.0.7:3000"), ("shop", "127.0.0.1:3001")];
    let expected = expected.map(|(app, name)| (app, name.replace("./", "/"), 4));
    assert_eq!(names, expected);
}

#[test]
fn an_address_of_two_sources_stays_until_both_drop_it() {
    let free = Bounds { max_removal: 1.0, ..Bounds::default() };
    let mut bed = Bed::new(&["dns:a:80", "dns:b:80"], free);
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"]));
    bed.hear(1, &v4(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    bed.hear(0, &v4(&["10.0.0.1"]));
    assert!(bed.router.contains(&"10.0.0.2:80".parse().unwrap()));
    bed.hear(1, &v4(&["10.0.0.3"]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.3:80"]);
}

/// T14.
#[test]
fn t14_no_failure_takes_a_dyno_away_and_each_is_seen_in_the_status() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    assert!(!bed.records.is_ready());
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"]));
    assert!(bed.records.is_ready());
    let failures = [
        Failure::Empty,
        Failure::NoSuchName,
        Failure::ServerFailed,
        Failure::Refused,
        Failure::BadAnswer,
        Failure::Truncated,
        Failure::Timeout,
        Failure::Unreachable,
        Failure::Lost,
    ];
    for (nth, failure) in failures.into_iter().enumerate() {
        let heard = bed.hear(0, &Answer::Host(HostAnswer::failed(failure)));
        assert_eq!(heard, Heard::Failed { failure, first: nth == 0 });
        assert_eq!((bed.status().error, bed.status().dynos), (Some(failure), 2));
    }
    let nothing = Answer::Host(HostAnswer { v4: found(vec![]), v6: found(vec![]) });
    assert_eq!(bed.hear(0, &nothing), Heard::Failed { failure: Failure::Empty, first: false });
    assert_eq!(bed.dynos().len(), 2);
    let status = bed.status();
    assert_eq!(status.error_for, Some(Duration::from_secs(100_000) * 9));
    assert_eq!(status.answer_age, Some(Duration::from_secs(100_000) * 10));
    assert_eq!((status.asked, status.answered, status.failed), (11, 1, 10));
    assert_eq!(bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"])), Heard::Recovered);
    assert_eq!((bed.status().error, bed.status().error_for), (None, None));
}

#[test]
fn a_large_removal_waits_for_three_answers_and_additions_do_not_wait() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]));
    let new = v4(&["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"]);
    for _ in 0..2 {
        assert_eq!(bed.hear(0, &new), Heard::Held { dynos: 4 });
        assert_eq!(bed.dynos().len(), 8);
        assert_eq!((bed.status().dynos, bed.status().held), (8, 4));
    }
    let heard = bed.hear(0, &new);
    assert_eq!(heard, Heard::Answered);
    assert_eq!(bed.dynos(), ["10.0.0.5:80", "10.0.0.6:80", "10.0.0.7:80", "10.0.0.8:80"]);
}

#[test]
fn half_of_the_dynos_go_at_once() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]));
    assert_eq!(bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"])), Heard::Answered);
    assert_eq!(bed.dynos().len(), 2);
}

#[test]
fn a_held_removal_is_forgotten_when_the_dynos_are_back_and_failures_neither_confirm_nor_forget_it() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    let all = v4(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let one = v4(&["10.0.0.1"]);
    bed.hear(0, &all);
    assert_eq!(bed.hear(0, &one), Heard::Held { dynos: 2 });
    assert_eq!(bed.hear(0, &all), Heard::Answered);
    for _ in 0..2 {
        assert_eq!(bed.hear(0, &one), Heard::Held { dynos: 2 });
        let heard = bed.hear(0, &Answer::Failed(Failure::Timeout));
        assert_eq!(heard, Heard::Failed { failure: Failure::Timeout, first: true });
        assert_eq!(bed.dynos().len(), 3);
    }
    assert_eq!(bed.hear(0, &one), Heard::Recovered);
    assert_eq!(bed.dynos(), ["10.0.0.1:80"]);
}

#[test]
fn answers_that_show_a_part_at_a_time_lose_no_dyno() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    let ips: Vec<String> = (1..=12).map(|nth| format!("10.0.0.{nth}")).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    bed.hear(0, &v4(&ips));
    for nth in 0..30 {
        let part: Vec<&str> = ips.iter().copied().cycle().skip(4 * nth).take(4).collect();
        bed.hear(0, &v4(&part));
        assert_eq!(bed.dynos().len(), 12, "after part {nth}");
    }
}

#[test]
fn one_family_serves_so_that_a_host_with_two_addresses_is_one_dyno() {
    let both = Answer::Host(host(&["10.0.0.1"], &["fd00::1"]));
    let with = |families| Bed::new(&["dns:web:80"], Bounds { families, ..Bounds::default() });
    for (families, expected) in [
        (Families::PreferV4, vec!["10.0.0.1:80"]),
        (Families::PreferV6, vec!["[fd00::1]:80"]),
        (Families::Both, vec!["10.0.0.1:80", "[fd00::1]:80"]),
    ] {
        let mut bed = with(families);
        bed.hear(0, &both);
        assert_eq!(bed.dynos(), expected);
    }
    let mut bed = with(Families::PreferV4);
    bed.hear(0, &Answer::Host(host(&[], &["fd00::1", "fd00::2"])));
    assert_eq!(bed.dynos(), ["[fd00::1]:80", "[fd00::2]:80"], "without IPv4, IPv6 serves");
    bed.hear(0, &Answer::Host(host(&["10.0.0.1", "10.0.0.2"], &["fd00::1", "fd00::2"])));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.2:80"], "never both at once");
}

#[test]
fn the_other_family_takes_over_only_after_three_answers_without_the_preferred_one() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"]));
    let only_v6 = Answer::Host(host(&[], &["fd00::1", "fd00::2"]));
    for _ in 0..2 {
        assert!(matches!(bed.hear(0, &only_v6), Heard::Failed { failure: Failure::Empty, .. }));
        assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.2:80"]);
    }
    bed.hear(0, &only_v6);
    assert_eq!(bed.dynos(), ["[fd00::1]:80", "[fd00::2]:80"]);
}

#[test]
fn a_family_that_fails_while_the_other_answers_keeps_what_was_known_of_it() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds { families: Families::Both, ..Bounds::default() });
    bed.hear(0, &Answer::Host(host(&["10.0.0.1", "10.0.0.2"], &["fd00::1"])));
    let failing = HostAnswer { v6: Err(Failure::Timeout), ..host(&["10.0.0.1"], &[]) };
    assert_eq!(bed.hear(0, &Answer::Host(failing)), Heard::Answered);
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "[fd00::1]:80"]);
    assert_eq!(bed.status().error, Some(Failure::Timeout));
    bed.hear(0, &v4(&["10.0.0.1"]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80"], "a name that exists without AAAA records has none");
}

#[test]
fn the_lowest_srv_priority_that_has_addresses_serves() {
    let free = Bounds { max_removal: 1.0, ..Bounds::default() };
    let mut bed = Bed::new(&["srv:_http._tcp.shop"], free);
    let targets = [target(10, 1, "main", 80), target(20, 1, "spare", 81), target(30, 1, "last", 82)];
    bed.hear(0, &service(&targets, &[("main", &[]), ("spare", &["10.0.0.2"]), ("last", &["10.0.0.3"])]));
    assert_eq!(bed.dynos(), ["10.0.0.2:81"]);
    bed.hear(0, &service(&targets, &[("main", &["10.0.0.1"]), ("spare", &["10.0.0.2"])]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80"]);
    bed.hear(0, &service(&targets, &[("main", &[]), ("spare", &["10.0.0.2"])]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80"], "a target that fails keeps its last good addresses");
    assert_eq!(bed.status().error, Some(Failure::Empty));
    bed.hear(0, &service(&targets[1..], &[("spare", &["10.0.0.2"])]));
    assert_eq!(bed.dynos(), ["10.0.0.2:81"], "a target that is no longer listed is gone");
}

#[test]
fn srv_weight_means_nothing_but_zero_stands_by_beside_targets_that_have_one() {
    let free = Bounds { max_removal: 1.0, ..Bounds::default() };
    let mut bed = Bed::new(&["srv:_http._tcp.shop"], free);
    let hosts: &[(&str, &[&str])] = &[("a", &["10.0.0.1"]), ("b", &["10.0.0.2"]), ("c", &["10.0.0.3"])];
    bed.hear(0, &service(&[target(0, 0, "a", 80), target(0, 0, "b", 80)], hosts));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.2:80"], "all of weight 0 all serve");
    let weighted = [target(0, 0, "a", 80), target(0, 1, "b", 80), target(0, 999, "c", 80)];
    bed.hear(0, &service(&weighted, hosts));
    assert_eq!(bed.dynos(), ["10.0.0.2:80", "10.0.0.3:80"]);
    let mut fresh = Bed::new(&["srv:_http._tcp.shop"], free);
    fresh.hear(0, &service(&weighted, &[("a", &["10.0.0.1"])]));
    assert_eq!(fresh.dynos(), ["10.0.0.1:80"], "who stands by serves when nobody else can");
}

#[test]
fn a_service_that_says_it_is_not_there_is_an_answer_without_records() {
    let mut bed = Bed::new(&["srv:_http._tcp.shop"], Bounds::default());
    bed.hear(0, &service(&[target(0, 1, "a", 80)], &[("a", &["10.0.0.1"])]));
    let heard = bed.hear(0, &service(&[target(0, 0, "", 80)], &[]));
    assert_eq!(heard, Heard::Failed { failure: Failure::Unusable, first: true });
    assert_eq!(bed.dynos(), ["10.0.0.1:80"]);
}

#[test]
fn records_that_cannot_be_dynos_are_dropped_and_counted() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds { families: Families::Both, ..Bounds::default() });
    let odd = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1", "10.0.0.1"];
    bed.hear(0, &Answer::Host(host(&odd, &["::", "ff02::1", "::ffff:10.0.0.1", "fd00::1"])));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "[fd00::1]:80"]);
    assert_eq!((bed.status().unusable, bed.status().duplicates), (6, 1));
    let heard = bed.hear(0, &Answer::Host(host(&["0.0.0.0"], &["::"])));
    assert_eq!(heard, Heard::Failed { failure: Failure::Unusable, first: true });

    let now = bed.clock.now();
    let mut records = Records::new("shop".into(), Bounds::default());
    let fixed = ["127.0.0.1:0", "0.0.0.0:80"].map(|text| Source::Address(text.parse().unwrap()));
    records.set_sources(now, &fixed, 1);
    assert_eq!(records.changes(now), []);
    assert_eq!(records.status(now).iter().map(|status| status.unusable).sum::<u64>(), 2);

    let mut bed = Bed::new(&["srv:_http._tcp.shop"], Bounds::default());
    let targets = [target(0, 1, "a", 0), target(0, 1, "", 80), target(0, 1, "a", 80), target(0, 1, "a", 80)];
    bed.hear(0, &service(&targets, &[("a", &["10.0.0.1"])]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80"]);
    assert_eq!((bed.status().unusable, bed.status().duplicates), (2, 1));
}

#[test]
fn addresses_and_targets_beyond_the_bounds_are_left_out_and_counted() {
    let tight = Bounds { max_addresses: 3, max_targets: 2, ..Bounds::default() };
    let mut bed = Bed::new(&["dns:web:80"], tight);
    bed.hear(0, &v4(&["10.0.0.5", "10.0.0.4", "10.0.0.3", "10.0.0.2", "10.0.0.1"]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(bed.status().left_out, 2);

    let targets: Vec<Target> = (0..5).map(|nth| target(nth, 1, &format!("h{nth}"), 80)).collect();
    assert_eq!(hosts_to_ask(targets.clone(), &tight).len(), 2);
    let mut bed = Bed::new(&["srv:_http._tcp.shop"], tight);
    bed.hear(0, &service(&targets, &[("h4", &["10.0.0.4"]), ("h1", &["10.0.0.1"])]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80"]);
    assert_eq!(bed.status().left_out, 3);
}

/// When the only source is asked next, counted from now.
fn wait(records: &Records, now: Instant) -> Duration {
    records.next_event().unwrap() - now
}

#[test]
fn the_next_ask_comes_at_the_ttl_within_bounds_spread_by_the_jitter() {
    for (ttl, jitter, expected) in [
        (10.0, 0.0, 10.0),
        (10.0, 1.0, 11.0),
        (10.0, 9.0, 11.0),
        (10.0, f64::NAN, 10.0),
        (0.0, 0.0, 2.0),
        (4e9, 0.5, 63.0),
    ] {
        let bounds = Bounds { min_ttl: SECOND * 2, max_ttl: SECOND * 60, ..Bounds::default() };
        let mut bed = Bed::new(&["dns:web:80"], bounds);
        let now = bed.clock.now();
        let (id, _) = bed.records.take_due(now).remove(0);
        assert_eq!(bed.records.next_event(), None, "one ask at a time");
        assert_eq!(bed.records.take_due(now + SECOND * 1000), []);
        let found = Found { records: vec![Ipv4Addr::LOCALHOST], ttl: Duration::from_secs_f64(ttl) };
        let answer = Answer::Host(HostAnswer { v4: Ok(found), v6: Err(Failure::Empty) });
        bed.records.hear(now, id, answer, jitter);
        assert_eq!(wait(&bed.records, now).as_millis(), Duration::from_secs_f64(expected).as_millis());
    }
}

#[test]
fn failures_are_asked_again_with_a_back_off_of_at_least_a_second() {
    let bounds = Bounds { min_ttl: SECOND / 5, max_ttl: SECOND * 6, ..Bounds::default() };
    let mut bed = Bed::new(&["dns:web:80"], bounds);
    let mut waits = Vec::new();
    for _ in 0..5 {
        bed.hear(0, &Answer::Failed(Failure::Timeout));
        waits.push(wait(&bed.records, bed.clock.now()).as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 6, 6]);
    bed.records.ask_soon(bed.clock.now());
    assert_eq!(wait(&bed.records, bed.clock.now()), SECOND / 5, "not sooner than min_ttl");
}

#[test]
fn asking_soon_while_asked_asks_once_more_afterwards() {
    let mut bed = Bed::new(&["dns:web:80"], Bounds::default());
    let now = bed.clock.now();
    let (id, _) = bed.records.take_due(now).remove(0);
    bed.records.ask_soon(now);
    bed.records.hear(now, id, v4(&["10.0.0.1"]), 0.0);
    assert_eq!(wait(&bed.records, now), SECOND);
    assert_eq!(bed.records.hear(now, id, v4(&[]), 0.0), Heard::Stale, "an answer nobody asked for");
}

#[test]
fn a_replaced_source_serves_until_its_successor_was_heard() {
    let mut bed = Bed::new(&["127.0.0.1:3001", "127.0.0.1:3002"], Bounds::default());
    bed.set(&["127.0.0.1:3002", "dns:web:80"]);
    assert_eq!(bed.dynos(), ["127.0.0.1:3001", "127.0.0.1:3002"]);
    bed.hear(0, &v4(&["10.0.0.1"]));
    assert_eq!(bed.dynos(), ["10.0.0.1:80", "127.0.0.1:3002"]);
    bed.set(&["dns:web:80"]);
    assert_eq!(bed.dynos(), ["10.0.0.1:80"], "what stays has been heard, so there is nothing to wait for");
    assert!(bed.status().answered == 1, "and keeps what it knows");
}

#[test]
fn what_the_router_refuses_is_offered_again_for_as_long_as_it_is_called_for() {
    let mut bed = Bed::new(&["127.0.0.1:3001", "127.0.0.1:3002"], Bounds::default());
    bed.set(&["127.0.0.1:3001", "127.0.0.1:3003"]);
    let now = bed.clock.now();
    let app = AppId::from("shop");
    let add = Change::AddDyno(app.clone(), DynoSpec::new("127.0.0.1:3003".parse().unwrap()));
    let remove = Change::RemoveDyno(app, "127.0.0.1:3002".parse().unwrap());
    bed.records.refused(now, vec![add.clone(), remove.clone()]);
    assert_eq!(bed.records.changes(now), []);
    assert_eq!(bed.records.next_event(), Some(now + SECOND));
    assert_eq!(bed.records.changes(now + SECOND), [add.clone(), remove]);
    bed.records.refused(now + SECOND, vec![add]);
    bed.records.set_sources(now + SECOND, &[Source::Address("127.0.0.1:3001".parse().unwrap())], 1);
    assert_eq!(bed.records.changes(now + SECOND * 2), []);
}

#[test]
fn a_refused_new_concurrency_does_not_make_the_dyno_unknown() {
    let mut bed = Bed::new(&["127.0.0.1:3001"], Bounds::default());
    let now = bed.clock.now();
    let fixed = Source::Address("127.0.0.1:3001".parse().unwrap());
    bed.records.set_sources(now, std::slice::from_ref(&fixed), 2);
    let changes = bed.records.changes(now);
    bed.records.refused(now, changes.clone());
    assert_eq!(bed.records.changes(now + SECOND), changes);
    bed.records.refused(now + SECOND, changes);
    bed.records.set_sources(now + SECOND, &[], 2);
    let removal = Change::RemoveDyno("shop".into(), "127.0.0.1:3001".parse().unwrap());
    assert_eq!(bed.records.changes(now + SECOND), [removal]);
}

#[test]
fn a_source_is_read_as_it_is_written() {
    for text in
        ["127.0.0.1:3001", "[::1]:3001", "dns:web.shop.internal:3000", "dns:web.:1", "srv:_http._tcp.shop"]
    {
        assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
    }
    for (text, error) in [
        ("", SourceError::BadAddress),
        ("web:3000", SourceError::BadAddress),
        ("127.0.0.1", SourceError::BadAddress),
        ("127.0.0.1:0", SourceError::BadPort),
        ("0.0.0.0:80", SourceError::UnusableAddress),
        ("[::ffff:1.2.3.4]:80", SourceError::UnusableAddress),
        ("dns:web", SourceError::BadPort),
        ("dns:web:0", SourceError::BadPort),
        ("dns:web:70000", SourceError::BadPort),
        ("dns::80", SourceError::BadName),
        ("dns:we b:80", SourceError::BadName),
        ("dns:a..b:80", SourceError::BadName),
        ("dns:10.0.0.1:80", SourceError::AddressAsName),
        ("dns:::1", SourceError::AddressAsName),
        ("dns:[::1]:80", SourceError::AddressAsName),
        ("srv:", SourceError::BadName),
        ("srv:10.0.0.1", SourceError::AddressAsName),
    ] {
        assert_eq!(text.parse::<Source>(), Err(error), "{text:?}");
    }
    let long = format!("dns:{}:80", vec!["a".repeat(63); 4].join("."));
    assert_eq!(long.parse::<Source>(), Err(SourceError::BadName));
}

#[test]
fn bounds_out_of_their_limits_are_held_within() {
    let odd = Bounds {
        min_ttl: Duration::MAX,
        max_ttl: Duration::ZERO,
        max_removal: f64::NAN,
        confirm: 0,
        max_addresses: 0,
        max_targets: 0,
        families: Families::Both,
    };
    let held = odd.clamped();
    assert!(held.min_ttl <= held.max_ttl);
    assert_eq!((held.max_removal, held.confirm, held.max_addresses, held.max_targets), (0.5, 1, 1, 1));
    let mut bed = Bed::new(&["dns:web:80"], odd);
    bed.hear(0, &v4(&["10.0.0.1", "10.0.0.2"]));
    bed.hear(0, &v4(&["10.0.0.2"]));
    assert_eq!(bed.dynos(), ["10.0.0.2:80"]);
    let ips = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    assert!(!ips.into_iter().any(source::is_usable));
}
