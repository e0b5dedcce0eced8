//! Names to dynos: asks for the names of an app, and hands what changed to the router.
//!
//! What answers mean is decided in [`policy::records`](crate::policy::records). Here is the asking: one task per app
//! keeps the records and the time, and each ask runs in a task of its own, so that a name that does not answer holds
//! up no other. Two apps share nothing but the [`Resolver`].
//!
//! * *Shared:* the [`Records`] of the app, between its task and who asks for the status or gives it other sources.
//! * *Lock:* one mutex around them, never held across an await or while the sink is called.
//! * *Wakes:* a change of sources wakes the app's task; the first result of the last source wakes who waits for it.
//! * *Cancel:* dropping the [`Discovery`] ends its task and with it every ask.
//! * *Never:* two calls of the sink at the same time, or in another order than that of the answers.

mod resolver;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::change::Change;
use crate::ids::{Address, AppId};
use crate::policy::records::{Answer, Failure, Heard, Records, SourceId};
pub use crate::policy::records::{Bounds, Families, Source, SourceError, SourceStatus};
use crate::sync::Mutex;
pub use resolver::{Resolver, Settings};

/// Takes the changes of one app, all of them or none or some, and gives back those that it refused and that are to
/// be offered again: after a second, and for as long as they are called for. `Change::AddDyno` of a dyno that
/// another app still has is the case in point.
///
/// It is called from the app's task, by itself, in order. It must not block.
// Not a trait: there is one call, and a closure over a router is what everybody has.
pub type Sink = Arc<dyn Fn(Vec<Change>) -> Vec<Change> + Send + Sync>;

/// The sources of one app, being asked for. Dropping it ends that; the dynos stay as they are.
pub struct Discovery {
    shared: Arc<Shared>,
    ready: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    records: Records,
    resolver: Resolver,
    /// Goes up with each change of sources, so that "ready" is said of the latest.
    turn: u64,
}

impl Discovery {
    /// Begins to ask. What is known without asking goes to the sink at once, from the app's task.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(resolver: Resolver, app: AppId, sources: &[Source], concurrency: u32, sink: Sink) -> Self {
        let mut records = Records::new(app, resolver.settings().bounds);
        records.set_sources(now(), sources, concurrency);
        let state = Mutex::new(State { records, resolver, turn: 1 });
        let shared = Arc::new(Shared { state, wake: Notify::new() });
        let (said, ready) = watch::channel(0);
        let task = tokio::spawn(run(shared.clone(), sink, said));
        Self { shared, ready, task }
    }

    /// Puts other sources and another concurrency in place. A source that stays keeps what it knows, and is asked
    /// for at once if the resolver has other settings. The dynos of one that goes serve until every new one has had
    /// a first result.
    pub fn update(&self, resolver: Resolver, sources: &[Source], concurrency: u32) {
        let mut state = self.shared.state.lock();
        state.turn += 1;
        state.records.set_sources(now(), sources, concurrency);
        if state.resolver.settings() != resolver.settings() {
            state.records.set_bounds(resolver.settings().bounds);
            state.records.ask_soon(now());
        }
        state.resolver = resolver;
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Asks for every name anew, but for none sooner than `min_ttl` after the last time.
    pub fn ask_soon(&self) {
        self.shared.state.lock().records.ask_soon(now());
        self.shared.wake.notify_one();
    }

    /// Waits until every source has had a first result, good or bad, and the sink has what came of it. That takes no
    /// longer than [`Resolver::longest_ask`] and what the sink takes. Returns at once if the task has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) {
        let turn = self.shared.state.lock().turn;
        let mut ready = self.ready.clone();
        // An error says that the task is gone, and then nobody is worth waiting for.
        let _ended = ready.wait_for(|said| *said >= turn).await;
    }

    /// Whether [`ready`](Self::ready) would return at once.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() >= self.shared.state.lock().turn || self.task.is_finished()
    }

    /// Every source as it stands, in the order given.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.shared.state.lock().records.status(now())
    }

    /// The dynos the sink was told of and did not refuse.
    pub fn dynos(&self) -> Vec<Address> {
        self.shared.state.lock().records.announced().collect()
    }

    /// Ends it and waits until the sink is no longer being called, which dropping does not.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends it all the same, without the wait.
    pub async fn stop(mut self) {
        self.task.abort();
        let _aborted = (&mut self.task).await;
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("app", self.shared.state.lock().records.app())
            .finish_non_exhaustive()
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Asks under way: which task asks for which source.
#[derive(Default)]
struct Asks {
    tasks: JoinSet<Answer>,
    sources: HashMap<Id, SourceId>,
}

impl Asks {
    fn begin(&mut self, resolver: &Resolver, id: SourceId, source: Source) {
        let resolver = resolver.clone();
        let task = self.tasks.spawn(async move { resolver.ask(&source).await });
        self.sources.insert(task.id(), id);
    }

    /// Never ready while nothing is asked.
    async fn next(&mut self) -> (Option<SourceId>, Answer) {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.ended(joined),
            None => std::future::pending().await,
        }
    }

    fn ended(&mut self, joined: Result<(Id, Answer), JoinError>) -> (Option<SourceId>, Answer) {
        let (task, answer) = match joined {
            Ok(ended) => ended,
            Err(error) => (error.id(), Answer::Failed(Failure::Lost)),
        };
        (self.sources.remove(&task), answer)
    }
}

/// The app's task.
async fn run(shared: Arc<Shared>, sink: Sink, ready: watch::Sender<u64>) {
    let mut asks = Asks::default();
    loop {
        let (due, changes, resolver, said) = {
            let mut state = shared.state.lock();
            let (due, changes) = (state.records.take_due(now()), state.records.changes(now()));
            let said = state.records.is_ready().then_some(state.turn);
            (due, changes, state.resolver.clone(), said)
        };
        for (id, source) in due {
            asks.begin(&resolver, id, source);
        }
        if !changes.is_empty() {
            let refused = sink(changes);
            if !refused.is_empty() {
                shared.state.lock().records.refused(now(), refused);
            }
        }
        if let Some(turn) = said {
            ready.send_if_modified(|was| std::mem::replace(was, turn) != turn);
        }
        let next = shared.state.lock().records.next_event();
        tokio::select! {
            (source, answer) = asks.next() => hear(&shared, source, answer),
            () = shared.wake.notified() => {}
            () = until(next) => {}
        }
    }
}

async fn until(next: Option<std::time::Instant>) {
    match next {
        Some(at) => sleep_until(Instant::from_std(at)).await,
        None => std::future::pending().await,
    }
}

/// Tells the records, and the log of what is worth a line: each time it becomes bad, good, or is held back.
fn hear(shared: &Shared, source: Option<SourceId>, answer: Answer) {
    let Some(id) = source else { return };
    let mut state = shared.state.lock();
    let heard = state.records.hear(now(), id, answer, fastrand::f64());
    let app = state.records.app().clone();
    let source = state.records.source(id).map(ToString::to_string).unwrap_or_default();
    drop(state);
    match heard {
        Heard::Failed { failure, first: true } => {
            tracing::warn!(%app, source, %failure, "no usable answer, keeping the dynos of the last good one");
        }
        Heard::Recovered => tracing::info!(%app, source, "answers again"),
        Heard::Held { dynos } => {
            tracing::warn!(%app, source, dynos, "the answer takes away many dynos, keeping them until it is confirmed");
        }
        Heard::Answered | Heard::Failed { .. } | Heard::Stale => {}
    }
}
