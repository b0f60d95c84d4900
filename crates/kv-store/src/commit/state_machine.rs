//! The state machine's memory: the counters and the readable window, and indexes over the content
//! of the database.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kv_api::KvError;
use kv_api::access::Policy;

use super::conflict_index::ConflictIndex;
use super::families::Families;
use super::idempotency::IdempotencyTable;
use super::known_keys::KnownKeys;
use crate::engine::{Engine, WriteBatch};
use crate::gc::entries;
use crate::gc::range_clears::{RangeClear, RangeClears};
use crate::gc::step::StepResult;
use crate::gc::window::Window;
use crate::meta::{self, Counters};
use crate::read::row_cache::RowCache;

/// Maximum number of range clears within the readable window. A commit that would exceed it is
/// refused. Replicas must agree on it, so it is no setting.
pub const MAX_RECENT_CLEARS: usize = 200_000;

/// Versions are skipped no further: clients' integers have a sign, and commits need some, too.
const MAX_SKIPPED_TO: u64 = 1 << 62;

/// How much is kept in memory of what the engine holds. No verdict depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub conflict_index_entries: usize,
    pub known_keys: usize,
    pub row_cache_bytes: usize,
}

/// The state that decides writes. After an error of any method it differs from the engine and must
/// not be used again.
pub(crate) struct StateMachine {
    pub(crate) counters: Counters,
    pub(crate) window: Window,
    pub(crate) families: Families,
    pub(crate) index: ConflictIndex,
    pub(crate) known_keys: KnownKeys,
    /// Is told of every write and range clear when it is decided.
    pub(crate) row_cache: Arc<RowCache>,
    /// Every clear above the oldest readable version, and older ones that are not collected yet.
    pub(crate) clears: RangeClears,
    /// The begin of each of these clears, by its version and its number within the commit.
    pub(crate) uncollected: BTreeMap<(u64, u32), Bytes>,
    /// Versions of the clears above the oldest readable version, one for each clear.
    pub(crate) recent_clears: VecDeque<u64>,
    pub(crate) idempotency: IdempotencyTable,
    /// Who may do what. Shared with readers, who see it once it is published.
    pub(crate) policy: Arc<Policy>,
    /// A collected range clear may have removed anything written up to this version, so the index
    /// can't be trusted about such writes.
    pub(crate) collected_up_to: u64,
}

impl StateMachine {
    /// Loads the state that the engine holds.
    pub fn load(engine: &dyn Engine, sizes: Sizes) -> Result<Self, KvError> {
        let (counters, window) = meta::load_counters(engine)?;
        let (mut clears, mut uncollected) = (RangeClears::default(), BTreeMap::new());
        let mut recent_clears = VecDeque::new();
        for entry in entries::load_range_clears(engine)? {
            if entry.version > window.oldest_readable() {
                recent_clears.push_back(entry.version);
            }
            uncollected.insert((entry.version, entry.number), entry.begin.clone());
            clears.restore(RangeClear { begin: entry.begin, end: entry.end, version: entry.version });
        }
        Ok(StateMachine {
            counters,
            families: Families::load(engine)?,
            index: ConflictIndex::new(counters.version, sizes.conflict_index_entries),
            known_keys: KnownKeys::new(sizes.known_keys),
            row_cache: Arc::new(RowCache::new(sizes.row_cache_bytes, counters.version)),
            clears,
            uncollected,
            recent_clears,
            idempotency: IdempotencyTable::load(engine)?,
            policy: Arc::new(meta::load_policy(engine)?),
            collected_up_to: window.oldest_readable(),
            window,
        })
    }

    /// The counters after the last decided write.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Results in the idempotency table.
    pub fn remembered_ids(&self) -> u64 {
        self.idempotency.len() as u64
    }

    /// The batch of the last [`Self::decide`] is in the engine.
    pub fn written(&mut self) {
        self.index.trim();
        self.idempotency.written();
    }

    /// Continues `versions` versions later, with everything before unreadable, and adds that to
    /// `batch`.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] if too few versions are left.
    pub fn skip_versions(&mut self, versions: u64, batch: &mut WriteBatch) -> Result<(), KvError> {
        let version = self.counters.version;
        let next = version.checked_add(versions).filter(|next| *next <= MAX_SKIPPED_TO);
        let next = next.ok_or_else(|| {
            KvError::InvalidOperation(format!(
                "the newest version is {version}: {versions} more would exceed {MAX_SKIPPED_TO}; skip fewer"
            ))
        })?;
        self.counters.version = next;
        self.window.close_before(next);
        meta::put_counters(batch, self.counters, &self.window);
        meta::put_samples(batch, &self.window);
        Ok(())
    }

    /// Adds the effects of a garbage collection step to `batch`: collected range clears, and rows
    /// that they had hidden.
    pub fn record_collection(&mut self, batch: &mut WriteBatch, step: &StepResult) {
        if step.rows_cleared > 0 {
            self.counters.rows = self.counters.rows.saturating_sub(step.rows_cleared);
            meta::put_counters(batch, self.counters, &self.window);
        }
        for id in &step.range_clears_done {
            let begin = self.uncollected.remove(id).expect("every entry of a range clear is known");
            let version = id.0;
            assert!(version <= self.window.oldest_readable(), "a range clear of {version} was collected too early");
            let known = self.clears.remove(&begin, version);
            assert!(known, "every range clear is known");
            self.collected_up_to = self.collected_up_to.max(version);
        }
        if !step.range_clears_done.is_empty() {
            // Keys that were known to exist may be gone.
            self.known_keys.forget_all();
        }
    }
}
