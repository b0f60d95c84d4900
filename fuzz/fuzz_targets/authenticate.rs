#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("authenticate"), |input: &[u8]| fuzz_targets::run("authenticate", input));
