#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("logged_operations"), |input: &[u8]| fuzz_targets::run("logged_operations", input));
