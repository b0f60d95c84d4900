#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz_targets::begin("wal_files"), |input: &[u8]| fuzz_targets::run("wal_files", input));
