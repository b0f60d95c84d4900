//! `--version`, and with `--verbose` everything that tells one build from another.

use kv_server::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of RocksDB that Cargo.lock chooses; a test compares them. A library that was built
/// before (`ROCKSDB_LIB_DIR`) must be of the same version.
const ROCKSDB: &str = "11.8.1";

/// The commit, if the script that built the program named it.
const COMMIT: Option<&str> = option_env!("SYNODKV_COMMIT");

/// The lines of `--version --verbose`.
pub fn verbose() -> String {
    let engine = if cfg!(feature = "rocksdb") { ROCKSDB } else { "none: built without it" };
    format!(
        "synodkv {VERSION}\n\
         commit         {}\n\
         feature levels {LOWEST_LEVEL} to {HIGHEST_LEVEL}\n\
         RocksDB        {engine}\n\
         features       {}\n\
         target         {}-{}{}\n",
        COMMIT.unwrap_or("unknown: not built for a package"),
        if cfg!(feature = "rocksdb") { "rocksdb" } else { "none" },
        std::env::consts::ARCH,
        std::env::consts::OS,
        if cfg!(target_env = "gnu") { "-gnu" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_rocksdb_is_that_of_the_lock_file() {
        let lock =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).expect("a lock file");
        let (_, package) = lock.split_once("name = \"librocksdb-sys\"\n").expect("it is a dependency");
        let version = package.lines().next().and_then(|line| line.split('"').nth(1)).expect("a version");
        assert_eq!(version.split_once('+').map(|(_, rocksdb)| rocksdb), Some(ROCKSDB), "{version}");
    }

    #[test]
    fn the_verbose_version_names_levels_and_engine() {
        let text = verbose();
        assert!(text.starts_with(&format!("synodkv {VERSION}\n")), "{text}");
        assert!(text.contains(&format!("feature levels {LOWEST_LEVEL} to {HIGHEST_LEVEL}")), "{text}");
    }
}
