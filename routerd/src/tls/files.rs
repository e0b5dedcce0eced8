//! Certificate files under watch: a changed pair serves new connections, one that is no good is reported and the old
//! one goes on; and a word in time before one expires.

use std::path::PathBuf;
use std::sync::Arc;

use router_core::clock;
use router_core::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::cert::Certificate;
use crate::watch::{LOOK, Look, Watched};

const DAY: i64 = 24 * 60 * 60;
/// So many days before a certificate expires there is a word about it, and when it has expired.
const WORDS: [i64; 6] = [0, 1, 3, 7, 14, 30];

/// A certificate that is served, and what is known of its files.
#[derive(Clone, Debug)]
pub struct Held {
    /// What is served.
    pub certificate: Arc<Certificate>,
    /// Why its files, as they are now, are not.
    pub failed: Option<String>,
    /// The last word about its end, in days.
    told: Option<i64>,
}

/// The certificates, and the task that watches their files.
#[derive(Default)]
pub(super) struct Files {
    held: Arc<Mutex<Vec<Held>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Files {
    /// From now on these are held and watched; `then` gets all of them each time one has changed.
    pub(super) fn set(
        &self,
        certificates: &[Arc<Certificate>],
        then: impl Fn(&[Arc<Certificate>]) + Send + Sync + 'static,
    ) {
        let mut task = self.task.lock();
        if let Some(task) = task.take() {
            task.abort();
        }
        let now = now();
        let mut held: Vec<_> = certificates.iter().map(Held::new).collect();
        {
            let mut before = self.held.lock();
            for it in &mut held {
                // What was said of it is not said again.
                let same = before.iter().find(|other| other.certificate == it.certificate);
                it.told = same.and_then(|same| same.told);
                it.tell(now);
            }
            *before = held;
        }
        if !certificates.is_empty() {
            let pairs = certificates.iter().map(|it| Pair::new(it)).collect();
            *task = Some(tokio::spawn(follow(pairs, Arc::clone(&self.held), Arc::new(then))));
        }
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.held.lock().clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

type Then = Arc<dyn Fn(&[Arc<Certificate>]) + Send + Sync>;

async fn follow(mut pairs: Vec<Pair>, held: Arc<Mutex<Vec<Held>>>, then: Then) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (held, then) = (Arc::clone(&held), Arc::clone(&then));
        // Files may be slow.
        let looked = spawn_blocking(move || {
            let mut any = false;
            for pair in pairs.iter_mut().filter_map(Pair::changed) {
                let loaded = Certificate::load(&pair.cert, &pair.key).map_err(|error| error.to_string());
                // There may be others by now: a look is not interrupted.
                let mut held = held.lock();
                any |= held.iter_mut().find(|held| pair.is_of(held)).is_some_and(|held| held.take(loaded));
            }
            let mut held = held.lock();
            let now = now();
            for held in held.iter_mut() {
                held.tell(now);
            }
            if any {
                then(&held.iter().map(|held| Arc::clone(&held.certificate)).collect::<Vec<_>>());
            }
            drop(held);
            pairs
        });
        // It ends with the runtime.
        let Ok(back) = looked.await else { return };
        pairs = back;
    }
}

/// The two files of a certificate.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
    watched: [Watched; 2],
    /// They are to be read once both stand still. At first, too: they may have changed since they were read.
    pending: bool,
}

impl Pair {
    fn new(certificate: &Certificate) -> Self {
        let Certificate { cert, key, .. } = certificate;
        let watched = [Watched::new(cert), Watched::new(key)];
        Self { cert: cert.clone(), key: key.clone(), watched, pending: true }
    }

    /// Looks at both; gives itself if they are to be read.
    fn changed(&mut self) -> Option<&Self> {
        let looks = self.watched.each_mut().map(Watched::look);
        self.pending |= looks.contains(&Look::Changed);
        let changed = !looks.contains(&Look::Moving) && std::mem::take(&mut self.pending);
        changed.then_some(self)
    }

    fn is_of(&self, held: &Held) -> bool {
        (&self.cert, &self.key) == (&held.certificate.cert, &held.certificate.key)
    }
}

impl Held {
    pub(crate) fn new(certificate: &Arc<Certificate>) -> Self {
        Self { certificate: Arc::clone(certificate), failed: None, told: None }
    }

    /// Takes what its files hold now. Says whether that is another certificate.
    fn take(&mut self, loaded: Result<Certificate, String>) -> bool {
        let file = self.certificate.cert.display();
        match loaded {
            Ok(new) if new.mark == self.certificate.mark => {
                self.failed = None;
                false
            }
            Ok(new) => {
                tracing::info!("certificate {file}: another one is served, for {}", new.names.join(", "));
                *self = Self::new(&Arc::new(new));
                true
            }
            Err(why) => {
                tracing::error!("certificate {file} is not served as it is now, the one before is: {why}");
                self.failed = Some(why);
                false
            }
        }
    }

    /// A word about its end, once for each of [`WORDS`].
    fn tell(&mut self, now: i64) -> bool {
        let word = word(self.certificate.expires, now);
        if word == self.told {
            return false;
        }
        self.told = word;
        let (file, name) = (self.certificate.cert.display(), self.certificate.name());
        match word {
            None => return false,
            Some(0) => tracing::warn!("certificate {file} for {name} has expired"),
            Some(1) => tracing::warn!("certificate {file} for {name} expires within a day"),
            Some(days) => tracing::warn!("certificate {file} for {name} expires within {days} days"),
        }
        true
    }
}

/// Which of [`WORDS`] it is time for.
fn word(expires: i64, now: i64) -> Option<i64> {
    WORDS.into_iter().find(|days| expires - now <= days * DAY)
}

fn now() -> i64 {
    i64::try_from(clock::wall().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_due_in_time_and_once_for_each_step() {
        let expires = 100 * DAY;
        let due = |day: i64| word(expires, day * DAY);
        assert_eq!([due(0), due(69), due(70), due(85), due(86)], [None, None, Some(30), Some(30), Some(14)]);
        assert_eq!(
            [due(93), due(97), due(99), due(100), due(500)],
            [Some(7), Some(3), Some(1), Some(0), Some(0)]
        );
    }
}
