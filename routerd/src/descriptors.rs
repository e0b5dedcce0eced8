//! How many files this process may have open, and how many of them clients may take: the rest is kept for dynos, so
//! that those who are let in can be served. Where bodies go to disk, they get as many as clients do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, DynoSource};

/// What listeners, files, name servers and the runtime need.
const OURS: u64 = 64;
/// What is kept for the dynos of a name that has not been looked up.
const A_NAME: u64 = 16;

/// Raises the number of files that this process may have open as far as it may. Programs that it starts get the same.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!("the limit on open files cannot be raised: {error}");
    }
}

/// Says so when clients cannot have as many connections as the configuration lets them.
pub fn warn(config: &Config) {
    let (most, wanted) = (for_clients(config), config.server.max_connections);
    if most < wanted {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        tracing::warn!(
            "server.max_connections is {wanted}, but this process may open {limit} files, and dynos need some: clients \
             get {most} connections. Raise the limit on open files (LimitNOFILE, ulimit -n)"
        );
    }
}

/// How many connections clients may have.
pub(crate) fn for_clients(config: &Config) -> usize {
    config.server.max_connections.min(usize::try_from(of_strangers(config)).unwrap_or(usize::MAX))
}

/// How many bodies may be on disk.
pub(crate) fn for_bodies(config: &Config) -> u64 {
    if config.needs_disk() { of_strangers(config) } else { 0 }
}

fn of_strangers(config: &Config) -> u64 {
    let limit = getrlimit(Resource::Nofile).current;
    let most = limit.map_or(u64::MAX, |limit| share(limit, for_dynos(config)));
    if config.needs_disk() { (most / 2).max(1) } else { most }
}

fn for_dynos(config: &Config) -> u64 {
    let sources = config.apps.iter().flat_map(|app| &app.dynos);
    // A deploy has both releases for a while.
    sources.map(|source| if matches!(source, DynoSource::Address(_)) { 2 } else { A_NAME }).sum()
}

/// However many dynos there are, a quarter is for clients.
fn share(limit: u64, dynos: u64) -> u64 {
    limit.saturating_sub(OURS + dynos).max(limit / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynos_keep_theirs_and_clients_have_some() {
        assert_eq!(share(1024, 100), 860);
        assert_eq!(share(1024, 100_000), 256);
        assert_eq!(share(64, 2), 16);
        assert_eq!(share(0, 0), 1);
    }
}
