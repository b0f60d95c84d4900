//! The files of an open RocksDB database as a killed process would leave them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::{fs, io};

/// Copies the files. The database's background work may add and remove files meanwhile; then the
/// copy is of no single moment, and is made again.
pub fn copy(from: &Path, to: &Path) {
    loop {
        let before = lengths(from);
        let copied = before.keys().try_for_each(|name| fs::copy(from.join(name), to.join(name)).map(drop));
        if let Err(error) = &copied {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        if copied.is_ok() && lengths(from) == before {
            return;
        }
        before.keys().for_each(|name| drop(fs::remove_file(to.join(name))));
    }
}

/// Names and lengths of the files that matter.
fn lengths(folder: &Path) -> BTreeMap<OsString, u64> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let matters = |name: &OsString| name != "LOCK" && !name.as_encoded_bytes().starts_with(b"LOG");
    entries
        .filter(|entry| matters(&entry.file_name()))
        // A file that is gone by now makes the comparison fail.
        .map(|entry| (entry.file_name(), entry.metadata().map_or(u64::MAX, |file| file.len())))
        .collect()
}
