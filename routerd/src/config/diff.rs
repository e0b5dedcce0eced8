//! Two configurations compared: what a reload changes, key by key, as changes for the router and as text for people.
//!
//! Pure: no clock, no I/O. What stands in both is not named, and what is not named is not touched.

use std::collections::BTreeSet;
use std::fmt;

use router_core::change::Change;
use router_core::ids::AppId;

use super::{App, Config, Webhook};

mod app;
mod settings;

use self::app::keys;
use self::settings::settings;

/// Keys that are read once, when the daemon starts.
const AT_START: [&str; 6] =
    ["server.threads", "server.handover", "server.user", "server.group", "audit.file", "state.file"];

/// What is different between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Keys outside of apps.
    pub settings: Vec<KeyChange>,
    /// Apps that come, go or change, ordered by name.
    pub apps: Vec<AppDiff>,
    /// How many apps stay as they are.
    pub untouched: usize,
}

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The key, like `queue.max_wait` or `server.listen`.
    pub key: &'static str,
    /// Its value before, as it would be written.
    pub from: Shown,
    /// Its value after.
    pub to: Shown,
}

/// A value as it would be written in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// One value.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// An app that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppDiff {
    /// Its name.
    pub id: AppId,
    /// How it is different.
    pub kind: AppChange,
}

/// How an app is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppChange {
    /// It comes.
    Added,
    /// It goes: who waits in its line is refused, who is being served is served to the end.
    Removed,
    /// It stays, with other values; its line, dynos and requests stay too.
    Changed(Vec<KeyChange>),
}

impl Diff {
    /// What changes from `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut diff =
            Self { settings: changed(settings(old), settings(new)), apps: Vec::new(), untouched: 0 };
        if old.webhooks != new.webhooks && !diff.has("webhooks") {
            // What differs is what is not shown.
            let to = new.webhooks.iter().map(|webhook| shown_beside(webhook, &old.webhooks));
            let change =
                KeyChange { key: "webhooks", from: many(&old.webhooks), to: Shown::Many(to.collect()) };
            diff.settings.push(change);
        }
        // Both are ordered by name, so one walk over both meets each app once.
        let (mut before, mut after) = (old.apps.iter().peekable(), new.apps.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.spec.id.cmp(&new.spec.id),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return diff,
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            diff.app(old, new);
        }
    }

    fn app(&mut self, old: Option<&App>, new: Option<&App>) {
        let kind = match (old, new) {
            (Some(old), Some(new)) if old == new => {
                self.untouched += 1;
                return;
            }
            (Some(old), Some(new)) => AppChange::Changed(changed(keys(old), keys(new))),
            (Some(_), None) => AppChange::Removed,
            (None, _) => AppChange::Added,
        };
        let id = old.or(new).map(|app| app.spec.id.clone());
        self.apps.extend(id.map(|id| AppDiff { id, kind }));
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.apps.is_empty()
    }

    /// Whether a key outside of apps changes.
    pub fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|change| change.key == key)
    }

    /// The same for the router, to be applied as one: apps that go make room before others come. Dynos are not in
    /// it, they are discovery's.
    pub fn changes(&self, new: &Config) -> Vec<Change> {
        let removed = self.apps.iter().filter(|app| app.kind == AppChange::Removed);
        let mut changes: Vec<_> = removed.map(|app| Change::RemoveApp(app.id.clone())).collect();
        let put: BTreeSet<&AppId> =
            self.apps.iter().filter(|app| app.kind != AppChange::Removed).map(|app| &app.id).collect();
        let specs = new.apps.iter().map(|app| &app.spec).filter(|spec| put.contains(&spec.id));
        changes.extend(specs.map(|spec| Change::PutApp(spec.clone())));
        changes
    }
}

impl fmt::Display for Diff {
    /// One line for each thing that changes: `+` comes, `-` goes, `~` changes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for change in &self.settings {
            let late = if AT_START.contains(&change.key) { "  (at the next start)" } else { "" };
            writeln!(f, "~ {change}{late}")?;
        }
        for app in &self.apps {
            match &app.kind {
                AppChange::Added => writeln!(f, "+ app {}", app.id)?,
                AppChange::Removed => {
                    writeln!(
                        f,
                        "- app {}: who waits in its line is refused, who is served is served",
                        app.id
                    )?;
                }
                AppChange::Changed(keys) => {
                    writeln!(f, "~ app {}", app.id)?;
                    keys.iter().try_for_each(|change| writeln!(f, "    {change}"))?;
                }
            }
        }
        let plural = if self.untouched == 1 { "app stays as it is" } else { "apps stay as they are" };
        writeln!(f, "{} {plural}; no connection is closed", self.untouched)
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.key)?;
        match (&self.from, &self.to) {
            (Shown::Many(from), Shown::Many(to)) => {
                let gone = from.iter().filter(|value| !to.contains(value)).map(|value| format!("- {value}"));
                let come = to.iter().filter(|value| !from.contains(value)).map(|value| format!("+ {value}"));
                let mut parts: Vec<_> = gone.chain(come).collect();
                if parts.is_empty() {
                    parts.push("another order".to_owned());
                }
                f.write_str(&parts.join(", "))
            }
            (from, to) => write!(f, "{from} -> {to}"),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(value) => f.write_str(value),
            Self::Many(values) => write!(f, "[{}]", values.join(", ")),
        }
    }
}

/// Keys and their values, in the order of the reference.
type Keys = Vec<(&'static str, Shown)>;

fn changed(old: Keys, new: Keys) -> Vec<KeyChange> {
    let pairs = old.into_iter().zip(new);
    let different = pairs.filter(|((_, from), (_, to))| from != to);
    different.map(|((key, from), (_, to))| KeyChange { key, from, to }).collect()
}

fn one(value: impl ToString) -> Shown {
    Shown::One(value.to_string())
}

fn or_none(value: Option<impl ToString>) -> Shown {
    one(value.map_or_else(|| "none".to_owned(), |value| value.to_string()))
}

fn many<T: ToString>(values: &[T]) -> Shown {
    Shown::Many(values.iter().map(ToString::to_string).collect())
}

/// A webhook of the new configuration: with a word to it if the old one has none that is the same.
fn shown_beside(webhook: &Webhook, old: &[Webhook]) -> String {
    let differs = if old.contains(webhook) { "" } else { ", with another path or secret" };
    format!("{webhook}{differs}")
}

#[cfg(test)]
mod tests;
