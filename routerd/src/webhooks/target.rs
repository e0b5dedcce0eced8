//! One target of webhooks: its queue, its task, its tries.
//!
//! *Shared:* the queue, between whoever tells and the task. *Wakes:* telling wakes the task through `news`, the end
//! through `closing`. *Cancel:* the task is aborted only when its time at the end is over; what is left is counted.
//! *Never:* telling waits, whatever the target does (`a_target_that_hangs_holds_up_nobody_else`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use router_core::sync::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::post::{Client, Trouble};
use super::{Counts, Terms};
use crate::config::Webhook;
use crate::config::event::EventKind;

/// One event as it is sent.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) kind: EventKind,
    pub(super) id: String,
    pub(super) body: String,
}

/// A target and its task. Dropping it ends the task at once.
pub(super) struct Running {
    target: Arc<Target>,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Target {
    config: Webhook,
    terms: Terms,
    queue: Mutex<Queue>,
    news: Notify,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Arc<Letter>>,
    /// One has been taken out and is not done with.
    in_hand: bool,
}

impl Running {
    pub(super) fn start(config: &Webhook, client: &Client, terms: &Terms, counts: &Arc<Counts>) -> Self {
        let target = Arc::new(Target {
            config: config.clone(),
            terms: terms.clone(),
            queue: Mutex::new(Queue::default()),
            news: Notify::new(),
            counts: Arc::clone(counts),
        });
        let (closing, closes) = watch::channel(false);
        let task = tokio::spawn(Arc::clone(&target).run(client.clone(), closes));
        Self { target, closing, task }
    }

    pub(super) fn config(&self) -> &Webhook {
        &self.target.config
    }

    pub(super) fn push(&self, letter: Arc<Letter>) {
        let mut queue = self.target.queue.lock();
        if queue.letters.len() >= self.target.terms.queue.max(1) {
            queue.letters.pop_front();
            add(&self.target.counts.dropped, 1);
        }
        queue.letters.push_back(letter);
        drop(queue);
        self.target.news.notify_one();
    }

    /// Lets the task send what is queued, for that long, and ends it.
    pub(super) async fn end(mut self, within: Duration) {
        self.closing.send_replace(true);
        if timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        let mut queue = self.target.queue.lock();
        let left = queue.letters.len() + usize::from(queue.in_hand);
        *queue = Queue::default();
        drop(queue);
        if left > 0 {
            let place = self.target.config.place();
            tracing::warn!("webhook {place}: {left} events were not delivered before the end");
            add(&self.target.counts.dropped, left as u64);
        }
    }
}

impl Target {
    async fn run(self: Arc<Self>, client: Client, mut closing: watch::Receiver<bool>) {
        while let Some(letter) = self.next(&mut closing).await {
            let outcome = self.deliver(&client, &letter, &mut closing).await;
            let mut queue = self.queue.lock();
            // Not in hand any more: it has been counted as dropped.
            if !std::mem::take(&mut queue.in_hand) {
                return;
            }
            add(if outcome.is_ok() { &self.counts.delivered } else { &self.counts.failed }, 1);
            drop(queue);
            if let Err((tries, why)) = outcome {
                let (place, kind) = (self.config.place(), letter.kind);
                let plural = if tries == 1 { "try" } else { "tries" };
                tracing::warn!("webhook {place}: {kind} was given up after {tries} {plural}: {why}");
            }
        }
    }

    /// The next in line; `None` once the end has come and nobody is in line.
    async fn next(&self, closing: &mut watch::Receiver<bool>) -> Option<Arc<Letter>> {
        loop {
            // Looked at before the queue: what was told before the end is sent.
            let ends = *closing.borrow_and_update();
            {
                let mut queue = self.queue.lock();
                if let Some(letter) = queue.letters.pop_front() {
                    queue.in_hand = true;
                    return Some(letter);
                }
            }
            if ends {
                return None;
            }
            tokio::select! {
                () = self.news.notified() => {}
                // An error is the end too.
                changed = closing.changed() => changed.ok()?,
            }
        }
    }

    /// Tries until it is delivered or there is no hope. Says after how many tries it was given up, and why.
    async fn deliver(
        &self,
        client: &Client,
        letter: &Letter,
        closing: &mut watch::Receiver<bool>,
    ) -> Result<(), (u32, Trouble)> {
        let mut wait = self.terms.first_wait;
        for tries in 1.. {
            // Whether this is the last try is settled before it: one that begins after the end has come is.
            let last = tries >= self.terms.tries || *closing.borrow();
            match client.post(&self.config, letter, self.terms.timeout).await {
                Ok(()) => return Ok(()),
                Err(trouble) if last || !trouble.may_pass() => return Err((tries, trouble)),
                Err(trouble) => {
                    tracing::debug!("webhook {}: try {tries}: {trouble}", self.config.place());
                }
            }
            tokio::select! {
                () = sleep(wait.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                _ = closing.wait_for(|ends| *ends) => {}
            }
            wait = wait.saturating_mul(2);
        }
        unreachable!("the last try returns")
    }
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}
