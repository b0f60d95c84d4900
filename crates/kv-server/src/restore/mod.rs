//! Founds a new server or cluster on the rows of a backup, in an empty data directory.
//!
//! Every replica restores the same rows by itself, so nothing travels between replicas. All of them
//! begin with the same state and the same members, as those of a cluster do whose log was trimmed:
//! see [`rsml::offline`].
//!
//! Invariants:
//! - a directory that holds anything is refused, and stays as it is;
//! - everything is built in the folder `restoring`, and `identity.json` is written last. Before that
//!   no server opens the directory, and the next restore begins again from nothing;
//! - the rows that were written are read again, and compared with the hashes of the backup, before
//!   the directory becomes usable;
//! - no version of the backup's cluster is given out again: the new history begins far behind, and
//!   nothing before it is readable;
//! - a replica that has voted is never restored into its cluster, because it would have forgotten
//!   its votes. So a [`FoundingToken`] is valid for a day.
//!
//! This module knows rows, not backups: where they come from is the caller's affair.

mod overlay;
mod token;

#[cfg(all(test, feature = "rocksdb"))]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kv_api::access::Policy;
use kv_api::{Change, KvError, Version};
use kv_store::{
    BulkLoad, Durability, Engine, EngineKind, MemoryEngine, SharedResources, StateBlob, StoreOptions,
    TransactionalKvDatabase, open_engine,
};
use rsml::offline::Founding;
use rsml::{DiskId, FeatureLevel, ReplicaId, ReplicatedState, Sequence};

use xxhash_rust::xxh3::Xxh3;

use overlay::Overlay;
pub use token::FoundingToken;

use crate::config::Config;
use crate::data_dir::{DataDir, DataDirError, IDENTITY_FILE, Identity, RESTORING, lock, make_directory, read_identity};
use crate::error::ServerError;
use crate::manager::{plan_budget, shared_resources};
use crate::mode::Mode;
use crate::replication::{name_of, open_log_at};
use crate::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL};

/// Why a restore was not made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A precondition is not met; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// It failed on the way; no server opens the directory, and the same restore begins again.
    #[error("{0}")]
    Failed(String),
}

impl From<KvError> for RestoreError {
    fn from(error: KvError) -> Self {
        RestoreError::Failed(error.to_string())
    }
}

impl From<ServerError> for RestoreError {
    fn from(error: ServerError) -> Self {
        RestoreError::Failed(error.to_string())
    }
}

impl From<DataDirError> for RestoreError {
    fn from(error: DataDirError) -> Self {
        RestoreError::Failed(error.to_string())
    }
}

/// The content of a backup, besides its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The version of the restored rows, behind all versions of the backup's cluster.
    pub version: Version,
    /// The feature level of the backup's cluster.
    pub level: u32,
    /// All families besides the default one.
    pub families: Vec<String>,
    /// Users, roles and tokens; `None`: none of them, and nothing is checked.
    pub policy: Option<Policy>,
}

/// Consecutive rows of one family, as the backup describes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedRows {
    /// The family; an empty name is the default one.
    pub family: String,
    /// The first of them.
    pub first_key: Bytes,
    /// How many there are.
    pub rows: u64,
    /// Their hash: that of [`TransactionalKvDatabase::hash_rows`].
    pub hash: u64,
}

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// `None`: a standalone server.
    pub cluster_id: Option<String>,
    /// The replicas in the directory; none for a standalone server.
    pub replicas: Vec<u32>,
    /// All first members.
    pub voters: Vec<u32>,
    /// Rows of each replica.
    pub rows: u64,
    /// Restores the other members into the same cluster.
    pub token: Option<FoundingToken>,
}

/// One database that is being filled.
struct Target {
    /// `None`: that of a standalone server.
    replica: Option<u32>,
    engine: Arc<dyn Engine>,
    load: BulkLoad,
}

/// A restore under way.
pub struct Restoration {
    config: Config,
    data_dir: DataDir,
    token: Option<FoundingToken>,
    version: Version,
    level: u32,
    resources: SharedResources,
    /// The families of the backup besides the default one.
    families: Vec<String>,
    /// Changes to put on the rows; `None`: there are none.
    overlay: Option<Overlay>,
    sink: Sink,
}

/// Where rows are written.
struct Sink {
    targets: Vec<Target>,
    /// The rows so far, if nobody else can describe them: one entry for each family.
    written: Option<Vec<(ExpectedRows, Box<Xxh3>)>>,
}

impl Sink {
    fn row(&mut self, family: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        if let Some(written) = &mut self.written {
            if written.last().is_none_or(|(last, _)| last.family != family) {
                let first_key = Bytes::copy_from_slice(key);
                let rows = ExpectedRows { family: family.to_string(), first_key, rows: 0, hash: 0 };
                written.push((rows, Box::new(Xxh3::new())));
            }
            let (rows, hash) = written.last_mut().expect("it was pushed just now");
            rows.rows += 1;
            for part in [key, value] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        self.targets.iter_mut().try_for_each(|target| target.load.row(family, key, value))
    }
}

/// Refuses what cannot be restored, and changes nothing.
///
/// # Errors
/// [`RestoreError::Refused`].
pub fn check(config: &Config, origin: &Origin, token: Option<&FoundingToken>) -> Result<(), RestoreError> {
    let refused = |text: String| Err(RestoreError::Refused(text));
    if config.storage.engine != EngineKind::RocksDb {
        return refused("storage.engine = \"memory\" keeps nothing that could be restored".to_string());
    }
    if !(LOWEST_LEVEL..=HIGHEST_LEVEL).contains(&origin.level) {
        return refused(format!(
            "the backup is of feature level {}, and this program executes levels {LOWEST_LEVEL} to {HIGHEST_LEVEL}: restore \
             it with a release that executes level {}",
            origin.level, origin.level
        ));
    }
    if token.is_some() && config.mode == Mode::Standalone {
        return refused(
            "a standalone server has no cluster that a founding token could name: leave --founding out".to_string(),
        );
    }
    if let Some(token) = token {
        token.check(origin.policy.as_ref()).map_err(RestoreError::Refused)?;
    }
    refuse_content(&config.storage.data_dir)
}

/// Refuses a directory that holds anything but what an interrupted restore has left.
fn refuse_content(root: &Path) -> Result<(), RestoreError> {
    let shown = root.display();
    if let Some(identity) =
        read_identity(&root.join(IDENTITY_FILE)).map_err(|e| RestoreError::Refused(e.to_string()))?
    {
        return Err(RestoreError::Refused(format!(
            "data directory {shown} holds the data of {}: a restore needs an empty or new --data-dir",
            identity.describe()
        )));
    }
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| RestoreError::Refused(format!("cannot read {shown}: {error}")))?,
    };
    let is_interrupted = root.join(RESTORING).exists();
    for entry in entries {
        let entry = entry.map_err(|error| RestoreError::Refused(format!("cannot read {shown}: {error}")))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left = is_interrupted && (name == RESTORING || is_built(&name));
        let is_harmless = name == crate::data_dir::LOCK_FILE || name == "lost+found" || name.starts_with('.');
        if !is_left && !is_harmless {
            return Err(RestoreError::Refused(format!(
                "data directory {shown} is not empty (`{name}`): a restore needs an empty or new --data-dir"
            )));
        }
    }
    Ok(())
}

/// Whether a restore makes an entry of this name in the data directory.
fn is_built(name: &str) -> bool {
    name == "db" || name.strip_prefix("replica-").is_some_and(|id| id.parse::<u32>().is_ok())
}

impl Restoration {
    /// Begins a restore into the data directory of `config`. `token` is that of the first replica's
    /// restore; `None` founds another cluster.
    ///
    /// # Errors
    /// As [`check`], and those of the storage.
    pub fn begin(
        mut config: Config,
        origin: &Origin,
        token: Option<FoundingToken>,
    ) -> Result<Restoration, RestoreError> {
        check(&config, origin, token.as_ref())?;
        let root = config.storage.data_dir.clone();
        clear_leftovers(&root)?;
        let replicas = match config.mode {
            Mode::Replicated => config.replication.local_ids(),
            Mode::Standalone => Vec::new(),
        };
        let data_dir = DataDir::open(&root, config.mode, &replicas)?;
        if !data_dir.is_new() {
            let text = format!("data directory {} was filled by another process meanwhile", root.display());
            return Err(RestoreError::Refused(text));
        }
        let token = match (config.mode, token) {
            (Mode::Standalone, _) => None,
            (Mode::Replicated, Some(token)) => Some(token),
            (Mode::Replicated, None) => Some(FoundingToken::new(origin.policy.as_ref())?),
        };
        make_directory(&root.join(RESTORING))?;
        let budget = plan_budget(&mut config)?;
        let resources = shared_resources(&config, &budget)?;
        let mut targets = Vec::new();
        let standalone = (config.mode == Mode::Standalone).then_some(None);
        for replica in standalone.into_iter().chain(replicas.into_iter().map(Some)) {
            let folder = building(&root, replica);
            make_directory(folder.parent().expect("it lies in the folder of what is built"))?;
            // All of it is flushed at the end, and is of no use before.
            let engine = open_engine(EngineKind::RocksDb, &folder, Durability::UntilFlush, &resources)?;
            let mut load = BulkLoad::begin(engine.clone(), origin.version, origin.level)?;
            if let Some(policy) = &origin.policy {
                load.policy(policy.clone());
            }
            targets.push(Target { replica, engine, load });
        }
        Ok(Restoration {
            config,
            data_dir,
            token,
            version: origin.version,
            level: origin.level,
            resources,
            families: origin.families.clone(),
            overlay: None,
            sink: Sink { targets, written: None },
        })
    }

    /// Puts the changes of the next version on the rows, before the first of these is written. Blocks.
    ///
    /// # Errors
    /// Those of the storage.
    ///
    /// # Panics
    /// If rows were written.
    pub fn change(&mut self, change: &Change) -> Result<(), RestoreError> {
        if self.overlay.is_none() {
            let folder = changes_folder(self.data_dir.root());
            make_directory(&folder)?;
            let engine = open_engine(EngineKind::RocksDb, &folder, Durability::UntilFlush, &self.resources)?;
            self.overlay = Some(Overlay::new(engine));
            self.sink.written = Some(Vec::new());
        }
        self.overlay.as_mut().expect("it was made just now").change(change)?;
        Ok(())
    }

    /// Writes the next row, in the order of [`BulkLoad::row`]. Blocks.
    ///
    /// # Errors
    /// Those of the storage, and of rows out of order.
    pub fn row(&mut self, family: &str, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        match &mut self.overlay {
            None => self.sink.row(family, key, value)?,
            Some(overlay) => {
                overlay.row(family, key, value, &mut |family, key, value| self.sink.row(family, key, value))?
            }
        }
        Ok(())
    }

    /// Compares the rows with those of the backup, and makes the directory that of a server. With
    /// changes, the rows are compared with those that were merged. Blocks.
    ///
    /// # Errors
    /// The rows differ, or the storage failed.
    pub fn finish(self, expected: &[ExpectedRows]) -> Result<Restored, RestoreError> {
        let Restoration { config, data_dir, token, version, level, families, overlay, mut sink, .. } = self;
        let root = data_dir.root().to_path_buf();
        let families = match overlay {
            None => families,
            Some(mut overlay) => {
                overlay.finish(&mut |family, key, value| sink.row(family, key, value))?;
                let families = overlay.families(&families);
                drop(overlay);
                remove(&changes_folder(&root))?;
                families
            }
        };
        let merged: Option<Vec<ExpectedRows>> = sink.written.map(|written| {
            written.into_iter().map(|(rows, hash)| ExpectedRows { hash: hash.digest(), ..rows }).collect()
        });
        let expected = merged.as_deref().unwrap_or(expected);
        let voters: Vec<u32> = match token {
            Some(_) => config.replication.replicas.iter().map(|replica| replica.id).collect(),
            None => Vec::new(),
        };
        let replicas: Vec<u32> = sink.targets.iter().filter_map(|target| target.replica).collect();
        let mut rows = 0;
        for Target { replica, engine, mut load } in sink.targets {
            families.iter().try_for_each(|family| load.family(family))?;
            let founding = match (&token, replica) {
                (Some(token), Some(id)) => Some(founding(token, &voters, id, level)),
                _ => None,
            };
            let blob =
                founding.as_ref().map(|(_, state)| StateBlob { sequence: state.sequence.0, blob: state.to_bytes() });
            rows = load.finish(blob.as_ref())?;
            compare(engine, version, rows, expected)?;
            if let (Some((founding, state)), Some(id)) = (founding, replica) {
                write_log(&config, &building(&root, Some(id)), &founding, state.sequence)?;
            }
        }
        move_in(&root)?;
        let cluster_id = token.as_ref().map(|token| token.cluster_id().to_string());
        data_dir.convert(Identity::new(config.mode, &replicas, cluster_id.clone()))?;
        remove(&root.join(RESTORING))?;
        Ok(Restored { cluster_id, replicas, voters, rows, token })
    }
}

/// Where changes are kept until they are merged.
fn changes_folder(root: &Path) -> PathBuf {
    root.join(RESTORING).join("changes")
}

/// Where the database of a replica is built.
fn building(root: &Path, replica: Option<u32>) -> PathBuf {
    let building = root.join(RESTORING);
    match replica {
        Some(id) => building.join(format!("replica-{id}")).join(name_of(0)),
        None => building.join("db"),
    }
}

/// The replica's part of the new cluster, and the state that all members begin with.
fn founding(token: &FoundingToken, voters: &[u32], replica: u32, level: u32) -> (Founding, ReplicatedState) {
    let id = |id: u32| ReplicaId(u8::try_from(id).expect("the configuration bounds replica ids"));
    let disks: BTreeMap<ReplicaId, DiskId> = voters.iter().map(|voter| (id(*voter), token.disk_id(*voter))).collect();
    let founding = Founding {
        cluster_id: token.cluster_id(),
        replica: id(replica),
        disk_id: token.disk_id(replica),
        generation: 0,
    };
    let kept = ReplicatedState { feature_level: FeatureLevel(level), ..ReplicatedState::default() };
    let state = founding.state_with(&disks, &kept);
    (founding, state)
}

/// Reads all rows again.
fn compare(
    engine: Arc<dyn Engine>,
    version: Version,
    rows: u64,
    expected: &[ExpectedRows],
) -> Result<(), RestoreError> {
    let options = StoreOptions { collect_every: None, ..StoreOptions::replicated() };
    let database = TransactionalKvDatabase::open(engine, options)?;
    let planned: u64 = expected.iter().map(|chunk| chunk.rows).sum();
    if planned != rows {
        return Err(RestoreError::Failed(format!("{rows} rows were restored, and the backup holds {planned}")));
    }
    for ExpectedRows { family, first_key, rows, hash } in expected {
        let found = database.hash_rows(family, first_key, version, *rows)?;
        if (found.count, found.hash) != (*rows, *hash) {
            let family = if family.is_empty() { kv_api::DEFAULT_COLUMN_FAMILY } else { family };
            return Err(RestoreError::Failed(format!(
                "the rows of family {family} from `{}` on were not restored as they were backed up: {} rows of hash {:016x} \
                 instead of {rows} of hash {hash:016x}",
                first_key.escape_ascii(),
                found.count,
                found.hash
            )));
        }
    }
    Ok(())
}

fn write_log(config: &Config, database: &Path, founding: &Founding, sequence: Sequence) -> Result<(), RestoreError> {
    let folder = database.parent().expect("it lies in the replica's directory");
    let wal = folder.join("wal");
    let failed = |error: String| RestoreError::Failed(format!("cannot begin the log {}: {error}", wal.display()));
    let mut log = open_log_at(config, &wal).map_err(|error| failed(error.to_string()))?;
    founding.write_log(&mut log, sequence).map_err(|error| failed(error.to_string()))?;
    drop(log);
    sync(&wal)?;
    sync(folder)
}

/// Moves everything that was built to its place.
fn move_in(root: &Path) -> Result<(), RestoreError> {
    let building = root.join(RESTORING);
    sync(&building)?;
    for entry in fs::read_dir(&building).map_err(failed_to("read", &building))? {
        let from = entry.map_err(failed_to("read", &building))?.path();
        let name = from.file_name().expect("an entry has a name");
        fs::rename(&from, root.join(name)).map_err(failed_to("rename", &from))?;
    }
    sync(&building)?;
    sync(root)
}

/// Removes what an interrupted restore has left, which began in an empty directory.
fn clear_leftovers(root: &Path) -> Result<(), RestoreError> {
    make_directory(root)?;
    let _lock = lock(root)?;
    // Another restore may have ended while this one waited.
    refuse_content(root)?;
    let building = root.join(RESTORING);
    if !building.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(root).map_err(failed_to("read", root))? {
        let path = entry.map_err(failed_to("read", root))?.path();
        if path.file_name().is_some_and(|name| is_built(&name.to_string_lossy())) {
            remove(&path)?;
        }
    }
    remove(&building)
}

/// Removes a directory durably, if there is one.
fn remove(directory: &Path) -> Result<(), RestoreError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(failed_to("remove", directory))?,
    }
    sync(directory.parent().unwrap_or(directory))
}

fn sync(directory: &Path) -> Result<(), RestoreError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed_to("synchronise", directory))
}

fn failed_to(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError + use<> {
    let path = path.display().to_string();
    move |error| RestoreError::Failed(format!("cannot {action} {path}: {error}"))
}

/// Restores consecutive rows into a database in memory, and compares what it holds.
///
/// # Errors
/// The rows cannot be restored, or differ.
pub fn test(expected: &ExpectedRows, rows: &[(Bytes, Bytes)]) -> Result<(), RestoreError> {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(Durability::UntilFlush));
    let version = Version(Version::EMPTY.0 + 1);
    let mut load = BulkLoad::begin(engine.clone(), version, LOWEST_LEVEL)?;
    if !expected.family.is_empty() {
        load.family(&expected.family)?;
    }
    for (key, value) in rows {
        load.row(&expected.family, key, value)?;
    }
    let rows = load.finish(None)?;
    compare(engine, version, rows, std::slice::from_ref(expected))
}
