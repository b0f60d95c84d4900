//! Makes a survivor the only member of a new cluster.
//!
//! Log and database of the new cluster are built in a folder of their own, from files that stay as
//! they are. Only then do they take the place of the old ones. A crash before that leaves nothing
//! but the folder, which the next attempt builds again; a crash later leaves some of the renamings
//! to do. Each step says so by what it finds.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kv_store::{
    Durability, EngineKind, ResourceOptions, SharedResources, StateBlob, StoreOptions, StoredRecords,
    TransactionalKvDatabase, link_stopped, open_engine,
};
use rsml::offline::Founding;
use rsml::wal::{WalOptions, WalStorage};
use rsml::{Applier, ClusterId, DiskId, LevelRange, ReplicaId, ReplicatedState, Sequence, Storage};

use super::directory::{StoppedDirectory, sync};
use super::error::RecoverError;
use super::inspection::{Inspection, look_at, read_log};
use super::plan::Plan;
use super::record::{RecoveryRecord, aside};
use crate::data_dir::IDENTITY_FILE;
use crate::replication::{DatabasePlace, KvStoreExecutor, MARKER, ReplicaDatabases, name_of};
use crate::router::ReadSlots;
use crate::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL};

/// Where the new log and the new database are built.
const BUILDING: &str = "recovering";
/// The generation of the new database.
const GENERATION: u64 = 0;

/// Entries and bytes that are applied in one batch.
const BATCH: (usize, usize) = (1024, 4 << 20);

/// A step of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Notes that the recovery has begun; no server opens the directory from here on.
    Begin,
    /// Makes a database of the same content.
    LinkDatabase,
    /// Applies the entries that it lacks.
    ApplyLog,
    /// Makes it the database of a new cluster.
    FoundDatabase,
    /// Writes the log of the new cluster.
    WriteLog,
    /// Sets the old log aside.
    SetLogAside,
    /// Sets the old database aside.
    SetDatabaseAside,
    /// Puts the new log in its place.
    MoveLogIn,
    /// Puts the new database in its place.
    MoveDatabaseIn,
    /// Makes the directory one of the new cluster; servers open it again.
    Finish,
}

const STEPS: [Step; 10] = [
    Step::Begin,
    Step::LinkDatabase,
    Step::ApplyLog,
    Step::FoundDatabase,
    Step::WriteLog,
    Step::SetLogAside,
    Step::SetDatabaseAside,
    Step::MoveLogIn,
    Step::MoveDatabaseIn,
    Step::Finish,
];

/// The result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The replica, the only member of the new cluster.
    pub replica: u32,
    /// The new cluster.
    pub cluster_id: String,
    /// Everything that was kept aside.
    pub aside: Vec<PathBuf>,
}

/// A recovery of one directory, which is locked meanwhile.
pub struct Recovery {
    directory: StoppedDirectory,
    record: RecoveryRecord,
    /// The replica as it was found; `None` if the recovery had begun before.
    found: Option<Inspection>,
    rest: &'static [Step],
}

impl Recovery {
    /// Opens the data directory `root` for a recovery by `plan`, with versions that begin
    /// `bump_versions` later; or for the rest of one that has begun. Changes nothing.
    ///
    /// # Errors
    /// The plan is not about this directory as it is.
    pub fn open(root: &Path, plan: &Plan, bump_versions: u64) -> Result<Recovery, RecoverError> {
        let directory = StoppedDirectory::to_write(root)?;
        let id = directory.choose(Some(plan.replica))?;
        if let Some(record) = directory.identity.recovery() {
            let record = RecoveryRecord::from_value(record)?;
            if record.plan != *plan || record.bump_versions != bump_versions {
                return Err(RecoverError::Refused(format!(
                    "a recovery of {} has begun with another plan or another --bump-versions ({}): finish that one",
                    root.display(),
                    record.bump_versions
                )));
            }
            let rest = rest_of(&directory, &record);
            return Ok(Recovery { directory, record, found: None, rest });
        }
        let last = directory.identity.last_recovery().and_then(|record| RecoveryRecord::from_value(record).ok());
        if let Some(record) = last.filter(|record| record.plan == *plan) {
            // It was interrupted when nothing was left to do but to say so, or is repeated later.
            return Ok(Recovery { directory, record, found: None, rest: &[] });
        }
        refuse_other_replicas(&directory, id)?;
        let found = look_at(&directory, id)?;
        check(&found, plan)?;
        let number = (1..).find(|number| is_free(&directory, id, *number)).expect("numbers do not end");
        let record = RecoveryRecord {
            plan: plan.clone(),
            new_cluster_id: ClusterId(random()?).to_string(),
            new_disk_id: DiskId(random()?).to_string(),
            bump_versions,
            number,
        };
        Ok(Recovery { directory, record, found: Some(found), rest: &STEPS })
    }

    /// The steps that are left, in words.
    pub fn steps(&self) -> Vec<String> {
        self.rest.iter().map(|step| self.describe(*step)).collect()
    }

    /// Performs the next step; `None` once there is none left.
    ///
    /// # Errors
    /// The step was not done, or not completely: open the recovery again and repeat it.
    pub fn step(&mut self) -> Result<Option<String>, RecoverError> {
        let Some((step, rest)) = self.rest.split_first() else { return Ok(None) };
        let done = self.describe(*step);
        self.perform(*step)?;
        self.rest = rest;
        Ok(Some(done))
    }

    /// Performs all steps that are left.
    ///
    /// # Errors
    /// As for [`Recovery::step`].
    pub fn run(mut self) -> Result<Recovered, RecoverError> {
        while self.step()?.is_some() {}
        Ok(self.outcome())
    }

    /// The result once all steps are done.
    pub fn outcome(&self) -> Recovered {
        let record = &self.record;
        let folder = self.folder();
        let kept = [record.aside("wal"), record.aside("db")].map(|name| folder.join(name));
        let identity = self.directory.root().join(record.aside(IDENTITY_FILE));
        Recovered {
            replica: record.plan.replica,
            cluster_id: record.new_cluster_id.clone(),
            aside: kept.into_iter().chain([identity]).filter(|path| path.exists()).collect(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.directory.replica(self.record.plan.replica)
    }

    fn building(&self) -> PathBuf {
        self.folder().join(BUILDING)
    }

    fn describe(&self, step: Step) -> String {
        let (record, folder) = (&self.record, self.folder());
        let plan = &record.plan;
        let at = |name: &str| folder.join(name).display().to_string();
        let building = |name: &str| self.building().join(name).display().to_string();
        let database = name_of(GENERATION);
        match step {
            Step::Begin => format!(
                "note in {} that the recovery has begun; no server opens the directory from here on",
                self.directory.root().join(IDENTITY_FILE).display()
            ),
            Step::LinkDatabase => {
                format!("make {} with the content of the database, as hard links", building(&database))
            }
            Step::ApplyLog => format!("apply the entries of {} through {} to it", at("wal"), plan.keep_through),
            Step::FoundDatabase => format!(
                "make it the database of the new cluster {}, with versions that begin {} later",
                record.new_cluster_id, record.bump_versions
            ),
            Step::WriteLog => {
                format!(
                    "write the log of that cluster, whose only member is replica {}, to {}",
                    plan.replica,
                    building("wal")
                )
            }
            Step::SetLogAside => format!("rename {} to {}", at("wal"), record.aside("wal")),
            Step::SetDatabaseAside => format!("rename the old database to {}", at(&record.aside("db"))),
            Step::MoveLogIn => format!("rename {} to {}", building("wal"), at("wal")),
            Step::MoveDatabaseIn => format!("rename {} to {}", building(&database), at(&database)),
            Step::Finish => "make the directory one of the new cluster; servers open it again".to_string(),
        }
    }

    fn perform(&mut self, step: Step) -> Result<(), RecoverError> {
        match step {
            Step::Begin => self.begin(),
            Step::LinkDatabase => self.link_database(),
            Step::ApplyLog => self.apply_log(),
            Step::FoundDatabase => self.found_database(),
            Step::WriteLog => self.write_log(),
            Step::SetLogAside => self.set_log_aside(),
            Step::SetDatabaseAside => self.set_database_aside(),
            Step::MoveLogIn => self.move_in("wal"),
            Step::MoveDatabaseIn => self.move_in(&name_of(GENERATION)),
            Step::Finish => self.finish(),
        }
    }

    fn begin(&mut self) -> Result<(), RecoverError> {
        self.directory.keep_identity(&self.record.aside(IDENTITY_FILE))?;
        let identity = self.directory.identity.while_recovering(self.record.to_value());
        self.directory.write_identity(identity)
    }

    /// The old replica. Nothing of it was changed or moved before the log is set aside.
    fn survivor(&self) -> Result<Inspection, RecoverError> {
        match &self.found {
            Some(found) => Ok(found.clone()),
            None => look_at(&self.directory, self.record.plan.replica),
        }
    }

    fn link_database(&mut self) -> Result<(), RecoverError> {
        let survivor = self.survivor()?;
        check(&survivor, &self.record.plan)?;
        let building = self.building();
        match fs::remove_dir_all(&building) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &building, &error)),
            _ => {}
        }
        fs::create_dir(&building).map_err(|error| failed("create", &building, &error))?;
        sync(&self.folder())?;
        // Without a database, the log begins with the first entry, and all of it is applied.
        if let Some(database) = &survivor.database {
            link_stopped(&self.folder().join(&database.directory), &building.join(name_of(GENERATION)))?;
        }
        self.found = Some(survivor);
        Ok(())
    }

    fn apply_log(&mut self) -> Result<(), RecoverError> {
        let plan = &self.record.plan;
        let databases = ReplicaDatabases::new(plan.replica, self.building(), EngineKind::RocksDb, resources()?);
        let executor =
            KvStoreExecutor::open(databases as Arc<dyn DatabasePlace>, ReadSlots::per_processor(), GENERATION)?;
        // With a full disk the recovery fails and can be repeated; a server would wait for space.
        executor.reader().database().stop_waiting_for_space();
        let mut applier = Applier::new(executor, LevelRange::new(LOWEST_LEVEL, HIGHEST_LEVEL))?;
        let mut next = applier.state().sequence.next();
        if next.0 != plan.applied + 1 {
            return Err(RecoverError::Failed(format!(
                "the database has applied {}, and {} was planned: it is damaged, or has changed; inspect again",
                next.previous(),
                plan.applied
            )));
        }
        let mut log = read_log(&self.folder().join("wal"));
        log.recover()?;
        let count = (plan.keep_through + 1).saturating_sub(next.0) as usize;
        let entries = if count == 0 { Vec::new() } else { log.load(next)? };
        let mut batch = Vec::new();
        for entry in entries.into_iter().take(count) {
            let entry: Bytes = entry.ok_or_else(|| {
                RecoverError::Failed(format!("entry {next} of the log cannot be read any more; inspect again"))
            })?;
            batch.push((next, entry));
            next = next.next();
            let bytes: usize = batch.iter().map(|(_, entry)| entry.len()).sum();
            if batch.len() >= BATCH.0 || bytes >= BATCH.1 {
                applier.apply(std::mem::take(&mut batch))?;
            }
        }
        if !batch.is_empty() {
            applier.apply(batch)?;
        }
        let reached = applier.state().sequence.0;
        assert_eq!(reached, plan.keep_through, "the log ends before the entry through which it was to be kept");
        Ok(applier.executor().reader().database().flush()?)
    }

    fn found_database(&mut self) -> Result<(), RecoverError> {
        let database = open_database(&self.building().join(name_of(GENERATION)))?;
        let (_, blob) = database.state_blob()?.ok_or_else(|| lacks_state(&self.building()))?;
        let kept = ReplicatedState::from_bytes(&blob).ok_or_else(|| lacks_state(&self.building()))?;
        let state = self.founding()?.state_after(&kept);
        let blob = StateBlob { sequence: state.sequence.0, blob: state.to_bytes() };
        database.begin_new_history(self.record.bump_versions, blob)?;
        Ok(database.flush()?)
    }

    fn founding(&self) -> Result<Founding, RecoverError> {
        let number = |text: &str| {
            u128::from_str_radix(text, 16)
                .map_err(|_| RecoverError::Failed(format!("{text} is no id: {IDENTITY_FILE} is damaged")))
        };
        Ok(Founding {
            cluster_id: ClusterId(number(&self.record.new_cluster_id)?),
            replica: ReplicaId(self.record.plan.replica as u8),
            disk_id: DiskId(number(&self.record.new_disk_id)?),
            generation: GENERATION,
        })
    }

    fn write_log(&mut self) -> Result<(), RecoverError> {
        let sequence = StoredRecords::read(&self.building().join(name_of(GENERATION)))?
            .state
            .map(|state| Sequence(state.sequence))
            .ok_or_else(|| lacks_state(&self.building()))?;
        let mut log = WalStorage::open(self.building().join("wal"), WalOptions::default())?;
        self.founding()?.write_log(&mut log, sequence)?;
        drop(log);
        sync(&self.building())
    }

    fn set_log_aside(&mut self) -> Result<(), RecoverError> {
        self.rename(&self.folder().join("wal"), &self.record.aside("wal"))
    }

    fn set_database_aside(&mut self) -> Result<(), RecoverError> {
        let generation = read_log_generation(&self.folder().join(self.record.aside("wal")))?;
        if !self.building().join(name_of(GENERATION)).exists() {
            // The new one is in its place already.
            return Ok(());
        }
        let old = self.folder().join(name_of(generation));
        if old.exists() {
            self.rename(&old, &self.record.aside("db"))?;
        }
        let leftover = self.folder().join(name_of(GENERATION));
        if leftover.exists() {
            self.rename(&leftover, &self.record.aside("db-leftover"))?;
        }
        Ok(())
    }

    fn move_in(&mut self, name: &str) -> Result<(), RecoverError> {
        let from = self.building().join(name);
        if from.exists() {
            let to = self.folder().join(name);
            fs::rename(&from, &to).map_err(|error| failed("rename", &from, &error))?;
            sync(&self.building())?;
            sync(&self.folder())?;
        }
        Ok(())
    }

    /// Renames within the replica's folder, durably.
    fn rename(&self, from: &Path, name: &str) -> Result<(), RecoverError> {
        fs::rename(from, self.folder().join(name)).map_err(|error| failed("rename", from, &error))?;
        sync(&self.folder())
    }

    fn finish(&mut self) -> Result<(), RecoverError> {
        // It would be about the database that was set aside.
        remove_if_there(&self.folder().join(MARKER))?;
        match fs::remove_dir_all(self.building()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &self.building(), &error));
            }
            _ => sync(&self.folder())?,
        }
        let identity = self.directory.identity.recovered(self.record.new_cluster_id.clone());
        self.directory.write_identity(identity)
    }
}

/// The steps of a recovery that has begun. Nothing that was built is relied on until the old log is
/// set aside.
fn rest_of(directory: &StoppedDirectory, record: &RecoveryRecord) -> &'static [Step] {
    let is_built = directory.replica(record.plan.replica).join(record.aside("wal")).exists();
    let first = if is_built { Step::SetDatabaseAside } else { Step::LinkDatabase };
    let place = STEPS.iter().position(|step| *step == first).expect("it is one of the steps");
    &STEPS[place..]
}

/// Refuses a plan that was not made from this replica as it is.
fn check(found: &Inspection, plan: &Plan) -> Result<(), RecoverError> {
    if found.cluster_id != plan.cluster_id {
        return Err(RecoverError::Refused(format!(
            "{} belongs to cluster {}, and the plan is about cluster {}: it is the wrong directory, or was recovered already",
            found.data_dir, found.cluster_id, plan.cluster_id
        )));
    }
    if found.disk_id != plan.disk_id {
        return Err(RecoverError::Refused(format!(
            "{} holds replica {} on disk {}, and the plan keeps disk {}",
            found.data_dir, found.replica, found.disk_id, plan.disk_id
        )));
    }
    let now = (found.boot, found.promised, found.accepted_view, found.log.last, found.applied());
    let planned = (plan.boot, plan.promised, plan.accepted_view, plan.log_last, plan.applied);
    if now != planned || found.sound_through() < Some(plan.keep_through) {
        return Err(RecoverError::Refused(format!(
            "{} has changed since it was inspected (a server was started there?): inspect all survivors again, and make \
             another plan",
            found.data_dir
        )));
    }
    Ok(())
}

/// Replicas of one process share their directory. Those that are lost must not come back as what
/// they were.
fn refuse_other_replicas(directory: &StoppedDirectory, id: u32) -> Result<(), RecoverError> {
    let others = directory.identity.replicas.iter().copied().filter(|other| *other != id);
    let present: Vec<String> = others
        .map(|other| directory.replica(other))
        .filter(|folder| folder.exists())
        .map(|folder| folder.display().to_string())
        .collect();
    match present.is_empty() {
        true => Ok(()),
        false => Err(RecoverError::Refused(format!(
            "{} would stay a member of the former cluster: move it out of the data directory first, and keep it until the \
             recovered cluster is as you want it",
            present.join(" and ")
        ))),
    }
}

fn is_free(directory: &StoppedDirectory, id: u32, number: u32) -> bool {
    let folder = directory.replica(id);
    let names = [folder.join(aside("wal", number)), folder.join(aside("db", number))];
    let identity = directory.root().join(aside(IDENTITY_FILE, number));
    names.iter().chain([&identity]).all(|path| !path.exists())
}

fn read_log_generation(path: &Path) -> Result<u64, RecoverError> {
    Ok(read_log(path).recover()?.hard_state.map_or(0, |hard| hard.generation))
}

fn resources() -> Result<SharedResources, RecoverError> {
    Ok(SharedResources::new(ResourceOptions::default())?)
}

fn open_database(path: &Path) -> Result<Arc<TransactionalKvDatabase>, RecoverError> {
    let engine = open_engine(EngineKind::RocksDb, path, Durability::UntilFlush, &resources()?)?;
    let options = StoreOptions { collect_every: None, ..StoreOptions::replicated() };
    let database = TransactionalKvDatabase::open(engine, options)?;
    database.stop_waiting_for_space();
    Ok(database)
}

fn lacks_state(path: &Path) -> RecoverError {
    RecoverError::Failed(format!("the database in {} holds no replicated state; repeat the recovery", path.display()))
}

fn failed(action: &str, path: &Path, error: &io::Error) -> RecoverError {
    RecoverError::Failed(format!("cannot {action} {}: {error}", path.display()))
}

fn remove_if_there(path: &Path) -> Result<(), RecoverError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

/// A number from the system's source of randomness. Ids of disks and clusters must never collide.
fn random() -> Result<u128, RecoverError> {
    let mut bytes = [0; 16];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| RecoverError::Failed(format!("/dev/urandom cannot be read: {error}")))?;
    Ok(u128::from_ne_bytes(bytes))
}
