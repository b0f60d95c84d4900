//! The databases of one replica, by generation, and the handling of damaged ones.
//!
//! ```text
//! replica-<id>/db                    generation 0
//! replica-<id>/db-<generation>       every later one
//! replica-<id>/db….damaged-<n>       a damaged one, set aside; the last is kept, until somebody removes it
//! replica-<id>/db….copy-<n>          a copy that a peer fetches, while it lasts
//! replica-<id>/db.before-recovery-<n>  one that a recovery replaced, until somebody removes it
//! replica-<id>/damaged               which generation was found to be damaged, and how
//! ```
//! The consensus log says which generation is live; all others are leftovers. A database that was
//! found damaged, or that cannot be opened because of damage, is never opened again. The next start
//! puts an empty one in its place, which consensus then fills from a peer.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kv_api::KvError;
use kv_store::{
    DatabaseInstall, Durability, EngineKind, JournalOptions, SharedResources, StoreOptions, TransactionalKvDatabase,
    begin_install, open_engine,
};
use serde::{Deserialize, Serialize};

use super::place::DatabasePlace;
use crate::data_dir::make_directory;

const GENERATION_0: &str = "db";
const LATER_PREFIX: &str = "db-";
const COPY_MARK: &str = ".copy-";
const DAMAGED_MARK: &str = ".damaged-";
pub(crate) const MARKER: &str = "damaged";
const MARKER_DRAFT: &str = "damaged.new";

/// How often to check whether the last reader of a replaced database has ended.
const UNREAD_INTERVAL: Duration = Duration::from_millis(20);

/// Called once, with the reason, if the live database is found to be damaged.
type Alarm = Box<dyn FnOnce(&str) + Send>;

/// The files of one replica's databases.
pub struct ReplicaDatabases {
    replica: u32,
    folder: PathBuf,
    engine: EngineKind,
    resources: SharedResources,
    journal: Option<JournalOptions>,
    is_witness: bool,
    damage: Mutex<Damage>,
    flushing: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Damage {
    /// The live generation.
    generation: u64,
    found: Option<String>,
    alarm: Option<Alarm>,
}

/// The content of [`MARKER`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Marker {
    pub generation: u64,
    pub reason: String,
}

impl ReplicaDatabases {
    /// The databases in `folder`, which must hold nothing else whose name begins with `db`.
    pub fn new(replica: u32, folder: PathBuf, engine: EngineKind, resources: SharedResources) -> Arc<Self> {
        Self::with_journal(replica, folder, engine, resources, None)
    }

    /// The same, with a change journal in each database.
    pub fn with_journal(
        replica: u32,
        folder: PathBuf,
        engine: EngineKind,
        resources: SharedResources,
        journal: Option<JournalOptions>,
    ) -> Arc<Self> {
        Arc::new(ReplicaDatabases {
            replica,
            folder,
            engine,
            resources,
            journal,
            is_witness: false,
            damage: Mutex::default(),
            flushing: Mutex::default(),
        })
    }

    /// The databases of a witness, which hold no rows.
    pub fn of_witness(replica: u32, folder: PathBuf, engine: EngineKind, resources: SharedResources) -> Arc<Self> {
        let databases = Self::new(replica, folder, engine, resources);
        let databases = Arc::into_inner(databases).expect("nobody else has it yet");
        Arc::new(ReplicaDatabases { is_witness: true, ..databases })
    }

    /// The directory of a generation.
    pub fn path(&self, generation: u64) -> PathBuf {
        self.folder.join(name_of(generation))
    }

    fn options(&self) -> StoreOptions {
        StoreOptions { journal: self.journal, ..StoreOptions::replicated().with_share(&self.resources) }
    }

    fn try_open(&self, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        let engine = open_engine(self.engine, &self.path(generation), Durability::UntilFlush, &self.resources)?;
        let database = TransactionalKvDatabase::open(engine, self.options())?;
        // Consensus will read it at once, so damage to it should be found now.
        database.state_blob()?;
        Ok(database)
    }

    /// Registers `alarm`, to be called if the live database is found to be damaged; at once if it
    /// was already.
    pub fn on_damage(&self, alarm: impl FnOnce(&str) + Send + 'static) {
        let mut damage = self.damage();
        match damage.found.clone() {
            None => damage.alarm = Some(Box::new(alarm)),
            Some(reason) => {
                drop(damage);
                alarm(&reason);
            }
        }
    }

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records durably that the live database is damaged, so that the next start sets it aside.
    /// Only the first call has an effect.
    pub fn note_damage(&self, reason: &str) {
        let (generation, alarm) = {
            let mut damage = self.damage();
            if damage.found.is_some() {
                return;
            }
            damage.found = Some(reason.to_owned());
            (damage.generation, damage.alarm.take())
        };
        tracing::error!(
            replica = self.replica,
            "the database is damaged, and this replica stops: {reason}. Start it again: it is then rebuilt from \
             another replica"
        );
        if self.survive_exit()
            && let Err(error) = self.write_marker(&Marker { generation, reason: reason.to_owned() })
        {
            tracing::error!(
                replica = self.replica, %error,
                "cannot record that the database is damaged; the next start must detect it again"
            );
        }
        if let Some(alarm) = alarm {
            alarm(reason);
        }
    }

    /// Writes a new file and renames it, so that the marker exists completely or not at all.
    fn write_marker(&self, marker: &Marker) -> io::Result<()> {
        let draft = self.folder.join(MARKER_DRAFT);
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(marker).expect("plain fields always serialize"))?;
        file.sync_all()?;
        fs::rename(&draft, self.folder.join(MARKER))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Sets the live database aside if it was found to be damaged earlier.
    fn apply_marker(&self, generation: u64) -> Result<(), KvError> {
        let path = self.folder.join(MARKER);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(failed_to("read", &path))?,
        };
        // The marker can only be about this replica. If it is unreadable, it is taken to mean the
        // live database.
        let marker = serde_json::from_slice(&text).unwrap_or_else(|error| Marker {
            generation,
            reason: format!("unknown ({} cannot be read: {error})", MARKER),
        });
        if marker.generation == generation && self.path(generation).exists() {
            self.set_aside(generation, &marker.reason)?;
        }
        // Remove the marker only now: after a crash before this, it refers to a database that is
        // gone, which does no harm.
        fs::remove_file(&path).map_err(failed_to("remove", &path))?;
        self.sync_folder()
    }

    /// Renames a damaged database, so that it is out of the way but can still be examined. Removes
    /// an earlier one.
    fn set_aside(&self, generation: u64, reason: &str) -> Result<(), KvError> {
        let aside: Vec<String> = self.names()?.into_iter().filter(|name| name.contains(DAMAGED_MARK)).collect();
        let number = |name: &String| name.rsplit_once(DAMAGED_MARK).and_then(|(_, number)| number.parse::<u64>().ok());
        let next = aside.iter().filter_map(number).max().unwrap_or(0).saturating_add(1);
        let from = self.path(generation);
        let to = self.folder.join(format!("{}{DAMAGED_MARK}{next}", name_of(generation)));
        fs::rename(&from, &to).map_err(failed_to("rename", &from))?;
        self.sync_folder()?;
        tracing::error!(
            replica = self.replica,
            "the database is damaged ({reason}). It is kept as {}, and this replica is rebuilt from another one. \
             Remove that directory when it is not needed for an investigation",
            to.display()
        );
        aside.iter().for_each(|name| self.remove(name));
        Ok(())
    }

    /// Removes databases of other generations and copies without readers.
    fn remove_leftovers(&self, live: u64) -> Result<(), KvError> {
        for name in self.names()? {
            let is_other = generation_of(&name).is_some_and(|generation| generation != live);
            let is_copy = name.starts_with(GENERATION_0) && name.contains(COPY_MARK);
            if is_other || is_copy {
                tracing::info!(replica = self.replica, "removing the leftover directory {name}");
                self.remove(&name);
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, KvError> {
        let failed = |error| failed_to("read", &self.folder)(error);
        let entries = fs::read_dir(&self.folder).map_err(failed)?;
        entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(failed)).collect()
    }

    /// A file that cannot be removed now does no harm, and the next start removes it.
    fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_dir_all(self.folder.join(name)) {
            tracing::warn!(
                replica = self.replica, %error,
                "cannot remove the directory {name}; the next start tries again"
            );
        }
    }

    fn sync_folder(&self) -> Result<(), KvError> {
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed_to("synchronise", &self.folder))
    }
}

impl DatabasePlace for ReplicaDatabases {
    /// Opens the live database at a start, once its generation is known. Sets a damaged one aside
    /// and opens an empty one.
    fn open(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        if self.survive_exit() {
            make_directory(&self.folder).map_err(|error| KvError::Storage(error.to_string()))?;
            self.remove_leftovers(generation)?;
            self.apply_marker(generation)?;
        }
        let database = match self.try_open(generation) {
            Err(KvError::Corruption(reason)) if self.survive_exit() => {
                self.set_aside(generation, &reason)?;
                self.try_open(generation)?
            }
            opened => opened?,
        };
        self.watch(generation, &database);
        Ok(database)
    }

    fn is_witness(&self) -> bool {
        self.is_witness
    }

    fn create(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        if self.survive_exit() && self.path(generation).exists() {
            fs::remove_dir_all(self.path(generation)).map_err(failed_to("remove", &self.path(generation)))?;
        }
        let database = self.try_open(generation)?;
        if self.survive_exit() {
            self.sync_folder()?;
        }
        Ok(database)
    }

    fn begin_install(self: Arc<Self>, generation: u64) -> Result<DatabaseInstall, KvError> {
        let path = self.path(generation);
        let install = begin_install(self.engine, &path, Durability::UntilFlush, &self.resources)?;
        Ok(DatabaseInstall::new(install, self.options()))
    }

    fn watch(self: Arc<Self>, generation: u64, database: &TransactionalKvDatabase) {
        self.damage().generation = generation;
        let databases = Arc::downgrade(&self);
        database.on_damage(move |reason| {
            if let Some(databases) = databases.upgrade().filter(|known| known.damage().generation == generation) {
                databases.note_damage(reason);
            }
        });
    }

    fn survive_exit(&self) -> bool {
        self.engine != EngineKind::Memory
    }

    /// Flushes in a thread of its own, because that takes a while for a full buffer and applying
    /// continues meanwhile.
    fn start_flush(&self, database: Arc<TransactionalKvDatabase>) {
        let mut flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if flushing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let flush = move || {
            if let Err(error) = database.flush() {
                tracing::error!(
                    %error,
                    "flushing the database failed; the log cannot be trimmed, and grows until a flush succeeds"
                );
            }
        };
        match std::thread::Builder::new().name("kv-flush".to_string()).spawn(flush) {
            Ok(thread) => *flushing = Some(thread),
            Err(error) => {
                tracing::error!(%error, "cannot start a thread to flush the database; the next flush tries again")
            }
        }
    }

    /// Closing a database and removing its files takes a while. A separate thread does it, so that
    /// the last reader does not have to.
    fn close(&self, database: Arc<TransactionalKvDatabase>) {
        database.remove_when_closed();
        let close = move || {
            while Arc::strong_count(&database) > 1 {
                std::thread::sleep(UNREAD_INTERVAL);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("kv-close".to_string()).spawn(close) {
            tracing::warn!(%error, "cannot start a thread to close the former database; its last reader closes it");
        }
    }
}

/// The name of the directory of a generation.
pub(crate) fn name_of(generation: u64) -> String {
    match generation {
        0 => GENERATION_0.to_string(),
        later => format!("{LATER_PREFIX}{later}"),
    }
}

/// The generation in the name of a database's directory.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    if name == GENERATION_0 {
        return Some(0);
    }
    name.strip_prefix(LATER_PREFIX)?.parse().ok()
}

fn failed_to(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KvError + use<> {
    let path = path.display().to_string();
    move |error| KvError::Storage(format!("cannot {action} {path}: {error}"))
}
