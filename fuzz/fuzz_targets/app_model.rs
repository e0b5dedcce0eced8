//! libFuzzer's entry to `router_fuzz::app_model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::app_model::run(data));
