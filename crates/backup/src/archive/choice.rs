//! Which points can be restored, and from what.

use std::sync::Arc;

use futures_util::StreamExt;
use kv_api::Change;
use time::OffsetDateTime;

use super::chain::{Archive, Chain, Segment};
use super::read::{fetch, linked};
use crate::manifest::Summary;
use crate::seal::Keys;
use crate::{Backup, BackupError, Entry, Target, open};

/// The point that a restore leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The newest that can be restored.
    Newest,
    /// The rows of this version.
    Version(u64),
    /// The rows of the last version that was committed up to this time.
    Time(OffsetDateTime),
}

/// Consecutive versions, each of which can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first: that of a full backup.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// When the first was the newest version of the cluster.
    pub begin_time: OffsetDateTime,
    /// When the last was.
    pub end_time: OffsetDateTime,
}

/// A full backup and what changes its rows into those of the point.
#[derive(Debug)]
pub struct PointInTime {
    /// The full backup; locked, if it is encrypted.
    pub backup: Backup,
    /// The version of the point.
    pub version: u64,
    /// The segments from the backup to there; none if the point is the backup itself.
    pub segments: Vec<Segment>,
    target: Target,
}

/// The full backups on which changes can be put, by their versions.
fn bases(entries: &[Entry]) -> Vec<(&Entry, &Summary)> {
    let base = |entry| Some((entry, Entry::complete(entry)?)).filter(|(_, summary)| !summary.is_partial);
    let mut bases: Vec<_> = entries.iter().filter_map(base).collect();
    bases.sort_by_key(|(_, summary)| (summary.version, summary.finished));
    bases
}

/// The newest backup on which changes can be put: its version, and when it was begun.
pub(super) fn newest_base(entries: &[Entry]) -> Option<(u64, OffsetDateTime)> {
    bases(entries).last().map(|(_, summary)| (summary.version, summary.started))
}

/// All windows of a target, from the oldest.
///
/// # Errors
/// Those of the store.
pub async fn windows(target: &Target, entries: &[Entry], archive: &Archive) -> Result<Vec<Window>, BackupError> {
    let mut windows: Vec<(Window, Option<&Chain>)> = Vec::new();
    for (_, summary) in bases(entries) {
        let chain = archive.reach(summary.version);
        let to = chain.map_or(summary.version, Chain::last);
        let (from, begin_time) = (summary.version, summary.started);
        match windows.last_mut() {
            Some((window, reached)) if from <= window.to => {
                if to > window.to {
                    (window.to, *reached) = (to, chain);
                }
            }
            _ => windows.push((Window { from, to, begin_time, end_time: begin_time }, chain)),
        }
    }
    let mut found = Vec::new();
    for (mut window, chain) in windows {
        if let Some(last) = chain.and_then(|chain| chain.segments.last()).filter(|last| last.last > window.from) {
            window.end_time = match fetch(target, last).await {
                Ok(fetched) => fetched.info.end_time,
                // `verify` tells more.
                Err(BackupError::Damaged { .. }) => last.stored,
                Err(error) => return Err(error),
            };
        }
        found.push(window);
    }
    Ok(found)
}

/// Finds the full backup and the segments that lead to a point. Only a time needs the keys of an
/// encrypted archive.
///
/// # Errors
/// [`BackupError::NotRestorable`] if nothing leads there; [`BackupError::Input`] if there are no
/// backups; else those of the store.
pub async fn choose(target: &Target, point: Point, keys: &Keys) -> Result<PointInTime, BackupError> {
    let entries = crate::list(target).await?;
    let archive = Archive::load(target).await?;
    let bases = bases(&entries);
    if bases.is_empty() {
        return Err(no_base(target, &entries));
    }
    let refused = async |asked: String| match windows(target, &entries, &archive).await {
        Ok(windows) => not_restorable(asked, &windows),
        Err(error) => error,
    };
    let version = match point {
        Point::Version(version) => version,
        Point::Newest => {
            let reach =
                |(_, summary): &(&Entry, &Summary)| archive.reach(summary.version).map_or(summary.version, Chain::last);
            bases.iter().map(reach).max().expect("there is a base")
        }
        Point::Time(time) => match version_at(target, &entries, &archive, time, keys).await? {
            Some(version) => version,
            None => return Err(refused(format!("the time {}", shown(time))).await),
        },
    };
    let leads = |summary: &Summary| {
        summary.version == version
            || summary.version < version && archive.reach(summary.version).is_some_and(|chain| chain.covers(version))
    };
    let Some((entry, summary)) = bases.iter().rev().find(|(_, summary)| leads(summary)) else {
        return Err(refused(format!("version {version}")).await);
    };
    let segments = match archive.reach(summary.version) {
        Some(chain) => chain.between(summary.version, version).to_vec(),
        None => Vec::new(),
    };
    let backup = open(target, &entry.folder).await?;
    Ok(PointInTime { backup, version, segments, target: target.clone() })
}

fn no_base(target: &Target, entries: &[Entry]) -> BackupError {
    // A damaged manifest may be that of the only backup.
    let damaged = entries.iter().find_map(|entry| entry.summary.as_ref()?.as_ref().err().cloned());
    damaged.unwrap_or_else(|| match entries.iter().any(|entry| entry.complete().is_some()) {
        true => BackupError::Input(format!(
            "{target} holds only backups of some families or keys: name one with --at VERSION, or make a whole one with \
             `synodkv backup create --to {target}`"
        )),
        false => BackupError::Input(format!("{target} holds no complete backup")),
    })
}

fn not_restorable(asked: String, windows: &[Window]) -> BackupError {
    let (oldest, newest) = (windows.first().expect("there is a base"), windows.last().expect("there is a base"));
    let one = |window: &Window| match window.from == window.to {
        true => format!("version {} ({})", window.from, shown(window.begin_time)),
        false => format!(
            "versions {} to {} ({} to {})",
            window.from,
            window.to,
            shown(window.begin_time),
            shown(window.end_time)
        ),
    };
    BackupError::NotRestorable {
        asked,
        oldest: oldest.from,
        newest: newest.to,
        windows: windows.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

/// A time as the command line takes it.
pub(super) fn shown(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| time.to_string())
}

/// The last version up to a time; `None` if the time lies in no window.
async fn version_at(
    target: &Target,
    entries: &[Entry],
    archive: &Archive,
    time: OffsetDateTime,
    keys: &Keys,
) -> Result<Option<u64>, BackupError> {
    let windows = windows(target, entries, archive).await?;
    let is_inside = |window: &&Window| window.begin_time <= time && time <= window.end_time;
    let Some(window) = windows.iter().rev().find(is_inside) else { return Ok(None) };
    let mut version = window.from;
    // A window may lead from one chain over a newer full backup into another.
    for chain in archive.chains.iter().filter(|chain| chain.base() <= window.to && chain.last() > window.from) {
        version = version.max(last_up_to(target, chain.between(window.from, window.to), time, keys).await?);
    }
    Ok(Some(version))
}

/// The last version of the segments up to a time; 0 if all are later. Times never fall from one
/// segment to the next.
async fn last_up_to(
    target: &Target,
    segments: &[Segment],
    time: OffsetDateTime,
    keys: &Keys,
) -> Result<u64, BackupError> {
    let (mut from, mut to) = (0, segments.len());
    // All before `from` begin in time, none from `to` on does.
    let mut newest = None;
    while from < to {
        let middle = (from + to) / 2;
        let fetched = fetch(target, &segments[middle]).await?;
        if fetched.info.begin_time <= time {
            from = middle + 1;
            newest = Some(fetched);
        } else {
            to = middle;
        }
    }
    let Some(fetched) = newest else { return Ok(0) };
    let mut version = fetched.info.first - 1;
    if fetched.info.end_time <= time {
        return Ok(fetched.info.last);
    }
    fetched.changes(keys, |change, made| {
        if made <= time {
            version = change.version.0;
        }
        Ok::<(), BackupError>(())
    })?;
    Ok(version)
}

impl PointInTime {
    /// Refuses to begin without the keys of the backup and of the segments, and unlocks the backup.
    ///
    /// # Errors
    /// A key is missing; or the store fails.
    pub async fn unlock(&mut self, keys: &Keys) -> Result<(), BackupError> {
        self.backup.unlock(keys)?;
        for segment in [self.segments.first(), self.segments.last()].into_iter().flatten() {
            let fetched = fetch(&self.target, segment).await?;
            super::segment::unlock(&fetched.info, keys)?;
        }
        Ok(())
    }

    /// Gives all changes from the backup to the point to `visit`, in their order, on a thread that may
    /// block. `state` goes with them, and comes back.
    ///
    /// # Errors
    /// [`BackupError::Damaged`]; those of the store, and of `visit`.
    pub async fn changes<S, E>(
        &self,
        keys: &Arc<Keys>,
        mut state: S,
        visit: fn(&mut S, Change) -> Result<(), E>,
    ) -> Result<S, E>
    where
        S: Send + 'static,
        E: From<BackupError> + Send + 'static,
    {
        let (from, to) = (self.backup.summary().version, self.version);
        let mut segments = Box::pin(linked(&self.target, &self.segments));
        while let Some(segment) = segments.next().await {
            let (segment, keys) = (segment?, keys.clone());
            let visited = tokio::task::spawn_blocking(move || {
                segment.changes(&keys, |change, _| match change.version.0 {
                    version if version > from && version <= to => visit(&mut state, change),
                    _ => Ok(()),
                })?;
                Ok::<S, E>(state)
            });
            state = visited.await.map_err(|error| BackupError::Unavailable(error.to_string()))??;
        }
        Ok(state)
    }

    /// Bytes of the segments.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}
