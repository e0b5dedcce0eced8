//! How the daemon ends: what runs is finished, what is left is cut and logged.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::lasting::{LAST_LINES, Lasting};
use super::live::Live;
use super::{Daemon, Shared};
use crate::handover::Stage;

/// How long clients may ask once more on the connections they have when another process has taken over.
const LAST_REQUEST: Duration = Duration::from_secs(1);

impl Daemon {
    /// Stops accepting, lets what is running finish within that time, cuts the rest, and writes the last log lines.
    /// Says how many connections were cut. If another process has taken over, clients have a second to ask once more
    /// on the connections they have, and it gets the dynos that are left.
    ///
    /// # Cancel safety
    /// A dropped future leaves the daemon draining and cuts it.
    pub async fn stop(self, within: Duration) -> usize {
        self.stop_unless(within, std::future::pending()).await
    }

    /// The same, but what is running is cut as soon as `hurry` is ready.
    ///
    /// # Cancel safety
    /// As [`stop`](Self::stop).
    pub async fn stop_unless(self, within: Duration, hurry: impl Future<Output = ()>) -> usize {
        let Shared { lasting, live, heir, .. } = &*self.shared;
        tokio::select! {
            () = self.shared.finish(within) => {}
            () = hurry => {
                lasting.readiness.drain();
                lasting.drain.begin();
            }
        }
        let cut = lasting.connections.open();
        if cut > 0 {
            lasting.proxy.force_close();
            lasting.drain.cut();
            let _ = timeout(LAST_LINES, lasting.connections.ended()).await;
        }
        if let Some(log) = lasting.log.load_full()
            && !log.close(LAST_LINES).await
        {
            tracing::warn!("the last lines of the access log could not be written in {LAST_LINES:?}");
        }
        // What is still to be told gets two seconds.
        lasting.trail.webhooks().stop().await;
        // A reload that still goes on is cut with all the rest.
        if let Ok(mut live) = timeout(LAST_LINES, live.lock()).await
            && let Some(live) = live.take()
        {
            live.end().await;
        }
        heir.end().await;
        cut
    }
}

impl Shared {
    /// Stops accepting and lets what is running finish, within that time.
    async fn finish(&self, within: Duration) {
        let Self { lasting, live, heir, .. } = self;
        let (deadline, mut stage) = (Instant::now() + within, heir.stage());
        if stage.borrow().is_handed_over() {
            let _ = timeout(LAST_REQUEST.min(within), lasting.connections.ended()).await;
        }
        lasting.readiness.drain();
        lasting.drain.begin();
        // Nothing that a CA could look for is served from now on.
        lasting.acme.let_go().await;
        let is_handed_over = stage.borrow().is_handed_over();
        let _ = timeout_at(deadline, ended(lasting, live, is_handed_over)).await;
        if stage.borrow().is_handed_over() {
            // Dynos that still work for clients that are gone.
            let _ = timeout_at(deadline, stage.wait_for(Stage::is_over)).await;
        }
    }
}

/// Waits for the end of all connections, and closes the listeners once no reload is at them: as long as one is open,
/// the kernel takes connections that nobody serves; then it refuses them, and who comes may ask elsewhere.
async fn ended(lasting: &Lasting, live: &Mutex<Option<Live>>, is_handed_over: bool) {
    let mut slot = tokio::select! {
        biased;
        slot = live.lock() => slot,
        () = lasting.connections.ended() => return,
    };
    if let Some(live) = &mut *slot {
        // It may bring connections.
        live.close(lasting, is_handed_over).await;
    }
    drop(slot);
    lasting.connections.ended().await;
}
