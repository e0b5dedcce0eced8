//! Discovery for every app of the daemon: begins, changes and ends it as the config says, and tells how it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use router_core::change::DynoSpec;
use router_core::dns::{Discovery, Resolver, Settings, Sink, Source, SourceStatus};
use router_core::ids::AppId;

use crate::gate::{FeedId, Gate};

/// Where the dynos of one app come from, as the config has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSources {
    /// The app.
    pub app: AppId,
    /// Its sources, in the order in which they give names to dynos.
    pub sources: Vec<Source>,
    /// How many requests each dyno serves at once; 0 counts as 1.
    pub concurrency: u32,
}

/// The discoveries of all apps. Dropping it ends them; the router keeps the dynos.
pub struct Discoveries {
    resolver: Resolver,
    /// Each with what it was last given, so that one that stays as it is is left alone.
    apps: BTreeMap<AppId, Feed>,
    gate: Arc<Gate>,
    last_feed: FeedId,
}

/// The discovery of one app.
pub struct Feed {
    id: FeedId,
    sources: AppSources,
    discovery: Discovery,
}

impl Discoveries {
    /// Without apps. What is found goes through the gate; that happens in one task an app, so for two apps it may be
    /// at the same time.
    pub fn new(settings: Settings, gate: Arc<Gate>) -> Self {
        Self { resolver: Resolver::new(settings), apps: BTreeMap::new(), gate, last_feed: 0 }
    }

    /// Puts another configuration in place. An app that stays keeps its dynos, and a source that stays keeps what it
    /// knows; only other settings make it asked for anew. When this returns, nothing more comes for apps that are
    /// gone, so the router may forget them; new apps must be in the router before.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a future dropped half-way has ended the apps that are gone and not begun the new ones.
    pub async fn apply(&mut self, settings: Settings, apps: &[AppSources]) {
        let resolver = Resolver::new(settings);
        let other = *resolver.settings() != *self.resolver.settings();
        if other {
            self.resolver = resolver;
        }
        let stay: BTreeSet<&AppId> = apps.iter().map(|app| &app.app).collect();
        let gone: Vec<AppId> = self.apps.keys().filter(|id| !stay.contains(id)).cloned().collect();
        for id in gone {
            if let Some(feed) = self.apps.remove(&id) {
                feed.discovery.stop().await;
            }
            self.gate.forget(&id);
        }
        for app in apps {
            match self.apps.get_mut(&app.app) {
                Some(feed) if feed.sources == *app && !other => {}
                Some(feed) => {
                    feed.discovery.update(self.resolver.clone(), &app.sources, app.concurrency);
                    feed.sources = app.clone();
                }
                None => {
                    self.last_feed += 1;
                    // Before it can find anything.
                    self.gate.adopt(&app.app, self.last_feed);
                    let feed = self.begin(self.last_feed, app);
                    self.apps.insert(app.app.clone(), feed);
                }
            }
        }
    }

    /// Begins to look for dynos that an app is to have later; the router hears nothing of them before
    /// [`adopt`](Self::adopt).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn stage(&mut self, app: &AppSources) -> Feed {
        self.last_feed += 1;
        self.begin(self.last_feed, app)
    }

    /// A feed that was staged is the app's own from now on; the one before has ended. The gate has to be opened for
    /// the router to hear of it.
    ///
    /// # Cancel safety
    ///
    /// As [`apply`](Self::apply).
    pub async fn adopt(&mut self, feed: Feed) {
        let app = feed.sources.app.clone();
        self.gate.adopt(&app, feed.id);
        if let Some(before) = self.apps.insert(app, feed) {
            before.discovery.stop().await;
        }
    }

    /// A feed that was staged and is not needed.
    pub async fn discard(&self, feed: Feed) {
        feed.discovery.stop().await;
        self.gate.forget_feed(&feed.sources.app, feed.id);
    }

    fn begin(&self, id: FeedId, app: &AppSources) -> Feed {
        let gate = Arc::clone(&self.gate);
        let sink: Sink = Arc::new(move |changes| gate.pass(id, changes));
        let discovery =
            Discovery::start(self.resolver.clone(), app.app.clone(), &app.sources, app.concurrency, sink);
        Feed { id, sources: app.clone(), discovery }
    }

    /// Waits until every source of every app has had a first result, good or bad, at most for `longest`. Returns
    /// whether that is so.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self, longest: Duration) -> bool {
        let all = async {
            for feed in self.apps.values() {
                feed.discovery.ready().await;
            }
        };
        tokio::time::timeout(longest, all).await.is_ok()
    }

    /// Whether every source has had a first result: for `/readyz`.
    pub fn is_ready(&self) -> bool {
        self.apps.values().all(|feed| feed.discovery.is_ready())
    }

    /// Asks for every name of the app anew, for example because its dynos do not accept connections.
    pub fn ask_soon(&self, app: &AppId) {
        if let Some(feed) = self.apps.get(app) {
            feed.discovery.ask_soon();
        }
    }

    /// The sources of every app as they stand: for the admin interface and metrics.
    pub fn status(&self) -> BTreeMap<AppId, Vec<SourceStatus>> {
        self.apps.iter().map(|(id, feed)| (id.clone(), feed.discovery.status())).collect()
    }
}

impl Feed {
    /// What it has found by now, ordered by address.
    pub fn found(&self, gate: &Gate) -> Vec<DynoSpec> {
        gate.found(&self.sources.app, self.id)
    }

    /// Waits until every source has had a first result, good or bad.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) {
        self.discovery.ready().await;
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("id", &self.id).field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Discoveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discoveries").field("apps", &self.apps).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use router_core::Router;
    use router_core::change::{AppSpec, Change};
    use router_core::limits::Limits;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn app(name: &str, sources: &[&str], concurrency: u32) -> AppSources {
        let sources = sources.iter().map(|text| text.parse().unwrap()).collect();
        AppSources { app: name.into(), sources, concurrency }
    }

    /// App, address, concurrency.
    type Table = BTreeSet<(String, String, u32)>;

    /// A router with these apps, and the way to it.
    fn router(apps: &[&str]) -> (Arc<Gate>, Router) {
        let router = Router::new();
        for name in apps {
            let (hosts, limits) = (Vec::new(), Limits::default());
            let app = AppSpec { id: (*name).into(), hosts, release: "v1".into(), limits };
            router.apply(&[Change::PutApp(app)]).unwrap();
        }
        (Arc::new(Gate::new(router.clone())), router)
    }

    async fn has(router: &Router, expected: &[(&str, &str, u32)]) {
        let expected: Table =
            expected.iter().map(|(app, at, many)| (app.to_string(), at.to_string(), *many)).collect();
        let table = || -> Table {
            let apps = router.snapshot().apps;
            let dynos = apps.iter().flat_map(|app| app.dynos.iter().map(move |dyno| (&app.id, dyno)));
            dynos.map(|(app, dyno)| (app.to_string(), dyno.address.to_string(), dyno.concurrency)).collect()
        };
        let reached = async {
            while table() != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        assert!(reached.is_ok(), "{:?} instead of {expected:?}", table());
    }

    #[tokio::test]
    async fn apps_come_change_and_go_with_the_configuration() {
        let (gate, router) = router(&["shop", "blog"]);
        let mut all = Discoveries::new(Settings::default(), gate);
        let shop = app("shop", &["127.0.0.1:3001", "127.0.0.1:3002"], 1);
        all.apply(Settings::default(), &[shop.clone(), app("blog", &["127.0.0.1:4001"], 2)]).await;
        assert!(all.ready(DEADLINE).await && all.is_ready());
        let (one, two, blog) =
            (("shop", "127.0.0.1:3001", 1), ("shop", "127.0.0.1:3002", 1), ("blog", "127.0.0.1:4001", 2));
        has(&router, &[one, two, blog]).await;

        all.apply(Settings::default(), &[app("shop", &["127.0.0.1:3002"], 3)]).await;
        has(&router, &[("shop", "127.0.0.1:3002", 3), blog]).await;
        let status = all.status();
        assert_eq!(status.len(), 1, "the blog is gone, and its dynos are the router's to forget");
        assert_eq!(status[&"shop".into()][0].dynos, 1);
    }

    #[tokio::test]
    async fn a_dyno_that_moves_to_another_app_arrives_there_once_the_first_has_let_it_go() {
        let (gate, router) = router(&["a", "b"]);
        let mut all = Discoveries::new(Settings::default(), gate);
        let before = [app("a", &["127.0.0.1:3001", "127.0.0.1:3002"], 1), app("b", &["127.0.0.1:3002"], 1)];
        all.apply(Settings::default(), &before).await;
        assert!(all.ready(DEADLINE).await);
        all.apply(Settings::default(), &[app("a", &["127.0.0.1:3001"], 1), app("b", &["127.0.0.1:3002"], 1)])
            .await;
        has(&router, &[("a", "127.0.0.1:3001", 1), ("b", "127.0.0.1:3002", 1)]).await;
    }

    #[tokio::test]
    async fn readiness_waits_for_a_name_as_long_as_it_may_take_and_no_longer() {
        let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = vec![hole.local_addr().unwrap()];
        let slow = Settings::default().with_servers(servers.clone()).with_timeout(Duration::from_secs(60));
        let (gate, _router) = router(&["shop"]);
        let mut all = Discoveries::new(slow.clone(), gate);
        all.apply(slow, &[app("shop", &["dns:web.test:80"], 1)]).await;
        assert!(!all.ready(Duration::from_millis(50)).await && !all.is_ready());

        let quick =
            Settings::default().with_servers(servers).with_timeout(Duration::from_millis(50)).with_tries(1);
        all.apply(quick, &[app("shop", &["dns:web2.test:80"], 1)]).await;
        assert!(all.ready(DEADLINE).await && all.is_ready());
        all.ask_soon(&"shop".into());
        assert_eq!(all.status()[&"shop".into()][0].answered, 0);
    }
}
