//! Decides writes. Verdicts, versions and rows depend only on the content of the database and on
//! the writes in their order. They do not depend on any time but the log's, on how writes are
//! batched, on restarts, on garbage collection, or on what the conflict index still remembers.
//!
//! A write first advances replicated time and with it the oldest readable version, and what has
//! become too old is forgotten. Then the authority on which it is made must still hold, by the
//! policy as the writes before it left it. A commit then passes these checks, in this order: the result of an
//! earlier commit under its idempotency id; malformed mutations and unknown families; limits of
//! what is remembered; conflicts. A refused commit takes no version and leaves no trace. A commit
//! without mutations succeeds at its read version and leaves no trace either.

use kv_api::access::AccessChange;
use kv_api::{AtomicCommit, ClearCause, CommitResult, CommitVerdict, FamilyChange, KvError, LoggedWrite, TimedWrite};

use super::deciding::Deciding;
use super::execute::Execution;
use super::idempotency::{self, Earlier};
use super::state_machine::{MAX_RECENT_CLEARS, StateMachine};
use super::{conflicts, resolve};
use crate::engine::{Engine, WriteBatch};
use crate::journal::Effects;
use crate::key_codec;
use crate::meta;

impl StateMachine {
    /// Decides all writes in order, each seeing the effects of the ones before it, and adds their
    /// effects to `batch` and to `effects`. The engine is only read; it must hold the state before this batch.
    ///
    /// Call [`Self::written`] once the batch is in the engine, before any other method.
    pub fn decide<'c>(
        &mut self,
        engine: &dyn Engine,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        batch: &mut WriteBatch,
        effects: &mut Effects,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let mut deciding = Deciding::new(self, engine, batch, effects);
        let verdicts = writes.into_iter().map(|write| deciding.decide(write)).collect::<Result<Vec<_>, _>>()?;
        let samples_changed = deciding.samples_changed;
        if !verdicts.is_empty() {
            meta::put_counters(batch, self.counters, &self.window);
        }
        if samples_changed {
            meta::put_samples(batch, &self.window);
        }
        Ok(verdicts)
    }
}

impl Deciding<'_, '_> {
    fn decide(&mut self, timed: &TimedWrite) -> Result<CommitVerdict, KvError> {
        self.advance(timed);
        self.gc_entries = 0;
        if let Err(refusal) = self.state.policy.upholds(timed.write.authority.as_ref()) {
            return self.refuse(timed, refusal);
        }
        for name in &timed.write.creates {
            if let Err(refusal) = self.create_family(name) {
                return Ok(Err(refusal));
            }
        }
        let LoggedWrite { commit, family, access, wall_us, .. } = &timed.write;
        match (commit, family, access) {
            (Some(commit), ..) => self.decide_commit(commit),
            (None, Some(change), _) => Ok(self.change_family(change)),
            (None, None, Some(change)) => Ok(self.change_access(change, *wall_us)),
            (None, None, None) => {
                Ok(Ok(CommitResult { version: self.state.counters.version, ..CommitResult::default() }))
            }
        }
    }

    /// The verdict of a write whose authority no longer holds. It leaves no trace, not even in what
    /// is remembered of idempotency ids. If the same commit has succeeded before, it gets that
    /// result: a refusal would say that it never did.
    fn refuse(&mut self, timed: &TimedWrite, refusal: KvError) -> Result<CommitVerdict, KvError> {
        let repeated = timed.write.commit.as_ref().filter(|commit| !commit.idempotency_id.is_empty());
        if let Some(commit) = repeated
            && let Earlier::Succeeded(result) = self.state.idempotency.earlier(self.lookup.engine, commit)?
        {
            return Ok(Ok(result));
        }
        Ok(Err(refusal))
    }

    /// A change of users and roles takes a version: whoever has applied that version has applied
    /// the change.
    fn change_access(&mut self, change: &AccessChange, wall_us: u64) -> CommitVerdict {
        let mut policy = (*self.state.policy).clone();
        policy.change(change, wall_us)?;
        meta::put_policy(self.batch, &policy);
        self.state.policy = policy.into();
        Ok(CommitResult { version: self.next_version(), ..CommitResult::default() })
    }

    /// Advances time to that of a write, and forgets what is too old then.
    fn advance(&mut self, timed: &TimedWrite) {
        let state = &mut *self.state;
        let version = state.counters.version;
        self.samples_changed |= state.window.advance(timed.time_us, timed.write.window_us(), version);
        let oldest_readable = state.window.oldest_readable();
        while state.recent_clears.front().is_some_and(|version| *version <= oldest_readable) {
            state.recent_clears.pop_front();
        }
        state.families.forget_dropped(self.batch, oldest_readable);
        state.idempotency.expire(self.batch, state.window.time_us());
    }

    fn decide_commit(&mut self, commit: &AtomicCommit) -> Result<CommitVerdict, KvError> {
        self.state.idempotency.forget(self.batch, &commit.finished_ids);
        let has_id = !commit.idempotency_id.is_empty();
        if has_id {
            match self.state.idempotency.earlier(self.lookup.engine, commit)? {
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
            self.state.idempotency.remember(self.batch, commit, &result, self.state.window.time_us());
        }
        Ok(Ok(result))
    }

    /// Every check but that for conflicts.
    fn check(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let clears = resolve::check(commit, &self.state.families)?;
        let recent = self.state.recent_clears.len();
        if clears > 0 && recent + clears > MAX_RECENT_CLEARS {
            return Err(KvError::Overloaded(format!(
                "{recent} range clears lie within the readable window; at most {MAX_RECENT_CLEARS} may"
            )));
        }
        if !commit.idempotency_id.is_empty() && self.state.idempotency.len() >= idempotency::MAX_RECORDS {
            return Err(KvError::Overloaded(format!(
                "{} results of idempotency ids are remembered, and no more fit; they are forgotten after ten minutes, or when \
                 clients finish them",
                idempotency::MAX_RECORDS
            )));
        }
        Ok(())
    }

    /// Executes a commit that has passed every check.
    fn commit(&mut self, commit: &AtomicCommit) -> Result<CommitResult, KvError> {
        let version = self.next_version();
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
        clears.into_iter().for_each(|(begin, end)| self.clear(begin.into(), end.into(), ClearCause::Transaction));
        points.iter().try_for_each(|(prefix, value)| self.write(prefix, value.as_deref()))?;
        Ok(result)
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
        let version = self.next_version();
        let (begin, end) = (key_codec::prefix(name, b""), key_codec::family_end(name));
        self.clear(begin.into(), end.into(), ClearCause::FamilyDropped);
        self.state.families.drop_at(self.batch, name, version);
        Ok(CommitResult { version, ..CommitResult::default() })
    }
}

fn another_commit() -> KvError {
    KvError::InvalidOperation(
        "another commit has succeeded under this idempotency id: use one id for one commit".into(),
    )
}
