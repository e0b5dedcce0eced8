//! The program as its users call it.

use std::process::{Command, Output};

/// Where it is.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_dyno-bench");

/// Calls it and waits for its end.
pub(crate) fn bench(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// What it wrote with `--json -`.
pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
