//! One signal for everything that runs: go on, let connections end, finish what is running, stop now.

use tokio::sync::watch;

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

/// Waits for the phase.
pub(crate) async fn reached(drain: &mut watch::Receiver<Phase>, phase: Phase) {
    // When the sender is gone, so is every reason to wait.
    let _ = drain.wait_for(|now| *now >= phase).await;
}
