//! The commit: the request that is sent, and how its outcome is handled.

use kv_api::{AtomicCommit, KeyRef};

use super::attempt::Transaction;
use super::state::{Phase, State};
use crate::results::Committed;
use crate::{ClientError, ErrorCode, convert};

/// What a commit has to do.
enum Plan {
    /// Nothing: the transaction is committed already.
    Committed(Committed),
    /// Nothing: there are no writes, and all reads were made at one version.
    ReadOnly,
    Send(AtomicCommit),
}

impl Transaction {
    /// Commits the transaction. All its writes happen at one version, unless anything that it read
    /// was written in the meantime.
    ///
    /// The commit happens once. If an answer is lost or the primary changes, the same commit is
    /// sent again under its idempotency id, until its outcome is known or
    /// [`crate::TransactionOptions::timeout`] has passed. A transaction without writes sends
    /// nothing. After a success, another call returns the same result again.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Conflict`] if anything that was read was written in the meantime, or any
    /// other [`ClientError`]; pass it to [`Transaction::on_error`]. It is unknown whether the
    /// commit happened only if [`ClientError::maybe_committed`] is true.
    pub async fn commit(&self) -> Result<Committed, ClientError> {
        let plan = self.inner.state().begin_commit()?;
        match plan {
            Plan::Committed(committed) => Ok(committed),
            Plan::ReadOnly => {
                let version = self.inner.read_version.get().copied().unwrap_or_default();
                Ok(self.succeeded(Committed { version, ..Committed::default() }))
            }
            Plan::Send(commit) => match self.send(commit).await {
                Ok(committed) => Ok(self.succeeded(committed)),
                Err(error) => {
                    self.inner.state().end("its commit failed");
                    self.inner.observe(Err(error))
                }
            },
        }
    }

    fn succeeded(&self, committed: Committed) -> Committed {
        self.inner.state().phase = Phase::Committed(committed.clone());
        committed
    }

    async fn send(&self, mut commit: AtomicCommit) -> Result<Committed, ClientError> {
        let database = &self.inner.database;
        let deadline = self.inner.retry.deadline;
        if commit.has_read_conflicts() {
            // Without a read there is no read version yet: the conflicts were added explicitly.
            let version = self.inner.read_version.get_or_try_init(|| database.versions.get(deadline)).await?;
            commit.read_version = version.0;
        } else if self.inner.options.idempotent {
            commit.read_version = database.versions.recent(deadline).await?.0;
            commit.read_conflicts.push(KeyRef::new(database.ids.guard()));
        }
        let cost_bytes = commit.size_bytes();
        if !self.inner.options.idempotent {
            let request = convert::commit(commit, database.options.request_timeout)?;
            return Ok(database.commit(request, cost_bytes, deadline).await?.value);
        }
        let id = database.ids.next();
        commit.idempotency_id = id.clone();
        commit.finished_ids = database.ids.take_finished();
        let finished = commit.finished_ids.clone();
        let request = convert::commit(commit, database.options.request_timeout)?;
        match database.commit(request, cost_bytes, deadline).await {
            Ok(answer) => {
                if !answer.has_duplicates_in_flight {
                    database.ids.finish([id]);
                }
                database.versions.observe(answer.value.version);
                Ok(answer.value)
            }
            Err(error) => {
                if error.code() == Some(&ErrorCode::TransactionTooOld) {
                    database.versions.forget();
                }
                // This commit may not have reported them to any server.
                database.ids.finish(finished);
                Err(error)
            }
        }
    }
}

impl State {
    fn begin_commit(&mut self) -> Result<Plan, ClientError> {
        if let (None, Phase::Committed(committed)) = (&self.misuse, &self.phase) {
            return Ok(Plan::Committed(committed.clone()));
        }
        self.check()?;
        if self.writes.is_empty() {
            self.end("it is committed");
            return Ok(Plan::ReadOnly);
        }
        let (read_conflicts, read_conflict_ranges) = self.conflicts.parts();
        let mutations = self.writes.mutations();
        self.end("its commit is under way");
        Ok(Plan::Send(AtomicCommit { mutations, read_conflicts, read_conflict_ranges, ..AtomicCommit::default() }))
    }
}
