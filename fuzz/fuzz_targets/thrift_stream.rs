#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("thrift_stream"), |input: &[u8]| fuzz_targets::run("thrift_stream", input));
