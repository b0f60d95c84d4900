#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("peer_stream"), |input: &[u8]| fuzz_targets::run("peer_stream", input));
