//! Webhooks: tells others what has happened, and costs nobody anything when they do not listen.
//!
//! [`Webhooks::tell`] puts an event into the queue of each target that wants it and returns. Each target has a task of
//! its own that sends one event after the other, in order, and tries again while there is hope; so a target that is
//! down holds up itself and nobody else. A full queue loses its oldest event, which is counted. `docs/webhooks.md`
//! says what is sent, and how a receiver checks the signature.

mod post;
mod target;

use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use router_core::clock;
use router_core::sync::Mutex;
use serde::Serialize;

use self::post::Client;
use self::target::{Letter, Running};
use crate::config::Webhook;
use crate::config::event::EventKind;
use crate::durable::rfc3339;

/// Texts of an event that are longer than this many characters are cut.
const TEXT_MAX: usize = 2000;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// In one word.
    pub kind: EventKind,
    /// In one sentence for people: `shop: deploy of v43 is done: 4 dynos serve (by ci)`.
    pub text: String,
    /// The app it is about.
    pub app: Option<String>,
    /// The release it is about.
    pub release: Option<String>,
    /// Who asked for it.
    pub by: Option<String>,
    /// The number of the deploy.
    pub deploy: Option<u64>,
    /// Why, if something did not go well.
    pub cause: Option<String>,
    /// The hash of the line in the audit trail that tells of it.
    pub audit: Option<String>,
}

/// How hard it is tried. The defaults are what `docs/webhooks.md` promises.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long one try may take, from the look-up of the name to the head of the answer. Default 10 s.
    pub timeout: Duration,
    /// How often an event is tried. Default 8; 0 counts as 1.
    pub tries: u32,
    /// The wait before the second try; each one after it is twice as long, all of them 25 % more or less by chance.
    /// Default 5 s: the eighth try comes after about ten minutes.
    pub first_wait: Duration,
    /// How many events may wait for one target. Default 1000; 0 counts as 1.
    pub queue: usize,
    /// How long the end, and a target that is taken away, wait for events that are still queued. Default 2 s.
    pub last_words: Duration,
    /// Certificates of authorities that are trusted beside those of the system, DER. Default none.
    pub authorities: Vec<Vec<u8>>,
}

/// What has become of events so far, over all targets, also those that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// A target answered with a status from 200 to 299.
    pub delivered: u64,
    /// Given up: a status that no further try changes, or all tries were in vain.
    pub failed: u64,
    /// Never tried to the end: the queue was full, or the daemon ended or took the target away.
    pub dropped: u64,
}

/// All targets. Clones are the same; when the last one is gone, what is still queued is dropped.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    terms: Terms,
    client: OnceLock<Client>,
    running: Mutex<Vec<Running>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    text: String,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    at: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    deploy: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<&'a str>,
}

impl Event {
    /// An event with its sentence and nothing else.
    pub fn new(kind: EventKind, text: impl Into<String>) -> Self {
        let (app, release, by, deploy, cause, audit) = (None, None, None, None, None, None);
        Self { kind, text: text.into(), app, release, by, deploy, cause, audit }
    }

    /// As it is sent. The id is the same for all targets and all tries.
    fn letter(&self) -> Letter {
        let id = format!("{:032x}", fastrand::u128(..));
        let body = Body {
            text: cut(&self.text),
            event: self.kind.as_str(),
            app: self.app.as_deref(),
            release: self.release.as_deref(),
            by: self.by.as_deref(),
            at: &rfc3339(clock::wall()),
            id: &id,
            deploy: self.deploy,
            cause: self.cause.as_deref().map(cut),
            audit: self.audit.as_deref(),
        };
        // Texts and a number: they cannot be refused.
        let body = serde_json::to_string(&body).unwrap_or_default();
        Letter { kind: self.kind, id, body }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            tries: 8,
            first_wait: Duration::from_secs(5),
            queue: 1000,
            last_words: Duration::from_secs(2),
            authorities: Vec::new(),
        }
    }
}

impl Webhooks {
    /// Starts a task for each target.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(configs: &[Webhook]) -> Self {
        Self::start_with(configs, Terms::default())
    }

    /// The same with other terms.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_with(configs: &[Webhook], terms: Terms) -> Self {
        let (client, running, counts) = (OnceLock::new(), Mutex::new(Vec::new()), Arc::default());
        let webhooks = Self(Arc::new(Inner { terms, client, running, counts }));
        webhooks.set(configs);
        webhooks
    }

    /// Other targets from now on. One that is in both keeps its queue; one that is gone gets what is queued for it in
    /// the background, for 2 s.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn set(&self, configs: &[Webhook]) {
        let mut running = self.0.running.lock();
        let mut old = std::mem::take(&mut *running);
        for config in configs {
            let same = old.iter().position(|it| it.config() == config);
            running.push(match same {
                Some(at) => old.swap_remove(at),
                None => {
                    let client = self.0.client.get_or_init(|| Client::new(&self.0.terms));
                    Running::start(config, client, &self.0.terms, &self.0.counts)
                }
            });
        }
        let within = self.0.terms.last_words;
        old.into_iter().for_each(|gone| drop(tokio::spawn(gone.end(within))));
    }

    /// Tells all targets that want to hear it. Neither blocks nor fails.
    pub fn tell(&self, event: &Event) {
        let running = self.0.running.lock();
        let mut wanting = running.iter().filter(|it| it.config().wants(event.kind)).peekable();
        if wanting.peek().is_some() {
            let letter = Arc::new(event.letter());
            wanting.for_each(|it| it.push(Arc::clone(&letter)));
        }
    }

    /// What has become of events so far.
    pub fn account(&self) -> Account {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { delivered, failed, dropped } = &*self.0.counts;
        Account { delivered: of(delivered), failed: of(failed), dropped: of(dropped) }
    }

    /// Sends what is queued, without waiting between tries, and ends: after 2 s what is left is dropped. What is told
    /// later reaches nobody.
    ///
    /// # Cancel safety
    /// What was being sent is dropped.
    pub async fn stop(&self) {
        let running = std::mem::take(&mut *self.0.running.lock());
        let within = self.0.terms.last_words;
        let mut ends: tokio::task::JoinSet<()> =
            running.into_iter().map(|target| target.end(within)).collect();
        while ends.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.0.running.lock();
        f.debug_list().entries(running.iter().map(Running::config)).finish()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The events that there are, as rows of a table: what `docs/webhooks.md` must have.
pub fn documentation() -> String {
    let mut table = String::from("| event | meaning |\n|---|---|\n");
    for event in EventKind::ALL {
        // A String takes whatever is written to it.
        let _ = writeln!(table, "| `{event}` | {} |", event.meaning());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_has_only_what_there_is_to_say() {
        let event = Event {
            app: Some("shop".to_owned()),
            deploy: Some(7),
            cause: Some("x".repeat(3000)),
            ..Event::new(EventKind::DeployFailed, "shop: \"v43\" failed")
        };
        let letter = event.letter();
        let body: serde_json::Value = serde_json::from_str(&letter.body).unwrap();
        let keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["text", "event", "app", "at", "id", "deploy", "cause"]);
        assert_eq!(
            (&body["text"], &body["event"]),
            (&"shop: \"v43\" failed".into(), &"deploy.failed".into())
        );
        assert_eq!(body["id"], letter.id.as_str());
        assert_eq!(body["cause"].as_str().map(str::len), Some(2003));
        assert_ne!(letter.id, event.letter().id);
    }

    #[test]
    fn the_page_has_every_event() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/webhooks.md");
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        let (start, rest) = page.split_once("| event |").unwrap_or((&page, ""));
        let end = rest.split_once("\n\n").map_or("", |(_, end)| end);
        let now = format!("{start}{}\n{end}", documentation());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &now).unwrap();
        } else {
            assert!(page == now, "docs/webhooks.md: run UPDATE_DOCS=1 cargo test -p routerd --lib webhooks");
        }
    }
}
