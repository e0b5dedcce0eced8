//! libFuzzer's entry to `router_fuzz::config_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::config_file::run(data));
