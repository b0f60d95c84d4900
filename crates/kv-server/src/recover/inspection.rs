//! The contents of a stopped replica's log and database.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kv_store::StoredRecords;
use rsml::offline::Survey;
use rsml::wal::{OverlayDisk, WalOptions, WalStorage};
use rsml::{Configuration, ReplicatedState, Sequence, StorageError};
use serde::{Deserialize, Serialize};

use super::directory::StoppedDirectory;
use super::error::RecoverError;
use super::refused::refused;
use crate::replication::{MARKER, Marker, name_of};
use crate::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL};

/// The form of an inspection.
const FORMAT: u32 = 1;

/// The contents of a stopped replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The form of this document.
    pub format: u32,
    /// The version of the program that inspected it.
    pub program: String,
    /// The feature levels that this program executes, lowest and highest.
    pub program_levels: (u32, u32),
    /// The data directory.
    pub data_dir: String,
    /// The replica.
    pub replica: u32,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// The name of its disk.
    pub disk_id: String,
    /// The epoch in which it acts.
    pub epoch: u64,
    /// How often it was started.
    pub boot: u64,
    /// The view that it has promised.
    pub promised: u64,
    /// The view that its log belongs to.
    pub accepted_view: u64,
    /// Its log.
    pub log: LogExtent,
    /// At least so far entries are known as chosen.
    pub committed: u64,
    /// Its database; `None` if there is none that can be used.
    pub database: Option<DatabaseState>,
    /// Why there is none.
    pub database_problem: Option<String>,
    /// The members of its epoch; `None` if that is not known here.
    pub configuration: Option<MembersAt>,
    /// The members that a seal in its log names for the next epoch.
    pub next_configuration: Option<MembersAt>,
}

/// The extent of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogExtent {
    /// The first entry that it holds.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// Entries between them that it has lost: ranges, both ends included.
    pub lost: Vec<(u64, u64)>,
}

/// The contents of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseState {
    /// The name of its directory.
    pub directory: String,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The last entry that it has applied and that survives a crash. Equal to `applied`, since the
    /// server does not run.
    pub persisted: u64,
    /// The running digest there, in hexadecimal.
    pub digest: String,
    /// The version of the newest commit.
    pub version: u64,
    /// The oldest version that can be read.
    pub oldest_readable: u64,
    /// Rows, including those that a range clear hides.
    pub rows: u64,
    /// The feature level.
    pub feature_level: u32,
}

/// The members of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAt {
    /// The epoch.
    pub epoch: u64,
    /// The entry that began it.
    pub since: u64,
    /// The members.
    pub members: Vec<MemberEntry>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// The number of the replica.
    pub replica: u32,
    /// `voter` or `observer`.
    pub role: String,
    /// The disk that votes.
    pub disk_id: Option<String>,
    /// Where its peers reach it, if the configuration says so.
    pub peer: Option<String>,
}

impl MembersAt {
    fn of(configuration: &Configuration) -> MembersAt {
        let members = configuration.members.iter().map(|(id, member)| {
            let disk = member.voting_disk();
            let peer = Some(member.addresses().peer.clone()).filter(|peer| !peer.is_empty());
            let role = if disk.is_some() { "voter" } else { "observer" }.to_string();
            MemberEntry { replica: u32::from(id.0), role, disk_id: disk.map(|disk| disk.to_string()), peer }
        });
        let (epoch, since) = (configuration.epoch.0, configuration.since.0);
        MembersAt { epoch, since, members: members.collect() }
    }

    /// The voters: number and disk.
    pub(super) fn voters(&self) -> impl Iterator<Item = (u32, &str)> {
        self.members.iter().filter_map(|member| Some((member.replica, member.disk_id.as_deref()?)))
    }
}

impl Inspection {
    /// Reads what [`inspect`] returned from its JSON.
    ///
    /// # Errors
    /// It is none, or one of a later program.
    pub fn from_json(text: &str, name: &str) -> Result<Inspection, RecoverError> {
        let wrong = |reason: String| {
            RecoverError::Input(format!(
                "{name} holds no result of `synodkv recover inspect` of this release: {reason}; inspect again"
            ))
        };
        let inspection: Inspection = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match inspection.format {
            FORMAT => Ok(inspection),
            other => Err(wrong(format!("it has format {other}, and this is format {FORMAT}"))),
        }
    }

    /// The last entry that its database has applied.
    pub fn applied(&self) -> u64 {
        self.database.as_ref().map_or(0, |database| database.applied)
    }

    /// The last entry through which everything is there: in the database, or behind it in the log.
    /// `None` if the log does not continue where the database ends.
    pub(super) fn sound_through(&self) -> Option<u64> {
        let applied = self.applied();
        let is_joined = self.log.first <= applied + 1 && self.log.last >= applied;
        let lost = self.log.lost.iter().find(|(_, to)| *to > applied);
        is_joined.then(|| lost.map_or(self.log.last, |(from, _)| applied.max(from - 1)))
    }

    /// How phase 1 compares logs.
    pub(super) fn rank(&self) -> (u64, u64, u64) {
        (self.epoch, self.accepted_view, self.log.last)
    }
}

/// Looks at replica `replica` (by default the only one) in the data directory `root` of a server
/// that does not run. Changes nothing.
///
/// # Errors
/// A server runs there, the directory holds no replica of a cluster, or its log is damaged in such a
/// way that nobody knows what it held last: the text says what was found, and what can be done.
pub fn inspect(root: &Path, replica: Option<u32>) -> Result<Inspection, RecoverError> {
    let directory = StoppedDirectory::to_read(root)?;
    let id = directory.choose(replica)?;
    if directory.identity.recovery().is_some() {
        let dir = root.display();
        return Err(RecoverError::Refused(format!(
            "a recovery of {dir} has begun and not ended: `synodkv recover apply --data-dir {dir}` with the same plan \
             finishes it"
        )));
    }
    look_at(&directory, id)
}

/// Looks at a replica of an open directory.
pub(super) fn look_at(directory: &StoppedDirectory, id: u32) -> Result<Inspection, RecoverError> {
    let mut log = read_log(&directory.log(id));
    let mut found: Result<StoredRecords, String> = Err(String::new());
    let mut generation = 0;
    let survey = Survey::of(&mut log, |live| {
        generation = live;
        found = records(directory, id, live);
        let blob = found.as_ref().ok().and_then(|records| records.state.as_ref());
        blob.and_then(|state| ReplicatedState::from_bytes(&state.blob)).unwrap_or_default()
    })
    .map_err(|error| match error {
        StorageError::Damaged { path, reason } => refused(directory, id, &path, &reason),
        error => error.into(),
    })?;
    let survey = survey.ok_or_else(|| {
        let dir = directory.replica(id);
        RecoverError::Refused(format!("{} holds nothing of a cluster: there is nothing to recover", dir.display()))
    })?;
    let (log_of, database_of) = (survey.hard_state.cluster_id, survey.state.cluster_id);
    if survey.state.sequence > Sequence::ZERO && log_of != database_of {
        return Err(RecoverError::Refused(format!(
            "the log of replica {id} is of cluster {log_of}, and its database of cluster {database_of}: they do not belong \
             together"
        )));
    }
    let database_problem = found.as_ref().err().cloned();
    let database = found.ok().map(|records| database_state(&records, &survey.state, name_of(generation)));
    let range = |(from, to): &(Sequence, Sequence)| (from.0, to.0);
    Ok(Inspection {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_string(),
        program_levels: (LOWEST_LEVEL, HIGHEST_LEVEL),
        data_dir: directory.root().display().to_string(),
        replica: id,
        cluster_id: survey.hard_state.cluster_id.to_string(),
        disk_id: survey.hard_state.disk_id.to_string(),
        epoch: survey.hard_state.epoch.0,
        boot: survey.hard_state.boot.0,
        promised: survey.hard_state.promised.0,
        accepted_view: survey.hard_state.accepted_view.0,
        log: LogExtent { first: survey.first.0, last: survey.last.0, lost: survey.lost.iter().map(range).collect() },
        committed: survey.committed.0,
        database,
        database_problem,
        configuration: survey.configuration.as_ref().map(MembersAt::of),
        next_configuration: survey.next_configuration.as_ref().map(MembersAt::of),
    })
}

/// The log in a directory, which stays as it is.
pub(super) fn read_log(path: &Path) -> WalStorage {
    // The segment that recovery prepares stays in memory, so it is small.
    let options = WalOptions { segment_bytes: 0, background_preparation: false, ..WalOptions::default() };
    WalStorage::over(Arc::new(OverlayDisk::new(path)), options)
}

/// The records of a generation's database, or why it cannot be used.
fn records(directory: &StoppedDirectory, id: u32, generation: u64) -> Result<StoredRecords, String> {
    if let Some(reason) = found_damaged(&directory.replica(id).join(MARKER), generation) {
        return Err(format!("the database was found to be damaged: {reason}"));
    }
    let records = StoredRecords::read(&directory.database(id, generation)).map_err(|error| error.to_string())?;
    match &records.state {
        Some(state) if ReplicatedState::from_bytes(&state.blob).is_none() => {
            Err("the database holds a replicated state that cannot be read".to_string())
        }
        _ => Ok(records),
    }
}

/// Why the next start would set the database of this generation aside.
fn found_damaged(marker: &Path, generation: u64) -> Option<String> {
    let text = fs::read(marker).ok()?;
    match serde_json::from_slice::<Marker>(&text) {
        Ok(marker) => (marker.generation == generation).then_some(marker.reason),
        Err(_) => Some(format!("{} exists", marker.display())),
    }
}

fn database_state(records: &StoredRecords, state: &ReplicatedState, directory: String) -> DatabaseState {
    DatabaseState {
        directory,
        applied: state.sequence.0,
        persisted: state.sequence.0,
        digest: format!("{:016x}", state.digest),
        version: records.version.0,
        oldest_readable: records.oldest_readable.0,
        rows: records.rows,
        feature_level: records.level,
    }
}
