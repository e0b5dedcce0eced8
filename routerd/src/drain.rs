//! One signal for everything that runs: go on, let connections end, finish what is running, stop now.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serve.
    Running,
    /// Take no new connection; the next answer is the last of its connection. Another process serves new ones.
    Leaving,
    /// Finish what is running, take nothing new.
    Draining,
    /// Stop now.
    Cut,
}

/// Gives the signal. When it is dropped, everything stops now.
#[derive(Debug)]
pub(crate) struct Drain(watch::Sender<Phase>);

impl Drain {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }

    pub(crate) fn leave(&self) {
        self.0.send_if_modified(|phase| {
            let moves = *phase < Phase::Leaving;
            *phase = Phase::Leaving.max(*phase);
            moves
        });
    }

    pub(crate) fn begin(&self) {
        self.0.send_replace(Phase::Draining);
    }

    pub(crate) fn cut(&self) {
        self.0.send_replace(Phase::Cut);
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.cut();
    }
}

/// How long a connection over which nothing has come yet has for its first request once the drain has begun. Its
/// client may have sent it already: it was accepted a moment ago, or has just shaken hands.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Waits until there is no more time for a first request.
pub(crate) async fn too_late(mut drain: watch::Receiver<Phase>) {
    reached(&mut drain, Phase::Draining).await;
    // Only how it ends matters.
    let _ = timeout(FIRST_REQUEST, reached(&mut drain, Phase::Cut)).await;
}

/// Waits for the phase.
pub(crate) async fn reached(drain: &mut watch::Receiver<Phase>, phase: Phase) {
    // When the sender is gone, so is every reason to wait.
    let _ = drain.wait_for(|now| *now >= phase).await;
}
