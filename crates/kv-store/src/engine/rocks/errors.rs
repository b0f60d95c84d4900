//! Classifies RocksDB's errors: damage, lack of space or of file descriptors, or other faults.

use std::path::Path;

use kv_api::KvError;
use rocksdb::{Error, ErrorKind};

/// Classifies an error of an open database.
pub(super) fn storage_error(path: &Path, error: &Error) -> KvError {
    classify(error, format!("database in {}: {error}", path.display()))
}

/// Classifies an error of opening a database.
pub(super) fn open_error(path: &Path, error: &Error) -> KvError {
    let text = format!("cannot open the database in {}: {error}", path.display());
    // RocksDB requires what is named here only where rows were written before: see
    // `RocksEngine::open`.
    let is_incomplete = ["does not exist (create_if_missing is false)", "Column family not found"];
    match error.kind() {
        ErrorKind::InvalidArgument if is_incomplete.iter().any(|missing| text.contains(missing)) => {
            KvError::Corruption(text)
        }
        _ => classify(error, text),
    }
}

fn classify(error: &Error, text: String) -> KvError {
    let message: &str = error.as_ref();
    let misses_own_file = message.contains("No such file or directory")
        && [".sst", "MANIFEST", "CURRENT"].iter().any(|file| message.contains(file));
    match error.kind() {
        ErrorKind::Corruption => KvError::Corruption(text),
        ErrorKind::IOError if misses_own_file => KvError::Corruption(text),
        ErrorKind::IOError if message.contains("No space left on device") => KvError::StorageFull(text),
        // Of this process (EMFILE), or of the system (ENFILE, whose text continues with `in
        // system`).
        ErrorKind::IOError if message.contains("Too many open files") => KvError::Overloaded(text),
        _ => KvError::Storage(text),
    }
}
