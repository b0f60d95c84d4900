//! Every target on its seeds, on the corpus, on all inputs that once failed, and on random mutations of these.
//!
//! A failure writes the input to a file and prints the command that runs it again.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

use fuzz_targets::{Mutator, Target};

const DEFAULT_MUTATIONS: usize = 2000;

fn setting(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// All files of `fuzz/KIND/TARGET`.
fn stored(kind: &str, target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(target);
    let Ok(listing) = fs::read_dir(&folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = listing.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a readable file")).collect()
}

fn run(target: &Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target.run(input))).is_ok() {
        return;
    }
    let file = env::temp_dir().join(format!("failed-{}", target.name));
    fs::write(&file, input).expect("the input can be kept");
    let (name, file) = (target.name, file.display());
    panic!("{name} failed. Again: cargo run -p fuzz-targets --release -- run {name} {file}");
}

fn replay(name: &str) {
    let target = Target::named(name).expect("a target of this name");
    let mut inputs = target.seeds();
    inputs.extend(stored("corpus", name));
    inputs.extend(stored("regressions", name));
    inputs.iter().for_each(|input| run(target, input));
    let seed = setting("FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(name) >> 1);
    let count = setting("FUZZ_MUTATIONS").map_or(DEFAULT_MUTATIONS, |count| count as usize);
    println!(
        "{name}: {} inputs, then {count} mutations. Again: FUZZ_SEED={seed} cargo test -p fuzz-targets {name}",
        inputs.len()
    );
    let mut mutator = Mutator::new(seed);
    for _ in 0..count {
        run(target, &mutator.mutated(&inputs));
    }
}

macro_rules! replay {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = fuzz_targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replay! { thrift_stream opening authenticate peer_stream peer_message stored_record row_key logged_operations wal_files wal_damage }
