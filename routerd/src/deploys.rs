//! Deploys of the daemon: what was decided, what runs, and what was counted. The rules are in `policy::deploy`.

pub mod book;
pub mod counts;
pub mod run;
