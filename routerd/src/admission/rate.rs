//! How often something happens, for many keys in bounded memory: a token bucket each, in the form of GCRA, which is one
//! number: the time at which the bucket will be full again.
//!
//! Keys are kept as 64 bits of a keyed hash, so a long header costs no more than a short one. There is room for
//! [`KEYS`] of them. A key whose bucket is full again says nothing and is swept out when there is no room; if there is
//! none even then, keys that come anew share one bucket: strangers who invent keys limit each other and nobody else.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::config::door::RateLimit;

/// How many keys are told apart.
const KEYS: usize = 65_536;
/// The least time between two sweeps, in nanoseconds: each looks at all keys.
const SWEEP_EVERY: u64 = 1_000_000_000;
/// The bucket of those for which there is no room.
const SHARED: u64 = 0;

/// Buckets of one limit.
pub(super) struct Buckets {
    /// Nanoseconds that one request is worth.
    interval: u64,
    /// What a bucket holds, in nanoseconds.
    most: u64,
    room: usize,
    begun: Instant,
    hasher: RandomState,
    /// When each bucket is full again, in nanoseconds since `begun`.
    full_at: DashMap<u64, u64>,
    swept: AtomicU64,
}

impl Buckets {
    pub(super) fn new(limit: &RateLimit, now: Instant) -> Self {
        let interval = nanos(limit.rate.interval());
        let most = interval.saturating_mul(u64::from(limit.burst.get()));
        let (hasher, full_at, swept) = (RandomState::new(), DashMap::new(), AtomicU64::new(0));
        Self { interval, most, room: KEYS, begun: now, hasher, full_at, swept }
    }

    /// Takes one out of the bucket of that key.
    ///
    /// # Errors
    /// How long it takes until there is one.
    pub(super) fn take<K: Hash + ?Sized>(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let now = nanos(now.saturating_duration_since(self.begun));
        let key = self.hasher.hash_one(key);
        // Its lock is held to the end of the statement, and so is the other's below: never both.
        if let Some(mut full_at) = self.full_at.get_mut(&key) {
            return self.take_from(&mut full_at, now);
        }
        let key = if self.has_room(now) { key } else { SHARED };
        self.take_from(&mut self.full_at.entry(key).or_insert(now), now)
    }

    fn take_from(&self, full_at: &mut u64, now: u64) -> Result<(), Duration> {
        let after = (*full_at).max(now).saturating_add(self.interval);
        match after.saturating_sub(now).checked_sub(self.most) {
            None | Some(0) => {
                *full_at = after;
                Ok(())
            }
            Some(short) => Err(Duration::from_nanos(short)),
        }
    }

    fn has_room(&self, now: u64) -> bool {
        if self.full_at.len() < self.room {
            return true;
        }
        let swept = self.swept.load(Ordering::Relaxed);
        let due = swept == 0 || now.saturating_sub(swept) >= SWEEP_EVERY;
        let ours = due && {
            let turn = self.swept.compare_exchange(swept, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
            turn.is_ok()
        };
        if ours {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        self.full_at.len() < self.room
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    fn buckets(limit: &str, room: usize, now: Instant) -> Buckets {
        let text = format!("[apps.a]\nrate_limit = {{ {limit} }}");
        let config = Config::parse(&text, "a.toml").unwrap();
        let limit = config.apps[0].admission.rate_limit.clone().unwrap();
        Buckets { room, ..Buckets::new(&limit, now) }
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let start = start();
        let buckets = buckets("rate = '10/s', burst = 3", 9, start);
        let take = |millis| buckets.take("key", start + Duration::from_millis(millis));
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!(take(0), Err(Duration::from_millis(100)));
        assert_eq!(take(60), Err(Duration::from_millis(40)));
        assert_eq!((take(100), take(100)), (Ok(()), Err(Duration::from_millis(100))));
        // After a long silence the bucket is full, and no fuller.
        assert_eq!([5000; 4].map(take), [Ok(()), Ok(()), Ok(()), Err(Duration::from_millis(100))]);
    }

    #[test]
    fn keys_are_bounded_strangers_share_and_those_that_are_known_are_not_touched() {
        let start = start();
        let buckets = buckets("rate = '1/s', burst = 2", 4, start);
        for key in 0..4 {
            assert_eq!(buckets.take(&key, start), Ok(()));
        }
        // No room: these two are one.
        assert_eq!((buckets.take(&4, start), buckets.take(&5, start)), (Ok(()), Ok(())));
        assert!(buckets.take(&6, start).is_err());
        assert_eq!(buckets.take(&0, start), Ok(()));
        for stranger in 7..10_000 {
            let _ = buckets.take(&stranger, start);
        }
        assert!(buckets.full_at.len() <= 5, "{}", buckets.full_at.len());
        // Later those that say nothing any more have made room.
        let later = start + Duration::from_secs(20_000);
        assert_eq!((buckets.take(&6, later), buckets.take(&7, later)), (Ok(()), Ok(())));
        assert_eq!(buckets.full_at.len(), 2);
    }

    proptest! {
        #[test]
        fn in_no_time_more_pass_than_burst_and_rate_allow(
            steps in prop::collection::vec(0u64..400, 1..200),
            burst in 1u32..20,
        ) {
            let start = start();
            let buckets = buckets(&format!("rate = '10/s', burst = {burst}"), 9, start);
            let mut at = 0;
            let mut passed: Vec<u64> = Vec::new();
            for step in steps {
                at += step;
                let now = start + Duration::from_millis(at);
                match buckets.take("key", now) {
                    Ok(()) => passed.push(at),
                    // It is the truth: then, and not before.
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100));
                        let early = now + wait - Duration::from_nanos(1);
                        prop_assert!(buckets.take("key", early).is_err());
                    }
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let allowed = u64::from(burst) + (to - from) / 100;
                    prop_assert!(((j - i) as u64) < allowed, "{} in {} ms", j - i + 1, to - from);
                }
            }
        }
    }
}
