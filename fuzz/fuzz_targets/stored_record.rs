#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("stored_record"), |input: &[u8]| fuzz_targets::run("stored_record", input));
