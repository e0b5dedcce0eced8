//! Tells upgraded requests that their dyno leaves: they may last for hours, and nothing else would end them.
//!
//! *Shared:* one [`Bell`] between an upgraded request and its app. *Lock:* its own, for a look; taken with none held.
//! *Wakes:* the request, when its dyno leaves, after the app's lock is open again. *Cancel:* the lease takes its bell
//! down when it ends. *Never:* a dyno that leaves without a word to what it holds: a bell that is hung at such a dyno
//! rings at once.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use crate::ids::DynoId;
use crate::sync::{Arc, Mutex};

/// What one upgraded request listens to.
pub(crate) struct Bell {
    number: u64,
    state: Mutex<State>,
}

struct State {
    rung: bool,
    waker: Option<Waker>,
}

/// The bells of an app.
#[derive(Default)]
pub(crate) struct Bells {
    hung: BTreeMap<u64, (DynoId, Arc<Bell>)>,
    last: u64,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.rung = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once it has rung, until it is quiet again.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.rung {
            return Poll::Ready(());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the next ring.
    pub(crate) fn quiet(&self) {
        self.state.lock().rung = false;
    }
}

impl Bells {
    pub(crate) fn hang(&mut self, dyno: DynoId, rung: bool) -> Arc<Bell> {
        self.last += 1;
        let state = Mutex::new(State { rung, waker: None });
        let bell = Arc::new(Bell { number: self.last, state });
        self.hung.insert(self.last, (dyno, Arc::clone(&bell)));
        bell
    }

    pub(crate) fn take_down(&mut self, bell: &Bell) {
        self.hung.remove(&bell.number);
    }

    /// Those of dynos for which it is so.
    pub(crate) fn of(&self, so: impl Fn(DynoId) -> bool) -> Vec<Arc<Bell>> {
        self.hung.values().filter(|(dyno, _)| so(*dyno)).map(|(_, bell)| Arc::clone(bell)).collect()
    }
}
