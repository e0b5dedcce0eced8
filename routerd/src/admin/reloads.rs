//! How reloads of the configuration have gone: for the status page and the metrics.

use std::sync::Arc;
use std::time::Duration;

use router_core::clock;
use router_core::sync::Mutex;

/// How often, and how the last one ended. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Reloads(Arc<Mutex<Account>>);

/// The account as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// When the configuration that is in place was loaded, since 1970.
    pub loaded: Duration,
    /// Reloads that put a configuration in place, even one that changed nothing.
    pub done: u64,
    /// Reloads that failed and changed nothing.
    pub failed: u64,
    /// Why the last one failed; `None` if it did not.
    pub error: Option<String>,
}

impl Reloads {
    /// The daemon has just started.
    pub fn new() -> Self {
        let account = Account { loaded: clock::wall(), done: 0, failed: 0, error: None };
        Self(Arc::new(Mutex::new(account)))
    }

    /// A configuration is in place.
    pub fn done(&self) {
        let mut account = self.0.lock();
        account.done += 1;
        account.loaded = clock::wall();
        account.error = None;
    }

    /// A configuration was refused; the old one goes on.
    pub fn failed(&self, why: &str) {
        let mut account = self.0.lock();
        account.failed += 1;
        account.error = Some(why.to_owned());
    }

    /// The account now.
    pub fn account(&self) -> Account {
        self.0.lock().clone()
    }
}

impl Default for Reloads {
    fn default() -> Self {
        Self::new()
    }
}
