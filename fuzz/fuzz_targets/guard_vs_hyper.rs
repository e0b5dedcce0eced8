//! libFuzzer's entry to `router_fuzz::guard_vs_hyper`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::guard_vs_hyper::run(data));
