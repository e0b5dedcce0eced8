//! One source of dynos: what its answers make of it, what is kept when they fail, and when to ask again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::read;
use super::{Answer, Bounds, Failure, Heard, Source, SourceId, SourceStatus};
use crate::ids::Address;

/// A source and its last good answer. See the table in [`records`](super).
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) id: SourceId,
    pub(super) source: Source,
    pub(super) phase: Phase,
    /// What the source gives now: the last good answer, and what the guard holds back from removal.
    pub(super) addresses: BTreeSet<Address>,
    held: Option<Held>,
    hosts: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
    asked_at: Option<Instant>,
    /// Ask once more as soon as the answer that is under way is there.
    again: bool,
    /// Failures in a row.
    failures: u32,
    /// Results in a row in which something was wrong.
    errors: u32,
    error: Option<(Failure, Instant)>,
    answered_at: Option<Instant>,
    ttl: Duration,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Never asked. → stays.
    Fixed,
    /// → `Asking` once the time has come.
    Waiting { until: Instant },
    /// → `Waiting` on any result.
    Asking,
}

/// A removal that waits for more answers that say the same.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// How many answers in a row were too large a removal.
    times: u32,
    /// How many addresses there were when it began: newcomers since then must not make the share look small.
    base: usize,
    /// What every one of those answers left out.
    missing: BTreeSet<Address>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: u64,
    answered: u64,
    failed: u64,
    unusable: u64,
    duplicates: u64,
    left_out: usize,
}

impl Feed {
    pub(super) fn new(id: SourceId, source: Source, now: Instant) -> Self {
        let mut feed = Self {
            id,
            phase: if source.is_asked() { Phase::Waiting { until: now } } else { Phase::Fixed },
            source,
            addresses: BTreeSet::new(),
            held: None,
            hosts: BTreeMap::new(),
            asked_at: None,
            again: false,
            failures: 0,
            errors: 0,
            error: None,
            answered_at: None,
            ttl: Duration::ZERO,
            counts: Counts::default(),
        };
        if let Source::Address(address) = &feed.source {
            if read::is_dyno(*address) {
                feed.addresses.insert(*address);
            } else {
                feed.counts.unusable = 1;
            }
        }
        feed
    }

    /// Whether there was a first result, good or bad.
    pub(super) fn is_heard(&self) -> bool {
        !self.source.is_asked() || self.answered_at.is_some() || self.error.is_some()
    }

    /// `Waiting` → `Asking`, if the time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = matches!(self.phase, Phase::Waiting { until } if until <= now);
        if due {
            self.phase = Phase::Asking;
            self.asked_at = Some(now);
            self.counts.asked += 1;
        }
        due
    }

    /// Moves the next ask to now, or to `min_ttl` after the last one, and forgets the back-off.
    pub(super) fn ask_soon(&mut self, now: Instant, bounds: &Bounds) {
        self.failures = 0;
        match self.phase {
            Phase::Fixed => {}
            Phase::Asking => self.again = true,
            Phase::Waiting { until } => {
                let soonest = self.asked_at.map_or(now, |at| now.max(at + bounds.min_ttl));
                self.phase = Phase::Waiting { until: until.min(soonest) };
            }
        }
    }

    /// `Asking` → `Waiting`, with what the answer says.
    pub(super) fn hear(&mut self, now: Instant, answer: Answer, bounds: &Bounds, jitter: f64) -> Heard {
        if self.phase != Phase::Asking {
            return Heard::Stale;
        }
        let patient = self.errors.saturating_add(1) < bounds.confirm;
        let reading = read::read(&self.source, &self.hosts, answer, bounds, patient);
        self.counts.unusable += reading.unusable;
        self.counts.duplicates += reading.duplicates;
        let recovered = self.error.is_some();
        let (heard, wait) = match reading.result {
            Ok(good) => {
                self.counts.answered += 1;
                self.failures = 0;
                self.answered_at = Some(now);
                self.ttl = good.ttl;
                self.note(now, good.partial);
                self.hosts = good.hosts;
                self.forget(&good.addresses, &good.switched);
                self.apply(good.addresses, reading.left_out, bounds);
                let heard = match self.held_back() {
                    0 if recovered && self.error.is_none() => Heard::Recovered,
                    0 => Heard::Answered,
                    dynos => Heard::Held { dynos },
                };
                (heard, good.ttl.clamp(bounds.min_ttl, bounds.max_ttl).mul_f64(1.0 + 0.1 * jitter))
            }
            Err(failure) => {
                self.counts.failed += 1;
                self.failures = self.failures.saturating_add(1);
                let first = self.failures == 1;
                self.note(now, Some(failure));
                (
                    Heard::Failed { failure, first },
                    backoff(self.failures, bounds).mul_f64(1.0 + 0.25 * jitter),
                )
            }
        };
        let wait = if std::mem::take(&mut self.again) { bounds.min_ttl } else { wait };
        self.phase = Phase::Waiting { until: now + wait };
        heard
    }

    /// Keeps since when there has been an error without a break.
    fn note(&mut self, now: Instant, failure: Option<Failure>) {
        let since = self.error.map_or(now, |(_, since)| since);
        self.errors = if failure.is_some() { self.errors.saturating_add(1) } else { 0 };
        self.error = failure.map(|failure| (failure, since));
    }

    /// Takes away what a host's other family has replaced: the same processes must not be there twice.
    fn forget(&mut self, wanted: &BTreeSet<Address>, switched: &BTreeSet<IpAddr>) {
        let stays = |address: &Address| wanted.contains(address) || !switched.contains(&address.ip());
        self.addresses.retain(stays);
        if let Some(held) = &mut self.held {
            held.missing.retain(stays);
        }
    }

    /// Adds what is new at once; takes away what is missing, unless that is too much and not yet confirmed.
    fn apply(&mut self, wanted: BTreeSet<Address>, left_out: usize, bounds: &Bounds) {
        let missing: BTreeSet<Address> = self.addresses.difference(&wanted).copied().collect();
        let base = self.held.as_ref().map_or(self.addresses.len(), |held| held.base);
        let before = self.held.take();
        let gone = if share_is_within(missing.len(), base, bounds.max_removal) {
            missing
        } else {
            let (times, all_along) = match before {
                Some(held) => (held.times + 1, held.missing.intersection(&missing).copied().collect()),
                None => (1, missing.clone()),
            };
            if times < bounds.confirm {
                self.held = Some(Held { times, base, missing: all_along });
                BTreeSet::new()
            } else {
                // What only the latest of these answers left out begins its own count.
                let rest: BTreeSet<Address> = missing.difference(&all_along).copied().collect();
                let base = self.addresses.len() - all_along.len();
                self.held = (!rest.is_empty()).then_some(Held { times: 1, base, missing: rest });
                all_along
            }
        };
        self.addresses.retain(|address| !gone.contains(address));
        // While a removal is held the old ones and the new ones stand side by side: twice the bound, not more.
        let room = bounds.max_addresses.saturating_mul(2);
        self.counts.left_out = left_out;
        for address in wanted {
            if self.addresses.len() < room || self.addresses.contains(&address) {
                self.addresses.insert(address);
            } else {
                self.counts.left_out += 1;
            }
        }
    }

    /// How many addresses are there only because their removal waits.
    fn held_back(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.missing.len())
    }

    pub(super) fn status(&self, now: Instant) -> SourceStatus {
        let ago = |at: Instant| now.saturating_duration_since(at);
        SourceStatus {
            source: self.source.clone(),
            dynos: self.addresses.len(),
            held: self.held_back(),
            error: self.error.map(|(failure, _)| failure),
            error_for: self.error.map(|(_, since)| ago(since)),
            answer_age: self.answered_at.map(ago),
            ttl: self.ttl,
            next_ask: match self.phase {
                Phase::Waiting { until } => Some(until.saturating_duration_since(now)),
                Phase::Fixed | Phase::Asking => None,
            },
            asked: self.counts.asked,
            answered: self.counts.answered,
            failed: self.counts.failed,
            unusable: self.counts.unusable,
            duplicates: self.counts.duplicates,
            left_out: self.counts.left_out,
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.addresses.iter().all(|address| read::is_dyno(*address)), "an address that is no dyno");
        if let Some(held) = &self.held {
            assert!(held.times >= 1, "a removal held without an answer that asked for it");
            assert!(held.missing.is_subset(&self.addresses), "a removal held for dynos that are not there");
        }
        assert_eq!(self.phase == Phase::Fixed, !self.source.is_asked(), "a fixed source that is asked for");
        let results = self.counts.answered + self.counts.failed;
        let open = u64::from(self.phase == Phase::Asking);
        assert_eq!(self.counts.asked, results + open, "an ask without a result or a result without an ask");
    }
}

/// Whether `missing` of `base` may go at once.
#[expect(clippy::cast_precision_loss, reason = "a share of a few thousand addresses")]
fn share_is_within(missing: usize, base: usize, share: f64) -> bool {
    missing as f64 <= share * base as f64
}

/// `min_ttl`, at least a second, doubled with each failure in a row, up to `max_ttl`.
fn backoff(failures: u32, bounds: &Bounds) -> Duration {
    let first = bounds.min_ttl.max(Duration::from_secs(1));
    let factor = 2u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(factor).min(bounds.max_ttl.max(first))
}
