//! libFuzzer's entry to `router_fuzz::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::proxy_header::run(data));
