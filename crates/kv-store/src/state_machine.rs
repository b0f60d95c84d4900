//! Decides writes. The verdicts, versions and rows depend only on the database's content and the writes in their order:
//! not on time but the log's, batch borders, restarts, the removal of old versions, or what the conflict index still
//! remembers.
//!
//! First of all a write moves replicated time on, and with it the horizon, and what is too old is forgotten. Then, of one
//! commit, in this order: the result of an earlier commit under its idempotency id; malformed operations and unknown
//! families; limits of what is remembered; conflicts. A refused commit takes no version and leaves no trace. An empty one
//! succeeds at its read version and leaves none either.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, CommitVerdict, FamilyChange, KvError, TimedWrite};

use crate::conflict_index::{ConflictIndex, NewestWrite};
use crate::engine::{Cursor, Engine, Table, WriteBatch};
use crate::execute::Execution;
use crate::families::Families;
use crate::known_keys::{self, KeyHash, KnownKeys};
use crate::meta::{self, Counters};
use crate::once::{self, Earlier, Once};
use crate::range_clears::{RangeClear, RangeClears};
use crate::sweep::Swept;
use crate::window::Window;
use crate::{conflicts, garbage, key_codec, resolve, scan};

/// Most range clears that may lie within the readable window; beyond it commits with more are refused. Part of what
/// replicas agree on, and so no setting.
pub const MAX_RECENT_CLEARS: usize = 200_000;

/// The state that decides writes. After an error of any method it no longer agrees with the engine: drop it.
pub(crate) struct StateMachine {
    pub(crate) counters: Counters,
    pub(crate) window: Window,
    pub(crate) families: Families,
    pub(crate) index: ConflictIndex,
    pub(crate) known_keys: KnownKeys,
    /// Every clear that is newer than the horizon, and older ones that are not carried out yet.
    pub(crate) clears: RangeClears,
    /// The same by version and number, with where they begin.
    unswept: BTreeMap<(u64, u32), Bytes>,
    /// Versions of the clears above the horizon, one for each.
    recent_clears: VecDeque<u64>,
    once: Once,
    /// What was written up to this version may have been removed by a range clear that is carried out.
    pub(crate) swept: u64,
}

impl StateMachine {
    pub fn load(engine: &dyn Engine, conflict_index_entries: usize, known_keys: usize) -> Result<Self, KvError> {
        let (counters, window) = meta::load_counters(engine)?;
        let (mut clears, mut unswept) = (RangeClears::default(), BTreeMap::new());
        let mut recent_clears = VecDeque::new();
        for note in garbage::load_range_clears(engine)? {
            if note.version > window.horizon() {
                recent_clears.push_back(note.version);
            }
            unswept.insert((note.version, note.number), note.begin.clone());
            clears.restore(RangeClear { begin: note.begin, end: note.end, version: note.version });
        }
        Ok(StateMachine {
            counters,
            families: Families::load(engine)?,
            index: ConflictIndex::new(counters.version, conflict_index_entries),
            known_keys: KnownKeys::new(known_keys),
            clears,
            unswept,
            recent_clears,
            once: Once::load(engine)?,
            swept: window.horizon(),
            window,
        })
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Results that are remembered under an idempotency id.
    pub fn remembered_ids(&self) -> u64 {
        self.once.len() as u64
    }

    /// Decides all writes in order, each seeing the ones before it, and adds what they change to `batch`. The engine is
    /// read but not written: its content must be the state before this batch.
    ///
    /// Call [`Self::written`] once the batch is in the engine, before anything else.
    pub fn decide<'c>(
        &mut self,
        engine: &dyn Engine,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        batch: &mut WriteBatch,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let before = self.counters.version;
        let mut deciding = Deciding {
            state: self,
            lookup: Lookup::new(engine),
            batch,
            before,
            notes: 0,
            marks_changed: false,
            prefix: Vec::new(),
        };
        let verdicts = writes.into_iter().map(|write| deciding.decide(write)).collect::<Result<Vec<_>, _>>()?;
        let marks_changed = deciding.marks_changed;
        if !verdicts.is_empty() {
            meta::put_counters(batch, self.counters, &self.window);
        }
        if marks_changed {
            meta::put_marks(batch, &self.window);
        }
        Ok(verdicts)
    }

    /// The batch of the last [`Self::decide`] is in the engine.
    pub fn written(&mut self) {
        self.index.trim();
        self.once.written();
    }

    /// Adds to `batch` what the sweeper did: it has carried out some range clears, and found rows that they had hidden.
    pub fn sweep(&mut self, batch: &mut WriteBatch, swept: &Swept) {
        if swept.rows_cleared > 0 {
            self.counters.rows = self.counters.rows.saturating_sub(swept.rows_cleared);
            meta::put_counters(batch, self.counters, &self.window);
        }
        for place in &swept.range_clears_done {
            let begin = self.unswept.remove(place).expect("every note of a range clear is known");
            let version = place.0;
            assert!(version <= self.window.horizon(), "a range clear of {version} was carried out too early");
            let known = self.clears.remove(&begin, version);
            assert!(known, "every range clear is known");
            self.swept = self.swept.max(version);
        }
        if !swept.range_clears_done.is_empty() {
            // What was known to exist may have been removed.
            self.known_keys.forget_all();
        }
    }
}

/// A version and its value.
type NewestEntry<'v> = (u64, Option<&'v [u8]>);

/// Lookups of single keys in the engine, by one cursor that is made when first needed.
pub(crate) struct Lookup<'e> {
    pub engine: &'e dyn Engine,
    cursor: Option<Box<dyn Cursor + 'e>>,
    scratch: Vec<u8>,
}

impl<'e> Lookup<'e> {
    fn new(engine: &'e dyn Engine) -> Self {
        Lookup { engine, cursor: None, scratch: Vec::new() }
    }

    /// The newest version of a key in the engine and its value, `None` for a tombstone.
    pub fn newest(&mut self, prefix: &[u8]) -> Result<Option<NewestEntry<'_>>, KvError> {
        if self.cursor.is_none() {
            self.cursor = Some(self.engine.key_cursor()?);
        }
        let cursor = self.cursor.as_mut().expect("it was just made");
        let found = scan::newest_at(cursor.as_mut(), prefix, u64::MAX, &mut self.scratch)?;
        Ok(found.map(|entry| (entry.version, entry.value)))
    }
}

/// One batch being decided. Errors of its methods are the storage's; refusals are verdicts.
pub(crate) struct Deciding<'a, 'e> {
    pub state: &'a mut StateMachine,
    pub lookup: Lookup<'e>,
    pub batch: &'a mut WriteBatch,
    /// The newest version before the batch: what is newer is in `batch` and not in the engine.
    pub before: u64,
    /// Notes for the sweeper that the commit at hand has made so far.
    pub notes: u32,
    marks_changed: bool,
    /// Scratch memory.
    pub prefix: Vec<u8>,
}

impl Deciding<'_, '_> {
    fn decide(&mut self, timed: &TimedWrite) -> Result<CommitVerdict, KvError> {
        self.advance(timed);
        self.notes = 0;
        for name in &timed.write.creates {
            if let Err(refusal) = self.create_family(name) {
                return Ok(Err(refusal));
            }
        }
        match (&timed.write.commit, &timed.write.family) {
            (Some(commit), _) => self.decide_commit(commit),
            (None, Some(change)) => Ok(self.change_family(change)),
            (None, None) => Ok(Ok(CommitResult { version: self.state.counters.version, ..CommitResult::default() })),
        }
    }

    /// Takes over the time of a write, and forgets what is too old by it.
    fn advance(&mut self, timed: &TimedWrite) {
        let state = &mut *self.state;
        let version = state.counters.version;
        self.marks_changed |= state.window.advance(timed.time_us, timed.write.window_us(), version);
        let horizon = state.window.horizon();
        while state.recent_clears.front().is_some_and(|version| *version <= horizon) {
            state.recent_clears.pop_front();
        }
        state.families.forget_dropped(self.batch, horizon);
        state.once.expire(self.batch, state.window.time_us());
    }

    fn decide_commit(&mut self, commit: &AtomicCommit) -> Result<CommitVerdict, KvError> {
        self.state.once.forget(self.batch, &commit.finished_ids);
        let has_id = !commit.idempotency_id.is_empty();
        if has_id {
            match self.state.once.earlier(self.lookup.engine, commit)? {
                Earlier::Nothing => {}
                Earlier::Succeeded(result) => return Ok(Ok(result)),
                Earlier::Another => return Ok(Err(another_commit())),
            }
        }
        if let Err(refusal) = self.check(commit) {
            return Ok(Err(refusal));
        }
        if commit.mutations.is_empty() {
            return Ok(Ok(CommitResult { version: commit.read_version, ..CommitResult::default() }));
        }
        if commit.has_read_conflicts()
            && let Err(refusal) = conflicts::check(self, commit)?
        {
            return Ok(Err(refusal));
        }
        let result = self.commit(commit)?;
        if has_id {
            self.state.once.remember(self.batch, commit, &result, self.state.window.time_us());
        }
        Ok(Ok(result))
    }

    /// All that can be wrong with a commit, but conflicts.
    fn check(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let clears = resolve::check(commit, &self.state.families)?;
        let recent = self.state.recent_clears.len();
        if clears > 0 && recent + clears > MAX_RECENT_CLEARS {
            return Err(KvError::Overloaded(format!(
                "{recent} range clears lie within the readable window; at most {MAX_RECENT_CLEARS} may"
            )));
        }
        if !commit.idempotency_id.is_empty() && self.state.once.len() >= once::MAX_RECORDS {
            return Err(KvError::Overloaded(format!(
                "{} results of idempotency ids are remembered, and no more fit; they are forgotten after ten minutes, or when \
                 clients finish them",
                once::MAX_RECORDS
            )));
        }
        Ok(())
    }

    /// Carries out a commit that nothing speaks against.
    fn commit(&mut self, commit: &AtomicCommit) -> Result<CommitResult, KvError> {
        self.state.counters.version += 1;
        let version = self.state.counters.version;
        if let Some(generated) = resolve::single_write(commit, version) {
            let resolve::Single { write, result } = generated;
            key_codec::set_prefix(&mut self.prefix, write.family, &write.key);
            let prefix = std::mem::take(&mut self.prefix);
            self.write(&prefix, write.value.as_deref())?;
            self.prefix = prefix;
            return Ok(result);
        }
        let mut execution = Execution::new(version);
        commit.mutations.iter().try_for_each(|mutation| execution.execute(self, mutation))?;
        let Execution { clears, points, result, .. } = execution;
        clears.into_iter().for_each(|(begin, end)| self.clear(begin.into(), end.into()));
        points.iter().try_for_each(|(prefix, value)| self.write(prefix, value.as_deref()))?;
        Ok(result)
    }

    /// Adds a version of a key: a value or a tombstone.
    fn write(&mut self, prefix: &[u8], value: Option<&[u8]>) -> Result<(), KvError> {
        let hash = known_keys::hash(prefix);
        let existed = self.exists(prefix, hash)?;
        let exists = value.is_some();
        self.state.known_keys.set(hash, exists);
        match (existed, exists) {
            (false, true) => self.state.counters.rows += 1,
            // Saturating, because "existed" is certain only up to a collision of hashes: see `known_keys`.
            (true, false) => self.state.counters.rows = self.state.counters.rows.saturating_sub(1),
            _ => {}
        }
        let version = self.state.counters.version;
        let entry = self.batch.put_parts(
            Table::Data,
            &[prefix, &key_codec::version_suffix(version)],
            &key_codec::row_parts(value),
        );
        if !exists {
            garbage::put_key_tombstone(self.batch, version, self.notes, prefix);
            self.notes += 1;
        }
        self.state.index.record(prefix, NewestWrite { version, exists, entry });
        self.state.clears.note_write(prefix, version);
        Ok(())
    }

    /// Adds a range clear over encoded prefixes.
    fn clear(&mut self, begin: Bytes, end: Bytes) {
        let version = self.state.counters.version;
        garbage::put_range_clear(self.batch, version, self.notes, &begin, &end);
        self.state.unswept.insert((version, self.notes), begin.clone());
        self.notes += 1;
        self.state.recent_clears.push_back(version);
        self.state.clears.insert(RangeClear { begin, end, version });
    }

    fn create_family(&mut self, name: &str) -> Result<(), KvError> {
        key_codec::check_family(name)?;
        self.state.families.create(self.batch, name).map(drop)
    }

    fn change_family(&mut self, change: &FamilyChange) -> CommitVerdict {
        let name = change.name.as_str();
        if !change.drop {
            self.create_family(name)?;
            return Ok(CommitResult { version: self.state.counters.version, ..CommitResult::default() });
        }
        if name.is_empty() {
            return Err(KvError::InvalidOperation("the default column family cannot be dropped".into()));
        }
        if !self.state.families.exists(name) {
            return Err(KvError::UnknownColumnFamily { name: name.into(), existing: Vec::new() });
        }
        self.state.counters.version += 1;
        let version = self.state.counters.version;
        self.clear(key_codec::prefix(name, b"").into(), key_codec::family_end(name).into());
        self.state.families.drop_at(self.batch, name, version);
        Ok(CommitResult { version, ..CommitResult::default() })
    }

    /// The newest version of a key. With `after`, only writes newer than that matter, and the engine is not asked where
    /// the index alone knows that there is none.
    pub fn newest_version(&mut self, prefix: &[u8], after: u64) -> Result<Option<u64>, KvError> {
        if let Some(newest) = self.state.index.get(prefix) {
            return Ok(Some(newest.version));
        }
        if after >= self.state.index.floor() {
            return Ok(None);
        }
        Ok(self.lookup.newest(prefix)?.map(|(version, _)| version))
    }

    /// Whether the key has a value now.
    fn exists(&mut self, prefix: &[u8], hash: KeyHash) -> Result<bool, KvError> {
        let covered = self.covered(prefix);
        if covered == 0 && self.state.known_keys.contains(hash) {
            return Ok(true);
        }
        if let Some(newest) = self.state.index.get(prefix).filter(|newest| newest.version > self.state.swept) {
            return Ok(newest.exists && newest.version >= covered);
        }
        let newest = self.lookup.newest(prefix)?;
        Ok(newest.is_some_and(|(version, value)| value.is_some() && version >= covered))
    }

    /// The key's value now.
    pub fn current_value(&mut self, prefix: &[u8]) -> Result<Option<Bytes>, KvError> {
        let covered = self.covered(prefix);
        if let Some(newest) = self.state.index.get(prefix).filter(|newest| newest.version > self.state.swept) {
            if !newest.exists || newest.version < covered {
                return Ok(None);
            }
            if newest.version > self.before {
                let value = key_codec::row_value(self.batch.value(newest.entry))?;
                return Ok(value.map(Bytes::copy_from_slice));
            }
        }
        let newest = self.lookup.newest(prefix)?.filter(|(version, _)| *version >= covered);
        Ok(newest.and_then(|(_, value)| value).map(Bytes::copy_from_slice))
    }

    /// Version of the newest range clear over the key, 0 where there is none.
    fn covered(&self, prefix: &[u8]) -> u64 {
        match self.state.clears.is_empty() {
            true => 0,
            false => self.state.clears.newest_covering(prefix, u64::MAX).unwrap_or(0),
        }
    }
}

fn another_commit() -> KvError {
    KvError::InvalidOperation(
        "another commit has succeeded under this idempotency id: use one id for one commit".into(),
    )
}
