//! What was decided about releases while the daemon ran: it survives a restart, and says who wins over the file.
//!
//! The newest word wins. What the API decides about an app's release and dynos holds until **the file's own words** for
//! them change; then the file's word is the newer one. An app whose new release in the file failed or was rolled back
//! goes on with the old one by the same rule: it is not tried again before the file says something else, or somebody
//! asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use router_core::clock;
use router_core::ids::{Address, AppId, ReleaseId};
use router_core::policy::deploy::Saved;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::audit::Seq;
use crate::config::{self, DynoSource};

/// Releases that are remembered for each app.
const RELEASES_MAX: usize = 20;

/// A release and where its dynos come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) release: ReleaseId,
    /// As in the configuration file.
    pub(crate) dynos: Vec<DynoSource>,
}

/// A decision that wins over the file, for as long as the file says what it said then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decided {
    /// What the app runs.
    pub(crate) wanted: Wanted,
    /// What the file said then.
    pub(crate) over: Wanted,
    /// Who decided it.
    pub(crate) by: String,
}

/// A deploy that has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Begun {
    /// Its number.
    pub(crate) id: u64,
    /// What the app is to run.
    pub(crate) wanted: Wanted,
    /// What it ran before.
    pub(crate) from: Wanted,
    /// What the file said when it began.
    pub(crate) over: Wanted,
    /// The app that gives its dynos to this one.
    pub(crate) donor: Option<AppId>,
    /// Who asked for it.
    pub(crate) by: String,
    /// The file asked for it.
    pub(crate) by_file: bool,
    /// When, in RFC 3339.
    pub(crate) at: String,
    /// Where the audit trail says that it was asked for.
    #[serde(default)]
    pub(crate) audit: Option<Seq>,
    /// How far it is; `None`: nothing has been done yet.
    pub(crate) saved: Option<Saved>,
}

/// A release that an app has run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Past {
    /// The release.
    pub(crate) wanted: Wanted,
    /// Since when, in RFC 3339.
    pub(crate) since: String,
    /// Who asked for it.
    pub(crate) by: String,
    /// The file asked for it.
    pub(crate) by_file: bool,
}

/// What was decided about one app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Page {
    /// What wins over the file.
    pub(crate) decided: Option<Decided>,
    /// Every request is refused.
    pub(crate) maintenance: bool,
    /// Dynos that were taken out by hand.
    pub(crate) drained: BTreeSet<Address>,
    /// A deploy that runs.
    pub(crate) deploy: Option<Begun>,
    /// Releases it has run, the present one last.
    pub(crate) releases: Vec<Past>,
}

/// What was decided about all apps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Book {
    /// The number of the last deploy.
    pub(crate) last_id: u64,
    /// By the name of the app.
    pub(crate) apps: BTreeMap<AppId, Page>,
}

impl Wanted {
    /// What a configuration says of an app.
    pub(crate) fn of(app: &config::App) -> Self {
        Self { release: app.spec.release.clone(), dynos: app.dynos.clone() }
    }

    /// Puts it into a configuration.
    pub(crate) fn put(&self, app: &mut config::App) {
        app.spec.release = self.release.clone();
        app.dynos.clone_from(&self.dynos);
    }
}

impl Page {
    /// What the app is to run when the file says this. A decision over another word of the file has had its time.
    pub(crate) fn wanted(&self, file: &Wanted) -> Wanted {
        match &self.decided {
            Some(decided) if decided.over == *file => decided.wanted.clone(),
            Some(_) | None => file.clone(),
        }
    }

    /// Whether something other than the file decides.
    pub(crate) fn is_decided(&self, file: &Wanted) -> bool {
        self.decided.as_ref().is_some_and(|decided| decided.over == *file && decided.wanted != *file)
    }

    /// From now on this is what the app runs.
    pub(crate) fn settle(&mut self, wanted: &Wanted, file: &Wanted, by: &str) {
        self.decided = (wanted != file).then(|| Decided {
            wanted: wanted.clone(),
            over: file.clone(),
            by: by.to_owned(),
        });
    }

    /// Notes that the app runs this from now on.
    pub(crate) fn remember(&mut self, past: Past) {
        if self.releases.last().is_some_and(|last| last.wanted == past.wanted) {
            return;
        }
        self.releases.push(past);
        let surplus = self.releases.len().saturating_sub(RELEASES_MAX);
        self.releases.drain(..surplus);
    }

    /// The release before the present one.
    pub(crate) fn previous(&self) -> Option<&Past> {
        let (present, before) = self.releases.split_last()?;
        before.iter().rev().find(|past| past.wanted != present.wanted)
    }
}

/// Writes the book to where it survives a restart.
pub(crate) type Write = Arc<dyn Fn(&Book) -> Result<(), String> + Send + Sync>;

/// The book and its writer. What cannot be written does not happen.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Kept>);

struct Kept {
    book: ArcSwap<Book>,
    /// One change at a time.
    changing: Mutex<()>,
    write: Option<Write>,
    /// When the daemon began, in RFC 3339: so long at least an app has had what nobody has deployed.
    since: String,
}

impl Shelf {
    /// A book, and what writes it down; `None`: it lasts as long as the process.
    pub(crate) fn new(book: Book, write: Option<Write>) -> Self {
        let since = humantime::format_rfc3339_millis(UNIX_EPOCH + clock::wall()).to_string();
        Self(Arc::new(Kept { book: ArcSwap::from_pointee(book), changing: Mutex::new(()), write, since }))
    }

    /// The book as it is.
    pub(crate) fn read(&self) -> Arc<Book> {
        self.0.book.load_full()
    }

    /// One app's page as it is.
    pub(crate) fn page(&self, app: &AppId) -> Page {
        self.0.book.load().apps.get(app).cloned().unwrap_or_default()
    }

    /// Changes the book, on the disk first.
    ///
    /// # Errors
    /// Why it could not be written; the book is as it was.
    ///
    /// # Cancel safety
    /// Not cancel safe: it may be written and not be known here.
    pub(crate) async fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, String> {
        let _one_at_a_time = self.0.changing.lock().await;
        let before = self.read();
        let mut next = Book::clone(&before);
        let result = change(&mut next);
        if next == *before {
            return Ok(result);
        }
        let next = Arc::new(next);
        self.write(Arc::clone(&next)).await?;
        self.0.book.store(next);
        Ok(result)
    }

    /// Writes the book down as it is: what stands in the file is another one's.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub(crate) async fn put_down(&self) -> Result<(), String> {
        let _one_at_a_time = self.0.changing.lock().await;
        self.write(self.read()).await
    }

    async fn write(&self, book: Arc<Book>) -> Result<(), String> {
        let Some(write) = self.0.write.clone() else { return Ok(()) };
        let written = tokio::task::spawn_blocking(move || write(&book)).await;
        written.map_err(|_| "the state file was not written: the daemon is ending".to_owned())?
    }

    /// Changes one app's page, as [`change`](Self::change) does.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn turn<T>(
        &self,
        app: &AppId,
        change: impl FnOnce(&mut Page) -> T,
    ) -> Result<T, String> {
        self.change(|book| change(book.apps.entry(app.clone()).or_default())).await
    }
}

/// The steps of deploys, as they are written down. What happens while it runs goes on if it cannot be written: to
/// stop in the middle would be worse, and a restart goes on from what was written last.
impl Shelf {
    /// A deploy begins, and gets its number. One that has nothing to do is not written down.
    ///
    /// # Errors
    /// It cannot be written: it must not begin.
    pub(crate) async fn begin(&self, app: &AppId, begun: &mut Begun, lasts: bool) -> Result<(), String> {
        let written = begun.clone();
        begun.id = self
            .change(|book| {
                book.last_id += 1;
                let id = book.last_id;
                if lasts {
                    book.apps.entry(app.clone()).or_default().deploy = Some(Begun { id, ..written });
                }
                id
            })
            .await?;
        Ok(())
    }

    /// It is that far.
    pub(crate) async fn keep(&self, app: &AppId, saved: Saved) {
        let kept = self.turn(app, |page| {
            if let Some(begun) = page.deploy.as_mut() {
                begun.saved = Some(saved);
            }
        });
        report(app, kept.await);
    }

    /// It has ended, and the app runs what was wanted.
    ///
    /// `gave` is the app that has given its dynos for it, and what the file says of that one.
    pub(crate) async fn settle(&self, app: &AppId, begun: &Begun, gave: Option<(&AppId, Wanted)>) {
        let Begun { wanted, over, by, by_file, at, .. } = begun.clone();
        let settled = self.change(|book| {
            // What it has given away is no longer the donor's, whatever the file says of it.
            if let Some((donor, over)) = gave {
                let nothing = Wanted { release: over.release.clone(), dynos: Vec::new() };
                book.apps.entry(donor.clone()).or_default().settle(&nothing, &over, &by);
            }
            let page = book.apps.entry(app.clone()).or_default();
            page.deploy = None;
            page.settle(&wanted, &over, &by);
            if page.releases.is_empty() {
                let (since, by) = (self.0.since.clone(), "the configuration file".to_owned());
                page.remember(Past { wanted: begun.from.clone(), since, by, by_file: true });
            }
            page.remember(Past { wanted, since: at, by, by_file });
        });
        report(app, settled.await);
    }

    /// It has ended, and the app runs what it ran before. What the file asked for is not tried again.
    pub(crate) async fn stay(&self, app: &AppId, begun: &Begun) {
        let stayed = self.turn(app, |page| {
            page.deploy = None;
            if begun.by_file {
                page.settle(&begun.from, &begun.over, "a deploy that did not end well");
            }
        });
        report(app, stayed.await);
    }

    /// It had not begun when the daemon ended.
    pub(crate) async fn forget_deploy(&self, app: &AppId) {
        report(app, self.turn(app, |page| page.deploy = None).await);
    }
}

fn report(app: &AppId, written: Result<(), String>) {
    if let Err(error) = written {
        tracing::error!("app {app}: what its deploy has come to is not written down: {error}");
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("lasts", &self.0.write.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(release: &str, port: u16) -> Wanted {
        Wanted { release: release.into(), dynos: vec![DynoSource::Address(([127, 0, 0, 1], port).into())] }
    }

    #[test]
    fn the_newest_word_wins() {
        let (file, api, newer) = (wanted("v1", 3001), wanted("v2", 3002), wanted("v3", 3003));
        let mut page = Page::default();
        assert_eq!(page.wanted(&file), file, "without a decision the file decides");
        page.settle(&api, &file, "ci");
        assert_eq!(page.wanted(&file), api, "a decision wins over the file as it was then");
        assert!(page.is_decided(&file));
        assert_eq!(page.wanted(&newer), newer, "the file has said something else since");
        assert!(!page.is_decided(&newer));
        page.settle(&file, &file, "ci");
        assert_eq!(page.decided, None, "what the file says needs no decision");
    }

    #[test]
    fn the_release_before_is_found_and_the_list_is_bounded() {
        let mut page = Page::default();
        let past = |n: u16| Past {
            wanted: wanted(&format!("v{n}"), n),
            since: String::new(),
            by: "ci".to_owned(),
            by_file: false,
        };
        assert_eq!(page.previous(), None);
        page.remember(past(1));
        page.remember(past(1));
        assert_eq!((page.releases.len(), page.previous()), (1, None));
        page.remember(past(2));
        assert_eq!(page.previous(), Some(&past(1)));
        (3..100).for_each(|n| page.remember(past(n)));
        assert_eq!((page.releases.len(), page.previous()), (RELEASES_MAX, Some(&past(98))));
    }

    #[tokio::test]
    async fn what_cannot_be_written_does_not_happen() {
        let shelf = Shelf::new(Book::default(), Some(Arc::new(|_| Err("disk full".to_owned()))));
        let app = AppId::from("shop");
        assert_eq!(shelf.turn(&app, |page| page.maintenance = true).await, Err("disk full".to_owned()));
        assert!(!shelf.page(&app).maintenance);
        assert_eq!(shelf.change(|_| 7).await, Ok(7), "what changes nothing needs no disk");
    }
}
