//! Reads and verifies segments.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use kv_api::Change;
use time::OffsetDateTime;

use super::chain::{Archive, SHORT_HASH, Segment};
use super::segment::{self, SegmentInfo};
use crate::seal::Keys;
use crate::{BackupError, Depth, Entry, Finding, Target};

/// Segments that are read at a time. Each has some megabytes, unless a transaction was larger.
const READS: usize = 4;

/// A segment that was read, and compared with its name.
pub(super) struct Fetched {
    pub name: String,
    pub info: SegmentInfo,
    /// BLAKE3 of all of it.
    pub hash: String,
    header: Bytes,
    rest: Bytes,
}

/// Reads a segment. One that differs from its name is read once more, in case it was changed on the
/// way.
pub(super) async fn fetch(target: &Target, segment: &Segment) -> Result<Fetched, BackupError> {
    let name = segment.name();
    let shown = format!("{target}/{name}");
    let mut hash = String::new();
    for _ in 0..2 {
        let mut object = target.get(&name).await?;
        hash = blake3::hash(&object).to_hex().to_string();
        if hash[..SHORT_HASH] != segment.hash {
            continue;
        }
        let (info, header) = segment::header(&shown, &mut object)?;
        let previous = info.previous.as_deref().and_then(|hash| hash.get(..SHORT_HASH));
        if (info.first, info.last, previous) != (segment.first, segment.last, segment.previous.as_deref()) {
            return Err(BackupError::damaged(&shown, "its name and its header differ"));
        }
        return Ok(Fetched { name: shown, info, hash, header, rest: object });
    }
    Err(BackupError::damaged(shown, format!("it was changed: its BLAKE3 hash begins with {}", &hash[..SHORT_HASH])))
}

impl Fetched {
    /// Visits its changes, with the times at which they were made. Blocks.
    pub fn changes<E: From<BackupError>>(
        self,
        keys: &Keys,
        visit: impl FnMut(Change, OffsetDateTime) -> Result<(), E>,
    ) -> Result<(), E> {
        let key = segment::unlock(&self.info, keys)?;
        segment::changes(&self.name, &(self.info, self.header), self.rest, key.as_ref(), visit)
    }
}

/// Segments one after the other; some are on their way while one is used. Each is compared with the
/// hash that the next one names.
pub(super) fn linked(target: &Target, segments: &[Segment]) -> impl Stream<Item = Result<Fetched, BackupError>> {
    let fetched = stream::iter(segments).map(|segment| fetch(target, segment)).buffered(READS);
    let check = |before: &mut Option<(u64, String)>, segment: Result<Fetched, BackupError>| {
        let checked = segment.and_then(|segment| {
            if let Some((last, hash)) = before.replace((segment.info.last, segment.hash.clone())) {
                check_link(&segment, last, &hash)?;
            }
            Ok(segment)
        });
        std::future::ready(Some(checked))
    };
    fetched.scan(None, check)
}

fn check_link(segment: &Fetched, last: u64, hash: &str) -> Result<(), BackupError> {
    if segment.info.first != last + 1 || segment.info.previous.as_deref() != Some(hash) {
        return Err(BackupError::damaged(&segment.name, "it does not follow the segment before it"));
    }
    Ok(())
}

/// The result of the verification of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveVerified {
    /// Segments that are as they should be.
    pub segments: usize,
    /// Versions with changes in them, as far as they were read.
    pub changes: u64,
    /// Whether changes were not read for lack of a key.
    pub is_locked: bool,
    /// Everything that is damaged or missing.
    pub findings: Vec<Finding>,
}

/// Checks the archive that belongs to the backups `entries`: that no segment is missing, and with
/// [`Depth::Full`] that each is what was stored, follows the one before, and can be read. `progress`
/// gets the bytes of each segment.
///
/// # Errors
/// The store fails. Damage is in the result.
pub async fn verify_archive(
    target: &Target,
    entries: &[Entry],
    depth: Depth,
    keys: &Keys,
    mut progress: impl FnMut(u64),
) -> Result<ArchiveVerified, BackupError> {
    let archive = Archive::load(target).await?;
    let mut verified = ArchiveVerified { findings: holes(target, entries, &archive), ..ArchiveVerified::default() };
    for chain in &archive.chains {
        let mut fetched = stream::iter(&chain.segments).map(|segment| check(target, segment, depth)).buffered(READS);
        let mut before: Option<(u64, String)> = None;
        for segment in &chain.segments {
            let checked = fetched.next().await.expect("there is a result for each segment");
            let checked = checked.and_then(|found| {
                let Some(found) = found else { return Ok(()) };
                if let Some((last, hash)) = before.replace((found.info.last, found.hash.clone())) {
                    check_link(&found, last, &hash)?;
                }
                if found.info.encryption.is_some() && keys.is_empty() {
                    verified.is_locked = true;
                    return Ok(());
                }
                found.changes(keys, |_, _| {
                    verified.changes += 1;
                    Ok::<(), BackupError>(())
                })
            });
            match checked {
                Ok(()) => verified.segments += 1,
                Err(BackupError::Damaged { object, reason }) => {
                    before = None;
                    verified.findings.push(Finding { object, reason });
                }
                Err(error) => return Err(error),
            }
            progress(segment.bytes);
        }
    }
    Ok(verified)
}

async fn check(target: &Target, segment: &Segment, depth: Depth) -> Result<Option<Fetched>, BackupError> {
    match depth {
        // It was in the list.
        Depth::Quick => Ok(None),
        Depth::Full => fetch(target, segment).await.map(Some),
    }
}

/// Chains whose beginning is missing although a backup that is older needs it: `prune` removes only
/// what no backup needs.
fn holes(target: &Target, entries: &[Entry], archive: &Archive) -> Vec<Finding> {
    let complete = entries.iter().filter_map(Entry::complete);
    let oldest = complete.filter(|summary| !summary.is_partial).map(|summary| summary.version).min();
    let lost = archive.chains.iter().filter_map(|chain| {
        let missing = chain.missing()?;
        oldest.is_none_or(|oldest| oldest < chain.base()).then(|| Finding {
            object: format!("{target}/{}", chain.segments[0].name()),
            reason: format!(
                "the segment that it follows, with the last version {} and a hash that begins with {missing}, is missing",
                chain.base()
            ),
        })
    });
    lost.collect()
}
