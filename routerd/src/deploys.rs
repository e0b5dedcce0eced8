//! Deploys of the daemon: what was decided, what runs, and what was counted. The rules are in `policy::deploy`.

pub(crate) mod book;
pub(crate) mod counts;
pub(crate) mod grown;
pub(crate) mod run;
