//! Fuzz targets for what strangers send, one function of bytes each: `fn run(data: &[u8])` that panics on a bug.
//!
//! # Replay
//!
//! `cargo test -p router-fuzz` runs every target over its corpus (`fuzz/corpus/NAME`) and over pseudo-random inputs
//! made from it, on a stable compiler. `FUZZ_INPUTS=1000000` makes more of them than the usual 2000.
//!
//! # The real fuzzer
//!
//! libFuzzer comes with the feature `libfuzzer` and needs a C++ compiler. With cargo-fuzz and a nightly compiler:
//! `cargo fuzz run app_model --features libfuzzer`. Without either, on stable:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!     -Ccodegen-units=1 -Cdebug-assertions" \
//!   cargo build -p router-fuzz --features libfuzzer --release --target x86_64-unknown-linux-gnu \
//!     --target-dir target/fuzz
//! target/fuzz/x86_64-unknown-linux-gnu/release/app_model fuzz/corpus/app_model -max_total_time=60
//! ```
//!
//! The `--target` keeps the flags off build scripts. What the fuzzer finds goes into the corpus as a file of its own.
//!
//! # A new target
//!
//! 1. `src/NAME.rs` with `pub fn run(data: &[u8])`, its `pub mod NAME;` and its line in [`TARGETS`] here;
//! 2. `fuzz_targets/NAME.rs`, three lines as in its neighbours, and its `[[bin]]` in `Cargo.toml`;
//! 3. a few inputs in `corpus/NAME/`. The replay test fails while one of these is missing.

pub mod app_model;

pub mod config_file;

pub mod dns_records;

pub mod guard_vs_hyper;

pub mod host_route;

pub mod proxy_header;

pub mod request_head;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("app_model", app_model::run),
    ("config_file", config_file::run),
    ("dns_records", dns_records::run),
    ("guard_vs_hyper", guard_vs_hyper::run),
    ("host_route", host_route::run),
    ("proxy_header", proxy_header::run),
    ("request_head", request_head::run),
];
