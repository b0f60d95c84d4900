#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("row_key"), |input: &[u8]| fuzz_targets::run("row_key", input));
