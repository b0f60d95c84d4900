//! The fuzz targets, as plain functions over bytes.
//!
//! Two things call them: the fuzzers in `fuzz/`, which libFuzzer guides by coverage, and the test `replay` of this crate,
//! which runs the seeds, the collected corpus, all inputs that once failed, and random mutations of these on any stable
//! toolchain. See `scripts/fuzz.sh`.
//!
//! A target takes any bytes. It may panic only when the product is wrong, and ignores bytes that it
//! cannot use. A target depends on nothing but its input, so an input that failed once fails again.
//!
//! Linking this crate puts a counting allocator under the whole program: [`Target::run`] fails when a target holds more
//! memory at once than an input of that length justifies. That is how "no declared size allocates" is tested.

mod input;
mod mutation;
mod opening;
mod operations;
mod peers;
mod records;
mod rows;
mod sample_calls;
mod thrift;
mod tokens;
mod wal;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{env, fs, io};

use peak_alloc::PeakAlloc;

pub use input::Input;
pub use mutation::Mutator;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A log may have lost a few million entries, and whoever loads it learns that of each.
const WAL_BYTES: usize = 300 << 20;

/// Runs are measured, so only one is under way at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One thing that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// That of the fuzzer and of its folder in the corpus.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    /// The memory that it may hold at once for an empty input.
    base_bytes: usize,
    /// The memory that it may hold in addition for each byte of input.
    bytes_per_byte: usize,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "thrift_stream",
        run: thrift::stream,
        seeds: thrift::seeds,
        base_bytes: 1 << 20,
        bytes_per_byte: 200,
    },
    Target { name: "opening", run: opening::any, seeds: opening::seeds, base_bytes: 1 << 20, bytes_per_byte: 200 },
    Target {
        name: "authenticate",
        run: tokens::authenticate,
        seeds: tokens::seeds,
        base_bytes: 1 << 20,
        bytes_per_byte: 200,
    },
    Target {
        name: "peer_stream",
        run: peers::stream,
        seeds: peers::stream_seeds,
        base_bytes: 4 << 20,
        bytes_per_byte: 50,
    },
    Target {
        name: "peer_message",
        run: peers::message,
        seeds: peers::message_seeds,
        base_bytes: 1 << 20,
        bytes_per_byte: 200,
    },
    Target {
        name: "stored_record",
        run: records::any,
        seeds: records::seeds,
        base_bytes: 1 << 20,
        bytes_per_byte: 400,
    },
    Target { name: "row_key", run: rows::key, seeds: rows::seeds, base_bytes: 1 << 20, bytes_per_byte: 50 },
    Target {
        name: "logged_operations",
        run: operations::apply,
        seeds: operations::seeds,
        base_bytes: 4 << 20,
        bytes_per_byte: 2000,
    },
    Target {
        name: "wal_files",
        run: wal::any_files,
        seeds: wal::file_seeds,
        base_bytes: WAL_BYTES,
        bytes_per_byte: 1000,
    },
    Target {
        name: "wal_damage",
        run: wal::damaged_log,
        seeds: wal::damage_seeds,
        base_bytes: WAL_BYTES,
        bytes_per_byte: 1000,
    },
];

impl Target {
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Inputs made from real messages, records and logs.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    pub fn write_seeds(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut numbered = (0..).zip(self.seeds());
        numbered.try_for_each(|(number, seed): (u32, _)| fs::write(folder.join(format!("seed-{number}")), seed))
    }

    /// # Panics
    /// When the product does something wrong with `input`.
    pub fn run(&self, input: &[u8]) {
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        ALLOCATOR.reset_peak_usage();
        let before = ALLOCATOR.current_usage();
        (self.run)(input);
        let held = ALLOCATOR.peak_usage().saturating_sub(before);
        let allowed = self.base_bytes + self.bytes_per_byte * input.len();
        assert!(held <= allowed, "{} bytes of input made it hold {held} bytes, more than {allowed}", input.len());
    }
}

/// Where a fuzzer writes its seeds before it begins, if anywhere.
const SEED_FOLDER: &str = "FUZZ_SEED_FOLDER";

/// Called by a fuzzer before its first input: writes the seeds of the target of that name where the environment says.
///
/// # Panics
/// When there is no such target, and when they cannot be written.
pub fn begin(name: &str) {
    let target = Target::named(name).unwrap_or_else(|| panic!("there is no target {name}"));
    if let Some(folder) = env::var_os(SEED_FOLDER) {
        target.write_seeds(Path::new(&folder)).expect("the folder for the seeds can be written to");
    }
}

/// Runs the target of that name: all that a fuzzer has to do with an input.
///
/// # Panics
/// As [`Target::run`], and when there is no such target.
pub fn run(name: &str, input: &[u8]) {
    Target::named(name).unwrap_or_else(|| panic!("there is no target {name}")).run(input);
}
