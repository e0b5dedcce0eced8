//! The words of releases: what is asked, what runs, what is over, and why something is refused.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use router_core::ids::AppId;
use router_core::policy::deploy::{Plan, Progress, Tally};
use router_core::sync::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::audit::Seq;
use crate::deploys::book::{Begun, Wanted};
use crate::deploys::grown::{Grown, Verdict};
use crate::deploys::run::Ask;
use crate::discover::Feed;

/// Deploys that are remembered once they have ended.
const ENDED_MAX: usize = 50;

/// The deploys of the daemon. Each method takes its lock for a moment.
#[derive(Default)]
pub(crate) struct Deploys(Mutex<All>);

#[derive(Default)]
struct All {
    running: BTreeMap<AppId, Running>,
    /// The newest last.
    ended: VecDeque<Ended>,
    /// What an app had done when its present release began.
    since: BTreeMap<AppId, Tally>,
}

/// A deploy that runs. Dropping it ends that where it is.
pub(crate) struct Running {
    pub(crate) begun: Begun,
    /// Where its dynos are found from its end on; `None`: a grid tells.
    pub(super) feed: Option<Feed>,
    /// A grid's: takes whether its new dynos stay.
    pub(super) verdict: Option<Verdict>,
    pub(super) asks: mpsc::Sender<Ask>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(super) task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A deploy that is about to be over.
pub(super) struct Ending {
    pub(super) begun: Begun,
    pub(super) feed: Option<Feed>,
    pub(super) verdict: Option<Verdict>,
    pub(super) progress: Progress,
}

/// A deploy that is over.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) app: AppId,
    pub(crate) begun: Begun,
    /// When, in RFC 3339.
    pub(crate) at: String,
    /// How it stood at its end; `None`: it never began.
    pub(crate) progress: Option<Progress>,
    /// The word of its last state.
    pub(crate) state: &'static str,
    pub(crate) cause: Option<String>,
}

/// What is to be deployed.
pub(crate) struct Order {
    pub(crate) app: AppId,
    pub(crate) wanted: Wanted,
    pub(crate) plan: Plan,
    pub(crate) by: String,
    /// The file asks for it.
    pub(crate) by_file: bool,
    /// A grid's dynos, and who says when they are ready; `None`: they are found where the sources say.
    pub(crate) grown: Option<Grown>,
    /// The app that gives its dynos for it.
    pub(crate) donor: Option<AppId>,
    /// Where the audit trail says that it was asked for. Its end is written down when the deploy has ended.
    pub(crate) audit: Option<Seq>,
}

/// Why something cannot be done about a release.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is no app of that name.
    NoSuchApp(AppId),
    /// A deploy of the app runs; the text says which, by whom, and how far it is.
    Busy(String),
    /// What was asked makes no sense.
    Wrong(String),
    /// It makes sense, but not as things stand.
    NotNow(String),
    /// It could not be written down, so it was not done.
    NotKept(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchApp(app) => write!(f, "there is no app {app}"),
            Self::Busy(text) | Self::Wrong(text) | Self::NotNow(text) => f.write_str(text),
            Self::NotKept(why) => write!(f, "nothing was done, because it cannot be written down: {why}"),
        }
    }
}

impl Order {
    /// A release with dynos of its own, asked for by somebody.
    pub(crate) fn new(app: &AppId, wanted: Wanted, plan: Plan, by: String) -> Self {
        Self { app: app.clone(), wanted, plan, by, by_file: false, grown: None, donor: None, audit: None }
    }
}

impl Running {
    /// Why another deploy of the app cannot begin.
    pub(super) fn refusal(&self, app: &AppId) -> Refused {
        let Begun { id, wanted, by, .. } = &self.begun;
        let state = self.progress.borrow().state;
        let release = &wanted.release;
        Refused::Busy(format!("app {app} is being deployed: deploy {id} of {release}, by {by}, is {state}"))
    }
}

impl Deploys {
    /// Notes one that runs.
    pub(super) fn begins(&self, app: &AppId, running: Running) {
        self.0.lock().running.insert(app.clone(), running);
    }

    /// The one of that number is about to be over: how it began, where its dynos are found, how it stands.
    pub(super) fn ends(&self, app: &AppId, id: u64) -> Option<Ending> {
        let running = &mut self.0.lock().running;
        let it = running.get_mut(app).filter(|it| it.begun.id == id)?;
        let (feed, verdict) = (it.feed.take(), it.verdict.take());
        Some(Ending { begun: it.begun.clone(), feed, verdict, progress: it.progress.borrow().clone() })
    }

    /// Why another deploy of the app cannot begin, if one runs.
    pub(crate) fn busy(&self, app: &AppId) -> Result<(), Refused> {
        self.0.lock().running.get(app).map_or(Ok(()), |running| Err(running.refusal(app)))
    }

    /// An app that has one.
    pub(crate) fn any(&self) -> Option<AppId> {
        self.0.lock().running.keys().next().cloned()
    }

    /// The number of the one that runs.
    pub(crate) fn number(&self, app: &AppId) -> Option<u64> {
        self.0.lock().running.get(app).map(|running| running.begun.id)
    }

    /// Where the one that runs is asked.
    pub(super) fn asks(&self, app: &AppId) -> Option<mpsc::Sender<Ask>> {
        self.0.lock().running.get(app).map(|running| running.asks.clone())
    }

    /// Notes one that is over, and no longer runs.
    pub(super) fn over(&self, ended: Ended) {
        let mut all = self.0.lock();
        if all.running.get(&ended.app).is_some_and(|it| it.begun.id == ended.begun.id) {
            all.running.remove(&ended.app);
        }
        all.ended.push_back(ended);
        if all.ended.len() > ENDED_MAX {
            all.ended.pop_front();
        }
    }

    /// The present release begins: what its app had done until then is not its own.
    pub(super) fn since(&self, app: &AppId, done: Tally) {
        self.0.lock().since.insert(app.clone(), done);
    }

    /// Of what the app has done, what the present release has.
    pub(super) fn of_present(&self, app: &AppId, total: Tally) -> Tally {
        let since = self.0.lock().since.get(app).copied().unwrap_or_default();
        Tally {
            requests: total.requests.saturating_sub(since.requests),
            faults: total.faults.saturating_sub(since.faults),
            service: total.service.saturating_sub(since.service),
        }
    }

    /// Ends those of apps that are gone. Says which apps were to give their dynos to one of them.
    pub(crate) fn retain(&self, stays: impl Fn(&AppId) -> bool) -> Vec<AppId> {
        let mut all = self.0.lock();
        let gone = all.running.extract_if(.., |app, _| !stays(app));
        let donors = gone.filter_map(|(_, running)| running.begun.donor.clone()).collect();
        all.since.retain(|app, _| stays(app));
        donors
    }

    /// Each as `shown` makes it of its app, its beginning, how it stands and how it ended: those that run first, then
    /// those that are over, the newest first.
    pub(crate) fn list<T>(
        &self,
        shown: impl Fn(&AppId, &Begun, Option<&Progress>, Option<&Ended>) -> T,
    ) -> Vec<T> {
        let all = self.0.lock();
        let running = all.running.iter();
        let running = running.map(|(app, it)| shown(app, &it.begun, Some(&it.progress.borrow()), None));
        let ended = all.ended.iter().rev();
        let ended = ended.map(|it| shown(&it.app, &it.begun, it.progress.as_ref(), Some(it)));
        running.chain(ended).collect()
    }
}
