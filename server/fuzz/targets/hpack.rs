#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| server_fuzz::run(server_http2::fuzzing::hpack, data));
