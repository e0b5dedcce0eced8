//! libFuzzer's entry to `router_fuzz::host_route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::host_route::run(data));
