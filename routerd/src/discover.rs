//! Discovery for every app of the daemon: begins, changes and ends it as the config says, and tells how it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use router_core::dns::{Discovery, Resolver, Settings, Sink, Source, SourceStatus};
use router_core::ids::AppId;

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
    apps: BTreeMap<AppId, (AppSources, Discovery)>,
    sink: Sink,
}

impl Discoveries {
    /// Without apps. The sink takes the changes of every app; it is called from one task an app, so calls for two
    /// apps may come at the same time.
    pub fn new(settings: Settings, sink: Sink) -> Self {
        Self { resolver: Resolver::new(settings), apps: BTreeMap::new(), sink }
    }

    /// Puts another configuration in place. An app that stays keeps its dynos, and a source that stays keeps what it
    /// knows; only other settings make it asked for anew. When this returns, the sink is no longer called for apps
    /// that are gone, so the router may forget them; new apps must be in the router before.
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
            if let Some((_, discovery)) = self.apps.remove(&id) {
                discovery.stop().await;
            }
        }
        for app in apps {
            match self.apps.get_mut(&app.app) {
                Some((before, _)) if before == app && !other => {}
                Some((before, there)) => {
                    there.update(self.resolver.clone(), &app.sources, app.concurrency);
                    *before = app.clone();
                }
                None => {
                    let (resolver, sink) = (self.resolver.clone(), self.sink.clone());
                    let begun =
                        Discovery::start(resolver, app.app.clone(), &app.sources, app.concurrency, sink);
                    self.apps.insert(app.app.clone(), (app.clone(), begun));
                }
            }
        }
    }

    /// Waits until every source of every app has had a first result, good or bad, at most for `longest`. Returns
    /// whether that is so.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self, longest: Duration) -> bool {
        let all = async {
            for (_, discovery) in self.apps.values() {
                discovery.ready().await;
            }
        };
        tokio::time::timeout(longest, all).await.is_ok()
    }

    /// Whether every source has had a first result: for `/readyz`.
    pub fn is_ready(&self) -> bool {
        self.apps.values().all(|(_, discovery)| discovery.is_ready())
    }

    /// Asks for every name of the app anew, for example because its dynos do not accept connections.
    pub fn ask_soon(&self, app: &AppId) {
        if let Some((_, discovery)) = self.apps.get(app) {
            discovery.ask_soon();
        }
    }

    /// The sources of every app as they stand: for the admin interface and metrics.
    pub fn status(&self) -> BTreeMap<AppId, Vec<SourceStatus>> {
        self.apps.iter().map(|(id, (_, discovery))| (id.clone(), discovery.status())).collect()
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
    use std::sync::Arc;

    use router_core::change::Change;
    use tokio::sync::watch;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn app(name: &str, sources: &[&str], concurrency: u32) -> AppSources {
        let sources = sources.iter().map(|text| text.parse().unwrap()).collect();
        AppSources { app: name.into(), sources, concurrency }
    }

    /// App, address, concurrency.
    type Table = BTreeSet<(String, String, u32)>;

    /// A router of one table. It refuses a dyno that another app has.
    fn router() -> (Sink, watch::Receiver<Table>) {
        let (table, seen) = watch::channel(Table::new());
        let sink: Sink = Arc::new(move |changes| {
            let mut refused = Vec::new();
            table.send_modify(|table| {
                for change in changes {
                    match &change {
                        Change::AddDyno(app, spec) => {
                            let address = spec.address.to_string();
                            if table.iter().any(|(has, at, _)| *at == address && has != app.as_str()) {
                                refused.push(change);
                                continue;
                            }
                            table.retain(|(_, at, _)| *at != address);
                            table.insert((app.to_string(), address, spec.concurrency));
                        }
                        Change::RemoveDyno(app, address) => {
                            table.retain(|(has, at, _)| has != app.as_str() || *at != address.to_string());
                        }
                        Change::PutApp(_)
                        | Change::RemoveApp(_)
                        | Change::SetDyno(..)
                        | Change::SetCanary(..)
                        | Change::Hold(..) => {
                            panic!("{change:?}")
                        }
                    }
                }
            });
            refused
        });
        (sink, seen)
    }

    async fn has(
        seen: &mut watch::Receiver<BTreeSet<(String, String, u32)>>,
        expected: &[(&str, &str, u32)],
    ) {
        let expected: Table =
            expected.iter().map(|(app, at, many)| (app.to_string(), at.to_string(), *many)).collect();
        let reached = tokio::time::timeout(DEADLINE, seen.wait_for(|table| *table == expected)).await;
        let reached = reached.map(|result| result.map(drop));
        assert!(reached.is_ok(), "{:?} instead of {expected:?}", *seen.borrow());
    }

    #[tokio::test]
    async fn apps_come_change_and_go_with_the_configuration() {
        let (sink, mut seen) = router();
        let mut all = Discoveries::new(Settings::default(), sink);
        let shop = app("shop", &["127.0.0.1:3001", "127.0.0.1:3002"], 1);
        all.apply(Settings::default(), &[shop.clone(), app("blog", &["127.0.0.1:4001"], 2)]).await;
        assert!(all.ready(DEADLINE).await && all.is_ready());
        let (one, two, blog) =
            (("shop", "127.0.0.1:3001", 1), ("shop", "127.0.0.1:3002", 1), ("blog", "127.0.0.1:4001", 2));
        has(&mut seen, &[one, two, blog]).await;

        all.apply(Settings::default(), &[app("shop", &["127.0.0.1:3002"], 3)]).await;
        has(&mut seen, &[("shop", "127.0.0.1:3002", 3), blog]).await;
        let status = all.status();
        assert_eq!(status.len(), 1, "the blog is gone, and its dynos are the router's to forget");
        assert_eq!(status[&"shop".into()][0].dynos, 1);
    }

    #[tokio::test]
    async fn a_dyno_that_moves_to_another_app_arrives_there_once_the_first_has_let_it_go() {
        let (sink, mut seen) = router();
        let mut all = Discoveries::new(Settings::default(), sink);
        let before = [app("a", &["127.0.0.1:3001", "127.0.0.1:3002"], 1), app("b", &["127.0.0.1:3002"], 1)];
        all.apply(Settings::default(), &before).await;
        assert!(all.ready(DEADLINE).await);
        all.apply(Settings::default(), &[app("a", &["127.0.0.1:3001"], 1), app("b", &["127.0.0.1:3002"], 1)])
            .await;
        has(&mut seen, &[("a", "127.0.0.1:3001", 1), ("b", "127.0.0.1:3002", 1)]).await;
    }

    #[tokio::test]
    async fn readiness_waits_for_a_name_as_long_as_it_may_take_and_no_longer() {
        let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = vec![hole.local_addr().unwrap()];
        let slow = Settings::default().with_servers(servers.clone()).with_timeout(Duration::from_secs(60));
        let (sink, _seen) = router();
        let mut all = Discoveries::new(slow.clone(), sink);
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
