//! libFuzzer's entry to `router_fuzz::dns_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| router_fuzz::dns_records::run(data));
