//! What is known of a replica whose log is refused: the log's newest record may be missing, so neither
//! a server nor a recovery can go on with it.

use std::fmt::Write as _;
use std::fs;

use kv_store::StoredRecords;
use rsml::{ReplicatedState, Sequence};

use super::directory::StoppedDirectory;
use super::error::RecoverError;
use crate::replication::generation_of;

/// Says what is wrong with the log of replica `id`, what is there besides, and what can be done.
/// `path` is the file, and `reason` what was found in it.
pub(super) fn refused(directory: &StoppedDirectory, id: u32, path: &str, reason: &str) -> RecoverError {
    let (root, mut text) = (directory.root().display(), String::new());
    let _ = write!(
        text,
        "the log of replica {id} is damaged, and refused: {path}: {reason}\n\n\
         A newer record may have been there: a promise to vote, or entries that were acknowledged. So no server starts on \
         this log, and no plan keeps it.\n\n\
         There is:\n- {}\n",
        files(directory, id)
    );
    let databases = databases(directory, id);
    for line in &databases {
        let _ = writeln!(text, "- {line}");
    }
    if databases.is_empty() {
        let _ = writeln!(text, "- no database");
    }
    let _ = write!(
        text,
        "\nWhat to do:\n\
         - if a majority of the voters runs without it: remove {root}, and start its server with an empty directory; it gets \
         a copy, and votes again by itself\n\
         - if there are other survivors: inspect them, and make the plan without this one\n\
         - if it is the only one: keep the directory as it is, put {path} back as it was when the server last ran (from an \
         image of the disk, or from the old disk), and inspect again. To found a cluster on the database alone is not \
         supported yet; the rows of a backup can be restored into a new cluster"
    );
    RecoverError::Refused(text)
}

fn files(directory: &StoppedDirectory, id: u32) -> String {
    let log = directory.log(id);
    let Ok(entries) = fs::read_dir(&log) else { return format!("no log in {}", log.display()) };
    let mut files: Vec<(String, u64)> = entries
        .filter_map(Result::ok)
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_or(0, |found| found.len()))
        })
        .filter(|(name, _)| name.ends_with(".wal"))
        .collect();
    files.sort();
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    match (files.first(), files.last()) {
        (Some((first, _)), Some((last, _))) => {
            let count = files.len();
            format!("the log's files in {}: {first} to {last}, {count} in all, {bytes} bytes", log.display())
        }
        _ => format!("no log in {}", log.display()),
    }
}

/// The log says which database is the live one, so all of them are named.
fn databases(directory: &StoppedDirectory, id: u32) -> Vec<String> {
    let names = fs::read_dir(directory.replica(id)).into_iter().flatten().filter_map(Result::ok);
    let mut generations: Vec<u64> =
        names.filter_map(|entry| generation_of(entry.file_name().to_string_lossy().as_ref())).collect();
    generations.sort_unstable();
    generations.into_iter().map(|generation| database(directory, id, generation)).collect()
}

fn database(directory: &StoppedDirectory, id: u32, generation: u64) -> String {
    let path = directory.database(id, generation);
    let records = match StoredRecords::read(&path) {
        Ok(records) => records,
        Err(error) => return format!("the database {}, which cannot be read: {error}", path.display()),
    };
    let state = records.state.as_ref().and_then(|state| ReplicatedState::from_bytes(&state.blob));
    let applied = state.map_or(Sequence::ZERO, |state| state.sequence);
    format!(
        "the database {}, with everything through entry {applied}: version {}, {} rows",
        path.display(),
        records.version.0,
        records.rows
    )
}
