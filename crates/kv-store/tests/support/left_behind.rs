//! The files of an open RocksDB database as a killed process would leave them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Copies the files. The database's background work may add and remove files meanwhile; then the
/// copy is of no single moment, and is made again.
pub fn copy(from: &Path, to: &Path) {
    loop {
        let before = lengths(from);
        let copy_file = |name: &PathBuf| {
            let target = to.join(name);
            fs::create_dir_all(target.parent().expect("it lies in the folder"))?;
            fs::copy(from.join(name), target).map(drop)
        };
        let copied = before.keys().try_for_each(copy_file);
        if let Err(error) = &copied {
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        }
        if copied.is_ok() && lengths(from) == before {
            return;
        }
        before.keys().for_each(|name| drop(fs::remove_file(to.join(name))));
    }
}

/// Names and lengths of the files that matter, those of the change journal's folder included.
fn lengths(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let matters = |name: &[u8]| name != b"LOCK" && !name.starts_with(b"LOG");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = PathBuf::from(entry.file_name());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(lengths(&entry.path()).into_iter().map(|(inner, length)| (name.join(inner), length)));
        } else if matters(entry.file_name().as_encoded_bytes()) {
            // A file that is gone by now makes the comparison fail.
            found.insert(name, entry.metadata().map_or(u64::MAX, |file| file.len()));
        }
    }
    found
}
