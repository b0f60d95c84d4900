//! Removes old backups, and what failed ones have left.
//!
//! Invariants:
//! - the newest complete backup is never removed. The manifest of a backup goes first, so that one
//!   which was removed in part is not taken for a backup;
//! - of the archive, only segments go that end before every backup that stays, so all that can be
//!   restored from those stays; and never the newest one, which the next one follows.

use std::time::Duration;

use time::OffsetDateTime;

use crate::archive::{Archive, Segment};
use crate::manifest::{FULL, MANIFEST};
use crate::reader::Entry;
use crate::verify::{Depth, verify};
use crate::{BackupError, Target, list, open};

/// A folder without a manifest may be a backup that is under way; after this long it is not.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// A backup that stays, and why.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its folder.
    pub folder: String,
    /// Why it stays.
    pub reason: String,
}

/// A folder to remove.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The folder.
    pub folder: String,
    /// Bytes of its objects.
    pub bytes: u64,
    /// Why it goes.
    pub reason: String,
}

/// The effects of a prune.
#[derive(Clone, Debug, Default)]
pub struct PrunePlan {
    /// Folders that stay.
    pub kept: Vec<Kept>,
    /// Folders that are removed.
    pub removed: Vec<Pruned>,
    /// Segments of the archive that are removed, in their order.
    pub segments: Vec<Segment>,
}

impl PrunePlan {
    /// Bytes of everything that is removed.
    pub fn bytes(&self) -> u64 {
        let folders = self.removed.iter().map(|pruned| pruned.bytes);
        folders.chain(self.segments.iter().map(|segment| segment.bytes)).sum()
    }
}

/// Finds what is older than `keep` at the time `now`. Removes nothing.
///
/// # Errors
/// The newest backup misses objects, and `force` was not given: the older ones may be needed. Or
/// the store fails.
pub async fn plan_prune(
    target: &Target,
    keep: Duration,
    now: OffsetDateTime,
    force: bool,
) -> Result<PrunePlan, BackupError> {
    let entries = list(target).await?;
    let finished = |entry: &Entry| match &entry.summary {
        Some(Ok(summary)) => Some((summary.version, summary.finished)),
        _ => None,
    };
    let archive = Archive::load(target).await?;
    let base = base_of_archive(&entries, &archive, now - keep);
    let newest = entries.iter().filter(|entry| finished(entry).is_some()).max_by_key(|entry| finished(entry));
    let mut plan = PrunePlan::default();
    for entry in &entries {
        let folder = entry.folder.clone();
        let stays = |reason: &str| Kept { folder: entry.folder.clone(), reason: reason.to_string() };
        let goes = |reason: String| Pruned { folder: entry.folder.clone(), bytes: entry.bytes, reason };
        match &entry.summary {
            Some(Ok(_)) if newest.is_some_and(|newest| newest.folder == folder) => {
                plan.kept.push(stays("it is the newest"));
            }
            Some(Ok(summary)) if now - summary.finished <= keep => plan.kept.push(stays("it is not old enough")),
            Some(Ok(_)) if base == Some(folder.as_str()) => {
                plan.kept.push(stays("the archive begins from it, and leads to versions that are not old enough"));
            }
            Some(Ok(summary)) => {
                let days = (now - summary.finished).whole_days();
                plan.removed.push(goes(format!("it is {days} days old")));
            }
            Some(Err(error)) => plan.kept.push(stays(&format!("its manifest cannot be read: {error}"))),
            None if now - entry.last_change > LEFTOVER_AGE => {
                plan.removed.push(goes("it has no manifest: that backup has failed".to_string()));
            }
            None => plan.kept.push(stays("it has no manifest yet: a backup may be under way")),
        }
    }
    let is_last_resort = plan.removed.iter().any(|pruned| {
        entries.iter().any(|entry| entry.folder == pruned.folder && matches!(entry.summary, Some(Ok(_))))
    });
    if let (Some(newest), true, false) = (newest, is_last_resort, force) {
        let backup = open(target, &newest.folder).await?;
        let verified = verify(&backup, Depth::Quick, None, |_| {}).await?;
        if let Some(finding) = verified.findings.first() {
            return Err(BackupError::Refused(format!(
                "the newest backup is damaged ({}: {}), so older ones may be needed; nothing was removed. Make another \
                 backup, or give --force",
                finding.object, finding.reason
            )));
        }
    }
    plan.segments = unneeded(&plan, &archive);
    Ok(plan)
}

/// The folder of the backup from which the archive leads to the time `since`: the newest one before it.
fn base_of_archive<'e>(entries: &'e [Entry], archive: &Archive, since: OffsetDateTime) -> Option<&'e str> {
    let bases = entries.iter().filter_map(|entry| Some((entry, entry.complete().filter(|base| !base.is_partial)?)));
    let (entry, summary) = bases.filter(|(_, base)| base.finished < since).max_by_key(|(_, base)| base.version)?;
    let leads_on = archive.reach(summary.version).is_some_and(|chain| chain.last() > summary.version);
    leads_on.then_some(entry.folder.as_str())
}

/// Segments that end before every backup that stays.
fn unneeded(plan: &PrunePlan, archive: &Archive) -> Vec<Segment> {
    // The name of a folder has the version, also of a backup that is under way or cannot be read.
    let version = |kept: &Kept| -> Option<u64> {
        kept.folder.strip_prefix(FULL)?.strip_prefix('/')?.split('-').next()?.parse().ok()
    };
    let versions: Option<Vec<u64>> = plan.kept.iter().map(version).collect();
    // Without a backup that stays, or with one whose version is unknown, nothing is known to be of no use.
    let Some(oldest) = versions.and_then(|versions| versions.into_iter().min()) else { return Vec::new() };
    let newest = archive.chains.last().and_then(|chain| chain.segments.last());
    let is_unneeded = |segment: &&Segment| segment.last <= oldest && newest != Some(*segment);
    let mut segments: Vec<Segment> = archive.segments().filter(is_unneeded).cloned().collect();
    segments.sort_by_key(|segment| segment.first);
    segments
}

/// Removes what the plan says.
///
/// # Errors
/// Those of the store; the same plan again continues.
pub async fn prune(target: &Target, plan: &PrunePlan) -> Result<(), BackupError> {
    for pruned in &plan.removed {
        target.remove(&format!("{}/{MANIFEST}", pruned.folder)).await?;
        for (name, _) in target.list(&pruned.folder).await? {
            target.remove(&name).await?;
        }
    }
    for segment in &plan.segments {
        target.remove(&segment.name()).await?;
    }
    Ok(())
}
