#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("opening"), |input: &[u8]| fuzz_targets::run("opening", input));
