//! Whether the daemon should get traffic, and if not, why: what `/readyz` answers.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::watch;

/// A switch with a reason. Clones are the same switch. It starts at "starting".
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// → `NotReady`, `Draining`.
    Ready,
    /// → `Ready`, `Draining`.
    NotReady(Cow<'static, str>),
    /// The last one.
    Draining,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::NotReady("starting".into()))))
    }
}

impl Readiness {
    /// Ready with `None`, not ready for the given reason otherwise. Takes no effect on a daemon that drains.
    pub fn set(&self, reason: Option<Cow<'static, str>>) {
        self.step(reason.map_or(State::Ready, State::NotReady));
    }

    /// Not ready any more, for good: a reload that ends during a drain does not bring traffic back.
    pub fn drain(&self) {
        self.step(State::Draining);
    }

    /// Why the daemon is not ready; `None` if it is.
    pub fn reason(&self) -> Option<Cow<'static, str>> {
        match &*self.0.borrow() {
            State::Ready => None,
            State::NotReady(reason) => Some(reason.clone()),
            State::Draining => Some("draining".into()),
        }
    }

    fn step(&self, next: State) {
        self.0.send_if_modified(|state| {
            let moves = *state != State::Draining && *state != next;
            if moves {
                *state = next;
            }
            moves
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_drains_never_gets_ready_again() {
        let readiness = Readiness::default();
        assert_eq!(readiness.reason().as_deref(), Some("starting"));
        let other = readiness.clone();
        other.set(None);
        assert_eq!(readiness.reason(), None);
        readiness.set(Some("app shop has no dynos".into()));
        assert_eq!(readiness.reason().as_deref(), Some("app shop has no dynos"));
        readiness.drain();
        other.set(None);
        assert_eq!(readiness.reason().as_deref(), Some("draining"));
    }
}
