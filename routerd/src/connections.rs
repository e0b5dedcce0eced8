//! Which connections of clients there are: how many are open, and how many of those rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Open connections; the drain waits until there are none.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Count>);

#[derive(Debug)]
struct Count {
    open: AtomicUsize,
    resting: AtomicUsize,
    none: watch::Sender<bool>,
}

/// One of them.
pub(crate) struct Connection(Arc<Count>);

/// One of them has nothing to do.
pub(crate) struct Resting(Arc<Count>);

impl Connections {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Count {
            open: AtomicUsize::new(0),
            resting: AtomicUsize::new(0),
            none: watch::Sender::new(true),
        }))
    }

    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Those of them that have had nothing to do for a while.
    pub(crate) fn resting(&self) -> usize {
        self.0.resting.load(Ordering::Relaxed)
    }

    /// One of them has nothing to do, until this is dropped.
    pub(crate) fn rests(&self) -> Resting {
        self.0.resting.fetch_add(1, Ordering::Relaxed);
        Resting(Arc::clone(&self.0))
    }

    /// Room for one more, if there are fewer than `most`.
    pub(crate) fn admit(&self, most: usize) -> Option<Connection> {
        let before = self.0.open.fetch_add(1, Ordering::AcqRel);
        let connection = Connection(Arc::clone(&self.0));
        (before < most).then_some(connection)
    }

    /// Waits until none is open.
    pub(crate) async fn ended(&self) {
        let mut none = self.0.none.subscribe();
        loop {
            if self.open() == 0 {
                return;
            }
            // The sender lives as long as `self`.
            let _ = none.changed().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.none.receiver_count() > 0 {
            self.0.none.send_replace(true);
        }
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.resting.fetch_sub(1, Ordering::Relaxed);
    }
}
