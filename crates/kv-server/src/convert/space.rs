//! The space that a conversion takes.
//!
//! The old form and the new one share the files of the database as hard links, so a conversion takes
//! hardly any space. That depends on the file system: the engine copies the files where links are
//! not possible between the two places, and fails where the file system has none at all. So it is
//! tried out beforehand, with a link that is removed at once.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use rustix::io::Errno;

use super::checks::check;
use super::{Check, ConvertError, failed_to};
use crate::data_dir::IDENTITY_FILE;

/// The link that is tried out. A leftover of a killed process is replaced.
const PROBE: &str = "convert.probe";
/// Where in a replica's directory its log is. All else may be the database.
const LOG: &str = "wal";

/// How the new form gets the files of the database.
#[derive(Debug, PartialEq, Eq)]
enum Sharing {
    /// Both forms share them.
    Links,
    /// The engine copies them.
    Copies,
    /// The engine cannot make a second database there.
    Neither(String),
}

/// There is space for `needed` bytes in `root`, and for the database in `old` if its files cannot be
/// shared.
pub(super) fn has_space(root: &Path, old: &Path, needed: u64) -> Result<Check, ConvertError> {
    let found =
        rustix::fs::statvfs(root).map_err(|error| failed_to("ask for the free space of", root)(error.into()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    // Another check says what is wrong with a directory that is none.
    let is_directory = fs::symlink_metadata(old).is_ok_and(|found| found.is_dir());
    let sharing = if is_directory { sharing_after(try_link(root, old)) } else { Sharing::Links };
    let database = if sharing == Sharing::Copies { database_bytes(old)? } else { 0 };
    Ok(judge(root, &sharing, free, needed, database))
}

fn judge(root: &Path, sharing: &Sharing, free: u64, needed: u64, database: u64) -> Check {
    let (total, root) = (needed.saturating_add(database), root.display());
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if let Sharing::Neither(reason) = sharing {
        return check(format!("files in {root} can be shared as hard links, or copied"), false, || {
            format!(
                "the file system of {root} has no hard links ({reason}), and the engine cannot make a second database of \
                 the same files there: move the data directory to a file system that has them (ext4, XFS, Btrfs), and \
                 convert it there"
            )
        });
    }
    check(format!("{} MiB are free in {root}", mib(total)), free >= total, || {
        let copied = match sharing {
            Sharing::Copies => {
                format!(
                    " ({} of them because the database cannot be shared as hard links, and is copied)",
                    mib(database)
                )
            }
            _ => String::new(),
        };
        format!("only {} MiB are free in {root}, and {} are needed{copied}: make space", free >> 20, mib(total))
    })
}

/// Links a small file of `root` into `old`, and removes the link: that is the way that the files of
/// the database take, in the other direction.
fn try_link(root: &Path, old: &Path) -> io::Result<()> {
    let probe = old.join(PROBE);
    let link = || fs::hard_link(root.join(IDENTITY_FILE), &probe);
    let made = match link() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => fs::remove_file(&probe).and_then(|()| link()),
        made => made,
    };
    made.and_then(|()| fs::remove_file(&probe))
}

/// The engine's rule: it copies if links lead to another file system or are not supported, and any
/// other error is final.
fn sharing_after(tried: io::Result<()>) -> Sharing {
    match tried {
        Ok(()) => Sharing::Links,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::XDEV | Errno::OPNOTSUPP) => Sharing::Copies,
            _ => Sharing::Neither(error.to_string()),
        },
    }
}

/// The size of all that may be copied.
fn database_bytes(directory: &Path) -> Result<u64, ConvertError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(failed_to("read", directory))? {
        let path = entry.map_err(failed_to("read", directory))?.path();
        let found = fs::symlink_metadata(&path).map_err(failed_to("read", &path))?;
        bytes += match found.is_dir() {
            true if path.ends_with(LOG) => 0,
            true => database_bytes(&path)?,
            false => found.len(),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(error: Errno) -> Sharing {
        sharing_after(Err(error.into()))
    }

    #[test]
    fn files_are_shared_copied_or_neither_as_the_engine_decides() {
        assert_eq!(sharing_after(Ok(())), Sharing::Links);
        assert_eq!(of(Errno::XDEV), Sharing::Copies);
        assert_eq!(of(Errno::NOTSUP), Sharing::Copies);
        assert!(matches!(of(Errno::PERM), Sharing::Neither(reason) if reason.contains("not permitted")));
    }

    #[test]
    fn space_for_the_database_is_needed_only_if_it_is_copied() {
        let obstacle = |sharing: &Sharing, free| judge(Path::new("d"), sharing, free, 100 * MIB, 900 * MIB).obstacle;
        // The size is asked for only where it counts.
        let shared = |free| judge(Path::new("d"), &Sharing::Links, free, 100 * MIB, 0).obstacle;
        assert_eq!(shared(100 * MIB), None);
        assert!(shared(100 * MIB - 1).expect("too little").contains("99 MiB are free in d, and 100 are needed: make"));
        assert_eq!(obstacle(&Sharing::Copies, 1000 * MIB), None);
        let refused = obstacle(&Sharing::Copies, 999 * MIB).expect("too little");
        assert!(refused.contains("1000 are needed (900 of them because the database cannot be shared"), "{refused}");
        let refused = obstacle(&Sharing::Neither("EPERM".into()), u64::MAX).expect("impossible");
        assert!(refused.contains("has no hard links (EPERM)"), "{refused}");
    }

    #[test]
    fn a_link_is_tried_out_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, old) = (folder.path(), folder.path().join("replica-0"));
        fs::create_dir_all(old.join("db").join("deep")).expect("created");
        fs::create_dir(old.join(LOG)).expect("created");
        for (name, bytes) in [("db/1.sst", 700), ("db/deep/2.sst", 50), ("wal/1.wal", 9000)] {
            fs::write(old.join(name), vec![7; bytes]).expect("written");
        }
        assert_eq!(database_bytes(&old).expect("read"), 750);
        assert!(try_link(root, &old).is_err(), "there is nothing to link");
        fs::write(root.join(IDENTITY_FILE), "{}").expect("written");
        fs::write(old.join(PROBE), "of a killed process").expect("written");
        try_link(root, &old).expect("linked");
        assert!(!old.join(PROBE).exists());
        // Another file system.
        #[cfg(target_os = "linux")]
        if let Ok(other) = tempfile::tempdir_in("/dev/shm") {
            use std::os::unix::fs::MetadataExt;
            let device = |path: &Path| fs::metadata(path).expect("it is there").dev();
            if device(other.path()) != device(root) {
                assert_eq!(sharing_after(try_link(root, other.path())), Sharing::Copies);
            }
        }
    }
}
