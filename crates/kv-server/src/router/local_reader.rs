//! Reads of one local database at a version: the part of reading that both modes share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kv_api::{KvError, KvOperation, KvOutcome, RangeQuery, Rows, Version};
use kv_store::{RevisionBoard, TransactionalKvDatabase};
use stage_times::{Stage, StageTimes};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::changes::ChangeHub;

/// Ranges of up to this many rows are read on the calling runtime thread. Longer ones, and those
/// that skip very many keys, run on a blocking thread, because a runtime thread that reads for long
/// serves nobody else.
const INLINE_ROWS: u64 = 64;

/// Bounds the number of long reads that run at a time in the whole process.
#[derive(Clone)]
pub struct ReadSlots(Arc<Semaphore>);

impl ReadSlots {
    /// At most `concurrent` long reads at a time.
    pub fn new(concurrent: usize) -> Self {
        ReadSlots(Arc::new(Semaphore::new(concurrent.max(1))))
    }

    /// Two slots per processor, because long reads sometimes wait for the disk.
    pub fn per_processor() -> Self {
        ReadSlots::new(2 * std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// Runs blocking work once a slot is free. The work can check whether its caller still waits
    /// for it.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, KvError> + Send + 'static,
    ) -> Result<T, KvError> {
        let slot = self.wait(deadline).await?;
        Self::run_in(slot, deadline, work).await
    }

    async fn wait(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, KvError> {
        let timeout = || KvError::Timeout("too many long reads are running".to_string());
        let slot = tokio::time::timeout_at(deadline, self.0.clone().acquire_owned()).await.map_err(|_| timeout())?;
        Ok(slot.expect("the semaphore is never closed"))
    }

    async fn run_in<T: Send + 'static>(
        slot: OwnedSemaphorePermit,
        deadline: Instant,
        work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, KvError> + Send + 'static,
    ) -> Result<T, KvError> {
        let caller = Caller(Arc::new(AtomicBool::new(true)));
        let waits = caller.0.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Held until the work has ended, even if the caller has given up.
            let _slot = slot;
            work(&|| waits.load(Ordering::Relaxed))
        });
        match tokio::time::timeout_at(deadline, reading).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(KvError::Storage(format!("a read failed: {panic}"))),
            Err(_) => Err(KvError::Timeout("the range took too long to read: ask for fewer rows".to_string())),
        }
    }
}

/// Tells the work when its caller gives up, at its deadline or with its connection.
struct Caller(Arc<AtomicBool>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Reads a database as of a version. Cheap to clone. All clones read the same database, even after
/// it was replaced.
#[derive(Clone)]
pub struct LocalReader {
    live: Arc<RwLock<Arc<TransactionalKvDatabase>>>,
    revision: Arc<RevisionBoard>,
    applied: Arc<Notify>,
    slots: ReadSlots,
    stages: Arc<StageTimes>,
    changes: Arc<ChangeHub>,
}

impl LocalReader {
    /// Reads this database until another one replaces it.
    pub fn new(database: Arc<TransactionalKvDatabase>, slots: ReadSlots) -> Self {
        let revision = Arc::<RevisionBoard>::default();
        database.show_revision_on(revision.clone());
        let applied = Arc::<Notify>::default();
        notify_of(&database, &applied);
        LocalReader {
            live: Arc::new(RwLock::new(database)),
            revision,
            applied,
            slots,
            stages: Arc::default(),
            changes: Arc::new(ChangeHub::new()),
        }
    }

    /// The live database. Keep it for one read and no longer.
    pub fn database(&self) -> Arc<TransactionalKvDatabase> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the live database and returns the previous one. The version of the new one must not
    /// be older.
    pub fn switch(&self, database: Arc<TransactionalKvDatabase>) -> Arc<TransactionalKvDatabase> {
        database.show_revision_on(self.revision.clone());
        notify_of(&database, &self.applied);
        std::mem::replace(&mut *self.live.write().unwrap_or_else(PoisonError::into_inner), database)
    }

    /// The revision of the applied policy if it is enabled, otherwise 0. One atomic load.
    pub fn enabled_revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The slots for long reads.
    pub fn slots(&self) -> &ReadSlots {
        &self.slots
    }

    /// How long reads of this database spend in each stage.
    pub fn stages(&self) -> &StageTimes {
        &self.stages
    }

    /// The polls for changes of this database.
    pub(crate) fn hub(&self) -> &ChangeHub {
        &self.changes
    }

    /// Is done after the next apply.
    pub(crate) fn advanced(&self) -> Notified<'_> {
        self.applied.notified()
    }

    /// Wakes the readers that wait for a version. Each database does so after a batch; whoever
    /// replaces the live one must, too.
    pub fn applied_advanced(&self) {
        self.applied.notify_waiters();
    }

    /// Returns once the database has applied `version`.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] if it has not by `until`.
    pub async fn wait_applied(&self, version: Version, until: Instant) -> Result<(), KvError> {
        loop {
            let mut advanced = std::pin::pin!(self.applied.notified());
            // Registers before it checks, so that an apply in between is not missed.
            advanced.as_mut().enable();
            let current = self.database().applied_version();
            if current >= version {
                return Ok(());
            }
            if tokio::time::timeout_at(until, advanced).await.is_err() {
                return Err(KvError::FutureVersion { read_version: version.0, current: current.0 });
            }
        }
    }

    /// Answers a `Get` or `GetRange` as of `version`, ignoring its own `at`. Waits until the
    /// version is applied.
    pub async fn read(
        &self,
        operation: KvOperation,
        version: Version,
        deadline: Instant,
    ) -> Result<KvOutcome, KvError> {
        let mut database = self.database();
        if database.applied_version() < version {
            drop(database);
            self.wait_applied(version, deadline).await?;
            // The live database may have changed; the new one also has that version.
            database = self.database();
        }
        match operation {
            KvOperation::Get { key, .. } => {
                let begun = Instant::now();
                let value = database.read_at(&key, version);
                self.stages.observe(Stage::ReadExecute, begun.elapsed());
                value.map(KvOutcome::Value)
            }
            KvOperation::GetRange { query, .. } => {
                self.read_range(database, query, version, deadline).await.map(KvOutcome::Rows)
            }
            KvOperation::ReadVersion => Ok(KvOutcome::ReadVersion(version)),
            KvOperation::AtomicCommit(_)
            | KvOperation::ChangeFamily(_)
            | KvOperation::ChangeAccess(_)
            | KvOperation::ReadChanges(_)
            | KvOperation::ClockTick => {
                Err(KvError::InvalidOperation("only a read of rows has a version: all else must be routed".to_string()))
            }
        }
    }
}

impl LocalReader {
    async fn read_range(
        &self,
        database: Arc<TransactionalKvDatabase>,
        query: RangeQuery,
        version: Version,
        deadline: Instant,
    ) -> Result<Rows, KvError> {
        let begun = Instant::now();
        if is_short(&query) {
            // Stops at its first check whether to continue: even a short range may have to skip
            // very many cleared rows.
            match database.range_at_while(&query, version, &|| false) {
                Err(KvError::Timeout(_)) => {}
                done => {
                    self.stages.observe(Stage::ReadExecute, begun.elapsed());
                    return done;
                }
            }
        }
        let slot = self.slots.wait(deadline).await?;
        let begins = Instant::now();
        self.stages.observe(Stage::ReadQueue, begins - begun);
        let read = move |waits: &dyn Fn() -> bool| database.range_at_while(&query, version, waits);
        let rows = ReadSlots::run_in(slot, deadline, read).await;
        self.stages.observe(Stage::ReadExecute, begins.elapsed());
        rows
    }
}

/// Each batch of the database wakes those who wait.
fn notify_of(database: &TransactionalKvDatabase, applied: &Arc<Notify>) {
    let applied = applied.clone();
    database.on_applied(move || applied.notify_waiters());
}

fn is_short(query: &RangeQuery) -> bool {
    let selectors = [&query.begin_selector, &query.end_selector].into_iter().flatten();
    let passed: u64 = selectors.map(|selector| u64::from(selector.offset.unsigned_abs())).sum();
    query.limit.is_some_and(|limit| limit.saturating_add(query.skip).saturating_add(passed) <= INLINE_ROWS)
}

#[cfg(test)]
mod tests {
    use kv_api::LoggedWrite;
    use kv_api::access::{AccessCommand, TokenRecord};
    use kv_store::{Durability, MemoryEngine, StoreOptions};

    use super::*;

    fn database() -> Arc<TransactionalKvDatabase> {
        let engine = Arc::new(MemoryEngine::new(Durability::EveryWrite));
        TransactionalKvDatabase::open(engine, StoreOptions::standalone()).expect("an empty database")
    }

    #[tokio::test]
    async fn the_revision_is_that_of_the_live_database() {
        let (old, new) = (database(), database());
        let reader = LocalReader::new(old, ReadSlots::new(1));
        new.raise_level(2).expect("this program executes it");
        let token = TokenRecord { id: 1, sha256: vec![0; 32].into(), ..TokenRecord::default() };
        new.write(LoggedWrite::access(AccessCommand::Enable(token).into(), 1)).await.expect("the first change");
        assert_eq!(reader.enabled_revision(), 0);
        drop(reader.switch(new));
        assert_eq!(reader.enabled_revision(), 1);
    }
}
