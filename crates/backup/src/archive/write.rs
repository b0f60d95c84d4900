//! Writes the archive.

use bytes::Bytes;
use kv_api::Change;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::chain::{Archive, SHORT_HASH, Segment};
use super::read::fetch;
use super::segment::{self, FRAME_BYTES, SegmentInfo};
use super::{CLAIMS, choice};
use crate::manifest::{Encryption, RootFile};
use crate::seal::{DataKey, Sealing, random};
use crate::writer::claim as claim_target;
use crate::{BackupError, FORMAT, Target};

/// A segment is full when its changes have this many bytes.
const SEGMENT_BYTES: usize = 16 << 20;

/// Names an archiver, for people.
#[derive(Serialize, Deserialize)]
struct Claim {
    /// Where it runs, for people.
    place: String,
    started: String,
}

/// The end of a chain.
#[derive(Clone, Debug)]
struct End {
    version: u64,
    /// The segment that ends there; `None`: the next one begins a chain.
    segment: Option<Segment>,
    /// BLAKE3 of it.
    hash: Option<String>,
    /// The time of the version.
    time: OffsetDateTime,
    /// Replicated time of the newest change so far; `None`: unknown.
    log_time_us: Option<u64>,
}

/// A segment that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Its name.
    pub segment: Segment,
    /// Versions with changes in it.
    pub changes: u64,
    /// The time of its last version.
    pub time: OffsetDateTime,
}

/// Continues the archive of a target, as the only one that does.
pub struct Archiver {
    target: Target,
    program: String,
    cluster_id: Option<String>,
    sealing: Sealing,
    id: String,
    epoch: u64,
    end: End,
    /// The newest full backup; its version, and when it was begun.
    full: (u64, OffsetDateTime),
    pending: Pending,
    /// A segment that may be stored already: it is repeated as it is.
    built: Option<(Segment, Bytes, End, u64)>,
}

/// Changes that no segment holds yet.
#[derive(Default)]
struct Pending {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    changes: u64,
    through: u64,
    begin_time: Option<OffsetDateTime>,
    end_time: Option<OffsetDateTime>,
    log_time_us: Option<u64>,
}

impl Archiver {
    /// Claims the archive of the target, and finds its end. An archiver that was there before ends at
    /// its next segment. `place`: where this one runs, for people.
    ///
    /// # Errors
    /// The target belongs to another cluster; the newest segment is damaged; the store fails;
    /// [`BackupError::Input`] if no full backup is there, whose rows the archive could change.
    pub async fn begin(
        target: Target,
        program: &str,
        cluster_id: Option<String>,
        sealing: Sealing,
        place: &str,
    ) -> Result<Archiver, BackupError> {
        claim_target(&target, &RootFile { format: FORMAT, cluster_id: cluster_id.clone() }).await?;
        let entries = crate::list(&target).await?;
        let Some(full) = choice::newest_base(&entries) else {
            return Err(BackupError::Input(format!(
                "{target} holds no complete full backup that an archive could follow: make one first, with `synodkv backup \
                 create --to {target}`"
            )));
        };
        let id: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let epoch = claim(&target, &id, place).await?;
        let archive = Archive::load(&target).await?;
        let start = End { version: full.0, segment: None, hash: None, time: full.1, log_time_us: None };
        let end = match archive.chains.last().and_then(|chain| chain.segments.last()) {
            None => start,
            Some(last) => end_of(&target, last).await?,
        };
        let (program, pending) = (program.to_string(), Pending { through: end.version, ..Pending::default() });
        Ok(Archiver { target, program, cluster_id, sealing, id, epoch, end, full, pending, built: None })
    }

    /// The version after which the next change is expected.
    pub fn position(&self) -> u64 {
        self.pending.through
    }

    /// The last version in the archive.
    pub fn archived(&self) -> u64 {
        self.end.version
    }

    /// The time of the last version in the archive.
    pub fn archived_time(&self) -> OffsetDateTime {
        self.end.time
    }

    /// Whether segments are to be encrypted.
    pub fn is_sealing(&self) -> bool {
        !matches!(self.sealing, Sealing::None)
    }

    /// The versions after [`Self::position`] are lost. Begins another chain behind the newest full
    /// backup, and returns its version, if it is newer.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn skip_to_full(&mut self) -> Result<Option<u64>, BackupError> {
        let entries = crate::list(&self.target).await?;
        self.full = choice::newest_base(&entries).unwrap_or(self.full);
        let (version, started) = self.full;
        if version <= self.pending.through {
            return Ok(None);
        }
        assert!(self.built.is_none() && self.pending.is_empty(self.end.version), "changes were not stored");
        let time = self.end.time.max(started);
        self.end = End { version, segment: None, hash: None, time, log_time_us: None };
        self.pending = Pending { through: version, ..Pending::default() };
        Ok(Some(version))
    }

    /// Adds all that changed after [`Self::position`] up to `through`. `received`: now, by the clock of
    /// this machine. `is_newest`: the cluster had no later version when this came.
    ///
    /// # Panics
    /// If versions are not in order.
    pub fn add(&mut self, changes: &[Change], through: u64, received: OffsetDateTime, is_newest: bool) {
        let newest_us = changes.last().map(|change| change.time_us);
        for change in changes {
            let version = change.version.0;
            assert!(version > self.pending.through && version <= through, "version {version} is out of order");
            let time = self.time_of(change.time_us, newest_us.unwrap_or_default(), received, is_newest);
            self.pending.add(change, time);
        }
        assert!(through >= self.pending.through, "the archive went back to version {through}");
        if is_newest && through > self.pending.through {
            // Versions that changed nothing.
            let time = received.max(self.pending.end_time.unwrap_or(self.end.time));
            self.pending.end_time = Some(time);
        }
        self.pending.through = through;
    }

    /// The time of day of a change: replicated time measures the distance to the newest change that
    /// came with it, or while the archive is behind, to the last change in it. The result neither
    /// falls nor lies in the future.
    fn time_of(&self, log_us: u64, newest_us: u64, received: OffsetDateTime, is_newest: bool) -> OffsetDateTime {
        let distance = |from: u64, to: u64| Duration::microseconds(i64::try_from(to.saturating_sub(from)).unwrap_or(0));
        let (last_us, last) =
            (self.pending.log_time_us.or(self.end.log_time_us), self.pending.end_time.unwrap_or(self.end.time));
        let time = match last_us {
            Some(last_us) if !is_newest => last.checked_add(distance(last_us, log_us)).unwrap_or(last),
            _ => received.checked_sub(distance(log_us, newest_us)).unwrap_or(received),
        };
        time.min(received).max(last)
    }

    /// Whether there is something to store.
    pub fn has_pending(&self) -> bool {
        self.built.is_some() || !self.pending.is_empty(self.end.version)
    }

    /// Whether [`Self::flush`] is due whatever the time.
    pub fn is_full(&self) -> bool {
        self.built.is_some() || self.pending.bytes >= SEGMENT_BYTES
    }

    /// Stores what is pending as a segment. After an error the same call repeats it.
    ///
    /// # Errors
    /// [`BackupError::Refused`] if another archiver has taken over, or the segment that this one would
    /// follow is gone; else those of the store.
    pub async fn flush(&mut self) -> Result<Option<Flushed>, BackupError> {
        if !self.has_pending() {
            return Ok(None);
        }
        self.check_claim().await?;
        if let Some(segment) = &self.end.segment
            && self.target.size(&segment.name()).await? != Some(segment.bytes)
        {
            return Err(BackupError::Refused(format!(
                "{}/{} is gone or cut short, and the archive would have a hole there: make a new full backup, with `synodkv \
                 backup create --to {}`",
                self.target,
                segment.name(),
                self.target
            )));
        }
        if self.built.is_none() {
            self.built = Some(self.build().await?);
        }
        let (segment, object, end, changes) = self.built.as_ref().expect("it was built just now");
        if !self.target.put(&segment.name(), object.clone(), true).await? {
            return Err(BackupError::damaged(
                format!("{}/{}", self.target, segment.name()),
                "an object of this name holds something else",
            ));
        }
        let flushed = Flushed { segment: segment.clone(), changes: *changes, time: end.time };
        self.end = end.clone();
        self.built = None;
        Ok(Some(flushed))
    }

    async fn build(&mut self) -> Result<(Segment, Bytes, End, u64), BackupError> {
        let id: String = random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let sealed = DataKey::create(&self.sealing, &id)?;
        let next = Pending { through: self.pending.through, ..Pending::default() };
        let pending = std::mem::replace(&mut self.pending, next);
        let end_time = pending.end_time.unwrap_or(self.end.time);
        let (key, encryption) = match sealed {
            Some((key, wrapped)) => (Some(key), Some(Encryption::new(wrapped))),
            None => (None, None),
        };
        let info = SegmentInfo {
            format: FORMAT,
            segment: id,
            program: self.program.clone(),
            cluster_id: self.cluster_id.clone(),
            first: self.end.version + 1,
            last: pending.through,
            previous: self.end.hash.clone(),
            epoch: self.epoch,
            archiver: self.id.clone(),
            changes: pending.changes,
            begin_time: pending.begin_time.unwrap_or(end_time),
            end_time,
            log_time_us: pending.log_time_us.or(self.end.log_time_us).unwrap_or(0),
            frames: u32::try_from(pending.frames.len()).expect("a segment has some frames"),
            change_bytes: pending.frames.iter().map(|frame| frame.len() as u64).sum(),
            encryption,
        };
        let changes = info.changes;
        let built = tokio::task::spawn_blocking(move || {
            let object = segment::build(&info, &pending.frames, key.as_ref());
            let hash = blake3::hash(&object).to_hex().to_string();
            (info, object, hash)
        });
        let (info, object, hash) = built.await.map_err(|error| BackupError::Unavailable(error.to_string()))?;
        let segment = Segment {
            first: info.first,
            last: info.last,
            previous: info.previous.as_deref().map(|hash| hash[..SHORT_HASH].to_string()),
            hash: hash[..SHORT_HASH].to_string(),
            bytes: object.len() as u64,
            stored: info.end_time,
        };
        let end = End {
            version: info.last,
            segment: Some(segment.clone()),
            hash: Some(hash),
            time: info.end_time,
            log_time_us: pending_log_time(&info),
        };
        Ok((segment, object, end, changes))
    }

    /// Whether this archiver still has the greatest claim.
    async fn check_claim(&self) -> Result<(), BackupError> {
        let mine = (self.epoch, self.id.clone());
        let Some((epoch, id)) = claims(&self.target).await?.into_iter().max().filter(|greatest| *greatest > mine)
        else {
            return Ok(());
        };
        let name = claim_name(epoch, &id);
        let who = match self.target.get(&name).await.ok().and_then(|text| serde_json::from_slice::<Claim>(&text).ok()) {
            Some(claim) => format!(" ({}, started {})", claim.place, claim.started),
            None => String::new(),
        };
        Err(BackupError::Refused(format!(
            "another archiver{who} has taken over the archive of {}; only one at a time may write it",
            self.target
        )))
    }
}

fn pending_log_time(info: &SegmentInfo) -> Option<u64> {
    (info.log_time_us > 0).then_some(info.log_time_us)
}

impl Pending {
    fn is_empty(&self, end: u64) -> bool {
        self.through == end
    }

    fn add(&mut self, change: &Change, time: OffsetDateTime) {
        if self.frames.last().is_none_or(|frame| frame.len() >= FRAME_BYTES) {
            self.frames.push(Vec::new());
        }
        let frame = self.frames.last_mut().expect("it was pushed just now");
        let before = frame.len();
        segment::encode(change, time, frame);
        self.bytes += frame.len() - before;
        self.changes += 1;
        self.through = change.version.0;
        self.begin_time.get_or_insert(time);
        self.end_time = Some(time);
        self.log_time_us = Some(change.time_us);
    }
}

async fn end_of(target: &Target, last: &Segment) -> Result<End, BackupError> {
    let fetched = fetch(target, last).await.map_err(|error| match error {
        BackupError::Damaged { object, reason } => BackupError::Damaged {
            object,
            reason: format!(
                "{reason}; no segment may follow it: remove it, and its versions are archived again if the servers still have \
                 them"
            ),
        },
        error => error,
    })?;
    Ok(End {
        version: last.last,
        segment: Some(last.clone()),
        hash: Some(fetched.hash.clone()),
        time: fetched.info.end_time,
        log_time_us: pending_log_time(&fetched.info),
    })
}

fn claim_name(epoch: u64, id: &str) -> String {
    format!("{CLAIMS}/{epoch:020}-{id}.json")
}

/// The claims of a target: number and archiver.
async fn claims(target: &Target) -> Result<Vec<(u64, String)>, BackupError> {
    let parse = |(name, _): (String, _)| {
        let stem = name.strip_prefix(CLAIMS)?.strip_prefix('/')?.strip_suffix(".json")?;
        let (epoch, id) = stem.split_once('-')?;
        Some((epoch.parse().ok()?, id.to_string()))
    };
    Ok(target.list(CLAIMS).await?.into_iter().filter_map(parse).collect())
}

/// Makes the greatest claim, and removes those that it exceeds.
async fn claim(target: &Target, id: &str, place: &str) -> Result<u64, BackupError> {
    let earlier = claims(target).await?;
    let epoch = earlier.iter().map(|(epoch, _)| *epoch).max().unwrap_or(0) + 1;
    let started = choice::shown(OffsetDateTime::now_utc());
    let text = serde_json::to_vec(&Claim { place: place.to_string(), started }).expect("plain fields always serialize");
    target.put(&claim_name(epoch, id), text.into(), true).await?;
    for (epoch, id) in earlier {
        target.remove(&claim_name(epoch, &id)).await?;
    }
    Ok(epoch)
}
