//! DNS answers to dynos: keeps the dyno set of one app from its sources, and says what changes and when to ask.
//!
//! A resolver drives it from outside: it takes what is [due](Records::take_due), asks, tells what it
//! [heard](Records::hear), and hands the [changes](Records::changes) on. What this file decides:
//!
//! * The dynos of an app are the **union** of its sources. An address that two sources list stays until both drop it.
//! * **A failure takes no dyno away.** NXDOMAIN, SERVFAIL, REFUSED, time-out, an empty answer, a truncated one, one
//!   without a usable record: the last good answer stays, however old, and the status says so. A dead dyno is found
//!   by its connection; a dead resolver finds nothing.
//! * **A large removal is confirmed.** An answer that would take away more than `max_removal` of a source's dynos
//!   takes none until `confirm` such answers have come in a row; then those go that all of them left out. Answers
//!   come at the pace of the TTL, since a resolver's cache would only repeat itself before. New dynos are
//!   added at once.
//! * **TTL**: held within `min_ttl..=max_ttl`, plus up to a tenth by the jitter. After a failure `min_ttl` (at least
//!   1 s) doubling up to `max_ttl`, plus up to a quarter.
//! * **A and AAAA**: see [`Families`]. One family that fails while the other answers changes nothing of its own. When
//!   the preferred family is said to be gone, the other takes over after `confirm` such answers, and then at once: the
//!   two are one set of processes, and must not stand side by side.
//! * **SRV priority**: the lowest number that has addresses serves, the others stand by. Whether its dynos accept
//!   connections plays no part here.
//! * **SRV weight** cannot bias anything: with one line per app a dyno takes the next request when it is free, so a
//!   faster one takes more by itself. Only 0 has a meaning: RFC 2782 gives it "a very small chance" beside others that
//!   have a weight, so it stands by until none of those has an address. All 0 (the usual case) all serve.
//! * **A replaced source** serves until its successors have had a first result: see [`Records::set_sources`].
//!
//! # State
//!
//! | source | due | an answer | a failure | asked for soon |
//! |---|---|---|---|---|
//! | `Fixed` | – | – | – | – |
//! | `Waiting` | `Asking` | stale, no effect | stale, no effect | `Waiting`, sooner |
//! | `Asking` | – | `Waiting` for the TTL, addresses applied | `Waiting` for the back-off | asked again after |
//!
//! # Invariants
//!
//! 1. What was announced and not refused is the union of the sources, once [`changes`](Records::changes) has been
//!    called; before, `changes` is the difference.
//! 2. Every address has a port and is neither unspecified, multicast, broadcast nor IPv4 written as IPv6.
//! 3. A failure changes no address of any source.
//! 4. A source gives at most `max_addresses`, and twice that while a removal is held.
//! 5. Each ask has at most one result, and each source at most one ask under way.

mod feed;
#[cfg(test)]
mod model;
mod read;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::change::{Change, DynoHealth, DynoSpec};
use crate::ids::{Address, AppId, DynoName};
use feed::{Feed, Phase};
pub use source::{Answer, Bounds, Failure, Families, Found, HostAnswer, Source, SourceError, Target};

/// How long to wait before refused changes are offered again.
const RETRY: Duration = Duration::from_secs(1);

/// A source within one [`Records`]; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceId(u64);

/// The dyno set of one app.
#[derive(Debug)]
pub struct Records {
    app: AppId,
    concurrency: u32,
    bounds: Bounds,
    feeds: Vec<Feed>,
    next_id: u64,
    /// What the router was told.
    announced: BTreeMap<Address, Announced>,
    /// Dynos of sources that are gone, until every source has been heard.
    retired: BTreeSet<Address>,
    retry_at: Option<Instant>,
    /// Whether `announced` may differ from the sources.
    dirty: bool,
}

#[derive(Clone, Debug)]
struct Announced {
    name: DynoName,
    /// 0: the last offer was refused, so it is to be offered again.
    concurrency: u32,
    /// Whether the router had it before the last offer.
    before: bool,
}

/// What an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was good, as before.
    Answered,
    /// It was good, after at least one that was not.
    Recovered,
    /// It was good, and so many dynos stay only until their removal is confirmed.
    Held {
        /// How many.
        dynos: usize,
    },
    /// It was of no use: the last good one stays.
    Failed {
        /// Why.
        failure: Failure,
        /// Whether the one before was good.
        first: bool,
    },
    /// Nobody had asked, or the source is gone.
    Stale,
}

/// A source as it stands: for metrics and the admin interface.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceStatus {
    /// The source.
    pub source: Source,
    /// Dynos it gives.
    pub dynos: usize,
    /// Of these, the ones that stay only until their removal is confirmed.
    pub held: usize,
    /// What was wrong with the latest answer, in whole or in part.
    pub error: Option<Failure>,
    /// For how long there has been an error without a break.
    pub error_for: Option<Duration>,
    /// Age of the last good answer.
    pub answer_age: Option<Duration>,
    /// TTL of the last good answer, as it came.
    pub ttl: Duration,
    /// Time until the next ask; `None` while one is under way and for fixed addresses.
    pub next_ask: Option<Duration>,
    /// Asks, since the source was added.
    pub asked: u64,
    /// Good answers.
    pub answered: u64,
    /// Answers of no use.
    pub failed: u64,
    /// Records that cannot be dynos: port 0, unspecified, multicast, broadcast, IPv4 written as IPv6.
    pub unusable: u64,
    /// Records that said what another had said.
    pub duplicates: u64,
    /// What the latest good answer had beyond the bounds.
    pub left_out: usize,
}

impl Records {
    /// The app without sources. Each dyno will serve `concurrency` requests at once; 0 counts as 1.
    pub fn new(app: AppId, bounds: Bounds) -> Self {
        Self {
            app,
            concurrency: 1,
            bounds: bounds.clamped(),
            feeds: Vec::new(),
            next_id: 0,
            announced: BTreeMap::new(),
            retired: BTreeSet::new(),
            retry_at: None,
            dirty: false,
        }
    }

    /// The app.
    pub fn app(&self) -> &AppId {
        &self.app
    }

    /// The source of that id, unless it is gone.
    pub fn source(&self, id: SourceId) -> Option<&Source> {
        self.feeds.iter().find(|feed| feed.id == id).map(|feed| &feed.source)
    }

    /// The bounds, held within their limits.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Puts other sources and another concurrency in place; a source that stays keeps all it knows. The dynos of one
    /// that goes serve on until every source has had a first result, so that no request finds an empty app between.
    pub fn set_sources(&mut self, now: Instant, sources: &[Source], concurrency: u32) {
        let mut old = std::mem::take(&mut self.feeds);
        for source in sources {
            if self.feeds.iter().any(|feed| feed.source == *source) {
                continue;
            }
            let feed = match old.iter().position(|feed| feed.source == *source) {
                Some(at) => old.swap_remove(at),
                None => {
                    self.next_id += 1;
                    Feed::new(SourceId(self.next_id), source.clone(), now)
                }
            };
            self.feeds.push(feed);
        }
        self.retired.extend(old.into_iter().flat_map(|feed| feed.addresses));
        self.concurrency = concurrency.max(1);
        self.settle();
    }

    /// Puts other bounds in place; they hold from the next answers on.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds.clamped();
    }

    /// Asks for every name anew: at once, or `min_ttl` after it was last asked for.
    pub fn ask_soon(&mut self, now: Instant) {
        for feed in &mut self.feeds {
            feed.ask_soon(now, &self.bounds);
        }
    }

    /// When to look again for what is [due](Self::take_due) or has [changed](Self::changes).
    pub fn next_event(&self) -> Option<Instant> {
        let asks = self.feeds.iter().filter_map(|feed| match feed.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Fixed | Phase::Asking => None,
        });
        asks.chain(self.retry_at).min()
    }

    /// The sources to ask for now. For each of them [`hear`](Self::hear) is owed.
    pub fn take_due(&mut self, now: Instant) -> Vec<(SourceId, Source)> {
        let due = self
            .feeds
            .iter_mut()
            .filter_map(|feed| feed.take_due(now).then(|| (feed.id, feed.source.clone())));
        due.collect()
    }

    /// What came back. `jitter` from 0 to 1 spreads the next ask.
    pub fn hear(&mut self, now: Instant, id: SourceId, answer: Answer, jitter: f64) -> Heard {
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.id == id) else {
            return Heard::Stale;
        };
        let heard = feed.hear(now, answer, &self.bounds, jitter);
        self.settle();
        heard
    }

    /// What the router is to be told, additions first. Counts as told, unless it comes back as
    /// [`refused`](Self::refused).
    pub fn changes(&mut self, now: Instant) -> Vec<Change> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.dirty = true;
        }
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let mut wanted: BTreeSet<Address> = self.retired.clone();
        for feed in &self.feeds {
            for address in &feed.addresses {
                wanted.insert(*address);
                let known = self.announced.get(address);
                if known.is_some_and(|known| known.concurrency == self.concurrency) {
                    continue;
                }
                let name = known.map_or_else(|| name_of(&feed.source, *address), |known| known.name.clone());
                let (concurrency, state) = (self.concurrency, DynoHealth::Ready);
                let before = known.is_some();
                self.announced.insert(*address, Announced { name: name.clone(), concurrency, before });
                let spec = DynoSpec { address: *address, name, concurrency, state, release: None };
                changes.push(Change::AddDyno(self.app.clone(), spec));
            }
        }
        let gone: Vec<Address> = self.announced.keys().filter(|at| !wanted.contains(at)).copied().collect();
        for address in gone {
            self.announced.remove(&address);
            changes.push(Change::RemoveDyno(self.app.clone(), address));
        }
        self.check_invariants();
        changes
    }

    /// Takes back changes that the router refused, for example because another app still has the dyno. They are
    /// offered again after a second, for as long as they are called for.
    pub fn refused(&mut self, now: Instant, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::AddDyno(app, spec) if app == self.app => {
                    match self.announced.get_mut(&spec.address) {
                        Some(known) if known.before => known.concurrency = 0,
                        Some(_) | None => drop(self.announced.remove(&spec.address)),
                    }
                }
                Change::RemoveDyno(app, address) if app == self.app => {
                    let name = DynoName::new(address.to_string());
                    let (concurrency, before) = (self.concurrency, true);
                    self.announced.entry(address).or_insert(Announced { name, concurrency, before });
                }
                Change::AddDyno(..)
                | Change::RemoveDyno(..)
                | Change::PutApp(_)
                | Change::RemoveApp(_)
                | Change::SetDyno(..)
                | Change::SetCanary(..)
                | Change::Hold(..) => continue,
            }
            self.retry_at = Some(now + RETRY);
        }
    }

    /// Whether every source has had a first result, good or bad.
    pub fn is_ready(&self) -> bool {
        self.feeds.iter().all(Feed::is_heard)
    }

    /// Every source as it stands, in the order given.
    pub fn status(&self, now: Instant) -> Vec<SourceStatus> {
        self.feeds.iter().map(|feed| feed.status(now)).collect()
    }

    /// The addresses the router was told of, in order.
    pub fn announced(&self) -> impl Iterator<Item = Address> + '_ {
        self.announced.keys().copied()
    }

    fn settle(&mut self) {
        if self.is_ready() {
            self.retired.clear();
        }
        self.dirty = true;
        self.check_invariants();
    }

    /// Panics in debug builds if an invariant of this file does not hold.
    pub fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        for feed in &self.feeds {
            feed.check_invariants();
        }
        assert!(
            self.retired.is_empty() || !self.is_ready(),
            "retired dynos although every source has been heard"
        );
        if !self.dirty && self.retry_at.is_none() {
            let union = self.feeds.iter().flat_map(|feed| &feed.addresses).chain(&self.retired);
            let union: BTreeSet<Address> = union.copied().collect();
            assert!(self.announced.keys().eq(&union), "announced dynos are not the union of the sources");
        }
    }
}

/// `web.shop.internal/10.0.0.7:3000`; for a fixed address the address alone.
fn name_of(source: &Source, address: Address) -> DynoName {
    DynoName::new(match source {
        Source::Address(_) => address.to_string(),
        Source::Dns { .. } | Source::Srv { .. } => format!("{}/{address}", source.name()),
    })
}

/// The hosts to ask for before these SRV records can be heard: bounded, once each.
pub fn hosts_to_ask(records: Vec<Target>, bounds: &Bounds) -> BTreeSet<Arc<str>> {
    read::targets(records, bounds.max_targets).result.into_iter().map(|target| target.host).collect()
}
