//! A state machine for scenes: a list of every request executed. It survives the death of its
//! process, and is copied and replaced like any other database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rsml::{
    CommittedValue, ExecutedBatch, ExecutionError, ExecutionNotifier, SealedState, Sequence, Snapshot, SnapshotSink,
    SnapshotSource, Snapshots,
};

#[derive(Default)]
struct Database {
    executed: Vec<(Sequence, Bytes)>,
    sequence: Sequence,
    /// Sealed with the last entry.
    state: Option<Bytes>,
}

/// The databases of one replica.
#[derive(Default)]
struct Databases {
    live: Mutex<Database>,
    /// Complete, and not switched to.
    installed: Mutex<BTreeMap<u64, Database>>,
}

#[derive(Default)]
pub struct ListExecutor {
    databases: Arc<Databases>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds a list")
}

impl ListExecutor {
    fn live(&self) -> MutexGuard<'_, Database> {
        lock(&self.databases.live)
    }

    /// Every request executed, with the sequence of its value.
    pub fn executed(&self) -> Vec<(Sequence, Bytes)> {
        self.live().executed.clone()
    }
}

/// Requests that are in the list, until they are committed.
struct Executed<'e> {
    live: MutexGuard<'e, Database>,
    outcomes: Vec<Bytes>,
}

impl ExecutedBatch for Executed<'_> {
    fn outcomes(&self) -> &[Bytes] {
        &self.outcomes
    }

    fn commit(mut self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
        (self.live.sequence, self.live.state) = (sealed.sequence, Some(sealed.state));
        Ok(self.outcomes)
    }
}

impl ExecutionNotifier for ListExecutor {
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        let mut live = self.live();
        let mut outcomes = Vec::new();
        for value in values {
            for request in &value.requests {
                live.executed.push((value.sequence, request.payload.clone()));
                outcomes.push(Bytes::from(format!("{}@{}", live.executed.len(), value.sequence)));
            }
        }
        Ok(Box::new(Executed { live, outcomes }))
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.live().state.clone())
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.live().sequence.next()
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        Ok(self.live().sequence)
    }

    fn start_flush(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(ListSnapshots(self.databases.clone()))
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        let mut installed = lock(&self.databases.installed);
        let database = installed
            .remove(&generation)
            .ok_or_else(|| ExecutionError::failed(format!("there is no database of generation {generation}")))?;
        *self.live() = database;
        // Numbers grow: databases that are left over belong to abandoned attempts.
        installed.clear();
        Ok(())
    }
}

struct ListSnapshots(Arc<Databases>);

impl Snapshots for ListSnapshots {
    fn take(&self) -> Result<Snapshot, ExecutionError> {
        let live = lock(&self.0.live);
        let state = live.state.clone().ok_or_else(|| ExecutionError::failed("an empty list is not copied"))?;
        let source = Box::new(ListSource(encode(&live)));
        Ok(Snapshot { state, source })
    }

    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        lock(&self.0.installed).remove(&generation);
        Ok(Box::new(ListSink { databases: self.0.clone(), generation, written: BytesMut::new() }))
    }
}

struct ListSource(Bytes);

impl SnapshotSource for ListSource {
    fn total_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError> {
        let offset = usize::try_from(offset).expect("within the copy");
        Ok(self.0.slice(offset..offset + length))
    }
}

struct ListSink {
    databases: Arc<Databases>,
    generation: u64,
    written: BytesMut,
}

impl SnapshotSink for ListSink {
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError> {
        self.written.put(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError> {
        let database = decode(self.written.freeze()).ok_or_else(|| ExecutionError::corrupt("the copy of a list"))?;
        let state = database.state.clone().expect("every copy has a state");
        lock(&self.databases.installed).insert(self.generation, database);
        Ok(state)
    }
}

/// State, list and sequence; byte strings with their length before them.
fn encode(database: &Database) -> Bytes {
    let mut bytes = BytesMut::new();
    let mut put = |field: &[u8]| {
        bytes.put_u64(field.len() as u64);
        bytes.put(field);
    };
    put(database.state.as_ref().expect("only a sealed list is copied"));
    for (sequence, payload) in &database.executed {
        put(&sequence.0.to_be_bytes());
        put(payload);
    }
    bytes.put_u64(database.sequence.0);
    bytes.freeze()
}

fn decode(mut bytes: Bytes) -> Option<Database> {
    let sequence = Sequence(bytes.split_off(bytes.len().checked_sub(8)?).get_u64());
    let mut take = || {
        let length = usize::try_from(bytes.try_get_u64().ok()?).ok()?;
        (length <= bytes.len()).then(|| bytes.split_to(length))
    };
    let state = Some(take()?);
    let mut executed = Vec::new();
    while let Some(mut at) = take() {
        executed.push((Sequence(at.try_get_u64().ok()?), take()?));
    }
    if !bytes.is_empty() {
        return None;
    }
    Some(Database { executed, sequence, state })
}
