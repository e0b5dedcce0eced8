//! How many processes of each entry of the Procfile run: `web=4,worker=1`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::procfile::{Procfile, is_name, quoted};

/// The most processes one grid runs.
pub const MAX_PROCESSES: u32 = 500;
/// The entry whose processes are dynos: they get requests.
pub const WEB: &str = "web";
/// Processes of `web` when nobody says otherwise: enough to see a line being shared.
const DEFAULT_WEB: u32 = 4;
/// The entry that stands for a deploy task and not for a process that stays.
const RELEASE: &str = "release";
/// The name that stands for every entry a formation does not name.
const ALL: &str = "all";

/// How many processes of each entry are wanted.
///
/// Without one, `web` runs four times and every other entry once, but `release` not at all (that is the name
/// of a task run at a deploy). A formation that is given names all that runs: what it leaves out does not, unless
/// it says `all=N`. This is what foreman does.
///
/// ```
/// use routerd::up::{Formation, Procfile};
///
/// let procfile = Procfile::parse("web: puma\nworker: sidekiq\nclock: tick\n")?;
/// let names = |formation: Formation| -> Vec<String> {
///     formation.processes(&procfile).unwrap().iter().map(|process| process.to_string()).collect()
/// };
/// assert_eq!(names(Formation::default()), ["web.1", "web.2", "web.3", "web.4", "worker.1", "clock.1"]);
/// assert_eq!(names("web=2".parse()?), ["web.1", "web.2"]);
/// assert_eq!(names("all=1,web=2,clock=0".parse()?), ["web.1", "web.2", "worker.1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formation {
    /// What was written, or nothing if nobody wrote anything.
    written: Option<BTreeMap<String, u32>>,
}

/// One process of a formation: `web.1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessName {
    /// The entry of the Procfile.
    pub entry: String,
    /// Which of the entry's processes it is, from 1.
    pub number: u32,
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.entry, self.number)
    }
}

impl Formation {
    /// The processes this formation starts, in the order of the Procfile.
    ///
    /// # Errors
    /// The formation names an entry that the Procfile does not have, starts nothing, or more than 500 processes.
    pub fn processes(&self, procfile: &Procfile) -> Result<Vec<ProcessName>, FormationError> {
        let known = |name: &str| name == ALL || procfile.command(name).is_some();
        if let Some(name) = self.written.iter().flat_map(BTreeMap::keys).find(|name| !known(name)) {
            return Err(unknown(name, procfile));
        }
        let wanted = || procfile.entries().iter().map(|entry| (entry, self.count(&entry.name)));
        let total = wanted().fold(0u32, |sum, (_, count)| sum.saturating_add(count));
        if total == 0 {
            return Err(FormationError("the formation starts no process at all".to_owned()));
        }
        if total > MAX_PROCESSES {
            let what = format!("the formation starts {total} processes; the most is {MAX_PROCESSES}");
            return Err(FormationError(what));
        }
        let name = |entry: &str, number| ProcessName { entry: entry.to_owned(), number };
        Ok(wanted().flat_map(|(entry, count)| (1..=count).map(|n| name(&entry.name, n))).collect())
    }

    fn count(&self, entry: &str) -> u32 {
        match &self.written {
            Some(written) => written.get(entry).or_else(|| written.get(ALL)).copied().unwrap_or(0),
            None if entry == WEB => DEFAULT_WEB,
            None if entry == RELEASE => 0,
            None => 1,
        }
    }
}

fn unknown(name: &str, procfile: &Procfile) -> FormationError {
    let entries = procfile.entries().iter().map(|entry| entry.name.as_str());
    let nearest = entries.clone().map(|entry| (strsim::damerau_levenshtein(name, entry), entry)).min();
    let hint = match nearest {
        Some((distance, entry)) if distance <= 2 => format!("did you mean `{entry}`?"),
        _ => format!("it has {}", entries.collect::<Vec<_>>().join(", ")),
    };
    FormationError(format!("the Procfile has no entry `{name}`; {hint}"))
}

impl FromStr for Formation {
    type Err = FormationError;

    fn from_str(text: &str) -> Result<Self, FormationError> {
        let mut written = BTreeMap::new();
        for part in text.split(',') {
            let part = part.trim();
            let Some((name, count)) = part.split_once('=') else {
                return Err(FormationError(format!("{} is not NAME=NUMBER, like web=4", quoted(part))));
            };
            let (name, count) = (name.trim(), count.trim());
            if !is_name(name) {
                return Err(FormationError(format!("{} is no name of an entry", quoted(name))));
            }
            let count =
                count.parse::<u32>().ok().filter(|count| *count <= MAX_PROCESSES).ok_or_else(|| {
                    let found = quoted(count);
                    FormationError(format!("{name}={found}: the number is from 0 to {MAX_PROCESSES}"))
                })?;
            if written.insert(name.to_owned(), count).is_some() {
                return Err(FormationError(format!("`{name}` is there twice")));
            }
        }
        Ok(Self { written: Some(written) })
    }
}

/// A formation that cannot be understood, or does not fit the Procfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationError(String);

impl fmt::Display for FormationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FormationError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Formation>().unwrap_err().to_string()
    }

    fn misfit(formation: &str, procfile: &str) -> String {
        let formation: Formation = formation.parse().unwrap();
        formation.processes(&Procfile::parse(procfile).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_formation_that_cannot_be_read_says_what_is_wrong() {
        assert_eq!(refused("web"), "`web` is not NAME=NUMBER, like web=4");
        assert_eq!(refused("web=1,"), "`` is not NAME=NUMBER, like web=4");
        assert_eq!(refused("web=-1"), "web=`-1`: the number is from 0 to 500");
        assert_eq!(refused("web=99999999999"), "web=`99999999999`: the number is from 0 to 500");
        assert_eq!(refused("web=1,web=2"), "`web` is there twice");
        assert_eq!(refused("w b=1"), "`w b` is no name of an entry");
    }

    #[test]
    fn a_formation_that_does_not_fit_the_procfile_is_refused() {
        let procfile = "web: puma\nworker: sidekiq";
        assert_eq!(misfit("wbe=1", procfile), "the Procfile has no entry `wbe`; did you mean `web`?");
        assert_eq!(misfit("clock=1", procfile), "the Procfile has no entry `clock`; it has web, worker");
        assert_eq!(misfit("web=0", procfile), "the formation starts no process at all");
        assert_eq!(misfit("all=300", procfile), "the formation starts 600 processes; the most is 500");
    }

    #[test]
    fn the_release_entry_is_not_started_unless_it_is_named() {
        let procfile = Procfile::parse("release: migrate\nweb: puma").unwrap();
        let names = |formation: Formation| formation.processes(&procfile).unwrap().len();
        assert_eq!(names(Formation::default()), 4);
        assert_eq!(names("web=1,release=1".parse().unwrap()), 2);
    }
}
