//! The commit: what goes over the wire, and what its outcome means.

use kv_api::{AtomicCommit, KeyRef};

use super::{Phase, State, Transaction};
use crate::client::Committed;
use crate::{ClientError, ErrorCode, convert};

/// What a commit has to do.
enum Plan {
    /// It was done before.
    Committed(Committed),
    /// Nothing was written, so nothing has to be agreed: everything was read at one version.
    ReadOnly,
    Send(AtomicCommit),
}

impl Transaction {
    /// Commits: all that was written happens, at one version, unless something that was read was written meanwhile.
    ///
    /// It happens once. When an answer is lost, or the primary changes, the same commit is sent again under its idempotency
    /// id until its outcome is known or [`crate::TransactionOptions::timeout`] is over. A transaction that wrote nothing
    /// sends nothing. Once it has succeeded, a repeated call says the same again.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Conflict`] and others that [`Transaction::on_error`] takes; only where
    /// [`ClientError::maybe_committed`] is true it is unknown whether the commit happened.
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
            // There is none yet where conflicts were only added by hand.
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
                if !answer.has_strays {
                    database.ids.finish([id]);
                }
                database.versions.note(answer.value.version);
                Ok(answer.value)
            }
            Err(error) => {
                if error.code() == Some(&ErrorCode::TransactionTooOld) {
                    database.versions.forget();
                }
                // Maybe nobody was told.
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
