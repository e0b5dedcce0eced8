//! What webhooks can be told of: every event with its name and meaning.

use std::fmt;

/// Defines each event, its name and its meaning.
macro_rules! events {
    ($($id:ident = $name:literal, $meaning:literal;)*) => {
        /// What has happened to a deploy, an app, a dyno or the daemon.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = $meaning] $id,)*
        }

        impl EventKind {
            /// Every one of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its name: what it is about and what has happened, with a dot in between.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }

            /// What it says, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$id => $meaning,)*
                }
            }
        }
    };
}

events! {
    DeployStarted = "deploy.started", "A deploy has begun: the dynos of the new release start.";
    DeployCanary = "deploy.canary", "The canary serves its share of the requests and waits to be promoted.";
    DeployRollingBack = "deploy.rolling_back", "A deploy is being taken back; the cause says why.";
    DeployDone = "deploy.done", "The new release has replaced the old one.";
    DeployFailed = "deploy.failed", "The new release never served, or cannot be taken back; the cause says which.";
    DeployRolledBack = "deploy.rolled_back", "The old release serves again.";
    AppPaused = "app.paused", "Requests of the app wait until it is resumed.";
    AppResumed = "app.resumed", "The app serves again after a pause.";
    AppMaintenanceOn = "app.maintenance_on", "The app answers with its maintenance page.";
    AppMaintenanceOff = "app.maintenance_off", "The app serves again after maintenance.";
    AppRestarted = "app.restarted", "The dynos of the app have been started anew, one after the other.";
    DynoDrained = "dyno.drained", "A dyno gets no further request until it is undrained.";
    DynoUndrained = "dyno.undrained", "A dyno that was drained gets requests again.";
    ReloadDone = "reload.done", "Another configuration is in place.";
    ReloadFailed = "reload.failed", "A configuration was refused, and nothing was changed; the cause says why.";
    DaemonUpgraded = "daemon.upgraded", "Another process has taken over from the daemon.";
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which events are wanted: one by its name, those with the same beginning, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPattern(String);

impl EventPattern {
    /// Reads `"deploy.done"`, `"deploy.*"` or `"*"`.
    ///
    /// # Errors
    /// Why no event can ever match it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = Self(text.to_owned());
        match EventKind::ALL.iter().any(|event| pattern.matches(*event)) {
            true => Ok(pattern),
            false => Err("no event has this name".to_owned()),
        }
    }

    /// Every event.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// Whether that event is wanted.
    pub fn matches(&self, event: EventKind) -> bool {
        let name = event.as_str();
        match self.0.strip_suffix('*') {
            Some(start) => (start.is_empty() || start.ends_with('.')) && name.starts_with(start),
            None => name == self.0,
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_the_beginning_of_names_or_all() {
        let all = EventKind::ALL.len();
        for (text, count) in [("*", all), ("deploy.*", 6), ("deploy.done", 1), ("reload.*", 2)] {
            let pattern = EventPattern::parse(text).unwrap();
            assert_eq!(
                EventKind::ALL.iter().filter(|event| pattern.matches(**event)).count(),
                count,
                "{text}"
            );
        }
        for text in ["", "deploy", "deploys.*", "dep*", "deploy.d*", "*.done", "deploy.*.*", "Deploy.done"] {
            assert!(EventPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            EventKind::ALL.iter().map(|event| event.as_str()).collect();
        assert_eq!(names.len(), EventKind::ALL.len());
    }
}
